//! The commands of the pages, pasted into a shell as they stand: on a real API server with the chart's objects, beside the running
//! program. What needs a node is stood in for by `shell.sh`, which is the whole list of it.

mod blocks;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::examples::folder;
use crate::examples_postgres;
use crate::moves::New;
use crate::story::{SYSTEM, Stage};
use crate::support::chart::{render, utf8};
use crate::support::control_plane::succeeded;
use crate::support::franking::{DEADLINE, eventually};
use crate::support::mail::Session;
use crate::tenants::Cluster;

use blocks::{Block, ROOT, TEXTS, Truth, blocks_of, pages};

/// Pages in the order in which they are pasted: each finds what the ones before it made. The two lists are pasted beside each other,
/// because namespaces take seconds to go.
const PAGES: [&[&str]; 2] = [
    &[
        "README.md",
        "charts/franking/README.md",
        "docs/CONTRIBUTING.md",
        "docs/choosing.md",
        "docs/sending.md",
        "docs/replies-and-conditions.md",
        "docs/security.md",
        "docs/operating.md",
        "examples/company/README.md",
        "docs/credits-and-billing.md",
        "examples/postgres/README.md",
        "examples/prepaid/README.md",
        "examples/printers/README.md",
    ],
    &[
        "examples/apps/README.md",
        "examples/pod/README.md",
        "examples/sink/README.md",
        "examples/brands/README.md",
        "examples/gitops/README.md",
        "examples/msp/README.md",
    ],
];
/// The runbook comes after all of them, and ends with the move of the ledger.
const LAST: &str = "charts/franking/RUNBOOK.md";

/// Blocks of commands that another test pastes, because it looks at what they do: the page, how the block begins ("": all of the
/// page), and the test.
const ELSEWHERE: [(&str, &str, &str); 4] = [
    ("docs/choosing.md", "", "tests/it/choosing.rs"),
    ("docs/sending.md", "secret() {", "tests/it/demo.rs"),
    ("examples/brands/README.md", "", "tests/it/examples_brands.rs"),
    (LAST, "N=franking-system RELEASE=franking\n", "tests/it/runbook.rs"),
];

/// What is edited before it is pasted: the id of a message that was sent.
const MESSAGE: &str = "01a20128-c951-7a2e-87ef-3d95d8f429bc";

/// The stand-ins of `shell.sh`. One that no page uses is taken out.
const STAND_INS: [&str; 11] =
    ["cargo", "exec", "helm", "k3s", "kind", "logs", "make", "rollout", "skopeo", "uninstall", "wait"];

/// Commands with a mistake each, which are found to be wrong here too, where no pod runs and nothing is built.
const WRONG: [&str; 10] = [
    "kubectl get subaccount none --namespace newsroom",
    "kubectl exec -n franking-system franking-0 -c none -- /franking ledger check",
    "kubectl exec -n franking-system franking-0 -c operator -- /franking ledger none",
    "kubectl logs -n franking-system -l app.kubernetes.io/name=none",
    "kubectl rollout status statefulset/none --namespace franking-system",
    "kubectl wait job -n franking-system -l app.kubernetes.io/component=none --for=condition=Complete",
    "helm install franking charts/franking --namespace franking-system --set none=1",
    "make none",
    "cargo test --test it none::none",
    "echo $NOT_SET",
];

/// What kubectl says whenever an object was made by a server-side apply before.
const HARMLESS: &str = "last-applied-configuration";

#[test]
fn no_page_with_commands_is_forgotten() {
    let has_commands = |page: &String| blocks_of(page).iter().any(Block::is_commands);
    let found: BTreeSet<String> = pages().into_iter().filter(has_commands).collect();
    let pasted: BTreeSet<String> = PAGES.concat().iter().chain([&LAST]).map(|page| (*page).to_owned()).collect();
    assert_eq!(found, pasted);
}

#[test]
fn what_another_test_pastes_is_there_and_named_by_it() {
    for (page, beginning, test) in ELSEWHERE {
        let found =
            blocks_of(page).iter().filter(|block| block.is_commands() && block.text.starts_with(beginning)).count();
        assert!(found > 0 && (beginning.is_empty() || found == 1), "{page}: {found} blocks begin with {beginning:?}");
        let text = std::fs::read_to_string(Path::new(ROOT).join(test)).expect("a test");
        let name = page.rsplit('/').next().expect("a name");
        let named = if name == "README.md" { page } else { name };
        assert!(text.contains(named), "{test} does not read {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_pages_works_as_it_stands() {
    let cluster = prepared().await;
    let franking = cluster.stage.home.start();
    let shell = Shell::new(&cluster, &New::database("page_commands").await);
    for wrong in WRONG {
        let block = Block { page: "a page".to_owned(), line: 1, text: format!("{wrong}\n") };
        assert!(shell.paste(&block).is_err(), "{wrong} works");
    }
    pods_are_taken(&cluster.stage);
    let mut failed: Vec<String> = std::thread::scope(|scope| {
        let lists = PAGES.map(|list| {
            let blocks = list.iter().flat_map(|page| to_paste(page));
            let shell = &shell;
            scope.spawn(move || blocks.filter_map(|block| shell.paste(&block).err()).collect::<Vec<_>>())
        });
        lists.into_iter().flat_map(|list| list.join().expect("a list of pages")).collect()
    });
    let (by_hand, runbook): (Vec<Block>, Vec<Block>) =
        to_paste(LAST).into_iter().partition(|block| block.text.starts_with("franking ledger move"));
    failed.extend(runbook.iter().filter_map(|block| shell.paste(block).err()));
    // "Stop every process, then".
    assert_eq!(franking.stop(), 0, "{}", cluster.stage.home.log());
    assert_eq!(by_hand.len(), 1, "the move by hand");
    failed.extend(by_hand.iter().filter_map(|block| shell.paste(block).err()));
    assert!(failed.is_empty(), "{}\n{}", failed.join("\n\n"), cluster.stage.home.log());

    let used = std::fs::read_to_string(shell.work.path().join("used")).expect("some are used");
    let used: BTreeSet<&str> = used.lines().collect();
    assert_eq!(used, BTreeSet::from(STAND_INS));
}

/// What the pages say of a pod is taken by the API server, with a name and an image besides.
fn pods_are_taken(stage: &Stage) {
    // A controller makes it a moment after the namespace.
    stage.kubectl(&["wait", "--for=create", "serviceaccount/default", "--namespace", "newsroom", "--timeout=60s"]);
    for (page, beginning, truth) in TEXTS {
        let Truth::Pod = truth else { continue };
        let block = blocks_of(page).into_iter().find(|block| block.text.starts_with(beginning)).expect("the text");
        let mut spec: Value = serde_yaml::from_str(&block.text).expect("YAML");
        if spec["containers"].is_null() {
            spec = json!({"containers": [spec]});
        }
        (spec["containers"][0]["name"], spec["containers"][0]["image"]) = (json!("program"), json!("program"));
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "program", "namespace": "newsroom"}, "spec": spec});
        let create = ["create", "--dry-run=server", "--validate=strict", "--filename", "-"];
        succeeded(stage.plane.kubectl_stdin(&create, &pod.to_string()));
    }
}

/// The blocks of commands of a page that no other test pastes.
fn to_paste(page: &str) -> Vec<Block> {
    let mut blocks = blocks_of(page);
    let is_elsewhere =
        |block: &Block| ELSEWHERE.iter().any(|(there, start, _)| *there == page && block.text.starts_with(start));
    blocks.retain(|block| block.is_commands() && !is_elsewhere(block));
    blocks
}

/// An installation as a reader has it, with the quick start and what the pages take for granted.
async fn prepared() -> Cluster {
    let cluster = Cluster::install().await;
    let stage = &cluster.stage;
    apply_chart(stage);
    stage.apply(examples_postgres::CLUSTERS);
    let established = ["wait", "--for=condition=Established", "crd/clusters.postgresql.cnpg.io", "--timeout=60s"];
    stage.kubectl(&established);
    // Programs of the reader's own.
    stage.apply("{apiVersion: v1, kind: Namespace, metadata: {name: apps}}");
    for program in ["grafana", "keycloak"] {
        stage.kubectl(&["create", "deployment", program, "--namespace", "apps", "--image", program]);
    }
    stage.kubectl(&["apply", "--filename", &utf8(&folder().join("quickstart.yaml"))]);
    cluster
}

/// Applies the chart's objects, of both engines side by side, with an address of a load balancer. The pods stay Pending.
fn apply_chart(stage: &Stage) {
    let account = format!("serviceAccount.name={SYSTEM}");
    let printers = utf8(&folder().join("printers/relay-values.yaml"));
    let postgres =
        "ledger.engine=postgres,ledger.postgres.secretName=franking-ledger,ledger.moveFrom=ledger-franking-0";
    stage.apply(&render(SYSTEM, &["--set", &account, "--set", postgres]));
    let backup = "ledger.backup.enabled=true";
    stage.apply(&render(SYSTEM, &["--set", &account, "--set", backup, "--values", &printers]));
    let address = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}}}"#;
    let service = ["patch", "service", "franking-relay", "--namespace", SYSTEM, "--subresource=status", "--type=merge"];
    stage.kubectl(&[service.as_slice(), &["--patch", address]].concat());
    stage.kubectl(&["wait", "--for=create", "pod/franking-0", "--namespace", SYSTEM, "--timeout=60s"]);
    let moves = "app.kubernetes.io/name=franking-move";
    eventually("the pod of the move", DEADLINE, || {
        let get = ["get", "pods", "--namespace", SYSTEM, "--selector", moves, "--output", "name"];
        (!stage.kubectl(&get).is_empty()).then_some(())
    });
}

/// Sends a message, and gives its id as the client hears it.
fn sent(cluster: &Cluster) -> String {
    let stage = &cluster.stage;
    stage.policy(100);
    stage.account("cap: {credits: 10}");
    stage.key("website", "label: Website");
    let is_ready =
        ["wait", "--for=condition=Ready", "subaccountapikey/website", "--namespace", "team", "--timeout=60s"];
    stage.kubectl(&is_ready);
    let (mut session, _) = Session::open_quietly(&stage.credentials("website")).expect("a login");
    let reply = crate::story::send(&mut session, "A first mail");
    reply.split_once("relayed, id ").unwrap_or_else(|| panic!("{reply}")).1.trim().to_owned()
}

/// A folder that looks like the repository, and what the functions of `shell.sh` want to know.
struct Shell<'a> {
    cluster: &'a Cluster,
    work: tempfile::TempDir,
    /// The id of a message that was sent.
    message: String,
}

impl<'a> Shell<'a> {
    fn new(cluster: &'a Cluster, database: &New) -> Self {
        let work = tempfile::tempdir().expect("a folder");
        for name in ["charts", "docs", "examples"] {
            std::os::unix::fs::symlink(Path::new(ROOT).join(name), work.path().join(name)).expect("our own folder");
        }
        std::fs::create_dir(work.path().join("backups")).expect("our own folder");
        let settings = format!("ledger: {{engine: postgres, url: '{}', singleNode: true}}\n", database.url);
        std::fs::write(work.path().join("franking.yaml"), settings).expect("our own folder");
        let example =
            blocks_of("README.md").into_iter().find(|block| block.text.starts_with("apiVersion: franking.io"));
        std::fs::write(work.path().join("plan.yaml"), example.expect("the README's example").text)
            .expect("our own folder");
        Self { cluster, work, message: sent(cluster) }
    }

    /// Runs a block in a shell of its own. The error is what a reader would see who pastes it.
    fn paste(&self, block: &Block) -> Result<(), String> {
        let ours = Path::new(ROOT).join("target/cluster/current");
        let path = std::env::join_paths([ours, "/usr/bin".into(), "/bin".into()]).expect("a path");
        let home = &self.cluster.stage.home;
        let text = block.text.replace(MESSAGE, &self.message);
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &format!("{}\n{text}", include_str!("shell.sh"))]);
        shell.current_dir(self.work.path()).stdin(Stdio::null()).env_clear().env("PATH", path);
        shell.env("HOME", self.work.path()).env("KUBECONFIG", self.cluster.stage.plane.admin_kubeconfig());
        shell.env("ROOT", ROOT).env("FRANKING", env!("CARGO_BIN_EXE_franking")).env("SETTINGS", home.settings());
        shell.env("TESTS", std::env::current_exe().expect("this program")).env("DATA", home.folder());
        shell.env("BACKUPS", self.work.path().join("backups")).env("LOG", home.folder().join("franking.log"));
        shell.env("USED", self.work.path().join("used"));
        let output = shell.output().expect("bash is there");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        let place = format!("{}:{}", block.page, block.line);
        let warned = complaints.lines().any(|line| line.starts_with("Warning") && !line.contains(HARMLESS));
        if block.text.starts_with("helm uninstall") {
            apply_chart(&self.cluster.stage);
        }
        match output.status.success() && !warned {
            true => Ok(()),
            false => Err(format!("{place}\n{text}\n{said}{complaints}")),
        }
    }
}
