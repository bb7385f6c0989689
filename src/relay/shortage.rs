//! Shortages seen a moment ago, to answer 452 at RCPT before a large upload. Never 5xx, and never longer than
//! [`MEMORY`]: the ledger has the word, this only saves an upload that it would refuse.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::smtp::reply::Shortage;
use crate::domain::credit::{Chain, Meter};
use crate::domain::id::Holder;

/// How long a shortage is believed. A top-up is felt after a second at most.
const MEMORY: Duration = Duration::from_secs(1);
/// Holders remembered at once; more than this are short only in an attack, and forgetting costs an upload.
const HOLDERS_MAX: usize = 10_000;

#[derive(Default)]
pub struct Shortages(Mutex<HashMap<Holder, (Instant, Shortage)>>);

impl Shortages {
    pub fn remember(&self, chain: Chain, shortage: Shortage, now: Instant) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= HOLDERS_MAX {
            seen.retain(|_, (until, _)| now < *until);
            if seen.len() >= HOLDERS_MAX {
                return;
            }
        }
        seen.insert(holder(chain, shortage.meter), (now + MEMORY, shortage));
    }

    /// The shortage that would refuse `credits`, if one was seen a moment ago.
    pub fn foresee(&self, chain: Chain, credits: usize, now: Instant) -> Option<Shortage> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_empty() {
            return None;
        }
        chain.holders().iter().find_map(|holder| {
            let (until, shortage) = seen.get(holder)?;
            let short = now < *until && i64::try_from(credits).is_ok_and(|credits| credits > shortage.remaining);
            short.then(|| shortage.clone())
        })
    }
}

fn holder(chain: Chain, meter: Meter) -> Holder {
    match meter {
        Meter::KeyCap => Holder::Key(chain.key),
        Meter::AccountSpend | Meter::AccountCap | Meter::AccountPrepaid => Holder::Account(chain.account),
        Meter::PolicyPrepaid | Meter::PolicyPool => Holder::Policy(chain.policy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{AccountId, KeyId, PolicyId};
    use uuid::Uuid;

    #[test]
    fn a_shortage_is_foreseen_for_a_second_and_only_for_what_does_not_fit() {
        let id = Uuid::from_u128;
        let chain = Chain { key: KeyId(id(1)), account: AccountId(id(2)), policy: PolicyId(id(3)) };
        let shortage = Shortage {
            meter: Meter::AccountCap,
            granted: 10,
            remaining: 2,
            reopens_at: Some("2026-12-01T00:00:00Z".parse().expect("a time")),
        };
        let (shortages, now) = (Shortages::default(), Instant::now());
        assert_eq!(shortages.foresee(chain, 3, now), None);
        shortages.remember(chain, shortage.clone(), now);
        assert_eq!(shortages.foresee(chain, 2, now), None);
        assert_eq!(shortages.foresee(chain, 3, now), Some(shortage.clone()));
        let colleague = Chain { key: KeyId(id(9)), ..chain };
        assert_eq!(shortages.foresee(colleague, 3, now), Some(shortage));
        let stranger = Chain { account: AccountId(id(9)), ..chain };
        assert_eq!(shortages.foresee(stranger, 3, now), None);
        assert_eq!(shortages.foresee(chain, 3, now + MEMORY), None);
    }
}
