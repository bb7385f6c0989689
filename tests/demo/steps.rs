//! The story, one function a step. Each says what it does and how long it took.

use std::io::IsTerminal as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::cluster::{Kube, Program, wait_for};
use crate::interrupt;
use crate::mail::{Credentials, Session};

/// Where the demo's operator lives.
const SYSTEM: &str = "franking-system";
/// The operator's service account, as the chart names it for a release `franking`.
const ACCOUNT: &str = "franking";
/// The namespace, the Secret and the sender of `examples/quickstart.yaml` that are used.
const TEAM: &str = "newsroom";
const SECRET: &str = "website-smtp";
const SENDER: &str = "news@example.com";
/// The port of the example's upstream, where the sink listens if it is free: then the example can be applied again as it
/// stands. Otherwise it is replaced by the sink's.
const EXAMPLE_UPSTREAM: u16 = 2500;
/// More than the cap of the example, so that it refuses.
const MESSAGES_MOST: usize = 50;
/// Long enough for a cold API server on a busy laptop.
const READY: Duration = Duration::from_secs(60);

/// How long a signal may be waited for while Enter is.
const LISTEN_FOR: Duration = Duration::from_millis(100);

/// All steps in order. When it returns, also because of a signal, all that it started is stopped.
pub fn run() -> Result<(), String> {
    let keep = asked("KEEP", "1");
    let folder = tempfile::Builder::new()
        .prefix("franking-demo-")
        .tempdir()
        .map_err(|error| format!("making a temporary folder: {error}"))?;
    let told = tell(folder.path(), keep);
    if keep && interrupt::received().is_some() {
        println!("\nKEEP=1: logs and mail stay in {}", folder.keep().display());
    }
    told
}

fn tell(folder: &Path, keep: bool) -> Result<(), String> {
    let began = Instant::now();
    let current = asked("CLUSTER", "current");
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));

    let (_cluster, kube) =
        step("a real etcd, kube-apiserver and kube-controller-manager", || start_cluster(&root, current))?;
    step("crds/ applied", || kube.kubectl(&["apply", "--server-side", "-f", text(&root.join("crds"))?]).map(quiet))?;
    let identity = step("the operator's identity: the chart's service account and its rules, nothing more", || {
        operator_identity(&root, folder, &kube)
    })?;
    let (_sink, upstream_port) = step("an upstream: a sink that keeps what it is sent", || start_sink(folder))?;
    let (mut franking, relay_port) =
        step("franking all (operator and relay in one process, SQLite)", || start_franking(folder, &identity))?;
    let told = tell_of_mail(&root, folder, &kube, (upstream_port, relay_port));
    if told.is_ok() {
        println!("\nthe whole story took {:.1} s", began.elapsed().as_secs_f64());
    }
    let told = told.and_then(|()| if keep { wait_for_the_end(&kube, folder, upstream_port) } else { Ok(()) });
    if current {
        // While the operator runs: its finalizers let go only when the ledger has taken note. After a signal too.
        interrupt::go_on();
        let cleaned = step("the example is taken away again", || clean_up(&root, &kube));
        return told.and(cleaned).and_then(|()| still_running(&mut franking));
    }
    told.and_then(|()| still_running(&mut franking))
}

fn still_running(franking: &mut Program) -> Result<(), String> {
    if franking.running() { Ok(()) } else { Err("franking ended by itself; that is a fault".to_owned()) }
}

/// From the example's resources to the figures on their status.
fn tell_of_mail(root: &Path, folder: &Path, kube: &Kube, (upstream, relay): (u16, u16)) -> Result<(), String> {
    step("examples/quickstart.yaml applied: 1 CreditPolicy, 2 SubAccounts, 3 SubAccountApiKeys", || {
        apply_quickstart(root, kube, upstream)
    })?;
    step("everything is Ready", || wait_ready(kube))?;
    let credentials = step(&format!("Secret {TEAM}/{SECRET} read as a pod would mount it"), || read_secret(kube))?;
    println!(
        "    host={} port={} username={} password=({} characters)",
        credentials.host,
        credentials.port,
        credentials.username,
        credentials.password.len()
    );
    debug_assert_eq!(credentials.port, relay);
    step("mail sent over TLS with that credential until the account's cap refuses", || {
        send_until_refused(&credentials)
    })?;
    step("what arrived at the upstream", || show_arrived(folder))?;
    step("used and remaining are back on status", || show_status(kube))
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, steered by `make demo` with two variables")]
fn asked(variable: &str, value: &str) -> bool {
    std::env::var(variable).is_ok_and(|given| given == value)
}

fn step<T>(what: &str, act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    interrupt::check()?;
    println!("\n▶ {what}");
    let began = Instant::now();
    let result = act().map_err(|error| format!("{what}: {error}"))?;
    println!("  ({:.1} s)", began.elapsed().as_secs_f64());
    Ok(result)
}

fn quiet(_output: String) {}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))
}

fn start_cluster(root: &Path, current: bool) -> Result<(Option<Program>, Kube), String> {
    let programs = root.join("target/cluster/current");
    if current {
        return Ok((None, Kube::new(programs, None)));
    }
    let mut command = Command::new(programs.join("cluster"));
    let (program, line) = Program::start_and_read("the test cluster", command.args(["up", "--while", "parent"]))?;
    let kubeconfig = line.strip_prefix("ready ").ok_or_else(|| format!("the cluster said {line}"))?;
    Ok((Some(program), Kube::new(programs, Some(PathBuf::from(kubeconfig)))))
}

/// The service account and rules that the chart renders, and a kubeconfig with a token of it.
fn operator_identity(root: &Path, folder: &Path, kube: &Kube) -> Result<PathBuf, String> {
    let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {SYSTEM}}}}}");
    kube.apply(&namespace)?;
    let chart = root.join("charts/franking");
    let rules = kube.helm(&[
        "template",
        "franking",
        text(&chart)?,
        "--namespace",
        SYSTEM,
        "--show-only",
        "templates/serviceaccount.yaml",
        "--show-only",
        "templates/rbac.yaml",
    ])?;
    kube.apply(&rules)?;
    let token = kube.kubectl(&["create", "token", ACCOUNT, "--namespace", SYSTEM, "--duration", "6h"])?;
    let view = kube.kubectl(&["config", "view", "--raw", "--minify", "--flatten", "--output", "json"])?;
    let mut config: Value = serde_json::from_str(&view).map_err(|error| format!("reading the kubeconfig: {error}"))?;
    config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
    let path = folder.join("operator.kubeconfig");
    std::fs::write(&path, config.to_string()).map_err(|error| format!("writing {}: {error}", path.display()))?;
    Ok(path)
}

fn start_sink(folder: &Path) -> Result<(Program, u16), String> {
    let mail = folder.join("mail");
    std::fs::create_dir(&mail).map_err(|error| format!("making {}: {error}", mail.display()))?;
    let sink = beside_us("sink")?;
    let start = |port: u16| {
        let address = format!("127.0.0.1:{port}");
        Program::start_and_read("the sink", Command::new(&sink).arg(&mail).arg(address))
    };
    // Another process may take the port in between.
    let wanted = TcpListener::bind(("127.0.0.1", EXAMPLE_UPSTREAM)).map(drop).ok();
    let (program, line) = match wanted.map(|()| start(EXAMPLE_UPSTREAM)) {
        Some(Ok(started)) => started,
        Some(Err(_)) | None => start(0)?,
    };
    println!("    {line}");
    let port = line.rsplit(':').next().and_then(|port| port.trim().parse().ok());
    Ok((program, port.ok_or_else(|| format!("the sink said {line}"))?))
}

fn start_franking(folder: &Path, kubeconfig: &Path) -> Result<(Program, u16), String> {
    let (relay_port, telemetry_port) = (free_port()?, free_port()?);
    let data = folder.join("data");
    std::fs::create_dir(&data).map_err(|error| format!("making {}: {error}", data.display()))?;
    let settings = folder.join("franking.yaml");
    let yaml = format!(
        "operator: {{namespace: {SYSTEM}}}\n\
         relay:\n  hostname: localhost\n  advertise: {{host: localhost, port: {relay_port}}}\n  listeners:\n\
         \x20 - {{name: submissions, address: '127.0.0.1:{relay_port}', mode: Implicit}}\n\
         telemetry: {{address: '127.0.0.1:{telemetry_port}'}}\n"
    );
    std::fs::write(&settings, yaml).map_err(|error| format!("writing {}: {error}", settings.display()))?;
    let log = folder.join("franking.log");
    let mut command = Command::new(beside_us("../franking")?);
    command.arg("all").arg("--config").arg(&settings).arg("--data").arg(&data).env("KUBECONFIG", kubeconfig);
    let mut program = Program::start("franking", &mut command, &log)?;
    let ready = format!("http://127.0.0.1:{telemetry_port}/readyz");
    wait_for("franking to be ready", READY, || {
        if !program.running() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("franking ended:\n{said}"));
        }
        Ok(http_ok(&ready).then_some(()))
    })?;
    Ok((program, relay_port))
}

/// A program that cargo built into the folder of this one.
fn beside_us(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
    let path = own.with_file_name(name);
    if path.exists() { Ok(path) } else { Err(format!("{} is not built; run `make demo`", path.display())) }
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("finding a free port: {error}"))
}

/// Whether a GET answers 200. Plain enough not to need a library.
fn http_ok(url: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let Some((host, path)) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')) else { return false };
    let Ok(mut stream) = std::net::TcpStream::connect(host) else { return false };
    let asked = write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut answer = [0; 12];
    asked.is_ok() && stream.read_exact(&mut answer).is_ok() && answer.ends_with(b"200")
}

fn apply_quickstart(root: &Path, kube: &Kube, upstream_port: u16) -> Result<(), String> {
    let path = root.join("examples/quickstart.yaml");
    let yaml = std::fs::read_to_string(&path).map_err(|error| format!("reading {}: {error}", path.display()))?;
    let named = format!("port: {EXAMPLE_UPSTREAM}\n");
    if !yaml.contains(&named) {
        return Err(format!("{} does not name {EXAMPLE_UPSTREAM} as its upstream's port", path.display()));
    }
    kube.apply(&yaml.replace(&named, &format!("port: {upstream_port}\n"))).map(quiet)
}

fn wait_ready(kube: &Kube) -> Result<(), String> {
    let timeout = format!("--timeout={}s", READY.as_secs());
    for kind in ["creditpolicies", "subaccounts", "subaccountapikeys"] {
        kube.kubectl(&["wait", "--for=condition=Ready", kind, "--all", "--all-namespaces", &timeout])?;
    }
    print!("{}", kube.kubectl(&["get", "franking", "--all-namespaces"])?);
    Ok(())
}

fn read_secret(kube: &Kube) -> Result<Credentials, String> {
    let json = kube.kubectl(&["get", "secret", SECRET, "--namespace", TEAM, "--output", "json"])?;
    let secret: Secret = serde_json::from_str(&json).map_err(|error| format!("reading the Secret: {error}"))?;
    let keys: Vec<&str> = secret.data.iter().flat_map(|data| data.keys().map(String::as_str)).collect();
    println!("    keys: {}", keys.join(", "));
    Credentials::from_secret(&secret)
}

fn send_until_refused(credentials: &Credentials) -> Result<(), String> {
    let mut session = Session::open(credentials)?;
    for number in 1..=MESSAGES_MOST {
        let reply = session.send(SENDER, "reader@example.net", &format!("Number {number}"))?;
        if reply.starts_with("452") {
            println!("    … message {number} was refused: {reply}");
            session.shown = true;
            return session.quit();
        }
        if !reply.starts_with("250") {
            return Err(format!("message {number} was answered {reply}"));
        }
        if number == 1 {
            println!("    … and so on");
            session.shown = false;
        }
    }
    Err(format!("{MESSAGES_MOST} messages went through; the example's cap did not refuse"))
}

fn show_arrived(folder: &Path) -> Result<(), String> {
    let mail = folder.join("mail");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&mail)
        .map_err(|error| format!("reading {}: {error}", mail.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    files.sort();
    let first = files.first().ok_or("nothing arrived")?;
    let text = std::fs::read_to_string(first).map_err(|error| format!("reading {}: {error}", first.display()))?;
    println!("    {} messages; the first:", files.len());
    text.lines().for_each(|line| println!("    | {line}"));
    Ok(())
}

fn show_status(kube: &Kube) -> Result<(), String> {
    // A change of phase (used up) is written at once, so this is soon true.
    let query =
        ["get", "subaccounts", "--namespace", TEAM, "--output", "jsonpath={.items[*].status.credits.remaining}"];
    wait_for("an account whose credits are used up", READY, || {
        Ok(kube.kubectl(&query)?.split_whitespace().any(|remaining| remaining == "0").then_some(()))
    })?;
    print!("{}", kube.kubectl(&["get", "franking", "--all-namespaces"])?);
    Ok(())
}

fn wait_for_the_end(kube: &Kube, folder: &Path, upstream_port: u16) -> Result<(), String> {
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        println!("\nKEEP=1: everything goes on until you press Enter.");
    } else {
        // As in CI, under nohup, and in an IDE.
        println!("\nKEEP=1: everything goes on until a signal comes: kill {}", std::process::id());
    }
    match kube.kubeconfig() {
        Some(path) => println!("  export KUBECONFIG={}", path.display()),
        None => println!("  your current kubeconfig is the one to use"),
    }
    if upstream_port != EXAMPLE_UPSTREAM {
        println!(
            "  port {EXAMPLE_UPSTREAM} was taken: before you apply examples/quickstart.yaml, write {upstream_port} for it"
        );
    }
    println!("  {}: franking.log, franking.yaml (with the port of /metrics), the mail that arrived", folder.display());
    println!("  the audit trail: target/debug/franking ledger events --data {}", folder.join("data").display());
    let (say, hear) = mpsc::channel();
    // The line cannot be waited for together with a signal, so a thread of its own does, and ends with the process.
    // Without a terminal the input may be at its end from the start, which is no Enter.
    std::thread::spawn(move || match std::io::stdin().read_line(&mut String::new()) {
        Ok(0) if !terminal => loop {
            std::thread::park();
        },
        read => drop(say.send(read.map(drop))),
    });
    loop {
        interrupt::check()?;
        match hear.recv_timeout(LISTEN_FOR) {
            Ok(read) => return read.map_err(|error| format!("waiting for Enter: {error}")),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err("waiting for Enter: nobody reads".to_owned()),
        }
    }
}

fn clean_up(root: &Path, kube: &Kube) -> Result<(), String> {
    let example = root.join("examples/quickstart.yaml");
    kube.kubectl(&["delete", "--ignore-not-found", "--timeout=60s", "-f", text(&example)?]).map(quiet)
}
