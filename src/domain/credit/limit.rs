//! Limits as the directory keeps them: caps and pools, prepaid balances, and what happens beyond them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::period::{Calendar, Period};

/// The most credits a limit may name: exact in a JSON number, and far from any overflow when summed.
pub const CREDITS_MAX: i64 = 1_000_000_000_000;
/// Grants of one list: all of them are read for each batch in which their holder sends.
pub const GRANTS_MAX: usize = 100;
/// Characters of a grant's id.
pub const GRANT_ID_MAX: usize = 63;

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
