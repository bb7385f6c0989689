//! Periods: calendar identities in a time zone, and the instants at which they begin and end.
//!
//! The period of an instant is the one whose window contains it, so no job has to run at midnight. Days with a DST
//! change have 23 or 25 hours, because windows are made from civil dates and converted to instants once.

use std::fmt;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use smol_str::{SmolStr, ToSmolStr as _, format_smolstr};

/// The interval at which a limit opens again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Period {
    Daily,
    Weekly,
    Monthly,
}

/// A period in a time zone with an anchor.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "RawCalendar", into = "RawCalendar")]
pub struct Calendar {
    period: Period,
    anchor: u8,
    zone_name: String,
    zone: TimeZone,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCalendar {
    period: Period,
    anchor: u8,
    time_zone: String,
}

/// One period: `[from, to)` and its calendar identity ('2026-11', '2026-W47', '2026-11-21').
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Short enough to be stored inline, so that copying a lot allocates nothing.
    pub key: SmolStr,
    pub from: Timestamp,
    pub to: Timestamp,
}

impl Window {
    /// Returns the window of a lot without a calendar: it ends at `expires_at`, or never.
    pub fn always(expires_at: Option<Timestamp>) -> Self {
        Self { key: SmolStr::new_static("once"), from: Timestamp::MIN, to: expires_at.unwrap_or(Timestamp::MAX) }
    }
}

impl Calendar {
    /// Makes a calendar. `anchor` is the day of the month (1–31, clamped to the month's end) for Monthly, the ISO day
    /// of the week (1 = Monday … 7 = Sunday) for Weekly, and 1 for Daily. `time_zone` is an IANA name such as
    /// `Europe/Berlin`.
    pub fn new(period: Period, anchor: u8, time_zone: &str) -> Result<Self, String> {
        let last = match period {
            Period::Daily => 1,
            Period::Weekly => 7,
            Period::Monthly => 31,
        };
        if !(1..=last).contains(&anchor) {
            return Err(format!("anchor {anchor} does not fit a {period:?} period; use 1 to {last}"));
        }
        let zone = TimeZone::get(time_zone)
            .map_err(|_| format!("time zone \"{time_zone}\" is not known; use an IANA name such as Europe/Berlin"))?;
        Ok(Self { period, anchor, zone_name: time_zone.to_owned(), zone })
    }

    /// Returns the calendar month in UTC, the default where no calendar is given.
    pub fn monthly_utc() -> Self {
        Self { period: Period::Monthly, anchor: 1, zone_name: "UTC".to_owned(), zone: TimeZone::UTC }
    }

    pub fn period(&self) -> Period {
        self.period
    }

    pub fn time_zone(&self) -> &str {
        &self.zone_name
    }

    /// Returns the calendar with another period and the same time zone. The anchor stays if the period does; otherwise
    /// it becomes the first day, because a day of the month says nothing about weeks.
    pub fn with_period(&self, period: Period) -> Self {
        let anchor = if period == self.period { self.anchor } else { 1 };
        Self { period, anchor, ..self.clone() }
    }

    /// Returns the window that contains `at`.
    pub fn window(&self, at: Timestamp) -> Window {
        let today = at.to_zoned(self.zone.clone()).date();
        let start = self.start_on_or_before(today);
        let next = self.start_after(start);
        Window { key: self.key(start), from: self.instant(start), to: self.instant(next) }
    }

    /// Returns the calendar months by which a plan is billed: with the same anchor if this calendar is monthly, else
    /// from the first day.
    pub fn billing(&self) -> Self {
        self.with_period(Period::Monthly)
    }

    /// Returns the month with this name ('2026-11') by this calendar's anchor; `None` if it does not name a month.
    pub fn month(&self, key: &str) -> Option<Window> {
        let (year, month) = key.split_once('-')?;
        let date = Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?;
        let months = self.billing();
        let window = months.window(months.instant(months.anchored(date)));
        (window.key == key).then_some(window)
    }

    fn start_on_or_before(&self, date: Date) -> Date {
        match self.period {
            Period::Daily => date,
            Period::Weekly => {
                let anchor = Weekday::from_monday_one_offset(self.anchor as i8).unwrap_or(Weekday::Monday);
                let back = anchor.until(date.weekday());
                date.saturating_sub(Span::new().days(back))
            }
            Period::Monthly => {
                let this = self.anchored(date);
                if this <= date {
                    this
                } else {
                    self.anchored(date.first_of_month().saturating_sub(Span::new().days(1)))
                }
            }
        }
    }

    fn start_after(&self, start: Date) -> Date {
        match self.period {
            Period::Daily => start.saturating_add(Span::new().days(1)),
            Period::Weekly => start.saturating_add(Span::new().days(7)),
            Period::Monthly => self.anchored(start.last_of_month().saturating_add(Span::new().days(1))),
        }
    }

    /// Returns the anchor day in the month of `date`; 31 clamps to the month's end.
    fn anchored(&self, date: Date) -> Date {
        let last = date.last_of_month();
        let day = (self.anchor as i8).min(last.day());
        date.first_of_month().saturating_add(Span::new().days(i64::from(day) - 1))
    }

    /// Returns the first instant of a civil date. Where midnight does not exist (DST in some zones), it is the first
    /// instant that does.
    fn instant(&self, date: Date) -> Timestamp {
        date.to_zoned(self.zone.clone()).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
    }

    fn key(&self, start: Date) -> SmolStr {
        match self.period {
            Period::Daily => start.to_smolstr(),
            Period::Weekly => {
                let week = start.iso_week_date();
                format_smolstr!("{:04}-W{:02}", week.year(), week.week())
            }
            Period::Monthly => format_smolstr!("{:04}-{:02}", start.year(), start.month()),
        }
    }
}

impl TryFrom<RawCalendar> for Calendar {
    type Error = String;

    fn try_from(raw: RawCalendar) -> Result<Self, Self::Error> {
        Self::new(raw.period, raw.anchor, &raw.time_zone)
    }
}

impl From<Calendar> for RawCalendar {
    fn from(calendar: Calendar) -> Self {
        Self { period: calendar.period, anchor: calendar.anchor, time_zone: calendar.zone_name }
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{} {}", self.period, self.anchor, self.zone_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(period: Period, anchor: u8, zone: &str, at: &str) -> Window {
        let at = at.parse().expect("a timestamp");
        let window = Calendar::new(period, anchor, zone).expect("a calendar").window(at);
        assert!(window.from <= at && at < window.to, "{window:?} does not hold {at}");
        window
    }

    #[test]
    fn windows_have_calendar_identities() {
        let cases = [
            (
                Period::Daily,
                1,
                "UTC",
                "2026-11-21T23:59:59Z",
                "2026-11-21",
                "2026-11-21T00:00:00Z",
                "2026-11-22T00:00:00Z",
            ),
            (
                Period::Weekly,
                1,
                "UTC",
                "2026-11-22T10:00:00Z",
                "2026-W47",
                "2026-11-16T00:00:00Z",
                "2026-11-23T00:00:00Z",
            ),
            (
                Period::Weekly,
                7,
                "UTC",
                "2026-11-22T10:00:00Z",
                "2026-W47",
                "2026-11-22T00:00:00Z",
                "2026-11-29T00:00:00Z",
            ),
            (
                Period::Monthly,
                1,
                "Europe/Berlin",
                "2026-10-31T23:30:00Z",
                "2026-11",
                "2026-10-31T23:00:00Z",
                "2026-11-30T23:00:00Z",
            ),
            (
                Period::Monthly,
                31,
                "UTC",
                "2026-02-28T00:00:00Z",
                "2026-02",
                "2026-02-28T00:00:00Z",
                "2026-03-31T00:00:00Z",
            ),
            (
                Period::Monthly,
                31,
                "UTC",
                "2026-03-01T00:00:00Z",
                "2026-02",
                "2026-02-28T00:00:00Z",
                "2026-03-31T00:00:00Z",
            ),
            (
                Period::Monthly,
                15,
                "UTC",
                "2026-01-14T00:00:00Z",
                "2025-12",
                "2025-12-15T00:00:00Z",
                "2026-01-15T00:00:00Z",
            ),
        ];
        for (period, anchor, zone, at, key, from, to) in cases {
            let found = window(period, anchor, zone, at);
            assert_eq!(found.key, key);
            assert_eq!((found.from.to_string(), found.to.to_string()), (from.to_owned(), to.to_owned()));
        }
    }

    #[test]
    fn dst_days_have_23_and_25_hours() {
        let hours = |at| {
            let window = window(Period::Daily, 1, "Europe/Berlin", at);
            (window.to.as_second() - window.from.as_second()) / 3600
        };
        assert_eq!(hours("2026-03-29T10:00:00Z"), 23);
        assert_eq!(hours("2026-10-25T10:00:00Z"), 25);
    }

    #[test]
    fn windows_follow_each_other_without_gap() {
        for (period, anchor) in [(Period::Daily, 1), (Period::Weekly, 3), (Period::Monthly, 31), (Period::Monthly, 1)] {
            for zone in ["UTC", "Europe/Berlin", "America/Santiago", "Pacific/Apia"] {
                let calendar = Calendar::new(period, anchor, zone).expect("a calendar");
                let mut at: Timestamp = "2025-12-01T12:00:00Z".parse().expect("a timestamp");
                for _ in 0..400 {
                    let here = calendar.window(at);
                    let next = calendar.window(here.to);
                    assert_eq!(next.from, here.to, "{calendar:?}");
                    assert_ne!(next.key, here.key);
                    at = next.from;
                }
            }
        }
    }

    #[test]
    fn a_month_is_found_by_its_name() {
        for (anchor, zone) in [(1, "UTC"), (31, "UTC"), (15, "Europe/Berlin"), (1, "Asia/Kathmandu")] {
            let calendar = Calendar::new(Period::Monthly, anchor, zone).expect("a calendar");
            for at in ["2026-02-28T12:00:00Z", "2026-03-01T00:00:00Z", "2026-12-31T23:59:59Z"] {
                let window = calendar.window(at.parse().expect("a timestamp"));
                assert_eq!(calendar.month(&window.key), Some(window), "{calendar:?} {at}");
            }
        }
        for wrong in ["2026", "2026-13", "2026-00", "2026-W47", "2026-11-21", "2026-1", "", "now"] {
            assert_eq!(Calendar::monthly_utc().month(wrong), None, "{wrong}");
        }
        let weekly = Calendar::new(Period::Weekly, 5, "UTC").expect("a calendar");
        assert_eq!(weekly.billing(), Calendar::monthly_utc().with_period(Period::Monthly));
    }

    #[test]
    fn bad_anchors_and_zones_are_named() {
        assert!(Calendar::new(Period::Weekly, 8, "UTC").expect_err("anchor").contains("1 to 7"));
        assert!(Calendar::new(Period::Daily, 1, "Mars/Olympus").expect_err("zone").contains("Mars/Olympus"));
    }
}
