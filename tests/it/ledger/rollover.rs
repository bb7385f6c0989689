//! Midnight: every account's period ends at once, and nothing runs for it.

use std::sync::Arc;

use futures::future::try_join_all;
use jiff::Timestamp;

use super::world::{Place, World, account, at, key, key_id, limit, monthly, policy};
use franking::domain::credit::{Reservation, Verdict};
use franking::domain::directory::Entry;
use franking::domain::id::{Holder, MessageId};
use franking::domain::period::Period;
use franking::ledger::store::{LedgerSession, Role, Store};
use franking::runtime::clock::{Clock as _, ManualClock};

const ACCOUNTS: u128 = 10_000;
const SENDERS: u128 = 4;
const BATCH: usize = 500;
/// Credits of an account's day: the first message is the last.
const CAP: usize = 1;
/// Step of the clock with each batch: midnight comes when each sender has asked for all its accounts once.
const TICK_MS: i64 = 5;

/// Asks for one credit of each key. The ids never repeat.
async fn ask(store: &dyn Store, session: &LedgerSession, keys: &[u128], round: u128) -> Vec<bool> {
    let message = |key: u128| MessageId(uuid::Uuid::from_u128((round << 64) | key));
    let batch: Vec<Reservation> = keys
        .iter()
        .map(|key| Reservation { message: message(*key), key: key_id(*key), credits: 1, fingerprint: None })
        .collect();
    let verdicts = store.reserve(session, &batch).await.expect("answered");
    let passed = verdicts.iter().map(|verdict| match verdict {
        Verdict::Reserved => true,
        Verdict::Short { .. } => false,
        other => panic!("{other:?}"),
    });
    passed.collect()
}

/// Sends for its keys until each has used the new day's credits. An answer before midnight must be a refusal, an answer
/// to a call after midnight must not.
async fn send_over_midnight(
    store: Arc<dyn Store>,
    session: LedgerSession,
    clock: ManualClock,
    keys: Vec<u128>,
    midnight: Timestamp,
) -> Result<(), String> {
    let mut used = vec![0; keys.len()];
    let mut round = 100;
    while used.iter().any(|used| *used < CAP) {
        for (keys, used) in keys.chunks(BATCH).zip(used.chunks_mut(BATCH)) {
            round += 1;
            let asked = clock.now();
            let passed = ask(store.as_ref(), &session, keys, round).await;
            let answered = clock.now();
            for (passed, used) in passed.into_iter().zip(used) {
                match passed {
                    true if answered < midnight => return Err("a credit of the next day was given before it".into()),
                    false if asked >= midnight && *used < CAP => return Err("a refusal that was not due".into()),
                    true if *used == CAP => return Err("more than the day's credits".into()),
                    true => *used += 1,
                    false => {}
                }
            }
            clock.advance_ms(TICK_MS);
        }
    }
    Ok(())
}

pub async fn ten_thousand_accounts_roll_over_while_mail_flows(place: &impl Place) {
    let mut world = World::empty(place).await;
    let midnight = at("2026-11-21T00:00:00Z");
    world.clock.set(at("2026-11-20T23:59:00Z"));
    world.put(&[Entry::Policy(policy(1, monthly(None)))]).await;
    let all: Vec<u128> = (1..=ACCOUNTS).collect();
    let daily = |cap| limit(cap, Period::Daily);
    for some in all.chunks(BATCH) {
        let accounts = some.iter().map(|n| Entry::Account(account(*n, daily(Some(CAP as i64)))));
        let keys = some.iter().map(|n| Entry::Key(key(*n, *n, daily(None))));
        world.put(&accounts.chain(keys).collect::<Vec<_>>()).await;
    }
    for round in 1..=CAP as u128 {
        for keys in all.chunks(BATCH) {
            assert!(ask(world.store.as_ref(), &world.session, keys, round).await.into_iter().all(|passed| passed));
        }
    }
    let ticks = (ACCOUNTS as usize / BATCH) as i64;
    world.clock.set(midnight);
    world.clock.advance_ms(-TICK_MS * ticks);
    // Lots made ahead and lots made on first use meet: the operator makes them while the relays send.
    let operator = world.store.open_session(Role::Operator, "operator").await.expect("a session");
    let ahead = async {
        world.store.prepare_lots(&operator, midnight).await.expect("made");
        Ok(())
    };
    let share = ACCOUNTS / SENDERS;
    let senders = (0..SENDERS).map(|sender| {
        let keys = (sender * share + 1..=(sender + 1) * share).collect();
        let (store, session, clock) = (world.store.clone(), world.session.clone(), world.clock.clone());
        // The relays are distinguished by their message ids' lower half: their keys.
        tokio::spawn(send_over_midnight(store, session, clock, keys, midnight))
    });
    let senders = async { try_join_all(senders).await.expect("no panic").into_iter().collect::<Result<(), _>>() };
    let outcome: Result<_, String> = futures::try_join!(ahead, senders);
    outcome.expect("every answer is due");
    assert!(world.clock.now() >= midnight);
    for keys in all.chunks(BATCH) {
        assert!(ask(world.store.as_ref(), &world.session, keys, 99).await.into_iter().all(|passed| !passed));
    }
    let pool = world.lot(Holder::Policy(super::world::policy_id(1))).await;
    assert_eq!(pool.consumed, 2 * (CAP as i64) * ACCOUNTS as i64);
    world.check().await;
}
