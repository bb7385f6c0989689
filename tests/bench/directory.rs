//! What a change costs a relay's copy of the directory, beside a copy of the whole, and a look-up in it.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use franking::domain::credential::Username;
use franking::domain::directory::{Directory, Entry, KeyEntry};
use franking::domain::id::KeyId;

use super::relayed;
use super::size::sized;

/// Accounts, each with a key.
const ACCOUNTS: [usize; 3] = [1_000, 10_000, 100_000];
const CHANGES: usize = 1_000;
/// Copies of the whole, which take long.
const COPIES: usize = 20;
const LOOKUPS: usize = 1_000_000;

pub fn run() {
    for accounts in sized(ACCOUNTS, [10, 20, 50]) {
        let mut directory = Directory::default();
        relayed::directory(2500, 1, accounts).for_each(|entry| directory.apply(entry));
        let keys: Vec<Arc<KeyEntry>> = directory.keys().cloned().collect();
        let whole: HashMap<KeyId, Arc<KeyEntry>> = keys.iter().map(|key| (key.id, key.clone())).collect();
        let copied = median((0..sized(COPIES, 2)).map(|_| timed(|| drop(black_box(whole.clone())))).collect());

        let mut kept = Arc::new(directory);
        let mut changes = Vec::with_capacity(CHANGES);
        for index in 0..sized(CHANGES, 20) {
            let key = KeyEntry { revoked: index % 2 == 0, ..KeyEntry::clone(&keys[index * 7 % keys.len()]) };
            changes.push(timed(|| {
                let mut directory = Directory::clone(&kept);
                directory.apply(Entry::Key(key));
                kept = Arc::new(directory);
            }));
        }
        let names: Vec<Username> = keys.iter().map(|key| key.username.clone()).collect();
        let lookups = sized(LOOKUPS, 100);
        let looked = timed(|| {
            for index in 0..lookups {
                black_box(kept.by_username(&names[index * 7 % names.len()]));
            }
        });
        println!(
            "{accounts:7} accounts: a change {:6.1} µs (a copy of the keys alone {:8.1} µs), a look-up {:4.0} ns",
            micros(median(changes)),
            micros(copied),
            looked.as_secs_f64() * 1e9 / lookups as f64,
        );
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
