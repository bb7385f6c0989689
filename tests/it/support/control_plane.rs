//! A real Kubernetes control plane (etcd, kube-apiserver, kube-controller-manager) for tests.
//!
//! All of the starting and stopping is `cluster up` of `tests/cluster`, so that the tests and the demo run the same thing;
//! this file holds its standard input open. However the test process ends, the pipe closes and the control plane goes.
//! That is why nothing here needs PR_SET_PDEATHSIG, which fires when the *thread* that spawned ends, as test threads do.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

/// The programs are killed, not asked, so this only bounds the removal of a small folder on a busy machine.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
const STOP_POLL: Duration = Duration::from_millis(10);

/// An API server with a mutating admission policy looks for the schemas of new kinds every five seconds (Kubernetes 1.36).
const KINDS_KNOWN: Duration = Duration::from_secs(60);
const KINDS_POLL: Duration = Duration::from_millis(200);

/// Longer than any test run; the least that Kubernetes grants is ten minutes.
const TOKEN_LIFE_SECONDS: i64 = 6 * 60 * 60;

#[derive(Debug, Default, Clone, Copy)]
pub struct Options {
    /// Leave the folder with the logs and etcd's data when the control plane ends, and print where it is.
    pub keep: bool,
}

/// A running control plane; dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct ControlPlane {
    dir: PathBuf,
    kubeconfig: PathBuf,
    keep: bool,
    launcher: Mutex<Launcher>,
}

#[derive(Debug)]
struct Launcher {
    child: Child,
    /// Taken when the end is wanted: closing it is how the end is asked for.
    input: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl ControlPlane {
    /// Starts a control plane of one's own, for tests that stop the API server. Blocks until everything answers.
    pub fn start(options: Options) -> Result<Self, String> {
        let mut command = Command::new(cluster_binary()?);
        command.args(["up", "--while", "stdin"]);
        if options.keep {
            command.arg("--keep");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting the test cluster: {error}"))?;
        let input = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut launcher = Launcher { child, input, answers };
        // `up` bounds its own start and says why it failed, so this read needs no deadline.
        let kubeconfig = PathBuf::from(launcher.answer("ready ")?);
        let dir = kubeconfig.parent().expect("the kubeconfig is in a folder").to_path_buf();
        if options.keep {
            eprintln!("the test cluster's folder stays: {}", dir.display());
        }
        Ok(Self { dir, kubeconfig, keep: options.keep, launcher: Mutex::new(launcher) })
    }

    /// The one control plane of this test process, started by whoever asks first. Tests share it, so each takes its own
    /// namespaces and its own names for cluster-scoped objects, and none stops it.
    pub fn shared() -> &'static Self {
        // A static is never dropped; the pipe closes with the process. A failure is kept, so that it is waited for once.
        static SHARED: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
        match SHARED.get_or_init(|| Self::start(Options::default())) {
            Ok(plane) => plane,
            Err(error) => panic!("{error}"),
        }
    }

    /// Where the control plane keeps its files; what a test writes here goes when the control plane goes.
    pub fn base_dir(&self) -> &Path {
        &self.dir
    }

    pub fn admin_kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client that may do everything. Each test makes its own, because a client lives on the runtime that made it.
    pub async fn admin_client(&self) -> Client {
        client(&self.kubeconfig).await.expect("the admin's kubeconfig of the test cluster is good")
    }

    /// A kubeconfig and a client with exactly the rights of this service account, which must exist.
    pub async fn client_as_service_account(&self, namespace: &str, name: &str) -> Result<(PathBuf, Client), String> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(TOKEN_LIFE_SECONDS), ..Default::default() }),
            ..Default::default()
        };
        let token = Api::<ServiceAccount>::namespaced(self.admin_client().await, namespace)
            .create_token_request(name, &Default::default(), &request)
            .await
            .map_err(|error| format!("asking for a token of service account {namespace}/{name}: {error}"))?
            .status
            .and_then(|status| status.token)
            .ok_or_else(|| format!("the token request of {namespace}/{name} came back without a token"))?;
        let path = self.dir.join(format!("{namespace}.{name}.kubeconfig"));
        self.write_token_kubeconfig(&path, &token).map_err(|error| format!("writing {}: {error}", path.display()))?;
        let client = client(&path).await?;
        Ok((path, client))
    }

    pub fn kubectl(&self, args: &[&str]) -> Output {
        self.run("kubectl", args, None)
    }

    pub fn kubectl_stdin(&self, args: &[&str], input: &str) -> Output {
        self.run("kubectl", args, Some(input))
    }

    /// Runs kubectl right after the chart was installed: again while the API server does not know our kinds.
    pub fn kubectl_after_install(&self, args: &[&str]) -> Output {
        let deadline = Instant::now() + KINDS_KNOWN;
        loop {
            let output = self.kubectl(args);
            let unknown = kind_is_unknown(&String::from_utf8_lossy(&output.stderr));
            if output.status.success() || !unknown || Instant::now() > deadline {
                return output;
            }
            std::thread::sleep(KINDS_POLL);
        }
    }

    pub fn helm(&self, args: &[&str]) -> Output {
        self.run("helm", args, None)
    }

    /// Kills the API server: connections break and new ones are refused until it is started again.
    pub fn stop_api_server(&self) -> Result<(), String> {
        self.tell("stop kube-apiserver", "stopped kube-apiserver")
    }

    /// Starts it again with the same port, keys and data, and blocks until it is ready: some seconds, so a test whose
    /// runtime has other work calls it through `spawn_blocking`.
    pub fn start_api_server(&self) -> Result<(), String> {
        self.tell("start kube-apiserver", "ready kube-apiserver")
    }

    fn tell(&self, order: &str, expected: &str) -> Result<(), String> {
        let mut launcher = self.launcher.lock().expect("no test panics while it holds the launcher");
        let input = launcher.input.as_mut().expect("the input is open until the drop");
        writeln!(input, "{order}").map_err(|error| format!("telling the test cluster to {order}: {error}"))?;
        launcher.answer(expected).map(drop)
    }

    fn write_token_kubeconfig(&self, path: &Path, token: &str) -> Result<(), Box<dyn std::error::Error>> {
        // Everything but the user is the admin's.
        let mut kubeconfig: Value = serde_yaml::from_str(&std::fs::read_to_string(&self.kubeconfig)?)?;
        kubeconfig["users"][0]["user"] = json!({ "token": token });
        std::fs::write(path, serde_yaml::to_string(&kubeconfig)?)?;
        Ok(())
    }

    /// Starts one more API server over the same etcd, with these flags besides, for what this one does not do, such as
    /// writing an audit log. It may not be ready yet.
    pub fn second_api_server(&self, flags: &[String]) -> SecondApiServer {
        let port = super::franking::free_port();
        let ours = format!("--tls-cert-file={}", self.dir.join("pki/server.crt").display());
        let processes = std::fs::read_dir("/proc").expect("procfs").flatten();
        let command = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
        let first = command.into_iter().find(|command| command.contains(&ours)).expect("the API server runs");
        // Without its own name, and with the port of this one instead.
        let arguments = first.split_terminator('\0').skip(1).filter(|flag| !flag.starts_with("--secure-port="));
        // `timeout` ends it where this process is killed.
        let child = Command::new("timeout")
            .args(["--kill-after=1", "300"])
            .arg(cluster_binary().expect("it was there when the control plane started"))
            .arg("kube-apiserver")
            .args(arguments)
            .arg(format!("--secure-port={port}"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("starting kube-apiserver: {error}"));
        SecondApiServer { url: format!("https://127.0.0.1:{port}"), child }
    }

    fn run(&self, program: &str, args: &[&str], input: Option<&str>) -> Output {
        let binary = cluster_binary().expect("it was there when the control plane started");
        let caches = self.dir.join("caches");
        let mut child = Command::new(binary)
            .arg(program)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            // Both would otherwise leave files in the developer's home, and read settings there.
            .env("KUBECACHEDIR", caches.join("kubectl"))
            .env("KUBERC", "off")
            .env("HELM_CACHE_HOME", caches.join("helm-cache"))
            .env("HELM_CONFIG_HOME", caches.join("helm-config"))
            .env("HELM_DATA_HOME", caches.join("helm-data"))
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("starting {program}: {error}"));
        let pipe = child.stdin.take();
        std::thread::scope(|scope| {
            // Written beside the reading, so that neither side waits on a full pipe. A program that does not read to the end
            // breaks the pipe; its exit code and its words say more than that.
            scope.spawn(move || pipe.zip(input).map(|(mut pipe, input)| pipe.write_all(input.as_bytes())));
            child.wait_with_output().unwrap_or_else(|error| panic!("waiting for {program}: {error}"))
        })
    }
}

impl Launcher {
    /// The rest of the next line of output, which must begin as expected.
    fn answer(&mut self, expected: &str) -> Result<String, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| format!("reading from the test cluster: {error}"))?;
        if let Some(rest) = line.trim_end().strip_prefix(expected) {
            return Ok(rest.to_owned());
        }
        if !line.is_empty() {
            return Err(format!("the test cluster said {line:?} instead of {expected:?}"));
        }
        let mut reason = String::new();
        if let Some(errors) = self.child.stderr.as_mut() {
            errors
                .read_to_string(&mut reason)
                .map_err(|error| format!("reading why the test cluster ended: {error}"))?;
        }
        let status = self.child.wait().map_err(|error| format!("waiting for the test cluster: {error}"))?;
        Err(format!("the test cluster ended ({status}): {}", reason.trim()))
    }

    /// Whether it ended by itself in time.
    fn end(&mut self) -> bool {
        drop(self.input.take());
        let deadline = Instant::now() + STOP_DEADLINE;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return true;
            }
            std::thread::sleep(STOP_POLL);
        }
        false
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let launcher = self.launcher.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !launcher.end() {
            // Its programs die with it: it asked the kernel for that. Only the folder is left to do.
            drop(launcher.child.kill());
            drop(launcher.child.wait());
            if !self.keep {
                drop(std::fs::remove_dir_all(&self.dir));
            }
        }
    }
}

/// Ends when it is dropped, within a second.
pub struct SecondApiServer {
    pub url: String,
    child: Child,
}

impl Drop for SecondApiServer {
    fn drop(&mut self) {
        // Both fail only where it ended by itself. `timeout` hands the signal on.
        drop(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status());
        drop(self.child.wait());
    }
}

fn cluster_binary() -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/current/cluster");
    if path.exists() { Ok(path) } else { Err("the test cluster is not built: run `make cluster`".to_owned()) }
}

async fn client(kubeconfig: &Path) -> Result<Client, String> {
    let explain = |error: String| format!("making a client from {}: {error}", kubeconfig.display());
    let read = Kubeconfig::read_from(kubeconfig).map_err(|error| explain(error.to_string()))?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .map_err(|error| explain(error.to_string()))?;
    Client::try_from(config).map_err(|error| explain(error.to_string()))
}

/// True of what kubectl prints where a mutating admission policy stands in front of a kind whose schema the API server has not
/// taken up yet, although its definition is Established.
pub fn kind_is_unknown(complaint: &str) -> bool {
    let words = [
        "(ServiceUnavailable)",
        "Resource kind franking.io/",
        "There can be a delay between when CustomResourceDefinitions are created and when they are available",
    ];
    words.iter().all(|words| complaint.contains(words))
}

/// What a program printed, when it ended well; otherwise fails the test with what it complained of.
#[track_caller]
pub fn succeeded(output: Output) -> String {
    assert!(
        output.status.success(),
        "ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8(output.stdout).expect("kubectl and helm print UTF-8")
}

mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Namespace};

    use super::*;

    #[test]
    fn a_kind_that_is_not_taken_up_yet_is_told_from_all_that_is_refused() {
        let complaint = "Error from server (ServiceUnavailable): error when creating \"quickstart.yaml\": Resource kind \
            franking.io/v1alpha1, Kind=CreditPolicy not found. There can be a delay between when CustomResourceDefinitions \
            are created and when they are available";
        assert!(kind_is_unknown(complaint));
        for other in [
            "Error from server (Forbidden): error when creating: you may not attach accounts",
            "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
            "error: unable to recognize: no matches for kind \"CreditPolicy\" in version \"franking.io/v1alpha1\"",
        ] {
            assert!(!kind_is_unknown(other), "{other}");
        }
    }

    #[tokio::test]
    async fn a_service_account_has_its_own_rights_and_no_others() {
        let plane = ControlPlane::shared();
        let manifest = "
            {apiVersion: v1, kind: List, items: [
              {apiVersion: v1, kind: Namespace, metadata: {name: plane-rights}},
              {apiVersion: v1, kind: ServiceAccount, metadata: {name: reader, namespace: plane-rights}},
              {apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader, namespace: plane-rights},
               rules: [{apiGroups: [''], resources: [configmaps], verbs: [list]}]},
              {apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: reader, namespace: plane-rights},
               roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader},
               subjects: [{kind: ServiceAccount, name: reader, namespace: plane-rights}]}]}";
        succeeded(plane.kubectl_stdin(&["apply", "-f", "-"], manifest));

        let (kubeconfig, client) = plane.client_as_service_account("plane-rights", "reader").await.expect("a token");
        let maps = Api::<ConfigMap>::namespaced(client.clone(), "plane-rights");
        maps.list(&Default::default()).await.expect("the role allows it");
        let refused = Api::<Namespace>::all(client).list(&Default::default()).await.expect_err("no role allows it");
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
        let whoami = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
        let kubeconfig = kubeconfig.to_str().expect("a temporary folder has a UTF-8 name");
        let username = succeeded(plane.kubectl(&[&["--kubeconfig", kubeconfig], whoami.as_slice()].concat()));
        assert_eq!(username, "system:serviceaccount:plane-rights:reader");
        // Proves that the controller manager runs: the namespace goes only when its contents are collected.
        succeeded(plane.kubectl(&["delete", "namespace", "plane-rights", "--timeout=60s"]));
    }

    #[test]
    fn helm_knows_the_version_of_the_server() {
        let plane = ControlPlane::shared();
        assert!(plane.admin_kubeconfig().starts_with(plane.base_dir()), "nothing is written elsewhere");
        succeeded(plane.helm(&["list", "--all-namespaces"]));
        assert!(succeeded(plane.kubectl(&["version"])).contains("Server Version: v1.36."));
    }

    #[tokio::test]
    async fn the_api_server_comes_back_with_its_data() {
        let plane = ControlPlane::start(Options::default()).expect("a control plane");
        let dir = plane.base_dir().to_path_buf();
        succeeded(plane.kubectl(&["create", "namespace", "kept"]));
        plane.stop_api_server().expect("it stops");
        assert!(!plane.kubectl(&["get", "namespaces", "--request-timeout=2s"]).status.success());
        plane.start_api_server().expect("it starts");
        Api::<Namespace>::all(plane.admin_client().await).get("kept").await.expect("etcd kept it");
        drop(plane);
        assert!(!dir.exists(), "{} is left behind", dir.display());
    }
}
