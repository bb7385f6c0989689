//! A running operator, and sentences about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use franking::crd::{self, CreditPolicy, SubAccount, SubAccountApiKey};
use franking::domain::credential::{HashKey, Password, Username, opens};
use franking::domain::directory::Sender;
use franking::domain::relay_config::{InstallationKeys, KeyBytes, ListenerMode};
use franking::ledger::Store;
use franking::ledger::sqlite::SqliteStore;
use franking::operator::{self, Dependencies, Endpoint, Settings};
use franking::runtime::clock::{Clock, ManualClock, SystemClock};
use franking::runtime::health::Health;
use franking::runtime::metrics::Registry;
use k8s_openapi::api::core::v1::{Namespace, Secret};
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
        port: 465,
        mode: ListenerMode::Implicit,
        ca_pem: Some("-----BEGIN CERTIFICATE-----\n".to_owned()),
    }
}

impl Running {
    /// Starts an operator on the present runtime.
    pub async fn start(plane: &Plane, store: Arc<dyn Store>, clock: Arc<dyn Clock>, stop_after: Option<i64>) -> Self {
        let fuse = Fuse::after(stop_after);
        let kubeconfig = Kubeconfig::read_from(&plane.kubeconfig).expect("the operator's kubeconfig");
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
            rng: StdRng::seed_from_u64(7),
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

    /// As `kill -9` would: nothing is finished.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("it was killed").is_cancelled());
    }
}

pub fn store(folder: &Path, clock: Arc<dyn Clock>) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(&folder.join("ledger.db"), clock).expect("a ledger"))
}

/// The operator that most tests share.
pub struct Shared {
    pub plane: Plane,
    pub store: Arc<dyn Store>,
    pub clock: ManualClock,
}

pub fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| std::thread::spawn(start_shared).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn start_shared() -> Shared {
    let plane = Plane::start();
    let clock = ManualClock::new(SystemClock.now());
    // Lives as long as the process; the folder goes with the machine's temporary files.
    let folder = plane.control.base_dir().join("ledger");
    std::fs::create_dir_all(&folder).expect("a folder");
    let ledger = store(&folder, Arc::new(clock.clone()));
    let shared = Shared { plane, store: ledger.clone(), clock: clock.clone() };
    let plane = Plane {
        control: ControlPlane::alias(&shared.plane.control),
        kubeconfig: shared.plane.kubeconfig.clone(),
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let running = Running::start(&plane, ledger, Arc::new(clock), None).await;
            let ended = running.task.await;
            panic!("the shared operator ended: {ended:?}");
        });
    });
    shared
}
