//! Ten thousand accounts whose period ends at the same moment, while mail flows.

use super::world::{Place, World, account_id, chain, limit, policy};
use super::world::{account, at, key, key_id, monthly};
use crate::domain::credit::{Reservation, Verdict};
use crate::domain::directory::Entry;
use crate::domain::id::{Holder, MessageId};
use crate::domain::period::Period;
use crate::ledger::store::Role;

const ACCOUNTS: u128 = 10_000;
const BATCH: u128 = 250;

fn batch(of: u128, round: u128) -> Vec<Reservation> {
    let message = |n: u128| MessageId(uuid::Uuid::from_u128(1 << 64 | round << 32 | n));
    (of..of + BATCH).map(|n| Reservation { message: message(n), key: key_id(n), credits: 1 }).collect()
}

/// Everybody has one credit a day. Whoever is asked for after midnight has one, whether its lot was made ahead, is being
/// made or was never made; and nobody has two.
pub async fn ten_thousand_accounts_roll_over_at_midnight_without_a_refusal_that_is_not_due(place: &impl Place) {
    let mut world = World::empty(place).await;
    world.put(&[Entry::Policy(policy(1, monthly(None)))]).await;
    for first in (0..ACCOUNTS).step_by(BATCH as usize) {
        let entries = (first..first + BATCH).flat_map(|n| {
            let account = account(n, limit(Some(1), Period::Daily));
            [Entry::Account(account), Entry::Key(key(n, n, monthly(None)))]
        });
        world.put(&entries.collect::<Vec<_>>()).await;
    }
    let operator = world.store.open_session(Role::Operator, "operator-0").await.expect("a session");
    world.clock.set(at("2026-11-20T23:59:59Z"));
    let count = |verdicts: Vec<Verdict>| verdicts.iter().filter(|verdict| **verdict == Verdict::Reserved).count();
    let mut accepted = 0;
    for first in (0..ACCOUNTS).step_by(BATCH as usize) {
        let verdicts = world.store.reserve(&world.session, &batch(first, 1)).await.expect("answered");
        accepted += count(verdicts);
    }
    assert_eq!(accepted, ACCOUNTS as usize);
    world.clock.set(at("2026-11-21T00:00:00Z"));
    let preparing = world.store.prepare_lots(&operator, at("2026-11-21T12:00:00Z"));
    let sending = async {
        let mut accepted = [0, 0];
        for first in (0..ACCOUNTS).step_by(BATCH as usize) {
            for (round, accepted) in (2..).zip(&mut accepted) {
                let verdicts = world.store.reserve(&world.session, &batch(first, round)).await.expect("answered");
                *accepted += count(verdicts);
            }
        }
        accepted
    };
    let (prepared, accepted) = tokio::join!(preparing, sending);
    prepared.expect("made");
    assert_eq!(accepted, [ACCOUNTS as usize, 0]);
    assert_eq!(world.lot(chain()[2]).await.consumed, 2 * ACCOUNTS as i64);
    assert_eq!(world.lot(Holder::Account(account_id(7))).await.window.key, "2026-11-21");
    world.check().await;
}
