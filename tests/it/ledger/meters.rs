//! Money, overage, and what all meters have in common.

use super::prepaid::{grant, grants};
use super::rates::rate;
use super::world::{Place, World, account, at, chain, key, limit, monthly, policy};
use franking::domain::credential::{Credential, HashKey, Password, Stage};
use franking::domain::credit::{Meter, Outcome, Overage, Verdict};
use franking::domain::directory::{Entry, Suspension};
use franking::domain::money::Pricing;
use franking::domain::period::{Calendar, Period};
use franking::ledger::store::SpendBalance;

const KEY: usize = 0;
const ACCOUNT: usize = 1;
const POLICY: usize = 2;

async fn price(world: &mut World, per_thousand: Option<i64>) {
    let mut parent = policy(1, monthly(None));
    parent.pricing = per_thousand.map(|price_per_thousand_minor| Pricing {
        currency: "EUR".to_owned(),
        base_price_minor: 0,
        price_per_thousand_minor,
    });
    world.put(&[Entry::Policy(parent)]).await;
}

async fn limit_spend(world: &mut World, micro: Option<i64>) {
    let mut account = account(1, monthly(None));
    account.spend_limit_micro = micro;
    world.put(&[Entry::Account(account)]).await;
}

async fn spent(world: &World) -> i64 {
    world.balance(chain()[ACCOUNT]).await.spend.expect("limited").used_micro
}

fn short_of_money(granted: i64, remaining: i64) -> Verdict {
    Verdict::Short { meter: Meter::AccountSpend, granted, remaining, reopens_at: None, pending: false }
}

pub async fn money_is_charged_at_the_price_of_its_moment_and_given_back_at_that(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    price(&mut world, Some(10)).await;
    limit_spend(&mut world, Some(100_000)).await;
    let (cheap, _) = world.send(4).await;
    assert_eq!(spent(&world).await, 40_000);
    price(&mut world, Some(20)).await;
    assert_eq!(spent(&world).await, 40_000, "nothing is priced again");
    assert_eq!(world.send(4).await.1, short_of_money(5, 3));
    let (dear, verdict) = world.send(3).await;
    assert_eq!((verdict, spent(&world).await), (Verdict::Reserved, 100_000));
    world.settle(cheap, Outcome::Refused).await;
    assert_eq!(spent(&world).await, 60_000);
    world.settle(dear, Outcome::NotOffered).await;
    assert_eq!(spent(&world).await, 0);
    price(&mut world, None).await;
    assert_eq!(world.send(1_000).await.1, Verdict::Reserved);
    assert_eq!(spent(&world).await, 0, "what has no price costs nothing");
    world.check().await;
}

/// Money is counted from the account's first message under a price on, whenever it is limited.
pub async fn money_counts_before_any_limit(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    world.send(50).await;
    price(&mut world, Some(1)).await;
    world.send(4).await;
    price(&mut world, None).await;
    world.send(60).await;
    price(&mut world, Some(2)).await;
    world.send(1).await;
    limit_spend(&mut world, Some(9_000)).await;
    assert_eq!(spent(&world).await, 6_000, "what had no price cost nothing");
    assert_eq!(world.send(2).await.1, short_of_money(4, 1));
    // A limit that is removed and written again finds the same.
    for limit in [None, Some(6_000)] {
        limit_spend(&mut world, limit).await;
    }
    assert_eq!(world.send(1).await.1, short_of_money(3, 0));
    world.check().await;
}

pub async fn a_spend_limit_is_for_life(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    price(&mut world, Some(1)).await;
    limit_spend(&mut world, Some(5_000)).await;
    let (first, _) = world.send(4).await;
    world.clock.set(at("2028-01-01T00:00:00Z"));
    assert_eq!(world.send(2).await.1, short_of_money(5, 1));
    limit_spend(&mut world, Some(2_000)).await;
    assert_eq!(world.send(1).await.1, short_of_money(2, 0));
    let balance = world.balance(chain()[ACCOUNT]).await;
    assert_eq!(balance.spend, Some(SpendBalance { limit_micro: 2_000, used_micro: 4_000, unit_price: 1_000 }));
    assert_eq!((balance.exhausted().expect("exhausted").meter, balance.reopens_at()), (Meter::AccountSpend, None));
    // Lowered under what was spent: a refund makes no room above it.
    world.settle(first, Outcome::Refused).await;
    assert_eq!(world.send(3).await.1, short_of_money(2, 2));
    // Money that is spent while there is no limit counts for the next one, and is given back to it.
    world.send(2).await;
    limit_spend(&mut world, None).await;
    let (free, verdict) = world.send(100).await;
    assert_eq!(verdict, Verdict::Reserved);
    limit_spend(&mut world, Some(9_000)).await;
    assert_eq!(spent(&world).await, 102_000);
    assert_eq!(world.send(1).await.1, short_of_money(9, 0));
    world.settle(free, Outcome::Refused).await;
    assert_eq!(spent(&world).await, 2_000);
    assert_eq!(world.send(7).await.1, Verdict::Reserved);
    world.check().await;
}

async fn change_pool(world: &mut World, credits: i64, overage: Overage) {
    let mut parent = policy(1, monthly(Some(credits)));
    parent.overage = overage;
    world.put(&[Entry::Policy(parent)]).await;
}

pub async fn overage_is_counted_apart_and_given_back_first(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    change_pool(&mut world, 10, Overage::Allow).await;
    let (first, _) = world.send(8).await;
    let (second, verdict) = world.send(8).await;
    assert_eq!(verdict, Verdict::Reserved);
    let balance = world.balance(chain()[POLICY]).await;
    assert_eq!((balance.lot.consumed, balance.lot.overage, balance.usage.accepted), (10, 6, 16));
    assert_eq!((balance.exhausted(), balance.remaining()), (None, None));
    world.settle(first, Outcome::Refused).await;
    let lot = world.lot(chain()[POLICY]).await;
    assert_eq!((lot.consumed, lot.overage), (8, 0));
    // Not allowed any more: the overage stays counted, and the pool is closed.
    world.send(5).await;
    change_pool(&mut world, 10, Overage::Deny).await;
    let (_, verdict) = world.send(1).await;
    assert!(
        matches!(verdict, Verdict::Short { meter: Meter::PolicyPool, granted: 10, remaining: 0, .. }),
        "{verdict:?}"
    );
    // A raised pool takes in the overage: no credit is granted twice.
    change_pool(&mut world, 15, Overage::Deny).await;
    let lot = world.lot(chain()[POLICY]).await;
    assert_eq!((lot.consumed, lot.overage), (13, 0));
    assert_eq!(world.send(2).await.1, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    world.settle(second, Outcome::Relayed).await;
    // A new period has its own.
    change_pool(&mut world, 15, Overage::Allow).await;
    world.send(4).await;
    world.clock.set(at("2026-12-01T00:00:00Z"));
    world.send(1).await;
    let lot = world.lot(chain()[POLICY]).await;
    assert_eq!((lot.consumed, lot.overage), (1, 0));
    world.check().await;
}

pub async fn every_meter_is_charged_once_or_none_and_given_back_once(place: &impl Place) {
    let mut world = World::with(place, Some(50), None, Some(50)).await;
    let mut parent = policy(1, monthly(Some(5)));
    (parent.overage, parent.prepaid) = (Overage::Allow, grants(&[grant("shared", 50, None)]));
    parent.pricing = Some(Pricing { currency: "EUR".to_owned(), base_price_minor: 0, price_per_thousand_minor: 1 });
    let mut of_all = account(1, monthly(Some(50)));
    of_all.prepaid = grants(&[grant("a", 5, None), grant("b", 45, None)]);
    of_all.spend_limit_micro = Some(50_000);
    of_all.rate = Some(rate(50, 1));
    world.put(&[Entry::Policy(parent), Entry::Account(of_all)]).await;
    let left = async |world: &World| {
        let account = world.balance(chain()[ACCOUNT]).await;
        let policy = world.balance(chain()[POLICY]).await;
        let spend = account.spend.expect("limited");
        [
            world.lot(chain()[KEY]).await.used(),
            account.lot.used(),
            policy.lot.used(),
            spend.used_micro / 1_000,
            50 - account.prepaid.expect("prepaid").remaining,
            50 - policy.prepaid.expect("prepaid").remaining,
        ]
    };
    let reservation = world.reservation(8);
    for _ in 0..3 {
        assert_eq!(world.ask(&reservation).await, Verdict::Reserved);
        assert_eq!(left(&world).await, [8; 6]);
    }
    assert!(matches!(world.send(43).await.1, Verdict::Short { .. }));
    assert_eq!(left(&world).await, [8; 6]);
    world.reopen(place).await;
    let (kept, _) = world.send(2).await;
    for outcome in [Outcome::Unknown, Outcome::Refused, Outcome::Refused, Outcome::Relayed] {
        world.settle(reservation.message, outcome).await;
        world.check().await;
    }
    world.settle(kept, Outcome::Relayed).await;
    assert_eq!(left(&world).await, [2; 6]);
    let usage = world.balance(chain()[ACCOUNT]).await.usage;
    assert_eq!((usage.messages, usage.accepted, usage.relayed, usage.refused, usage.unknown), (1, 2, 2, 8, 0));
}

pub async fn a_balance_says_what_is_left_and_when_it_opens(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), None).await;
    let opens = || at("2026-12-01T00:00:00Z");
    let holder = chain()[ACCOUNT];
    let balance = world.balance(holder).await;
    assert_eq!((balance.remaining(), balance.exhausted(), balance.reopens_at()), (Some(10), None, Some(opens())));
    let mut prepaid = account(1, monthly(Some(10)));
    prepaid.prepaid = grants(&[grant("a", 4, Some("2026-11-22T00:00:00Z"))]);
    world.put(&[Entry::Account(prepaid.clone())]).await;
    let balance = world.balance(holder).await;
    assert_eq!((balance.remaining(), balance.changes_at()), (Some(4), at("2026-11-22T00:00:00Z")));
    world.send(4).await;
    let balance = world.balance(holder).await;
    assert_eq!((balance.remaining(), balance.reopens_at(), balance.changes_at()), (Some(0), None, opens()));
    assert_eq!(balance.exhausted().expect("exhausted").meter, Meter::AccountPrepaid);
    prepaid.prepaid = None;
    prepaid.cap = limit(Some(4), Period::Monthly);
    world.put(&[Entry::Account(prepaid)]).await;
    let balance = world.balance(holder).await;
    assert_eq!(balance.exhausted().map(|exhausted| exhausted.meter), Some(Meter::AccountCap));
    assert_eq!(balance.reopens_at(), Some(opens()));
}

/// In Berlin the 31st of October 2027 has 25 hours, and one of them twice.
pub async fn a_night_in_which_clocks_change_is_one_day(place: &impl Place) {
    let mut world = World::empty(place).await;
    world.clock.set(at("2027-10-30T21:59:00Z"));
    let mut berlin = account(1, monthly(Some(2)));
    berlin.cap.calendar = Calendar::new(Period::Daily, 1, "Europe/Berlin").expect("a calendar");
    world
        .put(&[Entry::Policy(policy(1, monthly(None))), Entry::Account(berlin), Entry::Key(key(1, 1, monthly(None)))])
        .await;
    // Midnight; 02:30 in summer time, 02:30 in winter time (and once more: a clock set by hand); 23:59.
    let day = ["2027-10-30T22:00:00Z", "2027-10-31T00:30:00Z", "2027-10-31T01:30:00Z", "2027-10-31T00:30:00Z"];
    let accepted = [true, true, false, false];
    for (now, accepted) in day.into_iter().zip(accepted).chain([("2027-10-31T22:59:59Z", false)]) {
        world.clock.set(at(now));
        let (_, verdict) = world.send(1).await;
        assert_eq!(verdict == Verdict::Reserved, accepted, "{now}: {verdict:?}");
        if let Verdict::Short { reopens_at, .. } = verdict {
            assert_eq!(reopens_at, Some(at("2027-10-31T23:00:00Z")));
        }
    }
    world.clock.set(at("2027-10-31T23:00:00Z"));
    assert_eq!(world.send(2).await.1, Verdict::Reserved);
    world.check().await;
}

pub async fn the_trail_tells_what_was_given_taken_limited_held_and_rotated(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), None).await;
    let after = world.store.events(0, 1_000).await.expect("events").last().map_or(0, |event| event.seq);
    let hash_key = HashKey::new(&[7; 32]);
    let credential = |word: &str| Credential {
        hash: hash_key.hash(&Password::given(word)),
        stage: Stage::Current { since: at("2026-11-20T10:00:00Z") },
    };
    let base = || account(1, monthly(Some(10)));
    let mut of_account = vec![base(); 6];
    of_account[0].prepaid = grants(&[grant("promo", 9, None)]);
    of_account[1].prepaid = grants(&[grant("promo", 5, None)]);
    of_account[2].prepaid = grants(&[]);
    of_account[3].spend_limit_micro = Some(7);
    of_account[4].suspended = Some(Suspension { reason: Some("Ada owes us".to_owned()) });
    of_account[5].rate = Some(rate(1, 2));
    for account in of_account {
        world.put(&[Entry::Account(account)]).await;
    }
    let mut parent = policy(1, monthly(Some(3)));
    parent.overage = Overage::Allow;
    world.put(&[Entry::Policy(parent)]).await;
    for (word, revoked) in [("one", false), ("two", false), ("two", true), ("two", false)] {
        let mut with = key(1, 1, monthly(None));
        (with.credentials, with.revoked) = (vec![credential(word)], revoked);
        world.put(&[Entry::Key(with)]).await;
    }
    let events = world.store.events(after, 1_000).await.expect("events");
    let told: Vec<&str> =
        events.iter().map(|event| event.kind.as_str()).filter(|kind| !kind.starts_with("directory.")).collect();
    assert_eq!(
        told,
        [
            "grant.given",
            "grant.adjusted",
            "grant.taken_back",
            "spend.limited",
            "hold.placed",
            "spend.limited",
            "rate.changed",
            "hold.lifted",
            "limit.changed",
            "overage.changed",
            "lot.regranted",
            "key.issued",
            "key.rotated",
            "key.revoked",
            "key.reinstated",
        ]
    );
    assert!(events.iter().all(|event| event.actor == "test"), "{events:?}");
    let of = |kind: &str| &events.iter().find(|event| event.kind == kind).expect(kind).detail;
    assert_eq!((of("grant.given")["grant"].as_str(), of("grant.given")["credits"].as_i64()), (Some("promo"), Some(9)));
    assert_eq!((of("grant.adjusted")["from"].as_i64(), of("grant.adjusted")["to"].as_i64()), (Some(9), Some(5)));
    assert_eq!(of("grant.taken_back")["from"].as_i64(), Some(5));
    assert_eq!(of("spend.limited")["toMicro"].as_i64(), Some(7));
    assert_eq!(of("limit.changed")["to"]["credits"].as_i64(), Some(3));
    assert_eq!(of("hold.placed")["reasonGiven"].as_bool(), Some(true));
    assert!(events.iter().all(|event| !event.detail.to_string().contains("Ada")), "reasons may name people");
    // A top-up that no edit asked for at that moment has the ledger as its actor.
    let mut recurring = base();
    recurring.prepaid = Some(franking::domain::credit::Prepaid {
        grants: vec![],
        recurring: Some(franking::domain::credit::TopUp { credits: 3, every: Period::Daily, start: None, end: None }),
    });
    world.put(&[Entry::Account(recurring)]).await;
    world.clock.advance(2 * 86_400);
    world.send(1).await;
    let events = world.store.events(events.last().expect("events").seq, 1_000).await.expect("events");
    let added: Vec<_> = events.iter().filter(|event| event.kind == "topup.added").collect();
    assert_eq!(added.iter().map(|event| event.actor.as_str()).collect::<Vec<_>>(), ["test", "ledger"]);
    let detail = &added[1].detail;
    assert_eq!(
        (detail["periods"].as_i64(), detail["credits"].as_i64(), detail["total"].as_i64()),
        (Some(2), Some(6), Some(9))
    );
}
