//! Foresees at RCPT that the ledger would refuse a message for lack of credits, so that it is not uploaded in vain.
//!
//! Only the fact that a holder was short a moment ago is remembered, never how short: the figures are read from the
//! ledger for each answer, with the limits that hold then. So a raised limit, a top-up, a refund and a charge of any
//! relay count at once. If they cannot be read, nothing is refused here; the reserve call has the last word.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::smtp::reply::Shortage;
use crate::domain::credit::{Chain, Meter};
use crate::domain::id::Holder;
use crate::ledger::Store;
use crate::ledger::store::{Exhausted, short_of};

/// Time after a refusal in which the balances are read before an upload. A sender that is still short then pays one
/// upload a second for it.
const MEMORY: Duration = Duration::from_secs(1);
/// Maximum number of holders remembered; more are short only in an attack, and forgetting one costs an upload.
const HOLDERS_MAX: usize = 10_000;
/// Maximum number of reads at a time: a client that keeps naming recipients gets these, and no more of the ledger.
const READS_MAX: usize = 16;
/// Maximum time for a read. It saves an upload, so a slow ledger is not waited for.
const READ_LIMIT: Duration = Duration::from_secs(1);

pub struct Shortages {
    /// Holders that lacked credits, each with the time until which that is remembered.
    short: Mutex<HashMap<Holder, Instant>>,
    reads: Semaphore,
}

impl Default for Shortages {
    fn default() -> Self {
        Self { short: Mutex::default(), reads: Semaphore::new(READS_MAX) }
    }
}

impl Shortages {
    /// Notes that the ledger refused a message of `chain` because `meter` lacked credits.
    pub fn remember(&self, chain: Chain, meter: Meter, now: Instant) {
        let mut short = self.short.lock();
        if short.len() >= HOLDERS_MAX {
            short.retain(|_, until| now < *until);
            if short.len() >= HOLDERS_MAX {
                return;
            }
        }
        short.insert(holder(chain, meter), now + MEMORY);
    }

    /// Forgets that any holder of `chain` was short: credits come back to it, and the ledger may not have them yet.
    pub fn forget(&self, chain: Chain) {
        let mut short = self.short.lock();
        if !short.is_empty() {
            for holder in chain.holders() {
                short.remove(&holder);
            }
        }
    }

    fn was_short(&self, chain: Chain, now: Instant) -> bool {
        let short = self.short.lock();
        !short.is_empty() && chain.holders().iter().any(|holder| short.get(holder).is_some_and(|until| now < *until))
    }

    /// Returns what a message of `credits` lacks now, if a holder of its chain was short a moment ago.
    pub async fn foresee(&self, store: &dyn Store, chain: Chain, credits: usize) -> Option<Shortage> {
        if !self.was_short(chain, Instant::now()) {
            return None;
        }
        let credits = i64::try_from(credits).ok()?;
        let _place = self.reads.try_acquire().ok()?;
        let holders = chain.holders();
        let balances = timeout(READ_LIMIT, store.balances(&holders)).await.ok()?.ok()?;
        let Exhausted { meter, granted, remaining, reopens_at } = short_of(&balances, credits)?;
        // The balances may lack a refund that was settled meanwhile.
        self.was_short(chain, Instant::now()).then_some(Shortage { meter, granted, remaining, reopens_at })
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
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::{AccountId, KeyId, PolicyId};

    fn chain(key: u128, account: u128) -> Chain {
        let id = Uuid::from_u128;
        Chain { key: KeyId(id(key)), account: AccountId(id(account)), policy: PolicyId(id(9)) }
    }

    #[test]
    fn a_holder_that_was_short_is_remembered_for_a_second_or_until_credits_come_back() {
        let (shortages, now) = (Shortages::default(), Instant::now());
        let (sender, colleague, other) = (chain(1, 1), chain(2, 1), chain(3, 2));
        let short = |now| [sender, colleague, other].map(|chain| shortages.was_short(chain, now));
        assert_eq!(short(now), [false; 3]);
        shortages.remember(sender, Meter::AccountCap, now);
        assert_eq!(short(now), [true, true, false]);
        assert_eq!(short(now + MEMORY), [false; 3]);
        shortages.forget(colleague);
        assert_eq!(short(now), [false; 3]);
        shortages.remember(sender, Meter::KeyCap, now);
        assert_eq!(short(now), [true, false, false]);
        shortages.remember(sender, Meter::PolicyPool, now);
        assert_eq!(short(now), [true; 3]);
    }

    #[test]
    fn no_more_holders_are_remembered_than_there_is_room_for() {
        let (shortages, now) = (Shortages::default(), Instant::now());
        for n in 0..2 * HOLDERS_MAX as u128 {
            shortages.remember(chain(n, 1), Meter::KeyCap, now);
        }
        let remembered = || shortages.short.lock().len();
        assert_eq!(remembered(), HOLDERS_MAX);
        shortages.remember(chain(0, 1), Meter::KeyCap, now + MEMORY);
        assert_eq!(remembered(), 1, "what is over makes room");
    }
}
