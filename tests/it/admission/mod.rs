//! Who may change what of an account is worth money, asked of a real API server as the people whom the chart's roles make.

mod changed_by;
mod keys;
mod property;
mod trail;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::chart::render;
use crate::support::control_plane::{ControlPlane, Options, kind_is_unknown, succeeded};
use crate::support::franking::eventually;
use crate::support::{definitions, identity};

const SYSTEM: &str = "admission-system";
const TEAM: &str = "admission-team";
/// The API server takes up a policy and its binding within a second or so, and the controller manager judges it.
const TAKEN_UP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// A control plane of our own: the policy guards the accounts of a whole cluster.
struct Gate {
    plane: ControlPlane,
}

impl Gate {
    async fn set() -> Self {
        let plane = ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
        definitions::install(&plane.admin_client().await).await;
        let gate = Self { plane };
        for name in [SYSTEM, TEAM] {
            gate.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
        let files = ["templates/rbac.yaml", "templates/rbac-people.yaml", "templates/serviceaccount.yaml"];
        let files = [files.as_slice(), &["templates/admission.yaml", "templates/changed-by.yaml"]].concat();
        let shown: Vec<&str> = files.iter().flat_map(|file| ["--show-only", file]).collect();
        let rendered =
            render(SYSTEM, &[&["--set", "fullnameOverride=guard"], &changed_by::KNOWN[..], shown.as_slice()].concat());
        succeeded(gate.plane.kubectl_stdin(&["apply", "--server-side", "-f", "-"], &rendered));
        gate.people();
        gate.wait_until_it_guards();
        gate
    }

    fn apply(&self, object: &Value) {
        succeeded(self.plane.kubectl_stdin(&["apply", "--server-side", "-f", "-"], &object.to_string()));
    }

    /// The tenant may write accounts and nothing more; the manager may use the plan `acme`, the granter may grant on it, and
    /// the rival may use it and grant on `other`.
    fn people(&self) {
        let role = |name: &str, verbs: &[&str]| {
            let policy = if name.ends_with("other") { "other" } else { "acme" };
            let rule = json!({"apiGroups": ["franking.io"], "resources": ["creditpolicies"],
                              "resourceNames": [policy], "verbs": verbs});
            self.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                               "metadata": {"name": name}, "rules": [rule]}));
        };
        role("use-acme", &["use"]);
        role("grant-acme", &["use", "grant"]);
        role("grant-other", &["use", "grant"]);
        let user = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
        let robot = json!({"kind": "ServiceAccount", "name": "default", "namespace": SYSTEM});
        let writers = ["tenant", "manager", "granter", "rival"].map(user);
        for (kind, name, role, subjects) in [
            ("RoleBinding", "write", "guard-self-service", json!(writers)),
            ("ClusterRoleBinding", "use-acme", "use-acme", json!([user("manager")])),
            ("ClusterRoleBinding", "grant-acme", "grant-acme", json!([user("granter")])),
            ("ClusterRoleBinding", "grant-other", "grant-other", json!([user("rival")])),
            ("ClusterRoleBinding", "use-acme-rival", "use-acme", json!([user("rival")])),
            ("ClusterRoleBinding", "platform", "guard-platform", json!([user("platform"), robot])),
        ] {
            let mut metadata = json!({"name": name});
            if kind == "RoleBinding" {
                metadata["namespace"] = TEAM.into();
            }
            let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
            self.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata,
                               "roleRef": role, "subjects": subjects}));
        }
    }

    fn wait_until_it_guards(&self) {
        let mut forced = account("probe", &spec(&json!({})));
        forced["metadata"]["annotations"] = json!({"franking.io/force-delete": "true"});
        let probes = [("tenant", account("probe", &spec(&json!({})))), ("manager", forced)];
        let guarded = |answer: Result<String, String>| answer.is_err_and(|complaint| !kind_is_unknown(&complaint));
        let create = ["create", "--dry-run=server", "-f", "-"];
        eventually("the policies to guard", TAKEN_UP, || {
            probes.iter().all(|(who, probe)| guarded(self.run(who, &create, &probe.to_string()))).then_some(())
        });
        changed_by::wait_until_it_stamps(self);
    }

    /// What kubectl says as this user; the complaint where it is refused.
    fn run(&self, who: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let who: &[&str] = match who {
            "admin" => &[],
            "robot" => &["--as=system:serviceaccount:admission-system:default"],
            "operator" => &["--as=system:serviceaccount:admission-system:guard"],
            user => &[&format!("--as={user}")],
        };
        let output = self.plane.kubectl_stdin(&[arguments, &["--namespace", TEAM], who].concat(), input);
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn create(&self, who: &str, name: &str, spec: Value) -> Result<String, String> {
        self.run(who, &["create", "-f", "-"], &account(name, &spec).to_string())
    }

    fn change(&self, who: &str, name: &str, spec: Value) -> Result<String, String> {
        let patch = json!({"spec": spec}).to_string();
        self.run(who, &["patch", "subaccount", name, "--type=merge", "-p", &patch], "")
    }

    fn delete(&self, who: &str, name: &str) -> Result<String, String> {
        self.run(who, &["delete", "subaccount", name, "--timeout=30s"], "")
    }

    /// A new account of the plan `acme` with this in its spec.
    fn given(&self, name: &str, more: &Value) {
        self.create("admin", name, spec(more)).unwrap_or_else(|error| panic!("{error}"));
    }
}

fn account(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "franking.io/v1alpha1", "kind": "SubAccount",
           "metadata": {"name": name, "namespace": TEAM}, "spec": spec})
}

fn spec(more: &Value) -> Value {
    let mut spec = json!({"policyRef": {"name": "acme"}});
    spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    spec
}

/// What is worth money or safety, as it is written.
fn guarded() -> Vec<(&'static str, Value)> {
    vec![
        ("spec.prepaid", json!({"prepaid": {"grants": [{"id": "first", "credits": 10}]}})),
        ("spec.prepaid", json!({"prepaid": {}})),
        ("spec.spendLimitMinor", json!({"spendLimitMinor": 1000})),
        ("spec.rateLimit", json!({"rateLimit": {"messages": 1, "per": "Second"}})),
        ("spec.suspended", json!({"suspended": true})),
        ("spec.allowedSenders", json!({"allowedSenders": ["a@example.com"]})),
    ]
}

#[track_caller]
fn refused(answer: Result<String, String>, words: &[&str]) {
    let said = answer.expect_err("it is refused");
    assert!(said.contains("forbidden") || said.contains("Forbidden"), "{said}");
    for words in words {
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_granted_it_changes_what_is_worth_money() {
    let gate = Gate::set().await;
    let uses =
        ["spec.policyRef.name: you may not attach accounts to the CreditPolicy", "the verb use on creditpolicies/"];
    let grants = ["the verb grant on creditpolicies/acme (franking.io)"];

    // Attaching takes `use`, on the very policy.
    refused(gate.create("tenant", "a", spec(&json!({}))), &uses);
    refused(gate.create("manager", "a", json!({"policyRef": {"name": "other"}})), &[uses[0], "\"other\""]);
    gate.create("manager", "plain", spec(&json!({"cap": {"credits": 5}, "displayName": "Plain"})))
        .expect("it may be used");
    refused(
        gate.change("manager", "plain", json!({"policyRef": {"name": "other"}})),
        &[uses[0], "creditpolicies/other"],
    );
    refused(
        gate.change("granter", "plain", json!({"policyRef": {"name": "other"}})),
        &[uses[0], "creditpolicies/other"],
    );

    // What is not worth money is changed by whoever may write accounts, and so is the cap, which the plan bounds.
    gate.change("tenant", "plain", json!({"cap": {"credits": 50}, "displayName": "Tenant's"}))
        .expect("it is not guarded");
    gate.change("tenant", "plain", json!({"deletionPolicy": "Retain", "suspended": false}))
        .expect("nothing is changed");
    refused(gate.change("manager", "plain", json!({"deletionPolicy": "Purge"})), &["spec.deletionPolicy", grants[0]]);
    gate.change("granter", "plain", json!({"deletionPolicy": "Purge"})).expect("it is granted");
    gate.change("tenant", "plain", json!({"deletionPolicy": null})).expect("to keep data needs nobody's leave");
    gate.delete("tenant", "plain").expect("nothing is lost with it");

    for (index, (field, more)) in guarded().into_iter().enumerate() {
        let names = [format!("made-{index}"), format!("set-{index}")];
        let [made, set] = names.each_ref().map(String::as_str);
        let none: Value = more.as_object().expect("a map").keys().map(|key| (key.clone(), Value::Null)).collect();
        // Made with it, given it, and rid of it.
        refused(gate.create("manager", made, spec(&more)), &[field, "you may not change this", grants[0]]);
        gate.create("granter", made, spec(&more)).expect(field);
        gate.given(set, &json!({}));
        refused(gate.change("manager", set, more.clone()), &[field, grants[0]]);
        gate.change("granter", set, more.clone()).expect(field);
        refused(gate.change("manager", set, none.clone()), &[field, grants[0]]);
        // Deleting is a way to be rid of it too, and another plan's grant is not this one's.
        refused(gate.delete("manager", set), &[field, "you may not delete", grants[0]]);
        gate.change("manager", set, json!({"displayName": "still mine"})).expect("nothing guarded is changed");
        gate.change("platform", set, json!({"policyRef": {"name": "other"}})).expect("the platform team may");
        refused(gate.change("manager", set, json!({"policyRef": {"name": "acme"}})), &[field, grants[0]]);
        let leaves = [field, "you may not take an account away", "the verb grant on creditpolicies/other"];
        refused(gate.change("granter", set, json!({"policyRef": {"name": "acme"}})), &leaves);
        gate.change("platform", set, json!({"policyRef": {"name": "acme"}})).expect("the platform team may");
        gate.change("granter", made, none).expect(field);
        gate.delete("manager", made).expect("nothing guarded is left");
        gate.delete("platform", set).expect("the platform team may");
    }
}

/// One who may grant on another plan takes an account there, drops what this plan imposed, and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_on_one_policy_strips_nothing_that_another_imposed() {
    let gate = Gate::set().await;
    for (index, (field, more)) in guarded().into_iter().enumerate() {
        let name = format!("held-{index}");
        gate.given(&name, &more);
        let mut dropped: Value =
            more.as_object().expect("a map").keys().map(|key| (key.clone(), Value::Null)).collect();
        dropped["policyRef"] = json!({"name": "other"});
        let words = [field, "you may not take an account away", "the verb grant on creditpolicies/acme"];
        refused(gate.change("rival", &name, dropped), &words);
        // Kept, it could be dropped there.
        refused(gate.change("rival", &name, json!({"policyRef": {"name": "other"}})), &words);
        refused(gate.delete("rival", &name), &[field, "you may not delete"]);
        // What is theirs they may take along and drop.
        let own = format!("own-{index}");
        let mut theirs = more.clone();
        theirs["policyRef"] = json!({"name": "other"});
        gate.create("rival", &own, theirs).expect("it is granted");
        let none: Value = more.as_object().expect("a map").keys().map(|key| (key.clone(), Value::Null)).collect();
        gate.change("rival", &own, none).expect("it is granted");
        gate.change("rival", &own, json!({"policyRef": {"name": "acme"}})).expect("it takes nothing along");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_its_robots_and_the_operator_do_their_work_and_a_namespace_goes_with_its_accounts() {
    let gate = Gate::set().await;
    let all = guarded().into_iter().map(|(_, more)| more).collect::<Vec<_>>();
    let mut everything = json!({"deletionPolicy": "Purge"});
    for more in &all {
        everything.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    }
    // GitOps: applied by a service account with the platform's role, twice, and with a change.
    let apply = ["apply", "--server-side", "--field-manager=gitops", "-f", "-"];
    for more in [everything.clone(), everything.clone(), json!({"suspended": true})] {
        gate.run("robot", &apply, &account("git", &spec(&more)).to_string()).expect("the robot may");
    }
    gate.given("held", &everything);
    // The operator holds and lets go of an object, and changes nothing else.
    let held = json!({"metadata": {"finalizers": ["franking.io/ledger"]}}).to_string();
    let free = json!({"metadata": {"finalizers": []}}).to_string();
    for patch in [&held, &free, &held] {
        gate.run("operator", &["patch", "subaccount", "held", "--type=merge", "-p", patch], "")
            .expect("the operator may");
    }
    refused(gate.change("operator", "held", json!({"suspended": false})), &["spec.suspended", "verb grant"]);
    // A namespace that goes takes its guarded accounts along, as nobody in particular.
    gate.run("admin", &["delete", "namespace", TEAM, "--wait=false"], "").expect("the administrator may");
    eventually("the account to go with its namespace", TAKEN_UP, || {
        let deleted_at = ["get", "subaccount", "held", "-o", "jsonpath={.metadata.deletionTimestamp}"];
        gate.run("admin", &deleted_at, "").is_ok_and(|at| !at.is_empty()).then_some(())
    });
    gate.run("operator", &["patch", "subaccount", "held", "--type=merge", "-p", &free], "").expect("the operator may");
    succeeded(gate.plane.kubectl(&["wait", "--for=delete", &format!("namespace/{TEAM}"), "--timeout=60s"]));
}

/// An object of each kind that the operator holds, with its plural and its namespace.
fn held() -> [(&'static str, Value); 3] {
    let object = |kind: &str, namespace: Option<&str>, spec: Value| {
        let metadata = json!({"name": "held", "namespace": namespace, "finalizers": ["franking.io/ledger", "a.com/b"]});
        json!({"apiVersion": "franking.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let upstream = json!({"upstream": {"host": "smtp.example.com"}});
    let account = json!({"subAccountRef": {"name": "held"}});
    [
        ("creditpolicy", object("CreditPolicy", None, upstream)),
        ("subaccount", object("SubAccount", Some(TEAM), spec(&json!({})))),
        ("subaccountapikey", object("SubAccountApiKey", Some(TEAM), account)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operator_takes_its_finalizer_off_and_only_the_platform_team_has_it_forced() {
    let gate = Gate::set().await;
    let merge = |who: &str, kind: &str, patch: &Value| {
        gate.run(who, &["patch", kind, "held", "--type=merge", "-p", &patch.to_string()], "")
    };
    for (kind, object) in held() {
        gate.apply(&object);
        let writers: &[&str] =
            if kind == "creditpolicy" { &["platform", "robot"] } else { &["granter", "platform", "robot"] };
        for who in writers {
            for finalizers in [json!(null), json!([]), json!(["a.com/b"])] {
                let patch = json!({"metadata": {"finalizers": finalizers}});
                refused(merge(who, kind, &patch), &["only the operator takes franking.io/ledger off"]);
            }
            let mut replaced = object.clone();
            replaced["metadata"]["finalizers"] = json!([]);
            refused(gate.run(who, &["replace", "-f", "-"], &replaced.to_string()), &["use kubectl apply"]);
            // What is not the operator's is anybody's who may write the object, and the operator's may be put on.
            let others = json!({"metadata": {"finalizers": ["franking.io/ledger", "c.com/d"], "labels": {"by": *who}}});
            merge(who, kind, &others).expect("the operator's stays");
        }
        let forced = json!({"metadata": {"annotations": {"franking.io/force-delete": "true"}}});
        if kind != "creditpolicy" {
            refused(merge("granter", kind, &forced), &["the verb force-delete on creditpolicies"]);
        }
        merge("platform", kind, &forced).expect("the platform team may");
        // What stands is no news: others may go on writing the object.
        merge(writers[0], kind, &json!({"metadata": {"labels": {"other": "edit"}}})).expect("nothing is forced");
        // The garbage collector waits for dependents, deletes, and leaves our finalizer alone.
        gate.run("platform", &["delete", kind, "held", "--cascade=foreground", "--wait=false"], "").expect("it may");
        let only_ours = r#"["franking.io/ledger","c.com/d"]"#;
        eventually("the garbage collector to get through", TAKEN_UP, || {
            let finalizers = gate.run("admin", &["get", kind, "held", "-o", "jsonpath={.metadata.finalizers}"], "");
            (finalizers.as_deref() == Ok(only_ours)).then_some(())
        });
        refused(merge("platform", kind, &json!({"metadata": {"finalizers": []}})), &["only the operator"]);
        merge("operator", kind, &json!({"metadata": {"finalizers": []}})).expect("the operator may");
        gate.run("admin", &["wait", "--for=delete", kind, "held", "--timeout=60s"], "").expect("it is gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_expressions_fit_the_schemas() {
    let gate = Gate::set().await;
    let deadline = Instant::now() + TAKEN_UP;
    for name in ["guard-subaccounts", "guard-finalizers", "guard-secrets", "guard-keys", "guard-deletions"] {
        let status = loop {
            let policy = gate.run("admin", &["get", "validatingadmissionpolicy", name, "-o", "json"], "");
            let policy: Value = serde_json::from_str(&policy.expect("it is there")).expect("JSON");
            if policy["status"]["observedGeneration"] == policy["metadata"]["generation"] {
                break policy["status"].clone();
            }
            assert!(Instant::now() < deadline, "the controller manager has not looked at it: {policy}");
            std::thread::sleep(POLL);
        };
        assert_eq!(status["typeChecking"]["expressionWarnings"], Value::Null, "{status}");
    }
}

#[test]
fn it_can_be_switched_off() {
    let rendered = render(SYSTEM, &["--set", "admission.enabled=false"]);
    assert!(!rendered.contains("ValidatingAdmissionPolicy"));
}

/// Everybody who tests with the chart's identity meets the same names.
#[test]
fn it_is_on_by_default_and_says_no_to_what_it_cannot_judge() {
    let rendered = render(SYSTEM, &[]);
    assert!(rendered.contains("kind: ValidatingAdmissionPolicyBinding") && rendered.contains("failurePolicy: Fail"));
    assert!(!identity::operator_rbac("admission-identity").contains("grant"), "the operator needs no right to grant");
}
