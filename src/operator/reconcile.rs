//! The reconcile loop for any kind: observe ▶ plan ▶ apply ▶ report.
//!
//! The work queue determines the order; each pass has a deadline. A failed object backs off on its own, with a delay
//! that doubles each time; an object that only a user can fix waits for that user.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::apply::{Applied, apply, still_leads};
use super::error::{Error, Fault, Result};
use super::kinds::Kind;
use super::plan::{self, Interruption, Notice, Plan, Step, meta, sending};
use super::resource::Reconcile;
use crate::crd::{ConditionType, Reason};
use crate::ledger;
use crate::operator::context::Context;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::state::guard::Standing;
use crate::operator::state::shown::status_mark;

/// Limit for one pass: kube-client waits for a reply without end; a healthy pass takes milliseconds.
const PASS_DEADLINE: Duration = Duration::from_secs(30);
/// Passes over an object that other writers keep changing, before it is left to the back-off.
const LOOKS: usize = 5;
/// Interval at which a key is reconciled again whose awaited foreign Secret cannot be watched, because too many are.
const AWAITED_LOOK: Duration = Duration::from_secs(60);
/// Delay of one more pass over an object that seemed to be leaving; if it is gone by then, nothing happens.
const LEAVING_LOOK: Duration = Duration::from_secs(10);
/// Margin after an instant before the pass that it causes, so that it has passed on all clocks.
const AFTER: Duration = Duration::from_millis(500);

/// The delay until an object is reconciled again although nothing changed; `None`: only after a change.
type Again = Option<Duration>;

/// Runs the passes of one kind until `shutdown`, then lets those under way finish. Ends early if a pass panics.
pub async fn run<K: Reconcile>(context: Arc<Context>, shutdown: CancellationToken) {
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
                // At error level, so that every line that is logged carries the span.
                let span = tracing::error_span!("reconcile", kind = %K::kind(&()), object = %name, uid);
                passes.spawn(take_turn::<K>(context.clone(), name).instrument(span));
            }
        }
    }
    while passes.join_next().await.is_some() {}
}

/// Reconciles one object and returns it to the queue.
async fn take_turn<K: Reconcile>(context: Arc<Context>, name: Name) {
    let queue = K::queue(&context.queues);
    let Some(object) = K::store(&context.references).get(&name.object_ref()) else {
        forget(&context, &K::named(name.clone()));
        return queue.drop_gone(name);
    };
    let failures = queue.failures(&name).saturating_add(1);
    match reconcile(object, &context, failures).await {
        Ok(again) => queue.succeed(name, again),
        Err(error) => queue.fail(name.clone(), |failures| {
            let delay = error.delay(failures, &mut context.rng());
            let (kind, error) = (K::kind(&()), &error as &dyn std::error::Error);
            tracing::warn!(%kind, object = %name, failures, ?delay, error, "reconciling");
            delay
        }),
    }
}

/// Reconciles an object once. `failures` is the number of failures in a row if this pass fails.
async fn reconcile<K: Reconcile>(object: Arc<K>, context: &Context, failures: u32) -> Result<Again> {
    let kind = K::kind(&());
    let _running = context.report.started(&kind);
    let mut object = context.references.expectations.freshest(object.as_ref());
    let passed = match tokio::time::timeout(PASS_DEADLINE, looks(&mut object, context)).await {
        Ok(passed) => passed,
        Err(_) => Err(Error::Timeout { limit: PASS_DEADLINE }),
    };
    match &passed {
        Ok(_) => context.report.finished(&kind, "success"),
        Err(error) => {
            context.report.finished(&kind, "error");
            interrupted(&object, context, error, failures).await;
        }
    }
    passed
}

/// The outcome of one pass.
enum Passed {
    Done(Again),
    /// Another pass follows at once, over the object as it is now.
    LookAgain,
    /// The object changed after it was read.
    Outdated,
}

/// Repeats the pass until no other writer was faster. `object` is the latest known version.
async fn looks<K: Reconcile>(object: &mut K, context: &Context) -> Result<Again> {
    for _ in 0..LOOKS {
        match pass(object, context).await {
            Ok(Passed::Done(again)) => return Ok(again),
            Ok(Passed::LookAgain) => {}
            Ok(Passed::Outdated) => match read_again(object, context).await? {
                Some(fresh) => *object = fresh,
                // The watch reports the deletion.
                None => return Ok(None),
            },
            // The ledger is lost, and an administrator has allowed this object to go without it. If the ledger answers
            // but is held or being rebuilt, the object still waits, because its usage must not be forgotten.
            Err(Error::Ledger { .. })
                if meta::deleting(object.meta())
                    && meta::forced(object.meta())
                    && may_leave_unnoted(&context.guard.standing()) =>
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

/// Checks whether a force-deleted object may go after the ledger answered with an error. Not if the ledger exists and
/// does not yet contain the usage that statuses show: for a pass that failed while the ledger was being rebuilt, or
/// that began before the ledger was held.
fn may_leave_unnoted(standing: &Standing) -> bool {
    match standing {
        Standing::Unknown | Standing::Open => true,
        Standing::Held(_) | Standing::Rebuilding => false,
    }
}

/// Reads an object live; `None` if it is gone or was replaced by another of the same name.
async fn read_again<K: Kind>(object: &K, context: &Context) -> Result<Option<K>> {
    let api = K::api(&context.client, object.namespace().as_deref());
    let live = api.get_opt(&object.name_any()).await.map_err(Error::cluster("reading an object again"))?;
    let mut same = live.filter(|live| live.uid() == object.uid());
    if let Some(live) = &mut same {
        meta::trim(live.meta_mut());
    }
    Ok(same)
}

/// One pass: observes the object, plans, applies the plan's steps, and reports.
async fn pass<K: Reconcile>(object: &mut K, context: &Context) -> Result<Passed> {
    if let Some(passed) = held(object, context).await? {
        return Ok(passed);
    }
    let what = object.reference();
    let granted = context.status_permitted(&what);
    let observed = object.observe(context).await?;
    let now = context.clock.now();
    let mut plan = object.plan(&observed, now, &mut context.rng());
    let effects = Effects::of(&plan.steps);
    if let Some(passed) = applied(object, context, std::mem::take(&mut plan.steps)).await? {
        return Ok(passed);
    }
    wake_dependents(context, &what, plan.arrives_at.as_deref());
    if effects.leaves {
        left(object, context, &plan.notices, now).await;
        return Ok(Passed::Done(None));
    }
    // A new entry takes over the known usage, so the figures observed before it are wrong.
    if effects.puts && context.guard.standing() == Standing::Rebuilding {
        return Ok(Passed::LookAgain);
    }
    if plan.look_again {
        recount_accounts(context, &what);
        return Ok(Passed::LookAgain);
    }
    publish(object, context, &plan, now).await?;
    context.guard.passed(what.clone());
    // Spent only now: a permit that was not used is still there at the next try.
    if granted {
        context.use_status_permit(&what);
    }
    let after = plan.look_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default() + AFTER);
    Ok(Passed::Done(follow_awaited::<K>(context, &what, plan.awaited_secret, &observed, after)))
}

/// Waits for the ledger's standing. Returns the pass's end where nothing may be written: the object then only says why.
async fn held<K: Reconcile>(object: &K, context: &Context) -> Result<Option<Passed>> {
    match context.guard.judged().await {
        Standing::Unknown => Err(unanswered()),
        Standing::Held(sentence) => stall(object, context, &sentence).await.map(Passed::Done).map(Some),
        Standing::Open | Standing::Rebuilding => Ok(None),
    }
}

/// The steps of a plan that decide how its pass goes on.
struct Effects {
    /// The object is let go.
    leaves: bool,
    /// An entry of the directory is written.
    puts: bool,
}

impl Effects {
    fn of(steps: &[Step]) -> Self {
        Self {
            leaves: steps.iter().any(|step| matches!(step, Step::RemoveFinalizer)),
            puts: steps.iter().any(|step| matches!(step, Step::Put(_))),
        }
    }
}

/// Applies a plan's steps. Returns the pass's end where they could not all be applied to the object as it was observed.
async fn applied<K: Reconcile>(object: &mut K, context: &Context, steps: Vec<Step>) -> Result<Option<Passed>> {
    Ok(match apply(context, object, steps).await? {
        Applied::Done => None,
        Applied::LookAgain => Some(Passed::Outdated),
        Applied::Leaving => {
            tracing::debug!(kind = %K::kind(&()), name = object.name_any(), "the object or its namespace is leaving");
            Some(Passed::Done(Some(LEAVING_LOOK)))
        }
    })
}

/// Gives a pass to the objects that waited for this one's entry in the directory. `arrives_at`: the policy at which an
/// account has got a place.
fn wake_dependents(context: &Context, what: &Ref, arrives_at: Option<&str>) {
    admit_early(context, what);
    if let Some(policy) = arrives_at {
        judge_younger(context, what, policy);
    }
}

/// Reports what an object that was let go left behind, and forgets it.
async fn left<K: Reconcile>(object: &K, context: &Context, notices: &[Notice], now: Timestamp) {
    for notice in notices {
        tracing::warn!(kind = %K::kind(&()), name = object.name_any(), note = notice.note, "left something behind");
        context.report.notice(object, notice, now).await;
    }
    context.references.expectations.forget(object.meta());
    forget(context, &object.reference());
}

/// Writes the status of a plan, and an Event for each notice and each transition of a condition.
async fn publish<K: Reconcile>(object: &K, context: &Context, plan: &Plan<K::Status>, now: Timestamp) -> Result<()> {
    let Some(status) = &plan.status else { return Ok(()) };
    let before = object.status().map(K::conditions).unwrap_or_default();
    show(context, object, status).await?;
    let news = plan::transition(before, K::conditions(status));
    for notice in plan.notices.iter().chain(&news) {
        context.report.notice(object, notice, now).await;
    }
    Ok(())
}

/// Watches the Secret that a key waits for, or no longer. Returns when the object is reconciled again by itself: sooner
/// where the Secret cannot be watched.
fn follow_awaited<K: Reconcile>(
    context: &Context,
    what: &Ref,
    awaited: Option<String>,
    observed: &K::Observed,
    after: Option<Duration>,
) -> Option<Duration> {
    match (awaited, what) {
        (Some(secret), Ref::Key(key)) => {
            if context.secret_watches.follow(key, &secret, K::judged_secret(observed)) {
                return after;
            }
            let spread = context.rng().random_range(1.0..1.2);
            Some(after.unwrap_or(AWAITED_LOOK).min(AWAITED_LOOK).mul_f64(spread))
        }
        (None, Ref::Key(key)) => {
            context.secret_watches.release(key);
            after
        }
        (Some(_) | None, Ref::Account(_) | Ref::Policy(_)) => after,
    }
}

fn unanswered() -> Error {
    let source =
        ledger::Error::Unavailable { doing: "asking who the ledger is", source: "there is no answer yet".into() };
    Error::Ledger { doing: "waiting for the ledger", source }
}

/// Reports that the ledger is not the one we know, and writes nothing else. A deletion waits too: the status that would
/// go with the object may be the only record of its usage.
async fn stall<K: Kind>(object: &K, context: &Context, sentence: &str) -> Result<Again> {
    let (generation, now) = (object.meta().generation, context.clock.now());
    let mut status = object.status().cloned().unwrap_or_default();
    let standing = K::conditions(&status);
    let accepted = plan::is_true(standing, ConditionType::Accepted);
    let outcome = plan::Outcome::refused(Reason::LedgerReplaced, sentence);
    let conditions = outcome.conditions(standing, generation, now, (accepted, false));
    K::set_conditions(&mut status, conditions);
    K::set_sending(&mut status, sending::NO);
    show(context, object, &status).await?;
    Ok(None)
}

/// Writes a status, and remembers it until the watch has caught up. An operator that no longer leads writes none: its
/// knowledge is out of date.
async fn show<K: Kind>(context: &Context, object: &K, status: &K::Status) -> Result<()> {
    still_leads(context)?;
    let shown = &context.references.shown;
    let mark = status_mark(Some(status));
    shown.intend(&object.reference(), object.meta(), mark);
    let written = context.report.status(object, status, || still_leads(context)).await?;
    shown.stands(&object.reference(), written.as_ref().unwrap_or(object).meta(), mark);
    let Some(written) = written else { return Ok(()) };
    context.references.expectations.status(&written);
    // The watch may have been faster than the reply.
    if let Some(cached) = K::store(&context.references).get(&ObjectRef::from_obj(object)) {
        context.references.expectations.seen(cached.meta());
    }
    Ok(())
}

/// Wakes the accounts that were reconciled before their policy was in the directory.
fn admit_early(context: &Context, what: &Ref) {
    let Ref::Policy(policy) = what else { return };
    while let Some(account) = context.awaiting_policy.next(&policy.name) {
        context.queues.wake(&Ref::Account(account.clone()));
        context.awaiting_policy.woken(&policy.name, &account);
    }
}

/// Wakes the accounts that are younger than the one that just got a place in the namespace: those planned at the same
/// time did not know of it.
fn judge_younger(context: &Context, what: &Ref, policy: &str) {
    let Ref::Account(arrived) = what else { return };
    let younger = context.references.index(|index| index.younger_in_namespace(policy, arrived));
    younger.into_iter().for_each(|account| context.queues.wake(&Ref::Account(account)));
}

/// Recounts a policy's accounts, because the credits they may still spend depend on the policy's price.
fn recount_accounts(context: &Context, what: &Ref) {
    let Ref::Policy(policy) = what else { return };
    let accounts: Vec<Name> =
        context.references.index(|index| index.accounts_of_policy(&policy.name).cloned().collect());
    accounts.into_iter().for_each(|account| context.references.recount(Ref::Account(account)));
}

/// Forgets all that is remembered of an object that is gone.
pub(super) fn forget(context: &Context, what: &Ref) {
    context.forget(what);
    context.report.forget(what);
    match what {
        Ref::Policy(policy) => context.awaiting_policy.left(&policy.name),
        Ref::Account(account) => context.awaiting_policy.forget_account(account),
        Ref::Key(key) => context.secret_watches.release(key),
    }
}

/// Reports a failed pass in the status, where it should be visible, and publishes an Event for a new failure.
async fn interrupted<K: Kind>(object: &K, context: &Context, error: &Error, failures: u32) {
    let deleting = meta::deleting(object.meta());
    let outstanding = deleting || object.status().and_then(K::observed_generation) != object.meta().generation;
    // No pass begins before the ledger has identified itself: nothing is known to be wrong with a converged object.
    let unbegun = !outstanding && context.guard.standing() == Standing::Unknown;
    if error.is_fenced() || !context.ledger.leads() || unbegun {
        return;
    }
    let interruption = interruption(error, deleting, outstanding, failures);
    let mut status = object.status().cloned().unwrap_or_default();
    let standing = K::conditions(&status).to_vec();
    if !interruption.is_shown(&standing) {
        return;
    }
    let (generation, now) = (object.meta().generation, context.clock.now());
    K::set_conditions(&mut status, plan::interrupted(&standing, generation, now, &interruption));
    if interruption.stops_mail() {
        K::set_sending(&mut status, sending::NO);
    }
    match tokio::time::timeout(PASS_DEADLINE, show(context, object, &status)).await {
        Ok(Ok(())) => {
            if let Some(notice) = interruption.notice(&standing) {
                context.report.notice(object, &notice, now).await;
            }
        }
        Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "saying that a pass failed"),
        Err(_) => tracing::warn!("saying that a pass failed took too long"),
    }
}

/// Builds the reason and the message of a failed pass.
fn interruption(error: &Error, deleting: bool, outstanding: bool, failures: u32) -> Interruption {
    let again = format!("it is tried again within {} s", error.tried_again_within().as_secs());
    let (reason, message) = match error.fault() {
        Fault::Ledger if deleting => {
            (Reason::LedgerUnavailable, format!("deletion waits for the ledger, which does not answer; {again}"))
        }
        Fault::Ledger => (Reason::LedgerUnavailable, format!("the ledger does not answer; {again}")),
        Fault::Cluster => {
            let message = match error.refusal() {
                // No event tells us when a quota is raised or an admission policy is changed.
                Some(words) => format!(
                    "{error}: the Kubernetes API refused it: {words}; {again}, and at once when this object is edited"
                ),
                None => format!("{error}: the Kubernetes API did not take the request; {again}"),
            };
            (Reason::ApplyFailed, message)
        }
        Fault::Internal => (Reason::ApplyFailed, "something is wrong with the operator; its log says what".to_owned()),
        Fault::Conflict => (Reason::ApplyFailed, format!("{error}: another writer was faster each time; {again}")),
    };
    let contended = error.fault() == Fault::Conflict;
    Interruption { reason, message, refused: error.refusal().is_some(), contended, outstanding, failures }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_leaves_a_ledger_that_does_not_know_yet_what_it_used() {
        let standings = [Standing::Unknown, Standing::Open, Standing::Held("it is empty".into()), Standing::Rebuilding];
        assert_eq!(standings.map(|standing| may_leave_unnoted(&standing)), [true, true, false, false]);
    }
}
