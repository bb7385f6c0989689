//! The operator on the real API server: from empty to Ready, restart, edits, revocations.
//!
//! The floor of "from empty to Ready" is a bare loop that does the same writes to the same API server in the same run:
//! for an account a finalizer and a status, for a key a finalizer, a Secret and a status, with the same content.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use franking::crd::{CreditPolicy, SubAccount, SubAccountApiKey};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::mail::Credentials;
use crate::size::sized;
use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::{Franking, Home};
use crate::support::{client as smtp, identity};

/// Accounts, and as many keys (issue: 2,000 each).
const OBJECTS: usize = 2000;
const NAMESPACES: usize = 20;
/// What the bare loop and the loading have in flight at once: the operator's own concurrency for two kinds.
const CONCURRENCY: usize = 32;
const EDITS: usize = 200;
const REVOCATIONS: usize = 100;
/// How long nothing may be written before it counts as quiet: ten of the budget's turns.
const QUIET: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(600);
pub const SYSTEM: &str = "franking-system";

fn objects() -> usize {
    sized(OBJECTS, 100)
}

fn revocations_wanted() -> usize {
    sized(REVOCATIONS, 5)
}

fn flood_size() -> usize {
    sized(FLOOD, 20)
}

pub async fn run() {
    let objects = objects();
    let plane = ControlPlane::start(Options::default()).expect("a control plane");
    let admin = plane.admin_client().await;
    succeeded(plane.kubectl(&["apply", "--server-side", "-f", "crds"]));
    let (kubeconfig, _) = identity::operator(&plane, SYSTEM).await;

    load(&admin).await;
    let home = Home::new(&kubeconfig, SYSTEM);
    let began = Instant::now();
    let franking = home.start();
    let (sockets, memory) = wait_ready(&admin, &franking).await;
    let took = began.elapsed();
    assert_eq!(franking.stop(), 0);
    let floor = bare_loop(&admin).await;
    println!("floor: the same writes by a bare loop            {:7.1} s", floor.as_secs_f64());
    println!("{objects} accounts + {objects} keys, empty to Ready     {:7.1} s", took.as_secs_f64());
    println!("  ratio to the floor (goal 1.5)                  {:7.2}", took.as_secs_f64() / floor.as_secs_f64());
    println!("  sockets at most (goal under 100)               {sockets:7}");
    println!("  memory at most, MiB (goal under 150)           {memory:7}");

    // Figures trail behind in the budget of status writes; the default is for years, not for the minutes of a benchmark.
    home.tune("statusWritesPerSecond: 100");
    let franking = home.start();
    let before = settle(&admin, &home).await;
    assert_eq!(franking.stop(), 0);
    let began = Instant::now();
    let franking = home.start();
    let after = settle(&admin, &home).await;
    let changed = after.iter().filter(|(uid, version)| before.get(*uid) != Some(version)).count();
    let took = began.elapsed().saturating_sub(QUIET).as_secs_f64();
    println!("restart with all standing: looked through in at most {took:.1} s, objects written (goal 0)  {changed}");

    report("edit of a key → Secret changed", edits(&admin).await);
    let mut standing = 0..objects;
    report("revoke → refused by the relay, quiet", revocations(&admin, &mut standing).await);
    let flooded = revocations_under_flood(&admin, &mut standing).await;
    report("revoke → refused by the relay, another namespace makes 1,000 keys", flooded);
    drop(franking);
}

fn namespace(index: usize, prefix: &str) -> String {
    format!("{prefix}-{}", index % NAMESPACES)
}

pub async fn make_namespaces(admin: &Client, prefix: &str) {
    let namespaces = Api::<Namespace>::all(admin.clone());
    for index in 0..NAMESPACES {
        let body = json!({"metadata": {"name": namespace(index, prefix)}});
        let body = serde_json::from_value(body).expect("a namespace");
        namespaces.create(&PostParams::default(), &body).await.expect("it is new");
    }
}

fn account(index: usize) -> SubAccount {
    object(json!({
        "apiVersion": "franking.io/v1alpha1", "kind": "SubAccount",
        "metadata": {"name": format!("account-{index}")},
        "spec": {"policyRef": {"name": "bench"}, "displayName": format!("Account {index}"), "cap": {"credits": 1000}},
    }))
}

fn key(index: usize) -> SubAccountApiKey {
    object(json!({
        "apiVersion": "franking.io/v1alpha1", "kind": "SubAccountApiKey",
        "metadata": {"name": format!("key-{index}")},
        "spec": {"subAccountRef": {"name": format!("account-{index}")}, "secret": {"name": format!("key-{index}-smtp")}},
    }))
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a manifest of our own kind")
}

/// Makes so many accounts, each with a key.
pub async fn create_all(admin: &Client, prefix: &str, count: usize) {
    each(0..count, |index| {
        let admin = admin.clone();
        async move {
            let namespace = namespace(index, prefix);
            let accounts = Api::<SubAccount>::namespaced(admin.clone(), &namespace);
            accounts.create(&PostParams::default(), &account(index)).await?;
            Api::namespaced(admin, &namespace).create(&PostParams::default(), &key(index)).await.map(drop)
        }
    })
    .await;
}

async fn each<F: Future<Output = Result<(), kube::Error>>>(range: std::ops::Range<usize>, act: impl Fn(usize) -> F) {
    let done: Result<(), kube::Error> =
        futures::stream::iter(range.map(Ok)).try_for_each_concurrent(CONCURRENCY, act).await;
    done.expect("the API server takes it");
}

pub async fn make_policy(admin: &Client) {
    let policy: CreditPolicy = object(json!({
        "apiVersion": "franking.io/v1alpha1", "kind": "CreditPolicy", "metadata": {"name": "bench"},
        "spec": {
            "pool": {"credits": 1_000_000, "period": "Monthly"},
            "senders": {"domains": ["example.com"]},
            "upstream": {"host": "127.0.0.1", "port": 2500, "tls": "None"},
        },
    }));
    Api::all(admin.clone()).create(&PostParams::default(), &policy).await.expect("a policy");
}

async fn load(admin: &Client) {
    make_policy(admin).await;
    make_namespaces(admin, "bench").await;
    create_all(admin, "bench", objects()).await;
}

/// The writes of one account and its key, as the operator left them: what the bare loop has to write too.
struct Model {
    account_status: Value,
    key_status: Value,
    secret: Secret,
}

/// Loads objects of its own, then times the writes that an operator cannot do without, byte for byte the ones that it
/// did: API server and etcd have the same work with them.
async fn bare_loop(admin: &Client) -> Duration {
    make_namespaces(admin, "floor").await;
    create_all(admin, "floor", objects()).await;
    let models: Vec<Model> = futures::stream::iter(0..objects())
        .map(|index| model(admin.clone(), index))
        .buffered(CONCURRENCY)
        .collect()
        .await;
    let models = &models;
    let began = Instant::now();
    let finalizer = json!({"metadata": {"finalizers": ["bench.franking.io/floor"]}});
    let (finalizer, params) = (Patch::Merge(&finalizer), PatchParams::default());
    each(0..objects(), |index| {
        let (admin, params, finalizer) = (admin.clone(), &params, &finalizer);
        async move {
            let (namespace, model) = (namespace(index, "floor"), &models[index]);
            let accounts = Api::<SubAccount>::namespaced(admin.clone(), &namespace);
            let keys = Api::<SubAccountApiKey>::namespaced(admin.clone(), &namespace);
            let (account, key) = (format!("account-{index}"), format!("key-{index}"));
            accounts.patch(&account, params, finalizer).await?;
            accounts.patch_status(&account, params, &Patch::Merge(&model.account_status)).await?;
            keys.patch(&key, params, finalizer).await?;
            Api::namespaced(admin, &namespace).create(&PostParams::default(), &model.secret).await?;
            keys.patch_status(&key, params, &Patch::Merge(&model.key_status)).await.map(drop)
        }
    })
    .await;
    let took = began.elapsed();
    clear(admin).await;
    took
}

async fn model(admin: Client, index: usize) -> Model {
    let namespace = namespace(index, "bench");
    let (account, key) = (format!("account-{index}"), format!("key-{index}"));
    let account = Api::<SubAccount>::namespaced(admin.clone(), &namespace).get(&account).await.expect("an account");
    let key = Api::<SubAccountApiKey>::namespaced(admin.clone(), &namespace).get(&key).await.expect("a key");
    let secret =
        Api::<Secret>::namespaced(admin, &namespace).get(&format!("key-{index}-smtp")).await.expect("a Secret");
    Model {
        account_status: json!({"status": account.status}),
        key_status: json!({"status": key.status}),
        secret: Secret {
            metadata: ObjectMeta {
                name: secret.metadata.name,
                annotations: secret.metadata.annotations,
                // Without the owner, which is of another namespace.
                labels: secret.metadata.labels,
                ..ObjectMeta::default()
            },
            ..secret
        },
    }
}

/// The bare loop's own objects go, so that the operator does not find them.
async fn clear(admin: &Client) {
    let release = json!({"metadata": {"finalizers": null}});
    let release = Patch::Merge(&release);
    each(0..objects(), |index| {
        let (admin, params, release) = (admin.clone(), PatchParams::default(), &release);
        async move {
            let namespace = namespace(index, "floor");
            let accounts = Api::<SubAccount>::namespaced(admin.clone(), &namespace);
            let keys = Api::<SubAccountApiKey>::namespaced(admin.clone(), &namespace);
            let secrets = Api::<Secret>::namespaced(admin, &namespace);
            keys.patch(&format!("key-{index}"), &params, release).await?;
            accounts.patch(&format!("account-{index}"), &params, release).await?;
            keys.delete(&format!("key-{index}"), &DeleteParams::default()).await?;
            accounts.delete(&format!("account-{index}"), &DeleteParams::default()).await?;
            secrets.delete(&format!("key-{index}-smtp"), &DeleteParams::default()).await.map(drop)
        }
    })
    .await;
}

/// Waits until every key is Ready; the most sockets and MiB that were seen on the way.
async fn wait_ready(admin: &Client, franking: &Franking<'_>) -> (usize, u64) {
    let (mut sockets, mut memory, mut ready) = (0, 0, 0_usize);
    all_ready(Api::all(admin.clone()), objects(), || {
        ready += 1;
        if ready.is_multiple_of(objects() / 100) {
            sockets = sockets.max(open_sockets(franking.id()));
            memory = memory.max(resident_mib(franking.id()));
        }
    })
    .await;
    (sockets, memory)
}

/// Waits until so many keys are Ready, and calls `each` for every one. By a watch: listing thousands of objects again
/// and again would cost the API server more than the operator does.
async fn all_ready(keys: Api<SubAccountApiKey>, count: usize, mut each: impl FnMut()) {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut events = pin!(watcher(keys, watcher::Config::default()).applied_objects());
    let mut ready = BTreeSet::new();
    while ready.len() < count {
        let event = tokio::time::timeout_at(until, events.next()).await;
        let event = event.unwrap_or_else(|_| panic!("{} of {count} keys are Ready", ready.len()));
        let key = event.expect("the watch goes on").expect("the API server answers");
        if is_ready(&key) && ready.insert(key.uid()) {
            each();
        }
    }
}

fn is_ready(key: &SubAccountApiKey) -> bool {
    let conditions = key.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn open_sockets(process: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{process}/fd")).expect("our own child");
    entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

fn resident_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("our own child");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("kibibytes") / 1024
}

/// Until nothing was written and every object has been looked at: two looks at all versions, a while apart, that agree.
/// Returns them.
async fn settle(admin: &Client, home: &Home) -> BTreeMap<String, String> {
    let until = Instant::now() + PATIENCE;
    let mut before = versions(admin).await;
    loop {
        tokio::time::sleep(QUIET).await;
        let now = versions(admin).await;
        if now == before && reconciles(home) >= (2 * objects()) as f64 {
            return now;
        }
        assert!(Instant::now() < until, "the operator goes on writing");
        before = now;
    }
}

fn reconciles(home: &Home) -> f64 {
    let (_, text) = home.get("/metrics").unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("controller_runtime_reconcile_total"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// uid → resourceVersion of all that the operator may write.
async fn versions(admin: &Client) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut note = |uid: Option<String>, version: Option<String>| {
        versions.insert(uid.expect("stored"), version.expect("stored"));
    };
    for object in Api::<SubAccount>::all(admin.clone()).list(&ListParams::default()).await.expect("accounts") {
        note(object.uid(), object.resource_version());
    }
    for object in Api::<SubAccountApiKey>::all(admin.clone()).list(&ListParams::default()).await.expect("keys") {
        note(object.uid(), object.resource_version());
    }
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=franking");
    for object in Api::<Secret>::all(admin.clone()).list(&ours).await.expect("secrets") {
        note(object.uid(), object.resource_version());
    }
    versions
}

/// From the patch of a key's spec to the changed Secret, one after the other.
async fn edits(admin: &Client) -> Vec<Duration> {
    let mut times = Vec::with_capacity(EDITS);
    for index in 0..sized(EDITS, 5) {
        let namespace = namespace(index, "bench");
        let keys = Api::<SubAccountApiKey>::namespaced(admin.clone(), &namespace);
        let secrets = Api::<Secret>::namespaced(admin.clone(), &namespace);
        let name = format!("key-{index}-smtp");
        let old = secrets.get(&name).await.expect("a Secret").resource_version();
        let watch = kube::api::WatchParams::default().fields(&format!("metadata.name={name}"));
        let mut changes = secrets.watch(&watch, old.as_deref().unwrap_or("0")).await.expect("a watch").boxed();
        let edit = json!({"spec": {"secret": {"template": {"EDITED": format!("{{{{ .username }}}}/{index}")}}}});
        let began = Instant::now();
        keys.patch(&format!("key-{index}"), &PatchParams::default(), &Patch::Merge(&edit)).await.expect("an edit");
        changes.try_next().await.expect("the watch goes on").expect("a change");
        times.push(began.elapsed());
    }
    times
}

/// Keys that another namespace makes while revocations are timed.
const FLOOD: usize = 1000;
/// Floods at most, where one is over before [`REVOCATIONS`] were timed.
const FLOODS: usize = 10;
/// Between two questions whether a key may still send.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Times revocations one after the other, of keys that no earlier call has revoked.
async fn revocations(admin: &Client, keys: &mut std::ops::Range<usize>) -> Vec<Duration> {
    let mut times = Vec::with_capacity(REVOCATIONS);
    for index in keys.take(revocations_wanted()) {
        times.push(revocation(admin, index).await);
    }
    times
}

/// The same while another namespace makes keys, until enough were timed.
async fn revocations_under_flood(admin: &Client, keys: &mut std::ops::Range<usize>) -> Vec<Duration> {
    let mut times = Vec::with_capacity(REVOCATIONS);
    for flood in 0..FLOODS {
        if times.len() >= revocations_wanted() {
            break;
        }
        let began = Instant::now();
        let made = tokio::spawn(make_keys(admin.clone(), format!("flood-{flood}")));
        while !made.is_finished() {
            let index = keys.next().expect("there are more keys than revocations");
            times.push(revocation(admin, index).await);
        }
        made.await.expect("no panic");
        println!(
            "  {} keys of one namespace, empty to Ready under it  {:7.1} s",
            flood_size(),
            began.elapsed().as_secs_f64()
        );
    }
    times
}

/// Makes an account with [`FLOOD`] keys in a namespace of its own, and waits until all are Ready.
async fn make_keys(admin: Client, namespace: String) {
    let name: Namespace = object(json!({"metadata": {"name": namespace}}));
    Api::all(admin.clone()).create(&PostParams::default(), &name).await.expect("it is new");
    Api::namespaced(admin.clone(), &namespace).create(&PostParams::default(), &account(0)).await.expect("it is new");
    let keys = Api::<SubAccountApiKey>::namespaced(admin, &namespace);
    each(0..flood_size(), |index| {
        let keys = keys.clone();
        async move {
            let mut key = key(index);
            key.spec.sub_account_ref.name = "account-0".to_owned();
            keys.create(&PostParams::default(), &key).await.map(drop)
        }
    })
    .await;
    all_ready(keys, flood_size(), || {}).await;
}

/// From `revoked: true` to the first MAIL that the relay refuses, in a session that logged in before.
async fn revocation(admin: &Client, index: usize) -> Duration {
    let namespace = namespace(index, "bench");
    let keys = Api::<SubAccountApiKey>::namespaced(admin.clone(), &namespace);
    let secret = Api::<Secret>::namespaced(admin.clone(), &namespace).get(&format!("key-{index}-smtp")).await;
    let credentials = Credentials::from_secret(&secret.expect("a Secret")).expect("a Secret of ours");
    let relay = SocketAddr::from(([127, 0, 0, 1], credentials.port));
    let mut session = smtp::Client::connect_tls(relay, &credentials.certificates).await;
    session.ask("EHLO bench.example.com").await.is("250 ");
    session.login(&credentials.username, &credentials.password).await.is("235 ");
    let mut ticks = tokio::time::interval(ASK_EVERY);
    let revoke = json!({"spec": {"revoked": true}});
    let began = Instant::now();
    keys.patch(&format!("key-{index}"), &PatchParams::default(), &Patch::Merge(&revoke)).await.expect("an edit");
    while session.ask("MAIL FROM:<bench@example.com>").await.code == 250 {
        assert!(began.elapsed() < PATIENCE, "a revoked key still sends");
        session.ask("RSET").await.is("250 ");
        ticks.tick().await;
    }
    began.elapsed()
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1000.0;
    println!(
        "{what}, {} times with {} standing: p50 {:.0} ms, p99 {:.0} ms (goal 1000), most {:.0} ms",
        times.len(),
        objects(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
