//! One role on one account among many of a namespace: the administrator of an account writes its keys and no others.

use franking::crd::SubAccountApiKey;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Gate, SYSTEM, TAKEN_UP, TEAM, refused};
use crate::support::chart::render;
use crate::support::control_plane::{kind_is_unknown, succeeded};
use crate::support::franking::eventually;

const RBAC: &str = "rbac.authorization.k8s.io";
const ASKS: &str = "on subaccounts/keys (franking.io) named ";

fn key(name: &str, account: &str) -> Value {
    json!({"apiVersion": "franking.io/v1alpha1", "kind": "SubAccountApiKey",
           "metadata": {"name": name, "namespace": TEAM}, "spec": {"subAccountRef": {"name": account}}})
}

/// A RoleBinding in the team's namespace.
fn bound(role_kind: &str, role: &str, user: &str) -> Value {
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding",
           "metadata": {"name": format!("{role}-{user}"), "namespace": TEAM},
           "roleRef": {"apiGroup": RBAC, "kind": role_kind, "name": role},
           "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}]})
}

/// The Role that narrows the ClusterRole to the keys of one account.
fn narrowed(account: &str) -> Value {
    let rule = json!({"apiGroups": ["franking.io"], "resources": ["subaccounts/keys"], "resourceNames": [account],
                      "verbs": ["create", "update", "delete"]});
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": "Role",
           "metadata": {"name": format!("{account}-keys"), "namespace": TEAM}, "rules": [rule]})
}

/// Ada administers the account `newsletter`; Bert has the ClusterRole and no account.
async fn set() -> Gate {
    let gate = Gate::set().await;
    for object in [
        narrowed("newsletter"),
        bound("ClusterRole", "guard-account-admin", "ada"),
        bound("Role", "newsletter-keys", "ada"),
        bound("ClusterRole", "guard-account-admin", "bert"),
    ] {
        gate.apply(&object);
    }
    let create = ["create", "--dry-run=server", "-f", "-"];
    eventually("the rule for keys to hold", TAKEN_UP, || {
        let answer = gate.run("bert", &create, &key("probe", "newsletter").to_string());
        answer.is_err_and(|said| said.contains(ASKS) && !kind_is_unknown(&said)).then_some(())
    });
    eventually("Ada to have her account", TAKEN_UP, || {
        gate.run("ada", &create, &key("probe", "newsletter").to_string()).ok()
    });
    gate
}

impl Gate {
    fn make_key(&self, who: &str, name: &str, account: &str) -> Result<String, String> {
        self.run(who, &["create", "-f", "-"], &key(name, account).to_string())
    }

    fn patch_key(&self, who: &str, name: &str, patch: &Value) -> Result<String, String> {
        let patch = patch.to_string();
        self.run(who, &["patch", "subaccountapikey", name, "--type=merge", "-p", &patch], "")
    }

    fn delete_key(&self, who: &str, name: &str) -> Result<String, String> {
        self.run(who, &["delete", "subaccountapikey", name, "--timeout=30s"], "")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_administrator_of_an_account_touches_no_key_of_another() {
    let gate = set().await;
    gate.make_key("admin", "theirs", "fairs").expect("the administrator of the cluster may");
    let before = gate.run("admin", &["get", "subaccountapikey", "theirs", "-o", "json"], "").expect("it is there");
    let before: Value = serde_json::from_str(&before).expect("JSON");

    // Her own keys, from beginning to end.
    gate.make_key("ada", "hers", "newsletter").expect("her account");
    gate.patch_key("ada", "hers", &json!({"spec": {"label": "mailer"}, "metadata": {"labels": {"a": "b"}}}))
        .expect("hers");

    // To make one of the other account, by each way there is.
    let create = [ASKS, "the verb create", "named \"fairs\""];
    refused(gate.make_key("ada", "more", "fairs"), &create);
    for apply in [["apply", "-f", "-"].as_slice(), &["apply", "--server-side", "-f", "-"]] {
        refused(gate.run("ada", apply, &key("more", "fairs").to_string()), &create);
    }
    let mut unnamed = key("", "fairs");
    unnamed["metadata"] = json!({"generateName": "more-", "namespace": TEAM});
    refused(gate.run("ada", &["create", "-f", "-"], &unnamed.to_string()), &create);

    // To move one: hers to the other account, and the other's to hers.
    let moved = |name: &str, account: &str| {
        let patch = json!({"spec": {"subAccountRef": {"name": account}}});
        gate.patch_key("ada", name, &patch).expect_err("a key does not move")
    };
    assert!(moved("hers", "fairs").contains("subAccountRef cannot be changed"));
    assert!(moved("theirs", "newsletter").contains("subAccountRef cannot be changed"));

    // To edit one: what it does, and what decides over its life.
    let update = [ASKS, "the verb update", "named \"fairs\""];
    let gone =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "3f4be0a5-0000-4000-8000-000000000000"});
    for patch in [
        json!({"spec": {"revoked": true}}),
        json!({"spec": {"allowedSenders": ["a@example.com"]}}),
        json!({"spec": {"rotation": {"restartedAt": "2026-01-01T00:00:00Z"}}}),
        json!({"metadata": {"labels": {"a": "b"}}}),
        json!({"metadata": {"annotations": {"a": "b"}}}),
        json!({"metadata": {"ownerReferences": [gone]}}),
        json!({"metadata": {"finalizers": ["a.com/b"]}}),
        json!({"metadata": {"managedFields": [{}]}}),
    ] {
        refused(gate.patch_key("ada", "theirs", &patch), &update);
    }
    let mut replaced = before.clone();
    replaced["spec"]["revoked"] = true.into();
    refused(gate.run("ada", &["replace", "-f", "-"], &replaced.to_string()), &update);
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let mut named = key("theirs", "fairs");
    named["spec"]["label"] = "x".into();
    refused(gate.run("ada", &apply, &named.to_string()), &update);
    let status = json!({"status": {"sending": "yes"}}).to_string();
    let status = ["patch", "subaccountapikey", "theirs", "--subresource=status", "--type=merge", "-p", &status];
    refused(gate.run("ada", &status, ""), &["subaccountapikeys/status"]);

    // To delete it, alone or with others.
    refused(gate.delete_key("ada", "theirs"), &[ASKS, "the verb delete", "named \"fairs\""]);
    let path = format!("/apis/franking.io/v1alpha1/namespaces/{TEAM}/subaccountapikeys");
    refused(gate.run("ada", &["delete", "--raw", &path], ""), &["deletecollection"]);

    // To have what it wrote: its Secret is adopted, taken for a password or written by a key of hers.
    for secret in
        [json!({"name": "theirs"}), json!({"name": "theirs", "adopt": true}), json!({"existing": {"name": "theirs"}})]
    {
        let mut thief = key("thief", "newsletter");
        thief["spec"]["secret"] = secret;
        refused(gate.run("ada", &["create", "-f", "-"], &thief.to_string()), &["spec.secret", "on secrets/theirs"]);
    }

    let after = gate.run("admin", &["get", "subaccountapikey", "theirs", "-o", "json"], "").expect("it is there");
    assert_eq!(serde_json::from_str::<Value>(&after).expect("JSON"), before);
    gate.delete_key("ada", "hers").expect("her account");

    // The ClusterRole alone writes no key, and a Role of one verb gives that verb.
    refused(gate.make_key("bert", "his", "newsletter"), &["named \"newsletter\""]);
    let mut maker = narrowed("fairs");
    maker["rules"][0]["verbs"] = json!(["create"]);
    gate.apply(&maker);
    gate.apply(&bound("Role", "fairs-keys", "bert"));
    eventually("Bert to make keys", TAKEN_UP, || gate.make_key("bert", "his", "fairs").ok());
    refused(
        gate.patch_key("bert", "his", &json!({"spec": {"revoked": true}})),
        &["the verb update", "named \"fairs\""],
    );
    refused(gate.delete_key("bert", "his"), &["the verb delete", "named \"fairs\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_and_the_controllers_of_kubernetes_are_not_held_up() {
    let gate = set().await;
    let configmap = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "namespace": TEAM}});
    gate.apply(&configmap);
    let uid = gate.run("admin", &["get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}"], "").expect("a uid");
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]);
    let (_, operator) = gate.plane.client_as_service_account(SYSTEM, "guard").await.expect("the operator's account");
    let statuses: Api<SubAccountApiKey> = Api::namespaced(operator, TEAM);
    for name in ["owned", "stays"] {
        let mut object = key(name, "fairs");
        if name == "owned" {
            object["metadata"]["ownerReferences"] = owner.clone();
        }
        gate.run("admin", &["create", "-f", "-"], &object.to_string()).expect("the administrator may");
        // The operator holds it and tells its state.
        let held = json!({"metadata": {"finalizers": ["franking.io/ledger"]}});
        gate.patch_key("operator", name, &held).expect("the operator may");
        let status = Patch::Merge(json!({"status": {"sending": "yes"}}));
        statuses.patch_status(name, &PatchParams::default(), &status).await.expect("the operator may");
    }
    let free = json!({"metadata": {"finalizers": []}});
    let deleted = |name: &str| {
        let at = ["get", "subaccountapikey", name, "-o", "jsonpath={.metadata.deletionTimestamp}"];
        eventually(&format!("{name} to be deleted"), TAKEN_UP, || {
            gate.run("admin", &at, "").is_ok_and(|at| !at.is_empty()).then_some(())
        });
    };
    // The garbage collector deletes what its owner leaves, and the operator lets it go.
    gate.run("admin", &["delete", "configmap", "owner"], "").expect("the administrator may");
    deleted("owned");
    gate.patch_key("operator", "owned", &free).expect("the operator may");
    gate.run("admin", &["wait", "--for=delete", "subaccountapikey", "owned", "--timeout=60s"], "").expect("it is gone");
    // A namespace that goes takes its keys along.
    gate.run("admin", &["delete", "namespace", TEAM, "--wait=false"], "").expect("the administrator may");
    deleted("stays");
    gate.patch_key("operator", "stays", &free).expect("the operator may");
    succeeded(gate.plane.kubectl(&["wait", "--for=delete", &format!("namespace/{TEAM}"), "--timeout=60s"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_roles_write_the_keys_of_all_accounts_and_a_namespaces_admin_gives_one_away() {
    let gate = set().await;
    for (role, user) in [("guard-manager", "mia"), ("edit", "eve"), ("admin", "ann"), ("guard-viewer", "vic")] {
        gate.apply(&bound("ClusterRole", role, user));
    }
    for who in ["mia", "eve", "ann", "tenant", "platform", "robot"] {
        for account in ["newsletter", "fairs"] {
            // The controller that adds up the roles of a namespace needs a moment.
            eventually(&format!("{who} to make keys"), TAKEN_UP, || gate.make_key(who, "key", account).ok());
            gate.patch_key(who, "key", &json!({"spec": {"label": "x"}, "metadata": {"labels": {"a": "b"}}}))
                .expect(who);
            gate.delete_key(who, "key").expect(who);
        }
    }
    refused(gate.make_key("vic", "key", "newsletter"), &["subaccountapikeys"]);

    // A role of one's own as it was written before the rule: what it lacks is named.
    let rule = json!({"apiGroups": ["franking.io"], "resources": ["subaccountapikeys"], "verbs": ["*"]});
    gate.apply(&json!({"apiVersion": format!("{RBAC}/v1"), "kind": "Role",
                       "metadata": {"name": "own", "namespace": TEAM}, "rules": [rule]}));
    gate.apply(&bound("Role", "own", "otto"));
    eventually("Otto to be asked for more", TAKEN_UP, || {
        gate.make_key("otto", "key", "fairs").is_err_and(|said| said.contains(ASKS)).then_some(())
    });

    // The admin of the namespace gives one account to somebody, and nothing that they do not have.
    let apply = ["apply", "-f", "-"];
    for object in
        [narrowed("fairs"), bound("ClusterRole", "guard-account-admin", "zoe"), bound("Role", "fairs-keys", "zoe")]
    {
        gate.run("ann", &apply, &object.to_string()).expect("the admin of the namespace may");
    }
    eventually("Zoe to make keys", TAKEN_UP, || gate.make_key("zoe", "key", "fairs").ok());
    refused(gate.make_key("zoe", "other", "newsletter"), &["named \"newsletter\""]);
}

#[test]
fn without_the_rule_there_is_no_role_that_relies_on_it() {
    let rules = |values: &[&str]| {
        let rendered = render(SYSTEM, values);
        let has = |what: &str| rendered.lines().any(|line| line.trim() == format!("name: {what}"));
        (has("franking-keys"), has("franking-account-admin"), has("franking-secrets"), has("franking-manager"))
    };
    assert_eq!(rules(&[]), (true, true, true, true));
    assert_eq!(rules(&["--set", "admission.accountKeys=false"]), (false, false, true, true));
    assert_eq!(rules(&["--set", "admission.enabled=false"]), (false, false, false, true));
}
