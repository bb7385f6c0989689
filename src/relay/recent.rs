//! A table of bounded size that keeps what was touched lately.

use std::collections::HashMap;
use std::hash::Hash;

/// Two halves, of which the older one is discarded when the younger one is full. No step takes long, however many
/// strangers connect.
#[derive(Debug)]
pub struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash, V: Copy + Default> Recent<K, V> {
    pub fn seen(&self, key: K) -> Option<V> {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    /// Returns the entry of `key`, with at most `room` entries in both halves together.
    pub fn touch(&mut self, key: K, room: usize) -> &mut V {
        if !self.young.contains_key(&key) && self.young.len() >= (room / 2).max(1) {
            self.old = std::mem::take(&mut self.young);
        }
        let standing = self.old.remove(&key);
        self.young.entry(key).or_insert_with(|| standing.unwrap_or_default())
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
