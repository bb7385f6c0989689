//! When figures are worth a write to a status.
//!
//! A change of phase at once; else when they moved by 1 % of the allowance and a minute passed; where nothing limits,
//! 10 % of what was used and a quarter of an hour. Exact figures come from the metrics.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::crd::{CreditStatus, PeriodStatus, PoolCreditStatus, UsageStatus};
use crate::domain::credit::{Limit, Lot};
use crate::ledger::store::{Balance, Usage};

/// The least time between two writes for figures that moved within their phase.
const CAPPED_INTERVAL: SignedDuration = SignedDuration::from_secs(60);
const UNCAPPED_INTERVAL: SignedDuration = SignedDuration::from_mins(15);
/// Parts of the allowance, or of what was used, that a movement must reach.
const CAPPED_PART: i64 = 100;
const UNCAPPED_PART: i64 = 10;

/// The figures that a status shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    pub start: Timestamp,
    pub end: Timestamp,
    pub granted: Option<i64>,
    pub used: i64,
}

/// What a reader would act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Untouched,
    InUse,
    Exhausted,
}

impl Figures {
    pub fn shown(period: &PeriodStatus, granted: Option<i64>, used: i64) -> Self {
        Self { start: period.start.0, end: period.end.0, granted, used }
    }

    fn phase(&self) -> Phase {
        match self.granted {
            Some(granted) if self.used >= granted => Phase::Exhausted,
            Some(_) | None if self.used == 0 => Phase::Untouched,
            Some(_) | None => Phase::InUse,
        }
    }
}

/// Whether fresh figures are to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The phase or the limit changed, or nothing was ever written.
    AtOnce,
    /// They moved far enough and long enough ago, or are another period's.
    Now,
    /// They moved far enough; not before this.
    From(Timestamp),
    /// They did not move far enough to say so.
    No,
}

pub fn due(shown: Option<(&Figures, Timestamp)>, fresh: &Figures, now: Timestamp) -> Due {
    let Some((shown, written_at)) = shown else { return Due::AtOnce };
    if shown.granted != fresh.granted || shown.phase() != fresh.phase() {
        return Due::AtOnce;
    }
    // Everybody's period ends at midnight: what merely starts anew waits behind what opens again.
    if shown.start != fresh.start || shown.end != fresh.end {
        return Due::Now;
    }
    let moved = (fresh.used - shown.used).abs();
    let (enough, interval) = match fresh.granted {
        Some(granted) => ((granted / CAPPED_PART).max(1), CAPPED_INTERVAL),
        None => ((shown.used / UNCAPPED_PART).max(1), UNCAPPED_INTERVAL),
    };
    if moved < enough {
        return Due::No;
    }
    match written_at.checked_add(interval) {
        Ok(from) if now < from => Due::From(from),
        Ok(_) | Err(_) => Due::Now,
    }
}

/// Times on the wire have whole seconds; a finer one would differ from what is read back.
pub fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// A holder's figures with what became of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauge {
    pub figures: Figures,
    usage: Usage,
}

impl Gauge {
    pub fn of(balance: &Balance) -> Self {
        let Lot { window, granted, consumed, .. } = &balance.lot;
        let figures =
            Figures { start: second(window.from), end: second(window.to), granted: *granted, used: *consumed };
        Self { figures, usage: balance.usage }
    }

    /// What will be read of a holder that is about to be made.
    pub fn untouched(limit: &Limit, now: Timestamp) -> Self {
        let window = limit.calendar.window(now);
        let figures = Figures { start: second(window.from), end: second(window.to), granted: limit.credits, used: 0 };
        Self { figures, usage: Usage::default() }
    }

    /// The same with a limit that is about to hold.
    pub fn regranted(mut self, granted: Option<i64>) -> Self {
        self.figures.granted = granted;
        self
    }

    pub fn period(&self) -> PeriodStatus {
        PeriodStatus { start: Time(self.figures.start), end: Time(self.figures.end) }
    }

    fn remaining(&self) -> Option<i64> {
        self.figures.granted.map(|granted| (granted - self.figures.used).max(0))
    }

    pub fn usage(&self) -> UsageStatus {
        UsageStatus {
            period: self.period(),
            accepted: self.usage.accepted,
            relayed: self.usage.relayed,
            refused: self.usage.refused,
            unknown: self.usage.unknown,
            last_sent_at: self.last_sent_at().map(Time),
        }
    }

    pub fn last_sent_at(&self) -> Option<Timestamp> {
        self.usage.last_sent_at.map(second)
    }

    pub fn credits(&self) -> CreditStatus {
        CreditStatus {
            cap: self.figures.granted,
            used: self.figures.used,
            remaining: self.remaining(),
            reopens_at: self.figures.granted.map(|_| Time(self.figures.end)),
        }
    }

    pub fn pool(&self) -> PoolCreditStatus {
        PoolCreditStatus { granted: self.figures.granted, used: self.figures.used, remaining: self.remaining() }
    }
}

/// A status with figures in it.
pub trait Metered: Clone + PartialEq {
    /// The figures that it shows, and when they were read.
    fn shown(&self) -> Option<(Figures, Timestamp)>;
    /// Takes the figures, and the counts beside them, from another status.
    fn carry(&mut self, from: &Self);
}

/// Gives `next` the figures of `standing` where nothing else changed and no write was granted for figures alone; else
/// the fresh ones that are in it. Where neither has figures, the time alone is no news either.
pub fn settle<S: Metered>(next: S, standing: Option<&S>, granted: bool) -> S {
    let Some(standing) = standing.filter(|_| !granted) else { return next };
    let limit = |status: &S| status.shown().map(|(figures, _)| figures.granted);
    if limit(&next) != limit(standing) {
        return next;
    }
    let mut carried = next.clone();
    carried.carry(standing);
    if carried == *standing { carried } else { next }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn figures(granted: Option<i64>, used: i64) -> Figures {
        Figures { start: at(0), end: at(1_000_000), granted, used }
    }

    #[test]
    fn a_write_is_due_by_phase_then_by_movement_and_time() {
        let cases = [
            // granted, shown, fresh, seconds since, what
            (Some(1000), 0, 1, 1, Due::AtOnce),
            (Some(1000), 999, 1000, 1, Due::AtOnce),
            (Some(1000), 1000, 999, 1, Due::AtOnce),
            (Some(1000), 100, 109, 600, Due::No),
            (Some(1000), 100, 110, 59, Due::From(at(160))),
            (Some(1000), 100, 110, 60, Due::Now),
            (Some(1000), 110, 100, 60, Due::Now),
            (Some(10), 1, 2, 60, Due::Now),
            (Some(0), 0, 0, 600, Due::No),
            (None, 100, 109, 6000, Due::No),
            (None, 100, 110, 60, Due::From(at(1000))),
            (None, 100, 110, 900, Due::Now),
        ];
        for (granted, shown, fresh, seconds, expected) in cases {
            let shown = figures(granted, shown);
            let found = due(Some((&shown, at(100))), &figures(granted, fresh), at(100 + seconds));
            assert_eq!(found, expected, "{granted:?} {shown:?} {fresh} after {seconds} s");
        }
    }

    #[test]
    fn a_new_phase_a_new_limit_and_a_first_look_are_due_before_a_new_period() {
        let shown = figures(Some(10), 5);
        let next = Figures { start: at(1_000_000), end: at(2_000_000), ..shown.clone() };
        assert_eq!(due(Some((&shown, at(0))), &next, at(1)), Due::Now);
        let opened = Figures { used: 0, ..next };
        for fresh in [opened, figures(Some(20), 5), figures(None, 5)] {
            assert_eq!(due(Some((&shown, at(0))), &fresh, at(1)), Due::AtOnce);
        }
        assert_eq!(due(None, &shown, at(1)), Due::AtOnce);
    }
}
