//! What a billing period costs so far, as status shows it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the running billing period costs so far, in minor units of the currency, such as cents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCostStatus {
    /// ISO 4217 code of the currency.
    #[schemars(length(max = 3))]
    pub currency: String,
    /// Base price and all credits so far.
    #[schemars(range(min = 0))]
    pub total_minor: i64,
}

/// An account's part of what the running billing period costs so far, in minor units of the currency, such as cents. It
/// falls while others send more, because the base price is shared by use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CostStatus {
    /// ISO 4217 code of the currency.
    #[schemars(length(max = 3))]
    pub currency: String,
    /// Its share of the base price, and its own credits.
    #[schemars(range(min = 0))]
    pub amount_minor: i64,
}
