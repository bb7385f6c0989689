//! `rbac.namespaces`: an operator that may write Secrets in some namespaces serves those, and says of the others why not.

use serde_json::Value;

use crate::support::chart::{object, objects, render};
use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::{DEADLINE, Home, eventually};
use crate::support::identity;

const SYSTEM: &str = "franking-system";

/// A namespace with an account and a key.
fn team(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n---\n\
         {{apiVersion: franking.io/v1alpha1, kind: SubAccount, metadata: {{name: team, namespace: {name}}}, \
         spec: {{policyRef: {{name: plan}}}}}}\n---\n\
         {{apiVersion: franking.io/v1alpha1, kind: SubAccountApiKey, metadata: {{name: key, namespace: {name}}}, \
         spec: {{subAccountRef: {{name: team}}}}}}\n---\n"
    )
}

const PLAN: &str = "{apiVersion: franking.io/v1alpha1, kind: CreditPolicy, metadata: {name: plan}, spec: \
    {senders: {domains: [example.com]}, upstream: {host: smtp.provider.example, \
    credentialsSecretRef: {name: provider-login}}}}\n---\n\
    {apiVersion: v1, kind: Secret, metadata: {name: provider-login, namespace: franking-system, \
    labels: {franking.io/use: 'true'}}, stringData: {username: plan, password: secret}}\n";

#[test]
fn no_rule_on_secrets_of_the_whole_cluster_is_left() {
    let secrets = |objects: &[Value], kind: &str, name: &str| {
        let rules = object(objects, kind, name)["rules"].as_array().expect("rules").clone();
        rules.iter().any(|rule| rule["resources"].as_array().is_some_and(|all| all.contains(&"secrets".into())))
    };
    let everywhere = objects(&render(SYSTEM, &[]));
    assert!(secrets(&everywhere, "ClusterRole", "franking-operator"));
    assert!(!everywhere.iter().any(|object| object["metadata"]["name"] == "franking-operator-secrets"));

    let some = objects(&render(SYSTEM, &["--set", "rbac.namespaces={shop,franking-system,newsroom}"]));
    assert!(!secrets(&some, "ClusterRole", "franking-operator"));
    for kind in ["Role", "RoleBinding"] {
        let found = some
            .iter()
            .filter(|object| object["kind"] == kind && object["metadata"]["name"] == "franking-operator-secrets");
        let found: Vec<&str> = found.filter_map(|object| object["metadata"]["namespace"].as_str()).collect();
        assert_eq!(found, [SYSTEM, "newsroom", "shop"], "{kind}");
    }
}

/// A cluster with the namespaces newsroom, where the operator has rights on Secrets, and shop, where it has none; and
/// the home of an operator that is told to serve `namespaces`.
async fn served(namespaces: &str) -> (ControlPlane, Home) {
    let plane = ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
    succeeded(plane.kubectl(&["apply", "--server-side", "--filename", crds]));
    succeeded(plane.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]));
    // Helm makes a Role where it is told to, so the namespace is there first.
    for namespace in ["newsroom", "shop"] {
        succeeded(plane.kubectl(&["create", "namespace", namespace]));
    }
    let (kubeconfig, _) = identity::operator_in(&plane, SYSTEM, &["newsroom"]).await;
    let home = Home::new(&kubeconfig, SYSTEM);
    home.tune(&format!("secretNamespaces: {namespaces}"));
    (plane, home)
}

fn apply(plane: &ControlPlane, text: &str) {
    succeeded(plane.kubectl_stdin(&["apply", "--server-side", "-f", "-"], text));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_with_some_namespaces_serves_those_and_says_of_the_others_why_not() {
    let (plane, home) = served("[newsroom, franking-system]").await;
    let franking = home.start();
    apply(&plane, PLAN);
    apply(&plane, &[team("newsroom"), team("shop")].concat());

    let ready = ["wait", "--for=condition=Ready", "subaccountapikey/key", "--namespace", "newsroom", "--timeout=60s"];
    succeeded(plane.kubectl(&ready));
    let password = || {
        let path = "--output=jsonpath={.data.password}";
        let output = plane.kubectl(&["get", "secret", "key", "--namespace", "newsroom", path]);
        output.status.success().then(|| String::from_utf8(output.stdout).expect("base64"))
    };
    let before = password().expect("a Secret");
    let condition = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")]}";
    let told = eventually("the key in the other namespace to say why not", DEADLINE, || {
        let said = succeeded(plane.kubectl(&["get", "subaccountapikey", "key", "--namespace", "shop", condition]));
        said.contains("forbidden").then_some(said)
    });
    assert!(told.contains("\"status\":\"False\"") && told.contains("in the namespace \\\"shop\\\""), "{told}");
    assert!(!plane.kubectl(&["get", "secret", "key", "--namespace", "shop"]).status.success());

    // The watch of the one namespace shows what happens there.
    succeeded(plane.kubectl(&["delete", "secret", "key", "--namespace", "newsroom"]));
    eventually("another password", DEADLINE, || password().filter(|after| *after != before));
    // What cannot be served can be taken away.
    succeeded(plane.kubectl(&["delete", "namespace", "shop", "newsroom", "--timeout=60s"]));
    assert_eq!(franking.stop(), 0, "{}", home.log());
}

/// A namespace's administrators may delete the RoleBinding in it, and the namespace may go.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_rights_or_that_is_gone_holds_up_no_other() {
    let (plane, home) = served("[franking-system, gone, newsroom, shop]").await;
    let franking = home.start();
    apply(&plane, PLAN);
    apply(&plane, &[team("newsroom"), team("shop")].concat());
    let wait = |namespace: &str, condition: &str| {
        let wanted = format!("--for=condition={condition}");
        plane.kubectl(&["wait", &wanted, "subaccountapikey/key", "--namespace", namespace, "--timeout=60s"])
    };
    succeeded(wait("newsroom", "Ready"));
    succeeded(wait("shop", "Ready=False"));
    assert_eq!(franking.stop(), 0, "{}", home.log());
}
