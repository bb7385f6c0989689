//! Three relays that share one pool on PostgreSQL: what they charge together in a second, and how long each message
//! waits when they are offered half of what the goal is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use franking::domain::credit::{Outcome, Reservation, Verdict};
use franking::domain::directory::Entry;
use franking::domain::id::{KeyId, MessageId};
use franking::ledger::identity::State;
use franking::ledger::incarnation::Naming;
use franking::ledger::store::{LedgerSession, Role, Settlement};
use franking::ledger::{self, Ledger, Store};
use franking::runtime::clock::{Clock as _, SystemClock};
use franking::runtime::metrics::Registry;
use franking::runtime::relay_config::LedgerAddress;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ledger::{Meters, SYNCS, account, key, key_id, milliseconds, policy, sync_time};
use crate::size::sized;
use crate::support::postgres::{Folder, Server};

pub const SECONDS: u64 = 10;
/// How long messages are offered: the database's own chores come every minute, and a pause of theirs is to count as what
/// it is.
const OFFERED_SECONDS: u64 = 60;
const ACCOUNTS: u64 = 100_000;
/// Entries of one call that fills the directory.
const ENTRIES: u64 = 2_000;
const BATCH: usize = 500;
/// Handles that charge at once on PostgreSQL: as many relays. A file has one writer.
const RELAYS: u64 = 3;
const RUNNING: &str = "running";
/// What three relays are offered together.
const OFFERED_PER_SECOND: u64 = 5_000;

fn accounts() -> u64 {
    sized(ACCOUNTS, ENTRIES / 2)
}

fn offered_per_second() -> u64 {
    sized(OFFERED_PER_SECOND, 200 * RELAYS)
}

fn entries(n: u64) -> [Entry; 2] {
    let n = u128::from(n);
    [Entry::Account(account(n, Meters::Limits)), Entry::Key(key(n, Meters::Limits))]
}

/// An engine with its directory full.
struct Bench {
    name: &'static str,
    address: LedgerAddress,
    handles: u64,
    next: Arc<AtomicU64>,
}

impl Bench {
    async fn fill(name: &'static str, address: LedgerAddress, handles: u64) -> Self {
        let naming = Naming {
            installation: Uuid::nil(),
            cluster: "bench".to_owned(),
            incarnation: Uuid::nil(),
            state: State::Open,
        };
        ledger::prepare(&address, &naming, SystemClock.now()).await.expect("prepared");
        let bench = Self { name, address, handles, next: Arc::default() };
        let (store, session) = bench.open("operator").await;
        let since = Instant::now();
        store.put(&session, "bench", &[Entry::Policy(policy(Meters::Limits))]).await.expect("written");
        let accounts = accounts();
        for first in (0..accounts).step_by(ENTRIES as usize / 2) {
            let some: Vec<Entry> = (first..first + ENTRIES / 2).flat_map(entries).collect();
            store.put(&session, "bench", &some).await.expect("written");
        }
        store.prepare_lots(&session, SystemClock.now()).await.expect("made");
        let each = since.elapsed().as_secs_f64() * 1e6 / (2 * accounts) as f64;
        println!("{name}: {accounts} accounts and keys written, {each:.0} us each");
        bench
    }

    async fn open(&self, name: &str) -> (Arc<dyn Store>, LedgerSession) {
        let store = ledger::open(&self.address, Arc::new(SystemClock)).expect("opened");
        let session = store.open_session(Role::Relay, name).await.expect("a session");
        (store, session)
    }

    fn reservation(&self, rng: &mut StdRng) -> Reservation {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(SystemClock.now().as_millisecond()).expect("after 1970");
        let message =
            uuid::Builder::from_unix_timestamp_millis(now, &n.to_be_bytes().repeat(2)[..10].try_into().expect("ten"));
        let key = KeyId(key_id(rng.random_range(0..accounts()).into()));
        Reservation { message: MessageId(message.into_uuid()), key, credits: 1, fingerprint: None }
    }

    /// Messages charged and settled in a second, by all handles together.
    async fn rate(&self, batch: usize, seconds: u64) -> f64 {
        let mut relays = tokio::task::JoinSet::new();
        let charged = Arc::new(AtomicU64::new(0));
        let (warm, warmed) = (Arc::new(tokio::sync::Barrier::new(self.handles as usize + 1)), charged.clone());
        for number in 0..self.handles {
            let (store, session) = self.open(&format!("relay-{number}")).await;
            let bench = Self { next: self.next.clone(), address: self.address.clone(), ..*self };
            let (charged, warm) = (charged.clone(), warm.clone());
            relays.spawn(async move {
                let mut rng = StdRng::seed_from_u64(number);
                bench.everybody(&*store, &session).await;
                warm.wait().await;
                let end = Instant::now() + Duration::from_secs(seconds);
                while Instant::now() < end {
                    let some: Vec<Reservation> = (0..batch).map(|_| bench.reservation(&mut rng)).collect();
                    bench.send(&*store, &session, &some).await;
                    charged.fetch_add(batch as u64, Ordering::Relaxed);
                }
            });
        }
        warm.wait().await;
        let since = Instant::now();
        while let Some(ended) = relays.join_next().await {
            ended.expect("no panic");
        }
        warmed.load(Ordering::Relaxed) as f64 / since.elapsed().as_secs_f64()
    }

    /// Each account sends once: what a process learns of its senders it has learnt.
    async fn everybody(&self, store: &dyn Store, session: &LedgerSession) {
        let mut rng = StdRng::seed_from_u64(7);
        for first in (0..accounts()).step_by(BATCH) {
            let mut some: Vec<Reservation> = (0..BATCH).map(|_| self.reservation(&mut rng)).collect();
            for (one, n) in some.iter_mut().zip(first..) {
                one.key = KeyId(key_id(u128::from(n % accounts())));
            }
            self.send(store, session, &some).await;
        }
    }

    async fn send(&self, store: &dyn Store, session: &LedgerSession, some: &[Reservation]) {
        let verdicts = store.reserve(session, some).await.expect("answered");
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Reserved));
        let settled = some.iter().map(|one| Settlement::of(one.message, Outcome::Relayed));
        store.settle(session, &settled.collect::<Vec<_>>()).await.expect("settled");
    }

    async fn figures(&self, seconds: u64) {
        let batched = self.rate(BATCH, seconds).await;
        let single = self.rate(1, seconds.min(5)).await;
        println!(
            "{}: {RELAYS} relays charge and settle {batched:.0} messages/s in batches of {BATCH}, {single:.0} one by one: \
             {:.0} times",
            self.name,
            batched / single
        );
    }

    /// Three relays that are offered messages at a steady pace, whether or not they keep up: relays that run for a
    /// while, or that have just started and know nobody.
    async fn latency(&self, relays_are: &str) {
        // All have learnt before the first is offered anything: learning is a load of its own.
        let mut stores = Vec::new();
        for number in 0..RELAYS {
            let name = format!("{relays_are}-{number}");
            let (store, session) = self.open(&format!("warming-{name}")).await;
            if relays_are == RUNNING {
                self.everybody(&*store, &session).await;
            }
            stores.push((number, name, store));
        }
        let mut relays = tokio::task::JoinSet::new();
        for (number, name, store) in stores {
            let stop = CancellationToken::new();
            let ledger = Ledger::start(store, Role::Relay, name, &Registry::new(), Arc::new(|_| Ok(())), stop)
                .await
                .expect("started");
            let bench = Self { next: self.next.clone(), address: self.address.clone(), ..*self };
            relays.spawn(async move { bench.pace(ledger, number).await });
        }
        let mut took: Vec<f64> = relays.join_all().await.into_iter().flatten().collect();
        took.sort_by(f64::total_cmp);
        let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
        println!(
            "{}: {RELAYS} {relays_are} relays, {} messages/s offered, {} answered: p50 {:.1} ms, \
             p95 {:.1}, p99 {:.1}",
            self.name,
            offered_per_second(),
            took.len(),
            at(0.5),
            at(0.95),
            at(0.99)
        );
    }

    async fn pace(&self, ledger: Ledger, number: u64) -> Vec<f64> {
        let mut rng = StdRng::seed_from_u64(number);
        let ledger = Arc::new(ledger);
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let each_tick = offered_per_second() / RELAYS / 200;
        let mut answers = tokio::task::JoinSet::new();
        let end = Instant::now() + Duration::from_secs(sized(OFFERED_SECONDS, 1));
        while Instant::now() < end {
            ticks.tick().await;
            for _ in 0..=each_tick {
                let (ledger, asked) = (ledger.clone(), self.reservation(&mut rng));
                answers.spawn(async move {
                    let since = Instant::now();
                    let message = asked.message;
                    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
                    let verdict = ledger.reserve(asked, deadline).await.expect("answered");
                    assert_eq!(verdict, Verdict::Reserved);
                    ledger.settle(Settlement::of(message, Outcome::Relayed));
                    since.elapsed().as_secs_f64() * 1_000.0
                });
            }
        }
        let took = answers.join_all().await;
        ledger.drain(tokio::time::Instant::now() + Duration::from_secs(60)).await;
        took
    }
}

/// A server that has run for a while writes its log over segments that it has; a fresh one makes each, with a sync of 16 MB,
/// and everybody waits.
async fn renew_log(url: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connected");
    tokio::spawn(connection);
    client.batch_execute("CHECKPOINT").await.expect("a checkpoint");
}

pub async fn run(seconds: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let sync = milliseconds(sync_time(folder.path()));
    println!("the disk: {sync:.3} ms for a sync of 4 KiB, the median of {SYNCS}");
    let settings = ["shared_buffers = '1GB'", "max_wal_size = '4GB'", "min_wal_size = '4GB'"];
    let running = Server::start(Folder::within(std::env::temp_dir()), &settings);
    let address = LedgerAddress::Postgres { url: running.url(), single_node: true };
    let bench = Bench::fill("PostgreSQL", address.clone(), RELAYS).await;
    bench.figures(seconds).await;
    renew_log(&running.url()).await;
    bench.latency(RUNNING).await;
    bench.latency("fresh").await;
    let store = ledger::open(&address, Arc::new(SystemClock)).expect("opened");
    let wrong = store.check().await.expect("checked");
    assert!(wrong.is_empty(), "{wrong:?}");
}
