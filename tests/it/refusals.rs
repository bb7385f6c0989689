//! The schemas on a real API server: what they refuse, what they let through, and what they do to what was written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use franking::crd;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::control_plane::{ControlPlane, succeeded};
use crate::support::definitions;

const NAMESPACE: &str = "refusals";
/// The object of each kind that is changed; policies share their names with all other tests.
const STORED: &str = "refusals-stored";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    fixtures: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    kind: String,
    change: Value,
    #[serde(default)]
    update: bool,
    cel: Option<String>,
    bound: Option<String>,
    check: Option<String>,
}

fn table() -> Table {
    serde_yaml::from_str(include_str!("refusals.yaml")).expect("the table of refusals")
}

/// An API server with the definitions, and a namespace of ours.
async fn server() -> Client {
    let client = ControlPlane::shared().admin_client().await;
    definitions::install(&client).await;
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}})).expect("a namespace");
    let apply = PatchParams::apply("franking-tests");
    let namespaces = Api::<Namespace>::all(client.clone());
    namespaces.patch(NAMESPACE, &apply, &Patch::Apply(namespace)).await.expect("a namespace");
    client
}

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(crd::GROUP, crd::VERSION, kind));
    let resource = ApiResource { plural: plural(kind), ..resource };
    match kind {
        "CreditPolicy" => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), NAMESPACE, &resource),
    }
}

fn plural(kind: &str) -> String {
    let crd = crd::all().into_iter().find(|crd| crd.spec.names.kind == kind).expect("one of the three kinds");
    crd.spec.names.plural
}

fn object(kind: &str, name: &str, spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": format!("{}/{}", crd::GROUP, crd::VERSION),
        "kind": kind, "metadata": {"name": name}, "spec": spec
    }))
    .expect("an object")
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..Default::default() }
}

/// RFC 7386.
fn merge(target: &mut Value, change: &Value) {
    let (Value::Object(target), Value::Object(change)) = (&mut *target, change) else {
        *target = change.clone();
        return;
    };
    for (key, value) in change {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

#[tokio::test]
async fn each_change_is_refused_by_the_api_server_or_left_to_check() {
    let client = server().await;
    let table = table();
    for (kind, fixture) in &table.fixtures {
        let stored = api(&client, kind).create(&Default::default(), &object(kind, STORED, fixture)).await;
        let stored = stored.unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(&stored.data["spec"], fixture, "{kind}: the API server adds and drops nothing");
    }
    for case in &table.cases {
        let mut spec = table.fixtures[&case.kind].clone();
        merge(&mut spec, &case.change);
        let api = api(&client, &case.kind);
        let answer = if case.update {
            // A merge patch reads nulls as this table does.
            let patch = Patch::Merge(json!({"spec": case.change}));
            api.patch(STORED, &PatchParams { dry_run: true, ..Default::default() }, &patch).await
        } else {
            api.create(&dry_run(), &object(&case.kind, "new", &spec)).await
        };
        let label = format!("{} {}", case.kind, case.change);
        match (&case.cel, &case.bound, answer) {
            (Some(words), _, Err(kube::Error::Api(status))) | (None, Some(words), Err(kube::Error::Api(status))) => {
                assert_eq!(status.code, 422, "{label}: {}", status.message);
                assert!(status.message.contains(words.as_str()), "{label}: {}", status.message);
            }
            (None, None, Ok(_)) => assert!(case.check.is_some(), "{label}: nobody refuses it"),
            (None, None, Err(error)) => panic!("{label}: the schema refuses it too, so say so in the table: {error}"),
            (_, _, answer) => panic!("{label}: {answer:?}"),
        }
    }
    for kind in table.fixtures.keys() {
        api(&client, kind).delete(STORED, &Default::default()).await.expect("it goes");
    }
}

#[tokio::test]
async fn what_is_left_out_stays_left_out_and_null_is_leaving_out() {
    let client = server().await;
    let sparse = [
        ("CreditPolicy", json!({"upstream": {"host": "smtp.example.com"}})),
        ("SubAccount", json!({"policyRef": {"name": "acme"}})),
        ("SubAccountApiKey", json!({"subAccountRef": {"name": "billing"}})),
    ];
    for (kind, spec) in sparse {
        let made = api(&client, kind).create(&dry_run(), &object(kind, "sparse", &spec)).await.expect("it is enough");
        assert_eq!(made.data["spec"], spec, "{kind}");
        let mut nulls = spec.clone();
        nulls["suspended"] = Value::Null;
        nulls["cap"] = Value::Null;
        nulls["pool"] = Value::Null;
        let made =
            api(&client, kind).create(&dry_run(), &object(kind, "sparse", &nulls)).await.expect("null is nothing");
        assert_eq!(made.data["spec"], spec, "{kind}");
    }
}

#[tokio::test]
async fn accounts_and_keys_are_found_by_what_they_refer_to() {
    let client = server().await;
    let accounts = api(&client, "SubAccount");
    for (name, policy) in [("select-a", "select-one"), ("select-b", "select-two")] {
        let account = object("SubAccount", name, &json!({"policyRef": {"name": policy}}));
        accounts.create(&Default::default(), &account).await.expect("an account");
    }
    let parameters = kube::api::ListParams::default().fields("spec.policyRef.name=select-two");
    let found = accounts.list(&parameters).await.expect("a list");
    let names: Vec<_> = found.items.iter().filter_map(|account| account.metadata.name.as_deref()).collect();
    assert_eq!(names, ["select-b"]);
    let parameters = kube::api::ListParams::default().fields("spec.subAccountRef.name=nobody");
    let found = api(&client, "SubAccountApiKey").list(&parameters).await.expect("a list");
    assert!(found.items.is_empty());
    for name in ["select-a", "select-b"] {
        accounts.delete(name, &Default::default()).await.expect("it goes");
    }
}

#[tokio::test]
async fn the_words_of_the_kinds_are_known_to_kubectl() {
    server().await;
    let plane = ControlPlane::shared();
    for short in ["credpol", "suba", "sak", "franking"] {
        succeeded(plane.kubectl(&["get", short, "--namespace", NAMESPACE]));
    }
    let text = succeeded(plane.kubectl(&["explain", "sak.spec.rotation.overlap"]));
    assert!(text.contains("from 10m to 720h"), "{text}");
}

#[tokio::test]
async fn the_committed_definitions_are_taken_without_a_warning() {
    server().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let folder = folder.to_str().expect("the checkout has a UTF-8 path");
    let arguments = ["apply", "--server-side", "--field-manager=franking-tests", "--dry-run=server"];
    let arguments = [arguments.as_slice(), &["--warnings-as-errors", "--filename", folder]].concat();
    succeeded(ControlPlane::shared().kubectl(&arguments));
}

#[tokio::test]
async fn the_examples_are_taken_without_a_warning_and_make_sense() {
    server().await;
    let plane = ControlPlane::shared();
    let mut seen = 0;
    for file in manifests(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")) {
        let text = std::fs::read_to_string(&file).expect("read an example");
        for document in serde_yaml::Deserializer::from_str(&text) {
            let document = Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            if !document["apiVersion"].as_str().is_some_and(|version| version.starts_with("franking.io/")) {
                continue;
            }
            let name = format!("{} {} {}", file.display(), document["kind"], document["metadata"]["name"]);
            check(&document).unwrap_or_else(|problem| panic!("{name}: {problem}"));
            let mut document = document;
            // Its own namespace does not exist here, and does not matter.
            if document["kind"] != "CreditPolicy" {
                document["metadata"]["namespace"] = NAMESPACE.into();
            }
            let arguments = ["create", "--dry-run=server", "--validate=strict", "--filename=-"];
            let output = plane.kubectl_stdin(&arguments, &document.to_string());
            assert!(output.stderr.is_empty(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            succeeded(output);
            seen += 1;
        }
    }
    assert!(seen >= 6, "found {seen} objects in examples/: the quick start alone has six");
}

fn check(document: &Value) -> Result<(), String> {
    let wrong = |problem: crd::Problem| problem.to_string();
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    match document["kind"].as_str() {
        Some("CreditPolicy") => read::<crd::CreditPolicy>(document)?.spec.check().map(drop).map_err(wrong),
        Some("SubAccount") => read::<crd::SubAccount>(document)?.spec.check().map(drop).map_err(wrong),
        Some("SubAccountApiKey") => read::<crd::SubAccountApiKey>(document)?.spec.check(name).map(drop).map_err(wrong),
        other => Err(format!("{other:?} is not one of the three kinds")),
    }
}

fn read<K: serde::de::DeserializeOwned>(document: &Value) -> Result<K, String> {
    serde_json::from_value(document.clone()).map_err(|error| error.to_string())
}

fn manifests(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("list the examples") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(manifests(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Server-side apply drops an object with the last of what its applier owned in it. Here that would take the limit away.
#[tokio::test]
async fn who_applies_the_last_grant_away_is_prepaid_still() {
    let client = server().await;
    let parameters = PatchParams::apply("gitops").force();
    let first = json!({"grants": [{"id": "a", "credits": 1}]});
    let top_up = json!({"recurring": {"credits": 1, "every": "Day"}});
    for (kind, name) in [("CreditPolicy", "refusals-atomic"), ("SubAccount", "atomic")] {
        let mut spec = match kind {
            "CreditPolicy" => json!({"upstream": {"host": "smtp.example.com"}}),
            _ => json!({"policyRef": {"name": "acme"}}),
        };
        for prepaid in
            [&first, &json!({}), &first, &json!({"grants": []}), &top_up, &json!({"grants": []}), &top_up, &json!({})]
        {
            spec["prepaid"] = prepaid.clone();
            let applied = Patch::Apply(object(kind, name, &spec));
            let applied = api(&client, kind).patch(name, &parameters, &applied).await.expect("it is taken");
            assert_eq!(&applied.data["spec"]["prepaid"], prepaid, "{kind}");
        }
        api(&client, kind).delete(name, &Default::default()).await.expect("it goes");
    }
}
