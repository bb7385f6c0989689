//! The memory for bodies that are being read or forwarded, and how tenants share it.
//!
//! It is taken as octets arrive, never on a client's announcement. A namespace may hold as much as it leaves free for
//! all others: alone half of it, two of them a third each. However many fill their shares, there is room left for the
//! next one's messages. (Switches share packet buffers by this rule, the dynamic threshold of Choudhury and Hahne,
//! 1998.)
//!
//! The limits are passed with each call: they change live, and what was taken under an older limit stays counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::metrics::{MemoryLimit, Metrics};
use crate::domain::directory::AccountEntry;
use crate::domain::id::AccountId;
use crate::runtime::relay_config::Limits;

/// The memory of all bodies of a relay. Cheap to clone.
#[derive(Clone)]
pub struct BodyMemory(Arc<Shared>);

struct Shared {
    taken: Mutex<Taken>,
    metrics: Metrics,
}

/// Number of octets held. No entry is left at 0, so the number of connections bounds the tables.
#[derive(Default)]
struct Taken {
    all: usize,
    namespaces: HashMap<Arc<str>, usize>,
    accounts: HashMap<AccountId, usize>,
}

/// The memory that one body holds. Released when the message is finished.
pub struct HeldMemory {
    memory: BodyMemory,
    namespace: Arc<str>,
    account: AccountId,
    octets: usize,
}

impl BodyMemory {
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Shared { taken: Mutex::default(), metrics }))
    }

    /// Returns the memory for a body of `account`, none of it taken yet.
    pub fn of(&self, account: &AccountEntry) -> HeldMemory {
        let namespace = Arc::from(account.namespace.as_str());
        HeldMemory { memory: self.clone(), namespace, account: account.id, octets: 0 }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock()
    }
}

impl Taken {
    /// Returns the limit that forbids `more` octets.
    fn refuses(&self, more: usize, of: &HeldMemory, limits: &Limits) -> Option<MemoryLimit> {
        let after = |held: Option<&usize>| held.copied().unwrap_or(0).saturating_add(more);
        let all = self.all.saturating_add(more);
        if all > limits.bytes_in_flight {
            Some(MemoryLimit::All)
        } else if after(self.namespaces.get(&of.namespace)) > limits.bytes_per_namespace(all) {
            Some(MemoryLimit::Namespace)
        } else if after(self.accounts.get(&of.account)) > limits.bytes_per_account() {
            Some(MemoryLimit::Account)
        } else {
            None
        }
    }
}

impl HeldMemory {
    /// Checks whether a body of `octets` would fit at this moment. Takes nothing.
    pub fn has_room_for(&self, octets: usize, limits: &Limits) -> bool {
        let more = octets.checked_sub(self.octets).filter(|more| *more > 0);
        let refused = more.and_then(|more| self.memory.taken().refuses(more, self, limits));
        if let Some(limit) = refused {
            self.memory.0.metrics.memory_refused(limit);
        }
        refused.is_none()
    }

    /// Takes more, up to `octets` in all. Returns false, and takes nothing, if a limit forbids it.
    pub fn grow_to(&mut self, octets: usize, limits: &Limits) -> bool {
        let Some(more) = octets.checked_sub(self.octets).filter(|more| *more > 0) else { return true };
        let mut taken = self.memory.taken();
        if let Some(limit) = taken.refuses(more, self, limits) {
            drop(taken);
            self.memory.0.metrics.memory_refused(limit);
            return false;
        }
        taken.all += more;
        *taken.namespaces.entry(self.namespace.clone()).or_default() += more;
        *taken.accounts.entry(self.account).or_default() += more;
        self.memory.0.metrics.in_flight(taken.all);
        drop(taken);
        self.octets = octets;
        true
    }

    /// Releases all of it.
    pub fn release(&mut self) {
        if self.octets == 0 {
            return;
        }
        let mut taken = self.memory.taken();
        taken.all -= self.octets;
        give_back(&mut taken.namespaces, &self.namespace, self.octets);
        give_back(&mut taken.accounts, &self.account, self.octets);
        self.memory.0.metrics.in_flight(taken.all);
        drop(taken);
        self.octets = 0;
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.release();
    }
}

fn give_back<K: Eq + Hash>(held: &mut HashMap<K, usize>, of: &K, octets: usize) {
    if let Some(left) = held.get_mut(of) {
        *left -= octets;
        if *left == 0 {
            held.remove(of);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::credit::Limit;
    use crate::domain::id::PolicyId;
    use crate::domain::period::Calendar;
    use crate::runtime::metrics::Registry;

    fn account(namespace: &str, n: u128) -> AccountEntry {
        AccountEntry {
            id: AccountId(Uuid::from_u128(n)),
            policy: PolicyId(Uuid::nil()),
            namespace: namespace.to_owned(),
            name: String::new(),
            suspended: None,
            cap: Limit { credits: None, calendar: Calendar::monthly_utc() },
            prepaid: None,
            spend_limit_micro: None,
            rate: None,
            allowed_senders: None,
            departures: Vec::new(),
            settings: None,
            removed_at: None,
        }
    }

    fn limits() -> Limits {
        Limits { message_bytes: 10, bytes_in_flight: 120, bytes_in_flight_per_account: Some(50), ..Limits::default() }
    }

    /// Returns the octets that an account, and a namespace that is alone, may hold.
    fn shares(limits: &Limits) -> [Option<usize>; 2] {
        let shown = limits.with_shares();
        [shown.bytes_in_flight_per_account, shown.bytes_in_flight_per_namespace]
    }

    fn memory() -> BodyMemory {
        BodyMemory::new(Metrics::new(&Registry::new()))
    }

    #[test]
    fn a_namespace_holds_as_much_as_it_leaves_free_and_an_account_less() {
        let (memory, limits) = (memory(), limits());
        let mut first = memory.of(&account("greedy", 1));
        assert!(first.grow_to(50, &limits) && !first.grow_to(51, &limits), "50 are the account's");
        let mut second = memory.of(&account("greedy", 2));
        assert!(second.grow_to(10, &limits) && !second.grow_to(11, &limits), "60 are the namespace's");
        assert_eq!(shares(&limits), [Some(50), Some(60)], "as people are shown");
        assert!(!second.has_room_for(11, &limits) && second.has_room_for(10, &limits));
        assert_eq!(memory.taken().all, 60, "what is refused is not taken from the others");
        let mut other = memory.of(&account("other", 3));
        assert!(other.grow_to(30, &limits) && !other.grow_to(31, &limits), "half of what is left");
        assert!(memory.of(&account("third", 4)).grow_to(15, &limits), "and there is room for one more");
        drop((first, second, other));
        assert_eq!(memory.taken().all, 0);
        assert!(memory.taken().namespaces.is_empty() && memory.taken().accounts.is_empty());
    }

    #[test]
    fn a_fixed_share_bounds_a_namespace_besides() {
        let limits = Limits { bytes_in_flight_per_namespace: Some(20), ..limits() };
        let memory = memory();
        let mut one = memory.of(&account("greedy", 1));
        assert!(one.grow_to(20, &limits) && !one.grow_to(21, &limits));
        one.release();
        assert!(one.grow_to(20, &limits), "what is given back is free");
        assert_eq!(
            shares(&limits),
            [Some(20), Some(20)],
            "as people are shown: an account has no more than its namespace"
        );
    }
}
