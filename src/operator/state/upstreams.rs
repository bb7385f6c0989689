//! The relays' last report on the policies' upstreams.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::trouble::Sightings;
/// The latest report; `None` before the first.
#[derive(Default)]
pub struct Upstreams(Mutex<Option<Arc<Sightings>>>);

impl Upstreams {
    pub fn latest(&self) -> Option<Arc<Sightings>> {
        self.0.lock().clone()
    }

    pub fn replace(&self, next: Arc<Sightings>) -> Option<Arc<Sightings>> {
        self.0.lock().replace(next)
    }
}
