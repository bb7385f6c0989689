//! The pauses before a failed call is retried.

use std::time::Duration;

/// First and longest pause between two tries of a failed call; the pause doubles in between.
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
