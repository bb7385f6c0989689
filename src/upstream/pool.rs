//! One upstream of one policy: its connections, its breaker, and the handling of each message.
//!
//! Pools are not shared between policies, even if they name the same host: a policy that floods its upstream or breaks
//! its login must not slow another one down, and its metrics must be its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustls::ClientConfig;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::breaker::{Breaker, Health, Pass, State};
use super::capabilities::SeenCapabilities;
use super::connection::{Capabilities, Connection, NoConnection};
use super::line::Point;
use super::message::{Cause, Forwarded, Message, Stage, Target, Tenant};
use super::metrics::{Open, PolicyFigures};
use super::senders::{Judged, Senders};
use super::slots::{Slot, Slots};
use super::transaction::{self, Fate, Ran};
use super::{UpstreamSettings, tls};
use crate::domain::directory::UpstreamTls;
use crate::domain::trouble::Fault;

pub(super) struct Pool {
    pub target: Target,
    settings: Arc<UpstreamSettings>,
    figures: PolicyFigures,
    capabilities: Arc<SeenCapabilities>,
    /// One slot for each connection in use. A parked connection holds none, but a connection is opened only when none
    /// is parked, so both together never exceed the slots.
    slots: Slots,
    /// Last in, first out: connections that are not needed grow old at the bottom.
    parked: Mutex<Vec<Parked>>,
    opened: AtomicU64,
    closing: AtomicBool,
    tls: OnceLock<Option<Arc<ClientConfig>>>,
    seen: Mutex<Option<(Capabilities, Instant)>>,
    breakers: Mutex<Breakers>,
    used: Mutex<Instant>,
}

/// The breaker of the upstream and those of its senders.
#[derive(Default)]
struct Breakers {
    /// Counts failures that no sender can influence: connections, TLS, the login.
    upstream: Breaker,
    senders: Senders,
    /// The last failure.
    failed: Option<(Fault, String)>,
}

/// The passes with which a message was let through.
#[derive(Clone, Copy)]
struct Admitted {
    upstream: Pass,
    sender: Pass,
}

impl Breakers {
    /// Checks whether a message of `tenant` may be tried now. `Err` is the reason why not.
    fn admits(&mut self, tenant: &Tenant, now: Instant) -> Result<Admitted, Cause> {
        let Some(upstream) = self.upstream.admits(now) else {
            return Err(if self.upstream.is_refused() { Cause::RefusedBefore } else { Cause::BreakerOpen });
        };
        let Some(sender) = self.senders.admits(tenant, now) else {
            self.upstream.note(upstream, Health::Silent, now);
            return Err(if self.senders.is_refused(tenant) { Cause::RefusedBefore } else { Cause::SenderPaused });
        };
        Ok(Admitted { upstream, sender })
    }

    fn state(&self, now: Instant) -> State {
        match self.upstream.state() {
            State::Closed if self.senders.say_that_it_fails(now) => State::Open,
            state => state,
        }
    }
}

struct Parked {
    lease: Lease,
    since: Instant,
}

/// A connection that is counted while it is open.
struct Lease {
    connection: Connection,
    retire_at: Instant,
    open: Open,
}

impl Pool {
    pub fn new(
        target: Target,
        settings: Arc<UpstreamSettings>,
        figures: PolicyFigures,
        capabilities: Arc<SeenCapabilities>,
    ) -> Arc<Self> {
        Arc::new(Self {
            capabilities,
            slots: Slots::new(settings.connections, settings.queue),
            target,
            settings,
            figures,
            parked: Mutex::default(),
            opened: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            tls: OnceLock::new(),
            seen: Mutex::default(),
            breakers: Mutex::default(),
            used: Mutex::new(Instant::now()),
        })
    }

    /// Returns the capabilities from the last connect, if that is no longer ago than a connection may last. Older ones
    /// are no ground for a refusal.
    pub fn seen_lately(&self) -> Option<Capabilities> {
        let (capabilities, at) = (*lock(&self.seen))?;
        (at.elapsed() < self.settings.max_age).then_some(capabilities)
    }

    /// Carries a message through, reports its outcome, and then cleans up the connection. Runs in a task of its own.
    pub async fn transact(
        self: Arc<Self>,
        message: Message,
        point: Arc<Point>,
        deadline: Instant,
        say: oneshot::Sender<Forwarded>,
    ) {
        let started = Instant::now();
        *lock(&self.used) = started;
        let admitted = lock(&self.breakers).admits(&message.tenant, started);
        let (forwarded, rest) = match admitted {
            Ok(admitted) => {
                self.show_breaker();
                let (forwarded, rest) = self.attempt(&message, &point, deadline).await;
                (self.learn(forwarded, admitted, rest.is_some(), &message.tenant), rest)
            }
            Err(cause) => (Forwarded::NotOffered { cause }, None),
        };
        self.figures.ended(&forwarded, started.elapsed().as_secs_f64());
        // A clean connection is parked before the outcome is reported, so that the caller's next message finds it.
        let rest = rest.and_then(|(lease, fate, slot)| Some((self.park(lease, fate)?, slot)));
        // The caller may be gone: it was told that the outcome is open.
        let _ = say.send(forwarded);
        if let Some(((lease, fate), slot)) = rest {
            self.put_back(lease, fate).await;
            drop(slot);
        }
    }

    async fn attempt(&self, message: &Message, point: &Arc<Point>, deadline: Instant) -> (Forwarded, Option<Rest<'_>>) {
        if !transaction::is_normalised(&message.body) {
            tracing::error!(policy = %self.target.policy, "a body with bare line ends was handed to the upstream room; refused");
            return (bare_line_ends(), None);
        }
        let slot = self.slots.take(&message.tenant.namespace, deadline, || self.figures.waits_for_its_share());
        let Some(slot) = slot.await else {
            return (Forwarded::NotOffered { cause: Cause::Busy }, None);
        };
        let parked = self.unpark();
        if let Some(mut lease) = parked {
            let ran = self.run(&mut lease, message, point, deadline).await;
            if !ran.stale {
                return (ran.forwarded, Some((lease, ran.fate, slot)));
            }
            // The upstream hung up on a parked connection. The other parked ones are likely stale too, so the second
            // try is on a fresh one.
            lock(&self.parked).clear();
        }
        match self.open(deadline).await {
            Ok(mut lease) => {
                let ran = self.run(&mut lease, message, point, deadline).await;
                (ran.forwarded, Some((lease, ran.fate, slot)))
            }
            Err(NoConnection::Failed(cause)) => (Forwarded::NotOffered { cause }, None),
            Err(NoConnection::RefusesUs(text)) => (Forwarded::RefusesUs { text }, None),
        }
    }

    async fn run(&self, lease: &mut Lease, message: &Message, point: &Arc<Point>, deadline: Instant) -> Ran {
        lease.connection.begin(deadline);
        transaction::run(&mut lease.connection, message, point, self.settings.final_reply_limit).await
    }

    /// Takes the youngest parked connection that is still usable.
    fn unpark(&self) -> Option<Lease> {
        loop {
            let mut parked = lock(&self.parked).pop()?;
            let now = Instant::now();
            if now < parked.lease.retire_at
                && now < parked.since + self.settings.idle
                && parked.lease.connection.is_quiet()
            {
                return Some(parked.lease);
            }
        }
    }

    async fn open(&self, deadline: Instant) -> Result<Lease, NoConnection> {
        let tls = match self.target.entry.tls {
            UpstreamTls::None => None,
            UpstreamTls::Implicit | UpstreamTls::StartTls => self.tls_config(),
        };
        let open = self.figures.open();
        let connection = Connection::open(&self.target, tls, &self.settings, deadline).await?;
        *lock(&self.seen) = Some((connection.capabilities, connection.opened));
        self.capabilities.announced(&self.target, connection.capabilities);
        let retire_at = connection.opened + self.life();
        Ok(Lease { connection, retire_at, open })
    }

    fn tls_config(&self) -> Option<Arc<ClientConfig>> {
        let secret = self.target.secret.as_ref();
        let ca_pem = secret.and_then(|secret| secret.ca_pem.as_deref());
        let client = secret.and_then(|secret| secret.client.as_ref());
        let build = || match tls::client_config(ca_pem, client) {
            Ok(config) => Some(config),
            Err(error) => {
                tracing::error!(policy = %self.target.policy, %error, "the upstream's TLS cannot be set up");
                None
            }
        };
        self.tls.get_or_init(build).clone()
    }

    /// Returns the lifetime of a new connection: 80 to 120 % of the maximum age, so that connections opened together
    /// are not closed together. The golden ratio spreads any number of them evenly, which chance does not.
    fn life(&self) -> Duration {
        const GOLDEN: f64 = 0.618_033_988_749_894_9;
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        self.settings.max_age.mul_f64(0.8 + 0.4 * (number as f64 * GOLDEN).fract())
    }

    /// Parks a connection that is ready for the next message; any other is returned.
    fn park(&self, lease: Lease, fate: Fate) -> Option<(Lease, Fate)> {
        let now = Instant::now();
        let worn = lease.connection.uses >= self.settings.max_uses || now >= lease.retire_at;
        // Checked under the lock that `close` takes after setting `closing`, so that nothing is parked after it.
        let mut parked = lock(&self.parked);
        if fate != Fate::Keep || worn || self.closing.load(Ordering::Acquire) {
            return Some((lease, fate));
        }
        parked.push(Parked { lease, since: now });
        None
    }

    /// Makes a connection ready for the next message, or closes it.
    async fn put_back(&self, mut lease: Lease, fate: Fate) {
        let clean = match fate {
            Fate::Keep => true,
            Fate::Reset => lease.connection.reset().await,
            Fate::Discard => false,
        };
        if clean && let Some((worn, _)) = self.park(lease, Fate::Keep) {
            worn.quit().await;
        }
    }

    /// Records an outcome, and judges it by those of other senders. `begun`: there was a connection, and the
    /// transaction began; from then on the sender can influence how it ends.
    fn learn(&self, forwarded: Forwarded, admitted: Admitted, begun: bool, tenant: &Tenant) -> Forwarded {
        let now = Instant::now();
        let mut breakers = lock(&self.breakers);
        let before = breakers.state(now);
        let forwarded = if begun {
            let Judged { forwarded, health } = breakers.senders.note(tenant, admitted.sender, forwarded, now);
            if matches!(health, Health::Bad { .. }) {
                breakers.failed = failing(&forwarded);
            }
            breakers.upstream.note(admitted.upstream, Health::Good, now);
            forwarded
        } else {
            let health = self.health_of_connecting(&forwarded);
            if matches!(health, Health::Bad { .. }) {
                breakers.failed = failing(&forwarded);
            }
            breakers.upstream.note(admitted.upstream, health, now);
            breakers.senders.not_tried(tenant, admitted.sender, now);
            forwarded
        };
        let after = breakers.state(now);
        drop(breakers);
        self.log_breaker(before, after, &forwarded);
        self.show_breaker();
        forwarded
    }

    /// Returns the upstream's health, as shown by a message that got no connection.
    fn health_of_connecting(&self, forwarded: &Forwarded) -> Health {
        match forwarded {
            // It accepts no more connections of ours, and works on the others.
            Forwarded::RefusesUs { text } if text.starts_with("421") && self.has_others_in_use() => Health::Silent,
            Forwarded::RefusesUs { .. } => Health::Bad { refuses_us: true },
            Forwarded::Relayed { .. } | Forwarded::Refused { .. } => Health::Silent,
            Forwarded::NotOffered { cause } | Forwarded::Unknown { cause } | Forwarded::Open { cause, .. } => {
                match cause {
                    Cause::Unreachable | Cause::Timeout | Cause::Tls | Cause::Closed | Cause::Protocol => {
                        Health::Bad { refuses_us: false }
                    }
                    Cause::Busy | Cause::BreakerOpen | Cause::RefusedBefore | Cause::SenderPaused => Health::Silent,
                }
            }
        }
    }

    fn has_others_in_use(&self) -> bool {
        self.figures.open_connections() > 0
    }

    /// Logs once when mail stops flowing, and once when it flows again. The upstream's text is left out: it may name
    /// people.
    fn log_breaker(&self, before: State, after: State, why: &Forwarded) {
        match (before, after) {
            (State::Closed, State::Open) => match why {
                Forwarded::RefusesUs { text } => {
                    let code = text.split(' ').next().unwrap_or("");
                    tracing::error!(policy = %self.target.policy, code, "the upstream keeps refusing us; not asking it for a while");
                }
                Forwarded::NotOffered { cause } | Forwarded::Unknown { cause } | Forwarded::Open { cause, .. } => {
                    tracing::error!(policy = %self.target.policy, ?cause, "the upstream keeps failing; not asking it for a while");
                }
                Forwarded::Relayed { .. } | Forwarded::Refused { .. } => {}
            },
            (State::HalfOpen | State::Open, State::Closed) => {
                tracing::info!(policy = %self.target.policy, "the upstream accepts mail again");
            }
            (State::Closed, State::Closed | State::HalfOpen)
            | (State::HalfOpen | State::Open, State::HalfOpen | State::Open) => {}
        }
    }

    /// Returns the fault that keeps the upstream from being tried, while there is one.
    pub fn trouble(&self, now: Instant) -> Option<(Fault, String)> {
        let breakers = lock(&self.breakers);
        match breakers.state(now) {
            State::Closed => None,
            State::HalfOpen | State::Open => breakers.failed.clone(),
        }
    }

    fn show_breaker(&self) {
        self.figures.breaker(lock(&self.breakers).state(Instant::now()));
    }

    /// Closes connections that were parked too long. True if the pool has been unused for so long that it can be
    /// removed.
    pub async fn tidy(&self) -> bool {
        let now = Instant::now();
        self.quit_parked(|parked| now >= parked.lease.retire_at || now >= parked.since + self.settings.idle).await;
        let idle = now.saturating_duration_since(*lock(&self.used)) >= self.settings.forget_after;
        idle && self.slots.is_idle()
    }

    /// Closes the parked connections with QUIT, and those in use when they come back.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.quit_parked(|_| true).await;
    }

    async fn quit_parked(&self, which: impl Fn(&Parked) -> bool) {
        let leaving: Vec<Parked> = lock(&self.parked).extract_if(.., |parked| which(parked)).collect();
        futures::future::join_all(leaving.into_iter().map(|parked| parked.lease.quit())).await;
    }
}

/// A connection after its transaction, with the slot that it holds.
type Rest<'a> = (Lease, Fate, Slot<'a>);

impl Lease {
    async fn quit(self) {
        self.connection.quit().await;
        drop(self.open);
    }
}

fn bare_line_ends() -> Forwarded {
    Forwarded::Refused {
        code: 554,
        enhanced: Some("5.6.0".to_owned()),
        text: "the message has line ends that are not CRLF".to_owned(),
        recipient: None,
        stage: Stage::Announced,
    }
}

/// True if the login is missing or wrong (53x), which no sender can influence.
fn is_about_login(forwarded: &Forwarded) -> bool {
    matches!(forwarded, Forwarded::RefusesUs { text } if text.starts_with("53"))
}

/// Describes a failure for people: in our own words, with a reply code at most.
fn failing(forwarded: &Forwarded) -> Option<(Fault, String)> {
    match forwarded {
        Forwarded::RefusesUs { text } => {
            let code = text.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
            let why = match code {
                Some(code) if is_about_login(forwarded) => format!("it refuses our login ({code})"),
                Some(code) => format!("it refuses us ({code})"),
                None => "it offers no login that we can use".to_owned(),
            };
            Some((Fault::RefusesUs, why))
        }
        Forwarded::NotOffered { cause } | Forwarded::Unknown { cause } | Forwarded::Open { cause, .. } => {
            Some((Fault::Unreachable, cause.sentence().to_owned()))
        }
        Forwarded::Relayed { .. } | Forwarded::Refused { .. } => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
