//! The model's prepaid balances and rates: plain numbers too.

use jiff::{SignedDuration, Timestamp};

use franking::domain::credit::{Prepaid, REFUSED_PER_HOUR, Rate, TopUp};
use franking::domain::period::Calendar;
use franking::ledger::store::PrepaidBalance;

/// The bucket of a grant, by its id, or of top-ups. Their order is their age.
#[derive(Clone, Debug)]
pub struct Bucket {
    grant: Option<String>,
    granted: i64,
    pub consumed: i64,
    expires_at: Option<Timestamp>,
    /// For top-ups: the sum of all that came, and until when.
    topped: (i64, Timestamp),
}

impl Bucket {
    fn left(&self) -> i64 {
        (self.granted - self.consumed).max(0)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Stock {
    pub buckets: Vec<Bucket>,
}

/// Returns when the next top-up comes after those until `until`.
fn next(rule: &TopUp, until: Timestamp) -> Option<Timestamp> {
    let at = rule.start.unwrap_or(until).max(until);
    if rule.end.is_some_and(|end| at >= end) { None } else { Some(at) }
}

impl Stock {
    fn top(&mut self) -> Option<&mut Bucket> {
        self.buckets.iter_mut().find(|bucket| bucket.grant.is_none())
    }

    /// Adds the top-ups that are due.
    pub fn catch_up(&mut self, rule: Option<&TopUp>, calendar: &Calendar, now: Timestamp) {
        let (Some(rule), Some(top)) = (rule, self.top()) else { return };
        let calendar = calendar.with_period(rule.every);
        while let Some(at) = next(rule, top.topped.1).filter(|at| *at <= now) {
            let period = calendar.window(at);
            let seconds = |from: Timestamp| period.to.as_second() - from.as_second();
            // A period that began before the last one ended is a part of one.
            let part = seconds(period.from.max(top.topped.1));
            let came = (i128::from(rule.credits) * i128::from(part) / i128::from(seconds(period.from))) as i64;
            top.topped = (top.topped.0 + came, period.to);
            top.granted = top.topped.0;
        }
    }

    /// Replaces the grants and the rule; `before` is the rule that held until now, if any did.
    pub fn replace(
        &mut self,
        before: Option<(&TopUp, &Calendar)>,
        wanted: Option<&Prepaid>,
        calendar: &Calendar,
        now: Timestamp,
    ) {
        let grants = wanted.map_or(&[][..], |wanted| &wanted.grants);
        for grant in grants {
            let known = self.buckets.iter_mut().find(|bucket| bucket.grant.as_ref() == Some(&grant.id));
            match known {
                Some(bucket) => (bucket.granted, bucket.expires_at) = (grant.credits, grant.expires_at),
                None => self.buckets.push(Bucket {
                    grant: Some(grant.id.clone()),
                    granted: grant.credits,
                    consumed: 0,
                    expires_at: grant.expires_at,
                    topped: (0, now),
                }),
            }
        }
        for bucket in &mut self.buckets {
            if bucket.grant.as_ref().is_some_and(|id| grants.iter().all(|grant| grant.id != *id)) {
                bucket.granted = 0;
            }
        }
        let rule = wanted.and_then(|wanted| wanted.recurring.as_ref());
        if let Some((before, calendar)) = before {
            self.catch_up(Some(before), calendar, now);
        }
        match rule {
            None => {
                if let Some(top) = self.top() {
                    top.granted = 0;
                }
            }
            Some(rule) => {
                if before.is_none() {
                    self.begin(rule, calendar, now);
                }
                self.catch_up(Some(rule), calendar, now);
            }
        }
    }

    /// Begins a rule. Its first period is that of this moment, or of its start, whole; none if it had ended.
    fn begin(&mut self, rule: &TopUp, calendar: &Calendar, now: Timestamp) {
        let first = calendar.with_period(rule.every).window(rule.start.unwrap_or(now).max(now));
        let until = if rule.end.is_some_and(|end| end <= now) { first.to } else { first.from };
        match self.top() {
            Some(top) => {
                top.topped.1 = top.topped.1.max(until);
                top.granted = top.topped.0;
            }
            None => {
                self.buckets.push(Bucket { grant: None, granted: 0, consumed: 0, expires_at: None, topped: (0, until) })
            }
        }
    }

    /// Returns the balance that a status shows.
    pub fn balance(&self, rule: Option<&TopUp>, now: Timestamp) -> PrepaidBalance {
        let usable = || self.buckets.iter().filter(|bucket| bucket.expires_at.is_none_or(|at| now < at));
        let top = self.buckets.iter().find(|bucket| bucket.grant.is_none());
        let left = usable().filter(|bucket| bucket.left() > 0);
        PrepaidBalance {
            granted: usable().map(|bucket| bucket.granted).sum(),
            remaining: usable().map(Bucket::left).sum(),
            next_top_up: rule.zip(top).and_then(|(rule, top)| next(rule, top.topped.1)),
            next_expiry: left.filter_map(|bucket| bucket.expires_at).min(),
        }
    }

    /// Takes available credits. Returns how many came from which bucket.
    pub fn take(&mut self, credits: i64, now: Timestamp) -> Vec<(usize, i64)> {
        let mut order: Vec<usize> = (0..self.buckets.len()).collect();
        order.sort_by_key(|index| self.buckets[*index].expires_at.unwrap_or(Timestamp::MAX));
        let mut taken = vec![];
        let mut needed = credits;
        for index in order {
            let bucket = &mut self.buckets[index];
            if bucket.expires_at.is_none_or(|at| now < at) {
                let some = bucket.left().min(needed);
                bucket.consumed += some;
                needed -= some;
                taken.push((index, some));
            }
        }
        assert_eq!(needed, 0, "the model took more than there is");
        taken
    }
}

/// Returns the credits that a rule's top-ups brought after a moment and until now.
pub fn came_between(rule: &TopUp, calendar: &Calendar, then: Timestamp, now: Timestamp) -> i64 {
    let mut stock = Stock::default();
    stock.begin(rule, calendar, then);
    stock.catch_up(Some(rule), calendar, then);
    let before = stock.buckets[0].granted;
    stock.catch_up(Some(rule), calendar, now);
    stock.buckets[0].granted - before
}

/// A leaky bucket: each message pours its interval in, and it runs out with time.
#[derive(Clone, Copy, Debug)]
pub struct Leak {
    level: SignedDuration,
    at: Timestamp,
}

impl Leak {
    /// Returns the bucket after one more message, or the time when one would fit.
    pub fn pour(before: Option<Self>, rate: Rate, now: Timestamp) -> Result<Self, Timestamp> {
        let micros = (u64::from(rate.per_seconds) * 1_000_000).div_ceil(u64::from(rate.messages)) as i64;
        let interval = SignedDuration::from_micros(micros);
        let room = interval * (rate.messages as i32 - 1);
        let level = before.map_or(SignedDuration::ZERO, |before| before.level - now.duration_since(before.at));
        let mut level = level.max(SignedDuration::ZERO);
        if level > room + interval {
            level = room;
        }
        if level <= room { Ok(Self { level: level + interval, at: now }) } else { Err(now + (level - room)) }
    }
}

impl Leak {
    /// Takes out what a message of `reserved_at` poured in, if that still keeps others out and `returned`, the bucket
    /// of returned messages, has room: as much as the rate has, and for two at least.
    pub fn give_back(&mut self, returned: &mut Option<Self>, rate: Rate, reserved_at: Timestamp, now: Timestamp) {
        let since = now.duration_since(reserved_at);
        // The time of charging is unknown for a message that seems to come from later.
        if since.is_negative() || since >= SignedDuration::from_secs(rate.per_seconds.into()) {
            return;
        }
        let room = Rate { messages: rate.messages.max(2), ..rate };
        if let Ok(more) = Self::pour(*returned, room, now) {
            *returned = Some(more);
            let micros = (u64::from(rate.per_seconds) * 1_000_000).div_ceil(u64::from(rate.messages)) as i64;
            self.level -= SignedDuration::from_micros(micros);
        }
    }
}

/// An account's refunded messages: a leaky bucket into which each message pours a thousandth of an hour.
#[derive(Clone, Copy, Debug, Default)]
pub struct GivenBack {
    level: SignedDuration,
    at: Timestamp,
}

const HOUR: SignedDuration = SignedDuration::from_hours(1);

impl GivenBack {
    fn level(&self, now: Timestamp) -> SignedDuration {
        (self.level - now.duration_since(self.at)).max(SignedDuration::ZERO)
    }

    pub fn pour(&mut self, now: Timestamp) {
        let more = SignedDuration::from_micros(3_600_000_000 / i64::from(REFUSED_PER_HOUR));
        *self = Self { level: (self.level(now) + more).min(HOUR * 2), at: now };
    }

    /// Returns the time until which the account is shut: when no more than an hour is left in it.
    pub fn shut_until(&self, now: Timestamp) -> Option<Timestamp> {
        let over = self.level(now) - HOUR;
        // A level that another clock wrote shuts no account.
        (over.is_positive() && over <= HOUR).then(|| now + over)
    }
}
