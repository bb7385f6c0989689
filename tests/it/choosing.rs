//! `docs/choosing.md`: its commands, pasted as they stand on a cluster with the chart, give and take the rights that it says.

use std::path::Path;
use std::process::Command;

use crate::support::chart::CHART;
use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::{DEADLINE, eventually};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SYSTEM: &str = "franking-system";
/// A team's namespace with two accounts.
const TEAM: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: marketing}}
---
{apiVersion: franking.io/v1alpha1, kind: CreditPolicy, metadata: {name: plan},
  spec: {senders: {domains: [example.com]}, upstream: {host: mail.example.com}}}
---
{apiVersion: franking.io/v1alpha1, kind: SubAccount, metadata: {name: newsletter, namespace: marketing}, spec: {policyRef: {name: plan}}}
---
{apiVersion: franking.io/v1alpha1, kind: SubAccount, metadata: {name: fairs, namespace: marketing}, spec: {policyRef: {name: plan}}}
";

/// The block of the page that has these words, as a shell takes it.
fn block(words: &str) -> String {
    let page = std::fs::read_to_string(format!("{ROOT}/docs/choosing.md")).expect("the page");
    let paragraphs = page.split("\n\n").filter(|part| part.starts_with("    ") && part.contains(words));
    let found: Vec<&str> = paragraphs.collect();
    assert_eq!(found.len(), 1, "blocks of docs/choosing.md with {words:?}");
    found[0].lines().map(|line| format!("{}\n", line.trim_start())).collect()
}

fn paste(plane: &ControlPlane, words: &str) {
    let ours = Path::new(ROOT).join("target/cluster/current");
    let path = std::env::join_paths([ours, "/usr/bin".into(), "/bin".into()]).expect("a path");
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", &block(words)]).current_dir(ROOT).env("PATH", path);
    let caches = tempfile::tempdir().expect("a folder");
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "KUBECACHEDIR"] {
        shell.env(name, caches.path().join(name));
    }
    succeeded(shell.env("KUBECONFIG", plane.admin_kubeconfig()).output().expect("a shell is there"));
}

/// Whether a user may do this in the team's namespace.
fn may(plane: &ControlPlane, user: &str, verb: &str, resource: &str) -> bool {
    let resource = format!("{resource}.franking.io");
    plane.kubectl(&["auth", "can-i", verb, &resource, "--namespace", "marketing", "--as", user]).status.success()
}

#[test]
fn its_commands_give_and_take_the_rights_that_it_says() {
    let plane = ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
    succeeded(plane.helm(&["install", "franking", CHART, "--namespace", SYSTEM, "--create-namespace"]));
    for kind in ["creditpolicies", "subaccounts", "subaccountapikeys"] {
        let kind = format!("crd/{kind}.franking.io");
        succeeded(plane.kubectl(&["wait", "--for=condition=Established", &kind, "--timeout=60s"]));
    }
    let team = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(team.path(), TEAM).expect("our own file");
    let team = team.path().to_str().expect("UTF-8");
    succeeded(plane.kubectl_after_install(&["apply", "--filename", team]));
    for role in ["admin", "edit", "view"] {
        let (role_flag, user) = (format!("--clusterrole={role}"), format!("--user={role}@example.com"));
        let binding = ["create", "rolebinding", role, "--namespace", "marketing", &role_flag, &user];
        succeeded(plane.kubectl(&binding));
    }

    // The controller that adds up the namespace roles needs a moment each time.
    for (user, verb, kind) in [
        ("admin@example.com", "create", "subaccountapikeys"),
        ("edit@example.com", "create", "subaccountapikeys"),
        ("view@example.com", "get", "subaccounts"),
    ] {
        eventually(&format!("{user} to have rights"), DEADLINE, || may(&plane, user, verb, kind).then_some(()));
    }
    paste(&plane, "aggregateToNamespaceRoles=false");
    for user in ["admin@example.com", "edit@example.com", "view@example.com"] {
        for kind in ["subaccountapikeys", "subaccounts"] {
            eventually(&format!("{user} to have none"), DEADLINE, || {
                ["get", "create", "delete"].iter().all(|verb| !may(&plane, user, verb, kind)).then_some(())
            });
        }
    }

    paste(&plane, "kubectl create role newsletter-usage");
    let run = |user: &str, arguments: &[&str], input: &str| {
        let all = [arguments, &["--namespace", "marketing", "--as", user]].concat();
        plane.kubectl_stdin(&all, input)
    };
    let otto = |arguments: &[&str]| run("otto@example.com", arguments, "");
    eventually("the role to hold", DEADLINE, || {
        otto(&["get", "subaccount", "newsletter"]).status.success().then_some(())
    });
    for other in [["get", "subaccount", "fairs"].as_slice(), &["get", "subaccounts"], &["get", "subaccountapikeys"]] {
        let output = otto(other);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("Forbidden"), "{other:?}: {said}");
    }

    paste(&plane, "franking-account-admin");
    let ada = |arguments: &[&str], input: &str| run("ada@example.com", arguments, input);
    let key = |account: &str| {
        format!(
            "{{apiVersion: franking.io/v1alpha1, kind: SubAccountApiKey, metadata: {{name: of-{account}}},
               spec: {{subAccountRef: {{name: {account}}}}}}}"
        )
    };
    eventually("Ada to make a key of her account", DEADLINE, || {
        ada(&["create", "--filename", "-"], &key("newsletter")).status.success().then_some(())
    });
    let refused = ada(&["create", "--filename", "-"], &key("fairs"));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("subaccounts/keys (franking.io) named \"fairs\""), "{said}");
    assert!(ada(&["get", "subaccounts,subaccountapikeys"], "").status.success());
    assert!(!ada(&["get", "secrets"], "").status.success());
    assert!(ada(&["delete", "subaccountapikey", "of-newsletter"], "").status.success());
}
