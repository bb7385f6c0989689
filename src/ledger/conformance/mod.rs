//! What every engine must do, as tests that know no engine.
//!
//! An engine hands in a [`Place`]; [`conformance!`] makes one test of each rule. What is stated here is the contract
//! of [`Store`], sentence by sentence, so an engine that passes can replace another.

mod charging;
mod faulty;
mod handle;
mod histories;
mod incarnation;
mod limits;
mod meters;
mod model;
mod prepaid;
mod records;
mod reports;
mod rollover;
mod samples;
mod steps;
mod stock;
mod world;

pub(super) use charging::*;
pub(super) use handle::*;
pub(super) use histories::random_histories_agree_with_the_model;
pub(super) use incarnation::*;
pub(super) use limits::*;
pub(super) use meters::*;
pub(super) use prepaid::*;
pub(super) use records::*;
pub(super) use reports::*;
pub(super) use rollover::*;
pub(super) use world::{Place, START, World, account, at, chain, key, key_id, monthly, policy, policy_id};

/// What an engine's own tests write.
pub(super) use samples::{account_with_grant, key_1, monthly_policy};

/// One test of each rule for the engine whose fresh place `$place` makes.
macro_rules! conformance {
    ($place:expr; $($rule:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                crate::ledger::conformance::$rule(&$place).await;
            }
        )*
    };
}
pub(super) use conformance;
