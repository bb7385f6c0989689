//! Prepaid balances: the order in which lots are used up, and the top-ups that are due.

use jiff::Timestamp;

use super::{Lot, TopUp, Topped};
use crate::domain::period::{Calendar, Window};

/// Maximum periods that are caught up at once: ten years of days. After a longer pause the next message adds the rest.
const CATCH_UP_MAX: u64 = 3_660;

/// Sorts lots into the order of use: earliest expiry first, then the oldest.
pub fn in_order_of_use(lots: &mut [Lot]) {
    lots.sort_by_key(|lot| (lot.window.to, lot.id));
}

impl Topped {
    /// Returns the start of a rule that comes into force now: it adds the whole current period (or that of its start),
    /// unless that was added already, and none before. A rule that has ended adds nothing.
    pub fn begin(rule: &TopUp, calendar: &Calendar, before: Option<Self>, now: Timestamp) -> Self {
        let first = calendar.with_period(rule.every).window(rule.start.map_or(now, |start| start.max(now)));
        let until = if rule.end.is_some_and(|end| end <= now) { first.to } else { first.from };
        match before {
            None => Self { total: 0, until },
            Some(before) => Self { until: before.until.max(until), ..before },
        }
    }
}

/// Returns the time of the next top-up; `None` if the rule adds no more.
pub fn next_top_up(rule: &TopUp, topped: Topped) -> Option<Timestamp> {
    let at = rule.start.map_or(topped.until, |start| start.max(topped.until));
    rule.end.is_none_or(|end| at < end).then_some(at)
}

/// The result of [`top_up`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    pub periods: u64,
    pub credits: i64,
}

/// Adds the credits that are due by `now`, each period once, missed ones too. `calendar` is that of the holder's limit.
///
/// After a change of the calendar, adding continues where the last added period ends, and the first part of a period
/// adds in proportion, so no edit adds twice.
pub fn top_up(rule: &TopUp, calendar: &Calendar, lot: &mut Lot, now: Timestamp) -> Added {
    let calendar = calendar.with_period(rule.every);
    let mut added = Added::default();
    let Some(mut topped) = lot.topped else { return added };
    while let Some(at) = next_top_up(rule, topped).filter(|at| *at <= now && added.periods < CATCH_UP_MAX) {
        let period = calendar.window(at);
        let credits = share(rule.credits, &period, topped.until);
        topped = Topped { total: topped.total.saturating_add(credits), until: period.to };
        added = Added { periods: added.periods + 1, credits: added.credits.saturating_add(credits) };
    }
    if added.periods > 0 {
        lot.topped = Some(topped);
        lot.regrant(Some(topped.total));
    }
    added
}

/// Returns the credits of a period whose part before `until` was added already, rounded down.
fn share(credits: i64, period: &Window, until: Timestamp) -> i64 {
    let whole = period.to.as_second() - period.from.as_second();
    let part = period.to.as_second() - period.from.max(until).as_second();
    // 128 bits: a trillion credits times a month of seconds passes 64.
    let share = i128::from(credits) * i128::from(part) / i128::from(whole.max(1));
    i64::try_from(share).unwrap_or(credits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credit::{LotId, Source};
    use crate::domain::id::{AccountId, Holder};
    use crate::domain::period::Period;
    use uuid::Uuid;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    fn holder() -> Holder {
        Holder::Account(AccountId(Uuid::nil()))
    }

    fn rule(every: Period, start: Option<&str>, end: Option<&str>) -> TopUp {
        TopUp { credits: 100, every, start: start.map(at), end: end.map(at) }
    }

    fn begun(rule: &TopUp, calendar: &Calendar, now: &str) -> Lot {
        let topped = Some(Topped::begin(rule, calendar, None, at(now)));
        Lot { topped, ..Lot::of_source(holder(), Source::TopUp, Some(0), None) }
    }

    #[test]
    fn each_period_is_added_once_from_the_first_seen_until_the_end() {
        let utc = Calendar::monthly_utc();
        // every, start, end, the time it was written, and the total added by each moment
        type Case<'a> = (Period, Option<&'a str>, Option<&'a str>, &'a str, &'a [(&'a str, i64)]);
        let cases: [Case<'_>; 6] = [
            // The running period counts in full; those before it do not.
            (
                Period::Monthly,
                None,
                None,
                "2026-11-20T10:00:00Z",
                &[
                    ("2026-11-20T10:00:00Z", 100),
                    ("2026-11-30T23:59:59Z", 100),
                    ("2026-12-01T00:00:00Z", 200),
                    // Missed ones are caught up.
                    ("2027-03-05T00:00:00Z", 500),
                ],
            ),
            (
                Period::Monthly,
                Some("2025-01-01T00:00:00Z"),
                None,
                "2026-11-20T10:00:00Z",
                &[("2026-11-20T10:00:00Z", 100)],
            ),
            // At the start, not at the beginning of its period.
            (
                Period::Weekly,
                Some("2026-12-03T12:00:00Z"),
                None,
                "2026-11-20T10:00:00Z",
                &[("2026-12-03T11:59:59Z", 0), ("2026-12-03T12:00:00Z", 100), ("2026-12-07T00:00:00Z", 200)],
            ),
            (
                Period::Daily,
                None,
                Some("2026-11-22T00:00:00Z"),
                "2026-11-20T10:00:00Z",
                &[("2026-11-20T10:00:00Z", 100), ("2026-11-21T00:00:00Z", 200), ("2026-11-29T00:00:00Z", 200)],
            ),
            (
                Period::Monthly,
                None,
                Some("2026-11-19T00:00:00Z"),
                "2026-11-20T10:00:00Z",
                &[("2026-12-20T10:00:00Z", 0)],
            ),
            (Period::Daily, None, None, "2026-11-20T10:00:00Z", &[("2046-11-20T10:00:00Z", 366_000)]),
        ];
        for (every, start, end, written, expected) in cases {
            let rule = rule(every, start, end);
            let mut lot = begun(&rule, &utc, written);
            for (now, total) in expected {
                top_up(&rule, &utc, &mut lot, at(now));
                assert_eq!(lot.granted, Some(*total), "{rule:?} at {now}");
                assert_eq!(top_up(&rule, &utc, &mut lot.clone(), at(written)), Added::default());
            }
        }
    }

    #[test]
    fn no_edit_of_the_calendar_adds_twice() {
        let utc = Calendar::monthly_utc();
        let daily = rule(Period::Daily, None, None);
        let mut lot = begun(&daily, &utc, "2026-11-20T10:00:00Z");
        top_up(&daily, &utc, &mut lot, at("2026-11-20T10:00:00Z"));
        let monthly = rule(Period::Monthly, None, None);
        assert_eq!(top_up(&monthly, &utc, &mut lot, at("2026-11-20T23:00:00Z")), Added::default());
        // Ten of November's thirty days.
        assert_eq!(top_up(&monthly, &utc, &mut lot, at("2026-11-21T00:00:00Z")), Added { periods: 1, credits: 33 });
        let kolkata = Calendar::new(Period::Monthly, 1, "Asia/Kolkata").expect("a calendar");
        assert_eq!(top_up(&monthly, &kolkata, &mut lot, at("2026-11-30T20:00:00Z")), Added::default());
        assert_eq!(top_up(&monthly, &kolkata, &mut lot, at("2026-12-01T00:00:00Z")), Added { periods: 1, credits: 99 });
    }

    #[test]
    fn a_rule_that_returns_adds_nothing_for_its_absence_nor_for_what_was_added() {
        let utc = Calendar::monthly_utc();
        let rule = rule(Period::Monthly, None, None);
        let mut lot = begun(&rule, &utc, "2026-11-20T10:00:00Z");
        top_up(&rule, &utc, &mut lot, at("2026-11-20T10:00:00Z"));
        for (now, total) in [("2026-11-25T00:00:00Z", 100), ("2027-02-25T00:00:00Z", 200)] {
            lot.topped = Some(Topped::begin(&rule, &utc, lot.topped, at(now)));
            top_up(&rule, &utc, &mut lot, at(now));
            assert_eq!(lot.granted, Some(total), "{now}");
        }
    }

    #[test]
    fn lots_are_used_by_expiry_then_age() {
        let lot = |id: i64, expires_at: Option<&str>| {
            let source = Source::Grant(id.to_string());
            Lot { id: LotId(id), ..Lot::of_source(holder(), source, Some(1), expires_at.map(at)) }
        };
        let mut lots = [
            lot(1, None),
            lot(2, Some("2027-01-01T00:00:00Z")),
            lot(4, Some("2026-12-01T00:00:00Z")),
            lot(3, Some("2026-12-01T00:00:00Z")),
        ];
        in_order_of_use(&mut lots);
        assert_eq!(lots.map(|lot| lot.id.0), [3, 4, 2, 1]);
    }
}
