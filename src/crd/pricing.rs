//! Prices of sending, and spend limits of accounts.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::domain::money::{self, MINOR_MAX};

/// Maximum price, ten million of a currency's units for a thousand recipients: the price of the largest message in
/// millionths stays far below the end of 64 bits.
const PRICE_MAX: i64 = 1_000_000_000;

/// Prices of the plan, in minor units of a currency, such as cents. They are for the bill and for spend limits;
/// Franking itself takes no payments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pricing {
    /// ISO 4217 code of the currency, such as EUR. It cannot be changed, because spending is counted in it, not even by
    /// removing pricing and adding it again.
    #[schemars(length(min = 3, max = 3))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Z]{3}$')")
        .message("write the code of a currency in three capital letters, such as EUR"))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("currency cannot be changed, because past spending is counted in it: make a new policy"))]
    pub currency: String,
    /// Price of the plan in each calendar month, however much is sent, in minor units. 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000_000_i64))]
    pub base_price_minor: Option<i64>,
    /// Price of a thousand recipients, in minor units. A new price applies from the next message on. 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub price_per_thousand_minor: Option<i64>,
}

impl Pricing {
    pub(super) fn check(&self, field: &str) -> Result<money::Pricing, Problem> {
        if self.currency.len() != 3 || !self.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(Problem::new(format!("{field}.currency"), "write an ISO 4217 code such as EUR"));
        }
        Ok(money::Pricing {
            currency: self.currency.clone(),
            base_price_minor: minor(self.base_price_minor.unwrap_or(0), MINOR_MAX, &format!("{field}.basePriceMinor"))?,
            price_per_thousand_minor: minor(
                self.price_per_thousand_minor.unwrap_or(0),
                PRICE_MAX,
                &format!("{field}.pricePerThousandMinor"),
            )?,
        })
    }
}

/// Checks an amount in minor units, from 0 to `most`.
pub(super) fn minor(amount: i64, most: i64, field: &str) -> Result<i64, Problem> {
    if (0..=most).contains(&amount) {
        Ok(amount)
    } else {
        Err(Problem::new(field, format!("write an amount in minor units, such as cents, from 0 to {most}")))
    }
}
