//! Decides when figures are worth a status write, and an Event.
//!
//! A change of phase or of a limit is written at once; every other change once per [`Slot`], which all objects of a
//! policy share, so that a policy, its accounts and their keys show the same mail.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::Timestamp;

use super::EventNote;
use super::figures::{Figures, Phase};
use super::gauge::Gauge;
use crate::crd::Reason;

/// Seconds between two writes of figures that changed within their phase: a minute, less the time for queue and write.
const SLOT_SECONDS: i64 = 50;

/// The interval in which figures that changed within their phase are written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub start: Timestamp,
    pub end: Timestamp,
}

impl Slot {
    /// Returns the slot at `now` for a policy and all that belongs to it. Each policy's slots begin at another second,
    /// so that not all policies write in the same one.
    pub fn of(policy: &str, now: Timestamp) -> Self {
        let mut hasher = DefaultHasher::new();
        policy.hash(&mut hasher);
        let offset = i64::try_from(hasher.finish() % SLOT_SECONDS.unsigned_abs()).unwrap_or(0);
        let start = now.as_second() - (now.as_second() - offset).rem_euclid(SLOT_SECONDS);
        let at = |second| Timestamp::from_second(second).unwrap_or(now);
        Self { start: at(start), end: at(start + SLOT_SECONDS) }
    }
}

/// The time at which fresh figures are to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The phase or the limit changed, or nothing has been written yet.
    AtOnce,
    /// They changed and were not written in this slot, or they belong to another period.
    Now,
    /// They changed; write them no earlier than this.
    From(Timestamp),
    /// They equal the shown figures.
    No,
}

pub fn due(shown: Option<(&Figures, Timestamp)>, fresh: &Figures, slot: Slot, now: Timestamp) -> Due {
    let Some((shown, written_at)) = shown else { return Due::AtOnce };
    if shown.outdated_by(fresh) {
        return Due::AtOnce;
    }
    // All periods end at midnight: figures that merely restart wait behind those that open again.
    if shown.start != fresh.start || shown.end != fresh.end {
        return Due::Now;
    }
    if !shown.differs_from(fresh) {
        return Due::No;
    }
    // A time in the future was written by a clock that ran ahead.
    if written_at < slot.start || written_at > now { Due::Now } else { Due::From(slot.end) }
}

/// A status with figures in it.
pub trait Metered: Clone + PartialEq {
    /// Returns the figures that it shows, and when they were read.
    fn shown(&self) -> Option<(Figures, Timestamp)>;
    /// Copies the figures, and the counts beside them, from another status.
    fn carry(&mut self, from: &Self);
}

/// Keeps the figures of `standing` in `next` if nothing else changed and no write was granted for figures alone;
/// otherwise keeps the fresh ones. If neither has figures, a change of the time alone is not written either.
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

/// Returns the Event when credits are exhausted, and when they are available again. An object that starts exhausted
/// gets none: it was written so.
pub fn news<S: Metered>(standing: Option<&S>, next: &S, gauge: Option<&Gauge>) -> Option<EventNote> {
    let (before, _) = standing?.shown()?;
    let (after, _) = next.shown()?;
    let open = |phase| match phase {
        Phase::Untouched | Phase::InUse => true,
        Phase::Beyond | Phase::Exhausted => false,
    };
    match (before.phase(), after.phase()) {
        (was, is) if was == is || (open(was) && open(is)) => None,
        (_, Phase::Exhausted) => {
            Some(EventNote { warning: true, reason: Reason::CreditsExhausted, note: gauge?.sentence_of_end() })
        }
        (_, Phase::Beyond) => {
            let note =
                "the pool is used up; mail is still sent, because spec.overage is Allow, and is counted separately";
            Some(EventNote { warning: true, reason: Reason::CreditsExhausted, note: note.to_owned() })
        }
        (_, Phase::Untouched | Phase::InUse) => {
            let note = match after.remaining {
                Some(remaining) => format!("credits are available again: {remaining}"),
                None => "credits are available again, without a limit".to_owned(),
            };
            Some(EventNote { warning: false, reason: Reason::CreditsAvailable, note })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::SpendStatus;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn figures(granted: Option<i64>, used: i64) -> Figures {
        let remaining = granted.map(|granted| (granted - used).max(0));
        let (prepaid, overage, spend) = (None, None, None);
        Figures { start: at(0), end: at(1_000_000), granted, used, remaining, left: remaining, prepaid, overage, spend }
    }

    fn paid(granted: Option<i64>, used: i64, prepaid: i64) -> Figures {
        let capped = figures(granted, used);
        let remaining = Some(capped.remaining.map_or(prepaid, |remaining| remaining.min(prepaid)));
        Figures { prepaid: Some(prepaid), remaining, left: remaining, ..capped }
    }

    const SLOT: Slot = Slot { start: Timestamp::constant(100, 0), end: Timestamp::constant(150, 0) };

    #[test]
    fn a_write_is_due_by_phase_at_once_and_for_any_movement_in_the_next_slot() {
        let cases = [
            // granted, shown, fresh, written at, what
            (Some(1000), 0, 1, 120, Due::AtOnce),
            (Some(1000), 999, 1000, 120, Due::AtOnce),
            (Some(1000), 1000, 999, 120, Due::AtOnce),
            (Some(1000), 100, 100, 1, Due::No),
            (Some(100_000), 100, 101, 100, Due::From(at(150))),
            (Some(100_000), 100, 101, 99, Due::Now),
            (Some(100_000), 101, 100, 99, Due::Now),
            (Some(0), 0, 0, 1, Due::No),
            (None, 100_000, 100_001, 110, Due::From(at(150))),
            (None, 100_000, 100_001, 99, Due::Now),
            // Written by a clock that ran ahead.
            (None, 100_000, 100_001, 5000, Due::Now),
        ];
        for (granted, shown, fresh, written, expected) in cases {
            let shown = figures(granted, shown);
            let found = due(Some((&shown, at(written))), &figures(granted, fresh), SLOT, at(130));
            assert_eq!(found, expected, "{granted:?} {shown:?} {fresh} written at {written}");
        }
    }

    #[test]
    fn whatever_moves_is_due_within_a_minute_and_with_all_of_its_policy() {
        for second in 0..200 {
            let (now, [plan, other]) = (at(second), ["plan", "other"].map(|policy| Slot::of(policy, at(second))));
            assert!(plan.start <= now && now < plan.end && plan.end.as_second() - second < 60, "{plan:?} at {second}");
            assert_ne!(plan.start, other.start, "two policies do not write in the same second");
        }
        // A key, its account and its policy were last written at different times in the slot.
        let together = [100, 117, 130]
            .map(|written| due(Some((&figures(None, 5), at(written))), &figures(None, 6), SLOT, at(131)));
        assert_eq!(together, [Due::From(at(150)); 3]);
    }

    #[test]
    fn what_others_leave_a_key_is_written_where_it_matters() {
        let shown = Figures { left: Some(1000), ..figures(None, 5) };
        let left = |shown: Option<i64>, fresh| {
            let figures = |left| Figures { left, ..figures(None, 5) };
            due(Some((&figures(shown), at(0))), &figures(fresh), SLOT, at(130)) == Due::Now
        };
        assert!(!left(Some(1000), Some(991)) && left(Some(1000), Some(990)));
        assert!(left(Some(1), Some(0)) && left(Some(0), Some(1)) && left(Some(1), None) && left(None, Some(1)));
        // It sent itself, so the figure is exact.
        let sent = Figures { used: 6, left: Some(999), ..shown.clone() };
        assert_eq!(due(Some((&shown, at(0))), &sent, SLOT, at(130)), Due::Now);
    }

    #[test]
    fn a_new_phase_a_new_limit_and_a_first_look_are_due_before_a_new_period() {
        let shown = figures(Some(10), 5);
        let next = Figures { start: at(1_000_000), end: at(2_000_000), ..shown.clone() };
        assert_eq!(due(Some((&shown, at(0))), &next, SLOT, at(130)), Due::Now);
        let opened = Figures { used: 0, remaining: Some(10), left: Some(10), ..next };
        for fresh in [opened, figures(Some(20), 5), figures(None, 5)] {
            assert_eq!(due(Some((&shown, at(0))), &fresh, SLOT, at(130)), Due::AtOnce);
        }
        assert_eq!(due(None, &shown, SLOT, at(130)), Due::AtOnce);
    }

    #[test]
    fn prepaid_credits_and_money_are_figures_like_the_cap() {
        let at_once =
            |shown: &Figures, fresh: &Figures| due(Some((shown, at(120))), fresh, SLOT, at(130)) == Due::AtOnce;
        assert!(at_once(&paid(None, 9, 1), &paid(None, 10, 0)), "used up");
        assert!(at_once(&paid(None, 10, 0), &paid(None, 10, 5)), "opened by a grant");
        assert!(at_once(&figures(None, 10), &paid(None, 10, 5)), "prepaid from now on");
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
