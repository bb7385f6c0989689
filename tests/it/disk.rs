//! The disk of the ledger is full: a real file system without room, below the real binary.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::story::{Stage, log_in, send};
use crate::support::control_plane::succeeded;
use crate::support::franking::{DEADLINE, Home, eventually};
use crate::support::mail::Session;

/// Room for the ledger of a test with its journal, and little more.
const SIZE: &str = "size=8m";
/// More than fit into what the journal has already: each takes several pages.
const SENDS_MAX: usize = 2_000;

/// `franking all` with its data on a small file system of its own, which ends with it. In a mount namespace of the
/// process's own, so that no right of whoever runs the tests is asked for.
struct Boxed {
    child: Child,
    folder: PathBuf,
}

impl Boxed {
    fn start(home: &Home) -> Self {
        let folder = home.folder().join("small");
        std::fs::create_dir(&folder).expect("made");
        let mut command = Command::new("unshare");
        let script = format!("mount -t tmpfs -o {SIZE} none \"$0\" && exec \"$@\"");
        command.args(["--map-root-user", "--mount", "sh", "-c", &script]).arg(&folder);
        let log = File::create(home.folder().join("franking.log")).expect("a log");
        let child = onto(command, home.command(&["all"]), home, &folder).stdout(Stdio::null()).stderr(log).spawn();
        let boxed = Self { child: child.expect("unshare (util-linux) is there"), folder };
        let ready = || home.get("/readyz").filter(|(status, _)| *status == 200);
        eventually("franking to be ready in its small file system", DEADLINE, ready);
        boxed
    }

    /// The small file system as others see it.
    fn inside(&self) -> PathBuf {
        let folder = self.folder.strip_prefix("/").expect("absolute");
        Path::new("/proc").join(self.child.id().to_string()).join("root").join(folder)
    }

    /// Where another program sees what it sees. SQLite resolves paths, and `inside` leads out of it.
    fn beside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target", &self.child.id().to_string(), "--"]);
        command
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        let path = self.inside().join("filler");
        let mut file = File::create(&path).expect("a file");
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Boxed {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `command` with what another one runs, and its data in another folder.
fn onto(mut command: Command, inner: Command, home: &Home, data: &Path) -> Command {
    command.arg(inner.get_program());
    command.args(inner.get_args().map(|argument| if argument == home.folder() { data.as_os_str() } else { argument }));
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_451_loses_nothing_and_heals_by_itself() {
    let stage = Stage::set().await;
    let franking = Boxed::start(&stage.home);
    stage.policy(1_000_000);
    stage.account("cap: {credits: 100000}");
    stage.key("website", "label: Website");
    stage.wait_ready();
    let credentials = stage.credentials("website");
    let (mut session, reply) = Session::open_quietly(&credentials).expect("a session");
    assert!(reply.starts_with("235"), "{reply}");
    let mut acknowledged = 0;
    assert!(send(&mut session, "before").starts_with("250"));
    acknowledged += 1;

    let filler = franking.fill();
    let mut refused = false;
    for number in 0..SENDS_MAX {
        let reply = send(&mut session, &format!("number {number}"));
        if reply.starts_with("451") {
            refused = true;
            break;
        }
        assert!(reply.starts_with("250"), "{reply}");
        acknowledged += 1;
    }
    assert!(refused, "{SENDS_MAX} messages were charged on a disk without room");
    // It stays so, in the session that is open and in a new one.
    assert!(send(&mut session, "again").starts_with("451"));
    assert_eq!(stage.sink.messages().len(), acknowledged, "what was not charged was forwarded");

    std::fs::remove_file(filler).expect("removed");
    eventually("mail to flow again", DEADLINE, || send(&mut session, "healed").starts_with("250").then_some(()));
    acknowledged += 1;
    assert!(log_in(&credentials).starts_with("235"));
    assert_eq!(stage.sink.messages().len(), acknowledged);
    // All that was acknowledged is charged, nothing else is in the end, and the books balance.
    let check = |arguments: &[&str]| {
        let inner = stage.home.command(arguments);
        onto(franking.beside(), inner, &stage.home, &franking.folder).output().expect("the binary starts")
    };
    let said = succeeded(check(&["ledger", "check"]));
    assert!(said.contains("in balance"), "{said}");
    let sum = || {
        let (_, metrics) = stage.home.get("/metrics")?;
        let line = "franking_policy_credits{policy=\"plan\",what=\"used\"} ";
        metrics.lines().find_map(|found| found.strip_prefix(line)?.parse::<f64>().ok())
    };
    eventually("the charges to be what was acknowledged", DEADLINE, || (sum()? == acknowledged as f64).then_some(()));
}
