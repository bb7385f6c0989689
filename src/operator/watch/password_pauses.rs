//! Bounds how often a Secret that brings passwords wakes the keys that name it.
//!
//! Each change has every key that names the Secret read, judged and written again, so a tenant that changes one Secret
//! of a thousand keys back and forth would have the operator do a thousand times the tenant's own work. The first changes
//! are followed at once. After them one pass of the keys is due each [`PAUSE`], and finds what the Secret has then.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::operator::object_ref::Name;

/// Interval between the changes of a Secret that are followed, in the long run.
const PAUSE: Duration = Duration::from_secs(10);
/// Changes that are followed at once: somebody tries a password that is too short, mends it, and changes their mind.
const AT_ONCE: u32 = 6;

pub struct PasswordPauses {
    secrets: Mutex<Secrets>,
    news: Notify,
}

impl Default for PasswordPauses {
    fn default() -> Self {
        Self::new(PAUSE)
    }
}

impl PasswordPauses {
    fn new(pause: Duration) -> Self {
        Self { secrets: Mutex::new(Secrets::new(pause)), news: Notify::new() }
    }

    /// Records a change of a Secret. Returns true if its keys are to be woken now; if not, [`Self::run`] wakes them.
    pub fn changed(&self, secret: &Name) -> bool {
        let is_now = self.secrets.lock().change(secret, Instant::now());
        if !is_now {
            self.news.notify_one();
        }
        is_now
    }

    /// Wakes the keys of the Secrets that had to wait, until the future is dropped.
    pub async fn run(&self, wake: impl Fn(&Name)) {
        loop {
            let due = self.secrets.lock().due.first().map(|(at, _)| *at);
            match due {
                Some(at) => tokio::select! {
                    () = sleep_until(at) => self.secrets.lock().take_due(Instant::now()).iter().for_each(&wake),
                    () = self.news.notified() => {}
                },
                None => self.news.notified().await,
            }
        }
    }
}

struct Secrets {
    pause: Duration,
    /// The instant from which all changes of a Secret are made up for. Absent: they are.
    rested_at: HashMap<Name, Instant>,
    /// The Secrets that wait, each once.
    due: BTreeSet<(Instant, Name)>,
}

impl Secrets {
    fn new(pause: Duration) -> Self {
        Self { pause, rested_at: HashMap::new(), due: BTreeSet::new() }
    }

    fn change(&mut self, secret: &Name, now: Instant) -> bool {
        self.rested_at.retain(|_, at| now < *at);
        let rested_at = self.rested_at.get(secret).copied().unwrap_or(now);
        let waits = rested_at.duration_since(now).saturating_sub(self.pause * (AT_ONCE - 1));
        if !waits.is_zero() {
            self.due.insert((now + waits, secret.clone()));
            return false;
        }
        self.due.retain(|(_, other)| other != secret);
        self.rested_at.insert(secret.clone(), rested_at + self.pause);
        true
    }

    fn take_due(&mut self, now: Instant) -> Vec<Name> {
        let mut taken = vec![];
        while let Some((at, secret)) = self.due.first().cloned().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            *self.rested_at.entry(secret.clone()).or_insert(at) += self.pause;
            taken.push(secret);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u32 = 1_000;
    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn the_first_changes_are_followed_at_once_and_then_one_each_pause() {
        let (start, mut secrets) = (Instant::now(), Secrets::new(PAUSE));
        let (flipped, other) = (Name::new("team", "flipped"), Name::new("team", "other"));
        let tick = PAUSE / 100;
        let mut followed = 0;
        for ticks in 0..MANY {
            let now = start + tick * ticks;
            followed += u32::try_from(secrets.take_due(now).len()).expect("few");
            followed += u32::from(secrets.change(&flipped, now));
            assert!(secrets.due.len() <= 1, "one that waits is kept once");
            assert!(
                followed <= AT_ONCE + ticks / 100 && (ticks < AT_ONCE || followed >= AT_ONCE),
                "{ticks}: {followed}"
            );
        }
        assert_eq!(followed, AT_ONCE + (MANY - 1) / 100);
        // Another Secret has not changed.
        let now = start + tick * MANY;
        assert!(secrets.change(&other, now));
        // The last change is followed too, and then all is forgotten.
        assert_eq!(secrets.take_due(now + PAUSE), std::slice::from_ref(&flipped));
        let later = now + PAUSE * (AT_ONCE + 2);
        assert!(secrets.take_due(later).is_empty());
        assert!(secrets.change(&flipped, later));
        assert_eq!(secrets.rested_at.len(), 1);
    }

    #[tokio::test]
    async fn the_keys_of_a_secret_that_waits_are_woken_once_when_it_is_due() {
        let (pauses, secret) = (PasswordPauses::new(Duration::from_millis(200)), Name::new("team", "flipped"));
        let (woken, begun) = (Notify::new(), Instant::now());
        let at_once = (0..1_000).filter(|_| pauses.changed(&secret)).count();
        assert!(at_once < 1_000, "none of the changes had to wait");
        let run = pauses.run(|name| {
            assert_eq!(*name, secret);
            woken.notify_one();
        });
        tokio::select! {
            () = run => {}
            woken = tokio::time::timeout(SOON, woken.notified()) => woken.expect("the last change is lost"),
        }
        assert!(begun.elapsed() >= Duration::from_millis(200), "it did not wait");
        assert!(pauses.secrets.lock().due.is_empty());
    }
}
