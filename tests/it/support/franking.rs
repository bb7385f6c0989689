//! The real binary as a process: started, watched, stopped, killed.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start or a good stop may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives a value; panics with `what` when it does not in time.
#[track_caller]
pub fn eventually<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "waited {} s for {what}", deadline.as_secs());
        std::thread::park_timeout(POLL);
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// Several, of which no two are one: asked for one after another, the same may come twice.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("loopback has a free port"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}

/// Status and body of a GET.
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: franking\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Where one `franking` runs: its folder, ports and identity. It can be started again and again over the same state.
pub struct Home {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    namespace: String,
    pub relay: SocketAddr,
    pub plain: SocketAddr,
    pub telemetry: SocketAddr,
}

impl Home {
    pub fn new(kubeconfig: &Path, namespace: &str) -> Self {
        let [relay, plain, telemetry] = free_ports().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let home = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            kubeconfig: kubeconfig.to_path_buf(),
            namespace: namespace.to_owned(),
            relay,
            plain,
            telemetry,
        };
        home.tune("");
        home
    }

    /// Writes the settings, with more keys for the operator, such as `concurrency: 8`.
    pub fn tune(&self, operator: &str) {
        std::fs::write(self.settings(), self.yaml(operator)).expect("the temporary folder can be written");
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn settings(&self) -> PathBuf {
        self.folder().join("franking.yaml")
    }

    pub fn ledger(&self) -> PathBuf {
        self.folder().join("ledger.db")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("franking.log")).unwrap_or_default()
    }

    fn yaml(&self, operator: &str) -> String {
        let namespace = &self.namespace;
        format!(
            "operator: {{namespace: {namespace}, effectiveConfigMap: {namespace}-relay-effective, {operator}}}\n\
             relay:\n  hostname: localhost\n  advertise: {{host: localhost, port: {}}}\n  listeners:\n\
             \x20 - {{name: submissions, address: '{}', mode: Implicit}}\n\
             \x20 - {{name: printers, address: '{}', mode: Plain, networks: [127.0.0.0/8], budgetSeconds: 25}}\n\
             telemetry: {{address: '{}', level: debug}}\n",
            self.relay.port(),
            self.relay,
            self.plain,
            self.telemetry
        )
    }

    /// A command with the binary and this home's settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_franking"));
        command
            .args(arguments)
            .arg("--config")
            .arg(self.settings())
            .arg("--data")
            .arg(self.folder())
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null());
        command
    }

    /// Starts `franking all` and waits until it is ready.
    pub fn start(&self) -> Franking<'_> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder().join("franking.log"))
            .expect("the temporary folder can be written");
        let child = self.command(&["all"]).stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts");
        let mut franking = Franking { home: self, child };
        let until = Instant::now() + DEADLINE;
        loop {
            let ended = franking.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "franking ended: {ended:?}\n{}", self.log());
            let answer = self.get("/readyz");
            if answer.as_ref().is_some_and(|(status, _)| *status == 200) {
                return franking;
            }
            assert!(Instant::now() < until, "franking is not ready: {answer:?}\n{}", self.log());
            std::thread::park_timeout(POLL);
        }
    }

    /// Status and body of a GET on the telemetry address.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.telemetry, path)
    }

    /// `franking ledger check`: whether it found nothing, and what it printed.
    pub fn check(&self) -> (bool, String) {
        let output = self.command(&["ledger", "check"]).output().expect("the binary starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

/// A running process. Dropping it kills it.
pub struct Franking<'a> {
    home: &'a Home,
    child: Child,
}

impl Franking<'_> {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kill -9, as a power cut or the OOM killer would.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// SIGTERM, and the exit code that follows in time.
    pub fn stop(mut self) -> i32 {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(asked.expect("kill is there").success());
        let status = eventually("franking to stop", DEADLINE, || self.child.try_wait().expect("our own child"));
        let code = status.code().unwrap_or_else(|| panic!("ended by a signal\n{}", self.home.log()));
        if code != 0 {
            eprintln!("{}", self.home.log());
        }
        code
    }
}

impl Drop for Franking<'_> {
    fn drop(&mut self) {
        // Both fail only where it was stopped already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
