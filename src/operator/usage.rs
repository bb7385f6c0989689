//! Which figures are written to a status, and when: in a budget, what a reader would act on first.
//!
//! The ledger says whose figures moved; [`due`] says whether that is worth a write; a budget by the second says when, and
//! gives it to namespaces in turn. The write itself is a reconcile, so nobody else writes a status.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::error::{Error, Result};
use super::kinds::Kind as _;
use super::notices::Watch;
use super::observe::Context;
use super::plan::credit_policy::{LimitedAccounts, unbounded};
use super::plan::gauge::Gauge;
use super::plan::usage::{Due, Figures, Metered, due};
use super::references::Ref;
use super::watch::Name;
use super::work_queue::{Cause, Turns};
use crate::crd::{ConditionType, find_condition};
use crate::domain::id::Holder;

const TICK: Duration = Duration::from_secs(1);
/// Holders asked for at a time.
const PAGE: usize = 500;
/// Counts (accounts of a policy, keys of an account) wait this long, so that a thousand changes are one write.
const COUNTS_AFTER: SignedDuration = SignedDuration::from_secs(2);

/// How urgent a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Phase,
    Movement,
    Count,
}

impl Rank {
    const ALL: [Self; 3] = [Self::Phase, Self::Movement, Self::Count];
}

/// Every so many writes go by turns alone, whatever their rank: ever new movements of some must not keep the counts of
/// others from being shown at all.
const FAIR: u64 = 5;

/// Objects whose status is to be written, each once: the most urgent first, and among them in turn by namespace.
#[derive(Default)]
struct StatusQueue {
    places: HashMap<Ref, (Rank, u64)>,
    by_rank: [Turns<Ref>; Rank::ALL.len()],
    by_turn: Turns<Ref>,
    arrived: u64,
    left: u64,
}

impl StatusQueue {
    /// Who waits already keeps its age.
    fn push(&mut self, rank: Rank, what: Ref) {
        let tenant = what.name().tenant();
        let age = match self.places.get(&what) {
            Some((old, age)) => {
                self.by_rank[*old as usize].remove(tenant, *age);
                *age
            }
            None => {
                self.arrived += 1;
                self.by_turn.push(tenant, self.arrived, what.clone());
                self.arrived
            }
        };
        self.by_rank[rank as usize].push(tenant, age, what.clone());
        self.places.insert(what, (rank, age));
    }

    fn pop(&mut self) -> Option<Ref> {
        let what = if self.left % FAIR == FAIR - 1 {
            self.by_turn.pop(|_| true)
        } else {
            self.by_rank.iter_mut().find_map(|turns| turns.pop(|_| true))
        }?;
        if let Some((rank, age)) = self.places.remove(&what) {
            let tenant = what.name().tenant();
            self.by_rank[rank as usize].remove(tenant, age);
            self.by_turn.remove(tenant, age);
        }
        self.left += 1;
        Some(what)
    }
}

#[derive(Default)]
struct Desk {
    cursor: i64,
    /// Objects whose figures are to be judged, from when on.
    judge: BTreeMap<Ref, Timestamp>,
    write: StatusQueue,
    watch: Watch,
}

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    let mut desk = Desk::default();
    let mut incarnation = context.guard.incarnation();
    loop {
        tokio::time::sleep(TICK).await;
        context.guard.opened().await;
        if incarnation != context.guard.incarnation() {
            // Another ledger counts its movements anew.
            desk = Desk::default();
            incarnation = context.guard.incarnation();
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
        for what in self.turns(context.settings.status_writes_per_second) {
            context.grant(what.clone());
            context.queues.wake_for(&what, Cause::Figures);
        }
        Ok(())
    }

    /// Whose turn it is in this second. What a second leaves of its budget is not saved up: a quiet night buys no burst.
    fn turns(&mut self, budget: u32) -> Vec<Ref> {
        (0..budget.max(1)).map_while(|_| self.write.pop()).collect()
    }

    async fn moved(&mut self, context: &Context, now: Timestamp) -> Result<()> {
        loop {
            let asked = context.books.store().moved(self.cursor, PAGE).await;
            let (holders, cursor) = asked.map_err(Error::ledger("asking whose figures moved"))?;
            let full = holders.len() >= PAGE && cursor != self.cursor;
            self.cursor = cursor;
            holders.iter().for_each(|holder| context.costs.moved(*holder));
            for what in holders.into_iter().filter_map(|holder| context.object_of(holder)) {
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
        for page in ripe.chunks(PAGE) {
            let holders: HashMap<Holder, &Ref> =
                page.iter().filter_map(|what| Some((context.holder_of(what)?, what))).collect();
            let asked: Vec<Holder> = holders.keys().copied().collect();
            let balances = context.books.store().balances(&asked).await;
            let balances = balances.map_err(Error::ledger("reading balances"))?;
            for what in page {
                self.judge.remove(what);
            }
            for balance in &balances {
                if let Some(what) = holders.get(&balance.lot.holder) {
                    self.judge_one(context, what, &Gauge::of(balance), now);
                }
            }
            if let Err(error) = self.watch.look(context, &balances, now).await {
                // What could not be told is looked at again, or a threshold passed now would be told at the next move.
                page.iter().for_each(|what| self.judge_by(what.clone(), now));
                return Err(error);
            }
        }
        Ok(())
    }

    fn judge_one(&mut self, context: &Context, what: &Ref, gauge: &Gauge, now: Timestamp) {
        let fresh = &gauge.figures;
        context.report.figures(what, fresh);
        let Some((shown, recount)) = shown(context, what) else { return };
        let verdict = due(shown.as_ref().map(|(figures, at)| (figures, *at)), fresh, now);
        let rank = match verdict {
            Due::AtOnce => Some(Rank::Phase),
            Due::Now => Some(Rank::Movement),
            Due::From(_) | Due::No => recount.then_some(Rank::Count),
        };
        if let Due::From(from) = verdict {
            self.judge_by(what.clone(), from);
        }
        if let Some(rank) = rank {
            self.write.push(rank, what.clone());
        }
        // The next period's figures are news although nothing moves: it opens what was exhausted. So are a top-up, and a
        // grant that expires.
        self.judge_by(what.clone(), gauge.changes_at);
    }

    /// Judges at `at` or when it was going to, whichever is first: what waits for its next period, weeks away, must
    /// not keep a count that moved now waiting with it.
    fn judge_by(&mut self, what: Ref, at: Timestamp) {
        self.judge.entry(what).and_modify(|planned| *planned = at.min(*planned)).or_insert(at);
    }
}

/// What a status shows, and whether its counts are behind. `None`: the object is gone, or has no status yet.
fn shown(context: &Context, what: &Ref) -> Option<(Option<(Figures, Timestamp)>, bool)> {
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
            let recount = counts || status.relay.as_ref().and_then(|relay| relay.ready_replicas) != relays;
            let behind = match context.holder_of(what) {
                Some(Holder::Policy(id)) => context.costs.is_behind(id, &policy, context.clock.now()),
                Some(Holder::Account(_) | Holder::Key(_)) | None => false,
            };
            Some((status.shown(), recount || behind))
        }
        Ref::Account(name) => {
            let account = context.references.account(name)?;
            let status = account.status()?;
            let count = context.references.index(|index| index.count_keys(name));
            let recount = status.keys.is_none_or(|shown| (shown.total, shown.active) != count);
            let policy = Ref::Policy(Name::new("", &account.spec.policy_ref.name));
            let behind = match (context.holder_of(&policy), context.holder_of(what)) {
                (Some(Holder::Policy(policy)), Some(Holder::Account(id))) => {
                    context.costs.is_amount_behind(policy, id, &account, context.clock.now())
                }
                (_, _) => false,
            };
            let behind = behind || context.references.is_account_behind(&account);
            Some((status.shown(), recount || behind))
        }
        Ref::Key(name) => {
            let key = context.references.key(name)?;
            Some((key.status()?.shown(), context.references.is_key_behind(&key)))
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Desk, Name, Rank, Ref, StatusQueue, Turns};

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
    fn a_second_writes_its_budget_and_no_second_before_it_is_made_up_for() {
        let mut desk = Desk::default();
        assert!(desk.turns(5).is_empty());
        (0..12).for_each(|index| desk.write.push(Rank::Movement, account(&format!("{index}"))));
        assert_eq!([5, 5, 5, 5].map(|budget| desk.turns(budget).len()), [5, 5, 2, 0]);
    }

    #[test]
    fn the_urgent_go_first_then_who_waited_longer_and_nobody_waits_for_ever() {
        let mut queue = StatusQueue::default();
        queue.push(Rank::Count, account("counted"));
        for name in ["z", "y", "x"] {
            queue.push(Rank::Movement, account(name));
        }
        queue.push(Rank::Phase, account("x"));
        assert_eq!(queue.pop(), Some(account("x")));
        assert_eq!(queue.pop(), Some(account("z")));
        // New movements at every tick, and still the count is written.
        let written = (0..10).position(|index| {
            queue.push(Rank::Phase, account(&format!("busy-{index}")));
            queue.pop() == Some(account("counted"))
        });
        assert_eq!(written, Some(2));
        while queue.pop().is_some() {}
        assert!(queue.places.is_empty() && queue.by_rank.iter().all(Turns::is_empty) && queue.by_turn.is_empty());
    }

    #[test]
    fn a_namespace_with_a_thousand_movements_delays_another_by_one_write() {
        let mut queue = StatusQueue::default();
        let of = |namespace: &str, index: usize| Ref::Key(Name::new(namespace, format!("{index}")));
        (0..1000).for_each(|index| queue.push(Rank::Phase, of("flood", index)));
        queue.push(Rank::Phase, of("quiet", 0));
        queue.push(Rank::Count, of("counted", 0));
        let written: Vec<Ref> = (0..15).filter_map(|_| queue.pop()).collect();
        assert_eq!(written[1], of("quiet", 0));
        assert!(written.contains(&of("counted", 0)), "{written:?}");
    }
}
