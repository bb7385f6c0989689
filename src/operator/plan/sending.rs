//! Computes the column SENDING and the text added to `Ready`, which say if mail goes out at the moment.
//!
//! `Ready` is about settings. Exhausted credits and an unavailable upstream change with the traffic, so they are shown
//! here instead, down the chain: a key shows what stops its account, and an account what stops its policy.

use super::gauge::Gauge;

pub const YES: &str = "yes";
/// The condition `Ready` gives the reason.
pub const NO: &str = "no";
pub const UPSTREAM_AWAY: &str = "upstream away";
pub const NO_RELAY: &str = "no relay";
/// Prefix of a shortage.
pub const NO_CREDITS: &str = "no credits";

/// Returns the column of an object whose settings allow sending (`open`) or not, with these credits, under a parent
/// whose column says `above`.
pub fn column(open: bool, gauge: Option<&Gauge>, above: Option<&str>) -> String {
    if !open {
        return NO.to_owned();
    }
    gauge.and_then(Gauge::shortage).unwrap_or_else(|| inherited(above).to_owned())
}

/// Returns the parent's column if it applies to its children. A parent that is not ready is reported in their
/// conditions instead.
fn inherited(above: Option<&str>) -> &str {
    above.filter(|above| *above != NO).unwrap_or(YES)
}

/// Checks whether a shown column no longer follows from the parent's. `short`: it has nothing left, under its own
/// limits or under one above.
pub fn is_behind(shown: Option<&str>, short: bool, above: Option<&str>) -> bool {
    match shown {
        Some(NO) => false,
        // If nothing above stops it, the shortage that it shows may be an earlier one of its parent.
        Some(shown) if short => !shown.starts_with(NO_CREDITS) || inherited(above) == YES,
        shown => shown != Some(inherited(above)),
    }
}

/// Returns the text about what stops mail that is ready to be sent. `whose` is the parent.
pub fn aside(gauge: Option<&Gauge>, whose: &str, above: Option<&str>) -> Option<String> {
    if let Some(gauge) = gauge.filter(|gauge| gauge.shortage().is_some()) {
        return Some(gauge.sentence_of_end());
    }
    match inherited(above) {
        YES => None,
        UPSTREAM_AWAY => Some("at the moment its upstream is unavailable, and mail is deferred with 451".to_owned()),
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
        // The account has nothing left, which the key's figures showed before the account's column did.
        assert!(is_behind(Some("yes"), true, Some("no credits until 2026-12-01T00:00:00Z")));
        // The account can send again, and the key does not show that yet.
        assert!(is_behind(Some("no credits until 2026-12-01T00:00:00Z"), true, Some("yes")));
    }
}
