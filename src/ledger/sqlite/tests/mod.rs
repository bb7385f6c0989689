//! The suite on this engine, and what only this engine can do wrong.

mod migrations;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Connection;
use uuid::Uuid;

use super::file::{self, Migration};
use super::{SqliteStore, failure, writer};
use crate::domain::credit::{Meter, Verdict};
use crate::ledger::conformance::{Place, World, conformance, random_histories_agree_with_the_model};
use crate::ledger::incarnation::Naming;
use crate::ledger::store::{Error, Result, Role, Session, State, Store};
use crate::runtime::clock::{Clock, ManualClock};

/// A directory of its own, gone with the test.
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

conformance!(File::new();
    a_message_is_charged_to_all_its_meters_or_to_none,
    a_shortage_says_when_the_period_ends,
    asking_again_with_the_same_id_charges_nothing,
    an_id_twice_in_one_batch_is_charged_once,
    refused_and_not_offered_give_back_relayed_and_unknown_do_not,
    the_first_outcome_stays_and_unknown_is_corrected_once,
    an_outcome_of_a_message_that_was_never_reserved_changes_nothing,
    one_bad_message_does_not_spoil_the_batch,
    standing_is_judged_on_fresh_rows,
    an_account_that_moves_is_charged_to_its_new_policy,
    a_replaced_session_is_fenced_but_its_outcomes_are_taken,
    silent_sessions_are_given_up_and_their_messages_become_unknown,
    messages_of_a_closed_or_replaced_session_become_unknown,
    racing_tasks_accept_exactly_the_limit,
    racing_processes_accept_exactly_the_limit,
    a_raised_limit_holds_at_once,
    a_lowered_limit_stops_sending_and_its_refunds_make_no_room,
    a_limit_that_comes_later_counts_what_was_used_before,
    a_period_ends_by_itself,
    a_clock_that_steps_back_opens_no_older_period,
    a_changed_calendar_takes_effect_when_the_running_lot_ends,
    a_limit_of_nothing_holds_at_once_whatever_its_period,
    a_short_lot_is_regranted_in_proportion,
    an_edit_and_its_reverse_leave_the_running_lot_as_it_was,
    an_unlimited_lot_is_cut_when_its_calendar_changes,
    a_calendar_that_changes_twice_in_a_millisecond_leaves_one_lot,
    a_limit_that_is_taken_away_is_gone_at_once,
    lots_made_ahead_are_the_ones_that_would_have_been_made,
    a_lot_follows_from_the_limit_that_held_when_it_began_made_or_not,
    what_is_removed_gets_no_lots_ahead,
    a_holder_that_returns_finds_what_it_used_and_the_limit_of_now,
    two_keys_race_for_the_last_credit_of_their_account,
    a_prepaid_account_with_nothing_left_sends_nothing_also_where_its_lists_are_empty,
    grants_are_used_by_expiry_then_age_and_one_message_takes_of_several,
    a_grant_that_is_taken_back_and_given_again_never_refills,
    a_grant_that_is_lowered_is_never_below_what_is_used,
    top_ups_come_once_in_a_period_whoever_asks_and_are_carried_over,
    no_edit_of_a_top_up_or_its_calendar_adds_twice,
    a_top_up_that_is_removed_is_taken_back_and_returns_with_what_was_left,
    top_ups_keep_to_their_start_and_end,
    a_policys_balance_is_shared_beside_its_accounts_own,
    racing_processes_use_prepaid_lots_up_exactly,
    money_is_charged_at_the_price_of_its_moment_and_given_back_at_that,
    a_spend_limit_is_for_life,
    overage_is_counted_apart_and_given_back_first,
    a_rate_is_judged_for_all_processes_together,
    a_rate_is_judged_before_credits_and_refused_messages_move_nothing,
    every_meter_is_charged_once_or_none_and_given_back_once,
    a_balance_says_what_is_left_and_when_it_opens,
    a_night_in_which_clocks_change_is_one_day,
    the_trail_tells_what_was_given_taken_limited_held_and_rotated,
    an_id_is_minted_once_for_its_kind_namespace_and_name,
    changes_follow_an_epoch_and_equal_entries_move_none,
    an_entry_is_found_fresh_whoever_wrote_it,
    a_key_without_its_account_or_policy_is_nobody,
    usage_is_exact_in_the_transaction_that_moves_it,
    the_rollup_takes_each_row_once_and_says_who_moved,
    balances_leave_out_who_is_not_known,
    a_balance_of_a_period_in_which_nobody_sent_is_what_the_first_message_finds,
    the_trail_says_who_changed_which_limit_and_names_nobody,
    two_processes_have_two_sessions,
    a_call_without_an_answer_is_asked_again_and_charged_once,
    a_charge_that_comes_after_the_deadline_is_given_back,
    a_caller_that_goes_away_is_not_charged,
    ten_thousand_accounts_roll_over_while_mail_flows,
    a_full_disk_is_answered_at_once_and_heals,
    one_message_that_cannot_be_written_does_not_stop_the_others,
    outcomes_are_retried_until_they_are_written,
    draining_writes_what_waits_and_closes_the_session,
    what_cannot_be_written_by_the_deadline_is_counted,
    a_given_up_session_is_renewed,
    batches_grow_with_the_load_and_limits_hold,
    a_held_ledger_charges_nothing_and_judges_nobody,
    an_accepted_ledger_ends_every_session_and_charges_when_it_is_rebuilt,
    an_acceptance_that_is_said_twice_holds_once,
    the_id_of_a_status_is_kept_and_a_copied_one_is_not,
    used_credits_are_raised_to_what_is_known_and_the_books_balance,
    a_mark_grows_with_the_directory_the_trail_and_what_is_sent,
    usage_is_summed_by_key_and_told_in_pages,
    usage_belongs_to_the_hour_of_its_reservation_and_an_hour_to_where_it_begins,
    a_rollup_that_is_given_up_half_way_moves_nothing_twice,
    what_was_used_costs_the_price_of_its_reservation,
    terms_stand_until_they_are_written_again,
    a_threshold_is_taken_once_in_a_period_on_each_way,
    what_was_told_last_is_the_highest_of_the_newest_period,
    a_claimed_notice_is_due_again_until_it_is_closed,
    notices_are_forgotten_when_they_have_ended_and_are_old,
    a_fenced_operator_takes_hands_out_and_ends_no_notice,
);

#[test]
fn random_histories_agree() {
    random_histories_agree_with_the_model(File::new, no_lots_overlap);
}

/// Every holder has at most one lot at any instant.
fn no_lots_overlap(file: &File) {
    let connection = Connection::open(file.path()).expect("a database");
    let overlaps: i64 = connection
        .query_row(
            "SELECT count(*) FROM lot a JOIN lot b ON a.holder = b.holder AND a.kind = b.kind AND a.id <> b.id \
             WHERE a.valid_from <= b.valid_from AND b.valid_from < a.valid_to",
            [],
            |row| row.get(0),
        )
        .expect("counted");
    assert_eq!(overlaps, 0);
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
    let newer = [Migration { version: 9, sql: "must not run" }];
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
    assert_eq!(pragmas, (2, 1, 4_000));
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
    // Not less than there are: the next page that is needed does not fit.
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

/// Holds the writer until everything that a test wants in one transaction is queued.
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
    let stale = Session { id: session.id, epoch: session.epoch - 1 };
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

/// Takes the five seconds that a lock is waited for.
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
