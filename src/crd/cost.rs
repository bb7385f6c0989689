//! Cost of a billing period so far, as status shows it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Cost of the current billing period so far, in minor units of the currency, such as cents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCostStatus {
    /// ISO 4217 code of the currency.
    #[schemars(length(max = 3))]
    pub currency: String,
    /// Base price plus all credits so far.
    #[schemars(range(min = 0))]
    pub total_minor: i64,
}

/// The account's part of the cost of the current billing period so far, in minor units of the currency, such as cents.
/// It falls while other accounts send more, because the base price is shared by use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CostStatus {
    /// ISO 4217 code of the currency.
    #[schemars(length(max = 3))]
    pub currency: String,
    /// Its share of the base price, plus its own credits.
    #[schemars(range(min = 0))]
    pub amount_minor: i64,
}
