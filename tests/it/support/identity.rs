//! The operator's own identity: the service account and the rules that the chart gives it, and nothing more. Whatever is
//! tested as the operator is tested with this, so that a missing rule fails a test and not an installation.

use std::path::PathBuf;

use kube::Client;

use super::chart;
use super::control_plane::{ControlPlane, succeeded};

/// The longest namespace that can be the chart's `fullnameOverride`, which gives every test its own names for
/// cluster-scoped objects.
const NAME_MAX: usize = 40;

/// The service account and its rules as the chart renders them for an operator that lives in `namespace`. The account has
/// the namespace's name, so that tests of one control plane do not meet.
pub fn operator_rbac(namespace: &str) -> String {
    rbac_with(namespace, &[])
}

/// What the chart needs to be told to run operators and relays apart.
pub const APART: [&str; 2] = ["--set", "ledger.engine=postgres,ledger.postgres.secretName=ledger-app"];

fn rbac_with(namespace: &str, more: &[&str]) -> String {
    assert!(namespace.len() <= NAME_MAX, "{namespace} is longer than the {NAME_MAX} characters of a fullnameOverride");
    let name = format!("fullnameOverride={namespace}");
    let files = ["--show-only", "templates/serviceaccount.yaml", "--show-only", "templates/rbac.yaml"];
    chart::render(namespace, &[&["--set", &name], files.as_slice(), more].concat())
}

/// Makes the namespace, the service account and its rules, and gives a kubeconfig and a client with exactly these rights.
pub async fn operator(plane: &ControlPlane, namespace: &str) -> (PathBuf, Client) {
    made(plane, namespace, &operator_rbac(namespace)).await
}

/// The same for an operator that may write Secrets in these namespaces and its own.
pub async fn operator_in(plane: &ControlPlane, namespace: &str, served: &[&str]) -> (PathBuf, Client) {
    let value = format!("rbac.namespaces={{{}}}", served.join(","));
    made(plane, namespace, &rbac_with(namespace, &["--set", &value])).await
}

/// The same for an operator beside others, with a fleet of relays.
pub async fn operator_apart(plane: &ControlPlane, namespace: &str) -> (PathBuf, Client) {
    made(plane, namespace, &rbac_with(namespace, &APART)).await
}

async fn made(plane: &ControlPlane, namespace: &str, rbac: &str) -> (PathBuf, Client) {
    let home = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}");
    for manifests in [home.as_str(), rbac] {
        succeeded(plane.kubectl_stdin(&["apply", "--server-side", "-f", "-"], manifests));
    }
    plane.client_as_service_account(namespace, namespace).await.expect("a token of the operator's service account")
}
