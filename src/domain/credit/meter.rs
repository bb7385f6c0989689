//! Meters: the limits that a message must pass.

use serde::{Deserialize, Serialize};

use crate::domain::id::Holder;

/// The limits that a message is judged by, in the order in which they are judged and named to the sender.
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

    /// Returns the meter of a holder's period lots.
    pub fn of_period(holder: Holder) -> Self {
        match holder {
            Holder::Key(_) => Self::KeyCap,
            Holder::Account(_) => Self::AccountCap,
            Holder::Policy(_) => Self::PolicyPool,
        }
    }

    /// Returns the meter of a holder's grants and top-ups. Keys have none.
    pub fn of_prepaid(holder: Holder) -> Option<Self> {
        match holder {
            Holder::Key(_) => None,
            Holder::Account(_) => Some(Self::AccountPrepaid),
            Holder::Policy(_) => Some(Self::PolicyPrepaid),
        }
    }
}
