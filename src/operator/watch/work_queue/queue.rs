//! The queue that passes are taken from.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::schedule::{Cause, Ended, Places, Schedule};
use crate::operator::object_ref::Name;

/// One loop takes objects from it; any task may wake one.
pub struct WorkQueue {
    schedule: Mutex<Schedule>,
    /// There is more to take, or a place for it.
    news: Notify,
}

impl WorkQueue {
    pub fn new(places: Places) -> Self {
        Self { schedule: Mutex::new(Schedule::new(places)), news: Notify::new() }
    }

    /// Gives an object a pass.
    pub fn wake(&self, name: Name, cause: Cause) {
        self.schedule().wake(name, cause);
        self.news.notify_one();
    }

    /// Waits for the object whose turn it is, and for a place. Nothing is taken where the future is dropped before it
    /// is ready. Each that is taken must be given back by [`end`](Self::end) or [`fail`](Self::fail).
    pub async fn next(&self) -> Name {
        loop {
            let due = {
                let mut schedule = self.schedule();
                if let Some(name) = schedule.take(std::time::Instant::now()) {
                    return name;
                }
                schedule.next_due()
            };
            match due {
                Some(due) => tokio::select! {
                    () = sleep_until(due.into()) => {}
                    () = self.news.notified() => {}
                },
                None => self.news.notified().await,
            }
        }
    }

    /// Objects that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.schedule().waiting()
    }

    /// A pass succeeded. The object is looked at again `after` so long, although nothing changed.
    pub fn succeed(&self, name: Name, after: Option<Duration>) {
        let now = Instant::now().into_std();
        self.end(name, after.map_or(Ended::Settled, |after| Ended::LookAgain(now + after)));
    }

    /// The passes before the one that is under way that failed in a row.
    pub fn failures(&self, name: &Name) -> u32 {
        self.schedule().failures(name)
    }

    /// A pass failed, and is tried again after the delay that follows from the number of failures in a row.
    pub fn fail(&self, name: Name, delay: impl FnOnce(u32) -> Duration) {
        let failures = self.schedule().fail(&name);
        let at = Instant::now().into_std() + delay(failures);
        self.end(name, Ended::Failed(at));
    }

    /// The object that was taken is gone.
    pub fn drop_gone(&self, name: Name) {
        self.end(name, Ended::Gone);
    }

    fn end(&self, name: Name, ended: Ended) {
        self.schedule().end(name, ended, std::time::Instant::now());
        self.news.notify_one();
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock()
    }
}
