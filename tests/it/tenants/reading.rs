//! What the documents tell people to type works for those whom they tell.

use std::collections::BTreeSet;

use super::{Cluster, TAKEN_UP, User};
use crate::support::franking::eventually;

const DOCUMENTS: [(&str, &str); 11] = [
    ("README.md", include_str!("../../../README.md")),
    ("docs/README.md", include_str!("../../../docs/README.md")),
    ("docs/sending.md", include_str!("../../../docs/sending.md")),
    ("docs/replies-and-conditions.md", include_str!("../../../docs/replies-and-conditions.md")),
    ("docs/credits-and-billing.md", include_str!("../../../docs/credits-and-billing.md")),
    ("docs/operating.md", include_str!("../../../docs/operating.md")),
    ("docs/security.md", include_str!("../../../docs/security.md")),
    ("charts/franking/README.md", include_str!("../../../charts/franking/README.md")),
    ("charts/franking/RUNBOOK.md", include_str!("../../../charts/franking/RUNBOOK.md")),
    ("charts/franking/templates/NOTES.txt", include_str!("../../../charts/franking/templates/NOTES.txt")),
    ("examples/quickstart.yaml", include_str!("../../../examples/quickstart.yaml")),
];

/// The resources of every `kubectl get` in the documents.
fn read_in_documents() -> BTreeSet<(&'static str, String)> {
    let words =
        |text: &'static str| text.split("kubectl get ").skip(1).filter_map(|rest| rest.split_whitespace().next());
    let all = DOCUMENTS.into_iter().flat_map(|(name, text)| words(text).map(move |word| (name, word)));
    all.map(|(name, word)| (name, word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned())).collect()
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
