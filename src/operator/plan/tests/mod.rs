//! A valid fixture and one mutation per refusal, for each kind; and the life of a password.

mod accounts;
mod credits;
mod devices;
mod handover;
mod steadfast;
mod truths;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use uuid::Uuid;

use super::credit_policy::{Login, Wanted};
use super::places::Places;
use super::sub_account::{Namespace, Policy};
use super::{Plan, Step, api_key, credit_policy, is_true, key_observed, secret, sub_account, transition};
use crate::crd::{
    AccountCounts, ConditionType, CreditPolicy, KeyCounts, Reason, SubAccount, SubAccountApiKey,
    SubAccountApiKeyStatus, SubAccountStatus, find_condition,
};
use crate::domain::credential::{Credential, HashKey, Password, Stage};
use crate::domain::directory::{AccountEntry, Entry, KeyEntry, Sealed};
use crate::domain::id::{AccountId, KeyId, PolicyId};
use crate::domain::period::Calendar;
use crate::domain::sender::MailDomain;
use crate::operator::object_ref::Name;
use crate::operator::plan::endpoint::Endpoint;
use crate::operator::plan::relay_state::RelayState;

fn now() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().expect("a time")
}

fn hash_key() -> HashKey {
    HashKey::new(&[3; 32])
}

fn endpoint() -> Endpoint {
    let ports = vec![("submissions".to_owned(), 465)];
    Endpoint {
        host: "relay.example.com".into(),
        ports,
        tls_port: Some(465),
        starttls_port: None,
        plain: None,
        ca_pem: None,
    }
}

fn object<T: serde::de::DeserializeOwned>(kind: &str, namespace: Option<&str>, name: &str, spec: Value) -> T {
    let metadata = json!({
        "name": name, "namespace": namespace, "uid": format!("uid-{name}"), "generation": 1,
        "finalizers": ["franking.io/ledger"], "creationTimestamp": "2026-11-01T00:00:00Z"
    });
    let object = json!({"apiVersion": "franking.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
    serde_json::from_value(object).expect("an object")
}

fn policy(more: Value) -> CreditPolicy {
    let senders = json!({"domains": ["example.com"]});
    let mut spec = json!({"senders": senders, "upstream": {"host": "smtp.example.com", "tls": "None"}});
    spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    object("CreditPolicy", None, "plan", spec)
}

fn account(more: Value) -> SubAccount {
    let mut spec = json!({"policyRef": {"name": "plan"}});
    spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    object("SubAccount", Some("team"), "shop", spec)
}

fn key(more: Value) -> SubAccountApiKey {
    let mut spec = json!({"subAccountRef": {"name": "shop"}});
    spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    object("SubAccountApiKey", Some("team"), "printer", spec)
}

/// Returns the reason of `Ready`, with `!` if the object is stalled.
fn verdict(conditions: &[Condition]) -> String {
    let ready = find_condition(conditions, ConditionType::Ready).expect("Ready is always there");
    let stalled = if is_true(conditions, ConditionType::Stalled) { "!" } else { "" };
    format!("{}{stalled}", ready.reason)
}

fn entries<S>(plan: &Plan<S>) -> Vec<&Entry> {
    let puts = plan.steps.iter().filter_map(|step| match step {
        Step::Put(entry) => Some(entry.as_ref()),
        Step::AddFinalizer
        | Step::CreateSecret(_)
        | Step::PatchSecret { .. }
        | Step::ReadBack { .. }
        | Step::DeleteSecret { .. }
        | Step::RemoveFinalizer => None,
    });
    puts.collect()
}

/// Returns the steps by one letter each: Finalizer, Put, Create, Write, Read back, Delete, Gone.
fn letters<S>(plan: &Plan<S>) -> String {
    let letter = |step: &Step| match step {
        Step::AddFinalizer => 'F',
        Step::Put(_) => 'P',
        Step::CreateSecret(_) => 'C',
        Step::PatchSecret { .. } => 'W',
        Step::ReadBack { .. } => 'R',
        Step::DeleteSecret { .. } => 'D',
        Step::RemoveFinalizer => 'G',
    };
    plan.steps.iter().map(letter).collect()
}

fn seen_account(policy_object: Option<CreditPolicy>) -> sub_account::Observed {
    sub_account::Observed {
        id: AccountId(Uuid::from_u128(2)),
        entry: None,
        namespace: Namespace { uid: "n".into(), ..Namespace::default() },
        policy: policy_object.map(|object| Policy {
            id: PolicyId(Uuid::from_u128(1)),
            object: Arc::new(object),
            stands: true,
            currency: None,
        }),
        claimant: Some(Name::new("team", "shop")),
        places: Places::default(),
        gauge: None,
        cost: Default::default(),
        keys: KeyCounts::default(),
        figures_permitted: false,
    }
}

fn standing_account() -> AccountEntry {
    let plan = sub_account::plan(&account(json!({})), &seen_account(Some(policy(json!({})))), now());
    let Some(Entry::Account(entry)) = entries(&plan).first().copied().cloned() else { panic!("an account is put") };
    entry
}

#[test]
fn each_state_of_an_upstreams_login_has_its_reason() {
    let observed = |login| credit_policy::Observed {
        id: PolicyId(Uuid::from_u128(1)),
        entry: None,
        login,
        namespace: "franking".into(),
        gauge: None,
        cost: Default::default(),
        accounts: AccountCounts::default(),
        limited: Default::default(),
        users: Vec::new(),
        endpoint: endpoint(),
        relay: RelayState::default(),
        config_hash: None,
        sightings: None,
        orphans: None,
        ledger_ahead: None,
        figures_permitted: false,
    };
    let upstream = json!({"upstream": {"host": "h.example.com", "credentialsSecretRef": {"name": "login"}}});
    let cases = [
        (Login::Missing(Wanted::Credentials), "SecretNotFound!", false),
        (Login::Missing(Wanted::ClientCertificate), "SecretNotFound!", false),
        (Login::Unlabelled(Wanted::Credentials), "SecretNotLabelled!", false),
        (Login::Unusable(Wanted::Credentials, "lacks password".into()), "SecretInvalid!", false),
        (Login::Sealed(Sealed("x".into())), "Ready", true),
    ];
    for (login, expected, usable) in cases {
        let plan = credit_policy::plan(&policy(upstream.clone()), &observed(login), now());
        let Entry::Policy(entry) = entries(&plan)[0] else { panic!("a policy") };
        assert_eq!(entry.upstream.is_some(), usable);
        assert_eq!(verdict(&plan.status.expect("a status").conditions), expected);
    }
    let mut leaving = policy(upstream);
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    let users = (0..12).map(|index| Name::new("team", format!("a{index}"))).collect();
    let held = credit_policy::plan(&leaving, &credit_policy::Observed { users, ..observed(Login::None) }, now());
    let status = held.status.as_ref().expect("a status");
    let sentence = &find_condition(&status.conditions, ConditionType::Ready).expect("Ready").message;
    assert!(letters(&held).is_empty() && sentence.contains("team/a9 and 2 more"), "{sentence}");
    let free = credit_policy::plan(&leaving, &observed(Login::None), now());
    assert_eq!(letters(&free), "G");
}

/// The directory and the Secret after the steps.
struct Scene {
    key: SubAccountApiKey,
    seen: key_observed::Observed,
    rng: StdRng,
}

impl Scene {
    fn new(more: Value) -> Self {
        let account = key_observed::Account {
            id: AccountId(Uuid::from_u128(2)),
            policy: "plan".to_owned(),
            programmed: true,
            refusal: None,
            stalled: false,
            senders: Some((vec![MailDomain::parse("example.com").expect("a domain")], None)),
            obstacle: None,
            sending: None,
            calendar: Some(Calendar::monthly_utc()),
        };
        let seen = key_observed::Observed {
            id: KeyId(Uuid::from_u128(3)),
            entry: None,
            namespace: Namespace { uid: "n".into(), ..Namespace::default() },
            account: Some(account),
            secret: None,
            others: Vec::new(),
            existing: None,
            is_existing_a_login: false,
            forbidden: None,
            endpoint: endpoint(),
            hash_key: hash_key(),
            rebuilding: false,
            gauge: None,
            denied: None,
            figures_permitted: false,
        };
        Self { key: key(more), seen, rng: StdRng::seed_from_u64(1) }
    }

    fn plan(&mut self) -> Plan<SubAccountApiKeyStatus> {
        api_key::plan(&self.key, &self.seen, now(), &mut self.rng)
    }

    /// Plans, and executes the first `steps` of the plan.
    fn run(&mut self, steps: usize) -> Plan<SubAccountApiKeyStatus> {
        let plan = self.plan();
        for step in plan.steps.iter().take(steps) {
            match step {
                Step::Put(entry) => {
                    let Entry::Key(entry) = entry.as_ref() else { panic!("a key") };
                    self.seen.entry = Some(entry.clone());
                }
                Step::CreateSecret(secret) => {
                    assert!(self.seen.secret.is_none(), "created over another");
                    self.seen.secret = Some(secret.as_ref().clone());
                }
                Step::PatchSecret { patch, .. } => {
                    let mut live = serde_json::to_value(&self.seen.secret).expect("json");
                    merge(&mut live, patch);
                    self.seen.secret = serde_json::from_value(live).expect("a secret");
                }
                Step::ReadBack { password, .. } => {
                    assert!(secret::carries(self.seen.secret.as_ref().expect("a secret"), password));
                }
                Step::DeleteSecret { .. } => self.seen.others.clear(),
                Step::AddFinalizer | Step::RemoveFinalizer => {}
            }
        }
        plan
    }

    fn settle(&mut self) -> Plan<SubAccountApiKeyStatus> {
        self.run(usize::MAX)
    }

    fn password(&self) -> Password {
        let secret = self.seen.secret.as_ref().expect("a secret");
        let bytes = &secret.data.as_ref().expect("data")["password"].0;
        Password::given(String::from_utf8(bytes.clone()).expect("text"))
    }

    fn works(&self, password: &Password) -> bool {
        let entry: &KeyEntry = self.seen.entry.as_ref().expect("an entry");
        crate::domain::credential::opens(&hash_key(), &entry.credentials, password, now())
    }

    fn set(&mut self, more: Value) {
        self.key.spec = key(more).spec;
    }

    fn write(&mut self, field: &str, value: &str) {
        let data = self.seen.secret.as_mut().expect("a secret").data.as_mut().expect("data");
        data.insert(field.into(), k8s_openapi::ByteString(value.as_bytes().to_vec()));
    }
}

/// Applies a merge patch (RFC 7396).
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        into.clone_from(patch);
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in patch {
        match (value, into.as_object_mut()) {
            (Value::Null, Some(map)) => drop(map.remove(name)),
            (value, _) => merge(&mut into[name.as_str()], value),
        }
    }
}

#[test]
fn a_password_rotates_by_itself_with_an_overlap_and_says_when() {
    let mut scene = Scene::new(json!({"rotation": {"every": "720h", "overlap": "1h"}}));
    let first = scene.settle();
    let at = |hours| now().checked_add(SignedDuration::from_hours(hours)).expect("a time");
    let rotates_at = |plan: &Plan<SubAccountApiKeyStatus>| {
        plan.status.as_ref().and_then(|status| status.credential.clone()?.rotates_at).map(|at| at.0)
    };
    assert_eq!((rotates_at(&first), first.requeue_at), (Some(at(720)), Some(at(720))));
    let old = scene.password();
    let plan_at = |scene: &mut Scene, hours| {
        let Scene { key, seen, rng } = scene;
        api_key::plan(key, seen, at(hours), rng)
    };
    assert_eq!(letters(&plan_at(&mut scene, 719)), "");
    let due = plan_at(&mut scene, 720);
    assert_eq!(letters(&due), "PWRP");
    assert!(due.events.iter().any(|notice| notice.note.contains("was rotated")), "{:?}", due.events);
    assert_eq!(rotates_at(&due), Some(at(1440)));
    let Entry::Key(entry) = entries(&due)[1] else { panic!("a key") };
    assert!(crate::domain::credential::opens(&hash_key(), &entry.credentials, &old, at(720)), "for the overlap");
    assert!(!crate::domain::credential::opens(&hash_key(), &entry.credentials, &old, at(722)));
    // A revoked or expired key gets no new password, and is not reconciled again and again.
    scene.set(json!({"expiresAt": "2026-11-01T00:00:00Z", "rotation": {"every": "720h"}}));
    let dead = plan_at(&mut scene, 721);
    assert!(!letters(&dead).contains(['C', 'W']) && rotates_at(&dead).is_none() && dead.requeue_at.is_none());
}

#[test]
fn a_first_password_is_staged_written_read_back_and_promoted() {
    let mut scene = Scene::new(json!({}));
    assert_eq!(letters(&scene.settle()), "PCRP");
    assert!(scene.works(&scene.password()));
    assert_eq!(letters(&scene.settle()), "", "nothing to do is nothing written");
}

#[test]
fn whatever_happened_to_the_secret_the_password_in_it_works_in_the_end() {
    type Fault = fn(&mut Scene);
    let cases: [(&str, Fault, bool); 5] = [
        ("deleted", |scene| scene.seen.secret = None, true),
        ("edited", |scene| scene.write("password", "chosen by hand"), true),
        ("host edited", |scene| scene.write("host", "elsewhere"), false),
        ("address changed", |scene| scene.seen.endpoint.host = "other.example.com".into(), false),
        ("rotated", |scene| scene.set(json!({"rotation": {"restartedAt": "2026-01-01T00:00:00Z"}})), true),
    ];
    for (what, fault, replaced) in cases {
        // Interrupted after each step, and finally not at all.
        for steps in [1, 2, 3, usize::MAX] {
            let mut scene = Scene::new(json!({}));
            scene.settle();
            let old = scene.password();
            fault(&mut scene);
            scene.run(steps);
            if scene.seen.secret.is_some() && what != "edited" {
                assert!(scene.works(&scene.password()), "{what}, stopped after {steps}");
            }
            scene.settle();
            assert_eq!(letters(&scene.settle()), "", "{what}, stopped after {steps}");
            assert!(scene.works(&scene.password()) && scene.works(&old), "{what}, stopped after {steps}");
            assert_eq!(scene.password() != old, replaced, "{what}, stopped after {steps}");
            let stages = &scene.seen.entry.as_ref().expect("an entry").credentials;
            assert!(stages.len() <= 2 && !stages.iter().any(|c| matches!(c.stage, Stage::Staged { .. })), "{what}");
        }
    }
}

#[test]
fn a_renamed_secret_keeps_its_password_and_the_old_one_goes_last() {
    let mut scene = Scene::new(json!({}));
    scene.settle();
    let old = scene.password();
    let mut live = scene.seen.secret.take().expect("a secret");
    (live.metadata.uid, live.metadata.resource_version) = (Some("u".into()), Some("1".into()));
    scene.seen.others = vec![live];
    scene.set(json!({"secret": {"name": "smtp"}}));
    assert_eq!(letters(&scene.settle()), "PCD");
    assert_eq!(scene.password(), old);
}

#[test]
fn an_expired_overlap_leaves_the_directory_and_not_the_secret() {
    let mut scene = Scene::new(json!({}));
    scene.settle();
    let hash = hash_key().hash(&Password::given("long ago"));
    let past = now().checked_sub(SignedDuration::from_secs(1)).expect("a time");
    let entry = scene.seen.entry.as_mut().expect("an entry");
    entry.credentials.push(Credential { hash, stage: Stage::Previous { until: past } });
    assert_eq!(letters(&scene.settle()), "P");
    assert_eq!(scene.seen.entry.expect("an entry").credentials.len(), 1);
}

fn refuse(scene: &mut Scene, refusal: Option<&str>) {
    let account = scene.seen.account.as_mut().expect("an account");
    (account.programmed, account.refusal) = (false, refusal.map(str::to_owned));
}

#[test]
fn a_new_key_says_nothing_before_its_account_was_looked_at() {
    let mut scene = Scene::new(json!({}));
    refuse(&mut scene, None);
    let plan = scene.plan();
    assert!(plan.status.is_none() && letters(&plan).contains('C'));
    scene.key.status = Some(Default::default());
    assert_eq!(verdict(&scene.plan().status.expect("a status").conditions), "AccountNotReady");
}

#[test]
fn each_refusal_of_a_key_has_its_reason_and_writes_no_secret() {
    type Edit = fn(&mut Scene);
    let foreign = |kind: &str| -> Secret {
        let owners = json!([{"apiVersion": "v1", "kind": kind, "name": "x", "uid": "x", "controller": true}]);
        let metadata = json!({"name": "printer", "ownerReferences": if kind.is_empty() { json!([]) } else { owners }});
        serde_json::from_value(json!({"metadata": metadata, "type": "servicebinding.io/smtp"})).expect("a secret")
    };
    let (loose, owned) = (foreign(""), foreign("Deployment"));
    let cases: [(&str, Edit, Option<Secret>); 8] = [
        ("Invalid!", |scene| scene.set(json!({"allowFrom": ["10.0.0.1/8"]})), None),
        ("AccountNotFound!", |scene| scene.seen.account = None, None),
        ("SecretConflict!", |_| {}, Some(loose.clone())),
        ("SecretConflict!", |scene| scene.set(json!({"secret": {"adopt": true}})), Some(owned)),
        ("SecretConflict!", |scene| scene.set(json!({"secret": {"adopt": true, "type": "Opaque"}})), Some(loose)),
        ("Revoked!", |scene| scene.set(json!({"revoked": true})), None),
        ("Expired!", |scene| scene.set(json!({"expiresAt": "2026-11-22T10:00:00Z"})), None),
        ("AccountNotReady", |scene| refuse(scene, Some("no")), None),
    ];
    for (expected, edit, secret) in cases {
        let mut scene = Scene::new(json!({}));
        scene.seen.secret = secret;
        edit(&mut scene);
        let plan = scene.plan();
        assert_eq!(verdict(&plan.status.as_ref().expect("a status").conditions), expected);
        // A pod gets its Secret even while the account is awaited.
        let writes = letters(&plan).contains(['C', 'W']);
        assert_eq!(writes, expected == "AccountNotReady", "{expected}");
    }
}

#[test]
fn a_key_of_a_refused_account_waits_for_an_edit_and_not_for_work() {
    let mut scene = Scene::new(json!({}));
    scene.settle();
    refuse(&mut scene, Some("spec.cap: above the ceiling"));
    scene.seen.account.as_mut().expect("an account").stalled = true;
    let conditions = scene.plan().status.expect("a status").conditions;
    assert_eq!(verdict(&conditions), "AccountNotReady!");
    let told = transition(&scene.key.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default(), &conditions);
    assert!(told.expect("an event").note.contains("above the ceiling"));
}

#[test]
fn a_key_that_may_never_send_is_not_ready_and_keeps_its_password() {
    for (senders, expected) in [
        (json!(["a@example.com"]), "Ready"),
        (json!(["*@other.example"]), "SendersNotPermitted!"),
        (json!(["*@other.example", "*@example.com"]), "Ready"),
    ] {
        let mut scene = Scene::new(json!({"allowedSenders": senders}));
        let plan = scene.plan();
        assert!(letters(&plan).contains('C'), "{senders}");
        assert_eq!(verdict(&plan.status.expect("a status").conditions), expected, "{senders}");
    }
}

#[test]
fn a_hold_and_its_end_are_news_once() {
    let state = |reason: Reason, holds: bool| {
        crate::crd::Conditions::new(&[], Some(1), now()).set(ConditionType::Ready, holds, reason, "why").build()
    };
    let ready = state(Reason::Ready, true);
    let narrowed = [Reason::RequiredByPolicy, Reason::SendersNotPermitted];
    for hold in [Reason::Suspended, Reason::ParentSuspended, Reason::InUse].into_iter().chain(narrowed) {
        for holds in [true, false] {
            let held = state(hold, holds);
            let notice = transition(&ready, &held).expect("an event");
            assert_eq!((notice.warning, notice.reason, notice.note.as_str()), (true, hold, "why"));
            assert_eq!(transition(&held, &held), None);
            assert!(transition(&held, &ready).is_some_and(|notice| !notice.warning));
        }
    }
    assert_eq!(transition(&ready, &ready), None);
}

#[test]
fn only_stops_and_recoveries_are_news() {
    let conditions = |key: &mut Scene| key.plan().status.expect("a status").conditions;
    let ready = conditions(&mut Scene::new(json!({})));
    let revoked = conditions(&mut Scene::new(json!({"revoked": true})));
    assert_eq!(transition(&[], &ready), None);
    assert_eq!(transition(&revoked, &revoked), None);
    assert!(transition(&ready, &revoked).is_some_and(|notice| notice.warning));
    assert!(transition(&revoked, &ready).is_some_and(|notice| !notice.warning));
}
