//! A map in shards whose copies share the shards that none of them has written to.
//!
//! A copy costs a counter for each shard, and a write copies one shard: changing one entry among 100,000 does not copy
//! the others. (The existing persistent maps, `imbl` and `rpds`, are under the MPL, which `.deny.toml` does not allow.)

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::RandomState;

/// Maximum entries of a shard on average. With fewer, copies cost more; with more, writes cost more. Both cost
/// microseconds with 100,000 entries.
const SHARD: usize = 256;

/// A sharded map. Its default hasher is that of [`IdMap`](super::id::IdMap).
#[derive(Clone, Debug)]
pub struct Sharded<K, V, S = RandomState> {
    /// Shards, a power of two in number, so that some bits of a hash select one.
    shards: Vec<Arc<HashMap<K, V, S>>>,
    hasher: S,
    len: usize,
}

impl<K, V, S: Default> Default for Sharded<K, V, S> {
    fn default() -> Self {
        Self { shards: vec![Arc::default()], hasher: S::default(), len: 0 }
    }
}

impl<K: Eq + Hash + Clone, V: Clone, S: BuildHasher + Clone + Default> Sharded<K, V, S> {
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards[self.index(key)].get(key)
    }

    /// Inserts the value and returns the previous one of the key.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len >= SHARD * self.shards.len() {
            self.double();
        }
        let index = self.index(&key);
        let before = Arc::make_mut(&mut self.shards[index]).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let index = self.index(key);
        // Removing a missing key must not copy a shard.
        if !self.shards[index].contains_key(key) {
            return None;
        }
        self.len -= 1;
        Arc::make_mut(&mut self.shards[index]).remove(key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn index<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        self.hasher.hash_one(key) as usize & (self.shards.len() - 1)
    }

    fn double(&mut self) {
        let shards = std::mem::take(&mut self.shards);
        self.shards = vec![Arc::default(); shards.len() * 2];
        for shard in shards {
            for (key, value) in Arc::unwrap_or_clone(shard) {
                let index = self.index(&key);
                Arc::make_mut(&mut self.shards[index]).insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map_at_every_size() {
        let mut map: Sharded<u32, u32> = Sharded::default();
        for key in 0..10_000_u32 {
            assert_eq!(map.insert(key, key), None);
        }
        assert!(map.shards.len() >= 32, "{} shards", map.shards.len());
        assert_eq!((map.insert(7, 70), map.len()), (Some(7), 10_000));
        for key in (0..10_000).step_by(2) {
            assert_eq!(map.remove(&key), Some(key));
        }
        assert_eq!((map.remove(&2), map.len()), (None, 5_000));
        assert_eq!((map.get(&7), map.get(&8), map.get(&9)), (Some(&70), None, Some(&9)));
        assert_eq!(map.values().count(), 5_000);
    }

    #[test]
    fn a_copy_stays_as_it_is_and_shares_what_was_not_written() {
        let mut map: Sharded<u32, u32> = Sharded::default();
        (0..10_000).for_each(|key| assert_eq!(map.insert(key, key), None));
        let copy = map.clone();
        map.insert(5, 50);
        map.remove(&20_000);
        assert_eq!((copy.get(&5), map.get(&5)), (Some(&5), Some(&50)));
        let written = copy.shards.iter().zip(&map.shards).filter(|(old, new)| !Arc::ptr_eq(old, new)).count();
        assert_eq!(written, 1);
    }
}
