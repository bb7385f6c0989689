//! Prepaid credits: granted once, or topped up regularly.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::check_time;
use super::limit::check_credits;
use super::problem::Problem;
use crate::domain::credit::{self, TopUp};
use crate::domain::period;

/// Maximum grants of one balance. A message reads all of them under a lock, so they stay few; a grant that is used up
/// or has expired may be taken out of the list.
const GRANTS_MAX: usize = 64;

/// A prepaid balance. If present, nothing is sent while it is empty, even if nothing was ever added.
//
// Its fields are atomic: server-side apply drops an object when the last field that an applier owned in it goes, so
// taking back the last grant would let the account send without any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Prepaid {
    /// Credits given once. Those that expire first are used first. To take a grant back, remove it or lower its
    /// credits; used credits stay used, even if the same id is written again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub grants: Vec<Grant>,
    /// Credits added at regular intervals. Unused credits are carried over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurring: Option<Recurring>,
}

/// Credits given once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Permanent name of this grant, such as an order number. The same id is never a second grant.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?$')")
        .message("write the id of a grant with letters, digits, ., _, : and -, a letter or digit at both ends"))]
    pub id: String,
    /// Credits; one credit pays for one recipient.
    #[schemars(range(min = 0, max = 1_000_000_000_000_i64))]
    pub credits: i64,
    /// Time at which the rest of the grant expires, in RFC 3339, such as 2027-01-01T00:00:00Z. Absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("format" = "date-time"))]
    pub expires_at: Option<String>,
    /// Your own note. Franking does not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub note: Option<String>,
}

/// Interval at which credits are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Every {
    Day,
    Week,
    Month,
}

impl From<Every> for period::Period {
    fn from(every: Every) -> Self {
        match every {
            Every::Day => Self::Daily,
            Every::Week => Self::Weekly,
            Every::Month => Self::Monthly,
        }
    }
}

/// Credits added at regular intervals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.start) || !has(self.end) || self.start < self.end")
    .message("end comes after start"))]
pub struct Recurring {
    /// Credits added each time; one credit pays for one recipient.
    #[schemars(range(min = 0, max = 1_000_000_000_000_i64))]
    pub credits: i64,
    /// Day, Week or Month, in the time zone of the policy's pool. Credits are added once in each, and in full for the
    /// current one. A month begins on the pool's anchor day if pool and cap are monthly or there is no cap; a week does
    /// if both are weekly. Otherwise they begin on their first day.
    pub every: Every,
    /// Time at which the first credits are added, in RFC 3339. Absent means at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("format" = "date-time"))]
    pub start: Option<String>,
    /// Time from which no more credits are added, in RFC 3339. Credits that are left stay. Absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("format" = "date-time"))]
    pub end: Option<String>,
}

impl Prepaid {
    pub(super) fn check(&self, field: &str) -> Result<credit::Prepaid, Problem> {
        if self.grants.len() > GRANTS_MAX {
            let fix = format!("write at most {GRANTS_MAX} grants; take out those that are used up or over");
            return Err(Problem::new(format!("{field}.grants"), fix));
        }
        let mut grants: Vec<credit::Grant> = Vec::with_capacity(self.grants.len());
        for (index, grant) in self.grants.iter().enumerate() {
            let at = format!("{field}.grants[{index}]");
            if grants.iter().any(|other| other.id == grant.id) {
                let fix = format!("\"{}\" names another grant of this list; each has an id of its own", grant.id);
                return Err(Problem::new(format!("{at}.id"), fix));
            }
            grants.push(grant.check(&at)?);
        }
        let recurring =
            self.recurring.as_ref().map(|top_up| top_up.check(&format!("{field}.recurring"))).transpose()?;
        Ok(credit::Prepaid { grants, recurring })
    }
}

impl Grant {
    fn check(&self, field: &str) -> Result<credit::Grant, Problem> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        if self.id.is_empty() || self.id.len() > 64 || !self.id.bytes().all(word) {
            return Err(Problem::new(
                format!("{field}.id"),
                "write 1 to 64 letters, digits and . _ : - such as order-4711",
            ));
        }
        Ok(credit::Grant {
            id: self.id.clone(),
            credits: check_credits(self.credits, &format!("{field}.credits"))?,
            expires_at: time(&self.expires_at, &format!("{field}.expiresAt"))?,
        })
    }
}

impl Recurring {
    fn check(&self, field: &str) -> Result<TopUp, Problem> {
        let (start, end) = (time(&self.start, &format!("{field}.start"))?, time(&self.end, &format!("{field}.end"))?);
        if let (Some(start), Some(end)) = (start, end)
            && end <= start
        {
            return Err(Problem::new(format!("{field}.end"), format!("write a time after start, which is {start}")));
        }
        let credits = check_credits(self.credits, &format!("{field}.credits"))?;
        Ok(TopUp { credits, every: self.every.into(), start, end })
    }
}

fn time(text: &Option<String>, field: &str) -> Result<Option<Timestamp>, Problem> {
    text.as_deref().map(|text| check_time(text, field)).transpose()
}
