//! The model's verdicts: too fast, or short of credits.

use super::model::{Charged, Model, account};
use super::stock::Leak;
use franking::domain::credit::{Meter, Outcome, REFUSED_PER_HOUR, Rate, RateScope, Verdict};
use franking::domain::id::Holder;

impl Model {
    /// Returns what the message pours into the buckets of its rates, or why it comes too early.
    pub fn pour(&self, key: Holder) -> Result<Vec<(Holder, Leak)>, Verdict> {
        let mut poured = vec![];
        let shut = self.given_back.shut_until(self.judged);
        let rate = Rate { messages: REFUSED_PER_HOUR, per_seconds: 3_600 };
        let mut refused =
            shut.map(|retry_at| (retry_at, Verdict::TooFast { scope: RateScope::Refused, rate, retry_at }));
        for (holder, scope) in [(key, RateScope::Key), (account(), RateScope::Account)] {
            let Some(rate) = self.rules.rates.get(&holder).copied() else { continue };
            match Leak::pour(self.leaks.get(&holder).copied(), rate, self.judged) {
                Ok(leak) => poured.push((holder, leak)),
                Err(retry_at) if refused.as_ref().is_some_and(|(later, _)| retry_at <= *later) => {}
                Err(retry_at) => refused = Some((retry_at, Verdict::TooFast { scope, rate, retry_at })),
            }
        }
        refused.map_or(Ok(poured), |(_, verdict)| Err(verdict))
    }

    /// Returns the verdict of the meter that keeps `credits` out longest.
    pub fn short(&self, [key, account, policy]: [Holder; 3], credits: i64, epoch: i64) -> Option<Verdict> {
        let period = |holder, meter| {
            let running = self.running(holder, self.now);
            let used = self.used(holder, running.window.from);
            let granted = running.granted.filter(|granted| used + credits > *granted)?;
            Some((meter, granted, (granted - used).max(0), Some(running.window.to)))
        };
        let prepaid = |holder, meter| {
            let balance = self.prepaid(holder, self.now).filter(|balance| balance.remaining < credits)?;
            Some((meter, balance.granted, balance.remaining, balance.next_top_up))
        };
        let (price, spent) = (self.rules.price(), self.spent());
        let money = self.rules.spend_limit.filter(|limit| price > 0 && spent + credits * price > *limit);
        let money = money.map(|limit| (Meter::AccountSpend, limit / price, (limit - spent).max(0) / price, None));
        let candidates = [
            period(key, Meter::KeyCap),
            money,
            period(account, Meter::AccountCap),
            prepaid(account, Meter::AccountPrepaid),
            prepaid(policy, Meter::PolicyPrepaid),
            period(policy, Meter::PolicyPool).filter(|_| !self.rules.overage[self.rules.policy]),
        ];
        // The last of the longest, from the back, is the first.
        let longest = candidates.into_iter().flatten().rev().max_by_key(|short| (short.3.is_none(), short.3));
        let (meter, granted, remaining, reopens_at) = longest?;
        let pending = self.rules.reject[self.rules.policy] && self.would_pass([key, account, policy], credits, epoch);
        Some(Verdict::Short { meter, granted, remaining, reopens_at, pending })
    }

    /// Returns true if it would pass once everything came back that may: messages without an outcome, and those on
    /// their way although their client was told to try again.
    fn would_pass(&self, [key, account, policy]: [Holder; 3], credits: i64, epoch: i64) -> bool {
        let open = |number: usize, charged: &Charged| match charged.outcome {
            None => true,
            Some(Outcome::Unknown) => !charged.corrected && self.dedup.carries_itself(number, epoch),
            Some(_) => false,
        };
        let open: Vec<&Charged> =
            self.charged.iter().filter(|(n, c)| open(**n, c)).map(|(_, charged)| charged).collect();
        let period = |holder| {
            let running = self.running(holder, self.now);
            let from = running.window.from;
            let counted = open.iter().filter(|open| open.at >= from && open.holders.contains(&holder));
            let left = self.used(holder, from) - counted.map(|open| open.credits).sum::<i64>();
            running.granted.is_none_or(|granted| left + credits <= granted)
        };
        let prepaid = |holder: Holder| {
            let Some(rule) = self.rules.prepaid.get(&holder) else { return true };
            let mut stock = self.stocks[&holder].clone();
            stock.catch_up(rule.recurring.as_ref(), &self.rules.limits[&holder].calendar, self.now);
            for (_, index, some) in open.iter().flat_map(|open| &open.buckets).filter(|(of, _, _)| *of == holder) {
                stock.buckets[*index].consumed -= some;
            }
            stock.balance(None, self.now).remaining >= credits
        };
        let price = self.rules.price();
        let spent = self.spent() - open.iter().map(|open| open.money).sum::<i64>();
        let money = self.rules.spend_limit.is_none_or(|limit| price == 0 || spent + credits * price <= limit);
        let pool = self.rules.overage[self.rules.policy] || period(policy);
        period(key) && money && period(account) && prepaid(account) && prepaid(policy) && pool
    }
}
