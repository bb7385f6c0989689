//! The connections of one upstream, and how its senders share them.
//!
//! Each permit is one connection in use. A namespace may use three quarters of them, so that one whose messages take
//! the upstream long (because of their recipients, say) leaves some to the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// Maximum number of namespaces that are remembered without a message in progress.
const IDLE_SHARES_MAX: usize = 1_024;

pub(super) struct Slots {
    all: Semaphore,
    connections: usize,
    shares: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
    waiting: AtomicUsize,
    /// Maximum number of messages that wait.
    queue: usize,
}

/// The place of one connection; released when it is dropped.
pub(super) struct Slot<'a> {
    _share: OwnedSemaphorePermit,
    _all: SemaphorePermit<'a>,
}

impl Slots {
    pub fn new(connections: usize, queue: usize) -> Self {
        Self {
            all: Semaphore::new(connections),
            connections,
            shares: Mutex::default(),
            waiting: AtomicUsize::new(0),
            queue,
        }
    }

    /// Waits for a place, in order, at most until `deadline`. `on_share` is called if it must wait because its
    /// namespace uses up its share.
    pub async fn take(&self, namespace: &Arc<str>, deadline: Instant, on_share: impl FnOnce()) -> Option<Slot<'_>> {
        let share = self.share(namespace);
        let own = share.clone().try_acquire_owned();
        if own.is_err() {
            on_share();
        }
        if let Ok(own) = own {
            if let Ok(all) = self.all.try_acquire() {
                return Some(Slot { _share: own, _all: all });
            }
            let _place = Waiting::begin(&self.waiting, self.queue)?;
            let all = timeout_at(deadline, self.all.acquire()).await.ok()?.ok()?;
            return Some(Slot { _share: own, _all: all });
        }
        let _place = Waiting::begin(&self.waiting, self.queue)?;
        let taken = async {
            let own = share.acquire_owned().await.ok()?;
            Some(Slot { _share: own, _all: self.all.acquire().await.ok()? })
        };
        timeout_at(deadline, taken).await.ok()?
    }

    /// True if no connection is in use.
    pub fn is_idle(&self) -> bool {
        self.all.available_permits() == self.connections
    }

    fn share(&self, namespace: &Arc<str>) -> Arc<Semaphore> {
        let mut shares = self.shares.lock();
        if let Some(share) = shares.get(namespace).and_then(Weak::upgrade) {
            return share;
        }
        if shares.len() >= IDLE_SHARES_MAX {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(self.connections - self.connections / 4));
        shares.insert(namespace.clone(), Arc::downgrade(&share));
        share
    }
}

/// A place in the queue for a connection.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::AcqRel) < limit).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn take<'a>(slots: &'a Slots, namespace: &str) -> Option<Slot<'a>> {
        slots.take(&Arc::from(namespace), Instant::now() + Duration::from_millis(20), || {}).await
    }

    #[tokio::test]
    async fn a_namespace_leaves_a_quarter_to_the_others() {
        let slots = Slots::new(8, 10);
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(take(&slots, "greedy").await.expect("its share"));
        }
        assert!(take(&slots, "greedy").await.is_none());
        let mut others = vec![take(&slots, "one").await.expect("free"), take(&slots, "two").await.expect("free")];
        assert!(take(&slots, "one").await.is_none(), "all are in use");
        held.pop();
        others.push(take(&slots, "one").await.expect("free again"));
        drop((held, others));
        assert!(slots.is_idle());
    }

    #[tokio::test]
    async fn of_few_connections_a_namespace_may_use_all() {
        for connections in 1..4 {
            let slots = Slots::new(connections, 10);
            let mut held = Vec::new();
            for _ in 0..connections {
                held.push(take(&slots, "alone").await.expect("a connection"));
            }
            assert!(take(&slots, "other").await.is_none());
        }
    }

    #[tokio::test]
    async fn no_more_messages_wait_than_may() {
        let slots = Slots::new(1, 0);
        let held = take(&slots, "one").await.expect("a connection");
        assert!(take(&slots, "two").await.is_none());
        drop(held);
        assert!(take(&slots, "two").await.is_some());
    }

    #[tokio::test]
    async fn namespaces_that_are_gone_are_forgotten() {
        let slots = Slots::new(4, 10);
        for n in 0..3 * IDLE_SHARES_MAX {
            drop(take(&slots, &n.to_string()).await.expect("a connection"));
        }
        assert!(slots.shares.lock().len() <= IDLE_SHARES_MAX);
    }
}
