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

/// Currencies whose unit is not divided into hundredths (ISO 4217), with the digits that it has.
const OTHER_DIGITS: [(&str, u32); 23] = [
    ("BIF", 0),
    ("CLP", 0),
    ("DJF", 0),
    ("GNF", 0),
    ("ISK", 0),
    ("JPY", 0),
    ("KMF", 0),
    ("KRW", 0),
    ("PYG", 0),
    ("RWF", 0),
    ("UGX", 0),
    ("VND", 0),
    ("VUV", 0),
    ("XAF", 0),
    ("XOF", 0),
    ("XPF", 0),
    ("BHD", 3),
    ("IQD", 3),
    ("JOD", 3),
    ("KWD", 3),
    ("LYD", 3),
    ("OMR", 3),
    ("TND", 3),
];

/// Writes an amount as people read it, without its currency: 4900 minor units of EUR are 49.00.
pub fn amount(minor: i64, currency: &str) -> String {
    let digits = OTHER_DIGITS.iter().find(|(other, _)| *other == currency).map_or(2, |(_, digits)| *digits);
    if digits == 0 {
        return minor.to_string();
    }
    let (unit, sign) = (10_u64.pow(digits), if minor < 0 { "-" } else { "" });
    let minor = minor.unsigned_abs();
    format!("{sign}{}.{:0width$}", minor / unit, minor % unit, width = digits as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_digits_of_their_currency() {
        let cases = [
            (4900, "EUR", "49.00"),
            (5, "EUR", "0.05"),
            (0, "USD", "0.00"),
            (-105, "EUR", "-1.05"),
            (4900, "JPY", "4900"),
            (4900, "KWD", "4.900"),
            (i64::MIN, "EUR", "-92233720368547758.08"),
        ];
        for (minor, currency, expected) in cases {
            assert_eq!(amount(minor, currency), expected, "{minor} {currency}");
        }
    }

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
