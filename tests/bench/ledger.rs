//! What credits cost: reserve and settle on one hot pool, with the disk's own time beside it, for each engine.
//!
//! The floor is the disk: a transaction for each message cannot be faster than its sync. Batches share one.

use std::any::Any;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use franking::domain::credential::Username;
use franking::domain::credit::{Grant, Limit, Outcome, Overage, Prepaid, Rate, Reservation, Verdict};
use franking::domain::directory::{AccountEntry, Entry, KeyEntry, PolicyEntry};
use franking::domain::id::{AccountId, KeyId, MessageId, PolicyId};
use franking::domain::money::Pricing;
use franking::domain::period::Calendar;
use franking::ledger::identity::State;
use franking::ledger::incarnation::Naming;
use franking::ledger::store::{LedgerSession, Role, Settlement, Store};
use franking::ledger::{self, sqlite};
use franking::runtime::clock::{Clock as _, SystemClock};
use franking::runtime::relay_config::LedgerAddress;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

use crate::size::sized;
use crate::support::postgres::{Folder, Server};

/// How many accounts there are when a figure is taken.
const ACCOUNTS: [u128; 3] = [1_000, 10_000, 100_000];
/// What the ledger's handle sends at most.
const BATCH: usize = 500;
/// Messages of one figure in batches; one for each transaction.
const MESSAGES: usize = 50_000;
const SINGLES: usize = 500;
pub const SYNCS: usize = 200;
/// More than any run can use, and yet counted to the last one.
const CREDITS: i64 = 1_000_000_000_000;

/// A fresh ledger, and whatever must live as long as it.
pub struct Fresh {
    pub store: Arc<dyn Store>,
    pub keep: Box<dyn Any>,
}

pub async fn run() {
    let folder = tempfile::tempdir().expect("a folder");
    println!("the disk: {:.3} ms for a sync of 4 KiB, the median of {SYNCS}", milliseconds(sync_time(folder.path())));
    figures("SQLite", sqlite().await).await;
    figures("PostgreSQL", postgres().await).await;
}

/// A server of our own, its data on the disk.
async fn postgres() -> Fresh {
    let server =
        Server::start(Folder::within(std::env::temp_dir()), &["shared_buffers = '1GB'", "max_wal_size = '4GB'"]);
    let address = LedgerAddress::Postgres { url: server.url(), single_node: true };
    let naming = Naming {
        installation: Uuid::from_u128(1),
        cluster: "cluster".to_owned(),
        incarnation: Uuid::from_u128(2),
        state: State::Open,
    };
    ledger::prepare(&address, &naming, SystemClock.now()).await.expect("a ledger");
    let store = ledger::open(&address, Arc::new(SystemClock)).expect("the ledger");
    Fresh { store, keep: Box::new(server) }
}

async fn sqlite() -> Fresh {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.db");
    sqlite::prepare(&path, Uuid::from_u128(1), "cluster", Uuid::from_u128(2), SystemClock.now()).expect("a ledger");
    let store = sqlite::SqliteStore::open(&path, Arc::new(SystemClock)).expect("the ledger");
    Fresh { store: Arc::new(store), keep: Box::new(folder) }
}

/// All figures of one engine.
pub async fn figures(engine: &str, fresh: Fresh) {
    let Fresh { store, keep } = fresh;
    let mut load = Load::start(store).await;
    let (sizes, messages) = (sized(ACCOUNTS, [10, 20, 50]), sized(MESSAGES, 1_000));
    let mut known = 0;
    for accounts in sizes {
        let began = Instant::now();
        load.add(known, accounts, Meters::Limits).await;
        let each = began.elapsed() / u32::try_from(accounts - known).expect("few");
        known = accounts;
        // What a process learns of its senders it has learnt.
        load.everybody(known).await;
        let batched = load.batches(messages, known).await;
        println!(
            "{engine}, {accounts} accounts: {batched:.0} messages/s reserved and settled in batches of {BATCH}; \
             {:.3} ms to add an account",
            milliseconds(each)
        );
    }
    let batched = load.batches(messages, known).await;
    let single = load.singles(sized(SINGLES, 20), known).await;
    println!(
        "{engine}, {known} accounts: {single:.0} messages/s at one message for each transaction; batches are {:.0} times \
         that",
        batched / single
    );
    // Every meter there is, for the same accounts.
    let [_, some, _] = sizes;
    load.add(0, some, Meters::All).await;
    let all = load.batches(messages, some).await;
    println!("{engine}, {some} accounts with every meter: {all:.0} messages/s in batches of {BATCH}");
    drop(keep);
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

pub fn sync_time(folder: &Path) -> Duration {
    let mut file = File::create(folder.join("sync")).expect("a file");
    let mut times: Vec<Duration> = (0..SYNCS)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&[7; 4096]).expect("written");
            file.sync_data().expect("synced");
            began.elapsed()
        })
        .collect();
    times.sort();
    times[SYNCS / 2]
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Meters {
    /// A cap on key and account, and the pool.
    Limits,
    /// Beside these: grants, a shared balance, money, overage, rates.
    All,
}

struct Load {
    store: Arc<dyn Store>,
    session: LedgerSession,
    rng: StdRng,
    sent: u128,
}

impl Load {
    async fn start(store: Arc<dyn Store>) -> Self {
        let session = store.open_session(Role::Relay, "bench").await.expect("a session");
        Self { store, session, rng: StdRng::seed_from_u64(7), sent: 0 }
    }

    /// Writes the policy, and accounts of it with a key each.
    async fn add(&mut self, from: u128, to: u128, meters: Meters) {
        let mut entries = vec![Entry::Policy(policy(meters))];
        for n in from..to {
            entries.extend([Entry::Account(account(n, meters)), Entry::Key(key(n, meters))]);
            if entries.len() >= BATCH || n + 1 == to {
                self.store.put(&self.session, "bench", &entries).await.expect("written");
                entries.clear();
            }
        }
    }

    fn messages(&mut self, count: usize, accounts: u128) -> Vec<Reservation> {
        let message = |_| {
            self.sent += 1;
            let key = KeyId(key_id(self.rng.random_range(0..accounts as u64).into()));
            // As the relay makes them: they grow with time.
            let millis = u64::try_from(SystemClock.now().as_millisecond()).expect("after 1970");
            let mut random = [0; 10];
            random[2..].copy_from_slice(&(self.sent as u64).to_be_bytes());
            let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
            Reservation { message: MessageId(id), key, credits: 1, fingerprint: None }
        };
        (0..count).map(message).collect()
    }

    async fn send(&self, batch: &[Reservation]) {
        let verdicts = self.store.reserve(&self.session, batch).await.expect("answered");
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Reserved), "a message was refused");
        let settled = |reservation: &Reservation| Settlement::of(reservation.message, Outcome::Relayed);
        let settlements: Vec<Settlement> = batch.iter().map(settled).collect();
        self.store.settle(&self.session, &settlements).await.expect("settled");
    }

    /// Messages per second, `size` in each call; the first tenth warms caches and does not count.
    async fn rate(&mut self, count: usize, size: usize, accounts: u128) -> f64 {
        let messages = self.messages(count + count / 10, accounts);
        let (warm, counted) = messages.split_at(count / 10);
        for batch in warm.chunks(size) {
            self.send(batch).await;
        }
        let began = Instant::now();
        for batch in counted.chunks(size) {
            self.send(batch).await;
        }
        counted.len() as f64 / began.elapsed().as_secs_f64()
    }

    /// Each account sends once.
    async fn everybody(&mut self, accounts: u128) {
        let mut messages = self.messages(accounts as usize, accounts);
        for (message, n) in messages.iter_mut().zip(0..) {
            message.key = KeyId(key_id(n));
        }
        for batch in messages.chunks(BATCH) {
            self.send(batch).await;
        }
    }

    async fn batches(&mut self, count: usize, accounts: u128) -> f64 {
        self.rate(count, BATCH, accounts).await
    }

    async fn singles(&mut self, count: usize, accounts: u128) -> f64 {
        self.rate(count, 1, accounts).await
    }
}

pub fn key_id(n: u128) -> Uuid {
    Uuid::from_u128(3 << 100 | n)
}

fn account_id(n: u128) -> AccountId {
    AccountId(Uuid::from_u128(2 << 100 | n))
}

fn policy_id() -> PolicyId {
    PolicyId(Uuid::from_u128(1 << 100))
}

fn limit() -> Limit {
    Limit { credits: Some(CREDITS), calendar: Calendar::monthly_utc() }
}

fn prepaid(grants: usize) -> Prepaid {
    let grant = |n: usize| Grant { id: format!("grant-{n}"), credits: CREDITS, expires_at: None };
    Prepaid { grants: (0..grants).map(grant).collect(), recurring: None }
}

const RATE: Rate = Rate { messages: 1_000_000, per_seconds: 1 };

pub fn policy(meters: Meters) -> PolicyEntry {
    let all = meters == Meters::All;
    let pricing = Pricing { currency: "EUR".to_owned(), base_price_minor: 0, price_per_thousand_minor: 10 };
    PolicyEntry {
        id: policy_id(),
        name: "bench".to_owned(),
        suspended: None,
        pool: limit(),
        overage: if all { Overage::Allow } else { Overage::Deny },
        when_exhausted: Default::default(),
        prepaid: all.then(|| prepaid(2)),
        pricing: all.then_some(pricing),
        currency: None,
        sender_domains: vec![],
        upstream: None,
        settings: None,
        removed_at: None,
    }
}

pub fn account(n: u128, meters: Meters) -> AccountEntry {
    let all = meters == Meters::All;
    AccountEntry {
        id: account_id(n),
        policy: policy_id(),
        namespace: "bench".to_owned(),
        name: format!("account-{n}"),
        suspended: None,
        cap: limit(),
        prepaid: all.then(|| prepaid(2)),
        spend_limit_micro: all.then_some(CREDITS * 1_000_000),
        rate: all.then_some(RATE),
        allowed_senders: None,
        departures: Vec::new(),
        settings: None,
        removed_at: None,
    }
}

pub fn key(n: u128, meters: Meters) -> KeyEntry {
    KeyEntry {
        id: KeyId(key_id(n)),
        account: account_id(n),
        namespace: "bench".to_owned(),
        name: format!("key-{n}"),
        username: Username::try_from(format!("key-{n}")).expect("a user name"),
        credentials: vec![],
        allow_from: vec![],
        allowed_senders: vec![],
        plain_listener: false,
        cap: limit(),
        rate: (meters == Meters::All).then_some(RATE),
        expires_at: None,
        revoked: false,
        settings: None,
        removed_at: None,
    }
}
