use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::*;
use crate::domain::credit::{Reservation, Verdict};
use crate::domain::directory::Entry;
use crate::domain::id::{Holder, MessageId};
use crate::ledger::sqlite::SqliteStore;
use crate::ledger::store::{LedgerSession, Role, Store};
use crate::ledger::world::{account, key, key_id, monthly, policy, policy_id};
use crate::runtime::clock::{Clock, SystemClock};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        let (installation, incarnation) = (Uuid::from_u128(1), Uuid::from_u128(2));
        crate::ledger::sqlite::prepare(&place.ledger(), installation, "c", incarnation, SystemClock.now())
            .expect("made");
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ledger(&self) -> PathBuf {
        self.file("ledger.db")
    }

    async fn open(&self) -> (Arc<SqliteStore>, LedgerSession) {
        let store = Arc::new(SqliteStore::open(&self.ledger(), Arc::new(SystemClock)).expect("opened"));
        let session = store.open_session(Role::Relay, "relay").await.expect("a session");
        let entries = [
            Entry::Policy(policy(1, monthly(None))),
            Entry::Account(account(1, monthly(None))),
            Entry::Key(key(1, 1, monthly(None))),
        ];
        store.put(&session, "test", &entries).await.expect("written");
        (store, session)
    }
}

async fn send(store: &SqliteStore, session: &LedgerSession, from: u128, count: u128) {
    let batch: Vec<Reservation> = (from..from + count)
        .map(|n| Reservation { message: MessageId(Uuid::from_u128(n)), key: key_id(1), credits: 1, fingerprint: None })
        .collect();
    let verdicts = store.reserve(session, &batch).await.expect("charged");
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Reserved));
}

/// Returns the credits used in a file, and checks that its balances follow from its rows.
async fn used(path: &Path) -> i64 {
    let store = SqliteStore::open(path, Arc::new(SystemClock)).expect("opened");
    assert_eq!(store.check().await.expect("checked"), []);
    let connection = Connection::open(path).expect("a database");
    let holder = Holder::Policy(policy_id(1));
    let sum = "SELECT ifnull(sum(consumed), 0) FROM lot WHERE holder = ?1";
    connection.query_row(sum, [holder.uuid().as_bytes()], |row| row.get(0)).expect("summed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_under_load_is_one_moment_of_the_ledger() {
    let place = Place::new();
    let (store, session) = place.open().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (sending, done) = (store.clone(), stop.clone());
    let writer = tokio::spawn(async move {
        let mut sent = 0;
        while !done.load(Ordering::SeqCst) {
            send(&sending, &session, 1_000_000 + sent, 50).await;
            sent += 50;
        }
        i64::try_from(sent).expect("few")
    });
    let mut before = 0;
    for number in 0..5 {
        let (ledger, to) = (place.ledger(), place.file(&format!("backup-{number}.db")));
        let copied = tokio::task::spawn_blocking(move || backup(&ledger, &to, false)).await.expect("ran");
        let copied = copied.expect("copied");
        assert_eq!(copied.identity.installation, Uuid::from_u128(1));
        assert!(copied.bytes > 0);
        let held = used(&copied.path).await;
        assert!(held >= before && held % 50 == 0, "{held} after {before}: half a batch");
        before = held;
    }
    stop.store(true, Ordering::SeqCst);
    let sent = writer.await.expect("sent");
    assert!(before <= sent);
    assert_eq!(used(&place.ledger()).await, sent);
}

#[tokio::test]
async fn a_backup_never_takes_another_files_place_unasked() {
    let place = Place::new();
    let to = place.file("backup.db");
    fs::write(&to, "mine").expect("written");
    assert!(backup(&place.ledger(), &to, false).expect_err("it exists").to_string().contains("--overwrite"));
    assert_eq!(fs::read(&to).expect("read"), b"mine");
    assert!(
        backup(&place.ledger(), &place.ledger(), true).expect_err("itself").to_string().contains("the ledger itself")
    );
    backup(&place.ledger(), &to, true).expect("it was told to");
    let no_folder = place.file("no/such/folder.db");
    assert!(backup(&place.ledger(), &no_folder, false).expect_err("no folder").to_string().contains("folder.db"));
    assert!(
        backup(&place.file("nothing.db"), &no_folder, false)
            .expect_err("no ledger")
            .to_string()
            .contains("no such file")
    );
    let left: Vec<_> = fs::read_dir(place.folder.path()).expect("read").filter_map(std::result::Result::ok).collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().contains("partial")), "{left:?}");
}

#[tokio::test]
async fn a_restored_ledger_is_marked_and_the_old_one_kept() {
    let place = Place::new();
    let (store, session) = place.open().await;
    send(&store, &session, 1, 3).await;
    let saved = place.file("saved.db");
    backup(&place.ledger(), &saved, false).expect("copied");
    send(&store, &session, 100, 4).await;

    let refused = restore(&place.ledger(), &saved, false, SystemClock.now()).expect_err("it is in use");
    assert!(refused.to_string().contains("a process has it open"), "{refused}");
    send(&store, &session, 200, 1).await;
    drop(store);
    // The threads let go of the file a moment after the store is dropped.
    let restored = loop {
        match restore(&place.ledger(), &saved, false, SystemClock.now()) {
            Ok(restored) => break restored,
            Err(error) => assert!(error.to_string().contains("a process has it open"), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(restored.identity.state, State::Held(Because::Restored));
    assert_ne!(restored.identity.incarnation, Uuid::from_u128(2));
    assert_eq!(used(&place.ledger()).await, 3);
    assert_eq!(used(&restored.aside.expect("kept")).await, 8);
    assert_eq!(used(&saved).await, 3, "the backup is as it was");
    let store = SqliteStore::open(&place.ledger(), Arc::new(SystemClock)).expect("opened");
    let events = store.events(0, 100).await.expect("the trail");
    assert_eq!(events.last().map(|event| event.kind.as_str()), Some("ledger.restored"));
}

#[tokio::test]
async fn what_is_damaged_or_no_ledger_is_not_put_in_place() {
    let place = Place::new();
    let (store, session) = place.open().await;
    send(&store, &session, 1, 200).await;
    drop(store);
    let saved = place.file("saved.db");
    backup(&place.ledger(), &saved, false).expect("copied");
    let mut bytes = fs::read(&saved).expect("read");
    // The middle page of the file, which is a table's or an index's.
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(&saved, bytes).expect("written");
    let other = place.file("recipes.db");
    Connection::open(&other).expect("made").execute_batch("CREATE TABLE recipes (name TEXT)").expect("a table");
    for (from, why) in [(saved, ""), (other, "another program"), (place.file("nothing.db"), "no such file")] {
        let refused = restore(&place.ledger(), &from, false, SystemClock.now()).expect_err("it is no backup");
        assert!(shown(&refused).contains(why), "{refused}");
        let at_fault = format!("the backup {} cannot be used: ", from.display());
        assert!(why.is_empty() || refused.to_string().starts_with(&at_fault), "{refused}");
        assert_eq!(used(&place.ledger()).await, 200);
    }
}

fn shown(error: &Error) -> String {
    std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[tokio::test]
async fn the_oldest_backups_of_a_folder_give_way_and_other_files_stay() {
    let place = Place::new();
    let folder = place.file("backups");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("notes.txt"), "mine").expect("written");
    fs::write(folder.join("ledger-mine.db"), "mine").expect("written");
    assert_eq!(latest_backup(&folder).expect("read"), None);
    let at = |second: i64| Timestamp::from_second(1_795_000_000 + second).expect("a time");
    for second in [0, 60, 120, 180] {
        backup_into(&place.ledger(), &folder, 2, at(second)).expect("copied");
    }
    assert_eq!(latest_backup(&folder).expect("read"), Some(at(180)));
    let names: Vec<String> = copies(&folder).expect("read").iter().map(|path| path.display().to_string()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].ends_with(&name_at(at(120))), "{names:?}");
    assert!(folder.join("notes.txt").exists() && folder.join("ledger-mine.db").exists());
}

#[tokio::test]
async fn who_names_a_backup_that_is_not_there_hears_which_ones_are() {
    let place = Place::new();
    let folder = place.file("backups");
    let missing = folder.join("ledger-20200101T000000Z.db");
    let hears =
        || restore(&place.ledger(), &missing, false, SystemClock.now()).expect_err("it is not there").to_string();
    assert!(
        hears().ends_with(&format!("no such file; {} cannot be read as a folder", folder.display())),
        "{}",
        hears()
    );
    fs::create_dir(&folder).expect("made");
    assert!(hears().ends_with(&format!("there are no backups in {}", folder.display())), "{}", hears());
    let at = |second: i64| Timestamp::from_second(1_795_000_000 + second).expect("a time");
    for second in 0..7 {
        backup_into(&place.ledger(), &folder, 10, at(second)).expect("copied");
    }
    let newest: Vec<String> = (2..7).rev().map(|second| name_at(at(second))).collect();
    assert!(hears().ends_with(&format!(" has {} and 2 older", newest.join(", "))), "{}", hears());
    let found = standing(&folder).expect("read");
    assert_eq!(found.iter().map(|one| one.taken_at).collect::<Vec<_>>(), (0..7).rev().map(at).collect::<Vec<_>>());
    assert!(found.iter().all(|one| one.bytes > 0));
}

#[tokio::test]
async fn a_ledger_that_moves_is_replaced_only_by_who_says_that_its_database_is_lost() {
    let place = Place::new();
    let saved = place.file("saved.db");
    drop(place.open().await);
    backup(&place.ledger(), &saved, false).expect("copied");
    let connection = Connection::open(place.ledger()).expect("the ledger");
    moved::set(&connection, "target", "db.example/franking", SystemClock.now()).unwrap_or_else(|_| panic!("marked"));
    drop(connection);
    let refused = restore(&place.ledger(), &saved, false, SystemClock.now()).expect_err("it moves").to_string();
    assert!(
        refused.contains("is being moved to db.example/franking") && refused.contains("--although-moved"),
        "{refused}"
    );
    restore(&place.ledger(), &saved, true, SystemClock.now()).expect("restored");
}
