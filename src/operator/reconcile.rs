//! The loop: observe ▶ plan ▶ apply ▶ report, for any kind.
//!
//! Never two passes over one object at once, so many at a time and no more, each within a deadline. An object that
//! fails waits by itself, twice as long each time; one that a user must put right waits for the user.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::ready;
use futures::{FutureExt as _, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::apply::{Applied, apply};
use super::error::{Error, Fault, Result};
use super::incarnation::Standing;
use super::kinds::Kind;
use super::observe::Context;
use super::plan::{self, Step, meta};
use super::references::{Ref, Wakes};
use super::watch::Name;
use crate::crd::{ConditionType, Reason};
use crate::ledger;

/// kube-client waits for an answer without end; a healthy pass takes milliseconds.
const PASS_DEADLINE: Duration = Duration::from_secs(30);
/// Objects whose failures are counted. What vanished while it failed stays counted, so there is a bound.
const FAILURES_MAX: usize = 10_000;
/// Looks at an object that somebody else keeps changing, before it is left to the back-off.
const LOOKS: usize = 5;
/// Foreign Secrets that are watched for their end, each by a connection of its own.
const AWAITED_MAX: usize = 32;
/// Where more are awaited, the rest is looked at again after this long.
const AWAITED_LOOK: Duration = Duration::from_secs(60);
/// What looked as if it was on its way out is looked at once more: if it is gone by then, nothing happens.
const LEAVING_LOOK: Duration = Duration::from_secs(10);
/// An instant is looked at a little after it has passed, so that it has passed for everybody's clock.
const AFTER: Duration = Duration::from_millis(500);

/// Failures in a row, by the object's UID.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<String, u32>>);

impl Failures {
    fn count(&self, uid: &str) -> u32 {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= FAILURES_MAX {
            failures.clear();
        }
        let count = failures.entry(uid.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn clear(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Runs the reconciles of one kind until `shutdown`, then lets those under way finish.
pub async fn run<K: Kind>(
    context: Arc<Context>,
    queue: mpsc::Receiver<ObjectRef<K>>,
    concurrency: u16,
    shutdown: CancellationToken,
) where
    ObjectRef<K>: Debug + Hash + Eq,
{
    let next =
        |mut queue: mpsc::Receiver<_>| async move { queue.recv().await.map(|wake| (Ok::<_, Error>(wake), queue)) };
    let queue = stream::unfold(queue, next);
    let (stopped, stopping) = (shutdown.clone(), shutdown.clone());
    let queue = queue.take_until(async move { stopped.cancelled().await }).boxed();
    let store = K::store(&context.references).clone();
    let config = controller::Config::default().concurrency(concurrency.max(1));
    let reconciles = applier(
        move |object: Arc<K>, context: Arc<Context>| reconcile(object, context, shutdown.clone()).boxed(),
        retry,
        context.clone(),
        store,
        queue,
        config,
    );
    reconciles
        .for_each(|done| {
            match done {
                // What is gone by the time of its turn has nobody to reconcile it for.
                Ok(_) | Err(controller::Error::ObjectNotFound(_) | controller::Error::ReconcilerFailed(..)) => {}
                // A stop before the first list was complete.
                Err(_) if stopping.is_cancelled() => {}
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "the reconcile loop"),
            }
            ready(())
        })
        .await;
}

fn retry<K: Kind>(object: Arc<K>, error: &Error, context: Arc<Context>) -> Action {
    let failures = context.failures.count(&object.uid().unwrap_or_default());
    let delay = error.delay(failures, &mut context.rng());
    let (kind, namespace, name) = (K::kind(&()), object.namespace(), object.name_any());
    tracing::warn!(%kind, namespace, name, failures, ?delay, error = error as &dyn std::error::Error, "reconciling");
    Action::requeue(delay)
}

async fn reconcile<K: Kind>(object: Arc<K>, context: Arc<Context>, shutdown: CancellationToken) -> Result<Action> {
    context.references.ready().await?;
    if shutdown.is_cancelled() {
        return Ok(Action::await_change());
    }
    let kind = K::kind(&());
    let _running = context.report.started(&kind);
    let object = context.references.written.freshest(object.as_ref());
    let passed = match tokio::time::timeout(PASS_DEADLINE, looks(&object, &context)).await {
        Ok(passed) => passed,
        Err(_) => Err(Error::Timeout { limit: PASS_DEADLINE }),
    };
    match &passed {
        Ok(_) => {
            context.failures.clear(&object.uid().unwrap_or_default());
            context.report.finished(&kind, "success");
        }
        Err(error) => {
            context.report.finished(&kind, "error");
            interrupted(&object, &context, error).await;
        }
    }
    passed
}

/// Looks until nobody else was faster.
async fn looks<K: Kind>(object: &K, context: &Context) -> Result<Action> {
    for _ in 0..LOOKS {
        match pass(object, context).await {
            Ok(Some(action)) => return Ok(action),
            Ok(None) => {}
            // The ledger is lost, and an administrator has said that this object shall not wait for it. One that is held or
            // being rebuilt answers: what the object has used must not be forgotten, so it waits all the same.
            Err(Error::Ledger { .. })
                if meta::deleting(object.meta()) && meta::forced(object.meta()) && !context.guard.keeps() =>
            {
                tracing::warn!(kind = %K::kind(&()), name = object.name_any(), "let go without the ledger's note");
                apply(context, object, vec![Step::RemoveFinalizer]).await?;
                forget(context, &object.reference());
                context.let_go.notify_one();
                return Ok(Action::await_change());
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Contended)
}

/// One pass; `None` asks for another look.
async fn pass<K: Kind>(object: &K, context: &Context) -> Result<Option<Action>> {
    let what = object.reference();
    match context.guard.judged().await {
        Standing::Unknown => return Err(unanswered()),
        Standing::Held(sentence) => return stall(object, context, &sentence).await.map(Some),
        Standing::Open | Standing::Rebuilding => {}
    }
    let granted = context.granted(&what);
    let observed = object.observe(context).await?;
    let now = context.clock.now();
    let plan = object.plan(&observed, now, &mut context.rng());
    let leaves = plan.steps.iter().any(|step| matches!(step, Step::RemoveFinalizer));
    let puts = plan.steps.iter().any(|step| matches!(step, Step::Put(_)));
    match apply(context, object, plan.steps).await? {
        Applied::Done => {}
        Applied::LookAgain => return Ok(None),
        Applied::Leaving => {
            tracing::debug!(kind = %K::kind(&()), name = object.name_any(), "the object or its namespace is leaving");
            return Ok(Some(Action::requeue(LEAVING_LOOK)));
        }
    }
    admit_early(context, &what).await;
    // A new entry takes over what is known to be used: the figures that were observed before it are wrong.
    if puts && !leaves && context.guard.standing() == Standing::Rebuilding {
        return Ok(None);
    }
    if leaves {
        context.references.written.forget(object.meta());
        forget(context, &what);
        return Ok(Some(Action::await_change()));
    }
    if plan.look_again {
        recount_accounts(context, &what);
        return Ok(None);
    }
    let before = object.status().map(K::conditions).unwrap_or_default();
    if let Some(status) = &plan.status {
        show(context, object, status).await?;
        let news = plan::transition(before, K::conditions(status));
        for notice in plan.notices.iter().chain(&news) {
            context.report.notice(object, notice, now).await;
        }
    }
    context.guard.passed(what.clone());
    // Only now: a grant that came to nothing is there at the next try. To ask for it again would wake the object, and
    // that past its back-off.
    if granted {
        context.spend_grant(&what);
    }
    let mut after = plan.look_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default() + AFTER);
    match (plan.awaited_secret, &what) {
        (Some(secret), Ref::Key(key)) => {
            let judged = K::judged_secret(&observed);
            if !context.awaited.follow(what.clone(), &key.namespace, &secret, judged) {
                let spread = context.rng().random_range(1.0..1.2);
                after = Some(after.unwrap_or(AWAITED_LOOK).min(AWAITED_LOOK).mul_f64(spread));
            }
        }
        (Some(_) | None, _) => context.awaited.release(&what),
    }
    Ok(Some(after.map_or_else(Action::await_change, Action::requeue)))
}

fn unanswered() -> Error {
    let source =
        ledger::Error::Unavailable { doing: "asking who the ledger is", source: "there is no answer yet".into() };
    Error::Ledger { doing: "waiting for the ledger", source }
}

/// The ledger is not the one we know: nothing is written but why. A deletion waits too: the status that goes with the
/// object may be all that knows what was used.
async fn stall<K: Kind>(object: &K, context: &Context, sentence: &str) -> Result<Action> {
    let (generation, now) = (object.meta().generation, context.clock.now());
    let mut status = object.status().cloned().unwrap_or_default();
    let standing = K::conditions(&status);
    let accepted = plan::is_true(standing, ConditionType::Accepted);
    let outcome = plan::Outcome::refused(Reason::LedgerReplaced, sentence);
    let conditions = outcome.conditions(standing, generation, now, (accepted, false));
    K::set_conditions(&mut status, conditions);
    show(context, object, &status).await?;
    Ok(Action::await_change())
}

/// Writes a status, and remembers it until the watch has caught up.
async fn show<K: Kind>(context: &Context, object: &K, status: &K::Status) -> Result<()> {
    let Some(written) = context.report.status(object, status).await? else { return Ok(()) };
    context.references.written.status(&written);
    // The watch may have been faster than the answer.
    if let Some(cached) = K::store(&context.references).get(&ObjectRef::from_obj(object)) {
        context.references.written.seen(cached.meta());
    }
    Ok(())
}

/// Accounts that were looked at before their policy was in the directory.
async fn admit_early(context: &Context, what: &Ref) {
    let Ref::Policy(policy) = what else { return };
    while let Some(account) = context.early.next(&policy.name) {
        context.wakes.wake(&Ref::Account(account.clone())).await;
        context.early.woken(&policy.name, &account);
    }
}

/// What accounts may still spend hangs on their policy's price.
fn recount_accounts(context: &Context, what: &Ref) {
    let Ref::Policy(policy) = what else { return };
    let accounts: Vec<Name> =
        context.references.index(|index| index.accounts_of_policy(&policy.name).cloned().collect());
    accounts.into_iter().for_each(|account| context.references.recount(Ref::Account(account)));
}

/// What has left is not followed any more.
fn forget(context: &Context, what: &Ref) {
    context.forget(what);
    if let Ref::Policy(policy) = what {
        context.early.left(&policy.name);
    }
    context.report.forget(what);
    context.awaited.release(what);
}

/// A failed pass is shown where work is outstanding: a new spec, or a deletion. What stands and works stays Ready.
async fn interrupted<K: Kind>(object: &K, context: &Context, error: &Error) {
    let outstanding =
        meta::deleting(object.meta()) || object.status().and_then(K::observed_generation) != object.meta().generation;
    let (reason, message) = match error.fault() {
        Fault::Ledger if meta::deleting(object.meta()) => {
            (Reason::LedgerUnavailable, "deletion waits for the ledger, which does not answer; it is tried again")
        }
        Fault::Ledger => (Reason::LedgerUnavailable, "the ledger does not answer; it is tried again"),
        Fault::Cluster => (Reason::ApplyFailed, "the Kubernetes API did not take a request; it is tried again"),
        Fault::Internal => (Reason::ApplyFailed, "something is wrong with the operator; its log says what"),
        Fault::Conflict => return,
    };
    if !outstanding {
        return;
    }
    let mut status = object.status().cloned().unwrap_or_default();
    let (generation, now) = (object.meta().generation, context.clock.now());
    let conditions = plan::interrupted(K::conditions(&status), generation, now, reason, message);
    K::set_conditions(&mut status, conditions);
    match tokio::time::timeout(PASS_DEADLINE, show(context, object, &status)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "saying that a pass failed"),
        Err(_) => tracing::debug!("saying that a pass failed took too long"),
    }
}

/// Foreign Secrets that keys wait for. Only these are watched one by one; all Secrets never are.
pub struct Awaited {
    client: Client,
    wakes: Wakes,
    tasks: Mutex<JoinSet<()>>,
    followed: Arc<Mutex<HashMap<Ref, CancellationToken>>>,
}

impl Awaited {
    pub fn new(client: Client, wakes: Wakes) -> Self {
        Self { client, wakes, tasks: Mutex::default(), followed: Arc::default() }
    }

    /// Wakes `what` when the Secret is no longer the version that was `judged`. Says no where too many are followed.
    fn follow(&self, what: Ref, namespace: &str, secret: &str, judged: Option<String>) -> bool {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = followed.remove(&what) {
            old.cancel();
        }
        if followed.len() >= AWAITED_MAX {
            return false;
        }
        let stop = CancellationToken::new();
        followed.insert(what.clone(), stop.clone());
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.client.clone(), namespace);
        let (secret, wakes, all) = (secret.to_owned(), self.wakes.clone(), self.followed.clone());
        let replaced = stop.clone();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Tasks that ended are let go of here, so that the set holds no more than are followed.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            tokio::select! {
                () = changed(api, &secret, judged) => {
                    // Where another watch took this one's place meanwhile, the place is not ours to give up.
                    let ours = {
                        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                        !replaced.is_cancelled() && all.remove(&what).is_some()
                    };
                    if ours {
                        wakes.wake(&what).await;
                    }
                }
                () = stop.cancelled() => {}
            }
        });
        true
    }

    fn release(&self, what: &Ref) {
        if let Some(stop) = self.followed.lock().unwrap_or_else(PoisonError::into_inner).remove(what) {
            stop.cancel();
        }
    }
}

async fn changed(api: Api<PartialObjectMeta<Secret>>, name: &str, judged: Option<String>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut seen = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) => {
                seen = true;
                if secret.resource_version() != judged {
                    return;
                }
            }
            Ok(watcher::Event::Delete(_)) => return,
            Ok(watcher::Event::Init) => seen = false,
            Ok(watcher::Event::InitDone) if !seen => return,
            Ok(watcher::Event::InitDone) => {}
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "watching an awaited secret"),
        }
    }
}
