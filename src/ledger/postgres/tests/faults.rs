//! Servers that are killed, replaced and misled while mail is charged: what was acknowledged is charged, once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::TestLedger;
use super::server::{Folder, Pair, Server};
use crate::domain::credit::{Outcome, Reservation, Verdict};
use crate::domain::directory::Entry;
use crate::domain::id::MessageId;
use crate::ledger::postgres::schema::MIGRATIONS;
use crate::ledger::store::{Error, LedgerSession, Role, Settlement, Store};
use crate::ledger::world::{Place as _, World, account, chain, key, key_id, monthly};

/// Timeout longer than any step here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two tries of a caller that got no answer.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits for an event, and fails with its name if it does not come.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} did not happen");
        sleep(PAUSE).await;
    }
}

/// A relay that sends batches until it is stopped, and retries each until it is answered.
struct SendingRelay {
    stop: Arc<AtomicBool>,
    /// Credits that were acknowledged and stay charged.
    task: JoinHandle<HashSet<MessageId>>,
}

impl SendingRelay {
    fn start(store: Arc<dyn Store>, session: LedgerSession, number: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut kept, mut next) = (HashSet::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let ids: Vec<MessageId> = (next..next + 20).map(|n| id(number, n)).collect();
                next += 20;
                reserve(&*store, &session, &ids).await;
                let refused = |index: usize| index.is_multiple_of(4);
                let outcome = |index| if refused(index) { Outcome::Refused } else { Outcome::Relayed };
                let batch = ids.iter().enumerate().map(|(n, id)| Settlement::of(*id, outcome(n)));
                settle(&*store, &session, &batch.collect::<Vec<_>>()).await;
                kept.extend(ids.into_iter().enumerate().filter(|(n, _)| !refused(*n)).map(|(_, id)| id));
            }
            kept
        });
        Self { stop, task }
    }

    async fn end(self) -> HashSet<MessageId> {
        self.stop.store(true, Ordering::Relaxed);
        timeout(PATIENCE, self.task).await.expect("it ends").expect("no panic")
    }
}

/// Returns a UUIDv7 of a day that has no partition: these tests are not about days.
fn id(worker: u64, n: u64) -> MessageId {
    MessageId(uuid::Uuid::from_u64_pair(worker, n))
}

async fn reserve(store: &dyn Store, session: &LedgerSession, ids: &[MessageId]) {
    let batch: Vec<Reservation> = ids
        .iter()
        .map(|message| Reservation { message: *message, key: key_id(1), credits: 1, fingerprint: None })
        .collect();
    reserve_all(store, session, &batch).await;
}

async fn reserve_all(store: &dyn Store, session: &LedgerSession, batch: &[Reservation]) {
    loop {
        match store.reserve(session, batch).await {
            Ok(verdicts) => {
                assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Reserved), "{verdicts:?}");
                return;
            }
            Err(Error::Unavailable { .. }) => sleep(PAUSE).await,
            Err(other) => panic!("{other}"),
        }
    }
}

async fn settle(store: &dyn Store, session: &LedgerSession, batch: &[Settlement]) {
    loop {
        match store.settle(session, batch).await {
            Ok(()) => return,
            Err(Error::Unavailable { .. }) => sleep(PAUSE).await,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Starts three relays, each with its own handle.
async fn relays(ledger: &TestLedger, world: &World) -> Vec<SendingRelay> {
    let mut relays = vec![];
    for number in 1..=3 {
        let store = ledger.open(Arc::new(world.clock.clone()));
        let session = store.open_session(Role::Relay, &format!("sender-{number}")).await.expect("a session");
        relays.push(SendingRelay::start(store, session, number));
    }
    relays
}

/// Returns what the policy has consumed, retried until it is answered.
async fn consumed(world: &World) -> i64 {
    let policy = chain()[2];
    loop {
        match world.store.balances(&[policy]).await {
            Ok(balances) => return balances[0].lot.consumed,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn all_kept(relays: Vec<SendingRelay>) -> usize {
    let mut kept = HashSet::new();
    for relay in relays {
        kept.extend(relay.end().await);
    }
    kept.len()
}

/// Several relays that charge and give back the same keys, each in another order. Relays that locked them in their own
/// order would deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lots_are_locked_in_one_order_whoever_charges_or_gives_back() {
    const KEYS: u64 = 8;
    const ROUNDS: u64 = 60;
    let server = Server::start(Folder::new(), &["deadlock_timeout = '5ms'"]);
    let ledger = TestLedger::on(&server.url(), MIGRATIONS);
    let mut world = World::with(&ledger, None, Some(1_000_000), None).await;
    // Spread over two accounts: one may not have so many refused in an hour.
    let mut entries = vec![Entry::Account(account(2, monthly(None)))];
    entries.extend((1..=KEYS).map(|n| Entry::Key(key(n.into(), u128::from(1 + n % 2), monthly(Some(10_000))))));
    world.put(&entries).await;
    let mut relays = tokio::task::JoinSet::new();
    for number in 1..=4_u64 {
        let store = ledger.open(Arc::new(world.clock.clone()));
        let session = store.open_session(Role::Relay, &format!("relay-{number}")).await.expect("a session");
        relays.spawn(async move {
            for round in 0..ROUNDS {
                let turn = |n: u64| if number.is_multiple_of(2) { KEYS - n } else { n + 1 };
                let batch: Vec<Reservation> = (0..KEYS)
                    .map(|n| Reservation {
                        message: id(number, round * KEYS + n),
                        key: key_id(turn(n).into()),
                        credits: 1,
                        fingerprint: None,
                    })
                    .collect();
                reserve_all(&*store, &session, &batch).await;
                let refused = batch.iter().map(|one| Settlement::of(one.message, Outcome::Refused));
                settle(&*store, &session, &refused.collect::<Vec<_>>()).await;
            }
        });
    }
    relays.join_all().await;
    assert!(!server.log().contains("deadlock detected"), "{}", server.log());
    assert_eq!(world.consumed_total().await, 0);
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_forgets_nothing_that_was_acknowledged() {
    let mut server = Server::start(Folder::new(), &[]);
    let ledger = TestLedger::on(&server.url(), MIGRATIONS);
    let world = World::with(&ledger, None, Some(1_000_000), None).await;
    let relays = relays(&ledger, &world).await;
    for _ in 0..2 {
        let before = consumed(&world).await;
        until("mail is sent", async || consumed(&world).await > before + 100).await;
        let port = server.port;
        let folder = server.kill();
        server = Server::resume(folder, port, &[]);
    }
    let before = consumed(&world).await;
    until("mail is sent", async || consumed(&world).await > before + 100).await;
    let kept = all_kept(relays).await;
    assert_eq!(world.consumed().await, [kept as i64; 3]);
    world.check().await;
}

/// Counts how often a batch was decided once more because the relay knew an older directory.
fn decided_again(server: &Server) -> usize {
    server.log().matches("the directory changed").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_others_disturbs_nobody_and_one_of_ours_is_seen() {
    let server = Server::start(Folder::new(), &[]);
    let ledger = TestLedger::on(&server.url(), MIGRATIONS);
    let mut world = World::with(&ledger, None, Some(100), None).await;
    let other = ledger.open(Arc::new(world.clock.clone()));
    let operator = other.open_session(Role::Operator, "operator").await.expect("a session");
    world.send(1).await;
    let before = decided_again(&server);
    let others: Vec<Entry> = (2..200).map(|n| Entry::Account(account(n, monthly(None)))).collect();
    other.put(&operator, "test", &others).await.expect("written");
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert_eq!(decided_again(&server), before);
    let ours = Entry::Account(account(1, monthly(Some(3))));
    other.put(&operator, "test", &[ours]).await.expect("written");
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    until("the change is seen", async || decided_again(&server) > before).await;
    assert!(matches!(world.send(1).await.1, Verdict::Short { granted: 3, .. }));
    world.check().await;
}

/// Counts the connections that wait for the standby.
fn waiting(ledger: &TestLedger) -> Vec<i32> {
    ledger.look(|connection| async move {
        let found = connection
            .query("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' ORDER BY pid", &[])
            .await
            .expect("read");
        found.iter().map(|row| row.get(0)).collect()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_under_load_forgets_nothing_that_was_acknowledged() {
    let pair = Pair::start();
    let ledger = TestLedger::on(&pair.url(), MIGRATIONS);
    let world = World::with(&ledger, None, Some(1_000_000), None).await;
    let relays = relays(&ledger, &world).await;
    until("mail is sent", async || consumed(&world).await > 200).await;
    let Pair { primary, standby } = pair;
    let lost = primary.kill();
    standby.promote();
    let before = consumed(&world).await;
    until("mail is sent after the failover", async || consumed(&world).await > before + 100).await;
    let kept = all_kept(relays).await;
    assert_eq!(world.consumed().await, [kept as i64; 3]);
    world.check().await;
    std::fs::remove_dir_all(lost).expect("the lost server's folder");
}

/// Tests the gap that cancelled waits open: a commit that is on the primary only was answered, and a caller that finds
/// its rows and writes nothing does not wait for the standby either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_whose_wait_was_cancelled_is_unknown_and_its_retry_waits_for_the_standby() {
    let Pair { primary, standby } = Pair::start();
    let ledger = TestLedger::on(&primary.url(), MIGRATIONS);
    let mut world = World::with(&ledger, None, Some(100), None).await;
    let port = standby.port;
    let asked = world.reservation(1);
    let folder = standby.kill();
    for round in ["charged", "found again"] {
        let asking = ask(&world, &asked);
        until("the charge waits for the standby", async || waiting(&ledger).len() == 1).await;
        ledger.look(|connection| async move {
            let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            connection.query(cancel, &[]).await.expect("cancelled");
        });
        // The server answers "committed" with a warning; the caller learns that nothing is known.
        let answer = timeout(PATIENCE, asking).await.expect("an answer").expect("no panic");
        assert!(matches!(answer, Err(Error::Unavailable { .. })), "{round}: {answer:?}");
    }
    let asking = ask(&world, &asked);
    until("the retry waits for the standby", async || waiting(&ledger).len() == 1).await;
    // Without the beat the reply would be "charged" at once, based on rows that only this server has.
    assert_eq!(told_without_a_beat(&ledger, &asked), 1);
    assert!(!asking.is_finished());
    let _standby = Server::resume(folder, port, &[&primary.leads(Pair::STANDBY)]);
    let answer = timeout(PATIENCE, asking).await.expect("an answer").expect("no panic");
    assert_eq!(answer.expect("answered"), [Verdict::Reserved]);
    assert_eq!(world.consumed().await, [1; 3]);
    world.check().await;
}

type Answer = crate::ledger::store::Result<Vec<Verdict>>;

/// Makes a call beside the test.
fn ask(world: &World, asked: &Reservation) -> JoinHandle<Answer> {
    let (store, session, asked) = (world.store.clone(), world.session.clone(), asked.clone());
    tokio::spawn(async move { store.reserve(&session, &[asked]).await })
}

/// Counts the rows that a transaction finds that writes nothing and commits: the naive retry.
fn told_without_a_beat(ledger: &TestLedger, asked: &Reservation) -> i64 {
    let message = asked.message.0;
    ledger.look(move |connection| async move {
        connection.batch("BEGIN").await.expect("begun");
        let found = connection.query_one("SELECT count(*) FROM reservation WHERE message = $1", &[&message]).await;
        timeout(PATIENCE, connection.batch("COMMIT")).await.expect("at once").expect("committed");
        found.expect("read").get(0)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_inside_a_transaction_loses_it_and_holds_nobody_up_for_long() {
    let ledger = TestLedger::new();
    let mut world = World::with(&ledger, None, Some(100), None).await;
    world.send(1).await;
    let paused = ledger.connector().connect().await.expect("connected");
    paused.batch("BEGIN").await.expect("begun");
    paused.query("SELECT id FROM lot ORDER BY kind, id FOR UPDATE", &[]).await.expect("locked");
    let (_, verdict) = timeout(PATIENCE, world.send(1)).await.expect("an answer");
    assert_eq!(verdict, Verdict::Reserved);
    assert!(paused.batch("COMMIT").await.is_err());
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_the_directory_misses_nothing_that_commits_late() {
    const WRITERS: u128 = 4;
    const EACH: u128 = 25;
    let ledger = TestLedger::new();
    let world = World::with(&ledger, None, None, None).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = ledger.open(Arc::new(world.clock.clone()));
        let session = store.open_session(Role::Operator, &format!("operator-{writer}")).await.expect("a session");
        writers.spawn(async move {
            for n in 0..EACH {
                let limit = monthly(None);
                let entry = account(100 + writer * EACH + n, limit);
                let entry = Entry::Account(entry);
                store.put(&session, "test", &[entry]).await.expect("written");
            }
        });
    }
    let (mut epoch, mut followed) = (0, HashSet::new());
    until("every entry is followed", async || {
        let changes = world.store.changes(epoch).await.expect("changes");
        epoch = changes.epoch;
        followed.extend(changes.entries.iter().map(|entry| entry.holder()));
        let _ = world.store.rollup(&world.session).await;
        followed.len() == 3 + (WRITERS * EACH) as usize
    })
    .await;
    while let Some(written) = writers.join_next().await {
        written.expect("no panic");
    }
    let events = world.store.events(0, 1_000).await.expect("events");
    let numbers: Vec<i64> = events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>(), "the trail has no gap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollups_that_run_while_mail_is_charged_count_each_row_once() {
    let ledger = TestLedger::new();
    let world = World::with(&ledger, None, Some(1_000_000), None).await;
    let relays = relays(&ledger, &world).await;
    let mut taken = 0;
    until("enough is sent", async || {
        taken += world.store.rollup(&world.session).await.expect("rolled");
        taken > 2_000
    })
    .await;
    let kept = all_kept(relays).await as i64;
    world.store.rollup(&world.session).await.expect("rolled");
    let usage = world.balance(chain()[1]).await.usage;
    assert_eq!((usage.accepted, usage.relayed, usage.messages, usage.unknown), (kept, kept, kept, 0));
    let hours: i64 = ledger.look(|connection| async move {
        connection.query_one("SELECT sum(relayed)::bigint FROM usage_hour", &[]).await.expect("summed").get(0)
    });
    assert_eq!(hours, kept);
}
