//! Who did it: the stamp that the chart's policy puts on what people write, the audit trail that names them, and the API
//! server's audit log, which has who deleted what.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Gate, POLL, SYSTEM, TAKEN_UP, account, held, spec};
use crate::support::chart::{object, objects, render};
use crate::support::franking::{DEADLINE, Home, eventually};

const STAMP: &str = "franking.io/changed-by";
/// What helm finds on an API server of Kubernetes 1.36, and `helm template` only when it is told.
pub(super) const KNOWN: [&str; 2] = ["--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"];

impl Gate {
    /// The user that the object is stamped with; empty for none.
    fn stamp(&self, kind: &str, name: &str) -> String {
        let path = r"-o=jsonpath={.metadata.annotations.franking\.io/changed-by}";
        self.run("admin", &["get", kind, name, path], "").unwrap_or_else(|error| panic!("{error}"))
    }

    fn merge(&self, who: &str, kind: &str, name: &str, patch: &Value) {
        let patched = self.run(who, &["patch", kind, name, "--type=merge", "-p", &patch.to_string()], "");
        patched.unwrap_or_else(|error| panic!("{who} {kind}: {error}"));
    }
}

/// Written by a client that wants to pass for somebody else.
fn forged(mut object: Value) -> Value {
    object["metadata"]["annotations"] = json!({STAMP: "forger"});
    object
}

/// A spec that only its own kind has, changed.
fn edited(kind: &str) -> Value {
    match kind {
        "creditpolicy" => json!({"spec": {"upstream": {"host": "other.example.com"}}}),
        "subaccount" => json!({"spec": {"displayName": "Edited"}}),
        _ => json!({"spec": {"revoked": true}}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stamp_is_the_user_who_changed_the_spec_and_no_client_writes_another() {
    let gate = Gate::set().await;
    let mark = json!({"metadata": {"annotations": {STAMP: "forger", "note": "mine"}}});
    let bare = json!({"metadata": {"annotations": null}});
    for (kind, object) in held() {
        let (maker, editor) = if kind == "creditpolicy" { ("platform", "robot") } else { ("manager", "granter") };
        let user = |who| if who == "robot" { "system:serviceaccount:admission-system:default" } else { who };
        gate.run(maker, &["create", "-f", "-"], &forged(object.clone()).to_string()).expect("made");
        assert_eq!(gate.stamp(kind, "held"), user(maker), "{kind}");

        // What changes no spec leaves it as it was, whatever the client says.
        for who in [maker, editor, "operator"] {
            for patch in [&mark, &bare, &json!({"metadata": {"labels": {"by": who}}})] {
                gate.merge(who, kind, "held", patch);
                assert_eq!(gate.stamp(kind, "held"), user(maker), "{kind} {who} {patch}");
            }
        }
        let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=user:forger", "-f", "-"];
        gate.run(editor, &apply, &forged(object.clone()).to_string()).expect("applied");
        assert_eq!(gate.stamp(kind, "held"), user(maker), "{kind}: nothing of the spec was changed");
        let status = ["patch", kind, "held", "--subresource=status", "--type=merge", "-p"];
        let patch = json!({"metadata": {"annotations": {STAMP: "forger"}}, "status": {"observedGeneration": 1}});
        gate.run("admin", &[&status[..], &[&patch.to_string()]].concat(), "").expect("written");
        assert_eq!(gate.stamp(kind, "held"), user(maker), "{kind}: a status has no annotations");

        // A change of the spec is its author's.
        let mut patch = edited(kind);
        patch["metadata"] = mark["metadata"].clone();
        gate.merge(editor, kind, "held", &patch);
        assert_eq!(gate.stamp(kind, "held"), user(editor), "{kind}");
        // The whole object replaced, as it was at first and with no annotation at all.
        let mut old = object.clone();
        old["metadata"]["finalizers"] = json!(["franking.io/ledger"]);
        gate.run(maker, &["replace", "-f", "-"], &old.to_string()).expect("replaced");
        assert_eq!(gate.stamp(kind, "held"), user(maker), "{kind}");
        gate.run(editor, &["replace", "-f", "-"], &old.to_string()).expect("replaced");
        assert_eq!(gate.stamp(kind, "held"), user(maker), "{kind}: nothing was changed");
        gate.merge("operator", kind, "held", &json!({"metadata": {"finalizers": null}}));
        assert_eq!(gate.stamp(kind, "held"), user(maker), "{kind}");
        gate.run("platform", &["delete", kind, "held", "--timeout=30s"], "").expect("deleted");
    }
}

/// As what was there before the policy: nobody is known to have made it, until its spec is changed.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_a_stamp_gets_none_by_an_annotation() {
    let gate = Gate::set().await;
    let bare = account("bare", &spec(&json!({})));
    let create = ["create", "--as-group=system:masters", "-f", "-"];
    gate.run("operator", &create, &forged(bare.clone()).to_string()).expect("made");
    assert_eq!(gate.stamp("subaccount", "bare"), "", "the operator is nobody");
    let mark = json!({"metadata": {"annotations": {STAMP: "forger"}}});
    gate.merge("manager", "subaccount", "bare", &mark);
    assert_eq!(gate.stamp("subaccount", "bare"), "");
    gate.run("manager", &["replace", "-f", "-"], &forged(bare).to_string()).expect("replaced");
    assert_eq!(gate.stamp("subaccount", "bare"), "");
    gate.merge("manager", "subaccount", "bare", &edited("subaccount"));
    assert_eq!(gate.stamp("subaccount", "bare"), "manager");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_names_the_person_and_never_whom_an_annotation_or_a_field_manager_claims() {
    let gate = Gate::set().await;
    let home = Home::new(gate.plane.admin_kubeconfig(), SYSTEM);
    home.tune("changedByStamped: true");
    let _running = home.start();

    let [(_, mut policy), ..] = held();
    policy["metadata"] = json!({"name": "acme"});
    let claims = "--field-manager=user:forger";
    let create = ["create", claims, "-f", "-"];
    gate.run("platform", &create, &forged(policy).to_string()).expect("made");
    let capped = account("shop", &spec(&json!({"cap": {"credits": 10}})));
    gate.run("granter", &create, &forged(capped).to_string()).expect("made");
    let ready = ["wait", "subaccount", "shop", "--for=jsonpath={.status.accountId}", "--timeout=60s"];
    gate.run("admin", &ready, "").expect("taken up");
    let mut lower = json!({"metadata": {"annotations": {STAMP: "forger"}}});
    lower["spec"] = json!({"cap": {"credits": 5}});
    gate.run("manager", &["patch", "subaccount", "shop", claims, "--type=merge", "-p", &lower.to_string()], "")
        .expect("lowered");

    let rows = eventually("the change in the trail", DEADLINE, || {
        let output = home.command(&["ledger", "events", "--output", "json"]).output().expect("the binary starts");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        rows.iter().any(|row| row["kind"] == "limit.changed").then_some(rows)
    });
    let actors = |kind: &str, holder: &str| -> BTreeSet<&str> {
        let of_kind = rows.iter().filter(|row| row["kind"] == kind && row["holder"]["kind"] == holder);
        of_kind.filter_map(|row| row["actor"].as_str()).collect()
    };
    assert_eq!(actors("directory.added", "policy"), BTreeSet::from(["user:platform"]), "{rows:?}");
    assert_eq!(actors("directory.added", "account"), BTreeSet::from(["user:granter"]), "{rows:?}");
    assert_eq!(actors("limit.changed", "account"), BTreeSet::from(["user:manager"]), "{rows:?}");
    assert!(rows.iter().all(|row| !row["actor"].to_string().contains("forger")), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_of_the_api_server_has_who_deleted_what() {
    let gate = Gate::set().await;
    let rule = json!({"level": "Metadata", "resources": [{"group": "franking.io"}]});
    let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule]});
    let (rules, log) = (gate.plane.base_dir().join("audit.yaml"), gate.plane.base_dir().join("audit.log"));
    std::fs::write(&rules, policy.to_string()).expect("the control plane's folder can be written");
    let flags = [format!("--audit-policy-file={}", rules.display()), format!("--audit-log-path={}", log.display())];
    let second = gate.plane.second_api_server(&flags);
    let server = format!("--server={}", second.url);
    eventually("the second API server", DEADLINE, || gate.run("admin", &["get", "--raw=/readyz", &server], "").ok());

    gate.given("gone", &json!({}));
    let id = "0b5e2f3c-8a55-4f7f-9a3e-1f0d8c1c9f11";
    let status = json!({"status": {"accountId": id}}).to_string();
    gate.run("admin", &["patch", "subaccount", "gone", "--subresource=status", "--type=merge", "-p", &status], "")
        .expect("written");
    let delete = ["delete", "subaccount", "gone", "--timeout=30s", &server];
    let rows = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let rows = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        rows.filter(|row: &Value| row["verb"] == "delete" && row["stage"] == "ResponseComplete").collect()
    };
    // It answers before it has all policies.
    eventually("the policy on the second API server", DEADLINE, || {
        gate.run("granter", &[&delete[..], &["--dry-run=server"]].concat(), "").expect("they may");
        rows().iter().any(|row| row["annotations"]["guard-deletions/deleted-by"] == "granter").then_some(())
    });
    gate.run("manager", &delete, "").expect("deleted");

    let row = eventually("the deletion in the audit log", DEADLINE, || {
        rows().into_iter().find(|row| row["impersonatedUser"]["username"] == "manager")
    });
    assert_eq!(row["objectRef"]["name"], "gone", "{row}");
    assert_eq!(row["annotations"]["guard-deletions/deleted-by"], "manager", "{row}");
    assert_eq!(row["annotations"]["guard-deletions/deleted-id"], id, "{row}");
}

#[test]
fn it_is_rendered_where_the_api_is_there_and_believed_only_then() {
    let believed = |manifests: &str| manifests.contains("changedByStamped: true");
    let (kind, binding) = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding");
    let rendered = render(SYSTEM, &KNOWN);
    let all = objects(&rendered);
    let policy = object(&all, kind, "franking-changed-by");
    assert_eq!(policy["spec"]["failurePolicy"], "Fail", "who is not stamped must not pass for who was");
    assert_eq!(object(&all, binding, "franking-changed-by")["spec"]["policyName"], "franking-changed-by");
    object(&all, "ValidatingAdmissionPolicy", "franking-deletions");
    assert!(believed(&rendered));

    let off = |set| [&KNOWN[..], &["--set", set]].concat();
    for arguments in [vec![], off("admission.changedBy=false"), off("admission.enabled=false")] {
        let rendered = render(SYSTEM, &arguments);
        assert!(!rendered.contains(kind) && !believed(&rendered), "{arguments:?}");
        let told = rendered.contains("franking-deletions");
        assert_eq!(told, arguments.is_empty(), "deletions need no such API: {arguments:?}");
    }
}

/// Everything that waits for the other policies has waited for the stamps too.
pub(super) fn wait_until_it_stamps(gate: &Gate) {
    let deadline = Instant::now() + TAKEN_UP;
    for (kind, probe) in held() {
        let stamped = || {
            let made = gate.run("admin", &["create", "--dry-run=server", "-o=yaml", "-f", "-"], &probe.to_string());
            made.is_ok_and(|made| made.contains("franking.io/changed-by: "))
        };
        while !stamped() {
            assert!(Instant::now() < deadline, "no {kind} is stamped");
            std::thread::sleep(POLL);
        }
    }
}
