//! The examples, as their READMEs say to use them: each is applied to a real API server, and none is forgotten.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cel::{Context, Program, Value as CelValue};
use serde_json::{Value, json};

use crate::support::chart::{objects, utf8};
use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::Home;
use crate::support::identity;

/// What is applied, in the order of the READMEs: the argument for kubectl, and the path under `examples/`.
const APPLIED: [(&str, &str); 14] = [
    ("--filename", "quickstart.yaml"),
    ("--filename", "sink"),
    ("--filename", "pod"),
    ("--filename", "apps"),
    ("--filename", "brands"),
    ("--filename", "company"),
    ("--filename", "msp/plan.yaml"),
    ("--filename", "msp/bill"),
    ("--filename", "prepaid"),
    ("--filename", "printers/devices.yaml"),
    ("--filename", "gitops/platform.yaml"),
    ("--kustomize", "gitops/team"),
    ("--filename", "gitops/argocd"),
    ("--filename", "postgres/single/postgres.yaml"),
];

/// What is tested in another way, and where.
const ELSEWHERE: [(&str, &str); 11] = [
    ("msp/base/kustomization.yaml", "the base of the clients: tests/it/examples_msp.rs"),
    ("msp/base/client.yaml", "the base of the clients: tests/it/examples_msp.rs"),
    ("msp/clients/harbour/kustomization.yaml", "an overlay: tests/it/examples_msp.rs"),
    ("msp/clients/orchard/kustomization.yaml", "an overlay: tests/it/examples_msp.rs"),
    ("msp/clients/orchard/suspend.yaml", "a patch: tests/it/examples_msp.rs"),
    ("alerts/rules.yaml", "a kind of the Prometheus operator: tests/it/alerts.rs"),
    ("printers/relay-values.yaml", "values of the chart: tests/it/chart.rs"),
    ("gitops/flux/kustomization.yaml", "a kind of Flux, whose expressions are judged below"),
    ("postgres/cloudnative-pg/cluster.yaml", "a kind of CloudNativePG: tests/it/examples_postgres.rs"),
    ("postgres/cloudnative-pg/values.yaml", "values of the chart: tests/it/examples_postgres.rs"),
    ("postgres/single/values.yaml", "values of the chart: tests/it/examples_postgres.rs"),
];

/// Where the operator lives in the READMEs.
pub const SYSTEM: &str = "franking-system";

/// Secrets that the examples speak of: namespace, name, and some of the keys that a program finds in it.
const SECRETS: [(&str, &str, &[&str]); 9] = [
    ("franking-try", "first-mail", &["SMTP_HOST", "SMTP_PORT", "SMTP_USERNAME", "SMTP_PASSWORD", "SMTP_CA"]),
    ("mailer", "mailer-smtp", &["SMTP_HOST", "SMTP_CA", "SMTP_FROM", "host", "certificates"]),
    ("newsroom", "website-smtp", &["host", "port", "username", "password", "uri"]),
    ("newsroom", "alerts-smtp", &["username", "password"]),
    ("shop", "orders-smtp", &["SMTP_HOST", "SMTP_PORT", "SMTP_USERNAME", "SMTP_PASSWORD", "SMTP_URL"]),
    ("sales", "crm-mail", &["EMAIL_HOST", "EMAIL_PORT", "EMAIL_HOST_USER", "EMAIL_HOST_PASSWORD", "MAIL_ACCOUNT"]),
    ("facilities", "scanner-seventh-floor", &["host", "port", "username", "password"]),
    ("bakery", "shop-smtp", &["SMTP_HOST", "SMTP_PASSWORD", "username"]),
    ("weather", "weather-mail", &["SMTP_URL"]),
];

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// A control plane of our own: the examples name cluster-scoped objects and namespaces as users see them, and other tests
/// apply the quick start too.
pub fn plane() -> &'static ControlPlane {
    static PLANE: OnceLock<ControlPlane> = OnceLock::new();
    PLANE.get_or_init(|| {
        let plane = ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
        let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
        succeeded(plane.kubectl(&["apply", "--server-side", "--filename", crds]));
        succeeded(plane.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]));
        // Argo CD's own namespace, into which its ConfigMap goes, and the one of the READMEs.
        for namespace in ["argocd", SYSTEM] {
            succeeded(plane.kubectl(&["create", "namespace", namespace]));
        }
        plane
    })
}

#[test]
fn every_example_is_taken_by_a_real_api_server_without_a_warning() {
    for (how, what) in APPLIED {
        let path = utf8(&folder().join(what));
        // Strict: a field that the schema does not know is an error, not silently dropped.
        for more in [["--server-side", "--validate=strict"].as_slice(), &["--validate=strict"]] {
            let output = plane().kubectl(&[&["apply", how, &path], more].concat());
            let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
            let complaints: Vec<&str> =
                complaints.lines().filter(|line| !line.contains("last-applied-configuration")).collect();
            assert!(complaints.is_empty(), "{what}: {complaints:?}");
            succeeded(output);
        }
    }
    for kind in ["creditpolicies", "subaccounts", "subaccountapikeys"] {
        assert!(
            !succeeded(plane().kubectl(&["get", kind, "--all-namespaces", "--output", "name"])).is_empty(),
            "{kind}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_becomes_ready_and_every_key_a_secret_as_its_comments_say() {
    let (kubeconfig, _) = identity::operator(plane(), SYSTEM).await;
    let home = Home::new(&kubeconfig, SYSTEM);
    let franking = home.start();
    for (how, what) in APPLIED {
        let path = utf8(&folder().join(what));
        succeeded(plane().kubectl(&["apply", "--server-side", "--force-conflicts", how, &path]));
    }
    // As company/README.md says: until its login is there, the policy waits, and then it heals by itself.
    let stalled = ["wait", "--for=condition=Ready=false", "creditpolicy/company", "--timeout=60s"];
    succeeded(plane().kubectl(&stalled));
    let login = format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: provider-login, namespace: {SYSTEM}, \
         labels: {{franking.io/use: 'true'}}}}, stringData: {{username: company, password: secret}}}}"
    );
    succeeded(plane().kubectl_stdin(&["apply", "--server-side", "-f", "-"], &login));
    for kind in ["creditpolicies", "subaccountapikeys"] {
        let wait = ["wait", "--for=condition=Ready", kind, "--all", "--all-namespaces", "--timeout=60s"];
        succeeded(plane().kubectl(&wait));
    }
    let state = "jsonpath={.status.state}";
    let events = succeeded(plane().kubectl(&["get", "subaccount", "events", "--namespace", "events", "-o", state]));
    assert_eq!(events, "Suspended");
    // As prepaid/2-customers.yaml says: two grants and the running month's top-up.
    for (account, path, expected) in
        [("bakery", ".status.credits.prepaid", "2300"), ("theatre", ".status.credits.remaining", "5000")]
    {
        let path = format!("--for=jsonpath={{{path}}}={expected}");
        let account = format!("subaccount/{account}");
        let namespace = account.trim_start_matches("subaccount/");
        succeeded(plane().kubectl(&["wait", &path, &account, "--namespace", namespace, "--timeout=60s"]));
    }
    for (namespace, name, keys) in SECRETS {
        let secret = succeeded(plane().kubectl(&["get", "secret", name, "--namespace", namespace, "-o", "json"]));
        let secret: Value = serde_json::from_str(&secret).expect("JSON");
        for key in keys {
            assert!(secret["data"][key].is_string(), "{namespace}/{name} has no {key}");
        }
    }
    let told = "jsonpath={range .items[*]}{.reportingController} {.regarding.kind}/{.regarding.name}{'\\n'}{end}";
    let told = succeeded(plane().kubectl(&["get", "events.events.k8s.io", "--all-namespaces", "-o", told]));
    assert!(told.contains("franking.io/operator CreditPolicy/company"), "{told}");
    assert_eq!(franking.stop(), 0, "{}", home.log());
}

#[test]
fn no_file_of_the_examples_is_forgotten() {
    let mut found = BTreeSet::new();
    collect(&folder(), &mut found);
    let covered = |file: &Path| {
        APPLIED.iter().any(|(_, path)| file.starts_with(path))
            || ELSEWHERE.iter().any(|(path, _)| file == Path::new(path))
    };
    for file in &found {
        assert!(covered(file), "examples/{} is tested by nothing", file.display());
    }
    for path in APPLIED.iter().map(|(_, path)| path).chain(ELSEWHERE.iter().map(|(path, _)| path)) {
        assert!(found.iter().any(|file| file.starts_with(path)), "examples/{path} is not there");
    }
}

/// Every YAML file, relative to `examples/`.
fn collect(folder: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the examples can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            into.insert(path.strip_prefix(self::folder()).expect("it is under examples/").to_owned());
        }
    }
}

/// As `kubectl apply` goes through a file or a folder: the files by name, and the objects of each from top to bottom.
/// What comes too late costs a Warning, which a newcomer reads as a mistake.
#[test]
fn what_an_example_names_is_applied_before_it() {
    let mut applied = BTreeSet::from([format!("Namespace/{SYSTEM}"), "Namespace/argocd".to_owned()]);
    for (_, what) in APPLIED {
        let mut files = BTreeSet::new();
        let path = folder().join(what);
        if path.is_dir() {
            collect(&path, &mut files);
        } else {
            files.insert(PathBuf::from(what));
        }
        for file in files {
            let text = std::fs::read_to_string(folder().join(&file)).expect("an example can be read");
            for object in objects(&text) {
                let (meta, spec) = (&object["metadata"], &object["spec"]);
                let namespace = meta["namespace"].as_str();
                let named = [
                    namespace.map(|namespace| format!("Namespace/{namespace}")),
                    spec["policyRef"]["name"].as_str().map(|name| format!("CreditPolicy/{name}")),
                    spec["subAccountRef"]["name"].as_str().map(|name| format!("SubAccount/{name}")),
                ];
                for name in named.into_iter().flatten() {
                    assert!(applied.contains(&name), "examples/{} names {name}, which comes later", file.display());
                }
                let name = meta["name"].as_str().unwrap_or_default();
                applied.insert(format!("{}/{name}", object["kind"].as_str().unwrap_or_default()));
            }
        }
    }
}

#[test]
fn every_example_says_what_it_is_for() {
    let mut found = BTreeSet::new();
    collect(&folder(), &mut found);
    for file in found {
        let text = std::fs::read_to_string(folder().join(&file)).expect("an example can be read");
        let comments = text.lines().filter(|line| line.trim_start().starts_with('#')).count();
        let explained = folder().join(&file).with_file_name("README.md").exists();
        assert!(comments > 0 || explained, "examples/{} has no word for its reader", file.display());
    }
}

/// A status as the operator writes it, and what Flux is to make of it.
fn judged() -> [(Value, &'static str); 6] {
    let conditions = |list: &[(&str, &str)]| {
        let list: Vec<Value> = list.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        json!({"conditions": list})
    };
    [
        (json!({}), "in progress"),
        (conditions(&[]), "in progress"),
        (conditions(&[("Ready", "True")]), "current"),
        (conditions(&[("Ready", "False"), ("Reconciling", "True")]), "in progress"),
        (conditions(&[("Ready", "Unknown")]), "in progress"),
        (conditions(&[("Accepted", "False"), ("Ready", "False"), ("Stalled", "True")]), "failed"),
    ]
}

#[test]
fn the_expressions_for_flux_judge_our_conditions() {
    let text = std::fs::read_to_string(folder().join("gitops/flux/kustomization.yaml")).expect("the example");
    let kustomization = &objects(&text)[0];
    let checks = kustomization["spec"]["healthCheckExprs"].as_array().expect("expressions");
    let kinds: BTreeSet<&str> = checks.iter().filter_map(|check| check["kind"].as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["CreditPolicy", "SubAccount", "SubAccountApiKey"]));
    for check in checks {
        for (status, expected) in judged() {
            let holds = |expression: &str| {
                let source = check[expression].as_str().expect("an expression");
                let mut context = Context::default();
                context.add_variable("status", status.clone()).expect("JSON is a CEL value");
                let program = Program::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
                match program.execute(&context) {
                    Ok(CelValue::Bool(holds)) => holds,
                    other => panic!("{source} of {status}: {other:?}"),
                }
            };
            // The order in which Flux asks.
            let judgement = match (holds("failed"), holds("current")) {
                (true, _) => "failed",
                (false, true) => "current",
                (false, false) => "in progress",
            };
            assert_eq!(judgement, expected, "{}: {status}", check["kind"]);
        }
    }
}
