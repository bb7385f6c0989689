//! The relays' last report of the policies' upstreams.

use crate::domain::trouble::Sightings;
use std::sync::{Arc, Mutex, PoisonError};
/// The latest word; `None` before the first.
#[derive(Default)]
pub struct Upstreams(Mutex<Option<Arc<Sightings>>>);

impl Upstreams {
    pub fn latest(&self) -> Option<Arc<Sightings>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn replace(&self, next: Arc<Sightings>) -> Option<Arc<Sightings>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(next)
    }
}
