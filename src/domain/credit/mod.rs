//! Credits: what a message must pass, and the one decision both engines use.
//!
//! A credit is the right to have one recipient accepted. A message must pass the meters that exist for its key, its
//! account and its policy, all or none. Each holder has exactly one period lot at any instant, also where nothing limits
//! it. A limit that begins within its period begins with what was used in it before. Beside it are the lots of other
//! sources: money for life, grants, top-ups.

mod decide;
mod lot;
mod prepaid;
mod rate;
mod refused;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::id::{AccountId, Holder, KeyId, MessageId, PolicyId};
use super::period::{Calendar, Period};

pub use decide::{Books, Charge, Holding, PERIOD_PARTS, Stock, Tempo, decide, pace};
pub use lot::{Lot, LotId, Part, Source, Topped};
pub use prepaid::{Added, in_order_of_use, next_top_up, top_up};
pub use rate::{Arrivals, Pace, Rate};
pub use refused::{REFUSED_PER_HOUR, Refused};

/// The most credits a limit may name: exact in a JSON number, and far from any overflow when summed.
pub const CREDITS_MAX: i64 = 1_000_000_000_000;
/// Grants of one list: all of them are read for each batch in which their holder sends.
pub const GRANTS_MAX: usize = 100;
/// Characters of a grant's id.
pub const GRANT_ID_MAX: usize = 63;

/// The limits a message is judged by, in the order they are judged and named to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Meter {
    /// `cap` of the key.
    KeyCap,
    /// `spendLimitMinor` of the account: money, for life.
    AccountSpend,
    /// `cap` of the account, or the policy's `defaultCap`, never above `maxCap`.
    AccountCap,
    /// `prepaid` of the account: grants and top-ups that are used up.
    AccountPrepaid,
    /// `prepaid` of the policy: a balance that its accounts share.
    PolicyPrepaid,
    /// The policy's pool: the hard ceiling, unless its overage is allowed.
    PolicyPool,
}

impl Meter {
    pub const ALL: [Self; 6] = [
        Self::KeyCap,
        Self::AccountSpend,
        Self::AccountCap,
        Self::AccountPrepaid,
        Self::PolicyPrepaid,
        Self::PolicyPool,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyCap => "key.cap",
            Self::AccountSpend => "account.spend",
            Self::AccountCap => "account.cap",
            Self::AccountPrepaid => "account.prepaid",
            Self::PolicyPrepaid => "policy.prepaid",
            Self::PolicyPool => "policy.pool",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|meter| meter.as_str() == text)
    }

    /// The meter of a holder's period lots.
    pub fn of_period(holder: Holder) -> Self {
        match holder {
            Holder::Key(_) => Self::KeyCap,
            Holder::Account(_) => Self::AccountCap,
            Holder::Policy(_) => Self::PolicyPool,
        }
    }

    /// The meter of a holder's grants and top-ups. Keys have none.
    pub fn of_prepaid(holder: Holder) -> Option<Self> {
        match holder {
            Holder::Key(_) => None,
            Holder::Account(_) => Some(Self::AccountPrepaid),
            Holder::Policy(_) => Some(Self::PolicyPrepaid),
        }
    }
}

/// A limit per period. `credits: None` counts and never refuses; 0 refuses everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits: Option<i64>,
    pub calendar: Calendar,
}

/// A balance that is used up. Present = prepaid: where nothing is left nothing is sent, also when both are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prepaid {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurring: Option<TopUp>,
}

/// Credits given once. Its id is given once too: deleting it takes back what is left, and writing it again gives that
/// back and never what was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    pub id: String,
    pub credits: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Credits added once in each period, in the time zone of the holder's limit, and carried over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopUp {
    pub credits: i64,
    pub every: Period,
    /// Nothing is added before; then at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// Nothing is added from here on; what was added stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
}

/// Whether a policy's accounts may use more than its pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overage {
    #[default]
    Deny,
    /// What goes beyond the pool is counted apart.
    Allow,
}

impl Overage {
    pub fn is_deny(&self) -> bool {
        *self == Self::Deny
    }
}

/// What senders hear when credits are used up, and rates never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenExhausted {
    /// 452: a client that queues survives until the next period or top-up.
    #[default]
    Defer,
    /// 550: the client knows at once, and the message is lost to it.
    Reject,
}

impl WhenExhausted {
    pub fn is_defer(&self) -> bool {
        *self == Self::Defer
    }
}

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
