//! Decides which figures are written to a status, and when: within a budget, the most important changes first.
//!
//! The ledger says which holders' figures changed; [`due`] says when they are written; a budget per second limits the
//! writes, oldest first, with namespaces in turn. An object takes along its parents that are due, so that they show the
//! same mail. Counts that follow from a transition (a key became ready) are written with it, outside the budget. The
//! write itself is a reconcile, so that only the reconcile loop writes a status.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::crd::{ConditionType, find_condition};
use crate::domain::id::Holder;
use crate::ledger::store::Balance;
use crate::operator::context::Context;
use crate::operator::error::{Error, Result};
use crate::operator::kinds::Kind as _;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::observe::above::{above, holders_above};
use crate::operator::plan::credit_policy::{LimitedAccounts, unbounded};
use crate::operator::plan::figures::Figures;
use crate::operator::plan::gauge::Gauge;
use crate::operator::plan::usage::{Due, Metered, Slot, due};
use crate::operator::state::status_queue::{Rank, StatusQueue};
use crate::operator::tasks::notices::Watch;
use crate::operator::watch::work_queue::Cause;

const TICK: Duration = Duration::from_secs(1);
/// Holders per query.
const PAGE: usize = 500;
/// Delay before counts (accounts of a policy, keys of an account) are written, so that a thousand changes are one
/// write.
const COUNTS_AFTER: SignedDuration = SignedDuration::from_secs(2);
/// Counts written per second. Each follows from a transition that has cost several requests of its own, so the limit
/// only spreads those that come at once.
const COUNTS_PER_SECOND: usize = 100;
/// Minimum age of an object's last write for it to go along with another.
const TOGETHER_AFTER: SignedDuration = SignedDuration::from_secs(10);

#[derive(Default)]
struct Desk {
    cursor: i64,
    /// Objects whose figures must be judged, each with the earliest time for it.
    judge: BTreeMap<Ref, Timestamp>,
    write: StatusQueue,
    /// Objects whose counts are outdated by a transition, outside the budget.
    counts: StatusQueue,
    watch: Watch,
}

/// The result for one object whose figures were judged.
struct Judged {
    due: Due,
    /// Time of the last write of its figures.
    written_at: Option<Timestamp>,
    lag: Lag,
}

/// The way by which a status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Queue(Rank),
    /// The counts follow from a transition that has been written; this write belongs to it.
    BesideTheBudget,
    Nowhere,
}

impl Place {
    fn of(due: Due, goes_along: bool, lag: Lag) -> Self {
        match (due, lag) {
            (Due::AtOnce, _) => Self::Queue(Rank::Phase),
            (Due::Now | Due::From(_) | Due::No, Lag { counts: true, .. }) => Self::BesideTheBudget,
            (Due::Now, _) => Self::Queue(Rank::Movement),
            (Due::From(_), _) if goes_along => Self::Queue(Rank::Movement),
            (Due::From(_) | Due::No, Lag { others: true, .. }) => Self::Queue(Rank::Count),
            (Due::From(_) | Due::No, Lag { others: false, .. }) => Self::Nowhere,
        }
    }
}

/// The parts of a status that are outdated, besides its figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lag {
    /// Counts that follow from a transition of another object.
    counts: bool,
    /// Amounts of money, the number of ready relays, and SENDING.
    others: bool,
}

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    let mut desk = Desk::default();
    let mut incarnation = context.ledger_guard.incarnation();
    loop {
        tokio::time::sleep(TICK).await;
        context.ledger_guard.opened().await;
        if incarnation != context.ledger_guard.incarnation() {
            // Another ledger starts its cursor of movements anew.
            desk = Desk::default();
            incarnation = context.ledger_guard.incarnation();
        }
        if let Err(error) = desk.tick(context).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "following usage");
        }
    }
}

impl Desk {
    async fn tick(&mut self, context: &Context) -> Result<()> {
        let now = context.clock.now();
        for what in context.references.take_recounts() {
            self.judge_by(what, now.saturating_add(COUNTS_AFTER).unwrap_or(now));
        }
        self.moved(context, now).await?;
        self.judge(context, now).await?;
        let counted = self.counted();
        let written = self.turns(context.settings.status_writes_per_second, |what| above(&context.references, what));
        for what in &written {
            // The credits left to these keys depend on it.
            below(context, what).into_iter().for_each(|key| self.judge_by(key, now));
        }
        for what in counted.into_iter().chain(written) {
            context.status_permits.grant(what.clone());
            context.queues.wake_for(&what, Cause::Figures);
        }
        let (statuses, behind) = self.waiting(now);
        context.report.status_queue(statuses, behind);
        Ok(())
    }

    /// Takes the objects whose counts are written in this second.
    fn counted(&mut self) -> Vec<Ref> {
        std::iter::from_fn(|| self.counts.pop()).take(COUNTS_PER_SECOND).collect()
    }

    /// Returns how many statuses wait to be written, for figures or for counts, and how long the oldest has waited.
    fn waiting(&self, now: Timestamp) -> (usize, Duration) {
        (self.write.len() + self.counts.len(), self.write.behind(now).max(self.counts.behind(now)))
    }

    /// Takes the objects whose turn it is in this second, each with its parents that wait too. An unused part of the
    /// budget is not saved up: a quiet night allows no burst.
    fn turns(&mut self, budget: u32, above: impl Fn(&Ref) -> Vec<Ref>) -> Vec<Ref> {
        let (budget, mut turns) = (usize::try_from(budget.max(1)).unwrap_or(usize::MAX), Vec::new());
        while turns.len() < budget
            && let Some(what) = self.write.pop()
        {
            let along = above(&what).into_iter().filter(|other| self.write.remove(other));
            let along: Vec<Ref> = along.collect();
            turns.push(what);
            turns.extend(along);
        }
        turns
    }

    async fn moved(&mut self, context: &Context, now: Timestamp) -> Result<()> {
        loop {
            let asked = context.ledger.store().moved(self.cursor, PAGE).await;
            let (holders, cursor) = asked.map_err(Error::ledger("asking whose figures moved"))?;
            let full = holders.len() >= PAGE && cursor != self.cursor;
            self.cursor = cursor;
            holders.iter().for_each(|holder| context.costs.moved(*holder));
            for what in holders.into_iter().filter_map(|holder| context.ids.object_of(holder)) {
                self.judge.insert(what, now);
            }
            if !full {
                return Ok(());
            }
        }
    }

    async fn judge(&mut self, context: &Context, now: Timestamp) -> Result<()> {
        let ripe: Vec<Ref> =
            self.judge.iter().filter(|(_, from)| **from <= now).map(|(what, _)| what.clone()).collect();
        let mut judged = BTreeMap::new();
        for page in ripe.chunks(PAGE) {
            let holders: HashMap<Holder, &Ref> = page
                .iter()
                .filter_map(|what| Some((context.ids.holder_of(&context.references, what)?, what)))
                .collect();
            let above = page.iter().flat_map(|what| holders_above(&context.references, &context.ids, what));
            let asked: HashSet<Holder> = holders.keys().copied().chain(above).collect();
            let asked: Vec<Holder> = asked.into_iter().collect();
            let mut balances = Vec::with_capacity(asked.len());
            for some in asked.chunks(PAGE) {
                let found = context.ledger.store().balances(some).await;
                balances.extend(found.map_err(Error::ledger("reading balances"))?);
            }
            for what in page {
                self.judge.remove(what);
            }
            let by_holder: HashMap<Holder, &Balance> =
                balances.iter().map(|balance| (balance.lot.holder, balance)).collect();
            for (holder, what) in &holders {
                let Some(balance) = by_holder.get(holder) else { continue };
                let above = holders_above(&context.references, &context.ids, what);
                let gauge = Gauge::of(balance).under(above.iter().filter_map(|above| by_holder.get(above).copied()));
                let gauge = if context.references.may_serve(what) { gauge } else { gauge.with_nothing_left() };
                if let Some(one) = self.judge_one(context, what, &gauge, now) {
                    judged.insert((*what).clone(), one);
                }
            }
            balances.retain(|balance| holders.contains_key(&balance.lot.holder));
            if let Err(error) = self.watch.look(context, &balances, now).await {
                // The page is judged again; otherwise a threshold crossed now would be announced only at the next
                // movement.
                page.iter().for_each(|what| self.judge_by(what.clone(), now));
                self.queue(judged, context, now);
                return Err(error);
            }
        }
        self.queue(judged, context, now);
        Ok(())
    }

    /// Judges when the figures of an object are written. `None`: it is gone, or has no status yet.
    fn judge_one(&mut self, context: &Context, what: &Ref, gauge: &Gauge, now: Timestamp) -> Option<Judged> {
        let fresh = &gauge.figures;
        context.report.figures(what, fresh);
        let (shown, lag) = shown(context, what)?;
        let policy = match what {
            Ref::Policy(policy) => policy.name.clone(),
            Ref::Account(_) | Ref::Key(_) => {
                above(&context.references, what).pop().map(|last| last.name().name.clone())?
            }
        };
        // The next period changes the figures although nothing moves: it opens limits that were exhausted. So do a
        // top-up and a grant that expires.
        self.judge_by(what.clone(), gauge.changes_at);
        let due = due(shown.as_ref().map(|(figures, at)| (figures, *at)), fresh, Slot::of(&policy, now), now);
        Some(Judged { due, written_at: shown.map(|(_, at)| at), lag })
    }

    /// Queues the objects that are due, with their parents that would otherwise wait for the end of the slot, unless
    /// the queue is behind already.
    fn queue(&mut self, judged: BTreeMap<Ref, Judged>, context: &Context, now: Timestamp) {
        let budget = usize::try_from(context.settings.status_writes_per_second).unwrap_or(usize::MAX);
        let waits = |one: &Judged| {
            let rests = one.written_at.is_none_or(|at| now.duration_since(at) >= TOGETHER_AFTER);
            matches!(one.due, Due::From(_)) && rests
        };
        let leading = judged.iter().filter(|(_, one)| matches!(one.due, Due::AtOnce | Due::Now));
        let along: BTreeSet<Ref> = leading
            .flat_map(|(what, _)| above(&context.references, what))
            .filter(|above| judged.get(above).is_some_and(waits))
            .take(budget.saturating_sub(self.write.len()))
            .collect();
        for (what, one) in judged {
            let goes_along = along.contains(&what);
            if let Due::From(from) = one.due
                && !goes_along
            {
                self.judge_by(what.clone(), from);
            }
            match Place::of(one.due, goes_along, one.lag) {
                Place::Queue(rank) => self.write.push(rank, what, now),
                Place::BesideTheBudget => {
                    self.counts.push(Rank::Count, what, now);
                }
                Place::Nowhere => {}
            }
        }
    }

    /// Schedules the judgement for `at`, or earlier if it was going to be: an object that waits for its next period,
    /// weeks away, must not delay a count that changed now.
    fn judge_by(&mut self, what: Ref, at: Timestamp) {
        self.judge.entry(what).and_modify(|planned| *planned = at.min(*planned)).or_insert(at);
    }
}

/// Returns the keys whose credits depend on an object of another kind.
fn below(context: &Context, what: &Ref) -> Vec<Ref> {
    let keys: Vec<Name> = context.references.index(|index| match what {
        Ref::Policy(policy) => {
            index.accounts_of_policy(&policy.name).flat_map(|account| index.keys_of_account(account)).collect()
        }
        Ref::Account(account) => index.keys_of_account(account),
        Ref::Key(_) => Vec::new(),
    });
    keys.into_iter().map(Ref::Key).collect()
}

/// Returns the shown figures and the outdated parts. `None`: the object is gone, or has no status yet.
fn shown(context: &Context, what: &Ref) -> Option<(Option<(Figures, Timestamp)>, Lag)> {
    match what {
        Ref::Policy(name) => {
            let policy = context.references.policy(&name.name)?;
            let status = policy.status()?;
            let count = context.references.index(|index| index.count(&name.name));
            let counts = status.accounts.is_none_or(|shown| {
                (shown.total, shown.active, shown.suspended) != (count.total, count.active, count.suspended)
            });
            let relays = context.relay.borrow().replicas.map(|replicas| replicas.ready);
            let limited = LimitedAccounts::of(&count);
            let warning = find_condition(&status.conditions, ConditionType::SelfServiceUnbounded);
            let counts = counts || context.references.has_departures(&name.name);
            let counts = counts || warning.map(|warning| &warning.message) != unbounded(&policy, limited).as_ref();
            let behind = match context.ids.holder_of(&context.references, what) {
                Some(Holder::Policy(id)) => context.costs.is_behind(id, &policy, context.clock.now()),
                Some(Holder::Account(_) | Holder::Key(_)) | None => false,
            };
            let relay = status.relay.as_ref();
            let hash = context.config_hash.get();
            let others = behind
                || relay.and_then(|relay| relay.ready_replicas) != relays
                || (hash.is_some() && relay.and_then(|relay| relay.config_hash.as_ref()) != hash.as_ref());
            Some((status.shown(), Lag { counts, others }))
        }
        Ref::Account(name) => {
            let account = context.references.account(name)?;
            let status = account.status()?;
            let count = context.references.index(|index| index.count_keys(name));
            let counts = status.keys.is_none_or(|shown| shown != count);
            let policy = Ref::Policy(Name::new("", &account.spec.policy_ref.name));
            let others = match (
                context.ids.holder_of(&context.references, &policy),
                context.ids.holder_of(&context.references, what),
            ) {
                (Some(Holder::Policy(policy)), Some(Holder::Account(id))) => {
                    context.costs.is_amount_behind(policy, id, &account, context.clock.now())
                }
                (_, _) => false,
            };
            let others = others || context.references.is_account_behind(&account);
            Some((status.shown(), Lag { counts, others }))
        }
        Ref::Key(name) => {
            let key = context.references.key(name)?;
            let lag = Lag { counts: false, others: context.references.is_key_behind(&key) };
            Some((key.status()?.shown(), lag))
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{COUNTS_PER_SECOND, Desk, Due, Duration, Lag, Name, Place, Rank, Ref, SignedDuration};

    const NOW: Timestamp = Timestamp::constant(1_000, 0);

    fn alone(_: &Ref) -> Vec<Ref> {
        Vec::new()
    }

    fn account(name: &str) -> Ref {
        Ref::Account(Name::new("team", name))
    }

    #[test]
    fn a_count_that_moved_does_not_wait_for_the_next_period() {
        let (mut desk, at) = (Desk::default(), |second| Timestamp::from_second(second).expect("a time"));
        for (second, expected) in [(1_000_000, 1_000_000), (2, 2), (900_000, 2)] {
            desk.judge_by(account("counted"), at(second));
            assert_eq!(desk.judge[&account("counted")], at(expected));
        }
    }

    #[test]
    fn counts_that_follow_from_a_transition_wait_for_no_budget() {
        let (counts, others) = (Lag { counts: true, others: false }, Lag { counts: false, others: true });
        let later = Due::From(NOW);
        for due in [Due::Now, later, Due::No] {
            assert_eq!(Place::of(due, false, counts), Place::BesideTheBudget, "{due:?}");
        }
        assert_eq!(Place::of(Due::AtOnce, false, counts), Place::Queue(Rank::Phase));
        assert_eq!(Place::of(Due::Now, false, others), Place::Queue(Rank::Movement));
        assert_eq!(Place::of(later, true, Lag::default()), Place::Queue(Rank::Movement));
        assert_eq!(Place::of(later, false, others), Place::Queue(Rank::Count));
        assert_eq!(Place::of(Due::No, false, Lag::default()), Place::Nowhere);
    }

    #[test]
    fn a_second_writes_its_budget_and_no_second_before_it_is_made_up_for() {
        let mut desk = Desk::default();
        assert!(desk.turns(5, alone).is_empty());
        (0..12).for_each(|index| desk.write.push(Rank::Movement, account(&format!("{index}")), NOW));
        assert_eq!([5, 5, 5, 5].map(|budget| desk.turns(budget, alone).len()), [5, 5, 2, 0]);
    }

    #[test]
    fn a_key_takes_along_its_account_and_its_policy_and_the_oldest_tells_how_far_behind() {
        let policy = Ref::Policy(Name::new("", "plan"));
        let key = |index: usize| Ref::Key(Name::new("team", format!("{index}")));
        let above = |what: &Ref| match what {
            Ref::Key(_) => vec![account("a"), policy.clone()],
            Ref::Account(_) | Ref::Policy(_) => Vec::new(),
        };
        let mut desk = Desk::default();
        let at = |seconds: i64| Timestamp::from_second(1_000 + seconds).expect("a time");
        (0..3).for_each(|index| desk.write.push(Rank::Movement, key(index), at(0)));
        desk.write.push(Rank::Count, account("a"), at(5));
        desk.write.push(Rank::Count, policy.clone(), at(5));
        assert_eq!(desk.write.behind(at(7)), Duration::from_secs(7));
        assert_eq!(desk.turns(1, above), [key(0), account("a"), policy.clone()]);
        assert_eq!(desk.turns(5, above), [key(1), key(2)]);
        assert_eq!(desk.write.behind(at(9)), Duration::ZERO);
        assert!(desk.write.is_empty());
    }

    #[test]
    fn counts_wait_in_turn_by_namespace_and_the_metrics_say_so() {
        let mut desk = Desk::default();
        let of = |namespace: &str, index: usize| Ref::Account(Name::new(namespace, format!("{index}")));
        (0..COUNTS_PER_SECOND * 2).for_each(|index| desk.counts.push(Rank::Count, of("a-flood", index), NOW));
        desk.counts.push(Rank::Count, of("quiet", 0), NOW);
        let later = NOW + SignedDuration::from_secs(3);
        assert_eq!(desk.waiting(later), (COUNTS_PER_SECOND * 2 + 1, Duration::from_secs(3)));
        let counted = desk.counted();
        assert!(counted.len() == COUNTS_PER_SECOND && counted[..2].contains(&of("quiet", 0)), "{counted:?}");
        desk.write.push(Rank::Movement, account("moved"), NOW - SignedDuration::from_secs(4));
        assert_eq!(desk.waiting(later), (COUNTS_PER_SECOND + 2, Duration::from_secs(7)));
        assert_eq!((desk.counted().len(), desk.counted().len()), (COUNTS_PER_SECOND, 1));
        assert_eq!(desk.waiting(NOW), (1, Duration::from_secs(4)));
    }
}
