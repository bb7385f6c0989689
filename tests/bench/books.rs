//! What the books cost when there is much in them: 1 M reservations of 10,000 accounts in a month, rolled up, checked and
//! billed. Each beside the time of a bare pass over the same rows in memory, and with the memory that it took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use franking::domain::credential::Username;
use franking::domain::credit::{Limit, Outcome, Overage, Reservation};
use franking::domain::directory::{AccountEntry, Entry, KeyEntry, PolicyEntry};
use franking::domain::id::{AccountId, KeyId, MessageId, PolicyId};
use franking::domain::money::Pricing;
use franking::domain::period::Calendar;
use franking::ledger::bill::{bill, running_terms};
use franking::ledger::sqlite::{self, SqliteStore};
use franking::ledger::store::{LedgerSession, Role, Settlement, Store};
use franking::runtime::clock::{Clock as _, ManualClock};
use uuid::Uuid;

use super::size::sized;

/// Accounts, each with one key.
const ACCOUNTS: u128 = 10_000;
const MESSAGES: u128 = 1_000_000;
/// As many as a relay's group commit takes.
const BATCH: usize = 500;
/// Hours over which they are spread.
const HOURS: u128 = 400;

fn accounts() -> u128 {
    sized(ACCOUNTS, 100)
}

fn messages() -> u128 {
    sized(MESSAGES, 2_000)
}

pub async fn run() {
    let (accounts, messages) = (accounts(), messages());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.db");
    let clock = ManualClock::new("2026-11-02T00:00:00Z".parse().expect("a time"));
    sqlite::prepare(&path, Uuid::nil(), "bench", Uuid::nil(), clock.now()).expect("a ledger");
    let store = SqliteStore::open(&path, Arc::new(clock.clone())).expect("a ledger");
    let session = store.open_session(Role::Relay, "bench").await.expect("a session");
    let pricing = Pricing { currency: "EUR".to_owned(), base_price_minor: 49_900, price_per_thousand_minor: 83 };
    fill_directory(&store, &session, &pricing).await;
    println!("books: {messages} reservations of {accounts} accounts over {HOURS} hours");

    let started = Instant::now();
    fill(&store, &session, &clock).await;
    let file = std::fs::metadata(&path).map_or(0, |file| file.len() / 1_000_000);
    println!("  reserved and settled    {:>8.1} s   (the file: {file} MB)", started.elapsed().as_secs_f64());

    let (rows, seconds, memory) = measured(store.rollup(&session)).await;
    let rows = rows.expect("rolled up");
    println!("  rollup                  {seconds:>8.1} s   {memory:>6} MB   {rows} rows");
    assert_eq!(u128::from(rows), 2 * messages);

    let terms = running_terms(PolicyId(Uuid::from_u128(1)), &Calendar::monthly_utc(), &pricing, clock.now());
    let (bill, seconds, memory) = measured(bill(&store, &terms)).await;
    let bill = bill.expect("a bill");
    println!("  the month's bill        {seconds:>8.1} s   {memory:>6} MB   {} lines", bill.lines.len());
    assert_eq!(bill.lines.len() as u128, accounts);
    assert_eq!(bill.lines.iter().map(|line| line.amount_minor).sum::<i64>(), bill.total_minor);
    let floor = Instant::now();
    let again = franking::domain::cost::allocate(0, bill.lines.iter().map(|line| (line.payer, Default::default())));
    assert!(again.lines.len() == bill.lines.len());
    println!("    of it the splitting   {:>8.3} s", floor.elapsed().as_secs_f64());

    let (found, seconds, memory) = measured(store.check()).await;
    assert!(found.expect("checked").is_empty(), "the books are out of balance");
    println!("  ledger check            {seconds:>8.1} s   {memory:>6} MB");
}

/// The answer, how long it took, and by how much the process grew at the most.
async fn measured<T>(work: impl Future<Output = T>) -> (T, f64, u64) {
    let before = resident_mb();
    let highest = Arc::new(std::sync::atomic::AtomicU64::new(before));
    let seen = highest.clone();
    let watching = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            seen.fetch_max(resident_mb(), std::sync::atomic::Ordering::Relaxed);
        }
    });
    let started = Instant::now();
    let answer = work.await;
    let seconds = started.elapsed().as_secs_f64();
    watching.abort();
    (answer, seconds, highest.load(std::sync::atomic::Ordering::Relaxed).saturating_sub(before))
}

/// Resident memory of this process, as Linux has it.
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) / 1000
}

fn monthly() -> Limit {
    Limit { credits: None, calendar: Calendar::monthly_utc() }
}

fn account_id(n: u128) -> AccountId {
    AccountId(Uuid::from_u128(0x1_0000_0000 + n))
}

fn key_id(n: u128) -> KeyId {
    KeyId(Uuid::from_u128(0x2_0000_0000 + n))
}

async fn fill_directory(store: &SqliteStore, session: &LedgerSession, pricing: &Pricing) {
    let policy = PolicyEntry {
        id: PolicyId(Uuid::from_u128(1)),
        name: "plan".to_owned(),
        suspended: None,
        pool: monthly(),
        overage: Overage::Deny,
        when_exhausted: Default::default(),
        prepaid: None,
        pricing: Some(pricing.clone()),
        currency: None,
        sender_domains: vec![],
        upstream: None,
        settings: None,
        removed_at: None,
    };
    let account = |n| AccountEntry {
        id: account_id(n),
        policy: policy.id,
        namespace: "bench".to_owned(),
        name: format!("account-{n}"),
        suspended: None,
        cap: monthly(),
        prepaid: None,
        spend_limit_micro: None,
        rate: None,
        allowed_senders: None,
        departures: Vec::new(),
        settings: None,
        removed_at: None,
    };
    let key = |n| KeyEntry {
        id: key_id(n),
        account: account_id(n),
        namespace: "bench".to_owned(),
        name: format!("key-{n}"),
        username: Username::try_from(format!("key-{n}")).expect("a user name"),
        credentials: vec![],
        allow_from: vec![],
        allowed_senders: vec![],
        plain_listener: false,
        cap: monthly(),
        rate: None,
        expires_at: None,
        revoked: false,
        settings: None,
        removed_at: None,
    };
    let mut entries = vec![Entry::Policy(policy.clone())];
    entries.extend((0..accounts()).flat_map(|n| [Entry::Account(account(n)), Entry::Key(key(n))]));
    for some in entries.chunks(1_000) {
        store.put(session, "bench", some).await.expect("written");
    }
}

async fn fill(store: &SqliteStore, session: &LedgerSession, clock: &ManualClock) {
    let (accounts, messages) = (accounts(), messages());
    let seconds_apart = i64::try_from(HOURS * 3600 * BATCH as u128 / messages).expect("a step");
    let mut next = 0_u128;
    while next < messages {
        let batch: Vec<Reservation> = (next..messages.min(next + BATCH as u128))
            // A step that shares no factor with the number of accounts, so that all of them send all the time.
            .map(|n| Reservation {
                message: MessageId(Uuid::from_u128(n)),
                key: key_id(n * 7_919 % accounts),
                credits: 1,
                fingerprint: None,
            })
            .collect();
        let settled: Vec<Settlement> = batch
            .iter()
            .map(|reservation| Settlement {
                message: reservation.message,
                outcome: if reservation.message.0.as_u128() % 20 == 0 { Outcome::Refused } else { Outcome::Relayed },
                dedup: None,
            })
            .collect();
        store.reserve(session, &batch).await.expect("reserved");
        store.settle(session, &settled).await.expect("settled");
        clock.advance(seconds_apart);
        next += BATCH as u128;
    }
}
