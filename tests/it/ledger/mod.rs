//! The rules that every engine must follow, as tests that know no engine.
//!
//! An engine hands in a [`Place`], opened as any process opens it; [`conformance!`] makes one test of each rule. These
//! rules are the contract of [`Store`](franking::ledger::Store), sentence by sentence, so an engine that passes can
//! replace another. What only one engine can do wrong is tested beside it, in `src/ledger/`.

mod charging;
mod copies;
mod dedup_model;
mod denied_senders;
mod edits;
mod faulty;
mod handle;
mod histories;
mod incarnation;
mod keys;
mod limits;
mod logins;
mod meters;
mod model;
mod postgres;
mod prepaid;
mod raises;
mod rates;
mod records;
mod refusals;
mod refusing;
mod reports;
mod rollover;
mod settings;
mod sqlite;
mod steps;
mod stock;
mod troubles;
mod verdicts;
mod world;

pub(super) use charging::*;
pub(super) use copies::*;
pub(super) use denied_senders::*;
pub(super) use edits::*;
pub(super) use handle::*;
pub(super) use histories::random_histories_agree_with_the_model;
pub(super) use incarnation::*;
pub(super) use keys::*;
pub(super) use limits::*;
pub(super) use logins::*;
pub(super) use meters::*;
pub(super) use prepaid::*;
pub(super) use rates::*;
pub(super) use records::*;
pub(super) use refusals::*;
pub(super) use refusing::*;
pub(super) use reports::*;
pub(super) use rollover::*;
pub(super) use settings::*;
pub(super) use troubles::*;

use std::sync::Arc;

use franking::domain::credit::{Outcome, Reservation};
use franking::domain::fingerprint::Fingerprint;
use franking::domain::id::MessageId;
use franking::ledger::store::{DedupUpdate, Role, Settlement};
use franking::runtime::clock::Clock as _;
use jiff::Timestamp;
use world::{Place, World};

/// The steps of a world that only this suite takes.
impl World {
    /// Reopens the ledger as after a crash: everything in memory is gone.
    pub async fn reopen(&mut self, place: &impl Place) {
        self.store = place.open(Arc::new(self.clock.clone()));
        self.session = self.store.open_session(Role::Relay, "relay-0").await.expect("a session");
    }

    /// Returns a message of key 1 that may be sent again.
    pub fn copy(&mut self, fingerprint: u8) -> Reservation {
        Reservation { fingerprint: Some(Fingerprint([fingerprint; 32])), ..self.reservation(1) }
    }

    pub async fn settle_with(&self, message: MessageId, outcome: Outcome, update: DedupUpdate) {
        let settlement = Settlement { message, outcome, dedup: Some(update) };
        self.store.settle(&self.session, &[settlement]).await.expect("settled");
    }

    pub fn clock_now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Makes one test of each rule for the engine whose fresh place `$place` makes.
macro_rules! conformance {
    ($place:expr; $($rule:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                crate::ledger::$rule(&$place).await;
            }
        )*
    };
}

/// Runs every rule: the macro for an engine.
macro_rules! whole_suite {
    ($place:expr) => {
        crate::ledger::conformance!($place;
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
            a_copy_of_an_open_message_is_answered_by_what_became_of_it,
            a_copy_of_a_message_that_was_given_back_is_a_new_one,
            a_copy_stands_in_for_a_message_of_which_nobody_will_know,
            a_copy_of_a_message_whose_carrier_is_gone_stands_in_for_it,
            one_of_two_racing_copies_stands_in,
            two_messages_that_were_open_answer_two_copies,
            an_answer_that_nobody_collects_is_left_for_the_next_copy,
            a_copy_is_judged_by_its_standing_first,
            a_fingerprint_has_at_most_two_stand_ins,
            a_stand_in_is_judged_by_the_rate,
            a_message_that_nothing_tells_apart_is_kept_for_minutes,
            fingerprints_are_kept_for_a_day,
            a_kept_fingerprint_is_there_when_its_keeper_says_so,
            racing_tasks_accept_exactly_the_limit,
            racing_processes_accept_exactly_the_limit,
            sixteen_processes_accept_exactly_the_limit,
            a_call_without_an_answer_is_asked_again_and_charged_once,
            a_charge_that_comes_after_the_deadline_is_given_back,
            a_caller_that_goes_away_is_not_charged,
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
            an_accepted_ledger_starts_from_what_was_used_of_every_meter,
            what_is_known_of_an_entry_that_comes_later_waits_for_it,
            top_ups_since_a_status_are_added_to_what_it_shows_as_left,
            an_accepted_account_has_used_what_its_keys_have_and_a_policy_what_its_accounts_have,
            an_account_has_used_what_its_keys_have_also_where_they_come_later,
            an_edited_setting_is_told_from_what_to_what,
            a_mark_grows_with_the_directory_the_trail_and_what_is_sent,
            a_raised_limit_holds_at_once,
            a_lowered_limit_stops_sending_and_its_refunds_make_no_room,
            a_limit_that_comes_later_counts_what_was_used_before,
            a_period_ends_by_itself,
            a_clock_that_steps_back_opens_no_older_period,
            no_edit_refills_a_cap,
            moving_to_another_policy_and_back_refills_nothing,
            a_limit_that_begins_within_its_period_counts_that_period_and_no_more,
            a_changed_calendar_holds_at_once,
            what_is_given_back_makes_room_in_the_limit_that_counts_it,
            what_was_sealed_is_counted_by_a_limit_that_comes_later,
            charges_that_race_with_edits_accept_exactly_the_limit,
            a_limit_of_nothing_holds_at_once_whatever_its_period,
            a_calendar_that_changes_twice_in_a_millisecond_leaves_one_lot,
            a_limit_that_is_taken_away_is_gone_at_once,
            lots_made_ahead_are_the_ones_that_would_have_been_made,
            a_lot_follows_from_the_limit_of_now_made_ahead_or_not,
            what_is_removed_gets_no_lots_ahead,
            a_holder_that_returns_finds_what_it_used_and_the_limit_of_now,
            two_keys_race_for_the_last_credit_of_their_account,
            money_is_charged_at_the_price_of_its_moment_and_given_back_at_that,
            money_counts_before_any_limit,
            a_spend_limit_is_for_life,
            overage_is_counted_apart_and_given_back_first,
            a_rate_is_judged_for_all_processes_together,
            a_rate_is_judged_before_credits_and_refused_messages_move_nothing,
            what_is_given_back_gives_its_rate_back_once,
            as_much_of_a_rate_is_given_back_as_the_rate_allows,
            what_is_given_back_late_lowers_no_running_rate_while_the_ledger_is_ahead,
            rates_and_expiries_are_judged_by_the_clock_where_the_ledger_is_ahead_of_it,
            every_meter_is_charged_once_or_none_and_given_back_once,
            a_balance_says_what_is_left_and_when_it_opens,
            a_night_in_which_clocks_change_is_one_day,
            the_trail_tells_what_was_given_taken_limited_held_and_rotated,
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
            nobody_is_refused_for_good_while_credits_may_come_back,
            what_is_on_its_way_although_its_client_comes_again_may_come_back,
            every_limit_that_lacks_credits_must_get_them_back,
            an_account_may_have_so_much_refused_in_an_hour_and_waits_its_turn_then,
            nobody_waits_longer_than_an_hour_for_what_was_refused,
            who_has_much_accepted_may_have_as_much_refused,
            an_id_is_minted_once_for_its_kind_namespace_and_name,
            changes_follow_an_epoch_and_equal_entries_move_none,
            an_entry_is_found_fresh_whoever_wrote_it,
            a_key_without_its_account_or_policy_is_found_and_sends_nothing,
            usage_is_exact_in_the_transaction_that_moves_it,
            the_rollup_takes_each_row_once_and_says_who_moved,
            balances_leave_out_who_is_not_known,
            a_balance_of_a_period_in_which_nobody_sent_is_what_the_first_message_finds,
            the_trail_says_who_changed_which_limit_and_names_nobody,
            two_processes_have_two_sessions,
            what_is_retired_stays_charged_and_the_books_balance,
            a_password_that_is_issued_once_more_is_no_news,
            keys_removed_long_ago_leave_and_find_what_they_used,
            usage_is_summed_by_key_and_told_in_pages,
            usage_belongs_to_the_hour_of_its_reservation_and_an_hour_to_where_it_begins,
            what_was_used_costs_the_price_of_its_reservation,
            a_rollup_that_is_given_up_half_way_moves_nothing_twice,
            terms_stand_until_they_are_written_again,
            a_threshold_is_taken_once_in_a_period_on_each_way,
            what_was_told_last_is_the_highest_of_the_newest_period,
            a_claimed_notice_is_due_again_until_it_is_closed,
            notices_are_handed_out_in_turn_by_namespace,
            notices_are_forgotten_when_they_have_ended_and_are_old,
            a_fenced_operator_takes_hands_out_and_ends_no_notice,
            what_relays_say_of_upstreams_counts_while_they_live,
            refused_senders_are_reported_once_an_hour_for_a_key_and_reason,
            a_first_login_from_a_network_is_told_once_and_of_a_key_so_many_in_a_day,
            a_key_with_many_networks_forgets_the_one_that_it_came_from_longest_ago,
            ten_thousand_accounts_roll_over_while_mail_flows,
        );
    };
}

pub(super) use {conformance, whole_suite};
