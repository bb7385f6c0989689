//! A running operator, and sentences about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use franking::crd::{self, CreditPolicy, SubAccount, SubAccountApiKey};
use franking::domain::credential::{HashKey, Password, Stage, Username, opens};
use franking::domain::directory::{Entry, Sender};
use franking::domain::id::Holder;
use franking::domain::relay_config::{InstallationKeys, KeyBytes};
use franking::ledger::Store;
use franking::ledger::sqlite::{self, SqliteStore};
use franking::operator::{self, Dependencies, Endpoint, Settings};
use franking::runtime::clock::{Clock, ManualClock, SystemClock};
use franking::runtime::health::Health;
use franking::runtime::metrics::{Registry, render};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::discovery::ApiResource;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config, Resource, ResourceExt as _};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fuse::{Fragile, Fuse, Wire};
use crate::support::control_plane::{ControlPlane, Options};

/// Where the operator lives in the tests.
pub const SYSTEM: &str = "franking-system";
/// Everything here takes milliseconds on a quiet machine.
const DEADLINE: Duration = Duration::from_secs(60);

pub fn keys() -> InstallationKeys {
    InstallationKeys { hash: KeyBytes([1; 32]), seal: KeyBytes([2; 32]) }
}

/// Exactly the rights that `src/operator/mod.rs` lists.
fn rules() -> Value {
    let kinds = ["creditpolicies", "subaccounts", "subaccountapikeys"];
    json!([
        {"apiGroups": ["franking.io"], "resources": kinds, "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["franking.io"], "resources": kinds.map(|kind| format!("{kind}/status")), "verbs": ["patch"]},
        {"apiGroups": ["franking.io"], "resources": kinds.map(|kind| format!("{kind}/finalizers")), "verbs": ["update"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ])
}

/// A control plane with the kinds and the operator's identity.
pub struct Plane {
    pub control: ControlPlane,
    kubeconfig: PathBuf,
}

impl Plane {
    fn start() -> Self {
        let control = ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let kubeconfig = runtime.block_on(async {
            let admin = control.admin_client().await;
            install(&admin).await;
            let identity = control.client_as_service_account(SYSTEM, "operator").await;
            identity.unwrap_or_else(|error| panic!("{error}")).0
        });
        Self { control, kubeconfig }
    }
}

async fn install(admin: &Client) {
    for crd in crd::all() {
        let value = serde_json::to_value(&crd).expect("json");
        apply_any(admin, value).await;
    }
    let binding = json!({"kind": "ServiceAccount", "name": "operator", "namespace": SYSTEM});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "franking-operator"});
    for object in [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator", "namespace": SYSTEM}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
               "metadata": {"name": "franking-operator"}, "rules": rules()}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
               "metadata": {"name": "franking-operator"}, "roleRef": role, "subjects": [binding]}),
    ] {
        apply_any(admin, object).await;
    }
    for crd in crd::all() {
        let api: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
            Api::all(admin.clone());
        let established = kube::runtime::conditions::is_crd_established();
        let waited = tokio::time::timeout(DEADLINE, await_condition(api, &crd.name_any(), established)).await;
        waited.expect("the kinds are established in time").expect("the watch works");
    }
}

/// Server-side apply of any object, as `kubectl apply --server-side` does it.
async fn apply_any(client: &Client, object: Value) {
    let types: kube::core::TypeMeta = serde_json::from_value(object.clone()).expect("types");
    let kind = kube::core::GroupVersionKind::try_from(&types).expect("a kind");
    let resource = ApiResource::from_gvk(&kind);
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let parameters = PatchParams::apply("tests").force();
    api.patch(&object.name_any(), &parameters, &Patch::Apply(&object)).await.expect("the object is applied");
}

/// Each operator has its own: two with the same would mint the same passwords.
static SEED: AtomicU64 = AtomicU64::new(1);

/// One operator that is up; it stops when this is dropped.
pub struct Running {
    pub fuse: Arc<Fuse>,
    pub ledger: Arc<Fragile>,
    pub registry: Registry,
    pub endpoint: tokio::sync::watch::Sender<Endpoint>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), operator::Error>>,
}

pub fn endpoint() -> Endpoint {
    Endpoint {
        host: "relay.franking.svc".to_owned(),
        ports: vec![("submissions".to_owned(), 465), ("submission".to_owned(), 587)],
        tls_port: Some(465),
        starttls_port: Some(587),
        ca_pem: Some("-----BEGIN CERTIFICATE-----\n".to_owned()),
    }
}

impl Running {
    /// Starts an operator on the present runtime.
    pub async fn start(
        kubeconfig: &Path,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        stop_after: Option<i64>,
    ) -> Self {
        let fuse = Fuse::after(stop_after);
        let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the operator's kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a config");
        let builder = ClientBuilder::try_from(config).expect("a client");
        let client = builder.with_layer(&Wire(fuse.clone())).build();
        let ledger = Fragile::new(store, fuse.clone());
        let (sender, receiver) = tokio::sync::watch::channel(endpoint());
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let dependencies = Dependencies {
            client,
            store: ledger.clone(),
            settings: Settings { namespace: SYSTEM.to_owned(), ..Settings::default() },
            endpoint: receiver,
            keys: keys(),
            clock,
            rng: StdRng::seed_from_u64(SEED.fetch_add(1, Ordering::SeqCst)),
            registry: registry.clone(),
            health: Health::default(),
            name: "operator".to_owned(),
        };
        let task = tokio::spawn(operator::run(dependencies, shutdown.clone()));
        Self { fuse, ledger, registry, endpoint: sender, shutdown, task }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the operator does not panic").expect("the operator ends well");
    }

    /// Waits until so many reconciles have succeeded.
    pub async fn reconciled(&self, count: u64) {
        let done = || {
            let text = render(&self.registry);
            let totals = text.lines().filter(|line| {
                line.starts_with("controller_runtime_reconcile_total") && line.contains("result=\"success\"")
            });
            totals.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum::<u64>() >= count
        };
        poll("reconciles", done).await;
    }

    pub async fn until_metric(&self, line: &str) {
        poll(line, || render(&self.registry).lines().any(|found| found == line)).await;
    }

    /// As `kill -9` would: nothing is finished.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("it was killed").is_cancelled());
    }
}

pub fn store(folder: &Path, clock: Arc<dyn Clock>) -> Arc<dyn Store> {
    let path = folder.join("ledger.db");
    sqlite::prepare(&path, Uuid::nil(), "test", Uuid::nil(), clock.now()).expect("a ledger");
    Arc::new(SqliteStore::open(&path, clock).expect("a ledger"))
}

/// The operator that most tests share.
pub struct Shared {
    pub plane: Plane,
    pub store: Arc<dyn Store>,
    pub clock: ManualClock,
}

pub fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        std::thread::spawn(start_shared).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn start_shared() -> Shared {
    let plane = Plane::start();
    let clock = ManualClock::new(SystemClock.now());
    // Lives as long as the process; the folder goes with the machine's temporary files.
    let folder = plane.control.base_dir().join("ledger");
    std::fs::create_dir_all(&folder).expect("a folder");
    let ledger = store(&folder, Arc::new(clock.clone()));
    let shared = Shared { plane, store: ledger.clone(), clock: clock.clone() };
    let kubeconfig = shared.plane.kubeconfig.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let running = Running::start(&kubeconfig, ledger, Arc::new(clock), None).await;
            let ended = running.task.await;
            panic!("the shared operator ended: {ended:?}");
        });
    });
    shared
}

/// The control plane of the tests that cannot share the operator.
pub fn plane() -> &'static Plane {
    static ALONE: OnceLock<Plane> = OnceLock::new();
    ALONE.get_or_init(|| {
        std::thread::spawn(Plane::start).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// One test at a time has that control plane.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}

impl Plane {
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

/// A namespace and a policy of one test's own, both called `name`.
pub struct World {
    pub client: Client,
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub name: String,
}

impl World {
    /// In the cluster of the shared operator.
    pub async fn shared(name: &str) -> Self {
        let shared = tokio::task::spawn_blocking(shared).await.expect("the shared operator starts");
        let client = shared.plane.control.admin_client().await;
        Self::new(client, shared.store.clone(), Arc::new(shared.clock.clone()), name).await
    }

    pub async fn new(client: Client, store: Arc<dyn Store>, clock: Arc<dyn Clock>, name: &str) -> Self {
        let world = Self { client, store, clock, name: name.to_owned() };
        world.make_namespace(name, json!({})).await;
        world
    }

    pub async fn make_namespace(&self, name: &str, labels: Value) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        apply_any(&self.client, namespace).await;
    }

    pub async fn policy(&self, name: &str, spec: Value) {
        self.apply("CreditPolicy", None, name, spec).await;
    }

    /// A policy that accounts can use, with more in its spec.
    pub async fn plain_policy(&self, name: &str, more: Value) {
        let mut spec = json!({"upstream": {"host": "smtp.example.com", "tls": "None"}});
        merge(&mut spec, more);
        self.policy(name, spec).await;
    }

    pub async fn account(&self, name: &str, more: Value) {
        let mut spec = json!({"policyRef": {"name": self.name}});
        merge(&mut spec, more);
        self.apply("SubAccount", Some(&self.name), name, spec).await;
    }

    pub async fn key(&self, name: &str, account: &str, more: Value) {
        let mut spec = json!({"subAccountRef": {"name": account}});
        merge(&mut spec, more);
        self.apply("SubAccountApiKey", Some(&self.name), name, spec).await;
    }

    pub async fn apply(&self, kind: &str, namespace: Option<&str>, name: &str, spec: Value) {
        let metadata = json!({"name": name, "namespace": namespace});
        let object = json!({"apiVersion": "franking.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
        apply_any(&self.client, object).await;
    }

    pub fn policies(&self) -> Api<CreditPolicy> {
        Api::all(self.client.clone())
    }

    pub fn accounts(&self) -> Api<SubAccount> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub fn keys(&self) -> Api<SubAccountApiKey> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.client.clone())
    }

    /// A policy, an account and a key, all ready; the key's Secret.
    pub async fn ready_key(&self) -> Secret {
        self.plain_policy(&self.name, json!({})).await;
        self.account("account", json!({})).await;
        self.key("key", "account", json!({})).await;
        ready(self.keys(), "key").await;
        self.secrets().get("key").await.expect("the key's secret")
    }

    /// Whether the relay would let this Secret's password in, and let it send.
    pub async fn may_send(&self, secret: &Secret) -> bool {
        let text = |key: &str| String::from_utf8(secret.data.as_ref().expect("data")[key].0.clone()).expect("text");
        let username = Username::try_from(text("username")).expect("a user name");
        let found: Option<Sender> = self.store.find_sender(&username).await.expect("the ledger answers");
        let Some(sender) = found else { return false };
        let password = Password::given(text("password"));
        let now = self.clock.now();
        let open = opens(&HashKey::new(&keys().hash.0), &sender.key.credentials, &password, now);
        open && sender.standing(now).is_ok()
    }
}

fn merge(into: &mut Value, more: Value) {
    let (Value::Object(into), Value::Object(more)) = (into, more) else { panic!("specs are objects") };
    into.extend(more);
}

/// Waits until the object is as `condition` wants it (`None`: gone).
pub async fn until<K, T>(api: Api<K>, name: &str, what: &str, condition: impl Fn(Option<&K>) -> Option<T>) -> T
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    T: Send,
{
    let holds = |object: Option<&K>| condition(object).is_some();
    let waited = tokio::time::timeout(DEADLINE, await_condition(api.clone(), name, holds)).await;
    let Ok(found) = waited else {
        let standing = api.get_opt(name).await.map(|object| format!("{object:?}")).unwrap_or_default();
        panic!("waited for {name}: {what}; it is {standing}");
    };
    let found = found.expect("the watch works");
    condition(found.as_ref()).expect("it held a moment ago")
}

/// The conditions of any of the three kinds.
pub trait Conditioned: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static {
    fn conditions(&self) -> &[Condition];
}

macro_rules! conditioned {
    ($($kind:ty),*) => {
        $(impl Conditioned for $kind {
            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
            }
        })*
    };
}

conditioned!(CreditPolicy, SubAccount, SubAccountApiKey);

fn holding<'a, K: Conditioned>(object: &'a K, kind: &str, status: &str) -> Option<&'a Condition> {
    let conditions = object.conditions().iter();
    conditions
        .filter(|condition| condition.observed_generation == object.meta().generation)
        .find(|condition| condition.type_ == kind && condition.status == status)
}

/// Waits for Ready=True of the present generation.
pub async fn ready<K: Conditioned>(api: Api<K>, name: &str) -> K {
    until(api, name, "Ready", |object| object.filter(|object| holding(*object, "Ready", "True").is_some()).cloned())
        .await
}

/// Waits for Stalled with this reason, and returns its sentence. Ready must say the same.
pub async fn stalled<K: Conditioned>(api: Api<K>, name: &str, reason: &str) -> String {
    until(api, name, &format!("Stalled, {reason}"), |object| {
        let object = object?;
        let stalled = holding(object, "Stalled", "True").filter(|condition| condition.reason == reason)?;
        holding(object, "Ready", "False").filter(|condition| condition.reason == reason)?;
        Some(stalled.message.clone())
    })
    .await
}

/// Waits for Ready=False with this reason and Reconciling, and returns its sentence.
pub async fn waiting<K: Conditioned>(api: Api<K>, name: &str, reason: &str) -> String {
    until(api, name, &format!("Reconciling, {reason}"), |object| {
        let object = object?;
        let waiting = holding(object, "Reconciling", "True").filter(|condition| condition.reason == reason)?;
        holding(object, "Ready", "False").map(|_| waiting.message.clone())
    })
    .await
}

pub async fn gone<K>(api: Api<K>, name: &str)
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    until(api, name, "gone", |object| object.is_none().then_some(())).await;
}

pub async fn delete<K>(api: &Api<K>, name: &str)
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    api.delete(name, &DeleteParams::default()).await.expect("the deletion is accepted");
}

pub async fn merge_patch<K>(api: &Api<K>, name: &str, patch: Value) -> K
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("the patch is accepted")
}

pub async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("the object is created")
}

pub fn text(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.clone(), String::from_utf8(value.0.clone()).expect("text"))).collect()
}

/// What has no event of its own is looked at again and again, within the deadline.
async fn poll(what: &str, mut done: impl FnMut() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let waited = async {
        while !done() {
            ticks.tick().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waited).await.is_ok(), "waited for {what}");
}

impl World {
    /// Removes all that the test made, with the operator running.
    pub async fn clear(&self) {
        delete(&self.namespaces(), &self.name).await;
        gone(self.namespaces(), &self.name).await;
        let made = self.policies().get_opt(&self.name).await.expect("the API server answers");
        if made.is_some() {
            delete(&self.policies(), &self.name).await;
            gone(self.policies(), &self.name).await;
        }
    }
}

impl World {
    /// Removes what the operator holds, and leaves the empty namespace to the controllers.
    pub async fn clear_quickly(&self) {
        for key in self.keys().list(&Default::default()).await.expect("a list").items {
            delete(&self.keys(), &key.name_any()).await;
            gone(self.keys(), &key.name_any()).await;
        }
        for account in self.accounts().list(&Default::default()).await.expect("a list").items {
            delete(&self.accounts(), &account.name_any()).await;
            gone(self.accounts(), &account.name_any()).await;
        }
        delete(&self.policies(), &self.name).await;
        gone(self.policies(), &self.name).await;
        delete(&self.namespaces(), &self.name).await;
    }
}

/// The versions of all objects of the world: what any write would change.
pub async fn snapshot(world: &World) -> BTreeMap<String, String> {
    async fn versions<K>(api: Api<K>) -> Vec<(String, String)>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let list = api.list(&Default::default()).await.expect("a list").items;
        let version = |object: &K| (format!("{}/{}", K::kind(&()), object.name_any()), object.resource_version());
        list.iter().map(version).map(|(name, version)| (name, version.unwrap_or_default())).collect()
    }
    let mut all = versions(world.policies()).await;
    all.extend(versions(world.accounts()).await);
    all.extend(versions(world.keys()).await);
    all.extend(versions(world.secrets()).await);
    all.into_iter().collect()
}

/// Waits until nothing has been written for a while: counts follow with a delay of two seconds, a second a tick.
pub async fn settled(world: &World) {
    let mut last = snapshot(world).await;
    let mut quiet = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let waited = async {
        while quiet < 10 {
            ticks.tick().await;
            let now = snapshot(world).await;
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waited).await.is_ok(), "the operator does not come to rest: {last:?}");
}

/// What stands in the end, without what differs between any two runs: ids, times, versions, passwords.
pub async fn shape(world: &World) -> Value {
    let conditions = |conditions: &[Condition]| -> Vec<String> {
        conditions
            .iter()
            .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason))
            .collect()
    };
    let mut objects = BTreeMap::new();
    for key in world.keys().list(&Default::default()).await.expect("a list").items {
        let status = key.status.clone().unwrap_or_default();
        let id = status.key_id.as_deref().expect("an id").parse().expect("a uuid");
        let entry = world.store.find(Holder::Key(id)).await.expect("the ledger answers");
        let Some(Entry::Key(entry)) = entry else { panic!("the directory lacks the key") };
        let stages: Vec<&str> = entry.credentials.iter().map(|credential| stage(&credential.stage)).collect();
        let shown = json!({
            "finalizers": key.metadata.finalizers, "conditions": conditions(key.conditions()), "stages": stages,
            "binding": status.binding, "overlap": status.credential.is_some_and(|c| c.previous_valid_until.is_some()),
        });
        objects.insert(format!("key/{}", key.name_any()), shown);
    }
    for account in world.accounts().list(&Default::default()).await.expect("a list").items {
        let shown = json!({"finalizers": account.metadata.finalizers, "conditions": conditions(account.conditions())});
        objects.insert(format!("account/{}", account.name_any()), shown);
    }
    for secret in world.secrets().list(&Default::default()).await.expect("a list").items {
        let keys: Vec<String> = text(&secret).into_keys().collect();
        let labels = secret.metadata.labels.clone();
        objects.insert(format!("secret/{}", secret.name_any()), json!({"keys": keys, "labels": labels}));
    }
    json!(objects)
}

fn stage(stage: &Stage) -> &'static str {
    match stage {
        Stage::Staged { .. } => "staged",
        Stage::Current { .. } => "current",
        Stage::Previous { .. } => "previous",
    }
}

/// Waits for an Event with this reason in the world's namespace.
pub async fn told(world: &World, reason: &str) -> Event {
    let api: Api<Event> = Api::namespaced(world.client.clone(), &world.name);
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let waited = async {
        loop {
            ticks.tick().await;
            let events = api.list(&Default::default()).await.expect("events").items;
            if let Some(event) = events.into_iter().find(|event| event.reason.as_deref() == Some(reason)) {
                return event;
            }
        }
    };
    tokio::time::timeout(DEADLINE, waited).await.expect("the event is written in time")
}
