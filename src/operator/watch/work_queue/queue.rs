//! The queue that passes are taken from.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::schedule::{Cause, Ended, Places, Schedule};
use crate::operator::object_ref::Name;

/// Queue from which one loop takes objects; any task may wake one.
pub struct WorkQueue {
    schedule: Mutex<Schedule>,
    /// Signals that there may be more to take, or a free place.
    news: Notify,
}

impl WorkQueue {
    pub fn new(places: Places) -> Self {
        Self { schedule: Mutex::new(Schedule::new(places)), news: Notify::new() }
    }

    /// Schedules a pass for an object.
    pub fn wake(&self, name: Name, cause: Cause) {
        self.schedule().wake(name, cause);
        self.news.notify_one();
    }

    /// Waits for the next object and for a place. Takes nothing if the future is dropped before it is ready. Each
    /// object taken must be given back by [`end`](Self::end) or [`fail`](Self::fail).
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

    /// Returns the number of objects that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.schedule().waiting()
    }

    /// Ends a pass that succeeded. The object is reconciled again `after` this time, although nothing changed.
    pub fn succeed(&self, name: Name, after: Option<Duration>) {
        let now = Instant::now().into_std();
        self.end(name, after.map_or(Ended::Settled, |after| Ended::RequeueAt(now + after)));
    }

    /// Returns the failures in a row before the pass under way.
    pub fn failures(&self, name: &Name) -> u32 {
        self.schedule().failures(name)
    }

    /// Ends a pass that failed; it is retried after the delay for the number of failures in a row.
    pub fn fail(&self, name: Name, delay: impl FnOnce(u32) -> Duration) {
        let failures = self.schedule().fail(&name);
        let at = Instant::now().into_std() + delay(failures);
        self.end(name, Ended::Failed(at));
    }

    /// Ends the turn of an object that is gone.
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
