//! The reconcile loop for any kind: observe ▶ plan ▶ apply ▶ report.
//!
//! The work queue hands out the objects. A reconcile is one turn of an object; it has a deadline and makes one pass, or
//! a few: another follows if the first changed what it had observed, or if another writer was faster. A failed object
//! backs off on its own, with a delay that doubles each time; an object that only a user can fix waits for that user.
//!
//! To wake an object is to queue it. To recount it is to compare its figures (credits, counts, money) with its status. If
//! only figures differ, the status is written only with a permit from the budget of status writes.
//!
//! The ledger counts the credits, and its directory tells the relays who may send. If the ledger is not the one that this
//! installation knows, it is held: objects only get a status that says so, until an administrator accepts the ledger. It
//! is then rebuilt from the objects, whose statuses show what they had used.

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
use super::plan::{self, EventNote, Interruption, Plan, Step, meta, sending};
use super::resource::Reconcile;
use crate::crd::{ConditionType, Reason};
use crate::ledger;
use crate::operator::context::Context;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::state::guard::LedgerState;
use crate::operator::state::own_statuses::status_mark;

/// Limit for one reconcile: kube-client waits for a reply indefinitely; a healthy reconcile takes milliseconds.
const RECONCILE_DEADLINE: Duration = Duration::from_secs(30);
/// Passes over an object that other writers keep changing, before it is left to the back-off.
const PASSES_MAX: usize = 5;
/// Interval at which a key that waits for a foreign Secret is reconciled, if too many Secrets are watched already.
const UNWATCHED_SECRET_INTERVAL: Duration = Duration::from_secs(60);
/// Delay until the reconcile of an object whose write failed because it, or its namespace, is being deleted. If it is
/// gone by then, nothing happens.
const TERMINATING_DELAY: Duration = Duration::from_secs(10);
/// Margin after the instant that a plan asks to be reconciled at, so that the instant has passed on all clocks.
const CLOCK_MARGIN: Duration = Duration::from_millis(500);

/// The delay until an object is reconciled again although nothing changed; `None`: only after a change.
type RequeueAfter = Option<Duration>;

/// Reconciles the objects of one kind until `shutdown`, then lets the reconciles under way finish. Ends early if one
/// panics.
pub async fn run<K: Reconcile>(context: Arc<Context>, shutdown: CancellationToken) {
    let ready = shutdown.run_until_cancelled(context.references.ready()).await;
    if !matches!(ready, Some(Ok(()))) {
        return;
    }
    let queue = K::queue(&context.queues).clone();
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = running.join_next() => match ended {
                Ok(()) => {}
                Err(_) => return,
            },
            name = queue.next() => {
                context.report.waiting(&K::kind(&()), queue.waiting());
                let found = K::store(&context.references).get(&name.object_ref());
                let uid = found.and_then(|object| object.uid());
                // At error level, so that every line that is logged carries the span.
                let span = tracing::error_span!("reconcile", kind = %K::kind(&()), object = %name, uid);
                running.spawn(reconcile_queued::<K>(context.clone(), name).instrument(span));
            }
        }
    }
    while running.join_next().await.is_some() {}
}

/// Reconciles one object from the queue, and tells the queue when it is next due.
async fn reconcile_queued<K: Reconcile>(context: Arc<Context>, name: Name) {
    let queue = K::queue(&context.queues);
    let Some(object) = K::store(&context.references).get(&name.object_ref()) else {
        context.forget(&K::named(name.clone()));
        return queue.drop_gone(name);
    };
    let failures = queue.failures(&name).saturating_add(1);
    match reconcile(object, &context, failures).await {
        Ok(after) => queue.succeed(name, after),
        Err(error) => queue.fail(name.clone(), |failures| {
            let delay = error.delay(failures, &mut context.seeds.rng());
            let (kind, error) = (K::kind(&()), &error as &dyn std::error::Error);
            tracing::warn!(%kind, object = %name, failures, ?delay, error, "reconciling failed");
            delay
        }),
    }
}

/// Reconciles an object within the deadline, with metrics and, if it fails, a report. `failures` is the number of
/// failures in a row if this one fails.
async fn reconcile<K: Reconcile>(object: Arc<K>, context: &Context, failures: u32) -> Result<RequeueAfter> {
    let kind = K::kind(&());
    let _running = context.report.started(&kind);
    let mut object = context.references.expectations.freshest(object.as_ref());
    let ended = match tokio::time::timeout(RECONCILE_DEADLINE, repeat_passes(&mut object, context)).await {
        Ok(ended) => ended,
        Err(_) => Err(Error::Timeout { limit: RECONCILE_DEADLINE }),
    };
    match &ended {
        Ok(_) => context.report.finished(&kind, "success"),
        Err(error) => {
            context.report.finished(&kind, "error");
            report_failure(&object, context, error, failures).await;
        }
    }
    ended
}

/// The outcome of one pass.
enum PassOutcome {
    Done(RequeueAfter),
    /// The pass changed what it had observed: another one follows at once.
    Repeat,
    /// Another writer changed the object after it was read: it is read again, and another pass follows.
    Conflict,
}

/// Repeats the pass until no other writer was faster. `object` is the latest known version.
async fn repeat_passes<K: Reconcile>(object: &mut K, context: &Context) -> Result<RequeueAfter> {
    for _ in 0..PASSES_MAX {
        match pass(object, context).await {
            Ok(PassOutcome::Done(after)) => return Ok(after),
            Ok(PassOutcome::Repeat) => {}
            Ok(PassOutcome::Conflict) => match read_live(object, context).await? {
                Some(fresh) => *object = fresh,
                // The watch reports the deletion.
                None => return Ok(None),
            },
            // The ledger failed, and an administrator has forced this deletion. If the ledger is held or being rebuilt, the
            // object still waits, because its usage must not be forgotten.
            Err(Error::Ledger { .. })
                if meta::deleting(object.meta())
                    && meta::forced(object.meta())
                    && may_go_without_ledger(&context.ledger_guard.state()) =>
            {
                tracing::warn!(kind = %K::kind(&()), name = object.name_any(), "removed without a record in the ledger, because its deletion was forced");
                apply(context, object, vec![Step::RemoveFinalizer]).await?;
                context.forget(&object.reference());
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Contended)
}

/// True if an object whose deletion was forced may go although the ledger failed, or has not answered at all. False while
/// the ledger is held or being rebuilt, because it does not contain the usage that statuses show. Asked after the failure,
/// because that may have begun during the pass.
fn may_go_without_ledger(ledger: &LedgerState) -> bool {
    match ledger {
        LedgerState::Unknown | LedgerState::Open => true,
        LedgerState::Held(_) | LedgerState::Rebuilding => false,
    }
}

/// Reads an object from the API server; `None` if it is gone or was replaced by another of the same name.
async fn read_live<K: Kind>(object: &K, context: &Context) -> Result<Option<K>> {
    let api = K::api(&context.client, object.namespace().as_deref());
    let live = api.get_opt(&object.name_any()).await.map_err(Error::cluster("reading an object again"))?;
    let mut same = live.filter(|live| live.uid() == object.uid());
    if let Some(live) = &mut same {
        meta::trim(live.meta_mut());
    }
    Ok(same)
}

/// One pass: observes the object, plans, applies the plan's steps, and reports.
async fn pass<K: Reconcile>(object: &mut K, context: &Context) -> Result<PassOutcome> {
    if let Some(outcome) = end_if_ledger_is_held(object, context).await? {
        return Ok(outcome);
    }
    let what = object.reference();
    let had_permit = context.may_write_figures(&what);
    let observed = object.observe(context).await?;
    let now = context.clock.now();
    let mut plan = object.plan(&observed, now, &mut context.seeds.rng());
    let effects = Effects::of(&plan.steps);
    if let Some(outcome) = apply_steps(object, context, std::mem::take(&mut plan.steps)).await? {
        return Ok(outcome);
    }
    wake_dependents(context, &what, plan.arrives_at.as_deref());
    if effects.removes_finalizer {
        finish_removal(object, context, &plan.events, now).await;
        return Ok(PassOutcome::Done(None));
    }
    // Into a ledger that is being rebuilt, the entry brings the usage that its status shows, so the figures observed before
    // it are out of date.
    if effects.writes_entry && context.ledger_guard.state() == LedgerState::Rebuilding {
        return Ok(PassOutcome::Repeat);
    }
    if plan.repeat_pass {
        recount_accounts(context, &what);
        return Ok(PassOutcome::Repeat);
    }
    report_plan(object, context, &plan, now).await?;
    context.ledger_guard.restored(what.clone());
    // Taken back only now: a pass that fails or is repeated keeps it for the next one.
    if had_permit {
        context.status_permits.withdraw(&what);
    }
    let after = plan.requeue_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default() + CLOCK_MARGIN);
    Ok(PassOutcome::Done(watch_awaited_secret::<K>(context, &what, plan.awaited_secret, &observed, after)))
}

/// Waits until it is known whether the ledger is the right one. If it is not, writes only the reason into the object's
/// status, and returns the outcome of the pass.
async fn end_if_ledger_is_held<K: Reconcile>(object: &K, context: &Context) -> Result<Option<PassOutcome>> {
    match context.ledger_guard.wait_until_known().await {
        LedgerState::Unknown => Err(ledger_silent()),
        LedgerState::Held(message) => {
            report_ledger_held(object, context, &message).await?;
            Ok(Some(PassOutcome::Done(None)))
        }
        LedgerState::Open | LedgerState::Rebuilding => Ok(None),
    }
}

/// The effects of a plan's steps that decide how its pass goes on.
struct Effects {
    /// The API server deletes the object after it.
    removes_finalizer: bool,
    /// The object's entry in the ledger's directory is written.
    writes_entry: bool,
}

impl Effects {
    fn of(steps: &[Step]) -> Self {
        Self {
            removes_finalizer: steps.iter().any(|step| matches!(step, Step::RemoveFinalizer)),
            writes_entry: steps.iter().any(|step| matches!(step, Step::Put(_))),
        }
    }
}

/// Applies a plan's steps. Returns the outcome of the pass if they could not all be applied to the object as it was
/// observed.
async fn apply_steps<K: Reconcile>(object: &mut K, context: &Context, steps: Vec<Step>) -> Result<Option<PassOutcome>> {
    Ok(match apply(context, object, steps).await? {
        Applied::Done => None,
        Applied::Conflict => Some(PassOutcome::Conflict),
        Applied::Terminating => {
            let (kind, name) = (K::kind(&()), object.name_any());
            tracing::debug!(%kind, name, "the object or its namespace is being deleted");
            Some(PassOutcome::Done(Some(TERMINATING_DELAY)))
        }
    })
}

/// Queues the objects that waited for this one's entry in the directory. `joined_policy`: the policy in which an account
/// has just taken one of its namespace's places.
fn wake_dependents(context: &Context, what: &Ref, joined_policy: Option<&str>) {
    match (what, joined_policy) {
        (Ref::Policy(policy), _) => wake_awaiting_accounts(context, policy),
        (Ref::Account(account), Some(policy)) => wake_younger_accounts(context, account, policy),
        (Ref::Account(_), None) | (Ref::Key(_), _) => {}
    }
}

/// Wakes the accounts that were reconciled before their policy was in the directory.
fn wake_awaiting_accounts(context: &Context, policy: &Name) {
    while let Some(account) = context.awaiting_policy.next(&policy.name) {
        context.queues.wake(&Ref::Account(account.clone()));
        context.awaiting_policy.woken(&policy.name, &account);
    }
}

/// Wakes the accounts of the namespace that are younger than the one that has just taken a place: if they were planned
/// at the same time, their plans did not count it.
fn wake_younger_accounts(context: &Context, account: &Name, policy: &str) {
    let younger = context.references.index(|index| index.younger_in_namespace(policy, account));
    younger.into_iter().for_each(|account| context.queues.wake(&Ref::Account(account)));
}

/// Recounts a policy's accounts, because the credits they may still spend depend on the policy's price.
fn recount_accounts(context: &Context, what: &Ref) {
    let Ref::Policy(policy) = what else { return };
    let accounts: Vec<Name> =
        context.references.index(|index| index.accounts_of_policy(&policy.name).cloned().collect());
    accounts.into_iter().for_each(|account| context.references.recount(Ref::Account(account)));
}

/// Publishes the Events about what a removed object leaves behind, such as a Secret that cannot be changed, and forgets
/// the object.
async fn finish_removal<K: Reconcile>(object: &K, context: &Context, events: &[EventNote], now: Timestamp) {
    for event in events {
        tracing::warn!(kind = %K::kind(&()), name = object.name_any(), note = event.note, "the removed object left something behind");
        context.report.publish(object, event, now).await;
    }
    context.references.expectations.forget(object.meta());
    context.forget(&object.reference());
}

/// Writes the status of a plan, and publishes its Events and those for its changes of conditions.
async fn report_plan<K: Reconcile>(
    object: &K,
    context: &Context,
    plan: &Plan<K::Status>,
    now: Timestamp,
) -> Result<()> {
    let Some(status) = &plan.status else { return Ok(()) };
    let before = object.status().map(K::conditions).unwrap_or_default();
    write_status(context, object, status).await?;
    let transition = plan::transition(before, K::conditions(status));
    for event in plan.events.iter().chain(&transition) {
        context.report.publish(object, event, now).await;
    }
    Ok(())
}

/// Watches the foreign Secret that a key waits for, and stops watching it when the key waits no longer. Returns when
/// the object is reconciled again although nothing changed: sooner if the Secret cannot be watched.
fn watch_awaited_secret<K: Reconcile>(
    context: &Context,
    what: &Ref,
    awaited: Option<String>,
    observed: &K::Observed,
    after: RequeueAfter,
) -> RequeueAfter {
    match (awaited, what) {
        (Some(secret), Ref::Key(key)) => {
            if context.secret_watches.follow(key, &secret, K::judged_secret(observed)) {
                return after;
            }
            let spread = context.seeds.rng().random_range(1.0..1.2);
            Some(after.unwrap_or(UNWATCHED_SECRET_INTERVAL).min(UNWATCHED_SECRET_INTERVAL).mul_f64(spread))
        }
        (None, Ref::Key(key)) => {
            context.secret_watches.release(key);
            after
        }
        (Some(_) | None, Ref::Account(_) | Ref::Policy(_)) => after,
    }
}

fn ledger_silent() -> Error {
    let source = ledger::Error::Unavailable {
        doing: "asking for the ledger's identity",
        source: "there is no answer yet".into(),
    };
    Error::Ledger { doing: "waiting for the ledger", source }
}

/// Reports that the ledger is not the one that this installation knows, and writes nothing else. A deletion waits too:
/// the status that would go with the object may be the only record of its usage.
async fn report_ledger_held<K: Kind>(object: &K, context: &Context, message: &str) -> Result<()> {
    let (generation, now) = (object.meta().generation, context.clock.now());
    let mut status = object.status().cloned().unwrap_or_default();
    let current = K::conditions(&status);
    let accepted = plan::is_true(current, ConditionType::Accepted);
    let readiness = plan::Readiness::refused(Reason::LedgerReplaced, message);
    // The spec is as acceptable as before; only the ledger is wrong.
    let programmed = false;
    let conditions = readiness.conditions(current, generation, now, (accepted, programmed));
    K::set_conditions(&mut status, conditions);
    K::set_sending(&mut status, sending::NO);
    write_status(context, object, &status).await
}

/// Writes a status, and remembers it until the watch has caught up. Fails if this operator no longer leads, because its
/// knowledge is out of date.
async fn write_status<K: Kind>(context: &Context, object: &K, status: &K::Status) -> Result<()> {
    still_leads(context)?;
    let own_statuses = &context.references.own_statuses;
    let mark = status_mark(Some(status));
    own_statuses.will_write(&object.reference(), object.meta(), mark);
    let written = context.report.status(object, status, || still_leads(context)).await?;
    own_statuses.wrote(&object.reference(), written.as_ref().unwrap_or(object).meta(), mark);
    let Some(written) = written else { return Ok(()) };
    context.references.expectations.status(&written);
    // The watch may have been faster than the reply.
    if let Some(cached) = K::store(&context.references).get(&ObjectRef::from_obj(object)) {
        context.references.expectations.seen(cached.meta());
    }
    Ok(())
}

/// Reports a failure in the object's status, if it is to be shown there, and publishes an Event for a new one.
async fn report_failure<K: Kind>(object: &K, context: &Context, error: &Error, failures: u32) {
    let deleting = meta::deleting(object.meta());
    let outstanding = deleting || object.status().and_then(K::observed_generation) != object.meta().generation;
    // Until the ledger's identity is known, every pass fails at its first step, which says nothing about an object that had
    // converged.
    let only_awaits_ledger = !outstanding && context.ledger_guard.state() == LedgerState::Unknown;
    if error.is_fenced() || !context.ledger.leads() || only_awaits_ledger {
        return;
    }
    let interruption = interruption(error, deleting, outstanding, failures);
    let mut status = object.status().cloned().unwrap_or_default();
    let current = K::conditions(&status).to_vec();
    if !interruption.is_shown(&current) {
        return;
    }
    let (generation, now) = (object.meta().generation, context.clock.now());
    K::set_conditions(&mut status, plan::interrupted(&current, generation, now, &interruption));
    if interruption.stops_mail() {
        K::set_sending(&mut status, sending::NO);
    }
    match tokio::time::timeout(RECONCILE_DEADLINE, write_status(context, object, &status)).await {
        Ok(Ok(())) => {
            if let Some(event) = interruption.event(&current) {
                context.report.publish(object, &event, now).await;
            }
        }
        Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "reporting a failed reconcile"),
        Err(_) => tracing::warn!("reporting a failed reconcile took too long"),
    }
}

/// Builds the reason and the message of a failure.
fn interruption(error: &Error, deleting: bool, outstanding: bool, failures: u32) -> Interruption {
    let retry = format!("it is tried again within {} s", error.tried_again_within().as_secs());
    let (reason, message) = match error.fault() {
        Fault::Ledger if deleting => {
            (Reason::LedgerUnavailable, format!("deletion waits for the ledger, which does not answer; {retry}"))
        }
        Fault::Ledger => (Reason::LedgerUnavailable, format!("the ledger does not answer; {retry}")),
        Fault::Cluster => {
            let message = match error.refused() {
                // No event tells us when a quota is raised or an admission policy is changed.
                Some(refused) => format!("{refused}; {retry}, and at once when this object is edited"),
                None => format!("{error}: the Kubernetes API did not take the request; {retry}"),
            };
            (Reason::ApplyFailed, message)
        }
        Fault::Internal => (Reason::ApplyFailed, "internal error of the operator; see its log".to_owned()),
        Fault::Conflict => (Reason::ApplyFailed, format!("{error}: another writer was faster each time; {retry}")),
    };
    let contended = error.fault() == Fault::Conflict;
    Interruption { reason, message, refused: error.refusal().is_some(), contended, outstanding, failures }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_deletion_waits_while_the_ledger_is_held_or_being_rebuilt() {
        let states =
            [LedgerState::Unknown, LedgerState::Open, LedgerState::Held("it is empty".into()), LedgerState::Rebuilding];
        assert_eq!(states.map(|state| may_go_without_ledger(&state)), [true, true, false, false]);
    }
}
