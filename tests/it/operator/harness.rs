//! A running operator, and sentences about it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use franking::crd::{self, CreditPolicy, SubAccount, SubAccountApiKey};
use franking::domain::credential::{HashKey, Password, Username, opens};
use franking::domain::directory::Named;
use franking::ledger::Store;
use franking::ledger::sqlite::{self, SqliteStore};
use franking::operator;
use franking::operator::dependencies::{Dependencies, OperatorSettings};
use franking::operator::plan::endpoint::Endpoint;
use franking::operator::plan::relay_state::RelayState;
use franking::operator::state::lease::Leadership;
use franking::runtime::clock::{Clock, ManualClock, SystemClock};
use franking::runtime::health::Health;
use franking::runtime::metrics::{Registry, render};
use franking::runtime::relay_config::{InstallationKeys, KeyBytes};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::discovery::ApiResource;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config, ResourceExt as _};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fuse::{Fragile, Fuse, FuseLayer};
use super::waits::{delete, gone, poll, ready};
use crate::intercepted::Intercepted;
use crate::support::control_plane::{ControlPlane, Options};

/// Where the operator lives in the tests.
pub const SYSTEM: &str = "franking-system";
/// Everything here takes milliseconds on a quiet machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn keys() -> InstallationKeys {
    InstallationKeys { hash: KeyBytes([1; 32]), seal: KeyBytes([2; 32]) }
}

/// Exactly the rights that `src/operator/mod.rs` lists.
fn rules() -> Value {
    let kinds = ["creditpolicies", "subaccounts", "subaccountapikeys"];
    json!([
        {"apiGroups": ["franking.io"], "resources": kinds, "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["franking.io"], "resources": kinds.map(|kind| format!("{kind}/status")), "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "patch"]},
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
pub async fn apply_any(client: &Client, object: Value) {
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
    pub ledger: Arc<Intercepted<Fragile>>,
    pub registry: Registry,
    pub endpoint: tokio::sync::watch::Sender<Endpoint>,
    pub relay: tokio::sync::watch::Sender<RelayState>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), operator::Error>>,
}

pub fn endpoint() -> Endpoint {
    Endpoint {
        host: "relay.franking.svc".to_owned(),
        ports: vec![("submissions".to_owned(), 465), ("submission".to_owned(), 587)],
        tls_port: Some(465),
        starttls_port: Some(587),
        plain: None,
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
        Self::start_behind(Fuse::after(stop_after), kubeconfig, store, clock).await
    }

    /// The same, behind a fuse whose valves may be shut from the beginning.
    pub async fn start_behind(
        fuse: Arc<Fuse>,
        kubeconfig: &Path,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::start_as(None, fuse, kubeconfig, store, clock).await
    }

    /// The same, beside others where there is a leadership.
    pub async fn start_as(
        leadership: Option<Leadership>,
        fuse: Arc<Fuse>,
        kubeconfig: &Path,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the operator's kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a config");
        let builder = ClientBuilder::try_from(config).expect("a client");
        let client = builder.with_layer(&FuseLayer(fuse.clone())).build();
        let ledger = Fragile::in_front_of(store, fuse.clone());
        let (sender, receiver) = tokio::sync::watch::channel(endpoint());
        let (relay_sender, relay) = tokio::sync::watch::channel(RelayState::default());
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let dependencies = Dependencies {
            client,
            store: ledger.clone(),
            settings: OperatorSettings { namespace: SYSTEM.to_owned(), ..OperatorSettings::default() },
            endpoint: receiver,
            relay,
            keys: keys(),
            clock,
            rng: StdRng::seed_from_u64(SEED.fetch_add(1, Ordering::SeqCst)),
            registry: registry.clone(),
            health: Health::default(),
            name: "operator".to_owned(),
            place: None,
            notifier: Arc::new(franking::upstream::SmtpNotifier::new("relay.franking.svc")),
            leadership,
        };
        let task = tokio::spawn(operator::run(dependencies, shutdown.clone()));
        Self { fuse, ledger, registry, endpoint: sender, relay: relay_sender, shutdown, task }
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> Result<(), operator::Error> {
        let ended = tokio::time::timeout(DEADLINE, &mut self.task).await;
        ended.expect("the operator ends in time").expect("the operator does not panic")
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

    /// The metrics page as it is now.
    pub fn metrics(&self) -> String {
        render(&self.registry)
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

/// One test at a time has that control plane, without any objects of ours.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let turn = TURN.lock().await;
    let plane = tokio::task::spawn_blocking(plane).await.expect("a control plane");
    super::leftovers::remove(&plane.control.admin_client().await).await;
    turn
}

impl Plane {
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

/// A namespace and a policy of one test's own, both called `name`.
#[derive(Clone)]
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
        let senders = json!({"domains": ["example.com"]});
        let mut spec = json!({"senders": senders, "upstream": {"host": "smtp.example.com", "tls": "None"}});
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
        let found = self.store.find_sender(&username).await.expect("the ledger answers").and_then(Named::sender);
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
