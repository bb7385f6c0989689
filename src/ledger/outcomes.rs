//! Outcomes that wait to be written. None is dropped while the process lives.
//!
//! An outcome that gives nothing back waits a moment for others to share its transaction: no client waits for it, and a
//! transaction for a few of them costs as much as one that charges. If the process dies in that moment, all that is
//! lost is that the message got through; it stays charged either way.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::store::Settlement;

/// Maximum messages of one call. Measured: 500 share a commit's cost well enough.
pub(super) const BATCH: usize = 500;
/// Time that an outcome may wait for others: a busy relay collects a batch in it, and a person who looks at figures
/// sees no difference.
const COMPANY: Duration = Duration::from_millis(20);

/// A first-in, first-out queue that notifies its reader.
#[derive(Default)]
pub struct Outcomes {
    queue: Mutex<Queue>,
    bell: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Number of those that must not wait for others.
    urgent: usize,
}

struct Waiting {
    settlement: Settlement,
    since: Instant,
    urgent: bool,
    /// Notified when it is written.
    written: Option<oneshot::Sender<()>>,
}

impl Outcomes {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    pub fn push(&self, settlement: Settlement) {
        let urgent = settlement.outcome.refunds() || settlement.dedup.is_some();
        self.add(Waiting { settlement, since: Instant::now(), urgent, written: None });
    }

    pub fn push_heard(&self, settlement: Settlement, written: oneshot::Sender<()>) {
        self.add(Waiting { settlement, since: Instant::now(), urgent: true, written: Some(written) });
    }

    fn add(&self, waiting: Waiting) {
        let mut queue = self.queue();
        queue.urgent += usize::from(waiting.urgent);
        let rings = waiting.urgent || matches!(queue.waiting.len() + 1, 1 | BATCH);
        queue.waiting.push_back(waiting);
        drop(queue);
        if rings {
            self.bell.notify_one();
        }
    }

    pub fn len(&self) -> usize {
        self.queue().waiting.len()
    }

    /// Returns when the oldest are to be written. `None` while there are none.
    pub fn due(&self) -> Option<Instant> {
        let queue = self.queue();
        let oldest = queue.waiting.front()?.since;
        Some(if queue.urgent > 0 || queue.waiting.len() >= BATCH { oldest } else { oldest + COMPANY })
    }

    /// Returns the oldest, left in the queue until they are written.
    pub fn oldest(&self, limit: usize) -> Vec<Settlement> {
        self.queue().waiting.iter().take(limit).map(|waiting| waiting.settlement).collect()
    }

    pub fn written(&self, count: usize) {
        let mut queue = self.queue();
        let written: Vec<Waiting> = queue.waiting.drain(..count).collect();
        queue.urgent -= written.iter().filter(|waiting| waiting.urgent).count();
        drop(queue);
        for heard in written.into_iter().filter_map(|waiting| waiting.written) {
            // The caller that waited may have gone on.
            let _ = heard.send(());
        }
    }

    /// Puts the oldest behind the others: it cannot be written, and the others must not wait for it.
    pub fn postpone(&self) {
        self.queue().waiting.rotate_left(1);
    }

    /// Returns when [`due`](Self::due) may have changed since it was last asked, and after [`wake`](Self::wake).
    pub async fn changed(&self) {
        self.bell.notified().await;
    }

    pub fn wake(&self) {
        self.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::credit::Outcome;
    use crate::domain::id::MessageId;

    fn outcome(outcome: Outcome) -> Settlement {
        Settlement::of(MessageId(Uuid::nil()), outcome)
    }

    fn waits(outcomes: &Outcomes) -> bool {
        outcomes.due().expect("something waits") > Instant::now()
    }

    #[test]
    fn what_gives_nothing_back_waits_for_company_and_a_refund_for_nobody() {
        let outcomes = Outcomes::default();
        assert_eq!(outcomes.due(), None);
        let before = Instant::now();
        outcomes.push(outcome(Outcome::Relayed));
        let due = outcomes.due().expect("one waits");
        assert!((before + COMPANY..=Instant::now() + COMPANY).contains(&due));
        for refund in [Outcome::Refused, Outcome::NotOffered] {
            outcomes.push(outcome(refund));
            assert!(!waits(&outcomes), "{refund:?}");
        }
        outcomes.written(3);
        assert_eq!(outcomes.due(), None);
    }

    #[test]
    fn whoever_listens_and_a_whole_batch_wait_for_nobody() {
        let outcomes = Outcomes::default();
        let (written, mut heard) = oneshot::channel();
        outcomes.push_heard(outcome(Outcome::Relayed), written);
        assert!(!waits(&outcomes));
        outcomes.written(1);
        assert_eq!(heard.try_recv(), Ok(()));
        for _ in 0..BATCH - 1 {
            outcomes.push(outcome(Outcome::Unknown));
        }
        let later = outcomes.due().expect("many wait");
        outcomes.push(outcome(Outcome::Unknown));
        assert!(outcomes.due().expect("a batch waits") < later);
    }
}
