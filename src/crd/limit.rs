//! Credits per period, as users write them and as status shows them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::domain::credit::{CREDITS_MAX, Limit};
use crate::domain::period::{self, Calendar};

/// Interval at which a limit opens again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Period {
    Daily,
    Weekly,
    Monthly,
}

impl From<Period> for period::Period {
    fn from(period: Period) -> Self {
        match period {
            Period::Daily => Self::Daily,
            Period::Weekly => Self::Weekly,
            Period::Monthly => Self::Monthly,
        }
    }
}

/// Default period of a pool or a cap.
const PERIOD_DEFAULT: Period = Period::Monthly;
/// Default anchor: the first day of a month or an ISO week.
const ANCHOR_DEFAULT: i32 = 1;
const TIME_ZONE_DEFAULT: &str = "UTC";

/// The credits that all accounts of a policy draw on, and the calendar of all its periods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.anchor) || self.anchor == 1 || (has(self.period) && self.period == 'Weekly' && self.anchor <= 7) || \
     (!has(self.period) || self.period == 'Monthly')"
).message("anchor does not fit the period: 1 to 31 for Monthly, 1 (Monday) to 7 for Weekly, 1 or absent for Daily"))]
pub struct Pool {
    /// Credits per period; one credit pays for one recipient. Absent means unlimited; 0 means that nothing may be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000_000_i64))]
    pub credits: Option<i64>,
    /// Interval at which the pool opens again: Daily, Weekly or Monthly. Monthly if absent. A change takes effect at
    /// once and counts what was used since the beginning of the new period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<Period>,
    /// Start of a period: for Monthly the day of the month (1 to 31, the last day if the month is shorter), for Weekly
    /// the day of the week (1 is Monday). 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31))]
    pub anchor: Option<i32>,
    /// IANA time zone in which periods start at midnight, such as Europe/Berlin. UTC if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9_+/-]+$')")
        .message("write the IANA name of a time zone, such as Europe/Berlin"))]
    // For an unknown zone the function fails, and so does the rule.
    #[x_kube(validation = Rule::new("timestamp('2020-01-01T00:00:00Z').getHours(self) >= 0")
        .message("name a time zone that exists, such as Europe/Berlin"))]
    pub time_zone: Option<String>,
}

impl Pool {
    pub(super) fn check(&self, field: &str) -> Result<Limit, Problem> {
        let credits = self.credits.map(|credits| check_credits(credits, &format!("{field}.credits"))).transpose()?;
        let anchor = u8::try_from(self.anchor.unwrap_or(ANCHOR_DEFAULT))
            .map_err(|_| Problem::new(format!("{field}.anchor"), "write a day from 1 to 31"))?;
        let period = self.period.unwrap_or(PERIOD_DEFAULT).into();
        let zone = self.time_zone.as_deref().unwrap_or(TIME_ZONE_DEFAULT);
        let calendar = Calendar::new(period, anchor, zone).map_err(|fix| {
            // Tries the anchor in a zone that exists, to find which of the two arguments is wrong.
            let wrong = if Calendar::new(period, anchor, TIME_ZONE_DEFAULT).is_err() { "anchor" } else { "timeZone" };
            Problem::new(format!("{field}.{wrong}"), fix)
        })?;
        Ok(Limit { credits, calendar })
    }
}

/// A limit per period, in the time zone of the policy's pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cap {
    /// Credits per period; one credit pays for one recipient. 0 means that nothing may be sent.
    #[schemars(range(min = 0, max = 1_000_000_000_000_i64))]
    pub credits: i64,
    /// Interval at which the cap opens again: Daily, Weekly or Monthly. Monthly if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<Period>,
}

impl Cap {
    pub(super) fn check(&self, field: &str) -> Result<CheckedCap, Problem> {
        Ok(CheckedCap {
            credits: check_credits(self.credits, &format!("{field}.credits"))?,
            period: self.period.unwrap_or(PERIOD_DEFAULT).into(),
        })
    }
}

/// A cap with its period resolved. It becomes a [`Limit`] only with a policy's calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedCap {
    pub credits: i64,
    pub period: period::Period,
}

impl CheckedCap {
    /// Returns the cap as a limit in the time zone of `calendar`. Without a cap usage is counted per month and nothing
    /// is refused.
    pub fn limit(cap: Option<Self>, calendar: &Calendar) -> Limit {
        let period = cap.map_or(PERIOD_DEFAULT.into(), |cap| cap.period);
        Limit { credits: cap.map(|cap| cap.credits), calendar: calendar.with_period(period) }
    }
}

pub(super) fn check_credits(credits: i64, field: &str) -> Result<i64, Problem> {
    if (0..=CREDITS_MAX).contains(&credits) {
        Ok(credits)
    } else {
        Err(Problem::new(field, format!("write a number from 0 to {CREDITS_MAX}")))
    }
}

/// The period of some figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeriodStatus {
    /// First instant of the period.
    pub start: Time,
    /// First instant after the period: when limits open again.
    pub end: Time,
}

/// Mail sent in a period, counted in recipients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageStatus {
    /// The period of these figures: that of the cap or pool.
    pub period: PeriodStatus,
    /// Recipients that were charged and not given back.
    #[schemars(range(min = 0))]
    pub accepted: i64,
    /// Recipients that the upstream accepted.
    #[schemars(range(min = 0))]
    pub relayed: i64,
    /// Recipients that the upstream refused; their credits were given back. Mail that Franking itself refused is not
    /// counted here.
    #[schemars(range(min = 0))]
    pub refused: i64,
    /// Recipients that were charged but whose outcome is unknown, because the upstream's reply was lost.
    #[schemars(range(min = 0))]
    pub unknown: i64,
    /// Time at which the last message was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sent_at: Option<Time>,
}

/// Credits of an account or a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreditStatus {
    /// Credits per period; absent means no cap of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub cap: Option<i64>,
    /// Credits used in the current period of the cap, even before the cap was set.
    #[schemars(range(min = 0))]
    pub used: i64,
    /// Credits left. For an account, the least of its cap, its prepaid credits and its spend limit, as far as it has
    /// them; its policy may have less. For a key, the least of its cap and of what its account and its policy have
    /// left; 0 if its account is refused or gone. Absent if nothing limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub remaining: Option<i64>,
    /// Prepaid credits left; absent if nothing is prepaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub prepaid: Option<i64>,
    /// Time at which a used-up limit opens again; if none is used up, the time at which the cap starts anew. Absent if
    /// neither happens by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reopens_at: Option<Time>,
}

/// Cost of an account, against its spend limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpendStatus {
    /// Maximum that it may ever cost, in minor units of the policy's currency.
    #[schemars(range(min = 0))]
    pub limit_minor: i64,
    /// Cost of all that was ever charged to it at a price, in minor units, rounded up.
    #[schemars(range(min = 0))]
    pub used_minor: i64,
}

/// Credits of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolCreditStatus {
    /// Credits of the current period; absent means unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub granted: Option<i64>,
    /// Credits used by all accounts in the current period, including overage.
    #[schemars(range(min = 0))]
    pub used: i64,
    /// Credits left: the lesser of the pool and the prepaid credits; absent if neither limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub remaining: Option<i64>,
    /// Prepaid credits left; absent if nothing is prepaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub prepaid: Option<i64>,
    /// Credits used beyond the pool in the current period; absent if that is not allowed and did not happen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub overage: Option<i64>,
    /// Time at which a used-up limit opens again; if none is used up, the time at which the pool starts anew. Absent if
    /// neither happens by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reopens_at: Option<Time>,
}
