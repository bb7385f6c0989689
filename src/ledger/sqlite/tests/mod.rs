//! The faults that only this engine can have. The suite that every engine passes is `tests/it/ledger`.

mod migrations;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Connection;
use uuid::Uuid;

use super::file::{self, Migration};
use super::{SqliteStore, failure, writer};
use crate::domain::credit::{Meter, Verdict};
use crate::ledger::incarnation::Naming;
use crate::ledger::store::{Error, LedgerSession, Result, Role, State, Store};
use crate::ledger::world::{Place, World};
use crate::runtime::clock::{Clock, ManualClock};

/// A directory of its own, removed with the test.
struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        let file = Self(tempfile::tempdir().expect("a directory"));
        super::prepare(&file.path(), Uuid::from_u128(1), "cluster", Uuid::from_u128(2), Timestamp::UNIX_EPOCH)
            .expect("a ledger");
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ledger.db")
    }
}

impl Place for File {
    fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&self.path(), clock).expect("the ledger"))
    }
}

fn open(path: &Path) -> Result<SqliteStore> {
    SqliteStore::open(path, Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)))
}

fn naming(installation: u128) -> Naming {
    let (installation, incarnation) = (Uuid::from_u128(installation), Uuid::from_u128(2));
    Naming { installation, cluster: "cluster".to_owned(), incarnation, state: State::Open }
}

/// The schema of this release.
fn newest() -> i64 {
    file::MIGRATIONS.last().expect("migrations").version
}

fn why<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(Error::Unfit { why, .. }) => why,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_prepared_ledger_knows_who_it_is_and_preparing_again_changes_nothing() {
    let file = File::new();
    for _ in 0..2 {
        let identity = file::prepare(&file.path(), &naming(1), file::MIGRATIONS, Timestamp::UNIX_EPOCH).expect("same");
        assert_eq!((identity.installation, identity.schema_version), (Uuid::from_u128(1), newest()));
        assert_eq!(open(&file.path()).expect("opened").identity().await.expect("read"), identity);
    }
    let entries = std::fs::read_dir(file.0.path()).expect("a directory").filter_map(std::result::Result::ok);
    let copies = entries.filter(|entry| entry.file_name().to_string_lossy().contains("schema-")).count();
    assert_eq!(copies, 0);
}

#[test]
fn another_installations_ledger_is_told_and_its_schema_not_changed() {
    let file = File::new();
    let found = file::prepare(&file.path(), &naming(9), file::MIGRATIONS, Timestamp::UNIX_EPOCH).expect("told");
    assert_eq!((found.installation, found.state), (Uuid::from_u128(1), State::Open));
    let newer = [Migration { version: newest() + 1, sql: "must not run" }];
    let refused = file::prepare(&file.path(), &naming(9), &newer, Timestamp::UNIX_EPOCH);
    assert!(matches!(refused, Err(Error::Foreign { found, expected })
        if found == Uuid::from_u128(1) && expected == Uuid::from_u128(9)));
}

#[test]
fn what_is_not_a_ledger_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ledger.db");
    assert!(why(open(&path)).contains("no such file"));
    std::fs::write(&path, "").expect("written");
    assert!(why(open(&path)).contains("it is empty"));
    let other = Connection::open(&path).expect("a database");
    other.execute_batch("CREATE TABLE recipes (name TEXT)").expect("a table");
    drop(other);
    assert!(why(open(&path)).contains("another program"));
    assert!(why(file::prepare(&path, &naming(1), file::MIGRATIONS, Timestamp::UNIX_EPOCH)).contains("another program"));
    std::fs::write(&path, "this is a text and not a database at all, whatever its name says".repeat(100))
        .expect("written");
    assert!(why(open(&path)).contains("not a database"));
}

#[test]
fn a_schema_of_another_release_is_refused() {
    let file = File::new();
    let connection = Connection::open(file.path()).expect("a database");
    connection.execute("UPDATE meta SET schema_version = 77", []).expect("written");
    drop(connection);
    let refused = [
        open(&file.path()).map(|_| ()),
        file::prepare(&file.path(), &naming(1), file::MIGRATIONS, Timestamp::UNIX_EPOCH).map(|_| ()),
    ];
    for result in refused {
        assert!(matches!(result, Err(Error::Schema { found: 77, newest: n, .. }) if n == newest()), "{result:?}");
    }
}

#[tokio::test]
async fn an_existing_file_is_copied_before_its_schema_changes() {
    let file = File::new();
    let store = open(&file.path()).expect("opened");
    store.open_session(Role::Operator, "kept").await.expect("a session");
    drop(store);
    let newer = [
        Migration { version: newest(), sql: "must not run again" },
        Migration { version: newest() + 1, sql: "CREATE TABLE later (a INTEGER) STRICT" },
    ];
    let now = Timestamp::from_second(1_000).expect("a time");
    let identity = file::prepare(&file.path(), &naming(1), &newer, now).expect("migrated");
    assert_eq!(identity.schema_version, newest() + 1);
    let copy = Connection::open(file::copy_path(&file.path(), newest(), now)).expect("the copy");
    let kept = |connection: &Connection| -> (i64, i64) {
        connection
            .query_row("SELECT schema_version, (SELECT count(*) FROM session) FROM meta", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .expect("readable")
    };
    assert_eq!(kept(&copy), (newest(), 1));
    assert_eq!(kept(&Connection::open(file.path()).expect("the ledger")), (newest() + 1, 1));
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let file = File::new();
    let broken = [
        Migration { version: newest(), sql: "" },
        Migration { version: newest() + 1, sql: "CREATE TABLE later (a INTEGER) STRICT; SELECT nonsense FROM nowhere" },
    ];
    assert!(file::prepare(&file.path(), &naming(1), &broken, Timestamp::UNIX_EPOCH).is_err());
    let connection = Connection::open(file.path()).expect("a database");
    let found: (i64, i64) = connection
        .query_row(
            "SELECT schema_version, (SELECT count(*) FROM sqlite_schema WHERE name = 'later') FROM meta",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .expect("readable");
    assert_eq!(found, (newest(), 0));
}

#[test]
fn network_file_systems_are_refused_by_name() {
    for (kind, name) in [(0x6969, "NFS"), (0xff53_4d42, "SMB"), (0xfe53_4d42, "SMB"), (0x6573_5546, "FUSE")] {
        assert_eq!(file::network_file_system(kind), Some(name));
    }
    // ext4, XFS, Btrfs, tmpfs, overlayfs.
    for kind in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
        assert_eq!(file::network_file_system(kind), None);
    }
    let here = file::file_system_of(&std::env::temp_dir()).expect("examined");
    assert_ne!(here, 0);
}

#[test]
fn the_file_is_only_for_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = File::new();
    let mode = std::fs::metadata(file.path()).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn commits_are_durable_and_the_belt_holds() {
    let file = File::new();
    let store = open(&file.path()).expect("opened");
    let pragmas = store
        .writer
        .call("testing", 1, |tx| {
            let read = |name| tx.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            Ok((read("synchronous")?, read("foreign_keys")?, read("wal_autocheckpoint")?))
        })
        .await
        .expect("read");
    assert_eq!(pragmas, (2, 1, 16_000));
    let overspent = store
        .writer
        .call("testing", 1, |tx| {
            Ok(tx.connection.execute(
                "INSERT INTO lot (kind, holder, period, valid_from, valid_to, calendar, part, whole, granted, consumed) \
                 VALUES ('key', zeroblob(16), 'p', 0, 1, '', 1, 1, 5, 6)",
                [],
            )?)
        })
        .await;
    assert!(overspent.expect_err("refused").is_undone());
}

#[tokio::test]
async fn the_trail_is_only_added_to() {
    let file = File::new();
    let world = World::with(&file, None, Some(5), None).await;
    let before = world.store.events(0, 100).await.expect("events");
    assert!(!before.is_empty());
    let connection = Connection::open(file.path()).expect("a database");
    for change in ["UPDATE event SET actor = 'somebody else'", "DELETE FROM event"] {
        let refused = connection.execute(change, []).expect_err(change);
        assert!(refused.to_string().contains("only added to"), "{refused}");
    }
    assert_eq!(world.store.events(0, 100).await.expect("events"), before);
}

#[tokio::test]
async fn a_full_disk_writes_nothing_and_heals() {
    let file = File::new();
    let mut world = World::with(&file, None, Some(1_000_000), None).await;
    let store = open(&file.path()).expect("opened");
    let session = store.open_session(Role::Relay, "relay-9").await.expect("a session");
    let pages = |count: i64| {
        store.writer.call("testing", 1, move |tx| {
            Ok(tx.connection.pragma_update_and_check(None, "max_page_count", count, |_| Ok(()))?)
        })
    };
    // At least the pages that there are: the next page that is needed does not fit.
    pages(1).await.expect("set");
    let mut batch = vec![];
    let full = loop {
        batch.extend((0..200).map(|_| world.reservation(1)));
        match store.reserve(&session, &batch).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full), "{full}");
    world.check().await;
    pages(1_000_000).await.expect("set");
    let verdicts = store.reserve(&session, &batch).await.expect("healed");
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Reserved));
    assert_eq!(world.consumed().await[1], batch.len() as i64);
    world.check().await;
}

/// Holds the writer until all the calls that a test wants in one transaction are queued.
async fn in_one_group(store: &SqliteStore, queued: impl AsyncFnOnce()) {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (started, starts) = tokio::sync::oneshot::channel();
    let mut started = Some(started);
    let hold = store.writer.call("testing", writer::GROUP, move |_| {
        if let Some(started) = started.take() {
            let _ = started.send(());
        }
        let _ = held.recv();
        Ok(())
    });
    let others = async {
        starts.await.expect("the writer is held");
        tokio::join!(queued(), async { drop(release) });
    };
    let (held, ()) = tokio::join!(hold, others);
    held.expect("released");
}

#[tokio::test]
async fn calls_that_fail_or_panic_do_not_fail_the_others_of_their_transaction() {
    let file = File::new();
    let mut world = World::with(&file, None, Some(10), None).await;
    let store = open(&file.path()).expect("opened");
    let session = store.open_session(Role::Relay, "relay-9").await.expect("a session");
    let stale = LedgerSession { id: session.id, epoch: session.epoch - 1 };
    let (before, after) = (world.reservation(1), world.reservation(2));
    in_one_group(&store, async || {
        let (first, broken, panicked, fenced, last) = tokio::join!(
            store.reserve(&session, std::slice::from_ref(&before)),
            store.writer.call("testing", 1, |tx| {
                tx.record("half done", "test", None, &serde_json::json!({}))?;
                Ok(tx.connection.execute("INSERT INTO cursor (name, seq) VALUES ('twice', 1), ('twice', 1)", [])?)
            }),
            store.writer.call("testing", 1, |tx| -> failure::Op<()> {
                tx.record("half done", "test", None, &serde_json::json!({}))?;
                panic!("on purpose")
            }),
            store.heartbeat(&stale),
            store.reserve(&session, std::slice::from_ref(&after)),
        );
        assert_eq!(
            (first.expect("answered"), last.expect("answered")),
            (vec![Verdict::Reserved], vec![Verdict::Reserved])
        );
        assert!(broken.expect_err("a constraint").is_undone());
        assert!(panicked.expect_err("a panic").is_undone());
        assert!(matches!(fenced, Err(Error::Fenced)));
    })
    .await;
    assert_eq!(world.consumed().await, [3; 3]);
    let events = store.events(0, 1_000).await.expect("events");
    assert!(events.iter().all(|event| event.actor != "half done"));
    world.check().await;
}

#[tokio::test]
async fn a_check_finds_a_balance_that_does_not_follow_from_its_rows() {
    let file = File::new();
    let mut world = World::with(&file, None, Some(10), None).await;
    world.send(3).await;
    let connection = Connection::open(file.path()).expect("a database");
    connection.execute("UPDATE lot SET consumed = 2 WHERE kind = 'account'", []).expect("tampered");
    let wrong = world.store.check().await.expect("checked");
    assert_eq!(wrong.len(), 1);
    assert_eq!((wrong[0].consumed, wrong[0].recomputed, wrong[0].meter), (2, 3, Meter::AccountCap));
}

/// Takes five seconds, for which a lock is awaited.
#[tokio::test]
async fn a_lock_that_is_never_given_back_is_unavailable_and_heals() {
    let file = File::new();
    let mut world = World::with(&file, None, Some(10), None).await;
    let stuck = Connection::open(file.path()).expect("a database");
    stuck.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let reservation = world.reservation(1);
    let batch = std::slice::from_ref(&reservation);
    let error = world.store.reserve(&world.session, batch).await.expect_err("locked out");
    assert!(matches!(error, Error::Unavailable { .. }) && !error.is_undone(), "{error}");
    assert!(world.store.changes(0).await.is_ok(), "reading goes on");
    stuck.execute_batch("ROLLBACK").expect("unlocked");
    assert_eq!(world.ask(&reservation).await, Verdict::Reserved);
    assert_eq!(world.consumed().await, [1; 3]);
}

#[tokio::test]
async fn a_read_that_panics_does_not_end_the_others() {
    let file = File::new();
    let store = open(&file.path()).expect("opened");
    let panicked = store.reader.call("testing", |_, _| -> failure::Op<()> { panic!("on purpose") }).await;
    assert!(panicked.expect_err("a panic").is_undone());
    assert!(store.identity().await.is_ok());
}

/// The operator's chores and the relay's charges come from two processes of one pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_chore_lets_mail_in_between_its_pieces() {
    let file = File::new();
    let mut world = World::with(&file, None, None, None).await;
    for _ in 0..40 {
        let batch: Vec<_> = (0..500).map(|_| world.reservation(1)).collect();
        let verdicts = world.store.reserve(&world.session, &batch).await.expect("answered");
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Reserved));
    }
    let operator = file.open(Arc::new(world.clock.clone()));
    let session = operator.open_session(Role::Operator, "operator-1").await.expect("a session");
    let chore = tokio::spawn(async move { operator.rollup(&session).await.expect("rolled") });
    let connection = Connection::open(file.path()).expect("a database");
    let taken = || super::usage::cursor(&connection, super::usage::RESERVATIONS).expect("read");
    let mut charged_after = HashSet::new();
    while !chore.is_finished() {
        assert_eq!(world.send(1).await.1, Verdict::Reserved);
        charged_after.insert(taken());
    }
    assert!(chore.await.expect("no panic") >= 20_000);
    // Before the first piece, and after each of many.
    assert!(charged_after.len() > 6, "{charged_after:?}");
}
