//! Holds requests up until the test has looked.

use tokio::sync::watch;

use super::harness::DEADLINE;

/// Holds up what comes to it while it is shut.
#[derive(Default)]
pub struct Valve(watch::Sender<Held>);

#[derive(Default)]
struct Held {
    shut: bool,
    waiting: usize,
}

impl Valve {
    pub fn shut(&self) {
        self.0.send_modify(|held| held.shut = true);
    }

    pub fn open(&self) {
        self.0.send_modify(|held| held.shut = false);
    }

    pub fn is_shut(&self) -> bool {
        self.0.borrow().shut
    }

    /// Waits until something waits.
    pub async fn reached(&self) {
        self.reached_by(1).await;
    }

    /// Waits until so many wait.
    pub async fn reached_by(&self, count: usize) {
        let mut held = self.0.subscribe();
        let waited = tokio::time::timeout(DEADLINE, held.wait_for(|held| held.shut && held.waiting >= count)).await;
        // The sender is our own, so it is there as long as we are.
        drop(waited.expect("nothing came to the valve"));
    }

    pub async fn pass(&self) {
        self.0.send_modify(|held| held.waiting += 1);
        drop(self.0.subscribe().wait_for(|held| !held.shut).await);
        self.0.send_modify(|held| held.waiting -= 1);
    }
}
