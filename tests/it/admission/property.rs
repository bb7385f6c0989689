//! Holds `domain::guarded` equal to the chart's admission policy, for any change by any user.

use franking::domain::guarded::{Field, GuardedSpec, Need, guarded};
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, ResourceExt as _};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::{Gate, TEAM, account};

const SEED: u64 = 10;
const CASES: usize = 400;
const POLICIES: [&str; 2] = ["acme", "other"];
const VERBS: [&str; 2] = ["use", "grant"];

/// A group of those who have a verb on a policy.
fn group(verb: &str, policy: &str) -> String {
    format!("may-{verb}-{policy}")
}

/// A client that impersonates a user in these groups.
async fn client_of(gate: &Gate, groups: &[String]) -> Client {
    let mut kubeconfig = Kubeconfig::read_from(gate.plane.admin_kubeconfig()).expect("a kubeconfig");
    for named in &mut kubeconfig.auth_infos {
        let user = named.auth_info.as_mut().expect("a user");
        // One who may write accounts, as the chart's role for self-service says.
        user.impersonate = Some("tenant".to_owned());
        user.impersonate_groups = Some(groups.to_vec());
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a config");
    Client::try_from(config).expect("a client")
}

fn accounts(client: Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("franking.io", "v1alpha1", "SubAccount");
    Api::namespaced_with(client, TEAM, &ApiResource::from_gvk(&kind))
}

/// A spec with each field absent, or one of its values, and some fields that are not guarded.
fn random(rng: &mut StdRng) -> Value {
    let mut spec = json!({"policyRef": {"name": POLICIES.choose(rng)}});
    let fields = [
        ("prepaid", vec![json!({}), json!({"grants": []}), json!({"grants": [{"id": "a", "credits": 1}]})]),
        ("rateLimit", vec![json!({"messages": 1, "per": "Hour"}), json!({"messages": 2, "per": "Hour"})]),
        ("spendLimitMinor", vec![json!(0), json!(5)]),
        ("allowedSenders", vec![json!([]), json!(["*@example.com"]), json!(["a@example.com", "*@example.com"])]),
        ("suspended", vec![json!(false), json!(true)]),
        ("deletionPolicy", vec![json!("Retain"), json!("Purge")]),
        ("cap", vec![json!({"credits": 1})]),
        ("displayName", vec![json!("x")]),
        ("alerts", vec![json!({"email": {"to": ["a@example.com"]}})]),
    ];
    for (field, values) in fields {
        if rng.random_bool(0.3) {
            spec[field] = values.choose(rng).expect("a value").clone();
        }
    }
    if spec["suspended"] == true && rng.random_bool(0.5) {
        spec["suspendReason"] = ["unpaid", "abuse"].choose(rng).map(|why| json!(why)).expect("a value");
    }
    spec
}

/// A change of some fields of a spec.
fn edited(spec: &Value, rng: &mut StdRng) -> Value {
    let (mut edited, other) = (spec.clone(), random(rng));
    let fields = spec.as_object().into_iter().chain(other.as_object()).flat_map(|map| map.keys());
    for field in fields.collect::<std::collections::BTreeSet<_>>() {
        if rng.random_bool(0.3) {
            match other.get(field) {
                Some(value) => edited[field] = value.clone(),
                None => drop(edited.as_object_mut().expect("a map").remove(field)),
            }
        }
    }
    // The kind refuses a reason without a suspension.
    if edited["suspended"] != true {
        edited.as_object_mut().expect("a map").remove("suspendReason");
    }
    edited
}

fn read(spec: Option<&Value>) -> Option<GuardedSpec> {
    spec.map(|spec| serde_json::from_value(spec.clone()).expect("a spec"))
}

/// The first need that these groups do not have, as the words of its refusal.
fn refusal(needs: &[Need], groups: &[String]) -> Option<Vec<String>> {
    let paths = |fields: &[Field]| fields.iter().map(|field| field.path()).collect::<Vec<_>>().join(", ");
    let missing = needs.iter().find(|need| match need {
        Need::Use { policy } => !groups.contains(&group("use", policy)),
        Need::Grant { policy, .. } | Need::GrantToLeave { policy, .. } => !groups.contains(&group("grant", policy)),
    })?;
    Some(match missing {
        Need::Use { policy } => vec![format!("the verb use on creditpolicies/{policy} ")],
        Need::Grant { policy, fields } => {
            vec![format!("{}: you may not change this", paths(fields)), format!("grant on creditpolicies/{policy} ")]
        }
        Need::GrantToLeave { policy, fields } => {
            vec![format!("{}: you may not ", paths(fields)), format!("grant on creditpolicies/{policy} ")]
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_and_the_admission_policy_guard_the_same() {
    let gate = Gate::set().await;
    for (verb, policy) in VERBS.into_iter().flat_map(|verb| POLICIES.map(|policy| (verb, policy))) {
        let (name, api) = (group(verb, policy), "rbac.authorization.k8s.io");
        let rule = json!({"apiGroups": ["franking.io"], "resources": ["creditpolicies"],
                          "resourceNames": [policy], "verbs": [verb]});
        gate.apply(&json!({"apiVersion": format!("{api}/v1"), "kind": "ClusterRole", "metadata": {"name": name},
                           "rules": [rule]}));
        gate.apply(
            &json!({"apiVersion": format!("{api}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
                           "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
                           "subjects": [{"apiGroup": api, "kind": "Group", "name": name}]}),
        );
    }
    let admin = accounts(gate.plane.admin_client().await);
    let (mut rng, mut refused) = (StdRng::seed_from_u64(SEED), 0);
    for case in 0..CASES {
        let old = rng.random_bool(0.8).then(|| random(&mut rng));
        let new = match &old {
            Some(_) if rng.random_bool(0.15) => None,
            Some(old) => Some(edited(old, &mut rng)),
            None => Some(random(&mut rng)),
        };
        let all = VERBS.into_iter().flat_map(|verb| POLICIES.map(|policy| group(verb, policy)));
        let groups: Vec<String> = all.filter(|_| rng.random_bool(0.7)).collect();
        let tenant = accounts(client_of(&gate, &groups).await);
        let said = change(&admin, &tenant, &format!("case-{case}"), old.as_ref(), new.as_ref()).await;
        let expected = refusal(&guarded(read(old.as_ref()).as_ref(), read(new.as_ref()).as_ref()), &groups);
        let shown = format!("seed {SEED}, case {case}: {old:?} to {new:?} by {groups:?}: {expected:?}");
        match (said, expected) {
            (Ok(()), None) => {}
            (Err(words), Some(expected)) => {
                refused += 1;
                assert!(expected.iter().all(|part| words.contains(part.as_str())), "{shown} but {words}");
            }
            (Ok(()), Some(_)) => panic!("{shown} but it is taken"),
            (Err(words), None) => panic!("{shown} but {words}"),
        }
    }
    assert!((CASES / 4..CASES * 3 / 4).contains(&refused), "{refused} of {CASES} are refused: too few to tell");
}

/// Tries a change, and leaves nothing behind.
async fn change(
    admin: &Api<DynamicObject>,
    tenant: &Api<DynamicObject>,
    name: &str,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<(), String> {
    let object = |spec: &Value| serde_json::from_value::<DynamicObject>(account(name, spec)).expect("an object");
    let stored = match old {
        Some(old) => Some(admin.create(&PostParams::default(), &object(old)).await.expect("the administrator may")),
        None => None,
    };
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let answer = match (&stored, new) {
        (Some(stored), Some(new)) => {
            let mut next = object(new);
            next.metadata.resource_version = stored.resource_version();
            tenant.replace(name, &dry_run, &next).await.map(drop)
        }
        (None, Some(new)) => tenant.create(&dry_run, &object(new)).await.map(drop),
        (_, None) => tenant.delete(name, &DeleteParams { dry_run: true, ..DeleteParams::default() }).await.map(drop),
    };
    if stored.is_some() {
        admin.delete(name, &DeleteParams::default()).await.expect("the administrator may");
    }
    answer.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => status.message.clone(),
        other => panic!("{name}: {other}"),
    })
}
