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
use super::auth_throttle::AuthThrottle;
use super::body_memory::BodyMemory;
use super::connection::Front;
use super::connection_limits::ConnectionLimits;
use super::directory::Follower;
use super::judge::Judge;
use super::listen::Door;
use super::metrics::Metrics;
use super::settings::{self, Settings};
use super::shortage::Shortages;
use super::targets::Targets;
use super::unauthenticated::Unauthenticated;
use super::{denied_senders, login_networks, troubles};
use crate::domain::relay_config::Listener;
use crate::ledger::incarnation::{Admit, Expected};
use crate::ledger::store::Role;
use crate::ledger::{self, Ledger, Store};
use crate::runtime::clock::Clock;
use crate::runtime::health::{Gate, Health};
use crate::runtime::metrics::Registry;
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
    house: Arc<House>,
    gate: Gate,
    /// Stops the task that watches the files.
    settled: CancellationToken,
    /// Stops following the directory: not before the last session, which is judged by it.
    stop: CancellationToken,
    background: TaskTracker,
    watching: JoinHandle<()>,
}

/// The state that the relay's tasks share.
struct House {
    config_file: PathBuf,
    clock: Arc<dyn Clock>,
    front: Arc<Front>,
    sessions: TaskTracker,
    doors: Mutex<BTreeMap<String, Door>>,
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
        let directory = Follower::new(store, settings.clone());
        background.spawn(directory.clone().follow(health.gate("relay directory"), stop.clone()));
        let upstream = UpstreamSettings::new(&config.hostname, config.limits.upstream_connections as usize);
        let admission = Admission {
            judge: Judge::new(settings.clone(), directory, clock.clone()),
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
        let front = Front {
            bodies: BodyMemory::new(admission.metrics.clone()),
            admission: Arc::new(admission),
            limits: ConnectionLimits::default(),
            unauthenticated: Unauthenticated::default(),
            throttle: AuthThrottle::default(),
            draining: CancellationToken::new(),
        };
        let house = Arc::new(House {
            config_file,
            clock,
            front: Arc::new(front),
            sessions: TaskTracker::new(),
            doors: Mutex::default(),
        });
        for listener in settings.load().config.listeners.clone() {
            house.open(listener).await?;
        }
        let settled = CancellationToken::new();
        gate.open();
        background.spawn(troubles::tell(house.front.admission.clone(), stop.clone()));
        let admission = &house.front.admission;
        background.spawn(denied_senders::tell(admission.denied.clone(), admission.ledger.clone(), stop.clone()));
        background.spawn(login_networks::tell(admission.logins.clone(), admission.ledger.clone(), stop.clone()));
        background.spawn(release_counters(admission.clone(), stop.clone()));
        let watching = tokio::spawn(watch(house.clone(), text, gate.clone(), settled.clone()));
        Ok(Some(Self { house, gate, settled, stop, background, watching }))
    }

    /// Returns the address of each listener.
    pub fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        let doors = self.house.doors();
        doors.iter().map(|(name, door)| (name.clone(), door.address())).collect()
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
        let Front { admission, draining, .. } = &*self.house.front;
        let limit = Duration::from_secs(u64::from(admission.settings.load().config.limits.drain_seconds));
        let deadline = Instant::now() + limit;
        let doors = std::mem::take(&mut *self.house.doors());
        for door in doors.into_values() {
            door.close().await;
        }
        draining.cancel();
        self.house.sessions.close();
        admission.tasks.close();
        let finished = async {
            self.house.sessions.wait().await;
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
            let (sessions, messages) = (self.house.sessions.len(), admission.tasks.len());
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
fn admit(settings: Arc<ArcSwap<Settings>>) -> Admit {
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
    settings: &Arc<ArcSwap<Settings>>,
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
async fn first_settings(config_file: &std::path::Path, clock: &Arc<dyn Clock>, gate: &Gate) -> (String, Settings) {
    let mut said = String::new();
    loop {
        let trouble = match settings::read(config_file) {
            Ok(Some(text)) => match Settings::parse(config_file, &text, clock.clone()) {
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
async fn watch(house: Arc<House>, mut text: String, gate: Gate, stop: CancellationToken) {
    let mut said = String::new();
    loop {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let trouble = match house.look(&mut text).await {
            Ok(()) => String::new(),
            Err(trouble) => trouble,
        };
        house.front.admission.metrics.settings_refused(!trouble.is_empty());
        house.front.admission.forget_upstreams();
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
        let Some(directory) = admission.judge.current() else { continue };
        let now = admission.judge.now();
        let stays = |id| directory.account(id).is_some_and(|account| keeps_counters(account, now));
        admission.metrics.release_accounts(stays);
    }
}

impl House {
    fn doors(&self) -> parking_lot::MutexGuard<'_, BTreeMap<String, Door>> {
        self.doors.lock()
    }

    async fn open(&self, listener: Listener) -> Result<(), Error> {
        let (name, address) = (listener.name.clone(), listener.address);
        let door = Door::open(listener, self.front.clone(), self.sessions.clone()).await;
        let door = door.map_err(|source| Error::Listen { name: name.clone(), address, source })?;
        self.doors().insert(name, door);
        Ok(())
    }

    /// Takes over what changed in the files. `Err` is the reason why it could not.
    async fn look(&self, text: &mut String) -> Result<(), String> {
        let settings = &self.front.admission.settings;
        let read = settings::read(&self.config_file).map_err(|error| sentence(&error))?;
        if let Some(new) = read.filter(|new| new != text) {
            let parsed =
                Settings::parse(&self.config_file, &new, self.clock.clone()).map_err(|error| sentence(&error))?;
            self.take_over(parsed)?;
            *text = new;
        }
        self.arrange_doors().await?;
        let running = settings.load_full();
        if let Some(certificates) = &running.certificates
            && certificates.reload(&running.config.tls).map_err(|error| sentence(&error))?
        {
            tracing::info!("took over changed certificates");
        }
        Ok(())
    }

    fn take_over(&self, new: Settings) -> Result<(), String> {
        let admission = &self.front.admission;
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
    async fn arrange_doors(&self) -> Result<(), String> {
        let wanted = self.front.admission.settings.load().config.listeners.clone();
        let superfluous: Vec<Door> = {
            let mut doors = self.doors();
            let keeps = |door: &Door| wanted.iter().any(|listener| same_door(&door.listener(), listener));
            let names: Vec<String> =
                doors.iter().filter(|(_, door)| !keeps(door)).map(|(name, _)| name.clone()).collect();
            names.iter().filter_map(|name| doors.remove(name)).collect()
        };
        for door in superfluous {
            tracing::info!(listener = door.listener().name, "closing a listener");
            door.close().await;
        }
        let mut trouble = Vec::new();
        for listener in wanted {
            let missing = match self.doors().get(&listener.name) {
                Some(door) => {
                    if *door.listener() != listener {
                        door.change(listener.clone());
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
fn same_door(open: &Listener, wanted: &Listener) -> bool {
    open.name == wanted.name && open.address == wanted.address
}
