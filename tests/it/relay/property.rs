//! Whatever is sent: replies count commands, and a body arrives byte for byte after its normalisation, or is refused.
//!
//! Proptest makes conversations; the expected replies follow from what was said, without asking the code under test.
//! They are played against the pure session, in pieces of any length, and on the wire against the real relay.

use franking::runtime::relay_config::{LineEnds, ListenerMode};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::checks::body::plain_rules;
use super::checks::dialogue::{MESSAGE_MAX, PASSWORD as PURE_PASSWORD, holds, play};
use super::scene::{FROM, PASSWORD, SOON, Scene, username};
use crate::support::client::{Client, plain};

/// Nothing is missing in it, so the relay adds Received and nothing else.
const HEADER: &str =
    "From: alerts@example.com\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\n";
/// The relay on the wire has its connection's cost; the pure session has none.
const CASES_ON_THE_WIRE: u32 = 40;

/// What a client says next.
#[derive(Clone, Debug)]
enum Part {
    /// A line outside of a transaction, and the code that answers it.
    Line(Vec<u8>, u16),
    Message(SentMessage),
}

/// MAIL, RCPTs, DATA, and where DATA was accepted a body.
#[derive(Clone, Debug)]
struct SentMessage {
    /// Whether each recipient is an address.
    recipients: Vec<bool>,
    content: Vec<u8>,
}

impl SentMessage {
    fn has_body(&self) -> bool {
        self.recipients.contains(&true)
    }

    /// Everything up to the final dot, dots stuffed as a client must.
    fn body(&self) -> Vec<u8> {
        let mut wire = HEADER.as_bytes().to_vec();
        for octet in &self.content {
            if *octet == b'.' && wire.ends_with(b"\r\n") {
                wire.push(b'.');
            }
            wire.push(*octet);
        }
        wire.extend(b"\r\n.\r\n");
        wire
    }

    /// What must arrive; `None` = it is refused.
    fn arrives(&self) -> Option<Vec<u8>> {
        let wire = self.body();
        let read = plain_rules(&wire, usize::MAX, LineEnds::Normalize).expect("an end");
        assert_eq!(read.length, wire.len(), "the stuffing is wrong");
        read.body.ok()
    }

    fn said(&self, wire: &mut Vec<u8>, codes: &mut Vec<u16>) {
        wire.extend(format!("MAIL FROM:<{FROM}>\r\n").bytes());
        codes.push(250);
        for (index, good) in self.recipients.iter().enumerate() {
            let recipient = if *good { format!("r{index}@elsewhere.example") } else { "no address".to_owned() };
            wire.extend(format!("RCPT TO:<{recipient}>\r\n").bytes());
            codes.push(if *good { 250 } else { 501 });
        }
        wire.extend(b"DATA\r\n");
        if self.has_body() {
            wire.extend(self.body());
            codes.extend([354, if self.arrives().is_some() { 250 } else { 554 }]);
        } else {
            wire.extend(b"RSET\r\n");
            codes.extend([554, 250]);
        }
    }
}

fn line() -> impl Strategy<Value = Part> {
    let known = prop::sample::select(vec![
        ("NOOP", 250),
        ("noop with words", 250),
        ("RSET", 250),
        ("EHLO again", 250),
        ("HELO", 250),
        ("HELP", 214),
        ("VRFY somebody", 252),
        ("EXPN everybody", 502),
        ("BDAT 3 LAST", 502),
        ("AUTH PLAIN", 503),
        ("STARTTLS", 503),
        ("RCPT TO:<a@b.example>", 503),
        ("DATA", 503),
        ("MAIL FROM:<no bracket", 501),
        ("MAIL FROM:<a@b.example> RET=FULL", 555),
        ("", 500),
    ]);
    let known = known.prop_map(|(line, code)| Part::Line(format!("{line}\r\n").into_bytes(), code));
    // No verb starts with X, so these are refused whatever follows.
    let rubbish = prop::collection::vec(any::<u8>().prop_filter("a line", |octet| *octet != b'\n'), 0..40);
    let rubbish = rubbish.prop_map(|octets| Part::Line([b"X", octets.as_slice(), b"\n"].concat(), 500));
    let overlong =
        (12_288_usize..40_000).prop_map(|length| Part::Line([vec![b'N'; length], b"\r\n".to_vec()].concat(), 500));
    prop_oneof![6 => known, 3 => rubbish, 1 => overlong]
}

fn message() -> impl Strategy<Value = Part> {
    // What has a meaning in a body, more often than all else.
    let octet = prop_oneof![
        4 => prop::sample::select(b"\r\n.\r\n..ab ".to_vec()),
        2 => any::<u8>().prop_filter("NUL is refused", |octet| *octet != 0),
    ];
    let content = prop::collection::vec(octet, 0..300);
    let nul = prop::option::weighted(0.1, any::<prop::sample::Index>());
    let recipients = prop::collection::vec(prop::bool::weighted(0.8), 0..4);
    (recipients, content, nul).prop_map(|(recipients, mut content, nul)| {
        if let Some(place) = nul.filter(|_| !content.is_empty()) {
            let place = place.index(content.len());
            content[place] = 0;
        }
        Part::Message(SentMessage { recipients, content })
    })
}

fn conversation() -> impl Strategy<Value = Vec<Part>> {
    prop::collection::vec(prop_oneof![line(), message()], 0..12)
}

/// A conversation as octets, with the codes that answer it and what must arrive.
struct Said {
    wire: Vec<u8>,
    codes: Vec<u16>,
    bodies: Vec<(usize, Vec<u8>)>,
}

fn said(parts: &[Part], password: &str) -> Said {
    let login = plain(&username(1), password);
    let mut said = Said {
        wire: format!("EHLO x\r\nAUTH PLAIN {login}\r\n").into_bytes(),
        codes: vec![220, 250, 235],
        bodies: vec![],
    };
    for part in parts {
        match part {
            Part::Line(line, code) => {
                said.wire.extend(line);
                said.codes.push(*code);
            }
            Part::Message(message) => {
                message.said(&mut said.wire, &mut said.codes);
                let recipients = message.recipients.iter().filter(|good| **good).count();
                said.bodies.extend(message.arrives().filter(|_| message.has_body()).map(|body| (recipients, body)));
            }
        }
    }
    said.wire.extend(b"QUIT\r\n");
    said.codes.push(221);
    said
}

#[test]
fn in_the_pure_session_replies_count_commands_and_bodies_arrive_or_are_refused() {
    let conversations = (conversation(), 1_usize..2000);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let result = runner.run(&conversations, |(parts, piece)| {
        let said = said(&parts, PURE_PASSWORD);
        let played = play(ListenerMode::Implicit, &said.wire, piece);
        holds(ListenerMode::Implicit, &played);
        let code = |reply: &Vec<u8>| std::str::from_utf8(&reply[..3]).expect("text").parse::<u16>().expect("a code");
        prop_assert_eq!(played.replies.iter().map(code).collect::<Vec<_>>(), said.codes);
        let arrived: Vec<_> = played.messages.into_iter().map(|(t, body)| (t.recipients.len(), body)).collect();
        prop_assert!(said.bodies.iter().all(|(_, body)| body.len() <= MESSAGE_MAX));
        prop_assert_eq!(arrived, said.bodies);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn on_the_wire_replies_count_commands_and_bodies_arrive_or_are_refused() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let patient = |config: &mut franking::runtime::relay_config::RelayConfig| {
        config.limits.errors = 1000;
        // Bare line ends too are to come through to the body's reader.
        config.listeners[1].line_ends = LineEnds::Normalize;
    };
    let scene = runtime.block_on(Scene::with(patient, |_| {}));
    let conversations = (conversation(), 1_usize..5000);
    let config = Config { cases: CASES_ON_THE_WIRE, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&conversations, |(parts, piece)| {
        runtime.block_on(converses(&scene, &said(&parts, PASSWORD), piece));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(scene.sink.count() >= u64::from(CASES_ON_THE_WIRE), "hardly anything was sent");
}

async fn converses(scene: &Scene, said: &Said, piece: usize) {
    let before = scene.sink.count();
    let mut client = Client::open(scene.address("implicit")).await.encrypt(&scene.ca_pem).await;
    for piece in said.wire.chunks(piece) {
        client.send(piece).await;
    }
    let mut heard = Vec::new();
    for _ in &said.codes {
        heard.push(client.reply().await.code);
    }
    assert_eq!(heard, said.codes);
    client.closed().await;
    let all = scene.sink.wait_for(before + said.bodies.len() as u64, SOON).await;
    let arrived = &all[usize::try_from(before).expect("a count")..];
    assert_eq!(arrived.len(), said.bodies.len());
    for (message, (recipients, body)) in arrived.iter().zip(&said.bodies) {
        assert_eq!(message.to.len(), *recipients);
        let added = message.body.strip_suffix(body.as_slice());
        let added = added.unwrap_or_else(|| panic!("{} became {}", body.escape_ascii(), message.body.escape_ascii()));
        assert!(added.starts_with(b"Received: ") && added.iter().filter(|octet| **octet == b'\n').count() == 2);
    }
}
