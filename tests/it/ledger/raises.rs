//! The model's part of an acceptance: known usage, beside what was accepted here.

use jiff::Timestamp;

use super::model::{Model, POLICIES, Raise, account, key, policy};
use franking::domain::credit::Meter;
use franking::domain::id::Holder;
use franking::ledger::store::{Bound, Floor};

/// Returns a floor that a status may state, of any meter of the histories: the use of keys 1 and 2, the account and the
/// policies, the account's money, and what was left to the account and the policies at some moment.
pub fn floor(which: usize, amount: i64, at: Timestamp) -> Floor {
    let used = Bound::UsedAtLeast(amount);
    let periods = [key(1), key(2), account(), policy(0), policy(1)];
    let prepaid =
        [(account(), Meter::AccountPrepaid), (policy(0), Meter::PolicyPrepaid), (policy(1), Meter::PolicyPrepaid)];
    let (holder, meter, bound) = match which {
        which if which < periods.len() => (periods[which], Meter::of_period(periods[which]), used),
        which if which == periods.len() => (account(), Meter::AccountSpend, Bound::UsedAtLeast(amount * 1_000)),
        which => {
            let (holder, meter) = prepaid[which - periods.len() - 1];
            (holder, meter, Bound::LeftAtMost { left: amount, at })
        }
    };
    Floor { holder, meter, bound, until: Timestamp::MAX }
}

/// Number of floors.
pub const FLOORS: usize = 3 + POLICIES + 1 + 1 + POLICIES;

impl Model {
    pub fn accept(&mut self) {
        self.accepted_at = self.now;
    }

    /// Raises by a floor.
    pub fn raise(&mut self, floor: &Floor) {
        let holder = floor.holder;
        self.number(holder);
        match (floor.meter, floor.bound) {
            (Meter::AccountSpend, Bound::UsedAtLeast(used)) => {
                self.spent_elsewhere += (used - self.spent()).max(0);
            }
            (_, Bound::UsedAtLeast(used)) => {
                let running = self.running(holder, self.now);
                self.raise_by(holder, used - self.used(holder, running.window.from));
            }
            (_, Bound::LeftAtMost { left, at }) => self.leave(holder, left, at),
        }
    }

    fn raise_by(&mut self, holder: Holder, credits: i64) {
        let number = self.number(holder);
        if credits > 0 {
            self.raises.push(Raise { holder, credits, at: self.now, number });
        }
    }

    /// Returns the sum that a numbered limit was raised by.
    pub fn raised_in(&self, holder: Holder, number: usize) -> i64 {
        let raises = self.raises.iter().filter(|raise| (raise.holder, raise.number) == (holder, number));
        raises.map(|raise| raise.credits).sum()
    }

    /// Leaves as many prepaid credits as were left then, plus the top-ups since.
    fn leave(&mut self, holder: Holder, left: i64, at: Timestamp) {
        let Some(rule) = self.rules.prepaid.get(&holder).cloned() else { return };
        let calendar = self.rules.limits[&holder].calendar.clone();
        let now = self.now;
        let stock = self.stocks.entry(holder).or_default();
        stock.catch_up(rule.recurring.as_ref(), &calendar, now);
        let left = left + rule.recurring.map_or(0, |rule| super::stock::came_between(&rule, &calendar, at, now));
        let over = stock.balance(None, now).remaining - left;
        if over > 0 {
            stock.take(over, now);
        }
    }

    /// Raises accounts by what their keys were raised by, and policies by what their accounts were, within their own
    /// periods.
    pub fn reopen(&mut self) {
        let (policy, account) = (policy(self.rules.policy), account());
        for (children, parent) in [(vec![key(1), key(2)], account), (vec![account], policy)] {
            let fresh = |raise: &&Raise| raise.at >= self.accepted_at;
            let raised: Vec<Raise> = self.raises.iter().filter(fresh).copied().collect();
            let of_children: Vec<&Raise> = raised.iter().filter(|raise| children.contains(&raise.holder)).collect();
            if of_children.is_empty() {
                continue;
            }
            let number = self.number(parent);
            let from = self.running(parent, self.now).window.from;
            let within = of_children.iter().filter(|raise| self.window(raise.holder, raise.number).from >= from);
            let own = raised.iter().filter(|raise| (raise.holder, raise.number) == (parent, number));
            let lacking = within.map(|raise| raise.credits).sum::<i64>() - own.map(|raise| raise.credits).sum::<i64>();
            self.raise_by(parent, lacking);
        }
    }
}
