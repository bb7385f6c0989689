//! Money, in whole numbers.
//!
//! Prices and limits are given in the currency's minor unit (cents); the ledger counts in micro-units, millionths of
//! it, so that one credit of "so much per thousand" costs a whole number of them and no sum is ever rounded.

use serde::{Deserialize, Serialize};

/// Micro-units of one minor unit.
pub const MICRO: i64 = 1_000_000;
/// Maximum minor units of a price or a limit: exact as micro-units, and so are sums of nine.
pub const MINOR_MAX: i64 = 1_000_000_000_000;

/// The price of a policy's credits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pricing {
    /// ISO 4217.
    pub currency: String,
    /// Price of a billing period, shared by the accounts that used it.
    #[serde(default)]
    pub base_price_minor: i64,
    #[serde(default)]
    pub price_per_thousand_minor: i64,
}

impl Pricing {
    /// Returns the price of one credit in micro-units: 1,000 for each minor unit of the price per thousand.
    pub fn credit_micro(&self) -> i64 {
        self.price_per_thousand_minor.saturating_mul(MICRO / 1_000)
    }
}

/// Converts minor units to micro-units.
pub fn micro(minor: i64) -> i64 {
    minor.saturating_mul(MICRO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_credits_cost_their_price_exactly() {
        for price in [0, 1, 7, 999, 1_000_000] {
            let pricing = Pricing { currency: "EUR".into(), base_price_minor: 0, price_per_thousand_minor: price };
            assert_eq!(pricing.credit_micro() * 1_000, micro(price));
        }
    }

    #[test]
    fn the_largest_amounts_are_exact() {
        assert_eq!(micro(MINOR_MAX) / MICRO, MINOR_MAX);
        assert!(micro(MINOR_MAX).checked_mul(9).is_some());
    }
}
