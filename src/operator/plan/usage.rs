//! When figures are worth a write to a status, and an Event.
//!
//! A change of phase at once; else when they moved by 1 % of the allowance and a minute passed; where nothing limits,
//! 10 % of what was used and a quarter of an hour. Exact figures come from the metrics.

use jiff::{SignedDuration, Timestamp};

use super::Notice;
use super::gauge::Gauge;
use crate::crd::{CreditStatus, PeriodStatus, PoolCreditStatus, Reason, SpendStatus};

/// The least time between two writes for figures that moved within their phase.
const CAPPED_INTERVAL: SignedDuration = SignedDuration::from_secs(60);
const UNCAPPED_INTERVAL: SignedDuration = SignedDuration::from_mins(15);
/// Parts of the allowance, or of what was used, that a movement must reach.
const CAPPED_PART: i64 = 100;
const UNCAPPED_PART: i64 = 10;

/// The figures that a status shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Since when messages are counted: the beginning of the period, or the moment in it at which its limit began.
    pub start: Timestamp,
    pub end: Timestamp,
    /// Of the period's limit.
    pub granted: Option<i64>,
    /// In the whole period, overage included.
    pub used: i64,
    /// The least of all that limits the holder.
    pub remaining: Option<i64>,
    /// What is left of prepaid credits; `None`: not prepaid.
    pub prepaid: Option<i64>,
    /// Of a policy whose pool may be exceeded.
    pub overage: Option<i64>,
    /// Of an account with a spend limit.
    pub spend: Option<SpendStatus>,
}

/// What a reader would act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Untouched,
    InUse,
    /// The pool is used up, and messages go on.
    Beyond,
    Exhausted,
}

impl Figures {
    /// Those of a key's or an account's status.
    pub fn of_credits(period: &PeriodStatus, credits: &CreditStatus, spend: Option<SpendStatus>) -> Self {
        Self {
            start: period.start.0,
            end: period.end.0,
            granted: credits.cap,
            used: credits.used,
            remaining: credits.remaining,
            prepaid: credits.prepaid,
            overage: None,
            spend,
        }
    }

    /// Those of a policy's status.
    pub fn of_pool(period: &PeriodStatus, credits: &PoolCreditStatus) -> Self {
        Self {
            start: period.start.0,
            end: period.end.0,
            granted: credits.granted,
            used: credits.used,
            remaining: credits.remaining,
            prepaid: credits.prepaid,
            overage: credits.overage,
            spend: None,
        }
    }

    /// Says whether nothing more is sent before something opens.
    pub fn is_exhausted(&self) -> bool {
        self.phase() == Phase::Exhausted
    }

    fn phase(&self) -> Phase {
        match (self.remaining, self.overage) {
            // Overage goes beyond the pool and not beyond what was paid.
            (Some(0), Some(_)) if self.prepaid != Some(0) => Phase::Beyond,
            (Some(0), Some(_) | None) => Phase::Exhausted,
            (Some(_) | None, Some(_) | None) if self.used == 0 => Phase::Untouched,
            (Some(_) | None, Some(_) | None) => Phase::InUse,
        }
    }

    /// Whether `fresh` figures are news that wait for nobody: another phase, or other limits.
    fn outdated_by(&self, fresh: &Self) -> bool {
        let limits = |figures: &Self| {
            let spend = figures.spend.map(|spend| spend.limit_minor);
            (figures.granted, figures.prepaid.is_some(), figures.overage.is_some(), spend)
        };
        limits(self) != limits(fresh) || self.phase() != fresh.phase()
    }

    /// How far `fresh` figures are from these, in credits.
    fn distance(&self, fresh: &Self) -> i64 {
        let left = |figures: &Self| figures.prepaid.unwrap_or(0);
        (fresh.used - self.used).abs().max((left(fresh) - left(self)).abs())
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
    if shown.outdated_by(fresh) {
        return Due::AtOnce;
    }
    // Everybody's period ends at midnight: what merely starts anew waits behind what opens again.
    if shown.start != fresh.start || shown.end != fresh.end {
        return Due::Now;
    }
    let (enough, interval) = match fresh.granted.or(shown.prepaid) {
        Some(allowance) => ((allowance / CAPPED_PART).max(1), CAPPED_INTERVAL),
        None => ((shown.used / UNCAPPED_PART).max(1), UNCAPPED_INTERVAL),
    };
    if shown.distance(fresh) < enough {
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
    let outdated = match (standing.shown(), next.shown()) {
        (Some((shown, _)), Some((fresh, _))) => shown.outdated_by(&fresh),
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    };
    if outdated {
        return next;
    }
    let mut carried = next.clone();
    carried.carry(standing);
    if carried == *standing { carried } else { next }
}

/// What people are told when credits are used up, and when they are there again. What begins used up is no news: it was
/// written so.
pub fn news<S: Metered>(standing: Option<&S>, next: &S, gauge: Option<&Gauge>) -> Option<Notice> {
    let (before, _) = standing?.shown()?;
    let (after, _) = next.shown()?;
    let open = |phase| match phase {
        Phase::Untouched | Phase::InUse => true,
        Phase::Beyond | Phase::Exhausted => false,
    };
    match (before.phase(), after.phase()) {
        (was, is) if was == is || (open(was) && open(is)) => None,
        (_, Phase::Exhausted) => {
            Some(Notice { warning: true, reason: Reason::CreditsExhausted, note: gauge?.sentence_of_end() })
        }
        (_, Phase::Beyond) => {
            let note = "the pool is used up; messages go on, because spec.overage says Allow, and are counted apart";
            Some(Notice { warning: true, reason: Reason::CreditsExhausted, note: note.to_owned() })
        }
        (_, Phase::Untouched | Phase::InUse) => {
            let note = match after.remaining {
                Some(remaining) => format!("credits are there again: {remaining}"),
                None => "credits are there again, without a limit".to_owned(),
            };
            Some(Notice { warning: false, reason: Reason::CreditsAvailable, note })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn figures(granted: Option<i64>, used: i64) -> Figures {
        let remaining = granted.map(|granted| (granted - used).max(0));
        let (prepaid, overage, spend) = (None, None, None);
        Figures { start: at(0), end: at(1_000_000), granted, used, remaining, prepaid, overage, spend }
    }

    fn paid(granted: Option<i64>, used: i64, prepaid: i64) -> Figures {
        let capped = figures(granted, used);
        let remaining = Some(capped.remaining.map_or(prepaid, |remaining| remaining.min(prepaid)));
        Figures { prepaid: Some(prepaid), remaining, ..capped }
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
        let opened = Figures { used: 0, remaining: Some(10), ..next };
        for fresh in [opened, figures(Some(20), 5), figures(None, 5)] {
            assert_eq!(due(Some((&shown, at(0))), &fresh, at(1)), Due::AtOnce);
        }
        assert_eq!(due(None, &shown, at(1)), Due::AtOnce);
    }

    #[test]
    fn prepaid_credits_and_money_are_figures_like_the_cap() {
        let at_once = |shown: &Figures, fresh: &Figures| due(Some((shown, at(0))), fresh, at(1)) == Due::AtOnce;
        assert!(at_once(&paid(None, 9, 1), &paid(None, 10, 0)), "used up");
        assert!(at_once(&paid(None, 10, 0), &paid(None, 10, 5)), "opened by a grant");
        assert!(at_once(&figures(None, 10), &paid(None, 10, 5)), "prepaid from now on");
        // Without a cap the prepaid credits are the allowance: 1 % of 500 is 5.
        for (left, expected) in [(496, Due::No), (495, Due::Now), (600, Due::Now)] {
            assert_eq!(due(Some((&paid(None, 10, 500), at(0))), &paid(None, 10, left), at(60)), expected, "{left}");
        }
        let spend = |limit_minor| Some(SpendStatus { limit_minor, used_minor: 3 });
        let spending = Figures { spend: spend(10), ..figures(None, 10) };
        assert!(at_once(&spending, &Figures { spend: spend(11), ..spending.clone() }));
        let exceedable = Figures { overage: Some(0), ..figures(Some(10), 5) };
        assert!(at_once(&figures(Some(10), 5), &exceedable), "the pool may be exceeded from now on");
        assert!(at_once(&exceedable, &figures(Some(10), 5)), "and not any more");
    }

    #[test]
    fn a_pool_that_may_be_exceeded_has_a_phase_of_its_own() {
        let pool = |used: i64, prepaid| Figures {
            overage: Some((used - 10).max(0)),
            prepaid,
            remaining: Some((10 - used).max(0).min(prepaid.unwrap_or(i64::MAX))),
            ..figures(Some(10), used)
        };
        let phases: Vec<Phase> = [pool(0, None), pool(9, None), pool(10, None), pool(12, None), pool(12, Some(0))]
            .iter()
            .map(Figures::phase)
            .collect();
        assert_eq!(phases, [Phase::Untouched, Phase::InUse, Phase::Beyond, Phase::Beyond, Phase::Exhausted]);
    }
}
