//! Maintains the fleet of relays according to the chart's ConfigMap, where relays have pods of their own.
//!
//! A pass reads everything live and writes the differences, by server-side apply. It runs at the start and whenever the
//! ConfigMap or one of the objects changes, so manual edits and deletions are reverted. Settings that we or the API
//! server refuse are not rolled out: the running fleet keeps the last good ones, and the reason is reported.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, SelectAll};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::crd::Reason;
use crate::operator::fleet::certificate::{self, Leaf};
use crate::operator::fleet::installation::Installation;
use crate::operator::fleet::relay_config::{self, endpoint, read_authority};
use crate::operator::plan::endpoint::Endpoint;
use crate::operator::plan::relay_fleet::{
    self, FleetIdentity, FleetSettings, Names, PODS, RELAY_SETTINGS, Wanted, is_ours, stands,
};
use crate::operator::plan::relay_state::{RelayState, Replicas};
use crate::operator::plan::{EventNote, meta};
use crate::operator::report;
use crate::runtime::clock::Clock;
use crate::runtime::fleet::{Certificates, Relay};
use crate::runtime::metrics::{IntGauge, Registry, register};
use crate::runtime::relay_config::LedgerAddress;

/// Time in which several changes are gathered into one pass.
const TOGETHER: Duration = Duration::from_millis(300);
/// Interval of passes without a change: our own certificate may be about to expire, or a mounted CA may have changed.
const AGAIN: Duration = Duration::from_secs(60);
/// Delay after a pass that failed, or that waits for a foreign object to be deleted.
const RETRY: Duration = Duration::from_secs(5);
/// Limit for one pass, which makes five reads and, for a change, eight writes.
const PASS_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}")]
    Cluster {
        doing: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
    #[error(transparent)]
    Authority(#[from] relay_config::Error),
    #[error("reading the relays' CA ended early")]
    Thread(#[from] tokio::task::JoinError),
    #[error("planning the fleet: {0}")]
    Plan(String),
    #[error("no answer of the Kubernetes API within {} s", PASS_LIMIT.as_secs())]
    Late,
}

/// The inputs for maintaining a fleet.
#[derive(Clone)]
pub struct Fleet {
    pub client: Client,
    pub namespace: String,
    /// The name of the ConfigMap, and therefore of the fleet.
    pub config_map: String,
    pub relay: Relay,
    pub ledger: LedgerAddress,
    pub installation: Installation,
    pub clock: Arc<dyn Clock>,
}

/// The result of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The endpoint of the settings in force; `None` if there never were any.
    pub endpoint: Option<Endpoint>,
    pub state: RelayState,
}

/// The reason why settings or objects are refused: a message for people, which clears once its cause is fixed.
type Refused = String;

/// The state of an object before the write: it matched the plan or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Yes,
    No,
}

type Written = Result<Result<Stands, Refused>, Error>;

impl Fleet {
    /// Runs passes until settings are in force: before that no address can be given to clients.
    pub async fn first(&self, waiting: impl Fn(&str)) -> (Endpoint, RelayState) {
        let mut said = String::new();
        loop {
            let trouble = match self.pass().await {
                Ok(Seen { endpoint: Some(endpoint), state }) => return (endpoint, state),
                Ok(Seen { endpoint: None, state }) => state.refused.unwrap_or_default(),
                Err(error) => crate::runtime::shutdown::chain(&error),
            };
            if trouble != said {
                tracing::warn!(trouble, "there is no fleet of relays yet");
                waiting(&trouble);
                said = trouble;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Maintains the fleet until `stop`.
    pub async fn keep(
        self,
        registry: Registry,
        endpoint: watch::Sender<Endpoint>,
        state: watch::Sender<RelayState>,
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        let valid = register(&registry, relay_config::settings_valid());
        let ready = register(&registry, replicas_ready());
        let mut changes = self.changes();
        let mut said = None;
        loop {
            let pause = match self.pass().await {
                Ok(seen) => {
                    let refused = seen.state.refused.clone();
                    valid.set(i64::from(refused.is_none()));
                    ready.set(seen.state.replicas.map_or(0, |replicas| i64::from(replicas.ready)));
                    if said != refused {
                        self.say(refused.as_deref()).await;
                        said = refused;
                    }
                    if let Some(new) = seen.endpoint {
                        publish(&endpoint, new);
                    }
                    publish(&state, seen.state);
                    if said.is_some() { RETRY } else { AGAIN }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "keeping the fleet of relays");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                Some(()) = changes.next() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = async {
                    let together = tokio::time::sleep(TOGETHER);
                    tokio::pin!(together);
                    while let Some(()) = tokio::select! { () = &mut together => None, next = changes.next() => next } {}
                } => {}
            }
        }
    }

    /// Returns a stream of changes to the fleet's objects.
    fn changes(&self) -> SelectAll<stream::BoxStream<'static, ()>> {
        let names = Names::of(&self.config_map);
        stream::select_all([
            self.watch::<ConfigMap>(&names.fleet),
            self.watch::<Secret>(&names.fleet),
            self.watch::<Secret>(&names.certificate),
            self.watch::<Deployment>(&names.fleet),
            self.watch::<PodDisruptionBudget>(&names.fleet),
        ])
    }

    /// Watches one object by name, as the RBAC rules permit.
    fn watch<K>(&self, name: &str) -> stream::BoxStream<'static, ()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = Api::namespaced(self.client.clone(), &self.namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let kind = K::kind(&());
        let events = watcher(api, config).default_backoff().filter_map(move |event| {
            let news = match event {
                Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone) => Some(()),
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
                Err(error) => {
                    tracing::warn!(%kind, error = &error as &dyn std::error::Error, "watching the fleet of relays");
                    None
                }
            };
            std::future::ready(news)
        });
        events.boxed()
    }

    /// Reads everything once, and makes the necessary writes.
    pub async fn pass(&self) -> Result<Seen, Error> {
        tokio::time::timeout(PASS_LIMIT, self.look()).await.unwrap_or(Err(Error::Late))
    }

    async fn look(&self) -> Result<Seen, Error> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let map = maps.get_opt(&self.config_map).await.map_err(cluster("reading the relays' ConfigMap"))?;
        let Some(map) = map.filter(|map| !meta::deleting(&map.metadata)) else {
            // Its objects are deleted with it, by their owner references; nothing is made again.
            let sentence = format!("there is no ConfigMap {}/{}: no relay is run", self.namespace, self.config_map);
            let last = self.last_good(None).await?;
            return self.seen(last.as_ref(), Some(sentence)).await;
        };
        let owner = meta::config_map_owner(&map);
        let refused = match self.read(map.data.as_ref()) {
            Ok(settings) => match self.apply(&settings, &owner).await? {
                Ok(()) => return self.seen(Some(&settings), None).await,
                Err(refused) => refused,
            },
            Err(refused) => refused,
        };
        let Some(last) = self.last_good(Some(&owner)).await? else { return self.seen(None, Some(refused)).await };
        // The last good settings are applied with the same care; if even they are refused, that is the better message.
        let refused = match self.apply(&last, &owner).await? {
            Ok(()) => refused,
            Err(worse) => worse,
        };
        self.seen(Some(&last), Some(refused)).await
    }

    fn read(&self, data: Option<&BTreeMap<String, String>>) -> Result<FleetSettings, Refused> {
        let text = |key: &str| data.and_then(|data| data.get(key)).map(String::as_str);
        let map = format!("ConfigMap {}/{}", self.namespace, self.config_map);
        let texts = match (text(RELAY_SETTINGS), text(PODS)) {
            (Some(relay), Some(pods)) => [relay, pods],
            (None, _) => return Err(format!("{map} has no \"{RELAY_SETTINGS}\"")),
            (_, None) => return Err(format!("{map} has no \"{PODS}\"")),
        };
        relay_fleet::check(texts, |text| self.relay.fleet_of(text)).map_err(|sentence| format!("{map}: {sentence}"))
    }

    /// Returns the settings that were last applied, as kept in the fleet's Secret.
    async fn last_good(&self, owner: Option<&OwnerReference>) -> Result<Option<FleetSettings>, Error> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let secret = api.get_opt(&self.config_map).await.map_err(cluster("reading the relays' Secret"))?;
        let ours = secret.filter(|secret| owner.is_none_or(|owner| is_ours(&secret.metadata, owner)));
        let data = ours.and_then(|secret| secret.data).unwrap_or_default();
        let texts: BTreeMap<String, String> =
            data.into_iter().filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?))).collect();
        // Settings that an earlier release accepted may be refused by this one.
        Ok(self.read(Some(&texts)).ok())
    }

    /// Applies the settings to the objects; the inner `Err` says why the objects stay unchanged.
    async fn apply(&self, settings: &FleetSettings, owner: &OwnerReference) -> Result<Result<(), Refused>, Error> {
        let leaf = match settings.fleet.certificates {
            Certificates::SelfSigned => Some(self.leaf(settings).await?),
            Certificates::Files { .. } => None,
        };
        let identity =
            FleetIdentity { namespace: &self.namespace, owner, installation: &self.installation, ledger: &self.ledger };
        let wanted = relay_fleet::plan(settings, &identity, leaf.as_ref()).map_err(Error::Plan)?;
        // All are checked before one is written, so that a fleet never mixes two settings.
        match self.write(&wanted, owner, true).await? {
            Ok(Stands::Yes) => Ok(Ok(())),
            Ok(Stands::No) => Ok(self.write(&wanted, owner, false).await?.map(drop)),
            Err(refused) => Ok(Err(refused)),
        }
    }

    async fn write(&self, wanted: &Wanted, owner: &OwnerReference, dry_run: bool) -> Written {
        let written = [
            self.write_one::<Secret>(Some(&wanted.config), owner, dry_run).await?,
            self.write_one::<Secret>(wanted.certificate.as_ref(), owner, dry_run).await?,
            self.write_one::<PodDisruptionBudget>(Some(&wanted.disruption_budget), owner, dry_run).await?,
            self.write_one::<Deployment>(Some(&wanted.deployment), owner, dry_run).await?,
        ];
        let written: Result<Vec<Stands>, Refused> = written.into_iter().collect();
        Ok(written.map(|all| if all.contains(&Stands::No) { Stands::No } else { Stands::Yes }))
    }

    /// Writes one object unless it already matches.
    async fn write_one<K>(&self, wanted: Option<&Value>, owner: &OwnerReference, dry_run: bool) -> Written
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let Some(wanted) = wanted else { return Ok(Ok(Stands::Yes)) };
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let object = format!("{} {}/{name}", K::kind(&()), self.namespace);
        let api = Api::<K>::namespaced(self.client.clone(), &self.namespace);
        let live = api.get_opt(name).await.map_err(cluster("reading an object of the fleet"))?;
        if let Some(live) = &live {
            if !is_ours(live.meta(), owner) {
                return Ok(Err(format!(
                    "{object} belongs to another owner and is not touched; rename or delete it to free the name for the fleet"
                )));
            }
            if meta::deleting(live.meta()) {
                return Ok(Err(format!("{object} is being deleted; it is made again when it is gone")));
            }
            let standing = serde_json::to_value(live).unwrap_or_default();
            if stands(wanted, &standing) {
                return Ok(Ok(Stands::Yes));
            }
        }
        let parameters = PatchParams {
            dry_run,
            force: true,
            field_manager: Some(meta::MANAGER.to_owned()),
            field_validation: Some(ValidationDirective::Strict),
        };
        match api.patch(name, &parameters, &Patch::Apply(wanted)).await {
            Ok(_) if dry_run => Ok(Ok(Stands::No)),
            Ok(written) => {
                let version = written.resource_version();
                if live.is_none_or(|live| live.resource_version() != version) {
                    tracing::info!(object, "written for the fleet of relays");
                }
                Ok(Ok(Stands::No))
            }
            // The API server's refusal of parts that only it checks: a wrong toleration, an unknown field, a quota.
            Err(kube::Error::Api(status)) if is_verdict(status.code, &status.message) => {
                Ok(Err(format!("{object} is refused by the API server: {}", status.message.replace('\n', " "))))
            }
            Err(error) => Err(cluster("writing an object of the fleet")(error)),
        }
    }

    /// Returns our own certificate: the existing one while it is good, or a new one.
    async fn leaf(&self, settings: &FleetSettings) -> Result<Leaf, Error> {
        let fleet = &settings.fleet;
        let names = certificate::names(&fleet.hostname, &fleet.advertise.host, &fleet.listeners);
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let name = Names::of(&self.config_map).certificate;
        let secret = api.get_opt(&name).await.map_err(cluster("reading the relays' certificate"))?;
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        let text =
            |key: &str| data.get(key).and_then(|value| String::from_utf8(value.0.clone()).ok()).unwrap_or_default();
        let standing = Leaf { certificate: text("tls.crt"), key: text("tls.key") };
        let (authority, now) = (&self.installation.authority, self.clock.now());
        if authority.stands_behind(&standing, &names, now) {
            return Ok(standing);
        }
        Ok(authority.issue(&names, now)?)
    }

    /// Builds the result of a pass, with the settings in force.
    async fn seen(&self, settings: Option<&FleetSettings>, refused: Option<Refused>) -> Result<Seen, Error> {
        let api = Api::<Deployment>::namespaced(self.client.clone(), &self.namespace);
        let deployment = api.get_opt(&self.config_map).await.map_err(cluster("reading the relays' Deployment"))?;
        let wanted = deployment.as_ref().and_then(|deployment| deployment.spec.as_ref()?.replicas);
        let status = deployment.and_then(|deployment| deployment.status).unwrap_or_default();
        let replicas = Replicas { ready: status.ready_replicas.unwrap_or(0), wanted: wanted.unwrap_or(0) };
        let refused = refused.or_else(|| stuck(&status));
        let in_force = settings.map(|settings| Arc::new(relay_config::in_force(&settings.fleet)));
        let state = RelayState { refused, replicas: Some(replicas), in_force };
        let endpoint = match settings {
            Some(settings) => Some(self.endpoint(settings).await?),
            None => None,
        };
        Ok(Seen { endpoint, state })
    }

    async fn endpoint(&self, settings: &FleetSettings) -> Result<Endpoint, Error> {
        let ca_pem = match &settings.fleet.certificates {
            Certificates::SelfSigned => Some(self.installation.authority.certificate.clone()),
            Certificates::Files { ca_file: None, .. } => None,
            Certificates::Files { ca_file: Some(path), .. } => {
                let path = path.clone();
                Some(tokio::task::spawn_blocking(move || read_authority(&path)).await??)
            }
        };
        Ok(endpoint(&settings.fleet, ca_pem))
    }

    /// Logs and publishes a message once, as an Event on the ConfigMap, where the author of the settings looks for it.
    async fn say(&self, refused: Option<&str>) {
        let note = match refused {
            Some(sentence) => {
                tracing::error!(sentence, "the fleet of relays stays as it was good last");
                sentence
            }
            None => {
                tracing::info!("the relays' settings are in force");
                "the relays' settings are in force"
            }
        };
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("ConfigMap".to_owned()),
            name: Some(self.config_map.clone()),
            namespace: Some(self.namespace.clone()),
            ..ObjectReference::default()
        };
        let reason = if refused.is_some() { Reason::RelayInvalid } else { Reason::Programmed };
        let event_note = EventNote { warning: refused.is_some(), reason, note: note.to_owned() };
        report::publish(&self.client, regarding, &self.namespace, &event_note, self.clock.now()).await;
    }
}

/// Returns the reason if the rollout was given up by its controller, or pods may not be created: the old pods serve on.
fn stuck(status: &DeploymentStatus) -> Option<Refused> {
    let conditions = || status.conditions.iter().flatten();
    let bad = conditions().find(|condition| {
        (condition.type_ == "ReplicaFailure" && condition.status == "True")
            || (condition.type_ == "Progressing" && condition.status == "False")
    })?;
    let why = bad.message.clone().or_else(|| bad.reason.clone()).unwrap_or_default();
    Some(format!("the new relays do not start, so the old ones stay: {why}"))
}

/// True if the reply judges the request, not the server's state. An unknown field in an apply causes a 500.
fn is_verdict(code: u16, message: &str) -> bool {
    matches!(code, 400 | 403 | 422) || (code == 500 && message.contains("field not declared in schema"))
}

fn publish<T: PartialEq>(sender: &watch::Sender<T>, new: T) {
    sender.send_if_modified(|old| {
        let changed = *old != new;
        *old = new;
        changed
    });
}

fn cluster(doing: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Cluster { doing, source: Box::new(source) }
}

pub fn replicas_ready() -> IntGauge {
    IntGauge::new("franking_relay_replicas_ready", "Relays of the fleet that are ready.")
        .expect("a metric's name is a valid constant")
}
