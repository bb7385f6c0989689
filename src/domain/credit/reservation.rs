//! Reservations: the request of a message for credits, the reply, and the outcome of the message.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::meter::Meter;
use super::rate::{Rate, RateScope};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::id::{AccountId, Holder, KeyId, MessageId, PolicyId};

/// A request to charge a message: one credit for each of its recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub message: MessageId,
    pub key: KeyId,
    pub credits: u32,
    /// Set if the client may have sent the message before without learning its outcome.
    pub fingerprint: Option<Fingerprint>,
}

/// The holders that a reservation is charged to, read from fresh rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    pub key: KeyId,
    pub account: AccountId,
    pub policy: PolicyId,
}

impl Chain {
    /// Returns the holders in the order of the meters, which is also the order in which lots are locked: pools last.
    pub fn holders(self) -> [Holder; 3] {
        [Holder::Key(self.key), Holder::Account(self.account), Holder::Policy(self.policy)]
    }
}

/// The reason why a sender may not send, whatever its credits.
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

/// The reply to a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Charged, by this call or an earlier one with the same message id.
    Reserved,
    /// The message is an earlier one that was relayed after its client had been told to try again. Nothing is charged,
    /// and it must not be sent.
    Relayed(MessageId),
    /// The message is an earlier one that is still on its way to the upstream. Nothing is charged.
    UnderWay(MessageId),
    /// The message is an earlier one whose outcome will never be known. That one stays charged; this one is sent in its
    /// place, and settled as its stand-in.
    Resumed(MessageId),
    /// A limit lacks credits: if several do, the one that stays closed longest (the first in order among equals).
    /// Amounts are in credits; for money, what the limit and the rest of it buy at today's price.
    Short {
        meter: Meter,
        granted: i64,
        remaining: i64,
        /// End of the period, or time of the next top-up; `None` if the limit does not open by itself.
        reopens_at: Option<Timestamp>,
        /// True if messages under way could give back enough for this one, on every limit that lacks credits. Only
        /// determined if the policy refuses for good; otherwise `false`.
        pending: bool,
    },
    /// There are more messages than the rate allows. Checked before credits, so that hammering reveals nothing about
    /// them. A message that is refused, for whatever reason, changes nothing.
    TooFast {
        scope: RateScope,
        rate: Rate,
        /// First moment at which one message passes.
        retry_at: Timestamp,
    },
    Blocked(Blocked),
}

/// The outcome of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The upstream replied 250.
    Relayed,
    /// The upstream definitely refused it: refunded.
    Refused,
    /// The final dot was never sent to the upstream: refunded.
    NotOffered,
    /// The final dot was sent and no reply came: stays charged. May be replaced once by the real outcome.
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
