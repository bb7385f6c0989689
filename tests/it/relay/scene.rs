//! A relay with its ledger, its directory and its upstream, all real, each of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use franking::domain::credential::{Credential, HashKey, Password, Stage, Username};
use franking::domain::credit::{Limit, Overage};
use franking::domain::directory::{AccountEntry, Entry, KeyEntry, PolicyEntry, UpstreamEntry, UpstreamTls};
use franking::domain::id::{AccountId, Holder, KeyId, PolicyId};
use franking::domain::period::Calendar;
use franking::domain::sender::MailDomain;
use franking::ledger::sqlite;
use franking::ledger::store::{Balance, LedgerSession, Role, Store};
use franking::relay::{Dependencies, Relay};
use franking::runtime::clock::{Clock as _, ManualClock};
use franking::runtime::health::Health;
use franking::runtime::http::{Port, Telemetry};
use franking::runtime::metrics::{Registry, render};
use franking::runtime::relay_config::{
    CertificateFiles, InstallationKeys, KeyBytes, LedgerAddress, Limits, Listener, ListenerMode, RelayConfig, Tls,
};
use jiff::Timestamp;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::client::Client;
use crate::support::sink::{Act, At, Sink, SinkOptions};

/// Longer than anything here takes; a test that waits so long has failed.
pub const SOON: Duration = Duration::from_secs(20);
pub const PASSWORD: &str = "correct-horse-battery-staple";
/// What every test sends unless it says otherwise: an allowed sender, and a message of theirs.
pub const FROM: &str = "alerts@example.com";
pub const TO: &str = "somebody@elsewhere.example";
pub const MAIL: &str = "From: Alerts <alerts@example.com>\r\nSubject: hello\r\n\r\nhello";

pub const POLICY: PolicyId = PolicyId(Uuid::from_u128(0x100));
pub const ACCOUNT: AccountId = AccountId(Uuid::from_u128(0x200));

pub struct Scene {
    pub sink: Sink,
    pub clock: ManualClock,
    pub store: Arc<dyn Store>,
    pub session: LedgerSession,
    pub config: RelayConfig,
    pub ca_pem: String,
    pub registry: Registry,
    pub health: Health,
    /// Where probes are answered, and where metrics, as the process does it; `None` until a test asks for it.
    pub telemetry: Option<[SocketAddr; 2]>,
    pub relay: Option<Relay>,
    pub folder: TempDir,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(|_| {}, |_| {}).await
    }

    /// With a changed config, and changed rows of the directory.
    pub async fn with(config: impl FnOnce(&mut RelayConfig), rows: impl FnOnce(&mut Rows)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let sink = Sink::start(SinkOptions::default()).await;
        let clock = ManualClock::new("2026-11-20T10:00:00Z".parse().expect("a time"));
        let installation = Uuid::from_u128(1);
        let path = folder.path().join("ledger.db");
        sqlite::prepare(&path, installation, "cluster", Uuid::from_u128(2), clock.now()).expect("a ledger");
        let store: Arc<dyn Store> =
            Arc::new(sqlite::SqliteStore::open(&path, Arc::new(clock.clone())).expect("the ledger"));
        let session = store.open_session(Role::Operator, "operator").await.expect("a session");
        let mut rows = {
            let mut changed = Rows::new(sink.address().port());
            rows(&mut changed);
            changed
        };
        store.put(&session, "test", &rows.take()).await.expect("the directory");
        let mut scene = Self {
            ca_pem: certificate(folder.path()),
            config: relay_config(installation, folder.path()),
            sink,
            clock,
            store,
            session,
            registry: Registry::new(),
            health: Health::default(),
            telemetry: None,
            relay: None,
            folder,
        };
        config(&mut scene.config);
        scene.write_config();
        scene.start().await;
        scene
    }

    pub async fn start(&mut self) {
        let dependencies = self.dependencies();
        let started = Relay::start(dependencies, &CancellationToken::new()).await.expect("starting the relay");
        self.relay = started;
        // The first look at the directory.
        self.until("the relay is ready", async |scene| scene.health.closed().is_empty()).await;
    }

    /// Serves probes and metrics, as the process does.
    pub async fn serve_telemetry(&mut self) {
        let telemetry = Telemetry::new(self.registry.clone(), self.health.clone());
        let mut addresses = [([127, 0, 0, 1], 0).into(); 2];
        for (address, port) in addresses.iter_mut().zip([Port::Probes, Port::Metrics]) {
            let listener = TcpListener::bind(*address).await.expect("a port");
            *address = listener.local_addr().expect("its address");
            tokio::spawn(telemetry.clone().serve(listener, port));
        }
        self.telemetry = Some(addresses);
    }

    pub fn dependencies(&self) -> Dependencies {
        Dependencies {
            config_file: self.config_file(),
            clock: Arc::new(self.clock.clone()),
            rng: StdRng::seed_from_u64(7),
            registry: self.registry.clone(),
            health: self.health.clone(),
            name: "relay-0".to_owned(),
        }
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("relay.yaml")
    }

    pub fn write_config(&self) {
        let text = serde_yaml::to_string(&self.config).expect("yaml");
        // In one step, as the operator does it: the relay must not read half a file.
        let new = self.folder.path().join("relay.yaml.new");
        std::fs::write(&new, text).expect("relay.yaml");
        std::fs::rename(new, self.config_file()).expect("relay.yaml");
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        self.relay.as_ref().expect("a relay").addresses()[listener]
    }

    /// A connection that greeted, on the listener with implicit TLS.
    pub async fn greeted(&self) -> Client {
        let mut client = Client::connect_tls(self.address("implicit"), &self.ca_pem).await;
        client.ask("EHLO client.example").await.is("250 ");
        client
    }

    /// A connection that may send, as key 1.
    pub async fn client(&self) -> Client {
        self.client_of(1).await
    }

    pub async fn client_of(&self, key: u128) -> Client {
        let mut client = self.greeted().await;
        client.login(&username(key), PASSWORD).await.is("235 2.7.0");
        client
    }

    /// A client whose message is written whole, and whose upstream does not answer before the sink is released.
    pub async fn stalled(&self) -> Client {
        self.stalled_by(Act::Stall).await
    }

    /// The same, and then its upstream does this.
    pub async fn stalled_then(&self, act: Act) -> Client {
        self.stalled_by(Act::StallThen(Box::new(act))).await
    }

    async fn stalled_by(&self, act: Act) -> Client {
        self.sink.once(At::Final, act);
        let mut client = self.client().await;
        for line in [format!("MAIL FROM:<{FROM}>"), format!("RCPT TO:<{TO}>")] {
            client.ask(&line).await.is("250");
        }
        client.ask("DATA").await.is("354");
        client.send(format!("{MAIL}\r\n.\r\n")).await;
        self.sink.wait_for_stalled(1, SOON).await;
        client
    }

    pub async fn put(&self, entries: &[Entry]) {
        self.store.put(&self.session, "test", entries).await.expect("written");
    }

    pub async fn balance(&self, holder: Holder) -> Balance {
        let mut balances = self.store.balances(&[holder]).await.expect("balances");
        assert_eq!(balances.len(), 1, "{holder:?}");
        balances.remove(0)
    }

    /// Waits until the policy's figures are (charged, relayed, refused, not offered, unknown).
    pub async fn until_usage(&self, expected: [i64; 5]) {
        let deadline = Instant::now() + SOON;
        loop {
            let usage = self.balance(Holder::Policy(POLICY)).await.usage;
            let found = [usage.accepted, usage.relayed, usage.refused, usage.not_offered, usage.unknown];
            if found == expected {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "(charged, relayed, refused, not offered, unknown) is {found:?}, not {expected:?}"
            );
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.store.check().await.expect("checked"), vec![]);
    }

    /// Waits for a condition, and fails with its name.
    pub async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !holds(self).await {
            assert!(Instant::now() < deadline, "not in time: {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn metrics(&self) -> String {
        render(&self.registry)
    }

    /// Octets of bodies in memory.
    pub fn bytes_in_flight(&self) -> u64 {
        let metrics = self.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix("franking_relay_bytes_in_flight "));
        line.and_then(|octets| octets.parse().ok()).expect("the figure")
    }
}

/// One more relay of the same fleet.
pub async fn another(scene: &Scene) -> Relay {
    let mut dependencies = scene.dependencies();
    (dependencies.registry, dependencies.health) = (Registry::new(), Health::default());
    dependencies.name = "relay-1".to_owned();
    // Else both would make the same message ids.
    dependencies.rng = StdRng::seed_from_u64(8);
    let health = dependencies.health.clone();
    let relay = Relay::start(dependencies, &CancellationToken::new()).await.expect("starting").expect("a relay");
    scene.until("the other relay is ready", async |_| health.closed().is_empty()).await;
    relay
}

/// A connection to `relay` that may send, as a key of the scene.
pub async fn client_of(relay: &Relay, scene: &Scene, key: u128) -> Client {
    let mut client = Client::connect_tls(relay.addresses()["implicit"], &scene.ca_pem).await;
    client.ask("EHLO client.example").await.is("250 ");
    client.login(&username(key), PASSWORD).await.is("235 2.7.0");
    client
}

/// The rows of the directory before they are written.
pub struct Rows {
    pub policy: PolicyEntry,
    pub account: AccountEntry,
    pub keys: Vec<KeyEntry>,
    pub others: Vec<Entry>,
}

impl Rows {
    fn new(port: u16) -> Self {
        Self { policy: policy(port), account: account(), keys: vec![key(1), key(2)], others: Vec::new() }
    }

    fn take(&mut self) -> Vec<Entry> {
        let mut rows = vec![Entry::Policy(self.policy.clone()), Entry::Account(self.account.clone())];
        rows.extend(self.keys.drain(..).map(Entry::Key));
        rows.append(&mut self.others);
        rows
    }
}

pub fn monthly(credits: Option<i64>) -> Limit {
    Limit { credits, calendar: Calendar::monthly_utc() }
}

pub fn policy(port: u16) -> PolicyEntry {
    PolicyEntry {
        id: POLICY,
        name: "plan".to_owned(),
        suspended: None,
        pool: monthly(None),
        overage: Overage::Deny,
        when_exhausted: Default::default(),
        prepaid: None,
        pricing: None,
        currency: None,
        sender_domains: vec![MailDomain::parse("example.com").expect("a domain")],
        upstream: Some(UpstreamEntry {
            host: "127.0.0.1".to_owned(),
            port,
            tls: UpstreamTls::None,
            secret: None,
            max_recipients: 5,
        }),
        settings: None,
        removed_at: None,
    }
}

pub fn account() -> AccountEntry {
    AccountEntry {
        id: ACCOUNT,
        policy: POLICY,
        namespace: "team".to_owned(),
        name: "account".to_owned(),
        suspended: None,
        cap: monthly(None),
        prepaid: None,
        spend_limit_micro: None,
        rate: None,
        allowed_senders: None,
        departures: Vec::new(),
        settings: None,
        removed_at: None,
    }
}

pub fn key_id(n: u128) -> KeyId {
    KeyId(Uuid::from_u128(0x300 + n))
}

pub fn username(n: u128) -> String {
    format!("key-{n}")
}

pub fn key(n: u128) -> KeyEntry {
    let hash = HashKey::new(&[7; 32]).hash(&Password::given(PASSWORD));
    KeyEntry {
        id: key_id(n),
        account: ACCOUNT,
        namespace: "team".to_owned(),
        name: format!("key-{n}"),
        username: Username::try_from(username(n)).expect("a user name"),
        credentials: vec![Credential { hash, stage: Stage::Current { since: Timestamp::UNIX_EPOCH } }],
        allow_from: vec![],
        allowed_senders: vec![],
        plain_listener: false,
        cap: monthly(None),
        rate: None,
        expires_at: None,
        revoked: false,
        settings: None,
        removed_at: None,
    }
}

/// Writes a new pair into `folder`; its PEM.
pub fn certificate(folder: &std::path::Path) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).expect("the key");
    std::fs::write(folder.join("tls.crt"), made.cert.pem()).expect("the certificate");
    made.cert.pem()
}

pub fn listener(name: &str, mode: ListenerMode) -> Listener {
    let networks = match mode {
        ListenerMode::Plain => vec!["127.0.0.0/8".parse().expect("a network")],
        ListenerMode::StartTls | ListenerMode::Implicit => vec![],
    };
    Listener {
        name: name.to_owned(),
        address: ([127, 0, 0, 1], 0).into(),
        mode,
        networks,
        proxy_from: vec![],
        budget_seconds: 20,
        line_ends: mode.line_ends(),
    }
}

fn relay_config(installation: Uuid, folder: &std::path::Path) -> RelayConfig {
    let files = CertificateFiles { certificate_file: folder.join("tls.crt"), key_file: folder.join("tls.key") };
    RelayConfig {
        installation,
        incarnation: None,
        hostname: "relay.example.com".to_owned(),
        listeners: vec![
            listener("submission", ListenerMode::StartTls),
            listener("implicit", ListenerMode::Implicit),
            listener("plain", ListenerMode::Plain),
        ],
        tls: Tls { certificates: vec![files] },
        limits: Limits { message_bytes: 100_000, drain_seconds: 20, ..Limits::default() },
        ledger: LedgerAddress::Sqlite { path: folder.join("ledger.db") },
        keys: InstallationKeys { hash: KeyBytes([7; 32]), seal: KeyBytes([8; 32]) },
    }
}
