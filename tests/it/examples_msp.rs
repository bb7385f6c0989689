//! `examples/msp/`: two clients built by Kustomize, one of them suspended by a patch, and the bill's script.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::examples::folder;
use crate::support::chart::{object, objects, utf8};
use crate::support::control_plane::succeeded;
use crate::support::franking::eventually;
use crate::tenants::Cluster;

const SOON: std::time::Duration = std::time::Duration::from_secs(60);
/// The commands of the script as functions, which say what they were given. The variable `TODAY` is the date.
const COMMANDS: &str = r#"
date() { case "$2" in +%Y) echo "${TODAY%-*}" ;; +%m) echo "${TODAY#*-}" ;; *) return 9 ;; esac; }
kubectl() { echo "$*"; [ "$LEDGER" = up ]; }
curl() { echo "posted $*"; }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_sends_and_another_is_suspended_until_its_patch_is_taken_out() {
    let cluster = Cluster::install().await;
    let franking = cluster.stage.home.start();
    let copy = tempfile::tempdir().expect("a folder");
    let copied = Command::new("cp").arg("-r").arg(folder().join("msp")).arg(copy.path()).status().expect("cp");
    assert!(copied.success());
    let msp = copy.path().join("msp");
    let apply = |how: &str, what: &Path| cluster.stage.kubectl(&["apply", how, &utf8(what)]);
    apply("--filename", &msp.join("plan.yaml"));
    let upstream = json!({"spec": {"upstream": {"host": "127.0.0.1", "port": cluster.stage.sink.address().port()}}});
    cluster.stage.kubectl(&["patch", "creditpolicy", "msp", "--type=merge", "-p", &upstream.to_string()]);
    let answers = |client: &str, words: &str| {
        let key = cluster.credentials(&format!("client-{client}"), "smtp");
        let from = format!("office@{client}.example.com");
        eventually(&format!("{client} to hear {words}"), SOON, || {
            cluster.send(&key, &from).contains(words).then_some(())
        });
    };
    for client in ["harbour", "orchard"] {
        apply("--kustomize", &msp.join("clients").join(client));
    }
    answers("harbour", "250 ");
    answers("orchard", "An invoice is open. Please call us.");

    let kustomization = msp.join("clients/orchard/kustomization.yaml");
    let text = std::fs::read_to_string(&kustomization).expect("the overlay");
    std::fs::write(&kustomization, text.replace("  - {path: suspend.yaml, target: {kind: SubAccount}}\n", ""))
        .expect("the overlay is written");
    apply("--kustomize", &msp.join("clients/orchard"));
    answers("orchard", "250 ");
    assert_eq!(franking.stop(), 0, "{}", cluster.stage.home.log());
}

/// Runs the script of the CronJob on this day.
fn bill(today: &str, ledger: &str, tmp: &Path) -> Output {
    let text = std::fs::read_to_string(folder().join("msp/bill/bill.yaml")).expect("the example");
    let manifests = objects(&text);
    let pod = &object(&manifests, "CronJob", "mail-bill")["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["command"], json!(["sh", "-euc"]));
    let script =
        container["args"][0].as_str().expect("a script").replace("/tmp/bill.csv", &utf8(&tmp.join("bill.csv")));
    let mut shell = Command::new("sh");
    shell.args(["-euc", &format!("{COMMANDS}{script}")]).env("TODAY", today).env("LEDGER", ledger);
    shell.env("BILL_URL", "https://books.example").output().expect("a shell is there")
}

#[test]
fn the_bill_of_the_month_that_is_over_is_posted_and_none_where_the_ledger_does_not_answer() {
    let tmp = tempfile::tempdir().expect("a folder");
    for (today, period) in [("2027-01", "2026-12"), ("2026-09", "2026-08"), ("2026-12", "2026-11")] {
        let said = succeeded(bill(today, "up", tmp.path()));
        assert!(
            said.contains("posted") && said.trim_end().ends_with(&format!("https://books.example/{period}")),
            "{said}"
        );
        let asked = std::fs::read_to_string(tmp.path().join("bill.csv")).expect("the bill");
        let costs =
            format!("/franking ledger costs --policy msp --period {period} --output csv --config /etc/franking");
        assert!(asked.contains(&costs), "{asked}");
    }
    let failed = bill("2026-12", "down", tmp.path());
    assert!(!failed.status.success() && failed.stdout.is_empty(), "{failed:?}");
}
