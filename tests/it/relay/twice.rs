//! No mail twice: what a client hears that sends a message again, byte for byte, because it was not told what became
//! of it.

use std::time::Duration;

use rusqlite::Connection;

use super::scene::{FROM, MAIL, PASSWORD, Scene, TO, another, client_of, username};
use crate::support::client::Client;
use crate::support::sink::{Act, At};

/// A scene whose clients with TLS are answered after a second at the latest.
async fn hasty() -> Scene {
    Scene::with(|config| config.listeners[1].budget_seconds = 1, |_| {}).await
}

fn fingerprints(scene: &Scene) -> i64 {
    let ledger = Connection::open(scene.folder.path().join("ledger.db")).expect("the ledger's file");
    ledger.query_row("SELECT count(*) FROM fingerprint", [], |row| row.get(0)).expect("counted")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_answers_after_the_client_gave_up_gets_one_mail_for_one_charge() {
    let scene = hasty().await;
    let other = another(&scene).await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], "From: alerts@example.com\r\n\r\nanother").await.is("250 2.0.0");
    assert_eq!(fingerprints(&scene), 0, "an outcome that is known costs no write");

    scene.sink.once(At::Final, Act::Stall);
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2 the upstream received the message");
    // At once, and at whichever relay.
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2 this message is still being sent");
    let mut elsewhere = client_of(&other, &scene, 1).await;
    elsewhere.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2 this message is still being sent");
    // Whatever is not the same to the byte is another message.
    elsewhere.deliver(FROM, &[TO], &format!("{MAIL} ")).await.is("250 2.0.0");
    elsewhere.deliver(FROM, &["other@elsewhere.example"], MAIL).await.is("250 2.0.0");
    scene.until_usage([4, 3, 0, 0, 1]).await;

    scene.sink.release();
    scene.until_usage([4, 4, 0, 0, 0]).await;
    elsewhere.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0 relayed, id ");
    scene.until_usage([4, 4, 0, 0, 0]).await;
    let same = |body: &[u8]| String::from_utf8_lossy(body).ends_with("\r\n\r\nhello\r\n");
    let messages = scene.sink.messages();
    assert_eq!(messages.iter().filter(|mail| mail.to == [TO] && same(&mail.body)).count(), 1);
    assert_eq!(scene.sink.count(), 4);

    // It was told. If it sends the same once more, it means it.
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.until_usage([5, 5, 0, 0, 0]).await;
    assert_eq!(scene.sink.count(), 5);
    let metrics = scene.metrics();
    assert!(metrics.contains("franking_relay_messages_total{policy=\"plan\",result=\"under_way\"} 1"), "{metrics}");
    other.drain().await;
}

#[tokio::test]
async fn a_message_of_which_nobody_will_know_is_sent_again_without_another_charge() {
    let scene = Scene::new().await;
    scene.sink.once(At::Final, Act::Drop);
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2");
    scene.until_usage([1, 0, 0, 0, 1]).await;
    // What refuses the copy says nothing about the first.
    scene.sink.once(At::Final, Act::Reply("554 5.7.1 no"));
    client.deliver(FROM, &[TO], MAIL).await.is("554 5.7.1 no");
    scene.sink.once(At::Final, Act::Drop);
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2");
    scene.until_usage([1, 0, 0, 0, 1]).await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.until_usage([1, 1, 0, 0, 0]).await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.until_usage([2, 2, 0, 0, 0]).await;
}

/// Free mail for whoever has such an upstream: two copies are sent without a charge, and each that follows is charged.
#[tokio::test]
async fn an_upstream_that_drops_after_every_dot_makes_two_copies_free_and_no_more() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    for (sent, charged) in (1..=12).zip([1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) {
        scene.sink.once(At::Final, Act::Drop);
        client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2");
        // What passes between them keeps the upstream from being given up.
        client.deliver(FROM, &[TO], &format!("{MAIL} {sent}")).await.is("250 2.0.0");
        scene.until_usage([sent + charged, sent, 0, 0, charged]).await;
    }
    assert_eq!(scene.sink.count(), 24);
}

/// Another order of the recipients, or another case of a domain, is no other message.
#[tokio::test]
async fn a_copy_is_known_by_its_set_of_recipients() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    scene.sink.once(At::Final, Act::Drop);
    client.deliver(FROM, &[TO, "other@elsewhere.example"], MAIL).await.is("451 4.4.2");
    scene.until_usage([2, 0, 0, 0, 2]).await;
    client.deliver(FROM, &["other@ELSEWHERE.example", TO], MAIL).await.is("250 2.0.0");
    scene.until_usage([2, 2, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_copy_that_is_late_too_is_one_charge_and_is_answered_in_the_end() {
    let scene = hasty().await;
    scene.sink.once(At::Final, Act::Drop);
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2");
    scene.sink.once(At::Final, Act::Stall);
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2 the upstream received the message");
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2 this message is still being sent");
    scene.sink.release();
    scene.until_usage([1, 1, 0, 0, 0]).await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0 relayed, id ");
    scene.until_usage([1, 1, 0, 0, 0]).await;
    // The dropped one had arrived: nobody could know.
    assert_eq!(scene.sink.count(), 2);
}

#[tokio::test]
async fn a_message_that_was_refused_late_is_a_new_one_when_it_comes_again() {
    let scene = hasty().await;
    scene.sink.once(At::Final, Act::StallThen(Box::new(Act::Reply("451 4.7.1 later"))));
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2");
    scene.sink.release();
    scene.until_usage([0, 0, 1, 0, 0]).await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.until_usage([1, 1, 1, 0, 0]).await;
    assert_eq!(scene.sink.count(), 1);
}

/// Everything up to the final dot, and no ear for the answer.
async fn say_all(client: &mut Client, mail: &str, after: &str) {
    for line in [format!("MAIL FROM:<{FROM}>"), format!("RCPT TO:<{TO}>")] {
        client.ask(&line).await.is("250");
    }
    client.ask("DATA").await.is("354");
    client.send(format!("{mail}\r\n.\r\n{after}")).await;
}

/// Programs give up after 0.3 s and after minutes, and a retry goes to whichever relay answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_after_its_dot_comes_again_to_the_same_message_on_another_relay() {
    for waited in [300, 2_000] {
        let scene = Scene::new().await;
        let other = another(&scene).await;
        let client = scene.stalled().await;
        // Its patience is what is tested.
        tokio::time::sleep(Duration::from_millis(waited)).await;
        drop(client);
        scene.until_usage([1, 0, 0, 0, 1]).await;
        let mut elsewhere = client_of(&other, &scene, 1).await;
        elsewhere.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2 this message is still being sent");
        scene.sink.release();
        scene.until_usage([1, 1, 0, 0, 0]).await;
        elsewhere.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0 relayed, id ");
        scene.until_usage([1, 1, 0, 0, 0]).await;
        assert_eq!(scene.sink.count(), 1, "after {waited} ms");
        other.drain().await;
    }
}

/// A Message-ID says that the same bytes are the same message, however soon its client hung up.
#[tokio::test]
async fn a_message_with_an_id_is_known_again_from_its_dot_on() {
    let marked = format!("Message-ID: <1@example.com>\r\n{MAIL}");
    let scene = Scene::new().await;
    scene.sink.once(At::Final, Act::Stall);
    let mut client = scene.client().await;
    say_all(&mut client, &marked, "").await;
    drop(client);
    scene.until_usage([1, 0, 0, 0, 1]).await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], &marked).await.is("451 4.4.2 this message is still being sent");
    scene.sink.release();
    scene.until_usage([1, 1, 0, 0, 0]).await;
    client.deliver(FROM, &[TO], &marked).await.is("250 2.0.0 relayed, id ");
    assert_eq!(scene.sink.count(), 1);
}

/// `printf … | nc -N`: the end of its input is no hang-up, and the reply is heard.
#[tokio::test]
async fn a_client_that_closes_only_its_own_side_is_answered() {
    let scene = Scene::with(|_| {}, |rows| rows.keys[0].plain_listener = true).await;
    scene.sink.once(At::Final, Act::Delay(Duration::from_millis(400)));
    let mut client = Client::connect(scene.address("plain")).await;
    client.ask("EHLO nc").await.is("250 ");
    client.login(&username(1), PASSWORD).await.is("235 2.7.0");
    say_all(&mut client, MAIL, "").await;
    client.close_our_side().await;
    client.reply().await.is("250 2.0.0 relayed, id ");
    scene.until_usage([1, 1, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_client_that_never_waits_means_each_of_its_messages() {
    let scene = Scene::new().await;
    for (sent, goodbye) in [(1, "QUIT\r\n"), (2, ""), (3, "QUIT\r\n")] {
        let mut client = scene.client().await;
        say_all(&mut client, MAIL, goodbye).await;
        drop(client);
        scene.until_usage([sent, sent, 0, 0, 0]).await;
        assert_eq!((scene.sink.count(), fingerprints(&scene)), (sent as u64, 0));
    }
}
