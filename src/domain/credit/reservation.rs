//! Reservations: what a message asks for, the answer, and how the message ended.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::meter::Meter;
use super::rate::{Pace, Rate};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::id::{AccountId, Holder, KeyId, MessageId, PolicyId};

/// A request to charge a message: one credit for each of its recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub message: MessageId,
    pub key: KeyId,
    pub credits: u32,
    /// For a message that its client may have sent before without hearing what became of it.
    pub fingerprint: Option<Fingerprint>,
}

/// Who a reservation is charged to, as the fresh rows say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    pub key: KeyId,
    pub account: AccountId,
    pub policy: PolicyId,
}

impl Chain {
    /// In the order of the meters, which is also the order in which lots are locked: pools last.
    pub fn holders(self) -> [Holder; 3] {
        [Holder::Key(self.key), Holder::Account(self.account), Holder::Policy(self.policy)]
    }
}

/// Why a sender may not send, whatever the credits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Revoked, or its resource is gone.
    KeyRevoked,
    KeyExpired,
    AccountSuspended {
        reason: Option<String>,
    },
    /// Deleted, or no longer accepted by its policy.
    AccountRemoved,
    PolicySuspended {
        reason: Option<String>,
    },
    PolicyRemoved,
}

/// The answer to a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Charged, now or by an earlier call with the same message id.
    Reserved,
    /// It is an earlier message that was relayed after its client had been told to come again. Nothing is charged, and
    /// it is not to be sent.
    Relayed(MessageId),
    /// It is an earlier message that is still on its way to the upstream. Nothing is charged.
    UnderWay(MessageId),
    /// It is an earlier message of which nobody will know what became of it. That one is charged; this one is to be
    /// sent in its place, and settled as its stand-in.
    Resumed(MessageId),
    /// A limit lacks credits: of all that do, the one that stays closed longest (the first in order, where several
    /// do). In credits; of money, what the limit and what is left of it buy at today's price.
    Short {
        meter: Meter,
        granted: i64,
        remaining: i64,
        /// The end of its period, or its next top-up. `None`: it does not open by itself.
        reopens_at: Option<Timestamp>,
        /// Messages under way could give back enough for this one, of every limit that lacks credits. Judged where the
        /// policy refuses for good; else `false`.
        pending: bool,
    },
    /// More messages than the rate allows. Judged before credits, so that hammering tells nothing about them; a
    /// message that is refused, for whatever reason, moves nothing.
    TooFast {
        pace: Pace,
        rate: Rate,
        /// The first moment at which one message passes.
        retry_at: Timestamp,
    },
    Blocked(Blocked),
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The upstream said 250.
    Relayed,
    /// The upstream definitely said no: refunded.
    Refused,
    /// It never got as far as the upstream's final dot: refunded.
    NotOffered,
    /// The final dot was written and no reply came: stays charged. May be replaced once by what turned out.
    Unknown,
}

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Relayed, Self::Refused, Self::NotOffered, Self::Unknown];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Refused => "refused",
            Self::NotOffered => "not_offered",
            Self::Unknown => "unknown",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }

    pub fn refunds(self) -> bool {
        match self {
            Self::Refused | Self::NotOffered => true,
            Self::Relayed | Self::Unknown => false,
        }
    }
}
