//! The hash of the config in force on the relays, which the task `effective` computes and every policy's status shows.

use parking_lot::Mutex;

#[derive(Default)]
pub struct ConfigHash(Mutex<Option<String>>);

impl ConfigHash {
    /// Returns the hash; `None` until the config was written once.
    pub fn get(&self) -> Option<String> {
        self.0.lock().clone()
    }

    /// Replaces the hash. Returns true if it changed.
    pub fn replace(&self, hash: &str) -> bool {
        let old = self.0.lock().replace(hash.to_owned());
        old.as_deref() != Some(hash)
    }
}
