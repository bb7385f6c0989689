//! `make demo`, stopped in the middle: nothing that it started goes on, and its folder goes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::support::franking::{DEADLINE, eventually};

/// A demo of which every process and file can be told by a temporary folder of its own.
struct Demo {
    folder: tempfile::TempDir,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Demo {
    /// Without a terminal, and with an input that is at its end, as CI and nohup start it.
    fn start(keep: bool) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_franking")).with_file_name("examples").join("demo");
        assert!(program.exists(), "{} is not built: run `make build`", program.display());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new("nohup");
        command.arg(program).env("TMPDIR", folder.path());
        command.env_remove("CLUSTER").env("KEEP", if keep { "1" } else { "0" });
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the demo starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { folder, child, output }
    }

    /// Waits until it has printed `words`. Returns all of the line that has them.
    fn until(&mut self, words: &str) -> String {
        let mut told = String::new();
        loop {
            let before = told.len();
            let read = self.output.read_line(&mut told).expect("its output is text");
            assert!(read > 0, "it ended before it said {words:?}:\n{told}");
            if told[before..].contains(words) {
                return told[before..].trim_end().to_owned();
            }
        }
    }

    fn signal(&self, signal: &str) {
        let asked = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(asked.expect("kill is there").success());
    }

    /// Sends it a signal. Returns its exit code when it has ended.
    fn stop(&mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.output.read_to_string(&mut String::new()).expect("its output is text");
        eventually("the demo to stop", DEADLINE, || self.child.try_wait().expect("our own child")).code()
    }

    /// Processes that have our folder as theirs, by id and command.
    fn processes(&self) -> Vec<(u32, String)> {
        let ours = format!("TMPDIR={}", self.folder.path().display());
        let reads = |process: &Path, what: &str| std::fs::read(process.join(what)).unwrap_or_default();
        let all = std::fs::read_dir("/proc").expect("procfs").flatten();
        all.filter_map(|process| {
            let id = process.file_name().to_str()?.parse().ok()?;
            let variables = reads(&process.path(), "environ");
            let is_ours = variables.split(|octet| *octet == 0).any(|variable| variable == ours.as_bytes());
            let command = String::from_utf8_lossy(&reads(&process.path(), "cmdline")).replace('\0', " ");
            is_ours.then_some((id, command))
        })
        .collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).expect("our own folder").flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Each fails only where the process has ended.
        for (id, _) in self.processes() {
            drop(Command::new("kill").args(["-KILL", &id.to_string()]).status());
        }
        drop(self.child.wait());
    }
}

/// One demo has the example's port, and another would have to do without.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn a_demo_that_is_terminated_leaves_no_process_and_no_file() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut demo = Demo::start(false);
    // kubectl waits for the resources; sink, cluster and franking run.
    demo.until("▶ everything is Ready");
    let code = demo.stop("-TERM");
    assert_eq!((demo.processes(), demo.files()), (vec![], vec![]));
    assert_eq!(code, Some(128 + 15));
}

#[test]
fn beside_a_demo_that_goes_on_a_mail_is_sent_from_a_shell_and_an_interrupt_leaves_its_logs_and_no_process() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut demo = Demo::start(true);
    let upstream = demo.until("listening on 127.0.0.1:");
    let line = demo.until("export KUBECONFIG=");
    // As when the terminal of a demo under nohup is closed.
    demo.signal("-HUP");
    let (_, kubeconfig) = line.split_once('=').expect("as it was waited for");
    send_as_the_page_says(Path::new(kubeconfig));
    // An edited example is applied again by whoever tries it. Where another program has its port, the demo says so.
    if upstream.ends_with(":2500") {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart.yaml");
        kubectl(kubeconfig, &["apply", "--filename", example]);
    }
    send_as_the_page_says(Path::new(kubeconfig));
    let code = demo.stop("-INT");
    assert_eq!(demo.processes(), vec![]);
    let files = demo.files();
    let [kept] = files.as_slice() else { panic!("{files:?} are left") };
    assert!(kept.join("franking.log").exists());
    let mails = std::fs::read_dir(kept.join("mail")).expect("the mail stays").flatten();
    let sent =
        mails.filter(|mail| std::fs::read_to_string(mail.path()).is_ok_and(|mail| mail.contains("A first mail")));
    assert_eq!(sent.count(), 2);
    assert_eq!(code, Some(128 + 2));
}

fn kubectl(kubeconfig: &str, arguments: &[&str]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/current/kubectl");
    let output = Command::new(program).args(arguments).env("KUBECONFIG", kubeconfig).output();
    let output = output.expect("kubectl is there: run `make cluster`");
    assert!(output.status.success(), "{output:?}");
}

/// Runs the lines of `docs/sending.md` for one mail from a shell, as they stand there.
fn send_as_the_page_says(kubeconfig: &Path) {
    let page = include_str!("../../docs/sending.md").lines();
    let lines: Vec<&str> = page
        .skip_while(|line| !line.starts_with("    secret() {"))
        .take_while(|line| line.starts_with("    "))
        .collect();
    assert!(!lines.is_empty(), "docs/sending.md has no lines for one mail from a shell");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/current");
    let path = std::env::join_paths([ours, "/usr/bin".into(), "/bin".into()]).expect("a path");
    let mut shell = Command::new("sh");
    shell
        .args(["-e", "-c", &lines.join("\n")])
        .current_dir(folder.path())
        .env("KUBECONFIG", kubeconfig)
        .env("PATH", path);
    let output = shell.output().expect("a shell is there");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim_end().ends_with("relayed"), "{output:?}");
}
