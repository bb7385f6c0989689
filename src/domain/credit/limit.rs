//! Limits as the directory holds them: caps and pools, prepaid balances, and the rules for what exceeds them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::period::{Calendar, Period};

/// Maximum credits of a limit: exact in a JSON number, and far from any overflow when summed.
pub const CREDITS_MAX: i64 = 1_000_000_000_000;
/// Maximum grants of one list: all of them are read for each batch in which their holder sends.
pub const GRANTS_MAX: usize = 100;
/// Maximum characters of a grant's id.
pub const GRANT_ID_MAX: usize = 63;

/// A limit per period. `credits: None` counts and never refuses; 0 refuses everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits: Option<i64>,
    pub calendar: Calendar,
}

/// A balance that is used up. Present = prepaid: with nothing left nothing is sent, even if both fields are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prepaid {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurring: Option<TopUp>,
}

/// Credits given once. The id is given once too: deleting the grant takes back what is left, and writing it again
/// restores that but never what was used.
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
    /// Time before which nothing is added; the first credits are added then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// Time from which nothing more is added; what was added stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
}

/// The rule for sending beyond a policy's pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overage {
    #[default]
    Deny,
    /// Credits used beyond the pool are counted apart.
    Allow,
}

impl Overage {
    pub fn is_deny(&self) -> bool {
        *self == Self::Deny
    }
}

/// The reply to senders when credits are used up; it does not apply to rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenExhausted {
    /// 452: a client with a queue keeps the message until the next period or top-up.
    #[default]
    Defer,
    /// 550: the client knows at once, and gives the message up.
    Reject,
}

impl WhenExhausted {
    pub fn is_defer(&self) -> bool {
        *self == Self::Defer
    }
}
