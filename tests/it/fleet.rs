//! The fleet of relays on a real API server with its controllers, under the rules of the chart: made from the chart's
//! ConfigMap, owned by it, rolled by its changes, put right, kept when it is wrong, and gone with it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use franking::ledger::identity::Progress;
use franking::operator::fleet::certificate::Authority;
use franking::operator::fleet::installation::{Installation, Serving};
use franking::operator::fleet::relays::Fleet;
use franking::operator::plan::endpoint::Endpoint;
use franking::operator::plan::relay_state::{RelayState, Replicas};
use franking::runtime::cli::Flags;
use franking::runtime::clock::{Clock, SystemClock};
use franking::runtime::config;
use franking::runtime::metrics::Registry;
use franking::runtime::relay_config::{InstallationKeys, KeyBytes, LedgerAddress};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::chart::render;
use crate::support::control_plane::{ControlPlane, succeeded};
use crate::support::identity;

/// Everything here takes seconds at most on a quiet machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A namespace with the chart's ConfigMap, and a keeper of its fleet where one runs.
struct Scene {
    admin: Client,
    operator: Client,
    namespace: String,
    installation: Installation,
    keeping: Option<Keeping>,
}

struct Keeping {
    endpoint: watch::Receiver<Endpoint>,
    state: watch::Receiver<RelayState>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Scene {
    /// The namespace's pods are restricted, so a pod that promises too little is not made.
    async fn new(namespace: &str) -> Self {
        let plane = ControlPlane::shared();
        let (_, operator) = identity::operator_apart(plane, namespace).await;
        let restricted = "pod-security.kubernetes.io/enforce=restricted";
        succeeded(plane.kubectl(&["label", "namespace", namespace, restricted]));
        let now = SystemClock.now();
        let installation = Installation {
            namespace: namespace.to_owned(),
            id: Uuid::from_u128(1),
            incarnation: Uuid::from_u128(2),
            serving: Serving::new(Uuid::from_u128(2)),
            progress: Progress::default(),
            cluster: "c".to_owned(),
            ledger_made: true,
            keys: InstallationKeys { hash: KeyBytes([1; 32]), seal: KeyBytes([2; 32]) },
            authority: Authority::mint(Uuid::from_u128(1), now).expect("a CA"),
        };
        let scene = Self {
            admin: plane.admin_client().await,
            operator,
            namespace: namespace.to_owned(),
            installation,
            keeping: None,
        };
        scene.set(&[]);
        scene
    }

    fn name(&self) -> String {
        format!("{}-relay", self.namespace)
    }

    /// Applies the ConfigMap as the chart makes it of these values.
    fn set(&self, values: &[&str]) {
        let name = format!("fullnameOverride={}", self.namespace);
        let mut arguments = vec!["--set", name.as_str(), "--show-only", "templates/configmaps.yaml"];
        arguments.extend(identity::APART);
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        let manifests = render(&self.namespace, &arguments);
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        succeeded(ControlPlane::shared().kubectl_stdin(&apply, &manifests));
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    fn fleet(&self) -> Fleet {
        let flags = Flags { namespace: Some(self.namespace.clone()), ..Flags::default() };
        let url = "postgresql://franking:s3cret@ledger-rw/franking".to_owned();
        Fleet {
            client: self.operator.clone(),
            namespace: self.namespace.clone(),
            config_map: self.name(),
            relay: config::load(&flags).expect("defaults").relay,
            ledger: LedgerAddress::Postgres { url, single_node: false },
            installation: self.installation.clone(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Starts the keeper, as an operator that begins to lead does.
    async fn keep(&mut self) {
        let fleet = self.fleet();
        let first = tokio::time::timeout(DEADLINE, fleet.first(|trouble| panic!("there is no fleet: {trouble}")));
        let (endpoint, state) = first.await.expect("a fleet in time");
        let ((publish, endpoint), (tell, state)) = (watch::channel(endpoint), watch::channel(state));
        let stop = CancellationToken::new();
        let keeping = fleet.keep(Registry::new(), publish, tell, stop.clone());
        let task = tokio::spawn(async move { keeping.await.unwrap_or_else(|never| match never {}) });
        self.keeping = Some(Keeping { endpoint, state, stop, task });
    }

    async fn leave(&mut self) {
        let keeping = self.keeping.take().expect("a keeper");
        keeping.stop.cancel();
        keeping.task.await.expect("the keeper does not panic");
    }

    /// Waits until the keeper says what is wanted of its state.
    async fn said<T>(&self, what: &str, wanted: impl Fn(&RelayState) -> Option<T>) -> T {
        let standing = self.keeping.as_ref().expect("a keeper").state.clone();
        let mut state = standing.clone();
        match tokio::time::timeout(DEADLINE, state.wait_for(|state| wanted(state).is_some())).await {
            Ok(found) => wanted(&found.expect("the keeper runs")).expect("it held a moment ago"),
            Err(_) => panic!("waited for {what}; it says {:?}", standing.borrow()),
        }
    }

    async fn until<K, T>(&self, name: &str, what: &str, wanted: impl Fn(Option<&K>) -> Option<T>) -> T
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let holds = |object: Option<&K>| wanted(object).is_some();
        let waited = tokio::time::timeout(DEADLINE, await_condition(self.api::<K>(), name, holds)).await;
        let Ok(found) = waited else {
            panic!("waited for {name}: {what}; it is {:?}", self.api::<K>().get_opt(name).await);
        };
        wanted(found.expect("the watch works").as_ref()).expect("it held a moment ago")
    }

    async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("it is accepted");
    }

    async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().delete(name, &DeleteParams::default()).await.expect("it is accepted");
    }

    /// What any write of ours to the fleet's objects would change.
    async fn written(&self) -> Value {
        let name = self.name();
        let deployment = self.api::<Deployment>().get(&name).await.expect("a Deployment");
        let budget = self.api::<PodDisruptionBudget>().get(&name).await.expect("a budget");
        json!([
            deployment.metadata.generation,
            deployment.metadata.annotations,
            deployment.uid(),
            budget.metadata.generation,
            budget.metadata.annotations,
            budget.uid(),
            self.api::<Secret>().get(&name).await.expect("a Secret").resource_version(),
            self.api::<Secret>().get(&format!("{name}-tls")).await.expect("a Secret").resource_version(),
        ])
    }

    /// The pods of a ReplicaSet, once there are so many.
    async fn pods(&self, set: &str, count: usize) -> Vec<Pod> {
        let until = tokio::time::Instant::now() + DEADLINE;
        loop {
            let pods = self.api::<Pod>().list(&ListParams::default()).await.expect("pods").items;
            let of_set: Vec<Pod> =
                pods.into_iter().filter(|pod| pod.owner_references().iter().any(|owner| owner.name == set)).collect();
            if of_set.len() == count {
                return of_set;
            }
            assert!(tokio::time::Instant::now() < until, "{set} has {} pods, not {count}", of_set.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// No node runs here, so a test says for the kubelet that the relays are ready.
    async fn make_ready(&self, pods: &[Pod]) {
        for pod in pods {
            let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
            let parameters = PatchParams::default();
            self.api::<Pod>()
                .patch_status(&pod.name_any(), &parameters, &Patch::Merge(status))
                .await
                .expect("a status");
        }
    }

    async fn sets(&self) -> Vec<ReplicaSet> {
        let mut sets = self.api::<ReplicaSet>().list(&ListParams::default()).await.expect("sets").items;
        let revision = |set: &ReplicaSet| -> u32 {
            set.annotations()["deployment.kubernetes.io/revision"].parse().expect("a number")
        };
        sets.sort_by_key(revision);
        sets
    }
}

fn replicas(ready: i32, wanted: i32) -> impl Fn(&RelayState) -> Option<()> {
    move |state| (state.refused.is_none() && state.replicas == Some(Replicas { ready, wanted })).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_made_from_the_config_map_and_rolls_when_it_changes() {
    let mut scene = Scene::new("fleet-made").await;
    scene.keep().await;
    let name = scene.name();
    let map = scene.api::<ConfigMap>().get(&name).await.expect("the ConfigMap");
    let endpoint = scene.keeping.as_ref().expect("a keeper").endpoint.borrow().clone();
    assert_eq!((endpoint.host.as_str(), endpoint.tls_port), ("fleet-made-relay.fleet-made.svc", Some(465)));
    assert!(endpoint.ca_pem.expect("our own CA").contains("BEGIN CERTIFICATE"));

    // All of it goes with the ConfigMap.
    let owners = [
        scene.api::<Deployment>().get(&name).await.expect("a Deployment").owner_references().to_vec(),
        scene.api::<PodDisruptionBudget>().get(&name).await.expect("a budget").owner_references().to_vec(),
        scene.api::<Secret>().get(&name).await.expect("a Secret").owner_references().to_vec(),
        scene.api::<Secret>().get(&format!("{name}-tls")).await.expect("a Secret").owner_references().to_vec(),
    ];
    for owner in owners {
        assert_eq!((owner.len(), owner[0].uid.as_str()), (1, map.uid().expect("a UID").as_str()));
    }

    // Admission lets the pods in, and has put no token into them.
    let first = scene.sets().await.pop().expect("a ReplicaSet").name_any();
    let old = scene.pods(&first, 2).await;
    let volumes: Vec<&str> =
        old[0].spec.as_ref().expect("a spec").volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    assert_eq!(volumes, ["run", "tls"]);
    scene.make_ready(&old).await;
    scene.said("both ready", replicas(2, 2)).await;

    // A changed limit is a changed relay.yaml: one new pod, and no old one goes before it is ready.
    scene.set(&["relay.limits.recipients=50"]);
    scene
        .until(&name, "another template", |deployment: Option<&Deployment>| {
            (deployment?.metadata.generation? > 1).then_some(())
        })
        .await;
    let until = tokio::time::Instant::now() + DEADLINE;
    let second = loop {
        let sets = scene.sets().await;
        if sets.len() == 2 {
            break sets[1].name_any();
        }
        assert!(tokio::time::Instant::now() < until, "no second ReplicaSet");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let new = scene.pods(&second, 1).await;
    assert_eq!(scene.pods(&first, 2).await.len(), 2);
    scene.make_ready(&new).await;
    let rest = scene.pods(&second, 2).await;
    scene.pods(&first, 1).await;
    scene.make_ready(&rest).await;
    scene.pods(&first, 0).await;
    scene.said("both new ones ready", replicas(2, 2)).await;

    // More relays are no roll, and programs' address is told anew.
    scene.set(&["relay.limits.recipients=50", "relay.replicas=3", "relay.hostname=smtp.example.com"]);
    let endpoint = &mut scene.keeping.as_mut().expect("a keeper").endpoint;
    let told = tokio::time::timeout(DEADLINE, endpoint.wait_for(|endpoint| endpoint.host == "smtp.example.com")).await;
    drop(told.expect("in time").expect("the keeper runs"));
    scene.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_edits_or_deletes_is_put_right_and_what_stands_is_not_written() {
    let mut scene = Scene::new("fleet-right").await;
    scene.keep().await;
    let name = scene.name();
    scene.patch::<Deployment>(&name, json!({"spec": {"replicas": 7}})).await;
    scene
        .until(&name, "two again", |found: Option<&Deployment>| {
            let found = found?;
            (found.metadata.generation? >= 3 && found.spec.as_ref()?.replicas? == 2).then_some(())
        })
        .await;
    let budget = scene.api::<PodDisruptionBudget>().get(&name).await.expect("a budget").uid();
    scene.delete::<PodDisruptionBudget>(&name).await;
    scene
        .until(&name, "another one", |found: Option<&PodDisruptionBudget>| (found?.uid() != budget).then_some(()))
        .await;
    let deployment = scene.api::<Deployment>().get(&name).await.expect("a Deployment").uid();
    scene.delete::<Deployment>(&name).await;
    scene.until(&name, "another one", |found: Option<&Deployment>| (found?.uid() != deployment).then_some(())).await;
    let secret = scene.api::<Secret>().get(&name).await.expect("a Secret").data;
    scene.patch::<Secret>(&name, json!({"data": {"relay.yaml": "e30="}})).await;
    scene.until(&name, "the config again", |found: Option<&Secret>| (found?.data == secret).then_some(())).await;

    // What others add is theirs.
    scene
        .patch::<PodDisruptionBudget>(&name, json!({"metadata": {"annotations": {"example.com/theirs": "kept"}}}))
        .await;
    scene.leave().await;
    let before = scene.written().await;
    let seen = scene.fleet().pass().await.expect("a pass");
    assert_eq!(seen.state.refused, None);
    assert_eq!(scene.written().await, before, "a new leader wrote what stood");
    let budget = scene.api::<PodDisruptionBudget>().get(&name).await.expect("a budget");
    assert_eq!(budget.annotations()["example.com/theirs"], "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_keep_the_running_fleet_and_say_why() {
    let mut scene = Scene::new("fleet-wrong").await;
    scene.keep().await;
    let name = scene.name();
    let good = scene.api::<ConfigMap>().get(&name).await.expect("the ConfigMap").data.expect("data");
    let before = scene.written().await;
    let pods = |right: &str, wrong: &str| {
        assert!(good["pods.yaml"].contains(right), "{right} is not in {}", good["pods.yaml"]);
        json!({"data": {"pods.yaml": good["pods.yaml"].replacen(right, wrong, 1)}})
    };
    for (edit, sentence) in [
        // Our own word, and the API server's on what is its own.
        (pods("replicas: 2", "replicas: 0"), "pods.yaml: replicas is 0"),
        (pods("replicas: 2", "replicas: 2\ntolerations: [{operator: Never}]"), "is refused by the API server"),
        (pods("replicas: 2", "replicas: 2\naffinity: {podAffinities: {}}"), "podAffinities"),
        (json!({"data": {"relay-settings.yaml": "listeners: []"}}), "relay.listeners"),
    ] {
        scene.patch::<ConfigMap>(&name, edit).await;
        scene.said(sentence, |state| state.refused.as_ref()?.contains(sentence).then_some(())).await;
        assert_eq!(scene.written().await, before, "{sentence}");
        let host = scene.keeping.as_ref().expect("a keeper").endpoint.borrow().host.clone();
        assert_eq!(host, "fleet-wrong-relay.fleet-wrong.svc");
    }
    let events = scene.api::<Event>().list(&ListParams::default()).await.expect("events").items;
    let told = events.iter().any(|event| {
        event.reason.as_deref() == Some("RelayInvalid")
            && event.regarding.as_ref().is_some_and(|object| object.name.as_ref() == Some(&name))
            && event.note.as_ref().is_some_and(|note| note.contains("replicas is 0"))
    });
    assert!(told, "{events:?}");

    // A leader that begins now goes on with what was good last, and looks after it.
    scene.leave().await;
    scene.keep().await;
    let deployment = scene.api::<Deployment>().get(&name).await.expect("a Deployment").uid();
    scene.delete::<Deployment>(&name).await;
    scene.until(&name, "another one", |found: Option<&Deployment>| (found?.uid() != deployment).then_some(())).await;

    // Put right, it is in force at once.
    scene.patch::<ConfigMap>(&name, json!({"data": good})).await;
    scene.said("nothing refused", |state| state.refused.is_none().then_some(())).await;
    scene.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_goes_with_its_config_map_and_nobody_makes_it_again() {
    let mut scene = Scene::new("fleet-gone").await;
    scene.keep().await;
    let name = scene.name();
    scene.delete::<ConfigMap>(&name).await;
    scene.said("no ConfigMap", |state| state.refused.as_ref()?.contains("there is no ConfigMap").then_some(())).await;
    let gone = |what: &str| format!("{what} gone");
    scene.until(&name, &gone("Deployment"), |found: Option<&Deployment>| found.is_none().then_some(())).await;
    scene.until(&name, &gone("budget"), |found: Option<&PodDisruptionBudget>| found.is_none().then_some(())).await;
    scene.until(&name, &gone("Secret"), |found: Option<&Secret>| found.is_none().then_some(())).await;
    let certificate = format!("{name}-tls");
    scene.until(&certificate, &gone("Secret"), |found: Option<&Secret>| found.is_none().then_some(())).await;
    // Installed again, it is made again, with the same CA.
    scene.set(&[]);
    scene.said("nothing refused", |state| state.refused.is_none().then_some(())).await;
    scene.until(&name, "made again", |found: Option<&Deployment>| found.map(drop)).await;
    scene.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_elses_is_not_touched_and_its_name_is_taken_when_it_goes() {
    let mut scene = Scene::new("fleet-foreign").await;
    let name = scene.name();
    let theirs = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
                        "metadata": {"name": name, "namespace": scene.namespace}, "spec": {"maxUnavailable": 1}});
    succeeded(ControlPlane::shared().kubectl_stdin(&["create", "-f", "-"], &theirs.to_string()));
    let budgets = scene.api::<PodDisruptionBudget>();
    // Without what its controller says of it.
    let spec = |budget: PodDisruptionBudget| (budget.metadata.generation, budget.metadata.annotations, budget.spec);
    let before = spec(budgets.get(&name).await.expect("their budget"));
    let seen = scene.fleet().pass().await.expect("a pass");
    let refused = seen.state.refused.expect("it is said");
    assert!(
        refused.contains(&format!("PodDisruptionBudget fleet-foreign/{name} belongs to another owner")),
        "{refused}"
    );
    assert_eq!(spec(budgets.get(&name).await.expect("their budget")), before);
    assert!(scene.api::<Deployment>().get_opt(&name).await.expect("an answer").is_none(), "half a fleet was made");
    scene.delete::<PodDisruptionBudget>(&name).await;
    scene.keep().await;
    scene
        .until(&name, "our budget", |found: Option<&PodDisruptionBudget>| {
            (found?.owner_references().len() == 1).then_some(())
        })
        .await;
    scene.leave().await;
}
