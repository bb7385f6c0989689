//! Credits under pressure, and a ledger that cannot be asked.

use franking::domain::credit::{
    Grant, Outcome, Overage, Prepaid, REFUSED_PER_HOUR, Rate, Reservation, TopUp, WhenExhausted,
};
use franking::domain::directory::{AccountEntry, Entry, KeyEntry};
use franking::domain::id::{AccountId, Holder, MessageId};
use franking::domain::money::Pricing;
use franking::domain::period::Period;
use franking::ledger::store::{Role, Settlement};
use jiff::SignedDuration;
use rusqlite::Connection;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::scene::{ACCOUNT, FROM, MAIL, PASSWORD, POLICY, Rows, SOON, Scene, TO, account, key, monthly, username};
use crate::support::sink::{Act, At};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_keys_racing_for_the_last_credits_get_exactly_the_cap() {
    const CAP: i64 = 40;
    let scene = Scene::with(|_| {}, |rows| rows.account.cap = monthly(Some(CAP))).await;
    let mut senders = JoinSet::new();
    for sender in 0..8 {
        let mut client = scene.client_of(1 + sender % 2).await;
        senders.spawn(async move {
            let mut accepted = 0;
            for _ in 0..10 {
                let reply = client.deliver(FROM, &[TO], MAIL).await;
                match reply.code {
                    250 => accepted += 1,
                    452 => {
                        reply.is("452 4.7.1 credits: the account's cap");
                        client.ask("RSET").await.is("250");
                    }
                    _ => panic!("{reply:?}"),
                }
            }
            accepted
        });
    }
    let accepted: i64 = senders.join_all().await.into_iter().sum();
    assert_eq!(accepted, CAP);
    assert_eq!(scene.sink.count(), CAP as u64);
    scene.until_usage([CAP, CAP, 0, 0, 0]).await;
    assert_eq!(scene.balance(Holder::Account(ACCOUNT)).await.lot.remaining(), Some(0));
}

/// Another process on the ledger's file.
fn intruder(scene: &Scene) -> Connection {
    Connection::open(scene.folder.path().join("ledger.db")).expect("the ledger's file")
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_makes_mail_wait() {
    let scene = Scene::with(|config| config.listeners[1].budget_seconds = 1, |_| {}).await;
    let mut client = scene.client().await;
    let lock = intruder(&scene);
    lock.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.3.2");
    assert_eq!(scene.sink.count(), 0);
    lock.execute_batch("ROLLBACK").expect("no lock");
    scene
        .until("mail flows again", async |scene| {
            let mut client = scene.client().await;
            client.deliver(FROM, &[TO], MAIL).await.code == 250
        })
        .await;
    // What was asked while it could not answer is not charged in the end.
    let sent = scene.sink.count() as i64;
    scene
        .until("only what was sent is charged", async |scene| {
            let usage = scene.balance(Holder::Account(ACCOUNT)).await.usage;
            (usage.accepted, usage.relayed) == (sent, sent)
        })
        .await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_refuses_nobody_for_good() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let thief = intruder(&scene);
    // The epoch moves, so that the relay looks for what is new.
    thief
        .execute_batch("ALTER TABLE directory RENAME TO stolen; UPDATE meta SET config_epoch = config_epoch + 1")
        .expect("no directory");
    scene
        .until("the copy is too old", async |scene| {
            scene.health.closed().iter().any(|(gate, _)| *gate == "relay directory")
        })
        .await;
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("451 4.3.2");
    let mut stranger = scene.greeted().await;
    stranger.login(&username(1), PASSWORD).await.is("454 4.7.0");
    stranger.login("nobody", PASSWORD).await.is("454 4.7.0");
    thief.execute_batch("ALTER TABLE stolen RENAME TO directory").expect("the directory");
    scene.until("the directory is followed again", async |scene| scene.health.closed().is_empty()).await;
    stranger.login(&username(1), PASSWORD).await.is("235");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
}

/// `docs/replies-and-conditions.md`: a refused message does not count against a rate.
#[tokio::test]
async fn messages_that_the_upstream_refuses_leave_the_rate_as_it_was() {
    let scene = Scene::with(|_| {}, |rows| rows.keys[0].rate = Some(Rate { messages: 2, per_seconds: 3_600 })).await;
    let mut client = scene.client().await;
    for _ in 0..2 {
        scene.sink.once(At::Final, Act::Reply("554 5.6.0 not this one"));
        client.deliver(FROM, &[TO], MAIL).await.is("554 5.6.0 not this one");
    }
    scene.until_usage([0, 0, 2, 0, 0]).await;
    for sent in 1..=2 {
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
        scene.until_usage([sent, sent, 2, 0, 0]).await;
    }
    client.deliver(FROM, &[TO], MAIL).await.is("452 4.4.5 too fast: the key may send 2 messages in 3600 s");
}

/// The first message of one recipient passes, the second hears this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_meter_says_in_its_own_words_that_it_is_used_up() {
    type Edit = fn(&mut Rows);
    let cases: [(Edit, &str); 9] = [
        (
            |rows| rows.keys[0].rate = Some(HOURLY),
            "452 4.4.5 too fast: the key may send 1 messages in 3600 s; try again in 3600 s",
        ),
        (
            |rows| rows.account.rate = Some(HOURLY),
            "452 4.4.5 too fast: the account may send 1 messages in 3600 s; try again in 3600 s",
        ),
        (
            |rows| rows.keys[0].cap = monthly(Some(1)),
            "452 4.7.1 credits: the key's cap of 1 has 0 left; it opens again at ",
        ),
        (
            |rows| {
                rows.policy.pricing =
                    Some(Pricing { currency: "EUR".to_owned(), base_price_minor: 0, price_per_thousand_minor: 2 });
                rows.account.spend_limit_micro = Some(3_000);
            },
            "452 4.7.1 credits: the account's spend limit pays for 0 more; an administrator must raise it",
        ),
        (
            |rows| rows.account.cap = monthly(Some(1)),
            "452 4.7.1 credits: the account's cap of 1 has 0 left; it opens again at ",
        ),
        (
            |rows| rows.account.prepaid = Some(topped_up()),
            "452 4.7.1 credits: the account's prepaid balance has 0 left; the next top-up comes at ",
        ),
        (
            |rows| rows.account.prepaid = Some(granted()),
            "452 4.7.1 credits: the account's prepaid balance has 0 left; an administrator must add credits",
        ),
        (
            |rows| rows.policy.prepaid = Some(granted()),
            "452 4.7.1 credits: the policy's prepaid balance has 0 left; an administrator must add credits",
        ),
        (
            |rows| rows.policy.pool = monthly(Some(1)),
            "452 4.7.1 credits: the policy's pool of 1 has 0 left; it opens again at ",
        ),
    ];
    for (edit, reply) in cases {
        let scene = Scene::with(|_| {}, edit).await;
        let mut client = scene.client().await;
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
        client.deliver(FROM, &[TO], MAIL).await.is(reply);
        // The connection stays.
        client.ask("NOOP").await.is("250 2.0.0");
        assert_eq!(scene.sink.count(), 1, "{reply}");
        scene.until_usage([1, 1, 0, 0, 0]).await;
    }
}

#[tokio::test]
async fn a_pool_whose_overage_is_allowed_never_closes_and_counts_apart() {
    let pool = |rows: &mut Rows| {
        rows.policy.pool = monthly(Some(1));
        rows.policy.overage = Overage::Allow;
    };
    let scene = Scene::with(|_| {}, pool).await;
    let mut client = scene.client().await;
    for _ in 0..3 {
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    }
    scene.until_usage([3, 3, 0, 0, 0]).await;
    let lot = scene.balance(Holder::Policy(POLICY)).await.lot;
    assert_eq!((lot.consumed, lot.overage), (1, 2));
}

const HOURLY: Rate = Rate { messages: 1, per_seconds: 3_600 };

fn topped_up() -> Prepaid {
    let recurring = Some(TopUp { credits: 1, every: Period::Monthly, start: None, end: None });
    Prepaid { grants: vec![], recurring }
}

fn granted() -> Prepaid {
    Prepaid { grants: vec![Grant { id: "first".to_owned(), credits: 1, expires_at: None }], recurring: None }
}

#[tokio::test]
async fn a_policy_may_have_senders_hear_at_once_that_credits_are_gone() {
    let rejecting = |rows: &mut Rows| {
        rows.policy.when_exhausted = WhenExhausted::Reject;
        rows.account.cap = monthly(Some(1));
    };
    let scene = Scene::with(
        |config| {
            config.limits.errors = 1;
            config.listeners[1].budget_seconds = 1;
        },
        rejecting,
    )
    .await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    // Until it is known to have been relayed, it may come back.
    scene.until_usage([1, 1, 0, 0, 0]).await;
    // Each time on the ledger's word: never at RCPT. And it is no mistake of the client's, so it may stay.
    for _ in 0..3 {
        client
            .deliver(FROM, &[TO], MAIL)
            .await
            .is("550 5.7.1 credits: the account's cap of 1 has 0 left; it opens again");
    }
    scene.until_usage([1, 1, 0, 0, 0]).await;
    // A ledger that cannot be asked refuses nobody for good.
    let lock = intruder(&scene);
    lock.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let mut hurried = scene.client().await;
    hurried.deliver(FROM, &[TO], MAIL).await.is("451 4.3.2");
}

#[tokio::test]
async fn nobody_hears_for_good_that_credits_are_gone_while_some_are_under_way_and_may_come_back() {
    let rejecting = |rows: &mut Rows| {
        rows.policy.when_exhausted = WhenExhausted::Reject;
        rows.account.cap = monthly(Some(2));
    };
    let scene = Scene::with(|_| {}, rejecting).await;
    let mut slow = scene.stalled_then(Act::Reply("554 5.7.1 no")).await;
    // Another key of the account.
    let mut victim = scene.client_of(2).await;
    let others = [TO, "other@elsewhere.example", "third@elsewhere.example"];
    victim.deliver(FROM, &others[..2], MAIL).await.is("452 4.7.1 credits: the account's cap of 2 has 1 left");
    victim.ask("RSET").await.is("250");
    victim.deliver(FROM, &others, MAIL).await.is("550 5.7.1 credits: the account's cap of 2 has 1 left");
    scene.sink.release();
    slow.reply().await.is("554 5.7.1");
    victim.deliver(FROM, &others[..2], MAIL).await.is("250 2.0.0");
    scene.until_usage([2, 2, 1, 0, 0]).await;
    victim.deliver(FROM, &[TO], MAIL).await.is("550 5.7.1 credits");
}

/// An account whose mail its upstream will refuse holds the whole pool while it waits: another account of the plan must
/// not bounce for that.
#[tokio::test]
async fn nobody_bounces_while_another_account_holds_the_pool_with_what_will_be_refused() {
    const POOL: u16 = 100;
    let rows = |rows: &mut Rows| {
        rows.policy.when_exhausted = WhenExhausted::Reject;
        rows.policy.pool = monthly(Some(POOL.into()));
        rows.policy.upstream.as_mut().expect("an upstream").max_recipients = POOL;
        rows.others.extend(second_account());
    };
    let scene = Scene::with(|_| {}, rows).await;
    scene.sink.once(At::Final, Act::StallThen(Box::new(Act::Reply("554 5.7.1 no"))));
    let mut attacker = scene.client().await;
    attacker.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
    for n in 0..POOL {
        attacker.ask(&format!("RCPT TO:<r{n}@elsewhere.example>")).await.is("250");
    }
    attacker.ask("DATA").await.is("354");
    attacker.send(format!("{MAIL}\r\n.\r\n")).await;
    scene.sink.wait_for_stalled(1, SOON).await;

    let mut victim = scene.client_of(3).await;
    for _ in 0..3 {
        victim.deliver(FROM, &[TO], MAIL).await.is("452 4.7.1 credits: the policy's pool of 100 has 0 left");
        victim.ask("RSET").await.is("250");
    }
    scene.sink.release();
    attacker.reply().await.is("554 5.7.1");
    victim.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.until_usage([1, 1, POOL.into(), 0, 0]).await;
}

/// They cost nothing, and would fill the ledger.
#[tokio::test]
async fn an_account_of_which_much_was_refused_waits_its_turn_and_nobody_else_does() {
    let scene = Scene::with(|_| {}, |rows| rows.others.extend(second_account())).await;
    let asked = |n: u32| Reservation {
        message: MessageId(Uuid::from_u128(u128::from(n))),
        key: key(1).id,
        credits: 1,
        fingerprint: None,
    };
    let earlier: Vec<Reservation> = (1..REFUSED_PER_HOUR - 5).map(asked).collect();
    scene.store.reserve(&scene.session, &earlier).await.expect("answered");
    let refused = earlier.iter().map(|asked| Settlement::of(asked.message, Outcome::Refused)).collect::<Vec<_>>();
    scene.store.settle(&scene.session, &refused).await.expect("settled");

    scene.sink.always(At::Final, Act::Reply("550 5.1.1 no such user"));
    let (mut client, mut of_another_key) = (scene.client().await, scene.client_of(2).await);
    let mut sent = 0;
    let heard = loop {
        let heard = client.deliver(FROM, &[TO], MAIL).await;
        if heard.code == 452 {
            break heard;
        }
        heard.is("550 5.1.1 no such user");
        sent += 1;
        scene
            .until("it is given back", async |scene| scene.balance(Holder::Account(ACCOUNT)).await.lot.used() == 0)
            .await;
    };
    assert_eq!(sent, 7, "one more than the limit");
    let sentence =
        "452 4.4.5 too many were refused: the account may have 1000 messages refused in 3600 s; try again in 4 s";
    heard.is(sentence);
    scene.sink.behave();
    of_another_key.deliver(FROM, &[TO], MAIL).await.is(sentence);
    scene.client_of(3).await.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    let usage = scene.balance(Holder::Account(ACCOUNT)).await.usage;
    assert_eq!((usage.accepted, usage.refused), (0, i64::from(REFUSED_PER_HOUR) + 1));
    scene.clock.advance(4);
    for _ in 0..3 {
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    }
}

/// Account 2 with key 3.
fn second_account() -> [Entry; 2] {
    let id = AccountId(Uuid::from_u128(0x202));
    let of_account = KeyEntry { account: id, ..key(3) };
    [Entry::Account(AccountEntry { id, name: "account-2".to_owned(), ..account() }), Entry::Key(of_account)]
}

#[tokio::test]
async fn a_message_whose_outcome_cannot_be_written_is_accepted_and_settled_later() {
    let scene = Scene::new().await;
    let mut client = scene.stalled().await;
    let lock = intruder(&scene);
    lock.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    scene.sink.release();
    client.reply().await.is("250 2.0.0 relayed");
    lock.execute_batch("ROLLBACK").expect("no lock");
    scene.until_usage([1, 1, 0, 0, 0]).await;
}

/// The relay is gone with what it knew; the operator gives its session up.
#[tokio::test]
async fn the_messages_of_a_relay_that_died_stay_charged_as_unknown() {
    let scene = Scene::new().await;
    let _waiting = scene.stalled().await;
    // What replaces the relay fences it, as a new pod of the same name does.
    scene.store.open_session(Role::Relay, "relay-0").await.expect("a session");
    let swept = scene.store.sweep_sessions(&scene.session, SignedDuration::MAX).await.expect("swept");
    assert_eq!(swept.len(), 1);
    scene.until_usage([1, 0, 0, 0, 1]).await;
}
