//! The move is killed at each of its steps: afterwards at most one ledger is in force, and running it again leads to the
//! new one. A lock of the test's own holds the move where it is to be killed.

use std::process::{Child, Stdio};
use std::sync::Arc;

use franking::ledger::incarnation::Naming;
use franking::ledger::postgres;
use franking::ledger::sqlite::SqliteStore;
use franking::ledger::store::{Because, Role, State};
use franking::runtime::clock::Clock as _;
use uuid::Uuid;

use super::ledger::{INSTALLATION, Old, asked};
use super::{New, last};
use crate::support::franking::DEADLINE;

/// Which ledger charges mail.
#[derive(Debug, PartialEq)]
enum InForce {
    Old,
    New,
    Neither,
}

struct Scene {
    old: Old,
    new: New,
}

impl Scene {
    /// A ledger with a history, and a database with an empty one that waits for it.
    async fn new(name: &str, seed: u64) -> Self {
        let mut old = Old::new(seed).await;
        old.live(300).await;
        let new = New::database(name).await;
        let state = State::Held(Because::Empty);
        let (cluster, incarnation) = ("cluster".to_owned(), Uuid::from_u128(9));
        let naming = Naming { installation: INSTALLATION, cluster, incarnation, state };
        let made = postgres::prepare(&new.url, "the test's".to_owned(), true, &naming, old.clock.now()).await;
        made.expect("a ledger");
        Self { old, new }
    }

    fn start(&self) -> Child {
        let mut command = self.new.command(self.old.folder(), &[]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts")
    }

    async fn in_force(&self) -> InForce {
        // A new process, and one that has the file open since before.
        let opened = SqliteStore::open(&self.old.path(), Arc::new(self.old.clock.clone())).is_ok();
        let writes = self.old.store.open_session(Role::Relay, "asks").await.is_ok();
        assert_eq!(opened, writes, "a new process and an old one disagree");
        let there = self.new.store(&self.old.clock).identity().await.expect("a ledger");
        match (opened, there.state) {
            (true, State::Held(Because::Empty)) => InForce::Old,
            (false, State::Held(Because::Empty)) => InForce::Neither,
            (false, State::Open) => InForce::New,
            both => panic!("{both:?}"),
        }
    }

    /// Runs the move to its end, and finds everything in the new ledger.
    async fn ends(&self) {
        let output = self.new.run(self.old.folder(), &[]);
        let (code, said) = last(&output);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(self.in_force().await, InForce::New);
        let there = self.new.store(&self.old.clock);
        let session = there.open_session(Role::Operator, "asks").await.expect("a session");
        let found = asked(there.as_ref(), &session).await;
        assert_eq!(found.events.iter().filter(|event| event.kind == "ledger.moved").count(), 1);
        assert!(found.usage.len() > 3, "{:?}", found.usage);
    }
}

/// Waits until a process waits for a lock on this table.
async fn waits_for(client: &tokio_postgres::Client, table: &str) {
    let sql = format!("SELECT EXISTS (SELECT FROM pg_locks WHERE relation = '{table}'::regclass AND NOT granted)");
    let until = tokio::time::Instant::now() + DEADLINE;
    while !client.query_one(sql.as_str(), &[]).await.expect("a row").get::<_, bool>(0) {
        assert!(tokio::time::Instant::now() < until, "nothing waits for {table}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn kill(mut child: Child) {
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_it_has_begun_the_old_ledger_goes_on() {
    let scene = Scene::new("move_killed_before", 21).await;
    let client = scene.new.client().await;
    // The lock of moves, which it waits for before anything else.
    client.batch_execute("SELECT pg_advisory_lock(1179799117)").await.expect("locked");
    let child = scene.start();
    let until = tokio::time::Instant::now() + DEADLINE;
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = \
        (SELECT oid FROM pg_database WHERE datname = current_database()))";
    while !client.query_one(waits, &[]).await.expect("a row").get::<_, bool>(0) {
        assert!(tokio::time::Instant::now() < until, "it does not wait");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    kill(child);
    assert_eq!(scene.in_force().await, InForce::Old);
    client.batch_execute("SELECT pg_advisory_unlock(1179799117)").await.expect("unlocked");
    scene.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_copies_it_begins_the_copy_again() {
    let scene = Scene::new("move_killed_copying", 22).await;
    let client = scene.new.client().await;
    // The first table, one in the middle, and what comes last: its lock lets be read, and not be written.
    for (table, mode) in
        [("identity", "SHARE"), ("settlement", "SHARE"), ("login_network", "SHARE"), ("session", "ACCESS SHARE")]
    {
        client.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN {mode} MODE")).await.expect("locked");
        let child = scene.start();
        waits_for(&client, table).await;
        kill(child);
        client.batch_execute("ROLLBACK").await.expect("unlocked");
        assert_eq!(scene.in_force().await, InForce::Neither, "{table}");
    }
    scene.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_new_ledger_is_in_force_it_only_says_so() {
    let scene = Scene::new("move_killed_after", 23).await;
    let client = scene.new.client().await;
    client.batch_execute("BEGIN; LOCK TABLE session IN ACCESS SHARE MODE").await.expect("locked");
    let child = scene.start();
    waits_for(&client, "session").await;
    // The mark of the end cannot be written while another has the file's lock.
    let file = rusqlite::Connection::open(scene.old.path()).expect("a database");
    file.execute_batch("BEGIN IMMEDIATE").expect("locked");
    client.batch_execute("ROLLBACK").await.expect("unlocked");
    let until = tokio::time::Instant::now() + DEADLINE;
    while client.query_one("SELECT state FROM meta", &[]).await.expect("a row").get::<_, String>(0) != "open" {
        assert!(tokio::time::Instant::now() < until, "it does not commit");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    kill(child);
    file.execute_batch("ROLLBACK").expect("unlocked");
    let refused = SqliteStore::open(&scene.old.path(), Arc::new(scene.old.clock.clone())).map(drop);
    assert!(refused.expect_err("it is marked").to_string().contains("it is being moved"), "it is not said");
    assert_eq!(scene.in_force().await, InForce::New);
    // It cannot be taken back any more.
    let (code, said) = last(&scene.new.run(scene.old.folder(), &["--abandon"]));
    assert_eq!(code, Some(1), "{said}");
    scene.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_interrupted_can_be_taken_back() {
    let mut scene = Scene::new("move_abandoned", 24).await;
    let client = scene.new.client().await;
    client.batch_execute("BEGIN; LOCK TABLE identity IN SHARE MODE").await.expect("locked");
    let child = scene.start();
    waits_for(&client, "identity").await;
    kill(child);
    client.batch_execute("ROLLBACK").await.expect("unlocked");
    assert_eq!(scene.in_force().await, InForce::Neither);
    let (code, said) = last(&scene.new.run(scene.old.folder(), &["--abandon"]));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(scene.in_force().await, InForce::Old);
    scene.old.live(50).await;
    scene.ends().await;
}
