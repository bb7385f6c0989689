//! Addresses, domains and header fields as real programs write them: taken as they are, or refused with a reply that says
//! which address it is about and where to look.

use franking::domain::sender::{MailDomain, SenderPattern};
use franking::runtime::relay_config::LineEnds;

use super::scene::{FROM, MAIL, PASSWORD, SOON, Scene, TO, username};
use crate::support::client::{Client, Reply};

/// A scene whose clients may make mistakes without end.
async fn patient() -> Scene {
    Scene::with(|config| config.limits.errors = 1_000, |rows| rows.keys[1].plain_listener = true).await
}

/// A client on the plain listener, logged in.
async fn plain_client(scene: &Scene) -> Client {
    let mut client = Client::connect(scene.address("plain")).await;
    client.ask("EHLO device").await.is("250 ");
    client.login(&username(2), PASSWORD).await.is("235 2.7.0");
    client
}

/// Sends a message of octets that may be no UTF-8.
async fn deliver_octets(client: &mut Client, from: &str, message: &[u8]) -> Reply {
    client.ask(&format!("MAIL FROM:<{from}> BODY=8BITMIME")).await.is("250 2.1.0");
    client.ask(&format!("RCPT TO:<{TO}>")).await.is("250 2.1.5");
    client.ask("DATA").await.is("354");
    client.send([message, b"\r\n.\r\n"].concat()).await;
    client.reply().await
}

#[tokio::test]
async fn a_name_may_be_written_in_every_way_as_long_as_every_address_in_it_is_allowed() {
    let scene = patient().await;
    let mut client = scene.client().await;
    let cases: [(&[u8], &str); 26] = [
        (b"alerts@example.com <alerts@example.com>", "250"),
        (b"[JIRA] Bot <alerts@example.com>", "250"),
        (b"R&D @ Acme <alerts@example.com>", "250"),
        (b"shop@example.com via Shop <alerts@example.com>", "250"),
        (b"M\xfcller <alerts@example.com>", "250"),
        (b"\"M\xfcller\" <alerts@example.com>", "250"),
        (b"Acme\xa0Shop <alerts@example.com>", "250"),
        ("Acme\u{a0}Shop <alerts@example.com>".as_bytes(), "250"),
        (b"Doe, Alice: disk; full [x] <alerts@example.com>", "250"),
        (b"a@bank <alerts@example.com>", "550 5.7.1 this key may not send as a@bank (From header)"),
        (b"x@evil.example <alerts@example.com>", "550 5.7.1 this key may not send as x@evil.example (From header)"),
        (b"alerts@example.com <x@evil.example>", "550 5.7.1 this key may not send as x@evil.example (From header)"),
        (b"[x] \"x@evil.example\" <alerts@example.com>", "550 5.7.1 this key may not send as x@evil.example"),
        (b"x @ evil.example <alerts@example.com>", "550 5.7.1 this key may not send as x@evil.example"),
        (b"x @evil.example <alerts@example.com>", "550 5.7.1 the addresses in the From header cannot be understood"),
        (b"[x] <alerts@example.com> <x@evil.example>", "550 5.7.1 the addresses"),
        (b"[x] \"open <alerts@example.com>", "550 5.7.1 the addresses"),
        (b"alerts@example.com (Cron Daemon)", "250"),
        // A bare word before a comma is an address of its own to an MTA that completes it; see docs/sending.md.
        (b"ceo, Bob <alerts@example.com>", "250"),
        (
            b"alerts@example.com (<ceo@bank.example>)",
            "550 5.7.1 this key may not send as ceo@bank.example (From header)",
        ),
        (b"Bot (y (ceo@bank)) <alerts@example.com>", "550 5.7.1 this key may not send as ceo@bank (From header)"),
        (b"\"y \\\" <ceo@bank>\" <alerts@example.com>", "550 5.7.1 this key may not send as ceo@bank (From header)"),
        (b"alerts@example.com (open <ceo@bank.example>", "550 5.7.1 the addresses in the From header cannot"),
        (b"ceo\xc1\x80bank <alerts@example.com>", "550 5.7.1 this key may not send as ceo@bank (From header)"),
        (b"\xc0\xbcceo@example.com\xc0\xbe <alerts@example.com>", "550 5.7.1 the addresses in the From header cannot"),
        (b"\xc1\xa0lvaro \xc0 la carte <alerts@example.com>", "250"),
    ];
    let mut relayed = 0;
    for (from, reply) in cases {
        let message = [b"From: ", from, b"\r\nSubject: x\r\n\r\nx"].concat();
        let heard = deliver_octets(&mut client, FROM, &message).await;
        assert!(format!("{} {}", heard.code, heard.text).starts_with(reply), "{}: {heard:?}", from.escape_ascii());
        relayed += u64::from(heard.code == 250);
        if heard.code == 250 {
            let arrived = scene.sink.wait_for(relayed, SOON).await.pop().expect("a message").body;
            assert!(arrived.windows(from.len()).any(|window| window == from), "{} was changed", from.escape_ascii());
        }
    }
    assert_eq!(relayed, 12);
}

/// A `From` field of a quarter of a megabyte, folded into lines.
fn long_field(piece: &str, end: &str) -> Vec<u8> {
    let line = piece.repeat(32 * 1024 / piece.len());
    format!("From: {}{end}\r\n\r\nHello\r\n", format!("{line}\r\n ").repeat(7)).into_bytes()
}

/// Steps that grow with the square of the field's length would keep the relay busy for minutes, longer than a client
/// waits.
#[tokio::test]
async fn a_long_field_is_judged_at_once() {
    let scene = Scene::with(|config| config.limits.message_bytes = 1024 * 1024, |_| ()).await;
    let mut client = scene.client().await;
    for (piece, end) in [
        ("@ ", "<alerts@example.com>"),
        ("(@ )", "<alerts@example.com>"),
        ("(x @ y)", "<alerts@example.com>"),
        ("(alerts@example.com)", "<alerts@example.com>"),
        ("y. ", "<ceo@example.org>"),
        ("(y) ", "[y] ceo@example.org <alerts@example.com>"),
    ] {
        for first in ["", "\u{fc}"] {
            let field = long_field(piece, end);
            let message = [b"From: ", first.as_bytes(), &field[b"From: ".len()..]].concat();
            deliver_octets(&mut client, FROM, &message).await.is("550 5.7.1");
        }
    }
}

#[tokio::test]
async fn the_first_line_of_a_mailbox_is_dropped() {
    let scene = patient().await;
    let mut client = scene.client().await;
    let line = "From alerts@example.com Mon Nov 30 10:00:00 2026";
    client.deliver(FROM, &[TO], &format!("{line}\r\n{MAIL}")).await.is("250 2.0.0");
    let body = String::from_utf8(scene.sink.wait_for(1, SOON).await[0].body.clone()).expect("text");
    assert!(!body.contains(line) && body.ends_with(&format!("{MAIL}\r\n")), "{body}");
    client.deliver(FROM, &[TO], &format!("{MAIL}\r\n{line}")).await.is("250 2.0.0");
    let body = String::from_utf8(scene.sink.wait_for(2, SOON).await[1].body.clone()).expect("text");
    assert!(body.ends_with(&format!("{line}\r\n")), "the body is nobody's but the client's: {body}");
    client.deliver(FROM, &[TO], &format!("{line}\r\n folded\r\n{MAIL}")).await.is("554 5.6.0");
    client.deliver(FROM, &[TO], &format!("{line}\r\n{line}\r\n{MAIL}")).await.is("554 5.6.0");
}

#[tokio::test]
async fn a_carriage_return_too_many_never_cuts_the_header_section() {
    let scene = patient().await;
    let message = "X-Mailer: a\r\r\nFrom: alerts@example.com\r\r\nX-Last: b\r\n\r\nbody";
    scene.client().await.deliver(FROM, &[TO], message).await.is("554 5.6.0");
    plain_client(&scene).await.deliver(FROM, &[TO], message).await.is("250 2.0.0");
    let body = String::from_utf8(scene.sink.wait_for(1, SOON).await[0].body.clone()).expect("text");
    let intended = message.replace("\r\r\n", "\r\n");
    assert!(body.ends_with(&format!("{intended}\r\n")), "{body:?}");
}

#[tokio::test]
async fn a_bare_line_feed_is_refused_with_tls_and_taken_without_or_where_a_listener_says_so() {
    let scene = Scene::with(
        |config| config.listeners[0].line_ends = LineEnds::Normalize,
        |rows| rows.keys[1].plain_listener = true,
    )
    .await;
    let two = format!("RCPT TO:<{TO}>\nRCPT TO:<injected@elsewhere.example>\r\n");
    let mut client = scene.client().await;
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250 2.1.0");
    client.send(&two).await;
    client.reply().await.is("500 5.5.2 a command ends in CR LF here");
    client.closed().await;
    scene.client().await.deliver(FROM, &[TO], &format!("{MAIL}\nx")).await.is("554 5.6.0");

    let mut lenient = Client::connect(scene.address("submission")).await;
    lenient.ask("EHLO x").await.is("250 ");
    lenient.ask("STARTTLS").await.is("220 2.0.0");
    let mut lenient = lenient.encrypt(&scene.ca_pem).await;
    lenient.ask("EHLO x").await.is("250 ");
    lenient.login(&username(1), PASSWORD).await.is("235 2.7.0");
    for mut client in [lenient, plain_client(&scene).await] {
        client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250 2.1.0");
        client.send(&two).await;
        client.reply().await.is("250 2.1.5");
        client.reply().await.is("250 2.1.5");
        client.ask("DATA").await.is("354");
        client.send(format!("{MAIL}\nx\r\n.\r\n")).await;
        client.reply().await.is("250 2.0.0");
    }
}

#[tokio::test]
async fn a_recipient_is_forwarded_octet_for_octet_or_refused() {
    let scene = patient().await;
    let mut client = scene.client().await;
    let taken = [
        ("postmaster", "postmaster@example.com"),
        ("PostMaster", "postmaster@example.com"),
        ("\"john doe\"@elsewhere.example", "\"john doe\"@elsewhere.example"),
        ("\"a\\\"b\"@elsewhere.example", "\"a\\\"b\"@elsewhere.example"),
        ("user..name@docomo.example", "user..name@docomo.example"),
        ("user.@docomo.example", "user.@docomo.example"),
        ("Some.Body@Elsewhere.EXAMPLE", "Some.Body@Elsewhere.EXAMPLE"),
        ("x@[192.0.2.1]", "x@[192.0.2.1]"),
        ("x@[IPv6:2001:db8::1]", "x@[IPv6:2001:db8::1]"),
        ("x@xn--bcher-kva.example", "x@xn--bcher-kva.example"),
    ];
    for (number, (named, forwarded)) in (1..).zip(taken) {
        client.deliver(FROM, &[named], MAIL).await.is("250 2.0.0");
        assert_eq!(scene.sink.wait_for(number, SOON).await.last().expect("a message").to, [forwarded]);
    }
    let refused = [
        ("nobody", "501 5.1.3"),
        ("a b@elsewhere.example", "501 5.1.3"),
        ("\"a>\"@elsewhere.example", "501 5.1.3"),
        ("\"a\0\"@elsewhere.example", "500 5.5.2"),
        ("\"a\rRCPT TO:<b@c.example>\"@elsewhere.example", "500 5.5.2"),
        ("x@elsewhere.example>RCPT TO:<b@c.example", "555 5.5.4"),
        ("x@[192.0.2.256]", "501 5.1.3"),
        ("x@\u{212a}.example", "553 5.6.7"),
        ("gr\u{fc}\u{df}e@elsewhere.example", "553 5.6.7"),
    ];
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250 2.1.0");
    for (named, reply) in refused {
        client.ask(&format!("RCPT TO:<{named}>")).await.is(reply);
    }
    client.ask("RSET").await.is("250");
    for (parameters, reply) in [
        ("SIZE=1234567890123456789012", "501 5.5.4"),
        ("SIZE=5 SIZE=5", "501 5.5.4"),
        ("SIZE=99999999999999999999", "552 5.3.4"),
    ] {
        client.ask(&format!("MAIL FROM:<{FROM}> {parameters}")).await.is(reply);
    }
    client.ask("MAIL FROM:<a@\u{212a}.example>").await.is("553 5.6.7");
    client.ask("MAIL FROM:<a@\u{212a}.example> SMTPUTF8").await.is("553 5.6.7");
    scene.until_usage([10, 10, 0, 0, 0]).await;
}

#[tokio::test]
async fn one_mailbox_in_several_spellings_is_one_credit() {
    let scene = patient().await;
    let mut client = scene.client().await;
    let same = ["x@elsewhere.example", "x@Elsewhere.EXAMPLE", "\"x\"@elsewhere.example"];
    client.deliver(FROM, &same, MAIL).await.is("250 2.0.0");
    assert_eq!(scene.sink.wait_for(1, SOON).await[0].to, ["x@elsewhere.example"]);
    scene.until_usage([1, 1, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_domain_is_the_same_in_unicode_and_in_a_labels() {
    for listed in ["b\u{fc}cher.example", "xn--bcher-kva.example"] {
        let scene = Scene::with(
            |_| {},
            |rows| {
                rows.policy.sender_domains = vec![MailDomain::parse(listed).expect("a domain")];
                let pattern = SenderPattern::parse(&format!("shop@{listed}")).expect("a pattern");
                rows.account.allowed_senders = Some(vec![pattern.clone()]);
                rows.keys[0].allowed_senders = vec![pattern];
            },
        )
        .await;
        let mut client = scene.client().await;
        let (unicode, a_labels) = ("shop@b\u{fc}cher.example", "shop@xn--bcher-kva.example");
        for (from, header) in [(unicode, a_labels), (a_labels, unicode), (unicode, unicode), (a_labels, a_labels)] {
            client.ask(&format!("MAIL FROM:<{from}> SMTPUTF8 BODY=8BITMIME")).await.is("250 2.1.0");
            client.deliver_rest(&[TO], &format!("From: {header}\r\n\r\nx")).await.is("250 2.0.0");
        }
        let messages = scene.sink.wait_for(4, SOON).await;
        assert_eq!((messages[0].from.as_str(), messages[1].from.as_str()), (unicode, a_labels));
        client.ask("MAIL FROM:<shop@b\u{fc}cher2.example> SMTPUTF8").await.is("250 2.1.0");
        client.ask(&format!("RCPT TO:<{TO}>")).await.is("550 5.7.1 this key may not send as shop@b?cher2.example");
    }
}

#[tokio::test]
async fn a_refused_sender_is_named_with_where_to_look_and_counted_by_reason() {
    let scene = Scene::with(
        |config| config.limits.errors = 100,
        |rows| {
            let pattern = |text| SenderPattern::parse(text).expect("a pattern");
            rows.account.allowed_senders = Some(vec![pattern("alerts@example.com"), pattern("sales@example.com")]);
            rows.keys[1].allowed_senders = vec![pattern("alerts@example.com")];
        },
    )
    .await;
    let mut client = scene.client_of(2).await;
    let account = "of SubAccount team/account";
    let cases = [
        ("x@evil.example", format!("its domain is not in status.senderDomains {account}")),
        ("ceo@example.com", format!("it is not in spec.allowedSenders {account}")),
        ("sales@example.com", "it is not in spec.allowedSenders of SubAccountApiKey team/key-2".to_owned()),
    ];
    for (from, look) in &cases {
        client.ask(&format!("MAIL FROM:<{from}>")).await.is("250 2.1.0");
        for _ in 0..2 {
            let reply = format!("550 5.7.1 this key may not send as {from} (envelope's sender): {look}");
            client.ask(&format!("RCPT TO:<{TO}>")).await.is(&reply);
        }
        client.ask("RSET").await.is("250");
        let reply = format!("550 5.7.1 this key may not send as {from} (From header): {look}");
        client.deliver(FROM, &[TO], &format!("From: {from}\r\n\r\nx")).await.is(&reply);
    }
    // A name in quotes is one to programs that know quotes; others divide the list at its comma.
    let listed = format!("From: \"ceo@bank.example, Bob\" <{FROM}>\r\n\r\nx");
    let named = "550 5.7.1 this key may not send as ceo@bank.example (From header)";
    client.deliver(FROM, &[TO], &listed).await.is(named);
    client.deliver(FROM, &[TO], "Subject: x\r\n\r\nx").await.is("550 5.7.1 a message needs exactly one From");
    client.deliver(FROM, &[TO], "From: (x\r\n\r\nx").await.is("550 5.7.1 the addresses in the From header");
    let metrics = scene.metrics();
    for (reason, count) in [("policy", 3), ("account", 2), ("key", 2), ("from_count", 1), ("unreadable", 1)] {
        let line = format!("franking_relay_senders_refused_total{{policy=\"plan\",reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}
