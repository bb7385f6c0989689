//! The ledger as plain numbers: written from the design, with none of the engine's code.

use std::collections::HashMap;

use jiff::Timestamp;

use super::stock::{Leak, Stock};
use super::world::{account_id, key_id, policy_id};
use crate::domain::credit::{Blocked, Limit, Meter, Outcome, Pace, Prepaid, Rate, TopUp, Verdict};
use crate::domain::id::Holder;
use crate::domain::period::Calendar;
use crate::ledger::store::{PrepaidBalance, Usage};

#[derive(Clone, Debug)]
pub struct ModelLot {
    pub from: Timestamp,
    pub to: Timestamp,
    calendar: Calendar,
    /// Of its calendar's window; seconds.
    share: (i64, i64),
    pub granted: Option<i64>,
    pub consumed: i64,
    pub overage: i64,
    pub usage: Usage,
}

impl ModelLot {
    fn charge(&mut self, credits: i64) {
        let room = self.granted.map_or(credits, |granted| (granted - self.consumed).clamp(0, credits));
        self.consumed += room;
        self.overage += credits - room;
    }

    fn give_back(&mut self, credits: i64) {
        let over = self.overage.min(credits);
        self.overage -= over;
        self.consumed -= credits - over;
    }

    fn grant(&mut self, granted: Option<i64>) {
        self.granted = granted;
        // What is used is used: a higher limit takes in what was over.
        let used = self.consumed + self.overage;
        self.consumed = granted.map_or(used, |granted| used.min(granted.max(self.consumed)));
        self.overage = used - self.consumed;
    }
}

/// What is written in the directory.
#[derive(Debug, Default)]
pub struct Rules {
    pub limits: HashMap<Holder, Limit>,
    pub prepaid: HashMap<Holder, Prepaid>,
    pub rates: HashMap<Holder, Rate>,
    pub spend_limit: Option<i64>,
    /// Micro-units for a credit.
    pub price: i64,
    pub overage: bool,
    pub revoked: bool,
    pub suspended: bool,
    /// The account is removed.
    pub removed: bool,
}

impl Rules {
    fn top_up(&self, holder: Holder) -> Option<&TopUp> {
        self.prepaid.get(&holder)?.recurring.as_ref()
    }
}

#[derive(Debug)]
pub struct Charged {
    pub credits: i64,
    /// Which session it was reserved in.
    pub epoch: i64,
    lots: [(Holder, usize); 3],
    buckets: Vec<(Holder, usize, i64)>,
    money: i64,
    outcome: Option<Outcome>,
    corrected: bool,
}

#[derive(Debug, Default)]
pub struct Model {
    /// The time of the last write: it never goes back.
    pub now: Timestamp,
    pub rules: Rules,
    pub lots: HashMap<Holder, Vec<ModelLot>>,
    pub stocks: HashMap<Holder, Stock>,
    leaks: HashMap<Holder, Leak>,
    /// Money charged under a limit, in micro-units.
    pub spent: i64,
    /// By the number of the message.
    pub charged: HashMap<usize, Charged>,
}

pub fn key(n: u128) -> Holder {
    Holder::Key(key_id(n))
}

pub fn account() -> Holder {
    Holder::Account(account_id(1))
}

pub fn policy() -> Holder {
    Holder::Policy(policy_id(1))
}

impl Model {
    pub fn tick(&mut self, clock: Timestamp) {
        self.now = self.now.max(clock);
    }

    /// The lot that holds now, or that the next message would make.
    pub fn running(&self, holder: Holder, clock: Timestamp) -> ModelLot {
        let now = self.now.max(clock);
        let last = self.lots.get(&holder).and_then(|lots| lots.last());
        match last {
            Some(lot) if now < lot.to => lot.clone(),
            last => Self::next(&self.rules.limits[&holder], last, now),
        }
    }

    fn next(limit: &Limit, last: Option<&ModelLot>, now: Timestamp) -> ModelLot {
        let window = limit.calendar.window(now);
        let seconds = |from: Timestamp, to: Timestamp| to.as_second() - from.as_second();
        let from = last.map_or(window.from, |last| last.to.max(window.from));
        let limited = last.is_some_and(|last| last.granted.is_some());
        let share = if limited { (seconds(from, window.to), seconds(window.from, window.to)) } else { (1, 1) };
        ModelLot {
            from,
            to: window.to,
            calendar: limit.calendar.clone(),
            share,
            granted: limit.credits.map(|credits| credits * share.0 / share.1),
            consumed: 0,
            overage: 0,
            usage: Usage::default(),
        }
    }

    fn running_index(&mut self, holder: Holder) -> usize {
        let lot = self.running(holder, self.now);
        let lots = self.lots.entry(holder).or_default();
        if lots.last().is_none_or(|last| self.now >= last.to) {
            lots.push(lot);
        }
        lots.len() - 1
    }

    pub fn change(&mut self, holder: Holder, limit: &Limit) {
        if self.rules.limits.get(&holder) == Some(limit) {
            return;
        }
        let before = self.rules.limits.get(&holder).unwrap_or(limit).clone();
        if self.stands(holder) {
            self.regrant(holder, &before, limit);
            let recurring = self.rules.top_up(holder).cloned();
            self.catch_up(holder, recurring.as_ref(), &before.calendar);
        }
        self.rules.limits.insert(holder, limit.clone());
    }

    fn stands(&self, holder: Holder) -> bool {
        holder != account() || !self.rules.removed
    }

    fn regrant(&mut self, holder: Holder, before: &Limit, limit: &Limit) {
        self.rules.limits.insert(holder, before.clone());
        let now = self.now;
        let index = self.running_index(holder);
        let lots = self.lots.entry(holder).or_default();
        let lot = &mut lots[index];
        let of_this_calendar = lot.calendar == limit.calendar;
        if of_this_calendar || (lot.granted.is_some() && matches!(limit.credits, None | Some(0))) {
            lot.grant(limit.credits.map(|credits| credits * lot.share.0 / lot.share.1));
        } else if lot.granted.is_none() && lot.from == now {
            lot.to = limit.calendar.window(now).to;
            lot.calendar = limit.calendar.clone();
            lot.share = (1, 1);
            lot.grant(limit.credits);
        } else if lot.granted.is_none() {
            lot.to = now;
            let cut = lot.clone();
            lots.push(Self::next(limit, Some(&cut), now));
        }
    }

    fn catch_up(&mut self, holder: Holder, rule: Option<&TopUp>, calendar: &Calendar) {
        let now = self.now;
        self.stocks.entry(holder).or_default().catch_up(rule, calendar, now);
    }

    pub fn prepay(&mut self, holder: Holder, wanted: Option<Prepaid>) {
        if self.stands(holder) {
            let calendar = self.rules.limits[&holder].calendar.clone();
            let before = self.rules.top_up(holder).cloned();
            let stock = self.stocks.entry(holder).or_default();
            stock.replace(before.as_ref().map(|before| (before, &calendar)), wanted.as_ref(), &calendar, self.now);
        }
        match wanted {
            Some(wanted) => self.rules.prepaid.insert(holder, wanted),
            None => self.rules.prepaid.remove(&holder),
        };
    }

    /// The account goes, or comes back to what it had.
    pub fn remove(&mut self, removed: bool) {
        let returns = self.rules.removed && !removed;
        if removed && !self.rules.removed {
            self.running_index(account());
        }
        self.rules.removed = removed;
        if returns {
            let limit = self.rules.limits[&account()].clone();
            self.regrant(account(), &limit, &limit);
            let wanted = self.rules.prepaid.get(&account());
            let stock = self.stocks.entry(account()).or_default();
            stock.replace(None, wanted, &limit.calendar, self.now);
        }
    }

    /// What a status shows of a holder's prepaid credits.
    pub fn prepaid(&self, holder: Holder, clock: Timestamp) -> Option<PrepaidBalance> {
        self.rules.prepaid.get(&holder)?;
        let mut stock = self.stocks[&holder].clone();
        let (now, rule) = (self.now.max(clock), self.rules.top_up(holder));
        stock.catch_up(rule, &self.rules.limits[&holder].calendar, now);
        Some(stock.balance(rule, now))
    }

    fn blocked(&self, key_number: u128) -> Option<Blocked> {
        if self.rules.revoked && key_number == 1 {
            Some(Blocked::KeyRevoked)
        } else if self.rules.removed {
            Some(Blocked::AccountRemoved)
        } else if self.rules.suspended {
            Some(Blocked::AccountSuspended { reason: None })
        } else {
            None
        }
    }

    pub fn reserve(&mut self, message: usize, key_number: u128, credits: i64, epoch: i64) -> Verdict {
        if self.charged.contains_key(&message) {
            return Verdict::Reserved;
        }
        if let Some(blocked) = self.blocked(key_number) {
            return Verdict::Blocked(blocked);
        }
        let lots = [key(key_number), account(), policy()].map(|holder| (holder, self.running_index(holder)));
        for holder in [account(), policy()] {
            let (rule, calendar) = (self.rules.top_up(holder).cloned(), self.rules.limits[&holder].calendar.clone());
            self.catch_up(holder, rule.as_ref(), &calendar);
        }
        let leaks = match self.pour(key(key_number)) {
            Ok(leaks) => leaks,
            Err(too_fast) => return too_fast,
        };
        if let Some(short) = self.short(&lots, credits) {
            return short;
        }
        self.leaks.extend(leaks);
        let mut buckets = vec![];
        for holder in [account(), policy()] {
            if self.rules.prepaid.contains_key(&holder) {
                let taken = self.stocks.entry(holder).or_default().take(credits, self.now);
                buckets.extend(taken.into_iter().map(|(index, some)| (holder, index, some)));
            }
        }
        let money = if self.rules.spend_limit.is_some() { credits * self.rules.price } else { 0 };
        self.spent += money;
        let charged = Charged { credits, epoch, lots, buckets, money, outcome: None, corrected: false };
        self.each_lot(&charged, |lot| {
            lot.charge(credits);
            lot.usage.messages += 1;
        });
        self.charged.insert(message, charged);
        Verdict::Reserved
    }

    fn pour(&self, key: Holder) -> Result<Vec<(Holder, Leak)>, Verdict> {
        let mut poured = vec![];
        let mut refused: Option<(Timestamp, Verdict)> = None;
        for (holder, pace) in [(key, Pace::Key), (account(), Pace::Account)] {
            let Some(rate) = self.rules.rates.get(&holder).copied() else { continue };
            match Leak::pour(self.leaks.get(&holder).copied(), rate, self.now) {
                Ok(leak) => poured.push((holder, leak)),
                Err(retry_at) if refused.as_ref().is_some_and(|(later, _)| retry_at <= *later) => {}
                Err(retry_at) => refused = Some((retry_at, Verdict::TooFast { pace, rate, retry_at })),
            }
        }
        refused.map_or(Ok(poured), |(_, verdict)| Err(verdict))
    }

    /// The meter that keeps `credits` out longest.
    fn short(&self, lots: &[(Holder, usize); 3], credits: i64) -> Option<Verdict> {
        let period = |index: usize, meter| {
            let (holder, lot) = lots[index];
            let lot = &self.lots[&holder][lot];
            let granted = lot.granted.filter(|granted| lot.consumed + credits > *granted)?;
            Some((meter, granted, (granted - lot.consumed).max(0), Some(lot.to)))
        };
        let prepaid = |holder, meter| {
            let balance = self.prepaid(holder, self.now).filter(|balance| balance.remaining < credits)?;
            Some((meter, balance.granted, balance.remaining, balance.next_top_up))
        };
        let price = self.rules.price;
        let money = self.rules.spend_limit.filter(|limit| price > 0 && self.spent + credits * price > *limit);
        let money = money.map(|limit| (Meter::AccountSpend, limit / price, (limit - self.spent).max(0) / price, None));
        let candidates = [
            period(0, Meter::KeyCap),
            money,
            period(1, Meter::AccountCap),
            prepaid(account(), Meter::AccountPrepaid),
            prepaid(policy(), Meter::PolicyPrepaid),
            period(2, Meter::PolicyPool).filter(|_| !self.rules.overage),
        ];
        // The last of the longest, from the back, is the first.
        let longest = candidates.into_iter().flatten().rev().max_by_key(|short| (short.3.is_none(), short.3));
        longest.map(|(meter, granted, remaining, reopens_at)| Verdict::Short { meter, granted, remaining, reopens_at })
    }

    fn each_lot(&mut self, charged: &Charged, mut change: impl FnMut(&mut ModelLot)) {
        for (holder, index) in charged.lots {
            change(&mut self.lots.get_mut(&holder).expect("charged before")[index]);
        }
    }

    pub fn settle(&mut self, message: usize, outcome: Outcome) {
        let Some(mut charged) = self.charged.remove(&message) else { return };
        let corrects = charged.outcome == Some(Outcome::Unknown) && !charged.corrected && outcome != Outcome::Unknown;
        if charged.outcome.is_none() || corrects {
            let (credits, now) = (charged.credits, self.now);
            self.each_lot(&charged, |lot| {
                if corrects {
                    lot.usage.unknown -= credits;
                }
                match outcome {
                    Outcome::Relayed => {
                        lot.usage.relayed += credits;
                        lot.usage.last_sent_at = Some(now);
                    }
                    Outcome::Unknown => lot.usage.unknown += credits,
                    Outcome::Refused => lot.usage.refused += credits,
                    Outcome::NotOffered => lot.usage.not_offered += credits,
                }
                if matches!(outcome, Outcome::Refused | Outcome::NotOffered) {
                    lot.give_back(credits);
                    lot.usage.messages -= 1;
                }
            });
            if matches!(outcome, Outcome::Refused | Outcome::NotOffered) {
                self.spent -= charged.money;
                for (holder, index, some) in &charged.buckets {
                    self.stocks.entry(*holder).or_default().buckets[*index].consumed -= some;
                }
            }
            charged.outcome = Some(outcome);
            charged.corrected = corrects;
        }
        self.charged.insert(message, charged);
    }

    /// Open messages of sessions before `epoch` become unknown. Returns how many.
    pub fn sweep(&mut self, epoch: i64) -> u64 {
        let open: Vec<usize> = self
            .charged
            .iter()
            .filter(|(_, charged)| charged.outcome.is_none() && charged.epoch < epoch)
            .map(|(message, _)| *message)
            .collect();
        for message in &open {
            self.settle(*message, Outcome::Unknown);
        }
        open.len() as u64
    }
}
