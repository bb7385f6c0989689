//! Which outcome of a message holds.

use jiff::Timestamp;

use super::history;
use crate::domain::credit::{Lot, LotId, Outcome};
use crate::domain::id::{AccountId, Holder, KeyId};

/// What is known of a message when an outcome of it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is reserved and has no outcome.
    Open,
    /// This outcome holds; `corrected`: it replaced an earlier one.
    As { outcome: Outcome, corrected: bool },
}

impl Settled {
    pub fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Open => None,
            Self::As { outcome, corrected: _ } => Some(outcome),
        }
    }
}

/// Whether an outcome is written as a correction. `None`: the one that is there stays. The first outcome holds; only
/// `unknown` is replaced, once, by what turned out.
pub fn correction(before: Settled, outcome: Outcome) -> Option<bool> {
    match (before, outcome) {
        (Settled::Open, _) => Some(false),
        (
            Settled::As { outcome: Outcome::Unknown, corrected: false },
            Outcome::Relayed | Outcome::Refused | Outcome::NotOffered,
        ) => Some(true),
        (Settled::As { .. }, _) => None,
    }
}

/// Whether a holder's running lot carries a message that was charged to another lot of the holder: then what is given
/// back of it is given back here too. A lot carries all that was used since the beginning of its period before it began.
pub fn carries(running: &Lot, charged_to: LotId, reserved_at: Timestamp) -> bool {
    running.id != charged_to
        && running.carried > 0
        && reserved_at.as_millisecond() >= history::first(running.window.from)
}

/// The holders whose rate a message took: its key and its account. What is given back of it is given back there, too.
pub fn paced(key: KeyId, account: AccountId) -> [Holder; 2] {
    [Holder::Key(key), Holder::Account(account)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unknown_outcome_is_replaced_and_only_once() {
        for outcome in Outcome::ALL {
            assert_eq!(correction(Settled::Open, outcome), Some(false));
            for before in Outcome::ALL {
                let replaced = before == Outcome::Unknown && outcome != Outcome::Unknown;
                let first = Settled::As { outcome: before, corrected: false };
                assert_eq!(correction(first, outcome), replaced.then_some(true), "{before:?} {outcome:?}");
                let corrected = Settled::As { outcome: before, corrected: true };
                assert_eq!(correction(corrected, outcome), None, "{before:?} {outcome:?}");
            }
        }
    }
}
