//! How long a call that failed waits before it is made again.

use std::time::Duration;

/// Between two tries of a call that failed: first, doubling, at most.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// The pauses between tries.
pub struct Retry(Duration);

impl Retry {
    pub fn new() -> Self {
        Self(FIRST)
    }

    pub fn is_first(&self) -> bool {
        self.0 == FIRST
    }

    pub fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        pause
    }
}
