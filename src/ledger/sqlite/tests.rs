//! The suite on this engine, and what only this engine can do wrong.

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::SqliteStore;
use crate::ledger::conformance::{Place, conformance};
use crate::ledger::store::Store;
use crate::runtime::clock::Clock;

/// A directory of its own, gone with the test.
struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        let file = Self(tempfile::tempdir().expect("a directory"));
        super::prepare(&file.path(), Uuid::from_u128(1), "cluster", Uuid::from_u128(2), jiff::Timestamp::UNIX_EPOCH)
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
);
