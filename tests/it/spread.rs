//! Operators and relays apart, as the chart runs them: two operators and two relays, each a process of its own, over one
//! PostgreSQL server and one real API server. The relays have what their pods have: the Secrets that the operator made.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;

use crate::support::chart::render;
use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::{DEADLINE, eventually, free_port, get};
use crate::support::mail::{Credentials, Session};
use crate::support::sink::{Sink, SinkOptions};
use crate::support::{definitions, identity, postgres};

pub const NAMESPACE: &str = "spread";
/// A lease runs out in 15 s and is looked at every 2 s; the rest is a start on a busy machine.
const TAKEN_OVER: Duration = Duration::from_secs(45);
/// Exit code of an operator that does not lead any more, as `docs/operating.md` says.
const DEPOSED: i32 = 3;

pub struct SpreadSetup {
    plane: ControlPlane,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    database: String,
}

/// A role's process with its log.
pub struct Process {
    child: Child,
    log: PathBuf,
    telemetry: SocketAddr,
}

impl SpreadSetup {
    /// `database` is the test's own, on the server that all share.
    pub async fn new(database: &str) -> Self {
        Self::over(made(database).await).await
    }

    pub async fn over(database: String) -> Self {
        let plane = ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
        definitions::install(&plane.admin_client().await).await;
        let (kubeconfig, _) = identity::operator_apart(&plane, NAMESPACE).await;
        let setup = Self { plane, folder: tempfile::tempdir().expect("a folder"), kubeconfig, database };
        let settings = format!(
            "name: {NAMESPACE}\nstopSeconds: 45\nledger: {{engine: postgres, url: '{}', singleNode: true}}\n\
             operator: {{namespace: {NAMESPACE}, leaderElection: true}}\nrelay: {{configMap: {NAMESPACE}-relay}}\n",
            setup.database
        );
        std::fs::write(setup.folder.path().join("franking.yaml"), settings).expect("ours");
        let name = format!("fullnameOverride={NAMESPACE}");
        let values = ["--set", name.as_str(), "--set", "bindAddress=127.0.0.1,relay.hostname=localhost"];
        let show = ["--show-only", "templates/configmaps.yaml"];
        let map = render(NAMESPACE, &[values.as_slice(), &show, &identity::APART].concat());
        setup.apply(&map);
        setup
    }

    /// Of the operator's service account.
    pub fn kubeconfig(&self) -> &std::path::Path {
        &self.kubeconfig
    }

    /// The file with the operators' settings.
    pub fn settings(&self) -> PathBuf {
        self.folder.path().join("franking.yaml")
    }

    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    pub fn apply(&self, manifests: &str) {
        succeeded(self.plane.kubectl_stdin(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifests));
    }

    fn read(&self, what: &[&str], path: &str) -> String {
        self.read_in(NAMESPACE, what, path)
    }

    /// A field of an object.
    pub fn read_in(&self, namespace: &str, what: &[&str], path: &str) -> String {
        let output = format!("--output=jsonpath={path}");
        succeeded(self.plane.kubectl(&[&["get"], what, &["--namespace", namespace, &output]].concat()))
    }

    fn spawn(&self, name: &str, prepared: &mut Command, telemetry: SocketAddr) -> Process {
        let log = self.folder.path().join(format!("{name}.log"));
        let file = std::fs::File::options().create(true).append(true).open(&log).expect("ours");
        let command =
            prepared.env("FRANKING_TELEMETRY_ADDRESS", telemetry.to_string()).env("FRANKING_LOG_LEVEL", "debug");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("the binary starts");
        Process { child, log, telemetry }
    }

    /// A command as an operator's pod runs it: with the settings and the service account's rights.
    pub fn operators(&self, role: &str, instance: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_franking"));
        command.arg(role).arg("--config").arg(self.folder.path().join("franking.yaml")).env_clear();
        command.env("KUBECONFIG", &self.kubeconfig).env("FRANKING_INSTANCE", instance);
        self.spawn(&format!("{role}-{instance}"), &mut command, local())
    }

    /// An operator's pod: its init container first.
    pub fn operate(&self) -> Process {
        let mut prepare = self.operators("prepare", "a");
        assert_eq!(prepare.code(), Some(0), "{}", prepare.said());
        let mut operator = self.operators("operator", "a");
        operator.wait_ready();
        operator
    }

    /// A relay with the files that its pod mounts, and no identity; and the port of its listener with TLS.
    pub fn relay(&self, name: &str) -> (Process, u16) {
        let port = free_port();
        (self.relay_on(name, port), port)
    }

    pub fn relay_on(&self, name: &str, port: u16) -> Process {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).expect("ours");
        let secret = |name: &str| -> Secret {
            let text = succeeded(self.plane.kubectl(&["get", "secret", name, "--namespace", NAMESPACE, "-o", "json"]));
            serde_json::from_str(&text).expect("a Secret")
        };
        let entry = |secret: &Secret, key: &str| {
            String::from_utf8(secret.data.as_ref().expect("data")[key].0.clone()).expect("text")
        };
        let config = entry(&secret("spread-relay"), "relay.yaml")
            .replace("/etc/franking/tls", folder.to_str().expect("UTF-8"))
            .replace("127.0.0.1:4465", &format!("127.0.0.1:{port}"))
            .replace("127.0.0.1:4587", &format!("127.0.0.1:{}", free_port()))
            .replace("127.0.0.1:4525", &format!("127.0.0.1:{}", free_port()));
        std::fs::write(folder.join("relay.yaml"), config).expect("ours");
        let certificate = secret("spread-relay-tls");
        for file in ["tls.crt", "tls.key"] {
            std::fs::write(folder.join(file), entry(&certificate, file)).expect("ours");
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_franking"));
        command.arg("relay").env_clear().env("FRANKING_DATA", &folder).env("FRANKING_NAME", name);
        self.spawn(name, &mut command, local())
    }

    /// What all processes said, for when something is not as it should be.
    pub fn logs(&self) -> String {
        let files = std::fs::read_dir(self.folder.path()).expect("ours").filter_map(|entry| Some(entry.ok()?.path()));
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        let read =
            |path: PathBuf| format!("── {}\n{}", path.display(), std::fs::read_to_string(&path).unwrap_or_default());
        logs.map(read).collect()
    }

    /// Which of the operators leads, by its instance.
    fn leader(&self) -> String {
        let holder = self.read(&["lease", "spread-operator"], "{.spec.holderIdentity}");
        holder.split('_').next().expect("a name").to_owned()
    }

    /// An administrator's word on the ConfigMap of the installation.
    pub fn accept(&self, finding: &str) {
        let word = format!("franking.io/accept-ledger={finding}");
        let object = ["annotate", "configmap", "franking-installation", "--namespace", NAMESPACE, "--overwrite", &word];
        succeeded(self.plane.kubectl(&object));
    }

    /// Asks for an object's end in the tenant's namespace, and does not wait for it.
    pub fn delete(&self, object: &str) {
        succeeded(self.plane.kubectl(&["delete", object, "--namespace", "team", "--wait=false"]));
    }

    pub fn is_gone(&self, object: &str) -> bool {
        !self.plane.kubectl(&["get", object, "--namespace", "team"]).status.success()
    }

    pub fn key(&self, name: &str) {
        self.apply(&format!(
            "{{apiVersion: franking.io/v1alpha1, kind: SubAccountApiKey, metadata: {{name: {name}, namespace: team}}, \
             spec: {{subAccountRef: {{name: shop}}}}}}"
        ));
    }

    /// Waits until the key is ready, which takes an operator that works, and gives its credentials.
    pub fn credentials(&self, name: &str, within: Duration) -> Credentials {
        let timeout = format!("--timeout={}s", within.as_secs());
        let key = format!("subaccountapikey/{name}");
        let waited = self.plane.kubectl(&["wait", "--for=condition=Ready", &key, "--namespace", "team", &timeout]);
        assert!(waited.status.success(), "{name} is not ready: {waited:?}\n{}", self.logs());
        self.credentials_now(name)
    }

    /// What the Secret of that name holds at this moment.
    pub fn credentials_now(&self, name: &str) -> Credentials {
        let secret = succeeded(self.plane.kubectl(&["get", "secret", name, "--namespace", "team", "--output", "json"]));
        Credentials::from_secret(&serde_json::from_str(&secret).expect("a Secret")).expect("a Secret of ours")
    }

    /// Whether the fleet's objects are there, so that relays can be what their pods would be.
    pub fn has_relay_secrets(&self) -> bool {
        let get = ["get", "deployment,pdb,secret", "--namespace", NAMESPACE, "--output=name"];
        let found = succeeded(self.plane.kubectl(&get));
        ["deployment.apps/spread-relay", "secret/spread-relay-tls"].iter().all(|object| found.contains(object))
    }

    /// A figure of the books, as an auditor would read it.
    async fn read_books(&self, figure: &str) -> i64 {
        let (client, connection) =
            tokio_postgres::connect(&self.database, tokio_postgres::NoTls).await.expect("a server");
        let connection = tokio::spawn(connection);
        let row = client.query_one(figure, &[]).await.expect("a row");
        connection.abort();
        row.get(0)
    }

    /// The epoch of the operators' session: each that opens it counts it up.
    async fn epoch(&self) -> i64 {
        self.read_books("SELECT epoch FROM franking.session WHERE role = 'operator'").await
    }

    /// Credits that were charged to accounts and not given back.
    pub async fn charged(&self) -> usize {
        let sum = self.read_books("SELECT sum(consumed)::bigint FROM franking.lot WHERE kind = 2").await;
        usize::try_from(sum).expect("credits are not negative")
    }

    /// `franking ledger check` finds nothing.
    pub fn balances(&self) {
        let mut check = Command::new(env!("CARGO_BIN_EXE_franking"));
        check.args(["ledger", "check", "--config"]).arg(self.folder.path().join("franking.yaml")).env_clear();
        let checked = check.output().expect("the binary starts");
        assert!(checked.status.success(), "{checked:?}");
    }
}

/// Does something to the databases of the tests' server; gives its URL.
pub async fn with_databases(statements: &[String]) -> &'static str {
    let url = tokio::task::spawn_blocking(postgres::url).await.expect("a server");
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("a server");
    let connection = tokio::spawn(connection);
    for statement in statements {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    connection.abort();
    url
}

/// A database of our own on the tests' server.
pub async fn made(name: &str) -> String {
    let made = [format!("DROP DATABASE IF EXISTS {name}"), format!("CREATE DATABASE {name}")];
    let url = with_databases(&made).await;
    let (server, rest) = url.rsplit_once('/').expect("a database");
    let options = rest.split_once('?').map(|(_, options)| format!("?{options}")).unwrap_or_default();
    format!("{server}/{name}{options}")
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

impl Process {
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn wait_ready(&mut self) {
        eventually("the process to be ready", DEADLINE, || {
            assert!(self.child.try_wait().expect("our own child").is_none(), "it ended:\n{}", self.said());
            (get(self.telemetry, "/readyz")?.0 == 200).then_some(())
        });
        assert_eq!(get(self.telemetry, "/healthz").map(|(status, _)| status), Some(200));
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    }

    pub fn code(&mut self) -> Option<i32> {
        eventually("the process to end", DEADLINE, || self.child.try_wait().expect("our own child")).code()
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    pub fn stop(&mut self) {
        self.signal("-TERM");
        assert_eq!(self.code(), Some(0), "{}", self.said());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends one message at a time until the cap refuses; how many were accepted.
fn send_until_refused(mut credentials: Credentials, port: u16) -> u32 {
    credentials.port = port;
    let (mut session, reply) = Session::open_quietly(&credentials).expect("a connection");
    assert!(reply.starts_with("235"), "{reply}");
    for accepted in 0..1000 {
        let reply = session.send("orders@example.com", "reader@example.net", "Order").expect("an answer");
        if reply.starts_with("452") {
            return accepted;
        }
        assert!(reply.starts_with("250"), "{reply}");
    }
    panic!("the cap never refused");
}

/// What every test of the spread installation begins with: a plan, an account with a cap, a key.
pub fn plan(sink: &Sink, cap: u32) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: team}}}}\n---\n\
         {{apiVersion: franking.io/v1alpha1, kind: CreditPolicy, metadata: {{name: plan}}, spec: {{\
         senders: {{domains: [example.com]}}, upstream: {{host: 127.0.0.1, port: {}, tls: None}}}}}}\n---\n\
         {{apiVersion: franking.io/v1alpha1, kind: SubAccount, metadata: {{name: shop, namespace: team}}, \
         spec: {{policyRef: {{name: plan}}, cap: {{credits: {cap}}}}}}}",
        sink.address().port()
    )
}

/// The one that leads and the one that stands by.
fn by_role(setup: &SpreadSetup, a: Process, b: Process) -> (Process, Process) {
    let leader = eventually("a leader", DEADLINE, || Some(setup.leader()).filter(|leader| !leader.is_empty()));
    match leader.as_str() {
        "a" => (a, b),
        "b" => (b, a),
        other => panic!("{other} leads"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_and_two_relays_on_one_database_share_a_cap_exactly_and_survive_their_leader() {
    let setup = SpreadSetup::new("spread_shared").await;
    let sink = Sink::start(SinkOptions::default()).await;
    // Two init containers at once.
    let mut preparing = [setup.operators("prepare", "a"), setup.operators("prepare", "b")];
    for prepare in &mut preparing {
        assert_eq!(prepare.code(), Some(0), "{}", prepare.said());
    }
    let (mut a, mut b) = (setup.operators("operator", "a"), setup.operators("operator", "b"));
    a.wait_ready();
    b.wait_ready();
    let (leader, mut standby) = by_role(&setup, a, b);

    eventually("the Secret with relay.yaml", DEADLINE, || setup.has_relay_secrets().then_some(()));
    let ((mut first, first_port), (mut second, second_port)) = (setup.relay("relay-0"), setup.relay("relay-1"));
    first.wait_ready();
    second.wait_ready();

    setup.apply(&plan(&sink, 60));
    setup.key("orders");
    let credentials = setup.credentials("orders", DEADLINE);
    let sending = [first_port, second_port].map(|port| {
        let credentials = credentials.clone();
        tokio::task::spawn_blocking(move || send_until_refused(credentials, port))
    });
    let mut accepted = 0;
    for sending in sending {
        accepted += sending.await.expect("it does not panic");
    }
    assert_eq!(accepted, 60, "the cap, to the credit");
    assert_eq!(sink.messages().len(), 60);
    let programmed = setup.read(&["creditpolicy", "plan"], "{.status.conditions[?(@.type=='Programmed')].reason}");
    assert_eq!(programmed, "RelayNotReady", "no node runs here, so no pod of the fleet does");

    // Killed, it says nothing to anybody: the other one takes over when the lease has run out, and finishes the work.
    let killed = Instant::now();
    drop(leader);
    setup.key("returns");
    setup.credentials("returns", TAKEN_OVER);
    println!("the work was done {:.1} s after the leader was killed", killed.elapsed().as_secs_f64());
    assert!(standby.is_running());
    standby.stop();
    assert_eq!(setup.leader(), "", "who stops in good order gives the lease back");
    first.stop();
    second.stop();
    setup.balances();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_writes_nothing_when_it_wakes_and_ends() {
    let setup = SpreadSetup::new("spread_paused").await;
    let sink = Sink::start(SinkOptions::default()).await;
    let mut prepare = setup.operators("prepare", "a");
    assert_eq!(prepare.code(), Some(0), "{}", prepare.said());
    let (mut a, mut b) = (setup.operators("operator", "a"), setup.operators("operator", "b"));
    a.wait_ready();
    b.wait_ready();
    setup.apply(&plan(&sink, 60));
    setup.key("orders");
    setup.credentials("orders", DEADLINE);
    let (mut paused, mut next) = by_role(&setup, a, b);
    let before = setup.epoch().await;

    paused.signal("-STOP");
    setup.key("returns");
    setup.credentials("returns", TAKEN_OVER);
    let epoch = setup.epoch().await;
    assert_eq!(epoch, before + 1, "the next leader has a session of its own");
    // What happened meanwhile waits in its watches; its heartbeat and its rollup are due at once.
    setup.key("refunds");
    setup.credentials("refunds", DEADLINE);
    paused.signal("-CONT");
    assert_eq!(paused.code(), Some(DEPOSED), "{}", paused.said());
    assert_eq!(setup.epoch().await, epoch, "the one that woke took the session back");
    setup.key("rebates");
    setup.credentials("rebates", DEADLINE);
    assert!(next.is_running(), "{}", next.said());
    assert_eq!(setup.epoch().await, epoch);
    next.stop();
}
