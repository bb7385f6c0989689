//! The ledger as a list of accepted messages: written from the design, with none of the engine's code.
//!
//! A limit is judged by the oracle of credits.md: the messages of its holder that were accepted and not refunded since
//! the beginning of the limit's own calendar period, whenever it was set and whatever held in between.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::dedup_model::{CopyAnswer, CopyEvent, DedupModel};
use super::stock::{GivenBack, Leak, Stock};
use super::world::{account_id, key_id, policy_id};
use franking::domain::credit::{Blocked, Limit, Outcome, Prepaid, Rate, TopUp, Verdict};
use franking::domain::id::{Holder, MessageId};
use franking::domain::period::{Calendar, Window};
use franking::ledger::store::{FINGERPRINT_KEPT, FINGERPRINT_KEPT_UNMARKED, PrepaidBalance, Usage};

/// A holder's running limit, as a status shows it.
#[derive(Clone, Debug)]
pub struct Running {
    pub window: Window,
    /// Start of the figures beside the limit: within its window if another calendar held before.
    pub begun: Timestamp,
    calendar: Calendar,
    pub granted: Option<i64>,
}

/// The rules that are written in the directory.
#[derive(Debug, Default)]
pub struct Rules {
    pub limits: HashMap<Holder, Limit>,
    pub prepaid: HashMap<Holder, Prepaid>,
    pub rates: HashMap<Holder, Rate>,
    pub spend_limit: Option<i64>,
    /// Price of a credit in micro-units, for each policy.
    pub prices: [i64; POLICIES],
    /// For each policy, true if its pool may be exceeded.
    pub overage: [bool; POLICIES],
    /// For each policy, true if it refuses for good.
    pub reject: [bool; POLICIES],
    /// The account's policy.
    pub policy: usize,
    pub revoked: bool,
    pub suspended: bool,
    /// The account is removed.
    pub removed: bool,
}

impl Rules {
    fn top_up(&self, holder: Holder) -> Option<&TopUp> {
        self.prepaid.get(&holder)?.recurring.as_ref()
    }

    pub fn price(&self) -> i64 {
        self.prices[self.policy]
    }
}

/// A message that was accepted.
#[derive(Debug)]
pub struct Charged {
    pub credits: i64,
    pub at: Timestamp,
    /// The session it was reserved in.
    pub epoch: i64,
    pub holders: [Holder; 3],
    /// The number of the running limit of each holder, for the figures beside it.
    numbers: [usize; 3],
    pub buckets: Vec<(Holder, usize, i64)>,
    pub money: i64,
    pub outcome: Option<Outcome>,
    settled_at: Timestamp,
    pub corrected: bool,
}

impl Charged {
    /// Returns true if it is accepted and not refunded.
    fn counts(&self) -> bool {
        !matches!(self.outcome, Some(Outcome::Refused | Outcome::NotOffered))
    }
}

/// Credits of a period that a holder has used elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Raise {
    pub holder: Holder,
    pub credits: i64,
    pub at: Timestamp,
    /// The number of the limit that ran then.
    pub number: usize,
}

#[derive(Debug, Default)]
pub struct Model {
    /// The time of the last write: it never goes back.
    pub now: Timestamp,
    /// The time by which rates are judged: the clock's if the last write is more than a minute ahead of it.
    pub judged: Timestamp,
    pub rules: Rules,
    runs: HashMap<Holder, Vec<Running>>,
    pub stocks: HashMap<Holder, Stock>,
    pub leaks: HashMap<Holder, Leak>,
    /// The messages that were given back to each rate.
    returned: HashMap<Holder, Option<Leak>>,
    pub given_back: GivenBack,
    /// Charged messages by their number.
    pub charged: BTreeMap<usize, Charged>,
    pub dedup: DedupModel,
    /// Known usage that no message here accounts for.
    pub raises: Vec<Raise>,
    pub spent_elsewhere: i64,
    pub accepted_at: Timestamp,
}

pub const POLICIES: usize = 2;

pub fn key(n: u128) -> Holder {
    Holder::Key(key_id(n))
}

pub fn account() -> Holder {
    Holder::Account(account_id(1))
}

/// Returns a policy; the first is number 0.
pub fn policy(n: usize) -> Holder {
    Holder::Policy(policy_id(n as u128 + 1))
}

impl Model {
    pub fn tick(&mut self, clock: Timestamp) {
        self.now = self.now.max(clock);
        let ahead = self.now.duration_since(clock) > SignedDuration::from_secs(60);
        self.judged = if ahead { clock } else { self.now };
    }

    /// Returns a holder's credits that were accepted and not refunded since then, and what is known to be used.
    pub fn used(&self, holder: Holder, from: Timestamp) -> i64 {
        let counted = self
            .charged
            .values()
            .filter(|charged| charged.counts() && charged.at >= from && charged.holders.contains(&holder));
        let known = self.raises.iter().filter(|raise| raise.at >= from && raise.holder == holder);
        counted.map(|charged| charged.credits).sum::<i64>() + known.map(|raise| raise.credits).sum::<i64>()
    }

    /// Returns the money that was spent and not given back.
    pub fn spent(&self) -> i64 {
        let counted = self.charged.values().filter(|charged| charged.counts());
        counted.map(|charged| charged.money).sum::<i64>() + self.spent_elsewhere
    }

    /// Returns the limit that holds now, or that the next message would find.
    pub fn running(&self, holder: Holder, clock: Timestamp) -> Running {
        let now = self.now.max(clock);
        let last = self.runs.get(&holder).and_then(|runs| runs.last());
        match last {
            Some(running) if now < running.window.to => running.clone(),
            last => Self::next(&self.rules.limits[&holder], last, now),
        }
    }

    fn next(limit: &Limit, last: Option<&Running>, now: Timestamp) -> Running {
        let window = limit.calendar.window(now);
        let begun = last.map_or(window.from, |last| last.window.to.max(window.from));
        Running { window, begun, calendar: limit.calendar.clone(), granted: limit.credits }
    }

    /// Returns the number of the running limit.
    pub fn number(&mut self, holder: Holder) -> usize {
        let running = self.running(holder, self.now);
        let runs = self.runs.entry(holder).or_default();
        if runs.last().is_none_or(|last| self.now >= last.window.to) {
            runs.push(running);
        }
        runs.len() - 1
    }

    pub fn window(&self, holder: Holder, number: usize) -> &Window {
        &self.runs[&holder][number].window
    }

    /// Returns the figures beside the running limit.
    pub fn usage(&self, holder: Holder, clock: Timestamp) -> Usage {
        let now = self.now.max(clock);
        let runs = self.runs.get(&holder).map_or(&[][..], |runs| runs);
        let Some(number) = runs.len().checked_sub(1).filter(|last| now < runs[*last].window.to) else {
            return Usage::default();
        };
        let mut usage = Usage::default();
        for charged in self.charged.values() {
            let counted = charged.holders.iter().zip(charged.numbers).any(|of| of == (&holder, number));
            if counted {
                charged.count(&mut usage);
            }
        }
        usage.accepted += self.raised_in(holder, number);
        usage
    }

    pub fn change(&mut self, holder: Holder, limit: &Limit) {
        let before = self.rules.limits.insert(holder, limit.clone());
        if before.as_ref() == Some(limit) || !self.stands(holder) {
            return;
        }
        self.apply(holder, limit);
        let recurring = self.rules.top_up(holder).cloned();
        self.catch_up(holder, recurring.as_ref(), &before.unwrap_or(limit.clone()).calendar);
    }

    fn stands(&self, holder: Holder) -> bool {
        holder != account() || !self.rules.removed
    }

    /// Applies a limit from now on, in its own period.
    fn apply(&mut self, holder: Holder, limit: &Limit) {
        let now = self.now;
        let runs = self.runs.entry(holder).or_default();
        let next = Running { begun: now, ..Self::next(limit, None, now) };
        match runs.last_mut() {
            Some(last) if last.calendar != limit.calendar && last.begun == now => *last = next,
            Some(last) if last.calendar != limit.calendar => {
                last.window.to = last.window.to.min(now);
                runs.push(next);
            }
            Some(last) if now < last.window.to => last.granted = limit.credits,
            Some(_) | None => {
                self.number(holder);
            }
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

    /// Removes the account, or restores it with what it had.
    pub fn remove(&mut self, removed: bool) {
        let returns = self.rules.removed && !removed;
        if removed && !self.rules.removed {
            self.number(account());
            let (rule, calendar) =
                (self.rules.top_up(account()).cloned(), self.rules.limits[&account()].calendar.clone());
            self.catch_up(account(), rule.as_ref(), &calendar);
        }
        self.rules.removed = removed;
        if returns {
            let limit = self.rules.limits[&account()].clone();
            self.apply(account(), &limit);
            let wanted = self.rules.prepaid.get(&account());
            let stock = self.stocks.entry(account()).or_default();
            stock.replace(None, wanted, &limit.calendar, self.now);
        }
    }

    /// Returns a holder's prepaid credits, as a status shows them.
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

    pub fn reserve(&mut self, message: usize, asked: Asked, epoch: i64) -> Verdict {
        let (key_number, credits) = (asked.key, i64::from(asked.credits));
        if self.charged.contains_key(&message) {
            return Verdict::Reserved;
        }
        if let Some(blocked) = self.blocked(key_number) {
            return Verdict::Blocked(blocked);
        }
        if let Some(verdict) = asked.print.and_then(|print| self.copy(message, print, key_number, epoch)) {
            return verdict;
        }
        let holders = [key(key_number), account(), policy(self.rules.policy)];
        let numbers = holders.map(|holder| self.number(holder));
        for holder in &holders[1..] {
            let (rule, calendar) = (self.rules.top_up(*holder).cloned(), self.rules.limits[holder].calendar.clone());
            self.catch_up(*holder, rule.as_ref(), &calendar);
        }
        let leaks = match self.pour(key(key_number)) {
            Ok(leaks) => leaks,
            Err(too_fast) => return too_fast,
        };
        if let Some(short) = self.short(holders, credits, epoch) {
            return short;
        }
        self.leaks.extend(leaks);
        let mut buckets = vec![];
        for holder in &holders[1..] {
            if self.rules.prepaid.contains_key(holder) {
                let taken = self.stocks.entry(*holder).or_default().take(credits, self.now);
                buckets.extend(taken.into_iter().map(|(index, some)| (*holder, index, some)));
            }
        }
        let (at, money) = (self.now, credits * self.rules.price());
        let (outcome, settled_at, corrected) = (None, self.now, false);
        let charged = Charged { credits, at, epoch, holders, numbers, buckets, money, outcome, settled_at, corrected };
        self.charged.insert(message, charged);
        Verdict::Reserved
    }

    fn copy(&mut self, message: usize, print: u8, key_number: u128, epoch: i64) -> Option<Verdict> {
        let outcome = |message| self.charged.get(&message).and_then(|charged| charged.outcome);
        Some(match self.dedup.look(message, print, (self.now, epoch), outcome)? {
            CopyAnswer::Relayed(earlier) => {
                self.dedup.answer(earlier, message);
                Verdict::Relayed(id(earlier))
            }
            CopyAnswer::Resumed(earlier) => Verdict::Resumed(id(earlier)),
            CopyAnswer::UnderWay(earlier) => Verdict::UnderWay(id(earlier)),
            CopyAnswer::WouldResume(earlier) => match self.pour(key(key_number)) {
                Err(too_fast) => too_fast,
                Ok(leaks) => {
                    self.leaks.extend(leaks);
                    self.dedup.carry(earlier, message, epoch);
                    Verdict::Resumed(id(earlier))
                }
            },
        })
    }

    pub fn settle(&mut self, message: usize, outcome: Outcome) {
        let Some(charged) = self.charged.get_mut(&message) else { return };
        let corrects = charged.outcome == Some(Outcome::Unknown) && !charged.corrected && outcome != Outcome::Unknown;
        if charged.outcome.is_some() && !corrects {
            return;
        }
        (charged.outcome, charged.corrected, charged.settled_at) = (Some(outcome), corrects, self.now);
        if !charged.counts() {
            self.given_back.pour(self.judged);
            for holder in &charged.holders[..2] {
                let leak = self.leaks.get_mut(holder).zip(self.rules.rates.get(holder));
                if let Some((leak, rate)) = leak {
                    leak.give_back(self.returned.entry(*holder).or_default(), *rate, charged.at, self.judged);
                }
            }
            for (holder, index, some) in &charged.buckets {
                self.stocks.entry(*holder).or_default().buckets[*index].consumed -= some;
            }
        }
    }

    /// Settles a message that has to do with copies, by a session of this epoch.
    pub fn tell(&mut self, message: usize, print: u8, outcome: Outcome, told: CopyEvent, epoch: i64) {
        self.settle(message, outcome);
        match told {
            CopyEvent::ComeAgain { ended } => {
                self.dedup.keep((message, print), ended, (self.now, kept_within(print)), epoch);
            }
            CopyEvent::StoodIn { heard } => {
                if let Some(earlier) = self.dedup.stood_in(message, print, outcome, heard) {
                    self.settle(earlier, Outcome::Relayed);
                }
            }
        }
    }

    /// Makes open messages of sessions before `epoch` unknown. Returns how many.
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

/// A message as its client asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub key: u128,
    pub credits: u32,
    /// Its fingerprint, if it has one.
    pub print: Option<u8>,
}

pub fn id(number: usize) -> MessageId {
    MessageId(Uuid::from_u128(number as u128 + 1))
}

/// Returns how long a fingerprint is kept. Some have nothing that tells two messages apart.
pub fn kept_within(print: u8) -> SignedDuration {
    if print == 0 { FINGERPRINT_KEPT_UNMARKED } else { FINGERPRINT_KEPT }
}

impl Charged {
    fn count(&self, usage: &mut Usage) {
        let credits = self.credits;
        if self.counts() {
            usage.messages += 1;
            usage.accepted += credits;
        }
        match self.outcome {
            Some(Outcome::Relayed) => {
                usage.relayed += credits;
                usage.last_sent_at = usage.last_sent_at.max(Some(self.settled_at));
            }
            Some(Outcome::Refused) => usage.refused += credits,
            Some(Outcome::NotOffered) => usage.not_offered += credits,
            Some(Outcome::Unknown) => usage.unknown += credits,
            None => {}
        }
    }
}
