//! Policies that refuse for good: only if no message under way could give the credits back.

use std::sync::Arc;

use super::limits::change_cap;
use super::prepaid::{grant, grants};
use super::world::{Place, World, account, chain, monthly, policy};
use franking::domain::credit::{Outcome, Verdict, WhenExhausted};
use franking::domain::directory::{AccountEntry, Entry, PolicyEntry};
use franking::domain::fingerprint::Fingerprint;
use franking::domain::money::Pricing;
use franking::domain::period::Period;
use franking::ledger::store::{DedupUpdate, FINGERPRINT_KEPT, Kept, Role};

fn refuses_for_good(pool: Option<i64>) -> PolicyEntry {
    PolicyEntry { when_exhausted: WhenExhausted::Reject, ..policy(1, monthly(pool)) }
}

/// Sends a message of so many credits, which must be lacking, and returns true if refunds of messages under way may let
/// it pass.
async fn pending(world: &mut World, credits: u32) -> bool {
    match world.send(credits).await.1 {
        Verdict::Short { pending, .. } => pending,
        other => panic!("{other:?}"),
    }
}

pub async fn nobody_is_refused_for_good_while_credits_may_come_back(place: &impl Place) {
    let mut world = World::with(place, None, Some(3), None).await;
    let batch = [world.reservation(1), world.reservation(2), world.reservation(1)];
    world.put(&[Entry::Policy(refuses_for_good(None))]).await;
    let verdicts = world.store.reserve(&world.session, &batch).await.expect("answered");
    assert!(matches!(verdicts[2], Verdict::Short { pending: true, .. }), "{verdicts:?}");
    // Three may come back, and four never were.
    assert_eq!((pending(&mut world, 3).await, pending(&mut world, 4).await), (true, false));
    // Another relay answers the same, and so does this one after the rollup.
    let other = place.open(Arc::new(world.clock.clone()));
    let elsewhere = other.open_session(Role::Relay, "relay-1").await.expect("a session");
    world.store.rollup(&world.session).await.expect("rolled up");
    let asked = world.reservation(1);
    let verdict = other.reserve(&elsewhere, &[asked]).await.expect("answered").remove(0);
    assert!(matches!(verdict, Verdict::Short { pending: true, .. }), "{verdict:?}");
    world.settle(batch[0].message, Outcome::Relayed).await;
    assert_eq!((pending(&mut world, 2).await, pending(&mut world, 3).await), (true, false));
    // The limit's calendar changes: what it carries may come back all the same.
    world.clock.advance(1);
    change_cap(&mut world, Some(3), Period::Daily).await;
    assert_eq!((pending(&mut world, 2).await, pending(&mut world, 3).await), (true, false));
    world.settle(batch[1].message, Outcome::Unknown).await;
    assert!(!pending(&mut world, 1).await, "nobody will know");
    // A policy that defers does not report it.
    world.settle(batch[1].message, Outcome::Refused).await;
    world.send(2).await;
    world.put(&[Entry::Policy(policy(1, monthly(None)))]).await;
    assert!(!pending(&mut world, 1).await);
    world.check().await;
}

pub async fn what_is_on_its_way_although_its_client_comes_again_may_come_back(place: &impl Place) {
    let mut world = World::with(place, None, Some(1), None).await;
    world.put(&[Entry::Policy(refuses_for_good(None))]).await;
    let kept = Kept { fingerprint: Fingerprint([7; 32]), within: FINGERPRINT_KEPT };
    let (message, _) = world.send(1).await;
    world.settle_with(message, Outcome::Unknown, DedupUpdate::Open(kept)).await;
    assert!(pending(&mut world, 1).await);
    world.settle_with(message, Outcome::Unknown, DedupUpdate::Ended(kept)).await;
    assert!(!pending(&mut world, 1).await);
    world.settle(message, Outcome::Refused).await;
    let (message, verdict) = world.send(1).await;
    assert_eq!(verdict, Verdict::Reserved);
    world.settle_with(message, Outcome::Unknown, DedupUpdate::Open(kept)).await;
    assert!(pending(&mut world, 1).await);
    // The session that carried it is gone.
    world.reopen(place).await;
    assert!(!pending(&mut world, 1).await);
}

pub async fn every_limit_that_lacks_credits_must_get_them_back(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let mut parent = refuses_for_good(Some(4));
    parent.prepaid = grants(&[grant("shared", 4, None)]);
    parent.pricing = Some(Pricing { currency: "EUR".to_owned(), base_price_minor: 0, price_per_thousand_minor: 1 });
    let of_all = AccountEntry {
        prepaid: grants(&[grant("a", 2, None), grant("b", 2, None)]),
        spend_limit_micro: Some(4_000),
        ..account(1, monthly(Some(4)))
    };
    world.put(&[Entry::Policy(parent.clone()), Entry::Account(of_all.clone())]).await;
    let (one, _) = world.send(3).await;
    let (two, _) = world.send(1).await;
    assert_eq!((pending(&mut world, 4).await, pending(&mut world, 5).await), (true, false));
    world.settle(two, Outcome::Relayed).await;
    assert_eq!((pending(&mut world, 3).await, pending(&mut world, 4).await), (true, false));
    // One limit alone is enough to refuse for good.
    let lacking: [(PolicyEntry, AccountEntry); 3] = [
        (parent.clone(), AccountEntry { spend_limit_micro: Some(1_000), ..of_all.clone() }),
        (parent.clone(), AccountEntry { prepaid: grants(&[grant("b", 1, None)]), ..of_all.clone() }),
        (PolicyEntry { prepaid: grants(&[grant("shared", 1, None)]), ..parent.clone() }, of_all.clone()),
    ];
    for (parent, account) in lacking {
        world.put(&[Entry::Policy(parent), Entry::Account(account)]).await;
        assert!(!pending(&mut world, 3).await);
    }
    world.put(&[Entry::Policy(parent), Entry::Account(of_all)]).await;
    assert!(pending(&mut world, 3).await);
    world.settle(one, Outcome::NotOffered).await;
    assert_eq!(world.send(3).await.1, Verdict::Reserved);
    assert_eq!(world.lot(chain()[2]).await.used(), 4);
    world.check().await;
}
