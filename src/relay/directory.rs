//! The relay's copy of the directory: pulled by epoch, and old enough to be mistrusted after two seconds.
//!
//! A refusal for good is never given from the copy. What the copy would refuse is looked up once in the ledger
//! first ([`Follower::look`]), and the number of such looks at a time is bounded, because strangers can cause them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::settings::Settings;
use crate::domain::credential::Username;
use crate::domain::directory::{Directory, Entry, Named};
use crate::domain::id::KeyId;
use crate::ledger::incarnation::Expected;
use crate::ledger::store::{REMEMBERED_FOR, Tag};
use crate::ledger::{Error, Store};
use crate::runtime::health::Gate;

/// A changed key works or fails within a second: five pulls.
const PULL_EVERY: Duration = Duration::from_millis(200);
/// An older copy judges nobody.
const STALE_AFTER: Duration = Duration::from_secs(2);
/// One pull or look may take as long as a copy may be old.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// The most that the first pull may take, which reads everything: 200,000 entries took eight seconds of a debug build
/// on a crowded machine. Asked again too early it would never be answered, so its limit doubles with each miss.
const WHOLE_LIMIT: Duration = Duration::from_secs(64);
/// A key that was removed stays in the copy for so long: its open sessions end with its name in the log. Then it is
/// like any name that is not known, which the ledger is asked for.
const REMOVED_KEPT: Duration = Duration::from_secs(600);
/// Removed keys in the copy. Beyond, those that were removed first leave it at once.
const REMOVED_MAX: usize = 10_000;
/// Looks at a time. A password guesser gets these, and no more of the ledger.
const LOOKS_MAX: usize = 16;

/// What a look found.
pub enum Look {
    Found(Box<Named>),
    Nobody,
    /// The ledger did not answer, or too many are looking.
    Unavailable,
}

/// What has been pulled.
#[derive(Default)]
struct Pulled {
    incarnation: Uuid,
    epoch: i64,
    /// The highest epoch that was seen in this incarnation.
    highest: i64,
    removed: RemovedKeys,
}

/// Keys that are in the copy although they were removed, with when they leave it: oldest first.
#[derive(Default)]
struct RemovedKeys(VecDeque<(Instant, KeyId)>);

impl RemovedKeys {
    /// Takes over one row. Of a `whole` directory, removed keys are left out.
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

    /// Takes those out of the copy whose time is over, unless they came back.
    fn leave(&mut self, directory: &mut Directory, now: Instant) {
        while self.is_due(now) {
            let Some((_, id)) = self.0.pop_front() else { return };
            if directory.key(id).is_some_and(|key| key.removed_at.is_some()) {
                directory.forget_key(id);
            }
        }
    }
}

/// Why a pull brought nothing.
enum Missed {
    Unanswered(String),
    /// It answered, and is not to be used.
    Refused(String),
}

/// Follows the ledger's directory.
pub struct Follower {
    store: Arc<dyn Store>,
    settings: Arc<ArcSwap<Settings>>,
    copy: ArcSwap<Directory>,
    started: Instant,
    /// When the latest pull that succeeded was asked, in milliseconds after `started`; 0 = never.
    asked_at: AtomicU64,
    looks: Semaphore,
}

impl Follower {
    pub fn new(store: Arc<dyn Store>, settings: Arc<ArcSwap<Settings>>) -> Arc<Self> {
        Arc::new(Self {
            store,
            settings,
            copy: ArcSwap::default(),
            // A moment earlier, so that the first pull is not at 0.
            started: Instant::now() - Duration::from_millis(1),
            asked_at: AtomicU64::new(0),
            looks: Semaphore::new(LOOKS_MAX),
        })
    }

    /// Pulls until `shutdown`. The gate is open while the copy is fresh, and while a ledger that may not be used says
    /// so: then every sender can be told to come back, and no relay can do better.
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
                    // What was long in coming is old already; the next pull brings the rest at once.
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
                    // Said once, not five times a second.
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

    /// Judges nobody by what was pulled before.
    fn forget(&self, known: &mut Pulled) {
        self.asked_at.store(0, Ordering::Release);
        self.copy.store(Arc::default());
        // What it went back behind stays known until the ledger is another.
        (known.epoch, known.removed) = (0, RemovedKeys::default());
    }

    /// Whether this ledger may be used, by the settings as they are now.
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
            // It answered, and is another's.
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
                // Its epochs are counted anew: the next pull reads everything.
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

    /// The copy, unless it is too old to judge by.
    pub fn current(&self) -> Option<Guard<Arc<Directory>>> {
        (self.age() <= millis(STALE_AFTER)).then(|| self.copy.load())
    }

    /// Milliseconds since the latest pull that succeeded was asked; where none has, as many as there are.
    fn age(&self) -> u64 {
        match self.asked_at.load(Ordering::Acquire) {
            0 => u64::MAX,
            asked_at => millis(self.started.elapsed()).saturating_sub(asked_at),
        }
    }

    /// One fresh look at the ledger.
    pub async fn look(&self, username: &Username) -> Look {
        let look = async {
            let _place = self.looks.acquire().await.ok()?;
            let found = self.store.find_sender(username).await.ok()?;
            if found.is_none() {
                // That there is nobody is a refusal for good, so it must be the right ledger that says so.
                self.admits(&self.store.identity().await.ok()?.tag()).ok()?;
            }
            Some(found)
        };
        match timeout(ASK_LIMIT, look).await {
            Ok(Some(Some(named))) => Look::Found(Box::new(named)),
            Ok(Some(None)) => Look::Nobody,
            Ok(None) | Err(_) => Look::Unavailable,
        }
    }
}

/// How long a pull may take: what follows is short, and so is the wait for a ledger that is gone.
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
