//! An upstream that refuses us, and one that cannot take what is sent: tenants hear 451 and never a bounce, nobody is
//! charged, and no tenant closes it for the others.

use std::time::Duration;

use franking::domain::directory::{AccountEntry, Entry, KeyEntry};
use franking::domain::id::AccountId;
use tokio::time::Instant;
use uuid::Uuid;

use super::scene::{FROM, MAIL, POLICY, Rows, SOON, Scene, TO, account, key, policy};
use crate::support::sink::{Act, At, Sink, SinkOptions};

/// Failures in a row that make a breaker open.
const IN_A_ROW: usize = 5;

/// Accounts 2 and 3 with a key of the same number each, each of a namespace of its own, beside account 1.
fn three_accounts(rows: &mut Rows) {
    rows.keys.truncate(1);
    for n in 2..=3 {
        let id = AccountId(Uuid::from_u128(0x200 + n));
        let (name, namespace) = (format!("account-{n}"), format!("team-{n}"));
        rows.others.push(Entry::Account(AccountEntry { id, name, namespace, ..account() }));
        rows.others.push(Entry::Key(KeyEntry { account: id, ..key(n) }));
    }
}

/// 0 = mail flows, 1 = probing, 2 = not asked.
fn breaker(scene: &Scene) -> String {
    let name = format!("franking_upstream_breaker{{policy=\"{POLICY}\"}} ");
    let metrics = scene.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or("absent").to_owned()
}

#[tokio::test]
async fn each_way_in_which_an_upstream_refuses_us_is_451_and_costs_nothing() {
    let cases = [
        (At::Connect, "554 5.7.1 no service for you"),
        (At::Ehlo, "550 5.7.1 not you"),
        (At::Mail, "530 5.7.0 authentication required"),
        (At::Mail, "535 5.7.8 authentication failed"),
        (At::Mail, "550 5.7.1 relaying denied"),
        (At::Mail, "421 4.3.2 too busy"),
        (At::Recipient(1), "530 5.7.0 authentication required"),
        (At::Recipient(1), "421 4.7.0 too many errors"),
        (At::Recipient(1), "451 4.7.1 Maximum credits exceeded"),
        (At::Data, "454 4.7.0 temporary authentication failure"),
        (At::Final, "454 4.7.0 Throttling failure: Daily message quota exceeded"),
        (At::Final, "550 5.4.5 Daily user sending quota exceeded"),
        (At::Final, "432 4.3.2 recipient thread limit exceeded"),
    ];
    for (at, said) in cases {
        let scene = Scene::new().await;
        // A message whose reply is lost counts as delivered at the sink, so at its end nothing is dropped.
        scene.sink.always(at, if at == At::Final { Act::Reply(said) } else { Act::ReplyAndDrop(said) });
        let mut client = scene.client().await;
        let heard = client.deliver(FROM, &[TO], MAIL).await;
        assert_eq!((heard.code, heard.text.starts_with("4.3.5 ")), (451, true), "{at:?} {said}: {heard:?}");
        scene.until_usage([0, 0, 1, 0, 0]).await;
        assert_eq!(scene.sink.count(), 0, "{said}");
        scene.sink.behave();
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
        let metrics = scene.metrics();
        let counted = "franking_relay_messages_total{policy=\"plan\",result=\"upstream_refuses_us\"} 1";
        assert!(metrics.contains(counted), "{metrics}");
    }
}

#[tokio::test]
async fn what_an_upstream_says_of_one_message_is_passed_on_at_every_stage() {
    let cases = [
        (At::Mail, "451 4.3.0 try later", "451 4.3.0 try later"),
        (At::Mail, "552 5.3.4 too big for me", "552 5.3.4 too big for me"),
        (At::Recipient(1), "550 5.1.1 no such user", "550 5.1.1 somebody@elsewhere.example: no such user"),
        (At::Recipient(1), "450 4.2.1 busy", "451 4.2.1 somebody@elsewhere.example: busy"),
        (At::Data, "554 5.5.1 no valid recipients", "554 5.5.1 no valid recipients"),
        (At::Data, "451 4.3.0 later", "451 4.3.0 later"),
        (At::Final, "554 5.6.0 not a message", "554 5.6.0 not a message"),
        (At::Final, "450 4.2.0 greylisted", "450 4.2.0 greylisted"),
    ];
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    for (number, (at, said, reply)) in (1..).zip(cases) {
        scene.sink.once(at, Act::Reply(said));
        client.deliver(FROM, &[TO], MAIL).await.is(reply);
        scene.until_usage([0, 0, number, 0, 0]).await;
    }
    assert_eq!((scene.sink.count(), breaker(&scene).as_str()), (0, "0"));
}

#[tokio::test]
async fn an_upstream_that_keeps_refusing_us_is_left_alone_for_a_while() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    assert_eq!(breaker(&scene), "0");
    scene.sink.always(At::Mail, Act::Reply("535 5.7.8 who are you"));
    for _ in 0..IN_A_ROW {
        client.deliver(FROM, &[TO], MAIL).await.is("451 4.3.5");
    }
    assert_eq!(breaker(&scene), "2");
    scene.sink.behave();
    // It would take it, and is not asked.
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.3.5");
    assert_eq!(scene.sink.count(), 1);
    let deadline = Instant::now() + SOON;
    while client.deliver(FROM, &[TO], MAIL).await.code != 250 {
        assert!(Instant::now() < deadline, "it is never asked again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(breaker(&scene), "0");
}

#[tokio::test]
async fn a_tenant_with_its_own_trouble_does_not_close_the_upstream_for_the_others() {
    let scene = Scene::with(|_| {}, three_accounts).await;
    let (mut noisy, mut quiet) = (scene.client().await, scene.client_of(2).await);
    for client in [&mut noisy, &mut quiet] {
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    }
    let cases = [
        // Its sender is its own affair, and it is told.
        ("550 5.7.1 this sender is not verified", "550 5.7.1 this sender is not verified"),
        ("421 4.7.0 too many errors", "451 4.3.5"),
    ];
    for (said, heard) in cases {
        for _ in 0..2 * IN_A_ROW {
            scene.sink.once(At::Mail, Act::Reply(said));
            scene.sink.once(At::Mail, Act::Reply(said));
            noisy.deliver(FROM, &[TO], MAIL).await.is(heard);
            noisy.ask("RSET").await.is("250");
            scene.sink.behave();
        }
        quiet.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
        assert_eq!(breaker(&scene), "0", "{said}");
    }
    // What it provoked is charged to itself: it waits for a moment.
    noisy.deliver(FROM, &[TO], MAIL).await.is("451 4.3.5");
    assert_eq!(scene.sink.count(), 4);
}

#[tokio::test]
async fn an_account_whose_messages_keep_failing_waits_alone() {
    let scene = Scene::with(|_| {}, three_accounts).await;
    let (mut noisy, mut quiet) = (scene.client().await, scene.client_of(2).await);
    quiet.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    for _ in 0..IN_A_ROW {
        scene.sink.once(At::Recipient(1), Act::Drop);
        noisy.deliver(FROM, &[TO], MAIL).await.is("451 4.4.1");
    }
    noisy.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2 the last messages of this account failed");
    quiet.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    let deadline = Instant::now() + SOON;
    while noisy.deliver(FROM, &[TO], MAIL).await.code != 250 {
        assert!(Instant::now() < deadline, "it is never asked again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_same_refusal_for_three_accounts_of_several_namespaces_is_no_bounce_any_more() {
    let scene = Scene::with(|_| {}, three_accounts).await;
    scene.client_of(2).await.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.sink.always(At::Final, Act::Reply("554 5.7.1 your address is on a list"));
    for (key, reply) in [(1, "554 5.7.1"), (1, "554 5.7.1"), (2, "554 5.7.1"), (3, "451 4.3.5"), (1, "451 4.3.5")] {
        scene.client_of(key).await.deliver(FROM, &[TO], MAIL).await.is(reply);
    }
    scene.until_usage([1, 1, 5, 0, 0]).await;
}

/// A scene whose upstream is as modest as that, and has been asked once.
async fn modest(options: SinkOptions) -> (Sink, Scene) {
    let sink = Sink::start(options).await;
    let port = sink.address().port();
    let scene = Scene::with(|config| config.limits.errors = 100, |rows| rows.policy = policy(port)).await;
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    (sink, scene)
}

#[tokio::test]
async fn what_the_upstream_announced_that_it_cannot_take_is_refused_before_the_charge() {
    let (_sink, scene) =
        modest(SinkOptions { size: Some(2_000), eight_bit_mime: false, smtputf8: false, ..SinkOptions::default() })
            .await;
    let mut client = scene.client().await;
    client.ask(&format!("MAIL FROM:<{FROM}> SIZE=2001")).await.is("552 5.3.4 a message may have 2000 octets");
    let large = format!("{MAIL}\r\n{}", format!("{}\r\n", "x".repeat(98)).repeat(20));
    client.deliver(FROM, &[TO], &large).await.is("552 5.3.4");
    client.deliver(FROM, &[TO], &format!("{MAIL}\u{fc}")).await.is("554 5.6.3");
    client.ask(&format!("MAIL FROM:<{FROM}> SMTPUTF8")).await.is("250 2.1.0");
    client.ask("RCPT TO:<gr\u{fc}\u{df}e@elsewhere.example>").await.is("553 5.6.7");
    client.ask(&format!("RCPT TO:<{TO}>")).await.is("250 2.1.5");
    client.ask("DATA").await.is("354");
    client.send(format!("{MAIL}\r\n.\r\n")).await;
    client.reply().await.is("250 2.0.0");
    // No charge was made and given back.
    scene.until_usage([2, 2, 0, 0, 0]).await;
}

#[tokio::test]
async fn an_upstream_that_can_take_more_by_now_is_asked_again() {
    let (_sink, scene) = modest(SinkOptions { size: Some(2_000), ..SinkOptions::default() }).await;
    let mut client = scene.client().await;
    client.ask(&format!("MAIL FROM:<{FROM}> SIZE=2001")).await.is("552 5.3.4");
    // The policy names another: what the old one announced is nobody's word about it.
    scene.put(&[Entry::Policy(policy(scene.sink.address().port()))]).await;
    let large = format!("{MAIL}\r\n{}", format!("{}\r\n", "x".repeat(98)).repeat(20));
    scene
        .until("the new upstream is asked", async |scene| {
            scene.client().await.deliver(FROM, &[TO], &large).await.code == 250
        })
        .await;
    assert_eq!(scene.sink.count(), 1);
}
