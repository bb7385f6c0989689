//! A holder's use by quarters of an hour, which a limit that begins within its period counts.

use jiff::{SignedDuration, Timestamp};

/// The grain of the history. Every time zone differs from UTC by whole quarters of an hour, so every period begins with
/// one. If one did not, the quarter in which it begins would count whole: rather too much than too little.
const QUARTER_MS: i64 = 15 * 60 * 1_000;
const QUARTERS: usize = 4;
pub const HOUR_MS: i64 = QUARTER_MS * QUARTERS as i64;

/// Time for which the history is kept: the longest period, a month of 31 days and an hour, and a day more for clocks.
pub const KEPT: SignedDuration = SignedDuration::from_hours(33 * 24);

/// Credits used in the quarters of one hour.
pub type Quarters = [i64; QUARTERS];

/// Returns the hour of an instant (unix milliseconds) and the number of its quarter, from 0.
pub fn place(at_ms: i64) -> (i64, usize) {
    let hour = at_ms.div_euclid(HOUR_MS) * HOUR_MS;
    (hour, usize::try_from((at_ms - hour) / QUARTER_MS).unwrap_or(0))
}

/// Returns the hours whose use bounds how much an account may have refused at an instant (unix milliseconds): its own
/// and the one before, so that the bound does not drop when an hour begins.
pub fn hours_of_refusals(at_ms: i64) -> [i64; 2] {
    let (hour, _) = place(at_ms);
    [hour, hour - HOUR_MS]
}

/// Returns the first instant (unix milliseconds) that counts for a period that begins at `from`.
pub fn first(from: Timestamp) -> i64 {
    from.as_millisecond().div_euclid(QUARTER_MS) * QUARTER_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::period::{Calendar, Period};

    #[test]
    fn periods_begin_with_a_quarter_in_every_zone() {
        let odd =
            ["Asia/Kathmandu", "Pacific/Chatham", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kolkata", "UTC"];
        for zone in odd {
            for (period, anchor) in [(Period::Daily, 1), (Period::Weekly, 3), (Period::Monthly, 31)] {
                let calendar = Calendar::new(period, anchor, zone).expect("a calendar");
                let mut at: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a timestamp");
                for _ in 0..400 {
                    let window = calendar.window(at);
                    assert_eq!(first(window.from), window.from.as_millisecond(), "{calendar:?}");
                    assert!(window.to.duration_since(window.from) < KEPT, "{calendar:?}");
                    at = window.to;
                }
            }
        }
    }

    #[test]
    fn an_instant_is_in_one_quarter() {
        for (ms, expected) in
            [(0, (0, 0)), (899_999, (0, 0)), (900_000, (0, 1)), (3_599_999, (0, 3)), (3_600_000, (3_600_000, 0))]
        {
            assert_eq!(place(ms), expected, "{ms}");
        }
        assert_eq!(place(-1), (-HOUR_MS, 3));
        assert_eq!(hours_of_refusals(HOUR_MS + 1), [HOUR_MS, 0]);
        let from = Timestamp::from_millisecond(1_000_000).expect("a time");
        assert_eq!(first(from), 900_000, "the quarter in which it begins counts whole");
    }
}
