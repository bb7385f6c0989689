//! The runbook's restore, pasted as it stands: the ledger starts again only where the backup is in place.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::chart::CHART;
use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::{DEADLINE, eventually};

const SYSTEM: &str = "franking-system";
const RESTORE: &str = "franking-restore";

/// The block of the page that begins so.
fn block() -> String {
    let page = std::fs::read_to_string(format!("{CHART}/RUNBOOK.md")).expect("the runbook");
    let lines = page.lines().skip_while(|line| !line.starts_with("    N=franking-system RELEASE=franking BACKUP="));
    let lines: Vec<&str> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(!lines.is_empty(), "the runbook has no lines for a restore");
    lines.join("\n") + "\n"
}

/// Pastes the block into a shell, and meanwhile does the kubelet's part: the pod ends with this code.
fn paste(plane: &ControlPlane, code: i32) -> Output {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/current");
    let path = std::env::join_paths([ours, "/usr/bin".into(), "/bin".into()]).expect("a path");
    let mut shell = Command::new("sh");
    shell.args(["-c", &block()]).env("KUBECONFIG", plane.admin_kubeconfig()).env("PATH", path);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = shell.spawn().expect("a shell is there");
    let is_there = || plane.kubectl(&["get", "pod", RESTORE, "--namespace", SYSTEM]).status.success().then_some(());
    eventually("the pod that restores", DEADLINE, is_there);
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let ended = format!(
        "{{\"status\": {{\"phase\": \"{phase}\", \"containerStatuses\": [{{\"name\": \"restore\", \"image\": \"x\", \"imageID\": \"x\", \
         \"ready\": false, \"restartCount\": 0, \"state\": {{\"terminated\": {{\"exitCode\": {code}}}}}}}]}}}}"
    );
    let patch =
        ["patch", "pod", RESTORE, "--namespace", SYSTEM, "--subresource=status", "--type=merge", "--patch", &ended];
    succeeded(plane.kubectl(&patch));
    child.wait_with_output().expect("our own child")
}

fn replicas(plane: &ControlPlane) -> String {
    let path = "--output=jsonpath={.spec.replicas}";
    succeeded(plane.kubectl(&["get", "statefulset", "franking", "--namespace", SYSTEM, path]))
}

#[test]
fn the_ledger_is_started_again_only_when_the_backup_is_in_place() {
    let plane = ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let install = ["install", "franking", CHART, "--namespace", SYSTEM, "--create-namespace"];
    succeeded(plane.helm(&[install.as_slice(), &["--set", "ledger.backup.enabled=true"]].concat()));
    let pod = ["wait", "--for=create", "pod/franking-0", "--namespace", SYSTEM, "--timeout=60s"];
    succeeded(plane.kubectl(&pod));

    let output = paste(&plane, 1);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("NOT RESTORED, and the ledger stays stopped"), "{output:?}");
    assert_eq!(replicas(&plane), "0");
    let image = "--output=jsonpath={.spec.containers[0].image} {.spec.containers[0].args[2]}";
    let pod = succeeded(plane.kubectl(&["get", "pod", RESTORE, "--namespace", SYSTEM, image]));
    assert_eq!(
        pod,
        format!("ghcr.io/franking/franking:{} /backup/ledger-20261120T060000Z.db", env!("CARGO_PKG_VERSION"))
    );

    succeeded(plane.kubectl(&["delete", "pod", RESTORE, "--namespace", SYSTEM]));
    let output = paste(&plane, 0);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!said.contains("NOT RESTORED"), "{output:?}");
    assert_eq!(replicas(&plane), "1");
    assert!(!plane.kubectl(&["get", "pod", RESTORE, "--namespace", SYSTEM]).status.success(), "the pod is gone");
}
