//! All upstreams, each with its pool of connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::capabilities::{Common, SeenCapabilities};
use super::connection::Capabilities;
use super::line::Point;
use super::message::{Cause, Forwarded, Message, Target};
use super::metrics::Figures;
use super::pool::Pool;
use super::settings::UpstreamSettings;
use super::transaction;
use crate::domain::directory::UpstreamEntry;
use crate::domain::id::PolicyId;
use crate::domain::trouble::Trouble;
use crate::runtime::metrics::Registry;

/// Time after its deadline for a stopped transaction to report the cause. Only the report gets better by it, so it is
/// short.
const LAST_WORD: Duration = Duration::from_millis(100);

/// All upstreams, each with its bounded pool. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams(Arc<Inner>);

struct Inner {
    settings: ArcSwap<UpstreamSettings>,
    figures: Figures,
    pools: Mutex<HashMap<PolicyId, Arc<Pool>>>,
    capabilities: Arc<SeenCapabilities>,
    tidying: AtomicBool,
    /// Cancelled when there is no time left.
    hurried: CancellationToken,
}

impl Upstreams {
    pub fn new(settings: UpstreamSettings, registry: &Registry) -> Self {
        Self(Arc::new(Inner {
            settings: ArcSwap::from_pointee(settings),
            figures: Figures::new(registry),
            pools: Mutex::default(),
            capabilities: Arc::default(),
            tidying: AtomicBool::new(false),
            hurried: CancellationToken::new(),
        }))
    }

    /// Sends one message and returns its outcome, at `deadline` (plus a tenth of a second) at the latest, or on
    /// [`hurry`](Self::hurry). Needs a tokio runtime. The transaction runs in its own task: dropping this future does
    /// not stop it, it only loses the outcome, so do not drop it.
    pub async fn forward(&self, target: &Target, message: Message, deadline: Instant) -> Forwarded {
        self.keep_tidy();
        let pool = self.0.pool(target);
        let point = Arc::new(Point::default());
        let (say, mut word) = oneshot::channel();
        tokio::spawn(pool.transact(message, point.clone(), deadline, say).in_current_span());
        let in_time = tokio::select! {
            biased;
            said = timeout_at(deadline, &mut word) => said,
            () = self.0.hurried.cancelled() => timeout_at(Instant::now(), &mut word).await,
        };
        match in_time {
            Ok(said) => said.unwrap_or_else(|_| lost(&point)),
            Err(_) if point.abandon() => match timeout(LAST_WORD, word).await {
                Ok(said) => said.unwrap_or_else(|_| lost(&point)),
                Err(_) => Forwarded::NotOffered { cause: Cause::Timeout },
            },
            Err(_) => Forwarded::Open { cause: Cause::Timeout, outcome: word },
        }
    }

    /// Changes the settings from the next message on. Connections with the old settings QUIT, those in use when their
    /// transaction ends. Needs a tokio runtime.
    pub fn change(&self, settings: UpstreamSettings) {
        self.0.settings.store(Arc::new(settings));
        let old: Vec<Arc<Pool>> = self.0.pools().drain().map(|(_, pool)| pool).collect();
        tokio::spawn(async move { futures::future::join_all(old.iter().map(|pool| pool.close())).await });
    }

    /// Returns the capabilities common to all upstreams that were ever connected to. Costs nothing.
    pub fn common(&self) -> Common {
        self.0.capabilities.common()
    }

    /// Forgets the upstreams that are not `ours` any more: their capabilities, their failures and their metrics. Needs
    /// a tokio runtime.
    pub fn retain(&self, ours: impl Fn(PolicyId, &UpstreamEntry) -> bool) {
        self.0.capabilities.retain(&ours);
        let pools: Vec<Arc<Pool>> = self.0.pools().values().cloned().collect();
        for pool in pools.into_iter().filter(|pool| !ours(pool.target.policy, &pool.target.entry)) {
            self.0.forget(&pool);
            tokio::spawn(async move { pool.close().await });
        }
    }

    /// Returns the capabilities that this very upstream announced lately.
    pub fn announced(&self, target: &Target) -> Option<Capabilities> {
        let pools = self.0.pools();
        pools.get(&target.policy).filter(|pool| pool.target == *target)?.seen_lately()
    }

    /// Returns the refusal of a message that the upstream cannot take, by the capabilities it announced lately, so that
    /// it need not be charged first. `None` means nothing; [`forward`](Self::forward) finds out.
    pub fn foresee(&self, target: &Target, message: &Message) -> Option<Forwarded> {
        transaction::announced(message, self.announced(target)?)
    }

    /// Returns the upstreams that are not tried for a while, as of `now`.
    pub fn troubles(&self, now: Timestamp) -> Vec<Trouble> {
        let troubled = |pool: &Arc<Pool>| {
            let (fault, why) = pool.trouble(Instant::now())?;
            let Target { policy, entry, .. } = &pool.target;
            Some(Trouble { policy: *policy, upstream: entry.place(), fault, why, since: now })
        };
        self.0.pools().values().filter_map(troubled).collect()
    }

    /// Ends the wait of every message from now on: one whose final dot is not written is never sent, and the others are
    /// reported as open.
    pub fn hurry(&self) {
        self.0.hurried.cancel();
    }

    /// Closes the parked connections with QUIT; those in use follow when their transaction ends.
    pub async fn drain(&self) {
        let pools: Vec<Arc<Pool>> = self.0.pools().drain().map(|(_, pool)| pool).collect();
        futures::future::join_all(pools.iter().map(|pool| pool.close())).await;
    }

    /// Starts the task that closes idle connections, once; it ends with the last clone of this.
    fn keep_tidy(&self) {
        if !self.0.tidying.swap(true, Ordering::AcqRel) {
            tokio::spawn(tidy(Arc::downgrade(&self.0), self.0.settings.load().tidy_every));
        }
    }
}

impl Inner {
    fn pools(&self) -> MutexGuard<'_, HashMap<PolicyId, Arc<Pool>>> {
        self.pools.lock()
    }

    /// Returns the pool of a policy's upstream, and closes one for an upstream that the policy no longer names.
    fn pool(&self, target: &Target) -> Arc<Pool> {
        let mut pools = self.pools();
        if let Some(pool) = pools.get(&target.policy)
            && pool.target == *target
        {
            return pool.clone();
        }
        let figures = self.figures.of(target.policy);
        let pool = Pool::new(target.clone(), self.settings.load_full(), figures, self.capabilities.clone());
        if let Some(old) = pools.insert(target.policy, pool.clone()) {
            tokio::spawn(async move { old.close().await });
        }
        pool
    }

    fn forget(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools();
        let policy = pool.target.policy;
        if pools.get(&policy).is_some_and(|current| Arc::ptr_eq(current, pool)) {
            pools.remove(&policy);
            self.figures.forget(policy);
        }
    }
}

async fn tidy(inner: Weak<Inner>, every: Duration) {
    let mut rounds = tokio::time::interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let pools: Vec<Arc<Pool>> = inner.pools().values().cloned().collect();
        for pool in pools {
            if pool.tidy().await {
                pool.close().await;
                inner.forget(&pool);
            }
        }
    }
}

/// Returns the outcome of a transaction whose task ended without reporting one: it panicked, or the runtime stops.
fn lost(point: &Point) -> Forwarded {
    if point.abandon() {
        Forwarded::NotOffered { cause: Cause::Protocol }
    } else {
        Forwarded::Unknown { cause: Cause::Protocol }
    }
}
