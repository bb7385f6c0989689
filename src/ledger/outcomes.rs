//! Outcomes that wait to be written. None is dropped while the process lives.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::store::Settlement;

/// First in, first out, and a bell.
#[derive(Default)]
pub struct Outcomes {
    waiting: Mutex<VecDeque<Waiting>>,
    added: Notify,
}

struct Waiting {
    settlement: Settlement,
    /// Who wants to hear when it is written.
    written: Option<oneshot::Sender<()>>,
}

impl Outcomes {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, settlement: Settlement) {
        self.waiting().push_back(Waiting { settlement, written: None });
        self.added.notify_one();
    }

    pub fn push_heard(&self, settlement: Settlement, written: oneshot::Sender<()>) {
        self.waiting().push_back(Waiting { settlement, written: Some(written) });
        self.added.notify_one();
    }

    pub fn len(&self) -> usize {
        self.waiting().len()
    }

    /// The oldest, left where they are until they are written.
    pub fn oldest(&self, limit: usize) -> Vec<Settlement> {
        self.waiting().iter().take(limit).map(|waiting| waiting.settlement).collect()
    }

    pub fn written(&self, count: usize) {
        for Waiting { written, .. } in self.waiting().drain(..count) {
            // Whoever waited may have gone on.
            let _ = written.map(|written| written.send(()));
        }
    }

    /// Puts the oldest behind the others: it cannot be written by itself, and they must not wait for it.
    pub fn postpone(&self) {
        self.waiting().rotate_left(1);
    }

    /// Returns when something was added since it was last asked. Rings also for [`wake`](Self::wake).
    pub async fn added(&self) {
        self.added.notified().await;
    }

    pub fn wake(&self) {
        self.added.notify_one();
    }
}
