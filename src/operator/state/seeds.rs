//! The source of random generators.

use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Makes generators from the one that the process was started with.
pub struct Seeds(Mutex<StdRng>);

impl Seeds {
    pub fn new(rng: StdRng) -> Self {
        Self(Mutex::new(rng))
    }

    /// Returns a new generator, so that no lock is held while a plan is made.
    pub fn rng(&self) -> StdRng {
        StdRng::from_rng(&mut *self.0.lock())
    }
}
