//! The ledger as plain numbers: written from the design, with none of the engine's code.

use std::collections::HashMap;

use jiff::Timestamp;

use super::world::{account_id, key_id, policy_id};
use crate::domain::credit::{Blocked, Limit, Meter, Outcome, Verdict};
use crate::domain::id::Holder;
use crate::domain::period::Calendar;
use crate::ledger::store::Usage;

#[derive(Clone, Debug)]
pub struct ModelLot {
    pub from: Timestamp,
    pub to: Timestamp,
    calendar: Calendar,
    /// Of its calendar's window; seconds.
    share: (i64, i64),
    pub granted: Option<i64>,
    pub consumed: i64,
    pub usage: Usage,
}

#[derive(Debug)]
pub struct Charged {
    pub credits: i64,
    /// Which session it was reserved in.
    pub epoch: i64,
    lots: [(Holder, usize); 3],
    outcome: Option<Outcome>,
    corrected: bool,
}

#[derive(Debug, Default)]
pub struct Model {
    /// The time of the last write: it never goes back.
    pub now: Timestamp,
    pub limits: HashMap<Holder, Limit>,
    pub lots: HashMap<Holder, Vec<ModelLot>>,
    pub revoked: bool,
    pub suspended: bool,
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
            last => Self::next(&self.limits[&holder], last, now),
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
        if self.limits.get(&holder) == Some(limit) {
            return;
        }
        self.limits.entry(holder).or_insert_with(|| limit.clone());
        let now = self.now;
        let index = self.running_index(holder);
        self.limits.insert(holder, limit.clone());
        let lots = self.lots.entry(holder).or_default();
        let lot = &mut lots[index];
        let of_this_calendar = lot.calendar == limit.calendar;
        if of_this_calendar || (lot.granted.is_some() && matches!(limit.credits, None | Some(0))) {
            lot.granted = limit.credits.map(|credits| credits * lot.share.0 / lot.share.1);
        } else if lot.granted.is_none() && lot.from == now {
            lot.to = limit.calendar.window(now).to;
            lot.calendar = limit.calendar.clone();
            lot.share = (1, 1);
            lot.granted = limit.credits;
        } else if lot.granted.is_none() {
            lot.to = now;
            let cut = lot.clone();
            lots.push(Self::next(limit, Some(&cut), now));
        }
    }

    pub fn reserve(&mut self, message: usize, key_number: u128, credits: i64, epoch: i64) -> Verdict {
        if self.charged.contains_key(&message) {
            return Verdict::Reserved;
        }
        if self.revoked && key_number == 1 {
            return Verdict::Blocked(Blocked::KeyRevoked);
        }
        if self.suspended {
            return Verdict::Blocked(Blocked::AccountSuspended { reason: None });
        }
        let lots = [key(key_number), account(), policy()].map(|holder| (holder, self.running_index(holder)));
        let mut short: Option<(Timestamp, Verdict)> = None;
        for ((holder, index), meter) in lots.iter().zip([Meter::KeyCap, Meter::AccountCap, Meter::PolicyPool]) {
            let lot = &self.lots[holder][*index];
            if let Some(granted) = lot.granted
                && lot.consumed + credits > granted
                && short.as_ref().is_none_or(|(longest, _)| lot.to > *longest)
            {
                let remaining = (granted - lot.consumed).max(0);
                short = Some((lot.to, Verdict::Short { meter, granted, remaining, reopens_at: Some(lot.to) }));
            }
        }
        if let Some((_, short)) = short {
            return short;
        }
        let charged = Charged { credits, epoch, lots, outcome: None, corrected: false };
        self.each_lot(&charged, |lot| {
            lot.consumed += credits;
            lot.usage.messages += 1;
        });
        self.charged.insert(message, charged);
        Verdict::Reserved
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
                    lot.consumed -= credits;
                    lot.usage.messages -= 1;
                }
            });
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
