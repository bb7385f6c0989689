//! Who may log in and send, and what they hear otherwise: the rows of the reply table that need no upstream.

use franking::domain::credit::Limit;
use franking::domain::directory::{Entry, Suspension};
use franking::domain::sender::SenderPattern;
use franking::runtime::relay_config::{Limits, RelayConfig};

use super::scene::{FROM, MAIL, PASSWORD, Rows, SOON, Scene, TO, account, key, listener, monthly, policy, username};
use crate::support::client::{Client, plain};

const NO_LIMITS: fn(&mut RelayConfig) = |_| {};

#[tokio::test]
async fn a_message_is_relayed_charged_and_accepted() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO, "other@elsewhere.example"], MAIL).await.is("250 2.0.0 relayed, id ");
    client.ask("QUIT").await.is("221 2.0.0");
    client.closed().await;

    let messages = scene.sink.wait_for(1, SOON).await;
    assert_eq!((messages.len(), messages[0].from.as_str()), (1, FROM));
    assert_eq!(messages[0].to, [TO, "other@elsewhere.example"]);
    let body = String::from_utf8(messages[0].body.clone()).expect("text");
    assert!(body.starts_with("Received: by relay.example.com (Franking) with ESMTPSA id "), "{body}");
    assert!(body.contains("\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n"), "{body}");
    assert!(body.contains("@relay.example.com>\r\n") && body.ends_with(&format!("{MAIL}\r\n")), "{body}");
    scene.until_usage([2, 2, 0, 0, 0]).await;
    let metrics = scene.metrics();
    assert!(metrics.contains("franking_relay_messages_total{policy=\"plan\",result=\"relayed\"} 1"), "{metrics}");
    assert!(metrics.contains("franking_relay_credits_total{outcome=\"relayed\",policy=\"plan\"} 2"), "{metrics}");
}

#[tokio::test]
async fn every_login_that_is_refused_hears_why() {
    type Edit = fn(&mut Rows);
    let cases: [(Edit, &str, &str); 8] = [
        (|_| {}, "wrong", "535 5.7.8"),
        (|rows| rows.keys.clear(), PASSWORD, "535 5.7.8"),
        (|rows| rows.keys[0].revoked = true, PASSWORD, "535 5.7.13 the key is revoked"),
        (
            |rows| rows.keys[0].expires_at = Some("2026-11-20T10:00:00Z".parse().expect("a time")),
            PASSWORD,
            "535 5.7.13 the key has expired",
        ),
        (
            |rows| rows.account.suspended = Some(Suspension { reason: Some("unpaid".into()) }),
            PASSWORD,
            "535 5.7.13 the account is suspended: unpaid",
        ),
        (
            |rows| rows.policy.suspended = Some(Suspension { reason: None }),
            PASSWORD,
            "535 5.7.13 the parent policy is suspended",
        ),
        (
            |rows| rows.keys[0].allow_from = vec!["10.0.0.0/8".parse().expect("a network")],
            PASSWORD,
            "535 5.7.8 this key may not be used from this network",
        ),
        (|rows| rows.account.suspended = Some(Suspension { reason: None }), "wrong", "535 5.7.8 user name"),
    ];
    for (rows, password, reply) in cases {
        let scene = Scene::with(NO_LIMITS, rows).await;
        scene.greeted().await.login(&username(1), password).await.is(reply);
    }
}

#[tokio::test]
async fn login_works_in_every_way_that_clients_do_it() {
    let scene = Scene::new().await;
    let (user, password) = ("a2V5LTE=", encoded(PASSWORD));
    let mut client = scene.greeted().await;
    client.ask("AUTH PLAIN").await.is("334 ");
    client.ask(&plain(&username(1), PASSWORD)).await.is("235 2.7.0");
    client.ask("AUTH PLAIN").await.is("503 5.5.1");

    let mut client = scene.greeted().await;
    let prompt = client.ask("AUTH LOGIN").await.is("334 ");
    assert_eq!(prompt.text, "VXNlcm5hbWU6");
    let prompt = client.ask(user).await.is("334 ");
    assert_eq!(prompt.text, "UGFzc3dvcmQ6");
    client.ask(&password).await.is("235 2.7.0");

    let mut client = scene.greeted().await;
    client.ask(&format!("AUTH LOGIN {user}")).await.is("334 UGFzc3dvcmQ6");
    client.ask("*").await.is("501 5.7.0");
    client.ask(&format!("AUTH LOGIN {user}")).await.is("334 ");
    client.ask(&password).await.is("235 2.7.0");
}

fn encoded(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn three_failed_logins_close_the_connection() {
    let scene = Scene::new().await;
    let mut client = scene.greeted().await;
    client.login(&username(1), "wrong").await.is("535 5.7.8");
    client.login("nobody", "wrong").await.is("535 5.7.8");
    client.login("Not A Name", "wrong").await.is("421 4.7.0");
    client.closed().await;
}

#[tokio::test]
async fn nobody_sends_without_a_login_and_nobody_logs_in_without_tls() {
    let scene = Scene::new().await;
    let mut client = Client::connect(scene.address("submission")).await;
    let offer = client.ask("EHLO x").await.is("250 relay.example.com");
    for keyword in ["PIPELINING", "SIZE 100000", "8BITMIME", "SMTPUTF8", "STARTTLS", "ENHANCEDSTATUSCODES"] {
        assert!(offer.text.lines().any(|line| line == keyword), "{keyword} in {}", offer.text);
    }
    assert!(!offer.text.contains("AUTH"), "{}", offer.text);
    client.ask("AUTH PLAIN").await.is("538 5.7.11");
    client.ask("MAIL FROM:<a@b.c>").await.is("530 5.7.0");
    client.ask("STARTTLS").await.is("220 2.0.0");
    let mut client = client.encrypt(&scene.ca_pem).await;
    client.ask("MAIL FROM:<a@b.c>").await.is("530 5.7.0");
    client.ask("AUTH PLAIN").await.is("503 5.5.1");
    let offer = client.ask("EHLO x").await;
    assert!(offer.text.contains("AUTH PLAIN LOGIN") && !offer.text.contains("STARTTLS"), "{}", offer.text);
    client.login(&username(1), PASSWORD).await.is("235 2.7.0");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
}

#[tokio::test]
async fn octets_before_the_handshake_end_the_connection() {
    let scene = Scene::new().await;
    let mut client = Client::connect(scene.address("submission")).await;
    client.send("STARTTLS\r\nEHLO injected\r\n").await;
    // 220 may have been on its way; nothing that came in the clear is answered.
    client.reply().await.is("220 2.0.0");
    client.closed().await;
    let metrics = scene.metrics();
    assert!(metrics.contains("franking_relay_tls_failures_total{reason=\"injected\"} 1"), "{metrics}");
}

#[tokio::test]
async fn the_plain_listener_serves_trusted_networks_and_keys_that_say_so() {
    let scene = Scene::with(NO_LIMITS, |rows| rows.keys[1].plain_listener = true).await;
    let address = scene.address("plain");
    let mut client = Client::connect(address).await;
    client.ask("EHLO x").await.is("250 ");
    client.ask("STARTTLS").await.is("502 5.5.1");
    client.login(&username(1), PASSWORD).await.is("538 5.7.11");
    client.login(&username(2), PASSWORD).await.is("235 2.7.0");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    let body = String::from_utf8(scene.sink.wait_for(1, SOON).await[0].body.clone()).expect("text");
    assert!(body.contains(" with ESMTPA id "), "{body}");

    let foreign = |config: &mut RelayConfig| {
        config.listeners[2].networks = vec!["10.0.0.0/8".parse().expect("a network")];
    };
    let scene = Scene::with(foreign, |_| {}).await;
    let mut client = Client::open(scene.address("plain")).await;
    client.reply().await.is("554 5.7.1");
    client.closed().await;
}

#[tokio::test]
async fn a_sender_that_is_not_allowed_is_refused_at_the_first_recipient() {
    let scene = Scene::with(NO_LIMITS, |rows| {
        rows.keys[1].allowed_senders = vec![SenderPattern::parse("alerts@example.com").expect("a pattern")];
    })
    .await;
    let mut client = scene.client().await;
    client.ask("MAIL FROM:<x@evil.example>").await.is("250 2.1.0");
    client.ask(&format!("RCPT TO:<{TO}>")).await.is("550 5.7.1");
    client.ask("DATA").await.is("554 5.5.1");
    client.ask("RSET").await.is("250 2.0.0");
    client.deliver("anybody@example.com", &[TO], "From: anybody@example.com\r\n\r\nx").await.is("250 2.0.0");

    let mut narrow = scene.client_of(2).await;
    narrow.ask("MAIL FROM:<anybody@example.com>").await.is("250 2.1.0");
    narrow.ask(&format!("RCPT TO:<{TO}>")).await.is("550 5.7.1");
    narrow.ask("RSET").await.is("250 2.0.0");
    narrow.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
}

#[tokio::test]
async fn every_address_that_a_message_claims_to_be_from_must_be_allowed() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let cases = [
        ("", "From: x@evil.example\r\n\r\nx", "550 5.7.1"),
        ("", "From: \"alerts@example.com\" <x@evil.example>\r\n\r\nx", "550 5.7.1"),
        ("", "From: alerts@example.com, x@evil.example\r\n\r\nx", "550 5.7.1"),
        ("", "From: alerts@example.com\r\nFrom: alerts@example.com\r\n\r\nx", "550 5.7.1 a message needs exactly one"),
        ("", "Subject: nobody\r\n\r\nx", "550 5.7.1 a message needs exactly one"),
        ("", "From: alerts@example.com\r\nSender: x@evil.example\r\n\r\nx", "550 5.7.1"),
        ("", "From: alerts@example.com\r\nResent-From: x@evil.example\r\n\r\nx", "550 5.7.1"),
        ("", "From: alerts@example.com <x@evil.example>\r\n\r\nx", "550 5.7.1"),
        ("", "From alerts@example.com\r\n\r\nx", "550 5.7.1 a message needs exactly one"),
        ("<>", "From: x@evil.example\r\n\r\nx", "550 5.7.1"),
    ];
    for (from, message, reply) in cases {
        let from = if from == "<>" { "" } else { FROM };
        client.deliver(from, &[TO], message).await.is(reply);
    }
    client.deliver("", &[TO], MAIL).await.is("250 2.0.0");
    let messages = scene.sink.wait_for(1, SOON).await;
    assert_eq!((messages.len(), messages[0].from.as_str()), (1, ""));
    // What was refused was never charged.
    scene.until_usage([1, 1, 0, 0, 0]).await;
}

#[tokio::test]
async fn no_trick_of_writing_hides_a_forged_sender() {
    let scene = Scene::with(|config| config.limits.errors = 100, |_| {}).await;
    let mut client = scene.client().await;
    let forged = [
        // A second From in another spelling, or where another program would still look for one.
        "From: alerts@example.com\r\nFROM : x@evil.example\r\n\r\nx",
        "From: alerts@example.com\r\nfrom\t: x@evil.example\r\n\r\nx",
        "From: alerts@example.com\r\nFrom\r\n : x@evil.example\r\n\r\nx",
        "From: alerts@example.com\r\n \r\nFrom: x@evil.example\r\n\r\nx",
        "From: alerts@example.com\rFrom: x@evil.example\r\n\r\nx",
        "From: alerts@example.com\nFrom: x@evil.example\r\n\r\nx",
        "From: alerts@example.com\r\n.From: x@evil.example\r\n\r\nx",
        "\tX: y\r\nFrom: alerts@example.com\r\n\r\nx",
        "Fr\u{2060}om: x@evil.example\r\nFrom: alerts@example.com\r\n\r\nx",
        // One From that two programs read differently.
        "From: x@evil.example,\r\n alerts@example.com\r\n\r\nx",
        "From: Team: alerts@example.com, x@evil.example;\r\n\r\nx",
        "From: alerts@example.com (\r\n) x@evil.example\r\n\r\nx",
        "From: \"x@evil.example\"@example.com\r\n\r\nx",
        "From: <@evil.example:alerts@example.com>\r\n\r\nx",
        "From: =?utf-8?Q?x=40evil.example?=@example.com\r\n\r\nx",
        "From: alerts@example.com.\r\n\r\nx",
        "From: alerts@example.com.evil.example\r\n\r\nx",
        "From: alerts@ex\u{e4}mple.com\r\n\r\nx",
        "From: alerts@xn--exmple-cua.com\r\n\r\nx",
        // Others who would be shown as the sender.
        "From: alerts@example.com\r\nSENDER : x@evil.example\r\n\r\nx",
        "From: alerts@example.com\r\nResent-From: alerts@example.com\r\nresent-from: x@evil.example\r\n\r\nx",
        "From: alerts@example.com\r\nResent-Sender: x@evil.example\r\n\r\nx",
    ];
    for message in forged {
        let reply = client.deliver(FROM, &[TO], message).await;
        assert!(matches!(reply.code, 550 | 554), "{message:?}: {reply:?}");
    }
    for honest in ["FROM\t:\r\n Alerts\r\n\t<Alerts@EXAMPLE.com>\r\n\r\nx", "From: (a) alerts@example.com (b)\r\n\r\nx"]
    {
        client.deliver(FROM, &[TO], honest).await.is("250 2.0.0");
    }
    scene.until_usage([2, 2, 0, 0, 0]).await;
}

#[tokio::test]
async fn credits_that_are_gone_are_named_with_the_limit_and_when_it_opens_again() {
    type Edit = fn(&mut Rows, Limit);
    let cases: [(Edit, &str); 3] = [
        (|rows, limit| rows.keys[0].cap = limit, "the key's cap of 2 has 0 left"),
        (|rows, limit| rows.account.cap = limit, "the account's cap of 2 has 0 left"),
        (|rows, limit| rows.policy.pool = limit, "the policy's pool of 2 has 0 left"),
    ];
    for (edit, words) in cases {
        let scene = Scene::with(NO_LIMITS, |rows| edit(rows, monthly(Some(2)))).await;
        let mut client = scene.client().await;
        client.deliver(FROM, &[TO, "b@elsewhere.example"], MAIL).await.is("250 2.0.0");
        let refused = format!("452 4.7.1 credits: {words}; it opens again at 2026-12-01T00:00:00Z");
        client.deliver(FROM, &[TO], MAIL).await.is(&refused);
        // Remembered for a moment, so the next is refused before its upload.
        client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250 2.1.0");
        client.ask(&format!("RCPT TO:<{TO}>")).await.is(&refused);
        client.ask("QUIT").await.is("221");
        scene.until_usage([2, 2, 0, 0, 0]).await;
        assert_eq!(scene.sink.count(), 1);
    }
}

#[tokio::test]
async fn a_message_that_fits_only_in_part_is_refused_whole() {
    let scene = Scene::with(NO_LIMITS, |rows| rows.account.cap = monthly(Some(2))).await;
    let mut client = scene.client().await;
    let three = [TO, "b@elsewhere.example", "c@elsewhere.example"];
    client.deliver(FROM, &three, MAIL).await.is("452 4.7.1 credits: the account's cap of 2 has 2 left");
    client.ask("RSET").await.is("250");
    client.deliver(FROM, &three[..2], MAIL).await.is("250 2.0.0");
    scene.until_usage([2, 2, 0, 0, 0]).await;
}

#[tokio::test]
async fn too_many_recipients_and_too_large_messages_are_refused() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250 2.1.0");
    for n in 0..5 {
        client.ask(&format!("RCPT TO:<r{n}@elsewhere.example>")).await.is("250 2.1.5");
    }
    client.ask("RCPT TO:<r5@elsewhere.example>").await.is("452 4.5.3 a message may have 5 recipients");
    client.ask("RSET").await.is("250");

    client.ask(&format!("MAIL FROM:<{FROM}> SIZE=100001")).await.is("552 5.3.4");
    let large = format!("{MAIL}\r\n{}", format!("{}\r\n", "x".repeat(98)).repeat(1000));
    client.deliver(FROM, &[TO], &large).await.is("552 5.3.4");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.until_usage([1, 1, 0, 0, 0]).await;
}

#[tokio::test]
async fn what_is_suspended_or_revoked_in_a_session_is_refused_within_a_second() {
    type Edit = fn() -> Entry;
    let suspended = "550 5.7.13 the account is suspended: unpaid";
    let cases: [(Edit, &str); 3] = [
        (
            || Entry::Key(franking::domain::directory::KeyEntry { revoked: true, ..key(1) }),
            "550 5.7.13 the key is revoked",
        ),
        (
            || {
                let suspended = Some(Suspension { reason: Some("unpaid".into()) });
                Entry::Account(franking::domain::directory::AccountEntry { suspended, ..account() })
            },
            suspended,
        ),
        (
            || {
                let mut policy = policy(1);
                policy.suspended = Some(Suspension { reason: None });
                Entry::Policy(policy)
            },
            "550 5.7.13 the parent policy is suspended",
        ),
    ];
    for (entry, reply) in cases {
        let scene = Scene::new().await;
        let mut client = scene.client().await;
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
        // An envelope that stands open is refused at the final dot by the ledger's last word.
        client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
        client.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
        client.ask("DATA").await.is("354");
        scene.put(&[entry()]).await;
        let written = std::time::Instant::now();
        client.send(format!("{MAIL}\r\n.\r\n")).await;
        client.reply().await.is(reply);
        loop {
            let heard = client.ask(&format!("MAIL FROM:<{FROM}>")).await;
            if heard.code == 550 {
                heard.is(reply);
                break;
            }
            client.ask("RSET").await.is("250");
            assert!(written.elapsed().as_millis() < 1000, "still served after a second");
        }
        scene.until_usage([1, 1, 0, 0, 0]).await;
    }
}

#[tokio::test]
async fn a_key_that_expires_in_a_session_is_refused() {
    let scene = Scene::with(NO_LIMITS, |rows| {
        rows.keys[0].expires_at = Some("2026-11-20T11:00:00Z".parse().expect("a time"));
    })
    .await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.clock.advance(3600);
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("550 5.7.13 the key has expired");
}

#[tokio::test]
async fn a_new_key_works_at_once() {
    let scene = Scene::new().await;
    scene.put(&[Entry::Key(key(9))]).await;
    let mut client = scene.client_of(9).await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
}

#[tokio::test]
async fn a_policy_without_an_upstream_makes_mail_wait() {
    let scene = Scene::with(NO_LIMITS, |rows| rows.policy.upstream = None).await;
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("451 4.3.5");
}

#[tokio::test]
async fn connections_over_a_limit_are_turned_away() {
    let limited = |config: &mut RelayConfig| {
        config.listeners.push(listener("other", franking::runtime::relay_config::ListenerMode::StartTls));
        config.limits = Limits { connections_per_address: 2, connections_per_key: 1, ..config.limits.clone() };
    };
    let scene = Scene::with(limited, |_| {}).await;
    let first = scene.client().await;
    let mut second = scene.greeted().await;
    second.login(&username(1), PASSWORD).await.is("421 4.3.2");
    second.closed().await;
    let second = scene.greeted().await;
    let mut third = Client::open(scene.address("submission")).await;
    third.reply().await.is("421 4.3.2");
    third.closed().await;
    drop((first, second));
    scene
        .until("a place is free again", async |scene| {
            let mut client = Client::open(scene.address("submission")).await;
            client.reply().await.code == 220
        })
        .await;
}

#[tokio::test]
async fn commands_that_do_nothing_are_answered_as_the_standard_says() {
    let scene = Scene::new().await;
    let mut client = scene.greeted().await;
    let cases = [
        ("NOOP", "250 2.0.0"),
        ("RSET", "250 2.0.0"),
        ("HELP", "214 2.0.0"),
        ("VRFY x", "252 2.5.0"),
        ("EXPN x", "502 5.5.1"),
        ("BDAT 3 LAST", "502 5.5.1"),
        ("FOO", "500 5.5.2"),
        ("HELO x", "250 relay.example.com"),
        ("RCPT TO:<a@b.c>", "530 5.7.0"),
        ("DATA", "530 5.7.0"),
    ];
    for (command, reply) in cases {
        client.ask(command).await.is(reply);
    }
}
