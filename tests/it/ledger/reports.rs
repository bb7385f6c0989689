//! Usage, the terms of bills, and notices.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;

use super::world::{Place, World, account, account_id, at, key, key_id, monthly, policy, policy_id};
use franking::domain::credit::{Meter, Outcome, Reservation};
use franking::domain::directory::{AccountEntry, Entry, PolicyEntry};
use franking::domain::id::Holder;
use franking::domain::money::Pricing;
use franking::ledger::report::{
    BillingTerms, Channel, Ended, NOTICE_TRIES, Spender, ThresholdNotice, Told, Topic, UsageRow, pause_after,
};
use franking::ledger::store::{Error, Role};
use franking::runtime::clock::Clock as _;

const DAY: [&str; 2] = ["2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"];

/// Accounts and keys 1 to 3 of policy 1.
async fn three(place: &impl Place) -> World {
    let mut world = World::with(place, None, None, None).await;
    for n in 2..=3 {
        world.put(&[Entry::Account(account(n, monthly(None))), Entry::Key(key(n, n, monthly(None)))]).await;
    }
    world
}

fn spender(n: u128) -> Spender {
    (Some(account_id(n)), key_id(n))
}

impl World {
    async fn sent(&mut self, n: u128, credits: u32, outcome: Option<Outcome>) {
        let reservation = Reservation { key: key_id(n), ..self.reservation(credits) };
        self.ask(&reservation).await;
        if let Some(outcome) = outcome {
            self.settle(reservation.message, outcome).await;
        }
    }

    async fn usage(&self, [from, to]: [&str; 2]) -> Vec<UsageRow> {
        self.store.usage(policy_id(1), at(from), at(to), None, 100).await.expect("usage")
    }
}

pub async fn usage_is_summed_by_key_and_told_in_pages(place: &impl Place) {
    let mut world = three(place).await;
    for (n, credits, outcome) in [
        (3, 1, Some(Outcome::Relayed)),
        (1, 2, Some(Outcome::Refused)),
        (1, 4, Some(Outcome::NotOffered)),
        (1, 8, Some(Outcome::Unknown)),
        (1, 16, None),
        (2, 32, Some(Outcome::Relayed)),
    ] {
        world.sent(n, credits, outcome).await;
    }
    world.store.rollup(&world.session).await.expect("rolled");
    let all = world.usage(DAY).await;
    let first = UsageRow {
        spender: spender(1),
        messages: 4,
        credits: 24,
        priced_micro: 0,
        relayed: 0,
        refused: 2,
        not_offered: 4,
        unknown: 8,
    };
    assert_eq!(all[0], first);
    let credits: Vec<_> = all.iter().map(|row| (row.spender, row.credits, row.relayed)).collect();
    assert_eq!(credits, [(spender(1), 24, 0), (spender(2), 32, 32), (spender(3), 1, 1)]);
    let (from, to) = (at(DAY[0]), at(DAY[1]));
    let mut pages = vec![];
    while let Some(page) = world
        .store
        .usage(policy_id(1), from, to, pages.last().map(|row: &UsageRow| row.spender), 1)
        .await
        .expect("usage")
        .pop()
    {
        pages.push(page);
    }
    assert_eq!(pages, all);
    assert_eq!(world.store.usage(policy_id(2), from, to, None, 100).await.expect("usage"), vec![]);
}

pub async fn usage_belongs_to_the_hour_of_its_reservation_and_an_hour_to_where_it_begins(place: &impl Place) {
    let mut world = three(place).await;
    world.clock.set(at("2026-11-20T23:59:59Z"));
    let (message, _) = world.send(3).await;
    world.clock.set(at("2026-11-21T00:00:00Z"));
    world.sent(1, 5, None).await;
    // Known a day later, it still counts where it was charged.
    world.clock.set(at("2026-11-22T12:00:00Z"));
    world.settle(message, Outcome::Refused).await;
    world.store.rollup(&world.session).await.expect("rolled");
    let sum = |rows: Vec<UsageRow>| rows.iter().map(|row| (row.messages, row.credits)).collect::<Vec<_>>();
    assert_eq!(sum(world.usage(DAY).await), [(1, 0)]);
    assert_eq!(sum(world.usage([DAY[1], "2026-11-23T00:00:00Z"]).await), [(1, 5)]);
    // A span that begins within an hour leaves that hour to the previous span.
    assert_eq!(sum(world.usage(["2026-11-20T23:30:00Z", "2026-11-21T00:00:00Z"]).await), []);
    assert_eq!(sum(world.usage(["2026-11-20T22:30:00Z", "2026-11-20T23:30:00Z"]).await), [(1, 0)]);
}

pub async fn what_was_used_costs_the_price_of_its_reservation(place: &impl Place) {
    let mut world = three(place).await;
    let price = |price_per_thousand_minor| {
        let pricing = Pricing { currency: "EUR".to_owned(), base_price_minor: 100, price_per_thousand_minor };
        Entry::Policy(PolicyEntry { pricing: Some(pricing), ..policy(1, monthly(None)) })
    };
    world.sent(1, 7, None).await;
    world.put(&[price(80)]).await;
    world.sent(1, 10, Some(Outcome::Relayed)).await;
    world.sent(1, 5, Some(Outcome::Refused)).await;
    world.sent(2, 20, Some(Outcome::NotOffered)).await;
    let late = Reservation { key: key_id(3), ..world.reservation(30) };
    world.ask(&late).await;
    world.put(&[price(90)]).await;
    world.sent(1, 100, Some(Outcome::Unknown)).await;
    world.store.rollup(&world.session).await.expect("rolled");
    // Given back at the price at which it was charged.
    world.settle(late.message, Outcome::Refused).await;
    world.store.rollup(&world.session).await.expect("rolled");
    let costs: Vec<_> = world.usage(DAY).await.iter().map(|row| (row.credits, row.priced_micro)).collect();
    assert_eq!(costs, [(117, 10 * 80_000 + 100 * 90_000), (0, 0), (0, 0)]);
}

/// Messages of the interrupted rollup: several pieces of any engine.
const MANY: usize = 12_000;

pub async fn a_rollup_that_is_given_up_half_way_moves_nothing_twice(place: &impl Place) {
    let mut world = three(place).await;
    let mut expected: BTreeMap<Spender, (i64, i64)> = BTreeMap::new();
    let mut messages = vec![];
    for n in 0..MANY {
        let (who, credits) = (n as u128 % 3 + 1, n as u32 % 4 + 1);
        let sum = expected.entry(spender(who)).or_default();
        *sum = (sum.0 + 1, sum.1 + i64::from(credits));
        messages.push(Reservation { key: key_id(who), ..world.reservation(credits) });
    }
    for batch in messages.chunks(500) {
        world.store.reserve(&world.session, batch).await.expect("reserved");
    }
    // The rollup is cancelled after ever longer, somewhere between two transactions or within one.
    let mut patience = Duration::from_micros(50);
    loop {
        let rolled = tokio::time::timeout(patience, world.store.rollup(&world.session)).await;
        patience += patience / 2;
        if let Ok(rolled) = rolled
            && rolled.expect("rolled") == 0
        {
            break;
        }
    }
    let found = world.usage(DAY).await.into_iter().map(|row| (row.spender, (row.messages, row.credits)));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
}

pub async fn terms_stand_until_they_are_written_again(place: &impl Place) {
    let mut world = three(place).await;
    let terms = BillingTerms {
        policy: policy_id(1),
        period: "2026-11".to_owned(),
        from: at("2026-10-31T23:00:00Z"),
        to: at("2026-11-30T23:00:00Z"),
        currency: "EUR".to_owned(),
        base_price_minor: 4900,
        price_per_thousand_minor: 80,
    };
    assert_eq!(world.store.terms(policy_id(1), "2026-11").await.expect("terms"), None);
    world.store.put_terms(&world.session, &terms).await.expect("written");
    let raised = BillingTerms { price_per_thousand_minor: 90, ..terms.clone() };
    let next = BillingTerms { period: "2026-12".to_owned(), ..terms };
    for terms in [&raised, &next] {
        world.store.put_terms(&world.session, terms).await.expect("written");
    }
    world.reopen(place).await;
    assert_eq!(world.store.terms(policy_id(1), "2026-11").await.expect("terms"), Some(raised));
    assert_eq!(world.store.terms(policy_id(1), "2026-12").await.expect("terms"), Some(next));
    assert_eq!(world.store.terms(policy_id(2), "2026-11").await.expect("terms"), None);
}

fn topic(period: &str) -> Topic {
    Topic { holder: Holder::Account(account_id(1)), meter: Meter::AccountCap, period: period.to_owned() }
}

fn notice(period: &str, threshold: u8) -> ThresholdNotice {
    ThresholdNotice {
        topic: topic(period),
        threshold,
        policy: policy_id(1),
        granted: 200,
        used: i64::from(threshold) * 2,
    }
}

impl World {
    async fn announce(&self, notices: &[(ThresholdNotice, Vec<Channel>)]) -> Vec<bool> {
        self.store.announce(&self.session, notices).await.expect("taken")
    }

    async fn claim(&self, channel: Channel) -> Vec<(i64, String, u32)> {
        let claimed = self.store.claim_notices(&self.session, channel, 100).await.expect("claimed");
        claimed.into_iter().map(|queued| (queued.id, queued.notice.to_string(), queued.tries)).collect()
    }
}

pub async fn a_threshold_is_taken_once_in_a_period_on_each_way(place: &impl Place) {
    let mut world = three(place).await;
    let both = || vec![Channel::Event, Channel::Mail];
    assert_eq!(world.announce(&[(notice("2026-11", 50), both()), (notice("2026-11", 75), both())]).await, [true; 2]);
    world.reopen(place).await;
    let again = [(notice("2026-11", 75), both()), (notice("2026-12", 75), both())];
    assert_eq!(world.announce(&again).await, [false, true]);
    assert_eq!(world.announce(&[(notice("2026-11", 75), vec![Channel::Webhook])]).await, [true]);
    assert_eq!(world.claim(Channel::Event).await.len(), 3);
    assert_eq!(world.claim(Channel::Webhook).await.len(), 1);
    // The account's own recipients are notified apart from the policy's.
    assert_eq!(world.claim(Channel::AccountMail).await.len(), 0);
    let own = [(notice("2026-11", 75), vec![Channel::AccountMail])];
    assert_eq!((world.announce(&own).await, world.announce(&own).await), (vec![true], vec![false]));
    assert_eq!((world.claim(Channel::AccountMail).await.len(), world.claim(Channel::Mail).await.len()), (1, 3));
}

pub async fn what_was_told_last_is_the_highest_of_the_newest_period(place: &impl Place) {
    let mut world = three(place).await;
    let (holder, meter) = (Holder::Account(account_id(1)), Meter::AccountCap);
    let asked = [(holder, meter), (holder, Meter::AccountPrepaid), (Holder::Account(account_id(2)), meter)];
    assert_eq!(world.store.told(&asked).await.expect("told"), [None, None, None]);
    world.announce(&[(notice("2026-11", 50), Channel::ALL.to_vec()), (notice("2026-11", 90), vec![])]).await;
    world.reopen(place).await;
    let told = Told { period: "2026-11".to_owned(), threshold: 90, granted: 200, used: 100 };
    assert_eq!(world.store.told(&asked).await.expect("told"), [Some(told), None, None]);
    assert_eq!(world.announce(&[(notice("2026-12", 0), vec![])]).await, [true]);
    assert_eq!(world.announce(&[(notice("2026-12", 0), vec![])]).await, [false]);
    let told = Told { period: "2026-12".to_owned(), threshold: 0, granted: 200, used: 0 };
    assert_eq!(world.store.told(&asked).await.expect("told"), [Some(told), None, None]);
    // A notice that is only remembered goes nowhere.
    for channel in Channel::ALL {
        assert_eq!(world.claim(channel).await.len(), 1, "{channel:?}");
    }
}

pub async fn a_claimed_notice_is_due_again_until_it_is_closed(place: &impl Place) {
    let mut world = three(place).await;
    world.announce(&[(notice("2026-11", 50), vec![Channel::Mail]), (notice("2026-11", 90), vec![Channel::Mail])]).await;
    let first = world.claim(Channel::Mail).await;
    let names: Vec<&str> = first.iter().map(|(_, name, _)| name.as_str()).collect();
    let id = account_id(1);
    assert_eq!(names, [format!("account-{id}-account-cap-2026-11-50"), format!("account-{id}-account-cap-2026-11-90")]);
    assert_eq!(world.claim(Channel::Mail).await, [], "somebody has them");
    world.store.close_notices(&world.session, &[(first[0].0, Ended::Sent)]).await.expect("closed");
    // The process that claimed the other one died. It keeps its name, waits longer each time, and is never counted
    // twice.
    for tries in 1..=NOTICE_TRIES + 1 {
        let pause = pause_after(tries);
        world.clock.set(world.clock.now() + pause - SignedDuration::from_secs(1));
        world.reopen(place).await;
        assert_eq!(world.claim(Channel::Mail).await, [], "before its pause is over");
        world.clock.set(world.clock.now() + SignedDuration::from_secs(1));
        assert_eq!(world.claim(Channel::Mail).await, [(first[1].0, first[1].1.clone(), tries + 1)]);
    }
    world.store.close_notices(&world.session, &[(first[1].0, Ended::GivenUp)]).await.expect("closed");
    world.clock.advance(1_000_000);
    assert_eq!(world.claim(Channel::Mail).await, []);
}

pub async fn notices_are_handed_out_in_turn_by_namespace(place: &impl Place) {
    let mut world = three(place).await;
    let other = AccountEntry { namespace: "another-team".to_owned(), ..account(3, monthly(None)) };
    world.put(&[Entry::Account(other)]).await;
    let of = |holder, threshold| {
        let told = notice("2026-11", threshold);
        (ThresholdNotice { topic: Topic { holder, ..told.topic }, ..told }, vec![Channel::Event])
    };
    let account = |n| Holder::Account(account_id(n));
    let flood: Vec<_> = (1..=20).flat_map(|threshold| [of(account(1), threshold), of(account(2), threshold)]).collect();
    world.announce(&flood).await;
    world.clock.advance(1);
    world.announce(&[of(account(3), 50), of(account(3), 75), of(Holder::Policy(policy_id(1)), 50)]).await;
    let claimed = world.store.claim_notices(&world.session, Channel::Event, 6).await.expect("claimed");
    let (one, two, other) = (account(1), account(2), account(3));
    let holders: Vec<Holder> = claimed.iter().map(|queued| queued.notice.topic.holder).collect();
    assert_eq!(holders, [one, other, Holder::Policy(policy_id(1)), two, other, one]);
    let all = world.store.claim_notices(&world.session, Channel::Event, 100).await.expect("claimed");
    assert_eq!(all.len(), flood.len() + 3 - claimed.len());
}

pub async fn notices_are_forgotten_when_they_have_ended_and_are_old(place: &impl Place) {
    let world = three(place).await;
    world.announce(&[(notice("2026-11", 50), vec![Channel::Mail]), (notice("2026-11", 90), vec![Channel::Mail])]).await;
    let ended = world.claim(Channel::Mail).await;
    world.store.close_notices(&world.session, &[(ended[0].0, Ended::Sent)]).await.expect("closed");
    let forget = |before| world.store.forget_notices(&world.session, before, 10);
    assert_eq!(forget(world.clock_now()).await.expect("forgotten"), 0);
    world.clock.advance(1);
    assert_eq!(forget(world.clock_now()).await.expect("forgotten"), 1);
    let told = world.store.told(&[(topic("2026-11").holder, Meter::AccountCap)]).await.expect("told").remove(0);
    let used = told.map(|told| (told.threshold, told.used));
    assert_eq!(used, Some((90, 180)), "what is on its way stays");
}

pub async fn a_fenced_operator_takes_hands_out_and_ends_no_notice(place: &impl Place) {
    let world = three(place).await;
    let mail = [(notice("2026-11", 50), vec![Channel::Mail])];
    world.announce(&mail).await;
    world.store.open_session(Role::Relay, "relay-0").await.expect("the one that took over");
    let (store, old) = (&world.store, &world.session);
    assert!(matches!(store.announce(old, &mail).await, Err(Error::Fenced)));
    assert!(matches!(store.claim_notices(old, Channel::Mail, 1).await, Err(Error::Fenced)));
    assert!(matches!(store.close_notices(old, &[(1, Ended::Sent)]).await, Err(Error::Fenced)));
    assert!(matches!(store.forget_notices(old, world.clock_now(), 1).await, Err(Error::Fenced)));
}
