//! Clients that pipeline, stall, smuggle and send rubbish.

use std::time::{Duration, Instant};

use franking::runtime::relay_config::{LineEnds, RelayConfig};

use super::scene::{FROM, MAIL, PASSWORD, SOON, Scene, TO, username};
use crate::support::client::{Client, plain};

#[tokio::test]
async fn a_client_that_says_everything_at_once_hears_every_reply_in_order() {
    let scene = Scene::new().await;
    let mut client = Client::connect_tls(scene.address("implicit"), &scene.ca_pem).await;
    let envelope = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\nRCPT TO:<bad\r\nRCPT TO:<b@c.example>\r\nDATA\r\n");
    let message = format!("{MAIL}\r\n..dot\r\n.\r\n");
    let login = plain(&username(1), PASSWORD);
    let all = format!(
        "EHLO x\r\nAUTH PLAIN {login}\r\n{envelope}{message}NOOP\r\n{envelope}{message}FOO\r\nRSET\r\nQUIT\r\n"
    );
    client.send(all).await;
    let transaction = ["250 2.1.0", "250 2.1.5", "501 5.", "250 2.1.5", "354", "250 2.0.0 relayed"];
    let expected = ["250 relay", "235"].into_iter().chain(transaction).chain(["250 2.0.0 ok"]).chain(transaction);
    for reply in expected.chain(["500 5.5.2", "250 2.0.0 ok", "221"]) {
        client.reply().await.is(reply);
    }
    client.closed().await;
    let messages = scene.sink.wait_for(2, SOON).await;
    assert_eq!(messages.len(), 2);
    for message in messages {
        assert_eq!(message.to, [TO, "b@c.example"]);
        assert!(message.body.ends_with(format!("{MAIL}\r\n.dot\r\n").as_bytes()), "{}", message.body.escape_ascii());
    }
    scene.until_usage([4, 4, 0, 0, 0]).await;
}

#[tokio::test]
async fn one_octet_at_a_time_is_as_good_as_all_at_once() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let dialogue = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\nDATA\r\n{MAIL}\r\n.\r\n");
    for octet in dialogue.bytes() {
        client.send([octet]).await;
    }
    for reply in ["250", "250", "354", "250 2.0.0 relayed"] {
        client.reply().await.is(reply);
    }
}

#[tokio::test]
async fn nobody_hides_a_second_message_in_a_first() {
    let normalize = |config: &mut RelayConfig| config.listeners[1].line_ends = LineEnds::Normalize;
    let scene = Scene::with(normalize, |_| {}).await;
    let mut client = scene.client().await;
    let mut sent = 0;
    for trick in ["\n.\n", "\n.\r\n", "\r.\r", "\r.\r\n", "\r\n.\n", "\r\n.\r", "\r\n.\r\r\n", "\n.\r"] {
        let hidden = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<hidden@evil.example>\r\nDATA\r\n{MAIL}");
        client.deliver(FROM, &[TO], &format!("{MAIL}{trick}{hidden}")).await.is("250 2.0.0");
        sent += 1;
        let messages = scene.sink.wait_for(sent, SOON).await;
        assert_eq!(messages.len() as u64, sent, "{trick:?} made two of one");
        let last = messages.last().expect("a message");
        assert_eq!(last.to, [TO], "{trick:?}");
        let text = String::from_utf8(last.body.clone()).expect("text");
        assert!(text.contains("RCPT TO:<hidden@evil.example>"), "{trick:?} lost its content");
        let bare = text.replace("\r\n", "");
        assert!(!bare.contains(['\r', '\n']), "{trick:?} left a bare line end");
    }
    client.ask("NOOP").await.is("250");
}

#[tokio::test]
async fn nul_and_with_tls_bare_line_ends_are_refused() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    for content in ["a\0b", "a\nb", "a\rb", "a\n.\nb", "a\r\n.\nb"] {
        client.deliver(FROM, &[TO], &format!("{MAIL}{content}")).await.is("554 5.6.0");
    }
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    client.send("NOOP\nNOOP\r\n").await;
    client.reply().await.is("500 5.5.2");
    client.closed().await;
    scene.until_usage([1, 1, 0, 0, 0]).await;
    assert_eq!(scene.sink.count(), 1);
}

#[tokio::test]
async fn a_body_arrives_as_it_was_sent() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let long = "x".repeat(60_000);
    let binary: String = "\u{1}\u{7f}\tgrüße\r\n".repeat(50);
    let bodies = ["", ".", "..", ".\r\n..\r\n...", "\r\n\r\n", " trailing \t", &long, &binary];
    for (index, body) in bodies.iter().enumerate() {
        let message = format!("{MAIL}\r\n{body}\r\n");
        // The client stuffs dots, as the standard asks.
        let stuffed = message.replace("\r\n.", "\r\n..");
        client.ask(&format!("MAIL FROM:<{FROM}> BODY=8BITMIME")).await.is("250");
        client.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
        client.ask("DATA").await.is("354");
        client.send(format!("{stuffed}.\r\n")).await;
        client.reply().await.is("250 2.0.0");
        let received = scene.sink.wait_for(index as u64 + 1, SOON).await.pop().expect("a message");
        assert!(received.body.ends_with(message.as_bytes()), "{body:?} became {}", received.body.escape_ascii());
    }
}

#[tokio::test]
async fn rubbish_is_refused_and_ends_the_connection_after_a_while() {
    let scene = Scene::with(|config| config.limits.errors = 4, |_| {}).await;
    let mut client = scene.greeted().await;
    client.send(b"NOOP \xff\xfe\r\n").await;
    client.reply().await.is("500 5.5.2");
    client.send(b"NO\0OP\r\n").await;
    client.reply().await.is("500 5.5.2");
    // Ten megabytes without a line end take no memory and one reply.
    let chunk = vec![b'x'; 1_000_000];
    for _ in 0..10 {
        client.send(&chunk).await;
    }
    client.send("\r\n").await;
    client.reply().await.is("500 5.5.2");
    client.ask("NOOP").await.is("250");
    client.ask("FOO").await.is("500 5.5.2");
    client.ask("FOO").await.is("421 4.7.0");
    client.closed().await;
}

#[tokio::test]
async fn a_ten_megabyte_line_in_a_body_is_refused_and_the_session_goes_on() {
    let scene = Scene::with(|config| config.limits.message_bytes = 20_000_000, |_| {}).await;
    let mut client = scene.client().await;
    let message = format!("{MAIL}{}", "x".repeat(10_000_000));
    client.deliver(FROM, &[TO], &message).await.is("554 5.6.0 the message holds a line that is too long");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_off() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
    client.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
    client.ask("DATA").await.is("354");
    let line = format!("{}\r\n", "x".repeat(998));
    let mut sent = 0;
    // The relay hangs up at four times the limit; what the sockets hold comes on top.
    while client.try_send(&line).await.is_ok() {
        sent += line.len();
        assert!(sent < 50_000_000, "nobody stopped it");
    }
    scene.until_usage([0, 0, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_message_that_goes_in_circles_is_refused() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let passed = |servers: usize| format!("{}{MAIL}", "Received: by x.example; today\r\n".repeat(servers));
    client.deliver(FROM, &[TO], &passed(51)).await.is("554 5.4.6");
    client.deliver(FROM, &[TO], &passed(50)).await.is("250 2.0.0");
}

#[tokio::test]
async fn a_message_that_comes_back_by_the_same_key_is_refused() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    let come_back = |n: usize| String::from_utf8(scene.sink.messages()[n].body.clone()).expect("text");
    let once = come_back(0).trim_end().to_owned();
    client.deliver(FROM, &[TO], &once).await.is("554 5.4.6");
    // A list server passes on what others sent through here, once.
    let mut list = scene.client_of(2).await;
    list.deliver(FROM, &[TO], &once).await.is("250 2.0.0");
    let twice = come_back(1).trim_end().to_owned();
    list.deliver(FROM, &[TO], &twice).await.is("554 5.4.6");
    assert_eq!(scene.sink.count(), 2);
    scene.until_usage([2, 2, 0, 0, 0]).await;
    let metrics = scene.metrics();
    assert!(metrics.contains("franking_relay_messages_total{policy=\"plan\",result=\"loop\"} 2"), "{metrics}");
}

#[tokio::test]
async fn a_client_that_stalls_is_told_to_go() {
    let hurried = |config: &mut RelayConfig| {
        (config.limits.login_seconds, config.limits.idle_seconds, config.limits.data_seconds) = (2, 1, 1);
    };
    let scene = Scene::with(hurried, |_| {}).await;

    let started = Instant::now();
    let mut silent = Client::connect(scene.address("submission")).await;
    silent.reply().await.is("421 4.4.2");
    silent.closed().await;

    // Talking without ever logging in takes no longer than the login may take.
    let mut talking = scene.greeted().await;
    let heard = loop {
        let reply = talking.ask("NOOP").await;
        if reply.code != 250 {
            break reply;
        }
        assert!(started.elapsed() < SOON, "the login's deadline has passed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    heard.is("421 4.4.2");

    let mut idle = scene.client().await;
    idle.send("MAIL FR").await;
    idle.reply().await.is("421 4.4.2");
    idle.closed().await;

    let mut uploading = scene.client().await;
    uploading.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
    uploading.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
    uploading.ask("DATA").await.is("354");
    uploading.send("From: ").await;
    uploading.reply().await.is("421 4.4.2");
    uploading.closed().await;
    scene.until_usage([0, 0, 0, 0, 0]).await;
}

#[tokio::test]
async fn bodies_share_a_bounded_memory() {
    let small = |config: &mut RelayConfig| {
        config.limits.message_bytes = 50_000;
        config.limits.bytes_in_flight = 100_000;
    };
    let scene = Scene::with(small, |_| {}).await;
    let large = format!("{MAIL}\r\n{}", format!("{}\r\n", "x".repeat(98)).repeat(400));
    let mut first = scene.client().await;
    first.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
    first.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
    first.ask("DATA").await.is("354");
    first.send(format!("{large}\r\n")).await;
    scene.until("it is in memory", async |scene| scene.bytes_in_flight() > 40_000).await;

    let mut second = scene.client_of(2).await;
    second.ask(&format!("MAIL FROM:<{FROM}> SIZE=40000")).await.is("250");
    second.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
    second.ask("DATA").await.is("452 4.3.1");
    second.ask("RSET").await.is("250");
    // One that did not say how large it is hears it at its end.
    second.deliver(FROM, &[TO], &large).await.is("452 4.3.1");

    first.send(".\r\n").await;
    first.reply().await.is("250 2.0.0");
    second.deliver(FROM, &[TO], &large).await.is("250 2.0.0");
}
