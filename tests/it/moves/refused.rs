//! What is not moved, and why.

use std::fs;

use franking::ledger::incarnation::Naming;
use franking::ledger::postgres;
use franking::ledger::store::{Because, Role, State};
use franking::runtime::clock::Clock as _;
use uuid::Uuid;

use super::ledger::{INSTALLATION, Old};
use super::{New, last};

/// Makes a ledger in the database, as `franking prepare` does.
async fn prepared(new: &New, old: &Old, installation: Uuid, state: State) {
    let naming = Naming { installation, cluster: "cluster".to_owned(), incarnation: Uuid::from_u128(9), state };
    postgres::prepare(&new.url, "the test's".to_owned(), true, &naming, old.clock.now()).await.expect("a ledger");
}

#[track_caller]
fn refused(new: &New, old: &Old, arguments: &[&str], sentence: &str) {
    let (code, said) = last(&new.run(old.folder(), arguments));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(sentence), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_has_something_is_left_alone_and_so_is_the_ledger() {
    let mut old = Old::new(11).await;
    old.live(50).await;
    // One that is open is in use, even without a row.
    let new = New::database("move_open").await;
    prepared(&new, &old, INSTALLATION, State::Open).await;
    refused(&new, &old, &[], "a ledger is in use there");
    // One of another installation.
    let new = New::database("move_foreign").await;
    prepared(&new, &old, Uuid::from_u128(77), State::Held(Because::Empty)).await;
    refused(&new, &old, &[], "belongs to installation");
    // One that is held, and has rows.
    let new = New::database("move_rows").await;
    prepared(&new, &old, INSTALLATION, State::Held(Because::Empty)).await;
    new.client().await.batch_execute("INSERT INTO seal VALUES (1, 1)").await.expect("a row");
    refused(&new, &old, &[], "its table seal has rows");
    // The ledger is as it was.
    old.store.open_session(Role::Relay, "relay-1").await.expect("it is in force");
    old.live(20).await;
}

/// An empty database cannot tell whose ledger belongs there: the wrong claim must be found out before it is closed.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_of_another_installation_is_refused_before_it_is_marked() {
    let mut old = Old::new(15).await;
    old.live(50).await;
    let new = New::database("move_other_claim").await;
    let another = Uuid::from_u128(77).to_string();
    refused(&new, &old, &["--installation", &another], "it belongs to installation");
    let mut command = new.command(old.folder(), &[]);
    let (code, said) = last(&command.env("FRANKING_INSTALLATION", &another).output().expect("the binary starts"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("expected {another}")), "{said}");
    old.store.open_session(Role::Relay, "relay-1").await.expect("it is in force");
    old.live(20).await;
    assert!(new.client().await.query_one("SELECT 1 FROM meta", &[]).await.is_err(), "a ledger was made there");
    let own = INSTALLATION.to_string();
    let (code, said) = last(&new.run(old.folder(), &["--installation", &own]));
    assert_eq!(code, Some(0), "{said}");
}

/// A file that was left behind answers no question about the ledger, and is not copied over good backups.
#[tokio::test(flavor = "multi_thread")]
async fn no_command_works_on_a_file_that_was_moved() {
    let mut old = Old::new(16).await;
    old.live(50).await;
    let new = New::database("move_commands").await;
    let settings = old.folder().join("sqlite.yaml");
    let text = format!("ledger: {{engine: sqlite, path: {}}}\n", old.path().display());
    fs::write(&settings, text).expect("ours");
    let copy = old.folder().join("copy.db");
    let backups = old.folder().join("backups");
    fs::create_dir(&backups).expect("ours");
    let [copy_text, backups_text] = [&copy, &backups].map(|path| path.to_str().expect("UTF-8"));
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_franking"));
        command.arg("ledger").args(arguments).arg("--config").arg(&settings).env_clear();
        last(&command.output().expect("the binary starts"))
    };
    let commands: [&[&str]; 5] = [
        &["check"],
        &["costs", "--policy", "plan"],
        &["events"],
        &["backup", copy_text, "--overwrite"],
        &["backups", backups_text, "--keep", "3"],
    ];
    assert_eq!(run(commands[0]).0, Some(0), "it is in force");
    let (code, said) = last(&new.run(old.folder(), &[]));
    assert_eq!(code, Some(0), "{said}");
    for command in commands {
        let (code, said) = run(command);
        assert_eq!(code, Some(1), "{command:?}: {said}");
        assert!(said.contains("it was moved to ") && said.contains("ledger.engine to postgres"), "{command:?}: {said}");
        assert!(!said.contains("franking@"), "{command:?}: {said}");
    }
    assert!(!copy.exists() && fs::read_dir(&backups).expect("ours").next().is_none(), "a copy of it was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_ledger_that_waits_for_the_move_is_taken_over_and_its_processes_are_fenced() {
    let mut old = Old::new(12).await;
    old.live(200).await;
    let new = New::database("move_waiting").await;
    prepared(&new, &old, INSTALLATION, State::Held(Because::Empty)).await;
    let early = new.store(&old.clock);
    let session = early.open_session(Role::Relay, "relay-0").await.expect("a session");
    let (code, said) = last(&new.run(old.folder(), &[]));
    assert_eq!(code, Some(0), "{said}");
    assert!(early.heartbeat(&session).await.is_err(), "a session of the empty ledger lives on");
    let renewed = early.open_session(Role::Relay, "relay-0").await.expect("a session");
    early.heartbeat(&renewed).await.expect("it lives");
    let other = early.open_session(Role::Relay, "relay-9").await.expect("a session");
    assert_ne!((other.id, other.epoch), (session.id, session.epoch), "a fenced process would be taken for this one");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_way_back_and_none_to_another_database() {
    let mut old = Old::new(13).await;
    old.live(50).await;
    let (new, other) = (New::database("move_there").await, New::database("move_elsewhere").await);
    let mut command = new.command(old.folder(), &[]);
    fs::write(old.folder().join("franking.yaml"), "ledger: {engine: sqlite, path: /nowhere/ledger.db}\n")
        .expect("ours");
    let (code, said) = last(&command.output().expect("the binary starts"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no way back"), "{said}");
    let mut command = new.command(old.folder(), &[]);
    command.args(["--from", &new.url]);
    let back = std::process::Command::new(env!("CARGO_BIN_EXE_franking"))
        .args(["ledger", "move", "--from", &new.url, "--config"])
        .arg(old.folder().join("franking.yaml"))
        .env_clear()
        .output()
        .expect("the binary starts");
    let (code, said) = last(&back);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no way back") && !said.contains("franking@"), "{said}");

    refused(&new, &old, &["--abandon"], "no move of it has begun");
    let (code, said) = last(&new.run(old.folder(), &[]));
    assert_eq!(code, Some(0), "{said}");
    refused(&other, &old, &[], "is another database");
    refused(&new, &old, &["--abandon"], "there is no way back");
    // A database that was emptied after the move is not filled again from a file that is older.
    new.client().await.batch_execute("DROP SCHEMA franking CASCADE").await.expect("gone");
    refused(&new, &old, &[], "restore the database from its backup");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_not_in_balance_is_not_moved() {
    let mut old = Old::new(14).await;
    old.live(200).await;
    let new = New::database("move_unbalanced").await;
    let file = rusqlite::Connection::open(old.path()).expect("a database");
    let changed = file.execute(
        "UPDATE lot SET consumed = consumed + 1 WHERE id = (SELECT max(lot) FROM \
        (SELECT id AS lot FROM lot WHERE granted IS NULL))",
        [],
    );
    assert_eq!(changed.expect("changed"), 1);
    refused(&new, &old, &[], "lots are not in balance");
    old.store.open_session(Role::Relay, "relay-1").await.expect("it is in force");
}
