//! Leader election among several operators: a Lease of our own, written by compare and swap.
//!
//! A lease is advice, not a fence. It keeps two operators from working against each other in normal operation; a paused
//! leader that wakes is stopped by the ledger, whose session the next leader has replaced. So a leader that may have
//! lost the lease ends its process, and a new one starts clean: nothing that it knew need still be true.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::operator::error::status_code;
use crate::operator::plan::meta;
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::chain;

/// Time for which a lease without renewal is respected. This, `BELIEF` and `RETRY` are client-go's, so that their known
/// properties apply.
pub const DURATION: Duration = Duration::from_secs(15);
/// Time after its last renewal for which a leader trusts the lease: less than the others wait, by more than clocks
/// drift.
const BELIEF: Duration = Duration::from_secs(10);
/// Delay between two attempts of a candidate, and between two tries of a leader whose renewal failed.
pub const RETRY: Duration = Duration::from_secs(2);
/// Interval between renewals: half of `BELIEF`, so that one failure does not lose the lease.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Limit for one call to the API server: two fit into `BELIEF`.
const CALL_LIMIT: Duration = Duration::from_secs(4);
/// Maximum duration that is respected in another holder's lease. A claim of an hour must not stop all operators for
/// one.
const DURATION_MAX: Duration = Duration::from_secs(60);
/// Pending requests to confirm the leadership; only the ledger client sends them.
const ASKS: usize = 8;

/// A process that wants to lead.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    clock: Arc<dyn Clock>,
}

/// A handle to check a leadership, or to give it up. Cheap to clone.
#[derive(Clone)]
pub struct Leader {
    asks: mpsc::Sender<oneshot::Sender<bool>>,
    lost: CancellationToken,
    until: Until,
}

/// Time until which the lease is certainly ours, by our own clock.
#[derive(Clone)]
struct Until(Arc<Mutex<Instant>>);

impl Until {
    fn get(&self) -> Instant {
        *self.0.lock()
    }

    fn set(&self, deadline: Instant) {
        *self.0.lock() = deadline;
    }
}

/// A leadership that was won. It is renewed until it is resigned, lost, or dropped.
pub struct Leadership {
    leader: Leader,
    resign: CancellationToken,
    renewing: JoinHandle<()>,
}

/// Version of the lease seen last, and how long it has not changed. Only our own clock counts: those of two nodes
/// differ.
struct Sight {
    version: Option<String>,
    since: Instant,
}

impl Candidate {
    /// Creates a candidate. `identity` must be unique to this process: a restarted process is another candidate.
    pub fn new(client: Client, namespace: &str, name: String, identity: String, clock: Arc<dyn Clock>) -> Self {
        Self { api: Api::namespaced(client, namespace), name, identity, clock }
    }

    /// Waits until it leads; `None` if `stop` came first. `told` is called with the problem when the lease cannot be
    /// requested, and with `None` once it can.
    pub async fn win(self, stop: &CancellationToken, told: impl Fn(Option<&str>)) -> Option<Leadership> {
        let mut sight = None;
        let mut said: Option<Option<String>> = None;
        loop {
            let asked = Instant::now();
            let trouble = match self.attempt(&mut sight).await {
                Ok(Some(lease)) => {
                    tracing::info!(lease = self.name, identity = self.identity, "this operator leads");
                    return Some(Leadership::start(self, lease, asked));
                }
                Ok(None) => None,
                Err(error) => Some(format!("asking for the lease {}: {}", self.name, chain(&error))),
            };
            if said.as_ref() != Some(&trouble) {
                match &trouble {
                    None => tracing::info!(lease = self.name, "another operator leads; standing by"),
                    Some(trouble) => tracing::warn!(trouble, "this operator can neither lead nor stand by"),
                }
                told(trouble.as_deref());
                said = Some(trouble);
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                () = stop.cancelled() => return None,
            }
        }
    }

    /// Tries once to take the lease, and returns it if that worked.
    async fn attempt(&self, sight: &mut Option<Sight>) -> kube::Result<Option<Lease>> {
        let Some(lease) = in_time(self.api.get_opt(&self.name)).await? else {
            return self.written(in_time(self.api.create(&manager(), &self.claim(None))).await);
        };
        if sight.as_ref().is_none_or(|sight| sight.version != lease.resource_version()) {
            *sight = Some(Sight { version: lease.resource_version(), since: Instant::now() });
        }
        let unchanged = sight.as_ref().map_or(Duration::ZERO, |sight| sight.since.elapsed());
        if !is_free(&lease, unchanged) {
            return Ok(None);
        }
        self.written(in_time(self.api.replace(&self.name, &manager(), &self.claim(Some(&lease)))).await)
    }

    /// Converts the reply to a write. A conflict means that another candidate was faster.
    fn written(&self, answer: kube::Result<Lease>) -> kube::Result<Option<Lease>> {
        match answer {
            Ok(lease) => Ok(Some(lease)),
            Err(error) if status_code(&error) == Some(409) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Builds our claim on the lease, over the existing one.
    fn claim(&self, standing: Option<&Lease>) -> Lease {
        let now = MicroTime(self.clock.now());
        let spec = standing.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let ours = spec.holder_identity.as_ref() == Some(&self.identity);
        let changes = spec.lease_transitions.unwrap_or_default();
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: standing.and_then(kube::ResourceExt::resource_version),
                labels: standing
                    .map_or_else(|| Some(meta::installation_labels()), |lease| lease.metadata.labels.clone()),
                annotations: standing.and_then(|lease| lease.metadata.annotations.clone()),
                owner_references: standing.and_then(|lease| lease.metadata.owner_references.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
                acquire_time: if ours { spec.acquire_time } else { Some(now.clone()) },
                renew_time: Some(now),
                lease_transitions: Some(if ours { changes } else { changes.saturating_add(1) }),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Tries to renew until it works or `deadline` has passed. `None`: the lease is lost.
    async fn renew(&self, mut lease: Lease, deadline: Instant) -> Option<Lease> {
        loop {
            // A process that was paused finds the deadline passed.
            if Instant::now() >= deadline {
                return None;
            }
            let claim = self.claim(Some(&lease));
            match in_time(self.api.replace(&self.name, &manager(), &claim)).await {
                Ok(renewed) => return Some(renewed),
                Err(error) if matches!(status_code(&error), Some(404 | 409)) => {
                    match in_time(self.api.get_opt(&self.name)).await {
                        // Another writer changed the lease, such as its annotations, but not the holder.
                        Ok(Some(fresh)) if self.holds(&fresh) => {
                            lease = fresh;
                            continue;
                        }
                        Ok(Some(_) | None) => return None,
                        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "reading the lease"),
                    }
                }
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "renewing the lease"),
            }
            timeout_at(deadline, sleep(RETRY)).await.ok()?;
        }
    }

    fn holds(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.identity)
    }

    /// Releases the lease so that the next candidate can lead at once.
    async fn give_back(&self, lease: &Lease) {
        let mut free = self.claim(Some(lease));
        if let Some(spec) = &mut free.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        if let Err(error) = in_time(self.api.replace(&self.name, &manager(), &free)).await {
            tracing::info!(error = &error as &dyn std::error::Error, "the lease was not given back; it runs out");
        }
    }
}

/// True if a lease that has not changed for this long, by our own clock, may be taken.
fn is_free(lease: &Lease, unchanged: Duration) -> bool {
    let Some(spec) = &lease.spec else { return true };
    if spec.holder_identity.as_ref().is_none_or(String::is_empty) {
        return true;
    }
    let claimed = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    unchanged >= claimed.map_or(DURATION, Duration::from_secs).min(DURATION_MAX)
}

async fn in_time<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let late = || kube::Error::Service("no answer in time".into());
    timeout(CALL_LIMIT, call).await.unwrap_or_else(|_| Err(late()))
}

fn manager() -> PostParams {
    PostParams { field_manager: Some(meta::MANAGER.to_owned()), ..PostParams::default() }
}

impl Leadership {
    fn start(candidate: Candidate, lease: Lease, asked: Instant) -> Self {
        let (asks, questions) = mpsc::channel(ASKS);
        let until = Until(Arc::new(Mutex::new(asked + BELIEF)));
        let leader = Leader { asks, lost: CancellationToken::new(), until: until.clone() };
        let resign = CancellationToken::new();
        let held = hold(candidate, lease, until, questions, leader.lost.clone(), resign.clone());
        Self { renewing: tokio::spawn(held), leader, resign }
    }

    pub fn leader(&self) -> Leader {
        self.leader.clone()
    }

    /// Resigns in good order, so that the next leader need not wait.
    pub async fn resign(mut self) {
        self.resign.cancel();
        // The task ends by itself; if it panicked, the lease runs out.
        drop((&mut self.renewing).await);
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Leader {
    /// Checks whether we lead by a write to the lease made after this call. `false` is final.
    pub async fn confirm(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let leads = self.asks.send(reply).await.is_ok() && answer.await.unwrap_or(false);
        if !leads {
            self.depose();
        }
        leads
    }

    /// True if the lease is still ours by our own clock. It makes no call, so it can be checked right before each write
    /// that the ledger does not fence: a process that was paused finds the time expired before it writes.
    pub fn believes(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < self.until.get()
    }

    /// Gives up the leadership for good: another component reported that another operator leads.
    pub fn depose(&self) {
        self.lost.cancel();
    }

    /// Waits until the leadership is lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// Renews the lease until it is lost or resigned.
async fn hold(
    candidate: Candidate,
    mut lease: Lease,
    until: Until,
    mut questions: mpsc::Receiver<oneshot::Sender<bool>>,
    lost: CancellationToken,
    resign: CancellationToken,
) {
    loop {
        let question = tokio::select! {
            () = resign.cancelled() => return candidate.give_back(&lease).await,
            () = lost.cancelled() => return,
            Some(question) = questions.recv() => Some(question),
            () = sleep(RENEW_EVERY) => None,
        };
        let asked = Instant::now();
        let Some(renewed) = candidate.renew(lease, until.get()).await else {
            tracing::error!(lease = candidate.name, "the lease is lost");
            lost.cancel();
            return;
        };
        lease = renewed;
        until.set(asked + BELIEF);
        if let Some(question) = question {
            // The caller may have gone.
            let _ = question.send(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, seconds: Option<i32>) -> Lease {
        let holder_identity = holder.map(str::to_owned);
        let spec = LeaseSpec { holder_identity, lease_duration_seconds: seconds, ..LeaseSpec::default() };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_lease_is_free_when_nobody_holds_it_or_nobody_renewed_it_for_as_long_as_it_says() {
        let seconds = Duration::from_secs;
        for (lease, unchanged, free) in [
            (Lease::default(), seconds(0), true),
            (lease(None, Some(15)), seconds(0), true),
            (lease(Some(""), Some(15)), seconds(0), true),
            (lease(Some("a"), Some(15)), seconds(14), false),
            (lease(Some("a"), Some(15)), seconds(15), true),
            (lease(Some("a"), None), seconds(14), false),
            (lease(Some("a"), None), seconds(15), true),
            (lease(Some("a"), Some(-1)), seconds(14), false),
            (lease(Some("a"), Some(3600)), seconds(59), false),
            (lease(Some("a"), Some(3600)), seconds(60), true),
        ] {
            assert_eq!(is_free(&lease, unchanged), free, "{lease:?} unchanged for {unchanged:?}");
        }
    }

    #[test]
    fn a_leader_stops_believing_before_others_stop_waiting() {
        assert!(BELIEF + CALL_LIMIT < DURATION && RENEW_EVERY + CALL_LIMIT < BELIEF);
    }
}
