//! The relay role: waits for its settings, opens what it needs, follows changes, and stops without losing a message.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::account_counters::keeps_counters;
use super::admit::Admission;
use super::auth::Authorizer;
use super::auth_throttle::AuthThrottle;
use super::body_memory::BodyMemory;
use super::connection::SharedState;
use super::connection_limits::ConnectionLimits;
use super::directory::DirectoryCache;
use super::listen::ListenerTask;
use super::metrics::Metrics;
use super::settings::{self, RelaySettings};
use super::shortage::Shortages;
use super::targets::Targets;
use super::unauthenticated::Unauthenticated;
use super::{denied_senders, login_networks, upstream_outages};
use crate::ledger::incarnation::{Admit, Expected};
use crate::ledger::store::Role;
use crate::ledger::{self, Ledger, Store};
use crate::runtime::clock::Clock;
use crate::runtime::health::{Gate, Health};
use crate::runtime::metrics::Registry;
use crate::runtime::relay_config::Listener;
use crate::upstream::{UpstreamSettings, Upstreams};

/// Interval at which `relay.yaml` and the certificates are read: a few kilobytes, and no change waits longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Interval at which removed accounts are looked for among the counters. Freeing a place is not urgent.
const RELEASE_COUNTERS_EVERY: Duration = Duration::from_secs(5);
/// Time left for the last outcomes to reach the ledger, after the last session of a drain.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Time kept of a drain for messages that it no longer waits for: their clients are told to retry and get that reply,
/// which may wait up to `admit::KEEP_LIMIT` so that any relay recognises the retry. Half of a short drain.
const FAREWELL: Duration = Duration::from_secs(5);

/// The dependencies that the relay is given.
pub struct Dependencies {
    /// Path of `relay.yaml`.
    pub config_file: PathBuf,
    pub clock: Arc<dyn Clock>,
    /// Makes message ids.
    pub rng: StdRng,
    pub registry: Registry,
    pub health: Health,
    /// Name of the relay's session in the ledger.
    pub name: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("using the ledger")]
    Ledger(#[from] ledger::Error),
    #[error("listening on {address} (listener \"{name}\")")]
    Listen {
        name: String,
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// Serves until `shutdown`, then drains.
pub async fn run(dependencies: Dependencies, shutdown: CancellationToken) -> Result<(), Error> {
    let Some(relay) = Relay::start(dependencies, &shutdown).await? else { return Ok(()) };
    shutdown.cancelled().await;
    relay.drain().await;
    Ok(())
}

/// A running relay.
pub struct Relay {
    running: Arc<RunningRelay>,
    gate: Gate,
    /// Stops the task that watches the files.
    settled: CancellationToken,
    /// Stops following the directory: not before the last session, which is judged by it.
    stop: CancellationToken,
    background: TaskTracker,
    watching: JoinHandle<()>,
}

/// The state that the relay's tasks share.
struct RunningRelay {
    config_file: PathBuf,
    clock: Arc<dyn Clock>,
    shared: Arc<SharedState>,
    sessions: TaskTracker,
    listeners: Mutex<BTreeMap<String, ListenerTask>>,
}

impl Relay {
    /// Waits for `relay.yaml`, then opens everything. `None` if the shutdown came first.
    pub async fn start(dependencies: Dependencies, shutdown: &CancellationToken) -> Result<Option<Self>, Error> {
        let Dependencies { config_file, clock, rng, registry, health, name } = dependencies;
        let gate = health.gate("relay");
        let first = tokio::select! {
            first = first_settings(&config_file, &clock, &gate) => first,
            () = shutdown.cancelled() => return Ok(None),
        };
        let (text, settings) = first;
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let running = settings.load_full();
        let config = &running.config;
        let store = ledger::open(&config.ledger, clock.clone())?;
        let stop = CancellationToken::new();
        let background = TaskTracker::new();
        let ledger = tokio::select! {
            started = answering(&store, &settings, (&name, &registry), &stop, &gate) => started?,
            () = shutdown.cancelled() => return Ok(None),
        };
        let directory = DirectoryCache::new(store, settings.clone());
        background.spawn(directory.clone().follow(health.gate("relay directory"), stop.clone()));
        let upstream = UpstreamSettings::new(&config.hostname, config.limits.upstream_connections as usize);
        let admission = Admission {
            auth: Authorizer::new(settings.clone(), directory, clock.clone()),
            settings: settings.clone(),
            ledger,
            upstreams: Upstreams::new(upstream, &registry),
            targets: Targets::default(),
            shortages: Shortages::default(),
            denied: Arc::default(),
            logins: Arc::default(),
            metrics: Metrics::new(&registry),
            tasks: TaskTracker::new(),
            rng: Mutex::new(rng),
        };
        let shared = SharedState {
            bodies: BodyMemory::new(admission.metrics.clone()),
            admission: Arc::new(admission),
            limits: ConnectionLimits::default(),
            unauthenticated: Unauthenticated::default(),
            throttle: AuthThrottle::default(),
            draining: CancellationToken::new(),
        };
        let running = Arc::new(RunningRelay {
            config_file,
            clock,
            shared: Arc::new(shared),
            sessions: TaskTracker::new(),
            listeners: Mutex::default(),
        });
        for listener in settings.load().config.listeners.clone() {
            running.open(listener).await?;
        }
        let settled = CancellationToken::new();
        gate.open();
        background.spawn(upstream_outages::tell(running.shared.admission.clone(), stop.clone()));
        let admission = &running.shared.admission;
        background.spawn(denied_senders::tell(admission.denied.clone(), admission.ledger.clone(), stop.clone()));
        background.spawn(login_networks::tell(admission.logins.clone(), admission.ledger.clone(), stop.clone()));
        background.spawn(release_counters(admission.clone(), stop.clone()));
        let watching = tokio::spawn(watch(running.clone(), text, gate.clone(), settled.clone()));
        Ok(Some(Self { running, gate, settled, stop, background, watching }))
    }

    /// Returns the address of each listener.
    pub fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        let listeners = self.running.listeners();
        listeners.iter().map(|(name, listener_task)| (name.clone(), listener_task.address())).collect()
    }

    /// Stops accepting, lets sessions finish what is in progress, and settles the last outcomes.
    pub async fn drain(self) {
        self.gate.close("draining");
        self.settled.cancel();
        self.background.close();
        // A settings check in progress would open listeners and the gate again. The task does not panic, and if it did,
        // the listeners are closed all the same.
        let _ = self.watching.await;
        self.gate.close("draining");
        let SharedState { admission, draining, .. } = &*self.running.shared;
        let limit = Duration::from_secs(u64::from(admission.settings.load().config.limits.drain_seconds));
        let deadline = Instant::now() + limit;
        let listeners = std::mem::take(&mut *self.running.listeners());
        for listener_task in listeners.into_values() {
            listener_task.close().await;
        }
        draining.cancel();
        self.running.sessions.close();
        admission.tasks.close();
        let finished = async {
            self.running.sessions.wait().await;
            admission.tasks.wait().await;
        };
        let mut finished = pin!(finished);
        let mut in_time = timeout(limit - FAREWELL.min(limit / 2), &mut finished).await.is_ok();
        if !in_time {
            // Messages that can still be withdrawn are; the clients of the others get 451, and any relay recognises the
            // retry.
            admission.upstreams.hurry();
            let messages = admission.tasks.len();
            tracing::warn!(messages, "the time to drain is nearly over; what is under way is told to come again");
            in_time = timeout_at(deadline, finished).await.is_ok();
        }
        if !in_time {
            let (sessions, messages) = (self.running.sessions.len(), admission.tasks.len());
            tracing::warn!(sessions, messages, "the time to drain is over; messages under way end as unknown");
        }
        if timeout(SETTLE_LIMIT, admission.upstreams.drain()).await.is_err() {
            tracing::debug!("an upstream did not answer QUIT");
        }
        let left = admission.ledger.drain(deadline.max(Instant::now() + SETTLE_LIMIT)).await;
        if left > 0 {
            tracing::warn!(left, "outcomes were not written; their messages end as unknown");
        }
        self.stop.cancel();
        self.background.wait().await;
    }
}

/// Returns the check of a ledger's identity, by the settings as they are at the time.
fn admit(settings: Arc<ArcSwap<RelaySettings>>) -> Admit {
    Arc::new(move |tag| {
        let settings = settings.load();
        let config = &settings.config;
        Expected { installation: config.installation, incarnation: config.incarnation }.admit(tag)
    })
}

/// Waits until the ledger answers: it may come up after its relays, or be away for a while. Any error that says more
/// than that ends the process.
async fn answering(
    store: &Arc<dyn Store>,
    settings: &Arc<ArcSwap<RelaySettings>>,
    (name, registry): (&str, &Registry),
    stop: &CancellationToken,
    gate: &Gate,
) -> Result<Ledger, ledger::Error> {
    let mut said = false;
    loop {
        let (store, admit, stop) = (store.clone(), admit(settings.clone()), stop.child_token());
        match Ledger::start(store, Role::Relay, name.to_owned(), registry, admit, stop).await {
            Err(error @ ledger::Error::Unavailable { .. }) => {
                let trouble = sentence(&error);
                if !said {
                    tracing::warn!(trouble, "the ledger does not answer yet");
                }
                said = true;
                gate.close(format!("the ledger does not answer: {trouble}"));
            }
            ended => return ended,
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until the file exists and is valid. Each problem is logged once, and shown by the gate.
async fn first_settings(config_file: &std::path::Path, clock: &Arc<dyn Clock>, gate: &Gate) -> (String, RelaySettings) {
    let mut said = String::new();
    loop {
        let trouble = match settings::read(config_file) {
            Ok(Some(text)) => match RelaySettings::parse(config_file, &text, clock.clone()) {
                Ok(settings) => return (text, settings),
                Err(error) => sentence(&error),
            },
            Ok(None) => format!("waiting for {} to be written", config_file.display()),
            Err(error) => sentence(&error),
        };
        if trouble != said {
            tracing::warn!(trouble, "the relay has no settings yet");
            gate.close(trouble.clone());
            said = trouble;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Formats an error with its causes on one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Follows `relay.yaml` and the certificates until `stop`.
async fn watch(running: Arc<RunningRelay>, mut text: String, gate: Gate, stop: CancellationToken) {
    let mut said = String::new();
    loop {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let trouble = match running.look(&mut text).await {
            Ok(()) => String::new(),
            Err(trouble) => trouble,
        };
        running.shared.admission.metrics.settings_refused(!trouble.is_empty());
        running.shared.admission.forget_upstreams();
        if trouble != said {
            if trouble.is_empty() {
                gate.open();
            } else {
                tracing::error!(trouble, "keeping the running settings");
                gate.note(format!("keeping the running settings: {trouble}"));
            }
            said = trouble;
        }
    }
}

/// Frees the places of removed accounts among the counters by account, until `stop`.
async fn release_counters(admission: Arc<Admission>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = sleep(RELEASE_COUNTERS_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let Some(directory) = admission.auth.current() else { continue };
        let now = admission.auth.now();
        // An account that the copy lacks may be new, or the copy is being read anew.
        let stays = |id| directory.account(id).is_none_or(|account| keeps_counters(account, now));
        admission.metrics.release_accounts(stays);
    }
}

impl RunningRelay {
    fn listeners(&self) -> parking_lot::MutexGuard<'_, BTreeMap<String, ListenerTask>> {
        self.listeners.lock()
    }

    async fn open(&self, listener: Listener) -> Result<(), Error> {
        let (name, address) = (listener.name.clone(), listener.address);
        let listener_task = ListenerTask::open(listener, self.shared.clone(), self.sessions.clone()).await;
        let listener_task = listener_task.map_err(|source| Error::Listen { name: name.clone(), address, source })?;
        self.listeners().insert(name, listener_task);
        Ok(())
    }

    /// Takes over what changed in the files. `Err` is the reason why it could not.
    async fn look(&self, text: &mut String) -> Result<(), String> {
        let settings = &self.shared.admission.settings;
        let read = settings::read(&self.config_file).map_err(|error| sentence(&error))?;
        if let Some(new) = read.filter(|new| new != text) {
            let parsed =
                RelaySettings::parse(&self.config_file, &new, self.clock.clone()).map_err(|error| sentence(&error))?;
            self.take_over(parsed)?;
            *text = new;
        }
        self.match_listeners().await?;
        let running = settings.load_full();
        if let Some(certificates) = &running.certificates
            && certificates.reload(&running.config.tls).map_err(|error| sentence(&error))?
        {
            tracing::info!("took over changed certificates");
        }
        Ok(())
    }

    fn take_over(&self, new: RelaySettings) -> Result<(), String> {
        let admission = &self.shared.admission;
        let running = admission.settings.load_full();
        if new.config.installation != running.config.installation || new.config.ledger != running.config.ledger {
            return Err("another ledger or installation needs a restart of the relay".to_owned());
        }
        let renamed = new.config.hostname != running.config.hostname
            || new.config.limits.upstream_connections != running.config.limits.upstream_connections;
        if renamed {
            let connections = new.config.limits.upstream_connections as usize;
            admission.upstreams.change(UpstreamSettings::new(&new.config.hostname, connections));
        }
        admission.settings.store(Arc::new(new));
        // The key that opens upstream logins may have changed.
        admission.targets.clear();
        tracing::info!("took over changed settings");
        Ok(())
    }

    /// Opens, changes and closes listeners until they match the settings. Repeated at every check, because an address
    /// that is taken now may be free in a moment.
    async fn match_listeners(&self) -> Result<(), String> {
        let wanted = self.shared.admission.settings.load().config.listeners.clone();
        let superfluous: Vec<ListenerTask> = {
            let mut listeners = self.listeners();
            let keeps = |listener_task: &ListenerTask| {
                wanted.iter().any(|listener| is_same_socket(&listener_task.listener(), listener))
            };
            let names: Vec<String> = listeners
                .iter()
                .filter(|(_, listener_task)| !keeps(listener_task))
                .map(|(name, _)| name.clone())
                .collect();
            names.iter().filter_map(|name| listeners.remove(name)).collect()
        };
        for listener_task in superfluous {
            tracing::info!(listener = listener_task.listener().name, "closing a listener");
            listener_task.close().await;
        }
        let mut trouble = Vec::new();
        for listener in wanted {
            let missing = match self.listeners().get(&listener.name) {
                Some(listener_task) => {
                    if *listener_task.listener() != listener {
                        listener_task.change(listener.clone());
                    }
                    false
                }
                None => true,
            };
            if missing && let Err(error) = self.open(listener).await {
                trouble.push(sentence(&error));
            }
        }
        if trouble.is_empty() { Ok(()) } else { Err(trouble.join("; ")) }
    }
}

/// True if the socket can stay as it is.
fn is_same_socket(open: &Listener, wanted: &Listener) -> bool {
    open.name == wanted.name && open.address == wanted.address
}
