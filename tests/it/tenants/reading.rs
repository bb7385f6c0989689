//! What the documents tell people to type works for those whom they tell.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Cluster, TAKEN_UP, User};
use crate::support::franking::eventually;

const DOCUMENTS: [&str; 11] = [
    "README.md",
    "docs/README.md",
    "docs/sending.md",
    "docs/replies-and-conditions.md",
    "docs/credits-and-billing.md",
    "docs/operating.md",
    "docs/security.md",
    "charts/franking/README.md",
    "charts/franking/RUNBOOK.md",
    "charts/franking/templates/NOTES.txt",
    "examples/quickstart.yaml",
];

/// The resources of every `kubectl get` in the documents.
fn read_in_documents() -> BTreeSet<(&'static str, String)> {
    let mut read = BTreeSet::new();
    for name in DOCUMENTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let words = text.split("kubectl get ").skip(1).filter_map(|rest| rest.split_whitespace().next());
        read.extend(words.map(|word| (name, word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned())));
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_reads_the_category_and_an_administrator_all_that_the_documents_name() {
    let cluster = Cluster::install().await;
    let commands = read_in_documents();
    assert!(commands.iter().any(|(_, resources)| resources.contains("franking")), "{commands:?}");
    for (document, resources) in commands {
        let output = cluster.stage.plane.kubectl(&["get", &resources, "--all-namespaces", "--output", "name"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{document}: kubectl get {resources}: {said}");
    }
    cluster.stage.apply("{apiVersion: v1, kind: Namespace, metadata: {name: reading}}");
    for role in ["view", "edit", "franking-viewer", "franking-manager", "franking-self-service"] {
        let user = User::new(&format!("reader-{role}"));
        cluster.bind("reading", role, &user);
        let read = || cluster.run(&user, &["get", "franking", "--namespace", "reading"], "");
        // The aggregated roles are put together by a controller.
        eventually(&format!("{role} to read the category"), TAKEN_UP, || read().ok());
    }
}
