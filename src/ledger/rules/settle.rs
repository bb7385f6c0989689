//! Decides which outcome of a message holds.

use jiff::Timestamp;

use super::{history, time};
use crate::domain::credit::{Lot, LotId, Outcome};
use crate::domain::id::{AccountId, Holder, KeyId, MessageId};

/// The state of a message when an outcome of it comes.
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

/// Returns true if an outcome is to be written as a correction, false if as the first. `None`: the existing one stays.
/// The first outcome holds; only `unknown` is replaced, once, by the outcome that is found later.
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

/// Returns true if a holder's running lot carries a message that was charged to another lot of the holder: then its
/// refund is given back here too. A lot carries all that was used since the beginning of its period before it began.
pub fn carries(running: &Lot, charged_to: LotId, reserved_at: Timestamp) -> bool {
    running.id != charged_to
        && running.carried > 0
        && reserved_at.as_millisecond() >= history::first(running.window.from)
}

/// Returns when a message was charged, by the clock that judges at `now` ([`time::judged_at`]). While the ledger's time
/// stands ahead of that clock all reservations have the same, later one, and the message's id tells when its relay made
/// it. `None`: the id comes from a clock that ran ahead, or tells no time; then the message gives no rate back.
pub fn charged_at(message: MessageId, reserved_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
    if reserved_at <= now {
        return Some(reserved_at);
    }
    message.made_at().filter(|made_at| time::ahead(*made_at, now).is_none())
}

/// Returns the holders whose rate a message took: its key and its account. A refund is given back to their rates, too.
pub fn rate_holders(key: KeyId, account: AccountId) -> [Holder; 2] {
    [Holder::Key(key), Holder::Account(account)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_was_charged_when_the_ledger_says_so_or_its_id_where_the_ledger_is_ahead() {
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        let made =
            |seconds: u64| MessageId(uuid::Builder::from_unix_timestamp_millis(seconds * 1_000, &[0; 10]).into_uuid());
        let plain = MessageId(uuid::Uuid::from_u128(7));
        for (message, reserved_at, charged_at) in [
            (made(500), 990, Some(990)),
            (plain, 1_000, Some(1_000)),
            (made(998), 9_000, Some(998)),
            // Made by a clock that is a little ahead, and by one that ran ahead.
            (made(1_060), 9_000, Some(1_060)),
            (made(1_061), 9_000, None),
            (made(9_000), 9_000, None),
            (plain, 9_000, None),
        ] {
            assert_eq!(super::charged_at(message, at(reserved_at), at(1_000)), charged_at.map(at), "{message}");
        }
    }

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
