//! A password that one may not read is not read through a key either.

use serde_json::{Value, json};

use super::{Cluster, User, refused, resource};

const TEAM: &str = "printers";
const OTHER: &str = "accounting";
const PASSWORD: &str = "hunter2-hunter2-hunter2";

fn key(name: &str, shape: &Value) -> Value {
    resource("SubAccountApiKey", TEAM, name, &json!({"subAccountRef": {"name": "account"}, "secret": shape}))
}

fn secret(namespace: &str, name: &str, labels: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"password": PASSWORD},
           "metadata": {"name": name, "namespace": namespace, "labels": labels}})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_read_for_who_may_read_it_and_from_no_other_namespace() {
    let cluster = Cluster::install().await;
    let (manager, owner) = (User::new("manager"), User::new("owner"));
    for namespace in [TEAM, OTHER] {
        cluster.stage.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"));
    }
    for user in [&manager, &owner] {
        cluster.bind(TEAM, "franking-manager", user);
    }
    let api = "rbac.authorization.k8s.io";
    let plan =
        json!({"senders": {"domains": ["example.com"]}, "upstream": {"host": "smtp.example.com", "tls": "None"}});
    let mut plan = resource("CreditPolicy", "", "plan", &plan);
    plan["metadata"].as_object_mut().expect("a map").remove("namespace");
    let rules =
        json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["printer", "bare"], "verbs": ["get"]}]);
    // The manager may write a Secret of this name, and read it: a place to copy a password to.
    let place = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"],
                        "verbs": ["get", "create", "update"]}]);
    for (user, rules) in [("owner", rules), ("manager", place)] {
        cluster.stage.apply(
            &json!({"apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": {"name": user, "namespace": TEAM},
                    "rules": rules})
            .to_string(),
        );
        cluster.stage.apply(
            &json!({"apiVersion": format!("{api}/v1"), "kind": "RoleBinding",
                    "metadata": {"name": user, "namespace": TEAM},
                    "roleRef": {"apiGroup": api, "kind": "Role", "name": user},
                    "subjects": [{"apiGroup": api, "kind": "User", "name": user}]})
            .to_string(),
        );
    }
    for object in [
        plan.to_string(),
        resource("SubAccount", TEAM, "account", &json!({"policyRef": {"name": "plan"}})).to_string(),
        secret(TEAM, "printer", &json!({"franking.io/use": "true"})),
        secret(TEAM, "bare", &json!({})),
        secret(OTHER, "theirs", &json!({"franking.io/use": "true"})),
    ] {
        cluster.stage.apply(&object);
    }
    let franking = cluster.stage.home.start();
    let existing = |name: &str| json!({"existing": {"name": name}});
    // Who may not read it has no key that does.
    refused(cluster.apply(&manager, &key("a", &existing("printer"))), &["the verb get on secrets/printer"]);
    cluster.apply(&owner, &key("device", &existing("printer"))).expect("who may read it");
    cluster.says("subaccountapikey", TEAM, "device", "Ready", "Ready");
    // Nor copies it to where one may read, by another name or other keys of the key's own Secret.
    let mut moved = existing("printer");
    moved["name"] = "mine".into();
    refused(cluster.apply(&manager, &key("device", &moved)), &["the verb get on secrets/printer"]);
    // What is not about the Secret is the manager's to change.
    let label = json!({"spec": {"label": "the printer"}}).to_string();
    let patch = ["patch", "subaccountapikey", "device", "-n", TEAM, "--type=merge", "-p", &label];
    cluster.run(&manager, &patch, "").expect("a manager of keys may");

    // One without the label is not read, and one of another namespace has no name here.
    cluster.apply(&owner, &key("unlabelled", &existing("bare"))).expect("who may read it");
    let sentence = cluster.says("subaccountapikey", TEAM, "unlabelled", "Ready", "SecretNotLabelled");
    assert!(!sentence.contains(PASSWORD), "{sentence}");
    refused(cluster.apply(&owner, &key("elsewhere", &existing("theirs"))), &["the verb get on secrets/theirs"]);
    let strange = json!({"existing": {"name": "printer", "namespace": OTHER}});
    let said = cluster.apply(&owner, &key("strange", &strange)).expect_err("there is no such field");
    assert!(said.contains(".spec.secret.existing.namespace: field not declared in schema"), "{said}");
    let path = json!({"existing": {"name": format!("{OTHER}/theirs")}});
    let said = cluster.apply(&owner, &key("path", &path)).expect_err("it is no name");
    assert!(said.contains("write the name of your Secret"), "{said}");

    assert_eq!(franking.stop(), 0, "{}", cluster.stage.home.log());
    assert!(!cluster.stage.home.log().contains(PASSWORD), "the log has a password");
    for object in ["device", "unlabelled"] {
        let found = cluster.get("subaccountapikey", TEAM, object).expect("a key");
        assert!(!found.to_string().contains(PASSWORD), "{found:#}");
    }
}
