//! The handle through which a role uses the ledger: it batches calls, retries them, and drops no outcome.
//!
//! One batch of reservations is in flight at a time and the next one takes what has queued meanwhile, so batches grow
//! with the load and no request waits for a timer. A batch whose answer is not known is retried, with the same ids,
//! until it is. A charge that is not collected (the caller's deadline passed, or its connection went away) is settled
//! as not offered: used or cancelled, never forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::incarnation::Admit;
use super::metrics::{Figures, judged};
use super::outcomes::{BATCH, Outcomes};
use super::retry::Retry;
use super::store::{Error, LedgerSession, Result, Role, Settlement, Store};
use crate::domain::credit::{Reservation, Verdict};
use crate::runtime::failure_streak::FailureStreak;
use crate::runtime::metrics::Registry;

/// Maximum requests that may wait: two seconds' worth at the rate that one ledger is built for.
const QUEUE: usize = 20_000;
/// Maximum outcomes that may wait before nothing new is reserved. Each belongs to a message that was charged.
const OUTCOMES: usize = 100_000;
/// Interval of heartbeats. The operator gives up a session that is silent for several of them.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Cheap to clone. Its tasks end after [`drain`](Self::drain), or when the last clone is gone and nothing waits.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
}

struct Shared {
    store: Arc<dyn Store>,
    role: Role,
    name: String,
    session: RwLock<LedgerSession>,
    admit: Admit,
    reopening: tokio::sync::Mutex<()>,
    outcomes: Outcomes,
    /// Requests that were queued and are not answered.
    asked: AtomicUsize,
    /// Notifies [`drain`](Ledger::drain) when something was answered or written.
    progress: Notify,
    draining: AtomicBool,
    /// No handle is left.
    abandoned: AtomicBool,
    stop: CancellationToken,
    figures: Figures,
}

/// A queued request.
struct Ask {
    reservation: Reservation,
    since: Instant,
    reply: oneshot::Sender<Reply>,
}

enum Reply {
    Decided(Collectable),
    /// Certainly nothing was written.
    Failed(Error),
}

/// A verdict on its way to the caller. If it is dropped on the way, its charge is given back.
struct Collectable {
    verdict: Option<Verdict>,
    reservation: Reservation,
    shared: Arc<Shared>,
}

impl Collectable {
    fn collect(mut self) -> Verdict {
        self.verdict.take().expect("a verdict is collected once, by value")
    }
}

impl Drop for Collectable {
    fn drop(&mut self) {
        match self.verdict {
            Some(Verdict::Reserved | Verdict::Relayed(_) | Verdict::Resumed(_)) => {
                self.shared.settle(Settlement::given_back(&self.reservation));
            }
            Some(Verdict::UnderWay(_) | Verdict::Short { .. } | Verdict::TooFast { .. } | Verdict::Blocked(_))
            | None => {}
        }
    }
}

/// A call to the ledger that got no answer.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("there was no answer before the deadline")]
    Late,
    #[error("{QUEUE} questions are waiting already")]
    Crowded,
    #[error("{OUTCOMES} outcomes wait to be written")]
    Behind,
    #[error("the process is stopping")]
    Stopping,
}

impl Trouble {
    fn reserving(self) -> Error {
        Error::Unavailable { doing: "reserving credits", source: Box::new(self) }
    }
}

impl Ledger {
    /// Opens a session and starts the tasks. When `shutdown` is cancelled everything in flight still goes on, so that a
    /// role can finish its messages before it calls [`drain`](Self::drain); but without a drain, outcomes are no longer
    /// retried once the last handle is gone.
    pub async fn start(
        store: Arc<dyn Store>,
        role: Role,
        name: String,
        registry: &Registry,
        admit: Admit,
        shutdown: CancellationToken,
    ) -> Result<Self> {
        let session = match open(store.as_ref(), &admit, role, &name).await {
            // Nothing is written to a ledger that is not ours to use. The first write finds that there is no session
            // yet, and asks for one again.
            Err(error @ (Error::Foreign { .. } | Error::Replaced { .. } | Error::Held(_))) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the ledger may not be used");
                NO_SESSION
            }
            opened => opened?,
        };
        let shared = Arc::new(Shared {
            store,
            role,
            name,
            session: RwLock::new(session),
            admit,
            reopening: tokio::sync::Mutex::default(),
            outcomes: Outcomes::default(),
            asked: AtomicUsize::new(0),
            progress: Notify::new(),
            draining: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            stop: CancellationToken::new(),
            figures: Figures::new(registry, role),
        });
        let (asks, queue) = mpsc::channel(QUEUE);
        tokio::spawn(stoppable(shared.clone(), reserve_until_closed(shared.clone(), queue)));
        tokio::spawn(stoppable(shared.clone(), settle_until_abandoned(shared.clone(), shutdown)));
        tokio::spawn(stoppable(shared.clone(), beat(shared.clone())));
        Ok(Self { shared, asks })
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// Returns the session to write with now. After [`Error::Fenced`] ask [`renew`](Self::renew) for the next.
    pub async fn session(&self) -> LedgerSession {
        self.shared.session()
    }

    /// Returns a session that replaces `stale`, which the ledger gave up.
    pub async fn renew(&self, stale: &LedgerSession) -> Result<LedgerSession> {
        self.shared.renew(stale).await
    }

    /// Charges one message. Returns by `deadline` at the latest. An error means that in the end nothing is charged,
    /// unless the process dies before that is written: then the message stays charged, as unknown.
    pub async fn reserve(&self, reservation: Reservation, deadline: Instant) -> Result<Verdict> {
        if self.shared.draining.load(Ordering::Relaxed) {
            return Err(Trouble::Stopping.reserving());
        }
        if self.shared.outcomes.len() >= OUTCOMES {
            return Err(Trouble::Behind.reserving());
        }
        let (message, (reply, answer)) = (reservation.message, oneshot::channel());
        self.shared.asked.fetch_add(1, Ordering::Relaxed);
        if let Err(refused) = self.asks.try_send(Ask { reservation, since: Instant::now(), reply }) {
            self.shared.answered(1);
            return Err(match refused {
                mpsc::error::TrySendError::Full(_) => Trouble::Crowded.reserving(),
                mpsc::error::TrySendError::Closed(_) => Trouble::Stopping.reserving(),
            });
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(Reply::Decided(verdict))) => Ok(judged(message, verdict.collect())),
            Ok(Ok(Reply::Failed(error))) => Err(error),
            Ok(Err(_)) => Err(Trouble::Stopping.reserving()),
            Err(_) => Err(Trouble::Late.reserving()),
        }
    }

    /// Hands in the outcome of a message that was reserved. It is written soon, and retried until it is.
    pub fn settle(&self, settlement: Settlement) {
        let outcome = settlement.outcome.as_str();
        tracing::debug!(message.id = %settlement.message, outcome, "its outcome is handed in");
        self.shared.settle(settlement);
    }

    /// Does the same, and waits until it is written, or until `deadline`: for outcomes that must be written before the
    /// client gets its reply.
    pub async fn settle_written(&self, settlement: Settlement, deadline: Instant) {
        let (written, hear) = oneshot::channel();
        self.shared.outcomes.push_heard(settlement, written);
        self.shared.figures.settlements_open.set(self.shared.outcomes.len() as i64);
        // A caller that waits in vain goes on: it is written later.
        let _ = timeout_at(deadline, hear).await;
    }

    /// Returns how many outcomes are not written yet.
    pub fn unsettled(&self) -> usize {
        self.shared.outcomes.len()
    }

    /// Takes no more requests, waits until everything is answered and written, closes the session and ends the tasks.
    /// Returns how many outcomes could not be written by `deadline`; the operator's sweep makes their messages
    /// `unknown`.
    pub async fn drain(&self, deadline: Instant) -> usize {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.shared.outcomes.wake();
        loop {
            let mut progress = std::pin::pin!(self.shared.progress.notified());
            progress.as_mut().enable();
            if self.shared.asked.load(Ordering::Relaxed) == 0 && self.shared.outcomes.len() == 0 {
                break;
            }
            if timeout_at(deadline, progress).await.is_err() {
                break;
            }
        }
        let left = self.shared.outcomes.len();
        let session = self.shared.session();
        match timeout_at(deadline, self.shared.store.close_session(&session)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "the session stays open"),
            Err(_) => tracing::warn!("the session stays open: there was no time to close it"),
        }
        self.shared.stop.cancel();
        left
    }
}

/// A session that no ledger gave out: every write under it is refused as fenced.
const NO_SESSION: LedgerSession = LedgerSession { id: 0, epoch: 0 };

/// Opens a session, if the ledger is the right one.
async fn open(store: &dyn Store, admit: &Admit, role: Role, name: &str) -> Result<LedgerSession> {
    admit(&store.identity().await?.tag())?;
    store.open_session(role, name).await
}

/// Runs a task until the ledger is drained.
async fn stoppable(shared: Arc<Shared>, task: impl Future<Output = ()>) {
    shared.stop.run_until_cancelled(task).await;
}

impl Shared {
    fn session(&self) -> LedgerSession {
        self.session.read().clone()
    }

    /// Opens a new session in one task; the others find it.
    async fn renew(&self, stale: &LedgerSession) -> Result<LedgerSession> {
        let _one_at_a_time = self.reopening.lock().await;
        let current = self.session();
        if current != *stale {
            return Ok(current);
        }
        let session = open(self.store.as_ref(), &self.admit, self.role, &self.name).await?;
        tracing::warn!(role = self.role.as_str(), epoch = session.epoch, "opened another session in the ledger");
        *self.session.write() = session.clone();
        Ok(session)
    }

    fn settle(&self, settlement: Settlement) {
        self.outcomes.push(settlement);
        self.figures.settlements_open.set(self.outcomes.len() as i64);
    }

    fn written(&self, batch: &[Settlement]) {
        self.outcomes.written(batch.len());
        self.figures.settlements_open.set(self.outcomes.len() as i64);
        self.figures.settled(batch.iter().map(|settlement| settlement.outcome));
        self.progress.notify_waiters();
    }

    fn answered(&self, count: usize) {
        self.asked.fetch_sub(count, Ordering::Relaxed);
        self.progress.notify_waiters();
    }

    /// Waits after a failure, or renews the session if that was the failure. Logs the first of several failures in a
    /// row.
    async fn recover(&self, doing: &'static str, error: &Error, session: &LedgerSession, retry: &mut Retry) {
        self.figures.failed(error);
        match error {
            Error::Fenced => {
                if self.renew(session).await.is_ok() {
                    return;
                }
            }
            Error::Unavailable { .. }
            | Error::Full
            | Error::Foreign { .. }
            | Error::Replaced { .. }
            | Error::Held(_)
            | Error::Schema { .. }
            | Error::Unfit { .. } => {}
        }
        if retry.is_first() {
            tracing::warn!(error = error as &dyn std::error::Error, "{doing} failed; trying again until it is done");
        }
        sleep(retry.next()).await;
    }
}

async fn reserve_until_closed(shared: Arc<Shared>, mut queue: mpsc::Receiver<Ask>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        // Callers that are ready to ask but have not had their turn yet share the commit. Where there are none, this
        // takes no time.
        yield_now().await;
        while batch.len() < BATCH
            && let Ok(ask) = queue.try_recv()
        {
            batch.push(ask);
        }
        let queued = batch.len();
        // The callers of these have gone, and the ledger was never asked: they cost nothing.
        batch.retain(|ask: &Ask| !ask.reply.is_closed());
        if !batch.is_empty() {
            reserve_batch(&shared, &mut batch).await;
        }
        shared.answered(queued);
    }
    shared.abandoned.store(true, Ordering::Relaxed);
    shared.outcomes.wake();
}

/// Calls the ledger until it answers, and passes the answers on.
async fn reserve_batch(shared: &Arc<Shared>, batch: &mut Vec<Ask>) {
    let reservations: Vec<Reservation> = batch.iter().map(|ask| ask.reservation.clone()).collect();
    shared.figures.asked(batch.len());
    for ask in batch.iter() {
        shared.figures.queued(ask.since.elapsed());
    }
    let verdicts = match reserve_until_known(shared, &reservations, false).await {
        Ok(verdicts) => verdicts.into_iter().map(Ok).collect(),
        // One message of many is the cause; the others are retried one by one.
        Err(failed) if failed.error.is_undone() && batch.len() > 1 => {
            let mut each = Vec::with_capacity(batch.len());
            for reservation in reservations.chunks(1) {
                let one = reserve_until_known(shared, reservation, failed.may_be_charged).await;
                each.push(one.map(|mut verdicts| verdicts.remove(0)));
            }
            each
        }
        Err(failed) if failed.error.is_undone() => vec![Err(failed)],
        Err(failed) => {
            let may_be_charged = failed.may_be_charged;
            batch.iter().map(|_| Err(Failed { error: failed.error.of_each(), may_be_charged })).collect()
        }
    };
    for (ask, verdict) in batch.drain(..).zip(verdicts) {
        let reply = match verdict {
            Ok(verdict) => {
                shared.figures.answered(&verdict, ask.since.elapsed());
                let reservation = ask.reservation.clone();
                Reply::Decided(Collectable { verdict: Some(verdict), reservation, shared: shared.clone() })
            }
            Err(failed) => {
                if failed.may_be_charged {
                    shared.settle(Settlement::given_back(&ask.reservation));
                }
                Reply::Failed(failed.error)
            }
        };
        // If the caller is gone, the charge drops here and is given back.
        drop(ask.reply.send(reply));
    }
}

/// A batch whose last try certainly wrote nothing: the disk is full, the ledger is held, or the call was rolled back.
struct Failed {
    error: Error,
    /// An earlier try may have charged: its charge is to be given back.
    may_be_charged: bool,
}

/// Calls the ledger until it is known what was written.
async fn reserve_until_known(
    shared: &Shared,
    reservations: &[Reservation],
    mut may_be_charged: bool,
) -> std::result::Result<Vec<Verdict>, Failed> {
    let mut retry = Retry::new();
    loop {
        let session = shared.session();
        let error = match shared.store.reserve(&session, reservations).await {
            Ok(verdicts) => return Ok(verdicts),
            Err(error) => error,
        };
        match &error {
            // Certainly not written, and a retry is useless until an administrator acts.
            Error::Full | Error::Held(_) | Error::Foreign { .. } | Error::Replaced { .. } => {
                shared.figures.failed(&error);
                return Err(Failed { error, may_be_charged });
            }
            Error::Unavailable { .. } if error.is_undone() => {
                shared.figures.failed(&error);
                tracing::error!(error = &error as &dyn std::error::Error, "a reservation cannot be written");
                return Err(Failed { error, may_be_charged });
            }
            Error::Unavailable { .. } => may_be_charged = true,
            Error::Fenced | Error::Schema { .. } | Error::Unfit { .. } => {}
        }
        shared.recover("reserving credits", &error, &session, &mut retry).await;
    }
}

async fn settle_until_abandoned(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut retry = Retry::new();
    // Outcomes still to be written one at a time, because one of them cannot be written.
    let mut singly = 0;
    loop {
        let abandoned = shared.abandoned.load(Ordering::Relaxed);
        let Some(due) = shared.outcomes.due() else {
            if abandoned {
                break;
            }
            shared.outcomes.changed().await;
            continue;
        };
        if due > Instant::now() && !abandoned && !shared.draining.load(Ordering::Relaxed) {
            let _ = timeout_at(due, shared.outcomes.changed()).await;
            continue;
        }
        let batch = shared.outcomes.oldest(if singly > 0 { 1 } else { BATCH });
        let session = shared.session();
        let Err(error) = shared.store.settle(&session, &batch).await else {
            shared.written(&batch);
            singly -= singly.min(batch.len());
            retry = Retry::new();
            continue;
        };
        if abandoned && shutdown.is_cancelled() {
            let left = shared.outcomes.len();
            tracing::warn!(error = &error as &dyn std::error::Error, left, "outcomes were left unwritten");
            break;
        }
        if error.is_undone() && singly == 0 && batch.len() > 1 {
            singly = batch.len();
            continue;
        }
        if error.is_undone() {
            shared.outcomes.postpone();
            singly -= singly.min(1);
        }
        shared.recover("settling messages", &error, &session, &mut retry).await;
    }
    // Ends the heartbeat too.
    shared.stop.cancel();
}

async fn beat(shared: Arc<Shared>) {
    let mut ticks = interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = FailureStreak::default();
    loop {
        ticks.tick().await;
        let session = shared.session();
        let beaten = shared.store.heartbeat(&session).await.inspect_err(|error| shared.figures.failed(error));
        let beaten = match beaten {
            Err(Error::Fenced) => shared.renew(&session).await.map(drop),
            beaten @ (Ok(())
            | Err(
                Error::Unavailable { .. }
                | Error::Full
                | Error::Foreign { .. }
                | Error::Replaced { .. }
                | Error::Held(_)
                | Error::Schema { .. }
                | Error::Unfit { .. },
            )) => beaten,
        };
        if let Some(error) = failures.first(&beaten) {
            tracing::warn!(error = error as &dyn std::error::Error, "the ledger did not take the heartbeat");
        }
    }
}
