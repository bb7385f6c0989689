//! Chooses the time by which something is judged.
//!
//! The ledger's time only goes forward, so that no period opens twice. A clock that ran ahead and was corrected leaves
//! it ahead of every clock until they catch up, and for so long it stands still: a rate that is judged by it would hold
//! all mail back, and a key would expire early.

use jiff::{SignedDuration, Timestamp};

/// Maximum lead of the ledger's time over a clock before an operator should look at it. Clocks that are kept by NTP
/// agree within a second.
pub const AHEAD_MAX: SignedDuration = SignedDuration::from_secs(60);

/// Returns how far the ledger's time is ahead of the clock, if too far.
pub fn ahead(ledger: Timestamp, clock: Timestamp) -> Option<SignedDuration> {
    Some(ledger.duration_since(clock)).filter(|ahead| *ahead > AHEAD_MAX)
}

/// The longest time that a copy of the directory's rows may go without asking for changes. An older copy is read anew:
/// the row of a removed key may be deleted by then, and no change reports that.
pub const REMEMBERED_FOR: SignedDuration = SignedDuration::from_hours(24);

/// Returns the moment before which a key must have been removed for its row to be deleted: `before`, but never so late
/// that a copy may still know the key.
pub fn forgettable_before(before: Timestamp, now: Timestamp) -> Timestamp {
    before.min(now.saturating_sub(REMEMBERED_FOR).unwrap_or(Timestamp::MIN))
}

/// Returns the time by which rates and expiries are judged: the ledger's, or the clock's if the ledger's is too far
/// ahead. Periods, and all that is written, follow the ledger's.
pub fn judged_at(ledger: Timestamp, clock: Timestamp) -> Timestamp {
    if ahead(ledger, clock).is_some() { clock } else { ledger }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_forgotten_when_no_copy_may_know_it() {
        let at = |hours: i64| Timestamp::from_second(hours * 3_600).expect("a time");
        for (before, forgotten) in [(10, 10), (76, 76), (77, 76), (200, 76)] {
            assert_eq!(forgettable_before(at(before), at(100)), at(forgotten), "{before}");
        }
    }

    #[test]
    fn the_clock_judges_where_the_ledger_is_more_than_a_minute_ahead() {
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        for (clock, judged) in [(1_000, 1_000), (941, 1_000), (940, 1_000), (939, 939), (0, 0)] {
            assert_eq!(judged_at(at(1_000), at(clock)), at(judged), "{clock}");
        }
        assert_eq!(ahead(at(1_000), at(900)), Some(SignedDuration::from_secs(100)));
        assert_eq!(ahead(at(1_000), at(950)), None);
        assert_eq!(ahead(at(1_000), at(9_000)), None, "a ledger that was asked by nobody is behind");
    }
}
