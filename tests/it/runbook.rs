//! The runbook's restore, pasted as it stands: the ledger starts again only where the backup is in place. The pod's part is done here
//! as a kubelet would, with the real binary and a folder for each volume.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use franking::ledger::sqlite;
use franking::runtime::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::chart::CHART;
use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::{DEADLINE, eventually};

const SYSTEM: &str = "franking-system";
const RESTORE: &str = "franking-restore";
/// The line that the page has, and the one that it says to write for a copy in the ledger's own volume.
const BACKUP: &str = "BACKUP=/backup/ledger-20261120T060000Z.db CLAIM=franking-backup\n";
const OWN_VOLUME: &str = "BACKUP=/var/lib/franking/before-the-upgrade.db CLAIM=\n";

/// The block of the page that begins so.
fn block() -> String {
    let page = std::fs::read_to_string(format!("{CHART}/RUNBOOK.md")).expect("the runbook");
    assert!(
        page.contains(&OWN_VOLUME.trim_end().replace(" CLAIM=", "`, and\n`CLAIM=`")),
        "a copy in the ledger's own volume"
    );
    let lines = page.lines().skip_while(|line| !line.starts_with("    N=franking-system RELEASE=franking"));
    let lines: Vec<&str> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    let block = lines.join("\n") + "\n";
    assert!(block.contains(BACKUP), "the runbook has no lines for a restore");
    block
}

/// The folder that stands for a volume: that of its claim, or an empty one.
fn volume(pod: &Value, name: &str, claims: &Path) -> PathBuf {
    let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
    let volume = volumes.iter().find(|volume| volume["name"] == name).expect("the volume that is mounted");
    let claim = volume["persistentVolumeClaim"]["claimName"].as_str();
    assert!(claim.is_some() || volume["emptyDir"].is_object(), "{volume}");
    let folder = claims.join(claim.unwrap_or("an-empty-one"));
    assert!(claim.is_none() || folder.is_dir(), "there is no claim {claim:?}");
    std::fs::create_dir_all(&folder).expect("our own folder");
    folder
}

/// Runs what the pod's container would: its exit code, and what it says.
fn run(pod: &Value, claims: &Path) -> (i32, String) {
    let container = &pod["spec"]["containers"][0];
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    assert_eq!(text(&container["image"]), format!("ghcr.io/franking/franking:{}", env!("CARGO_PKG_VERSION")));
    let mut words: Vec<String> = container["args"].as_array().expect("arguments").iter().map(text).collect();
    for mount in container["volumeMounts"].as_array().expect("mounts") {
        let (path, folder) = (text(&mount["mountPath"]), volume(pod, &text(&mount["name"]), claims));
        for word in &mut words {
            if let Some(rest) = word.strip_prefix(&path) {
                *word = format!("{}{rest}", folder.display());
            }
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_franking")).args(&words).env_clear().output().expect("the binary");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().expect("it ends by itself"), String::from_utf8_lossy(&said).into_owned())
}

/// Pastes the block into a shell, and meanwhile does the kubelet's part. What the shell said, and what the pod.
fn paste(plane: &ControlPlane, block: &str, claims: &Path) -> (Output, String) {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/current");
    let path = std::env::join_paths([ours, "/usr/bin".into(), "/bin".into()]).expect("a path");
    let mut shell = Command::new("sh");
    shell.args(["-c", block]).env("KUBECONFIG", plane.admin_kubeconfig()).env("PATH", path);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = shell.spawn().expect("a shell is there");
    let pod = eventually("the pod that restores", DEADLINE, || {
        let output = plane.kubectl(&["get", "pod", RESTORE, "--namespace", SYSTEM, "--output", "json"]);
        output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).expect("JSON"))
    });
    let (code, said) = run(&pod, claims);
    let container = json!({"name": "restore", "image": "x", "imageID": "x", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code}}});
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let ended = json!({"status": {"phase": phase, "containerStatuses": [container]}}).to_string();
    let patch =
        ["patch", "pod", RESTORE, "--namespace", SYSTEM, "--subresource=status", "--type=merge", "--patch", &ended];
    succeeded(plane.kubectl(&patch));
    (child.wait_with_output().expect("our own child"), said)
}

/// A ledger of this installation.
fn ledger(file: &Path, installation: u128) {
    let (installation, incarnation) = (Uuid::from_u128(installation), Uuid::from_u128(2));
    sqlite::prepare(file, installation, "cluster", incarnation, SystemClock.now()).expect("a ledger");
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
    // The claims as the chart names them.
    let claims = tempfile::tempdir().expect("a folder");
    let [own, backups] = ["ledger-franking-0", "franking-backup"].map(|claim| {
        succeeded(plane.kubectl(&["get", "pvc", claim, "--namespace", SYSTEM]));
        let folder = claims.path().join(claim);
        std::fs::create_dir(&folder).expect("our own folder");
        folder
    });
    ledger(&own.join("ledger.db"), 1);
    let copy = |to: &Path| sqlite::backup::backup(&own.join("ledger.db"), to, false).expect("a copy");
    copy(&backups.join("ledger-20261119T060000Z.db"));
    copy(&own.join("before-the-upgrade.db"));
    let replaced = || {
        let names = std::fs::read_dir(&own).expect("our own folder").map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| name.to_string_lossy().starts_with("ledger.db.replaced-")).count()
    };

    // The page's backup is not there.
    let (output, answer) = paste(&plane, &block(), claims.path());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("NOT RESTORED, and the ledger stays stopped"), "{output:?}");
    assert!(answer.contains("ledger-20261119T060000Z.db"), "{answer}");
    assert_eq!((replicas(&plane).as_str(), replaced()), ("0", 0));
    succeeded(plane.kubectl(&["delete", "pod", RESTORE, "--namespace", SYSTEM]));

    copy(&backups.join("ledger-20261120T060000Z.db"));
    for (number, block) in (1..).zip([block(), block().replace(BACKUP, OWN_VOLUME)]) {
        let (output, answer) = paste(&plane, &block, claims.path());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!said.contains("NOT RESTORED"), "{output:?}\n{answer}");
        assert_eq!((replicas(&plane).as_str(), replaced()), ("1", number), "{answer}");
        assert!(!plane.kubectl(&["get", "pod", RESTORE, "--namespace", SYSTEM]).status.success(), "the pod is gone");
    }
}
