//! The loop: observe ▶ plan ▶ apply ▶ report, for any kind.
//!
//! The work queue says whose turn it is; each pass has a deadline. An object that fails waits by itself, twice as long
//! each time; one that a user must put right waits for the user.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::apply::{Applied, apply};
use super::error::{Error, Fault, Result};
use super::incarnation::Standing;
use super::kinds::Kind;
use super::observe::Context;
use super::plan::{self, Step, meta};
use super::references::Ref;
use super::watch::Name;
use crate::crd::{ConditionType, Reason};
use crate::ledger;

/// kube-client waits for an answer without end; a healthy pass takes milliseconds.
const PASS_DEADLINE: Duration = Duration::from_secs(30);
/// Looks at an object that somebody else keeps changing, before it is left to the back-off.
const LOOKS: usize = 5;
/// Where no more foreign Secrets are watched, the rest is looked at again after this long.
const AWAITED_LOOK: Duration = Duration::from_secs(60);
/// What looked as if it was on its way out is looked at once more: if it is gone by then, nothing happens.
const LEAVING_LOOK: Duration = Duration::from_secs(10);
/// An instant is looked at a little after it has passed, so that it has passed for everybody's clock.
const AFTER: Duration = Duration::from_millis(500);

/// When an object is looked at again although nothing changed; `None`: then only.
type Again = Option<Duration>;

/// Runs the passes of one kind until `shutdown`, then lets those under way finish. A pass that panics ends it.
pub async fn run<K: Kind>(context: Arc<Context>, shutdown: CancellationToken) {
    let ready = shutdown.run_until_cancelled(context.references.ready()).await;
    if !matches!(ready, Some(Ok(()))) {
        return;
    }
    let queue = K::queue(&context.queues).clone();
    let mut passes = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = passes.join_next() => match ended {
                Ok(()) => {}
                Err(_) => return,
            },
            name = queue.next() => {
                context.report.waiting(&K::kind(&()), queue.waiting());
                let found = K::store(&context.references).get(&name.object_ref());
                let uid = found.and_then(|object| object.uid());
                // An error's level, so that the lines that are logged at all carry it.
                let span = tracing::error_span!("reconcile", kind = %K::kind(&()), object = %name, uid);
                passes.spawn(take_turn::<K>(context.clone(), name).instrument(span));
            }
        }
    }
    while passes.join_next().await.is_some() {}
}

/// One object has its turn, and goes back to the queue.
async fn take_turn<K: Kind>(context: Arc<Context>, name: Name) {
    let queue = K::queue(&context.queues);
    let Some(object) = K::store(&context.references).get(&name.object_ref()) else {
        forget(&context, &K::named(name.clone()));
        return queue.drop_gone(name);
    };
    match reconcile(object, &context).await {
        Ok(again) => queue.succeed(name, again),
        Err(error) => queue.fail(name.clone(), |failures| {
            let delay = error.delay(failures, &mut context.rng());
            let (kind, error) = (K::kind(&()), &error as &dyn std::error::Error);
            tracing::warn!(%kind, object = %name, failures, ?delay, error, "reconciling");
            delay
        }),
    }
}

async fn reconcile<K: Kind>(object: Arc<K>, context: &Context) -> Result<Again> {
    let kind = K::kind(&());
    let _running = context.report.started(&kind);
    let object = context.references.written.freshest(object.as_ref());
    let passed = match tokio::time::timeout(PASS_DEADLINE, looks(&object, context)).await {
        Ok(passed) => passed,
        Err(_) => Err(Error::Timeout { limit: PASS_DEADLINE }),
    };
    match &passed {
        Ok(_) => context.report.finished(&kind, "success"),
        Err(error) => {
            context.report.finished(&kind, "error");
            interrupted(&object, context, error).await;
        }
    }
    passed
}

/// Looks until nobody else was faster.
async fn looks<K: Kind>(object: &K, context: &Context) -> Result<Again> {
    for _ in 0..LOOKS {
        match pass(object, context).await {
            Ok(Some(again)) => return Ok(again),
            Ok(None) => {}
            // The ledger is lost, and an administrator has said that this object shall not wait for it. One that is held or
            // being rebuilt answers: what the object has used must not be forgotten, so it waits all the same.
            Err(Error::Ledger { .. })
                if meta::deleting(object.meta()) && meta::forced(object.meta()) && !context.guard.keeps() =>
            {
                tracing::warn!(kind = %K::kind(&()), name = object.name_any(), "let go without the ledger's note");
                apply(context, object, vec![Step::RemoveFinalizer]).await?;
                forget(context, &object.reference());
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Contended)
}

/// One pass; `None` asks for another look.
async fn pass<K: Kind>(object: &K, context: &Context) -> Result<Option<Again>> {
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
            return Ok(Some(Some(LEAVING_LOOK)));
        }
    }
    admit_early(context, &what);
    // A new entry takes over what is known to be used: the figures that were observed before it are wrong.
    if puts && !leaves && context.guard.standing() == Standing::Rebuilding {
        return Ok(None);
    }
    if leaves {
        context.references.written.forget(object.meta());
        forget(context, &what);
        return Ok(Some(None));
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
    // Only now: a grant that came to nothing is there at the next try.
    if granted {
        context.spend_grant(&what);
    }
    let mut after = plan.look_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default() + AFTER);
    match (plan.awaited_secret, &what) {
        (Some(secret), Ref::Key(key)) => {
            let judged = K::judged_secret(&observed);
            if !context.secret_watches.follow(key, &secret, judged) {
                let spread = context.rng().random_range(1.0..1.2);
                after = Some(after.unwrap_or(AWAITED_LOOK).min(AWAITED_LOOK).mul_f64(spread));
            }
        }
        (None, Ref::Key(key)) => context.secret_watches.release(key),
        (Some(_) | None, Ref::Account(_) | Ref::Policy(_)) => {}
    }
    Ok(Some(after))
}

fn unanswered() -> Error {
    let source =
        ledger::Error::Unavailable { doing: "asking who the ledger is", source: "there is no answer yet".into() };
    Error::Ledger { doing: "waiting for the ledger", source }
}

/// The ledger is not the one we know: nothing is written but why. A deletion waits too: the status that goes with the
/// object may be all that knows what was used.
async fn stall<K: Kind>(object: &K, context: &Context, sentence: &str) -> Result<Again> {
    let (generation, now) = (object.meta().generation, context.clock.now());
    let mut status = object.status().cloned().unwrap_or_default();
    let standing = K::conditions(&status);
    let accepted = plan::is_true(standing, ConditionType::Accepted);
    let outcome = plan::Outcome::refused(Reason::LedgerReplaced, sentence);
    let conditions = outcome.conditions(standing, generation, now, (accepted, false));
    K::set_conditions(&mut status, conditions);
    show(context, object, &status).await?;
    Ok(None)
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
fn admit_early(context: &Context, what: &Ref) {
    let Ref::Policy(policy) = what else { return };
    while let Some(account) = context.early.next(&policy.name) {
        context.queues.wake(&Ref::Account(account.clone()));
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

/// Nothing is remembered of what has left.
pub(super) fn forget(context: &Context, what: &Ref) {
    context.forget(what);
    context.report.forget(what);
    match what {
        Ref::Policy(policy) => context.early.left(&policy.name),
        Ref::Account(account) => context.early.forget_account(account),
        Ref::Key(key) => context.secret_watches.release(key),
    }
}

/// A failed pass is shown where work is outstanding: a new spec, or a deletion. What stands and works stays Ready.
async fn interrupted<K: Kind>(object: &K, context: &Context, error: &Error) {
    let outstanding =
        meta::deleting(object.meta()) || object.status().and_then(K::observed_generation) != object.meta().generation;
    let Some((reason, message)) = explanation(error, meta::deleting(object.meta())) else { return };
    if !outstanding {
        return;
    }
    let mut status = object.status().cloned().unwrap_or_default();
    let (generation, now) = (object.meta().generation, context.clock.now());
    let conditions = plan::interrupted(K::conditions(&status), generation, now, reason, &message);
    K::set_conditions(&mut status, conditions);
    match tokio::time::timeout(PASS_DEADLINE, show(context, object, &status)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "saying that a pass failed"),
        Err(_) => tracing::debug!("saying that a pass failed took too long"),
    }
}

/// Reason and sentence of a pass that failed. `None`: somebody else was faster, which is nobody's trouble.
fn explanation(error: &Error, deleting: bool) -> Option<(Reason, String)> {
    let again = format!("it is tried again within {} s", error.tried_again_within().as_secs());
    let said = match error.fault() {
        Fault::Ledger if deleting => {
            (Reason::LedgerUnavailable, format!("deletion waits for the ledger, which does not answer; {again}"))
        }
        Fault::Ledger => (Reason::LedgerUnavailable, format!("the ledger does not answer; {again}")),
        Fault::Cluster => {
            let message = match error.refusal() {
                // Nothing tells us when a quota is raised or an admission policy is changed.
                Some(words) => format!(
                    "the Kubernetes API refused a request: {words}; {again}, and at once when this object is edited"
                ),
                None => format!("the Kubernetes API did not take a request; {again}"),
            };
            (Reason::ApplyFailed, message)
        }
        Fault::Internal => (Reason::ApplyFailed, "something is wrong with the operator; its log says what".to_owned()),
        Fault::Conflict => return None,
    };
    Some(said)
}
