//! Whether mail goes out at the moment: the column SENDING, and the sentence beside `Ready`.
//!
//! `Ready` is about settings. Used-up credits and an upstream that is away move with the traffic, so they are told here
//! instead, down the chain: a key shows what stops its account, and an account what stops its policy.

use super::gauge::Gauge;

pub const YES: &str = "yes";
/// `Ready` says why.
pub const NO: &str = "no";
pub const UPSTREAM_AWAY: &str = "upstream away";
pub const NO_RELAY: &str = "no relay";
/// How a shortage begins.
pub const NO_CREDITS: &str = "no credits";

/// Returns what the column says of an object whose settings let mail be sent (`open`) or not, with these credits, below one
/// that says `above`.
pub fn column(open: bool, gauge: Option<&Gauge>, above: Option<&str>) -> String {
    if !open {
        return NO.to_owned();
    }
    gauge.and_then(Gauge::shortage).unwrap_or_else(|| inherited(above).to_owned())
}

/// What is above stops what is below. That it is not ready is told as a condition, by those that it concerns.
fn inherited(above: Option<&str>) -> &str {
    above.filter(|above| *above != NO).unwrap_or(YES)
}

/// Says whether a column that is shown is not what follows from the one above any more. `short`: nothing is left to it,
/// under its own limits or under one above.
pub fn is_behind(shown: Option<&str>, short: bool, above: Option<&str>) -> bool {
    match shown {
        Some(NO) => false,
        // Where nothing above stops it, what it shows as left may be what the one above had left before.
        Some(shown) if short => !shown.starts_with(NO_CREDITS) || inherited(above) == YES,
        shown => shown != Some(inherited(above)),
    }
}

/// Returns the sentence about what stops mail that is ready to be sent. `whose` is the object above.
pub fn aside(gauge: Option<&Gauge>, whose: &str, above: Option<&str>) -> Option<String> {
    if let Some(gauge) = gauge.filter(|gauge| gauge.shortage().is_some()) {
        return Some(gauge.sentence_of_end());
    }
    match inherited(above) {
        YES => None,
        UPSTREAM_AWAY => Some("at the moment its upstream is away, and mail waits with 451".to_owned()),
        NO_RELAY => Some("at the moment no relay is ready".to_owned()),
        credits => Some(format!("at the moment {whose} has {credits}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_follows_the_one_above_unless_it_has_its_own_reason() {
        let cases = [
            // open, above, column
            (true, None, "yes"),
            (true, Some("yes"), "yes"),
            (true, Some("no"), "yes"),
            (true, Some("upstream away"), "upstream away"),
            (true, Some("no credits until 2026-12-01T00:00:00Z"), "no credits until 2026-12-01T00:00:00Z"),
            (false, Some("upstream away"), "no"),
        ];
        for (open, above, expected) in cases {
            let shown = column(open, None, above);
            assert_eq!(shown, expected, "{open} {above:?}");
            assert!(!is_behind(Some(&shown), false, above), "{open} {above:?}");
        }
        assert!(is_behind(Some("yes"), false, Some("upstream away")));
        assert!(is_behind(Some("upstream away"), false, Some("yes")));
        assert!(!is_behind(Some("no credits"), true, Some("upstream away")));
        // Nothing is left of what its account may use, and that was shown before the account's own column.
        assert!(is_behind(Some("yes"), true, Some("no credits until 2026-12-01T00:00:00Z")));
        // The account is open again, and the key does not show that yet.
        assert!(is_behind(Some("no credits until 2026-12-01T00:00:00Z"), true, Some("yes")));
    }
}
