//! Thresholds at which the use of a limit is reported.
//!
//! Each threshold of a limit is reported once in a period, and where several are passed at once only the highest. The
//! threshold is remembered, not its figures: after a limit is raised, its use falls below a threshold and passes it
//! again, which is not reported; the next threshold is.

/// Default thresholds in percent.
const DEFAULT: [u8; 4] = [50, 75, 90, 100];
/// Thresholds for an account's own people, whatever its policy's are.
const OF_ACCOUNTS: [u8; 3] = [75, 90, 100];

/// Percentages of a limit that are reported, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds(Vec<u8>);

impl Default for Thresholds {
    fn default() -> Self {
        Self(DEFAULT.to_vec())
    }
}

impl Thresholds {
    /// Returns the thresholds that are reported to an account's own people.
    pub fn of_accounts() -> Self {
        Self(OF_ACCOUNTS.to_vec())
    }

    /// Checks percentages: from 1 to 100, in any order, duplicates dropped. Without any, nothing is reported.
    pub fn new(percents: impl IntoIterator<Item = i32>) -> Result<Self, String> {
        let percent = |percent: i32| u8::try_from(percent).ok().filter(|percent| (1..=100).contains(percent));
        let checked: Option<Vec<u8>> = percents.into_iter().map(percent).collect();
        let mut percents = checked.ok_or("write percents from 1 to 100")?;
        percents.sort_unstable();
        percents.dedup();
        Ok(Self(percents))
    }

    /// Returns the highest threshold that `used` has reached, if it is above all that were reported. A limit of 0
    /// cannot be used up.
    pub fn crossed(&self, used: i64, granted: i64, told: Option<u8>) -> Option<u8> {
        if granted <= 0 {
            return None;
        }
        let reached = |percent: &&u8| i128::from(used) * 100 >= i128::from(granted) * i128::from(**percent);
        self.0.iter().rev().find(reached).copied().filter(|percent| told.is_none_or(|told| *percent > told))
    }
}

/// A prepaid balance as it was when it was last filled. It has no period, so each filling starts a new count of what
/// was there then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filling {
    /// Total that was ever given by what has not expired. Another total is another filling.
    pub granted: i64,
    /// Amount that could be used then.
    pub full: i64,
}

impl Filling {
    /// Returns the filling of a balance, from the previous one and what was used of it when it was last seen.
    pub fn next(before: Option<(Self, Option<i64>)>, granted: i64, remaining: i64) -> Self {
        let full = match before {
            // No earlier filling is known: all of it was one.
            None => granted,
            Some((before, _)) if before.granted == granted => return before,
            // The balance was filled up, and some of it may be used already.
            Some((before, Some(used))) if before.granted < granted => (granted - used).max(remaining),
            // The balance was filled between two looks, or something was taken out or expired.
            Some(_) => remaining,
        };
        Self { granted, full }
    }

    /// Returns the amount used, and the amount it is part of. If nothing is left all is used, even of nothing.
    pub fn used(self, remaining: i64) -> (i64, i64) {
        let full = self.full.max(1);
        if remaining <= 0 { (full, full) } else { ((full - remaining).max(0), full) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_threshold_is_told_once_and_only_the_highest_of_several() {
        let all = Thresholds::default();
        let cases = [
            // name, used, granted, reported before, reported now
            ("nothing used", 0, 100, None, None),
            ("just under", 49, 100, None, None),
            ("exactly", 50, 100, None, Some(50)),
            ("again", 60, 100, Some(50), None),
            ("several at once", 95, 100, Some(50), Some(90)),
            ("from nothing to all", 100, 100, None, Some(100)),
            ("above all, after a limit was lowered", 300, 100, Some(90), Some(100)),
            ("all told", 300, 100, Some(100), None),
            ("a raised limit: under what was told", 100, 200, Some(75), None),
            ("a raised limit: what was told is passed again", 150, 200, Some(75), None),
            ("a raised limit: the next", 180, 200, Some(75), Some(90)),
            ("a limit of nothing", 0, 0, None, None),
            ("a small limit, rounded in nobody's favour", 2, 3, None, Some(50)),
            ("a limit of one", 1, 1, None, Some(100)),
            ("no overflow", i64::MAX, i64::MAX, Some(90), Some(100)),
        ];
        for (what, used, granted, told, expected) in cases {
            assert_eq!(all.crossed(used, granted, told), expected, "{what}");
        }
    }

    #[test]
    fn a_filling_is_a_new_count_of_what_is_there() {
        let first = Filling { granted: 100, full: 100 };
        let cases = [
            // name, before, granted, remaining, full
            ("the first, some used already", None, 100, 60, 100),
            ("as before", Some((first, Some(40))), 100, 20, 100),
            ("filled up, seen just before", Some((first, Some(90))), 1100, 1005, 1010),
            ("filled up unseen", Some((first, None)), 1100, 1005, 1005),
            ("some expired", Some((Filling { granted: 200, full: 200 }, Some(50))), 100, 70, 70),
            ("all expired", Some((first, Some(50))), 0, 0, 0),
        ];
        for (what, before, granted, remaining, full) in cases {
            assert_eq!(Filling::next(before, granted, remaining), Filling { granted, full }, "{what}");
        }
        assert_eq!(first.used(25), (75, 100));
        assert_eq!(first.used(120), (0, 100), "a refund of an earlier filling");
        assert_eq!(Filling { granted: 0, full: 0 }.used(0), (1, 1), "nothing is left");
    }

    #[test]
    fn thresholds_are_sorted_percents() {
        assert_eq!(Thresholds::new([90, 50, 90]), Ok(Thresholds(vec![50, 90])));
        assert_eq!(Thresholds::new([]).map(|none| none.crossed(1, 1, None)), Ok(None));
        for bad in [0, 101, -1, 300] {
            assert!(Thresholds::new([50, bad]).is_err(), "{bad}");
        }
    }
}
