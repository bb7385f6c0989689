//! The relay's copy of the directory: pulled by epoch, and stale after two seconds.
//!
//! No permanent refusal is based on the copy. What the copy would refuse is looked up in the ledger first
//! ([`DirectoryCache::lookup`]), and the number of lookups at a time is bounded, because strangers can cause them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::settings::RelaySettings;
use crate::domain::credential::Username;
use crate::domain::directory::{Directory, Entry, Named};
use crate::domain::id::KeyId;
use crate::ledger::incarnation::Expected;
use crate::ledger::store::{REMEMBERED_FOR, Tag};
use crate::ledger::{Error, Store};
use crate::runtime::health::Gate;

/// Interval of pulls. A changed key works or fails within a second: five pulls.
const PULL_EVERY: Duration = Duration::from_millis(200);
/// Maximum age of a copy that senders are judged by.
const STALE_AFTER: Duration = Duration::from_secs(2);
/// Maximum time for one pull or lookup: as long as a copy may be old.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Maximum time for the first pull, which reads everything: 200,000 entries took eight seconds of a debug build on a
/// busy machine. If it were retried too early it would never be answered, so its limit doubles with each miss.
const WHOLE_LIMIT: Duration = Duration::from_secs(64);
/// Time that a removed key stays in the copy, so that its open sessions end with its name in the log. After that it is
/// like any unknown name, which is looked up in the ledger.
const REMOVED_KEPT: Duration = Duration::from_secs(600);
/// Maximum number of removed keys in the copy. Beyond it, those that were removed first leave at once.
const REMOVED_MAX: usize = 10_000;
/// Maximum number of lookups at a time. A password guesser gets these, and no more of the ledger.
const LOOKUPS_MAX: usize = 16;

/// The result of a fresh lookup.
pub enum Lookup {
    Found(Box<Named>),
    NotFound,
    /// The ledger did not answer, or too many lookups are in progress.
    Unavailable,
}

/// The state of the latest pull.
#[derive(Default)]
struct Pulled {
    incarnation: Uuid,
    epoch: i64,
    /// The highest epoch seen in this incarnation.
    highest: i64,
    removed: RemovedKeys,
}

/// Removed keys that are still in the copy, with the time when they leave it: oldest first.
#[derive(Default)]
struct RemovedKeys(VecDeque<(Instant, KeyId)>);

impl RemovedKeys {
    /// Takes over one row. Removed keys are left out if a `whole` directory is read.
    fn apply(&mut self, directory: &mut Directory, entry: Entry, whole: bool, now: Instant) {
        if whole {
            return directory.apply_standing(entry);
        }
        match &entry {
            Entry::Key(key) if key.removed_at.is_some() => self.0.push_back((now + REMOVED_KEPT, key.id)),
            Entry::Key(_) | Entry::Account(_) | Entry::Policy(_) => {}
        }
        directory.apply(entry);
    }

    fn is_due(&self, now: Instant) -> bool {
        self.0.len() > REMOVED_MAX || self.0.front().is_some_and(|(until, _)| *until <= now)
    }

    /// Removes the keys whose time is over from the copy, unless they came back.
    fn leave(&mut self, directory: &mut Directory, now: Instant) {
        while self.is_due(now) {
            let Some((_, id)) = self.0.pop_front() else { return };
            if directory.key(id).is_some_and(|key| key.removed_at.is_some()) {
                directory.forget_key(id);
            }
        }
    }
}

/// The reason why a pull brought nothing.
enum Missed {
    Unanswered(String),
    /// The ledger answered, and must not be used.
    Refused(String),
}

/// The cache that follows the ledger's directory.
pub struct DirectoryCache {
    store: Arc<dyn Store>,
    settings: Arc<ArcSwap<RelaySettings>>,
    copy: ArcSwap<Directory>,
    started: Instant,
    /// Start of the latest pull that succeeded, in milliseconds after `started`; 0 = none.
    asked_at: AtomicU64,
    lookups: Semaphore,
}

impl DirectoryCache {
    pub fn new(store: Arc<dyn Store>, settings: Arc<ArcSwap<RelaySettings>>) -> Arc<Self> {
        Arc::new(Self {
            store,
            settings,
            copy: ArcSwap::default(),
            // A moment earlier, so that the first pull is not at 0.
            started: Instant::now() - Duration::from_millis(1),
            asked_at: AtomicU64::new(0),
            lookups: Semaphore::new(LOOKUPS_MAX),
        })
    }

    /// Pulls until `shutdown`. The gate is open while the copy is fresh, and while the ledger answers but must not be
    /// used: then every sender can be told to retry, and no relay can do better.
    pub async fn follow(self: Arc<Self>, gate: Gate, shutdown: CancellationToken) {
        let mut known = Pulled::default();
        let mut failing = false;
        let mut misses = 0;
        let mut ticks = interval(PULL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let within = limit(known.epoch, misses);
            match self.pull(&mut known, within).await {
                Ok(()) => {
                    // The result of a slow pull is old already; the next pull brings the rest at once.
                    if self.current().is_some() {
                        gate.open();
                    }
                    (failing, misses) = (false, 0);
                }
                Err(Missed::Refused(reason)) => {
                    if !failing {
                        tracing::error!(reason, "the ledger may not be used; all mail is told to come back");
                    }
                    failing = true;
                    gate.note(format!("the ledger may not be used, and all mail is told to come back: {reason}"));
                    self.forget(&mut known);
                }
                Err(Missed::Unanswered(reason)) => {
                    // Logged once, not five times a second.
                    if !failing {
                        tracing::warn!(reason, "following the directory");
                    }
                    failing = true;
                    misses += 1;
                    if self.current().is_none() {
                        gate.close(format!(
                            "the directory was not read from the ledger for more than {} s, and judges nobody: {reason}",
                            STALE_AFTER.as_secs()
                        ));
                    }
                }
            }
        }
    }

    /// Discards everything that was pulled before.
    fn forget(&self, known: &mut Pulled) {
        self.asked_at.store(0, Ordering::Release);
        self.copy.store(Arc::default());
        // `highest` stays, to detect a ledger that went back, until the incarnation changes.
        (known.epoch, known.removed) = (0, RemovedKeys::default());
    }

    /// Checks whether this ledger may be used, by the settings as they are now.
    fn admits(&self, tag: &Tag) -> Result<(), String> {
        let settings = self.settings.load();
        let config = &settings.config;
        let expected = Expected { installation: config.installation, incarnation: config.incarnation };
        expected.admit(tag).map_err(|error| error.to_string())
    }

    async fn pull(&self, known: &mut Pulled, limit: Duration) -> Result<(), Missed> {
        let asked = Instant::now();
        if self.age() > millis(REMEMBERED_FOR.unsigned_abs()) {
            self.forget(known);
        }
        let whole = known.epoch == 0;
        let changes = match timeout(limit, self.store.changes(known.epoch)).await {
            Ok(Ok(changes)) => changes,
            // The ledger answered, and must not be used.
            Ok(Err(error @ (Error::Foreign { .. } | Error::Held(_)))) => {
                return Err(Missed::Refused(error.to_string()));
            }
            Ok(Err(error)) => return Err(Missed::Unanswered(error.to_string())),
            Err(_) => return Err(Missed::Unanswered("the ledger did not answer in time".to_owned())),
        };
        self.admits(&changes.tag).map_err(Missed::Refused)?;
        if known.incarnation != changes.tag.incarnation {
            self.forget(known);
            *known = Pulled { incarnation: changes.tag.incarnation, ..Pulled::default() };
            if !whole {
                // A new incarnation counts its epochs anew: the next pull reads everything.
                return Ok(());
            }
        }
        if changes.epoch < known.highest {
            return Err(Missed::Refused("the ledger is older than what was seen of it".to_owned()));
        }
        if !changes.entries.is_empty() || known.removed.is_due(asked) {
            let mut directory = Directory::clone(&self.copy.load());
            for entry in changes.entries {
                known.removed.apply(&mut directory, entry, whole, asked);
            }
            known.removed.leave(&mut directory, asked);
            self.copy.store(Arc::new(directory));
        }
        self.asked_at.store(millis(asked.duration_since(self.started)), Ordering::Release);
        (known.epoch, known.highest) = (changes.epoch, changes.epoch);
        Ok(())
    }

    /// Returns the copy, unless it is too old to judge by.
    pub fn current(&self) -> Option<Guard<Arc<Directory>>> {
        (self.age() <= millis(STALE_AFTER)).then(|| self.copy.load())
    }

    /// Returns the milliseconds since the latest successful pull was started; the maximum if there was none.
    fn age(&self) -> u64 {
        match self.asked_at.load(Ordering::Acquire) {
            0 => u64::MAX,
            asked_at => millis(self.started.elapsed()).saturating_sub(asked_at),
        }
    }

    /// Looks a name up in the ledger, bypassing the copy.
    pub async fn lookup(&self, username: &Username) -> Lookup {
        let lookup = async {
            let _place = self.lookups.acquire().await.ok()?;
            let found = self.store.find_sender(username).await.ok()?;
            if found.is_none() {
                // An unknown name is refused permanently, so the right ledger must say so.
                self.admits(&self.store.identity().await.ok()?.tag()).ok()?;
            }
            Some(found)
        };
        match timeout(ASK_LIMIT, lookup).await {
            Ok(Some(Some(named))) => Lookup::Found(Box::new(named)),
            Ok(Some(None)) => Lookup::NotFound,
            Ok(None) | Err(_) => Lookup::Unavailable,
        }
    }
}

/// Returns the time limit of a pull: later pulls are short, and so is the wait for a ledger that is gone.
fn limit(epoch: i64, misses: u32) -> Duration {
    if epoch == 0 { ASK_LIMIT.saturating_mul(2_u32.saturating_pow(misses)).min(WHOLE_LIMIT) } else { ASK_LIMIT }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::period::Calendar;

    #[test]
    fn only_the_first_pull_may_take_longer_each_time() {
        let seconds = |epoch, misses| limit(epoch, misses).as_secs();
        assert_eq!([0, 1, 2, 4, 5, 99].map(|misses| seconds(0, misses)), [2, 4, 8, 32, 64, 64]);
        assert_eq!([0, 5, 99].map(|misses| seconds(7, misses)), [2, 2, 2]);
    }

    fn key(id: u128) -> Entry {
        let body = format!(
            r#"{{"key": {{"id": "{}", "account": "{}", "namespace": "team", "name": "n", "username": "u-{id}",
                "cap": {{"credits": null, "calendar": {}}}}}}}"#,
            Uuid::from_u128(id),
            Uuid::nil(),
            serde_json::to_string(&Calendar::monthly_utc()).expect("json"),
        );
        serde_json::from_str(&body).expect("an entry")
    }

    fn removed(entry: Entry) -> Entry {
        let Entry::Key(key) = entry else { panic!("a key") };
        Entry::Key(key.removed(jiff::Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn a_removed_key_leaves_the_copy_after_a_while_unless_it_comes_back() {
        let (mut directory, mut leaving, start) = (Directory::default(), RemovedKeys::default(), Instant::now());
        let ids = [1, 2].map(|id| KeyId(Uuid::from_u128(id)));
        for id in [1, 2] {
            leaving.apply(&mut directory, key(id), false, start);
            leaving.apply(&mut directory, removed(key(id)), false, start);
        }
        leaving.apply(&mut directory, key(2), false, start);
        leaving.leave(&mut directory, start + REMOVED_KEPT - Duration::from_secs(1));
        assert!(ids.iter().all(|id| directory.key(*id).is_some()));
        leaving.leave(&mut directory, start + REMOVED_KEPT);
        assert_eq!(ids.map(|id| directory.key(id).is_some()), [false, true]);
        assert!(leaving.0.is_empty());
    }

    #[test]
    fn no_number_of_removed_keys_fills_the_copy() {
        let (mut directory, mut leaving, start) = (Directory::default(), RemovedKeys::default(), Instant::now());
        for id in 0..20_000 {
            leaving.apply(&mut directory, removed(key(id)), false, start);
        }
        leaving.leave(&mut directory, start);
        assert_eq!((directory.keys().count(), leaving.0.len()), (REMOVED_MAX, REMOVED_MAX));
        // A relay that starts takes none of them.
        let mut fresh = Directory::default();
        leaving.apply(&mut fresh, removed(key(1)), true, start);
        assert_eq!(fresh.keys().count(), 0);
    }
}
