//! A Secret that one may not touch is not touched through a key either.

use serde_json::{Value, json};

use super::{Cluster, User, refused, resource};
use crate::support::franking::eventually;

const TEAM: &str = "shop";
const SOON: std::time::Duration = std::time::Duration::from_secs(60);

/// A namespace with an account, an application's Secret, one that Helm installed, and people: a manager of keys, and an
/// owner of the Secrets.
async fn shop() -> (Cluster, User, User) {
    let cluster = Cluster::install().await;
    let (manager, owner) = (User::new("manager"), User::new("owner"));
    cluster.stage.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {TEAM}}}}}"));
    for user in [&manager, &owner] {
        cluster.bind(TEAM, "franking-manager", user);
    }
    let plan =
        json!({"senders": {"domains": ["example.com"]}, "upstream": {"host": "smtp.example.com", "tls": "None"}});
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["database", "settings", "chart"],
                        "verbs": ["create", "update", "delete"]},
                       {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["absent"],
                        "verbs": ["update", "delete"]}]);
    let api = "rbac.authorization.k8s.io";
    for object in [
        json!({"apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": {"name": "owner", "namespace": TEAM},
               "rules": rules}),
        json!({"apiVersion": format!("{api}/v1"), "kind": "RoleBinding",
               "metadata": {"name": "owner", "namespace": TEAM},
               "roleRef": {"apiGroup": api, "kind": "Role", "name": "owner"},
               "subjects": [{"apiGroup": api, "kind": "User", "name": "owner"}]}),
        resource("CreditPolicy", "", "plan", &plan),
        resource("SubAccount", TEAM, "account", &json!({"policyRef": {"name": "plan"}})),
        secret("database", &json!({"team": "shop"}), &json!({"password": "hunter2 hunter2 hunter2", "host": "db"})),
        secret("settings", &json!({"team": "shop"}), &json!({"colour": "blue"})),
        secret("chart", &json!({"app.kubernetes.io/managed-by": "Helm"}), &json!({"colour": "red"})),
    ] {
        let mut object = object;
        if object["metadata"]["namespace"] == "" {
            object["metadata"].as_object_mut().expect("a map").remove("namespace");
        }
        cluster.stage.apply(&object.to_string());
    }
    (cluster, manager, owner)
}

fn secret(name: &str, labels: &Value, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": data,
           "metadata": {"name": name, "namespace": TEAM, "labels": labels, "annotations": {"note": "ours"}}})
}

fn key(name: &str, shape: &Value) -> Value {
    resource("SubAccountApiKey", TEAM, name, &json!({"subAccountRef": {"name": "account"}, "secret": shape}))
}

/// Data, labels, annotations, owners and identity of a Secret.
fn content(secret: &Value) -> [Value; 5] {
    ["/data", "/metadata/labels", "/metadata/annotations", "/metadata/ownerReferences", "/metadata/uid"]
        .map(|path| secret.pointer(path).cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_right_on_a_secret_has_none_through_a_key() {
    let (cluster, manager, owner) = shop().await;
    let franking = cluster.stage.home.start();
    let rights = ["the verbs create, update and delete on secrets/database"];
    let adopts = |name: &str| json!({"adopt": true, "name": name, "type": "Opaque"});
    refused(cluster.apply(&manager, &key("a", &adopts("database"))), &rights);
    refused(cluster.apply(&manager, &key("database", &json!({"adopt": true}))), &rights);
    // Nor by an edit: of the flag, of the name, or of what is added.
    cluster.apply(&manager, &key("database", &json!({}))).expect("a key of its own");
    let sentence = cluster.says("subaccountapikey", TEAM, "database", "Ready", "SecretConflict");
    assert!(sentence.contains("exists that is not this key's"), "{sentence}");
    refused(cluster.apply(&manager, &key("database", &json!({"adopt": true}))), &rights);
    cluster.apply(&owner, &key("shared", &adopts("settings"))).expect("the owner of the Secret may");
    refused(cluster.apply(&manager, &key("shared", &adopts("database"))), &rights);
    let mut more = adopts("settings");
    more["template"] = json!({"colour": "{{ .host }}"});
    refused(cluster.apply(&manager, &key("shared", &more)), &["create, update and delete on secrets/settings"]);
    // One that is not there would be made: that takes the right to make it.
    refused(cluster.apply(&owner, &key("maker", &adopts("absent"))), &["create, update and delete on secrets/absent"]);
    // What is not about the Secret is the manager's to change.
    let label = json!({"spec": {"label": "the shop"}}).to_string();
    let patch = ["patch", "subaccountapikey", "shared", "-n", TEAM, "--type=merge", "-p", &label];
    cluster.run(&manager, &patch, "").expect("a manager of keys may");

    // A Secret of a name, a type, a label or keys that another program looks for.
    for (field, shape) in [
        ("spec.secret.name", json!({"name": "argocd-secret"})),
        ("spec.secret.type", json!({"type": "helm.sh/release.v1"})),
        ("spec.secret.template", json!({"template": {"tls.key": "mine"}})),
        ("spec.secret.metadata", json!({"metadata": {"labels": {"argocd.argoproj.io/secret-type": "cluster"}}})),
    ] {
        let words = [field, "the verbs create and update on secrets/"];
        refused(cluster.apply(&manager, &key("shaped", &shape)), &words);
    }
    cluster.apply(&manager, &key("plain", &json!({"presets": ["env"]}))).expect("a key of its own");
    cluster.says("subaccountapikey", TEAM, "plain", "Ready", "Ready");
    let template = json!({"spec": {"secret": {"template": {"x": "y"}}}}).to_string();
    let patch = ["patch", "subaccountapikey", "plain", "-n", TEAM, "--type=merge", "-p", &template];
    refused(cluster.run(&manager, &patch, ""), &["spec.secret.template"]);
    assert_eq!(franking.stop(), 0, "{}", cluster.stage.home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_secret_keeps_what_it_had_and_outlives_the_key() {
    let (cluster, manager, owner) = shop().await;
    let before = cluster.get("secret", TEAM, "settings").expect("a Secret");
    let database = cluster.get("secret", TEAM, "database").expect("a Secret");
    let franking = cluster.stage.home.start();
    let adopts = |name: &str| json!({"adopt": true, "name": name, "type": "Opaque"});
    // What has our keys already is left alone, and so is what another tool says is its own.
    cluster.apply(&owner, &key("over", &adopts("database"))).expect("the owner of the Secret may");
    let sentence = cluster.says("subaccountapikey", TEAM, "over", "Ready", "SecretConflict");
    assert!(sentence.contains("has host, password already") && sentence.contains("spec.secret.template"), "{sentence}");
    assert_eq!(cluster.get("secret", TEAM, "database"), Some(database));
    cluster.apply(&owner, &key("helm", &adopts("chart"))).expect("the owner of the Secret may");
    let sentence = cluster.says("subaccountapikey", TEAM, "helm", "Ready", "SecretConflict");
    assert!(sentence.contains("label app.kubernetes.io/managed-by"), "{sentence}");

    let mut shape = adopts("settings");
    shape["metadata"] = json!({"labels": {"team": "shop", "extra": "x"}, "annotations": {"reload": "true"}});
    cluster.apply(&owner, &key("shared", &shape)).expect("the owner of the Secret may");
    cluster.says("subaccountapikey", TEAM, "shared", "Ready", "Ready");
    let adopted = cluster.get("secret", TEAM, "settings").expect("a Secret");
    assert_eq!(adopted["data"]["colour"], before["data"]["colour"]);
    assert!(adopted["data"]["password"].is_string() && adopted["metadata"]["labels"]["extra"] == "x", "{adopted:#}");
    assert_eq!(adopted["metadata"]["ownerReferences"], Value::Null, "the garbage collector would delete it");
    // What is added to it by others is theirs from then on, whatever the key asks for later.
    let others = json!({"stringData": {"size": "big"}}).to_string();
    cluster.stage.kubectl(&["patch", "secret", "settings", "-n", TEAM, "--type=merge", "-p", &others]);
    let mut later = shape.clone();
    later["template"] = json!({"size": "small"});
    cluster.apply(&owner, &key("shared", &later)).expect("the owner of the Secret may");
    let sentence = cluster.says("subaccountapikey", TEAM, "shared", "Ready", "SecretConflict");
    assert!(sentence.contains("has size already"), "{sentence}");
    // A value of ours that is edited by hand is put right, as in a Secret that we made.
    cluster.apply(&owner, &key("shared", &shape)).expect("the owner of the Secret may");
    let drift = json!({"stringData": {"host": "elsewhere"}}).to_string();
    cluster.stage.kubectl(&["patch", "secret", "settings", "-n", TEAM, "--type=merge", "-p", &drift]);
    eventually("the host to be put right", SOON, || {
        let standing = cluster.get("secret", TEAM, "settings")?;
        (standing["data"]["host"] == adopted["data"]["host"]).then_some(())
    });

    // The manager, with no right on it, ends the key in each way there is.
    let arguments = ["delete", "subaccountapikey", "shared", "-n", TEAM, "--cascade=foreground", "--timeout=60s"];
    cluster.run(&manager, &arguments, "").expect("a manager of keys may");
    let after = cluster.get("secret", TEAM, "settings").expect("it outlives the key");
    let mut expected = content(&before);
    expected[0]["size"] = after["data"]["size"].clone();
    assert_eq!(content(&after), expected);
    assert!(after["data"]["size"].is_string());
    assert_eq!(franking.stop(), 0, "{}", cluster.stage.home.log());
}
