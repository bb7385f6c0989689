//! Entries for an engine's own tests: those of the world's key 1, with ten credits a month on each meter.

use super::prepaid::{grant, grants};
use super::world::{account, key, monthly, policy};
use crate::domain::directory::{AccountEntry, KeyEntry, PolicyEntry};

pub fn monthly_policy() -> PolicyEntry {
    policy(1, monthly(Some(10)))
}

/// Account 1 with one grant of so many credits.
pub fn account_with_grant(credits: i64) -> AccountEntry {
    let mut account = account(1, monthly(Some(10)));
    account.prepaid = grants(&[grant("sample", credits, None)]);
    account
}

pub fn key_1() -> KeyEntry {
    key(1, 1, monthly(Some(10)))
}
