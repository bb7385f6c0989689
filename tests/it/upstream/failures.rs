//! What an upstream can do wrong, and what the caller is told of it.

use super::*;
use crate::support::sink::{Act, At};
use franking::upstream::{Cause, Stage};

/// How one misbehaviour must be told.
type Told = fn(&Forwarded) -> bool;

#[tokio::test]
async fn each_refusal_is_told_as_what_it_is() {
    let ours: Told = |said| matches!(said, Forwarded::RefusesUs { .. });
    let cases: [(At, &str, Told); 14] = [
        (At::Connect, "554 5.7.1 no service for you", ours),
        (At::Connect, "421 4.3.2 too busy", ours),
        (At::Ehlo, "550 go away", ours),
        (At::Mail, "550 5.7.1 relaying denied", ours),
        (At::Mail, "530 5.7.0 log in", ours),
        (At::Mail, "421 4.3.2 closing", ours),
        (At::Final, "454 4.7.0 Throttling failure: Daily message quota exceeded.", ours),
        (At::Mail, "451 4.3.0 try later", |said| {
            matches!(said, Forwarded::Refused { code: 451, stage: Stage::Mail, .. })
        }),
        (At::Mail, "552 5.3.4 too big", |said| {
            matches!(said, Forwarded::Refused { code: 552, stage: Stage::Mail, .. })
        }),
        (At::Recipient(1), "550 5.1.1 no such user", |said| {
            matches!(said, Forwarded::Refused { code: 550, stage: Stage::Recipient, recipient: Some(_), .. })
        }),
        (At::Recipient(1), "450 4.2.1 busy", |said| {
            matches!(said, Forwarded::Refused { code: 450, stage: Stage::Recipient, recipient: Some(_), .. })
        }),
        (At::Data, "451 4.3.1 disk full", |said| {
            matches!(said, Forwarded::Refused { code: 451, stage: Stage::Data, .. })
        }),
        (At::Final, "554 5.7.1 spam", |said| {
            matches!(said, Forwarded::Refused { code: 554, stage: Stage::Message, .. })
        }),
        (At::Final, "451 4.7.1 greylisted", |said| {
            matches!(said, Forwarded::Refused { code: 451, stage: Stage::Message, .. })
        }),
    ];
    for pipelining in [true, false] {
        let scene = Scene::new(SinkOptions { pipelining, ..Default::default() }).await;
        for (at, reply, told) in cases {
            // A parked connection would skip the greeting, and retry a 421.
            scene.upstreams.drain().await;
            scene.sink.once(at, Act::Reply(reply));
            let said = scene.forward(hello()).await;
            assert!(told(&said), "{reply} at {at:?}, pipelining {pipelining}: {said:?}");
            scene.sink.behave();
            assert_relayed(&scene.forward(hello()).await);
        }
        assert_eq!(scene.sink.count(), cases.len() as u64, "only the good ones arrived");
    }
}

#[tokio::test]
async fn the_text_of_a_refusal_is_passed_on_without_its_codes() {
    let scene = Scene::new(SinkOptions::default()).await;
    scene.sink.once(At::Final, Act::Reply("554-5.7.1 spam\r\n554 5.7.1 of the worst kind"));
    let said = scene.forward(hello()).await;
    let Forwarded::Refused { code: 554, enhanced: Some(enhanced), text, .. } = &said else { panic!("{said:?}") };
    assert_eq!((enhanced.as_str(), text.as_str()), ("5.7.1", "spam of the worst kind"));
}

#[tokio::test]
async fn one_refused_recipient_of_three_stops_the_message_and_is_named() {
    for pipelining in [true, false] {
        let options = SinkOptions { pipelining, ..Default::default() };
        let scene = Scene::with(options, |settings| settings.connections = 1).await;
        let three = to(&["one@example.net", "two@example.net", "three@example.net"]);
        scene.sink.once(At::Recipient(1), Act::Reply("450 4.2.1 busy"));
        scene.sink.once(At::Recipient(2), Act::Reply("553 5.1.1 no such user"));
        let said = scene.forward(three.clone()).await;
        let named = |whom| matches!(&said, Forwarded::Refused { code: 550, recipient: Some(named), .. } if *named == address(whom));
        assert!(named("two@example.net"), "a 5xx counts more than a 4xx: {said:?}");
        scene.sink.once(At::Recipient(3), Act::Reply("452 4.5.3 too many"));
        let said = scene.forward(three.clone()).await;
        assert!(
            matches!(&said, Forwarded::Refused { code: 451, recipient: Some(named), .. } if *named == address("three@example.net")),
            "{said:?}"
        );
        assert_relayed(&scene.forward(three).await);
        assert_eq!(scene.sink.count(), 1, "nothing was sent to the others");
        assert_eq!(scene.sink.connections(), 1, "RSET and reuse after a refusal");
    }
}

#[tokio::test]
async fn a_354_after_a_refused_recipient_sends_nobody_an_empty_message() {
    let scene = Scene::new(SinkOptions::default()).await;
    scene.sink.once(At::Recipient(1), Act::Reply("550 5.1.1 no such user"));
    scene.sink.once(At::Data, Act::Reply("354 go on anyway"));
    let said = scene.forward(hello()).await;
    assert!(matches!(said, Forwarded::Refused { code: 550, stage: Stage::Recipient, .. }), "{said:?}");
    scene.sink.wait_for_open(0, SOON).await;
    assert_eq!((scene.sink.count(), scene.sink.quits()), (0, 0), "hung up without a dot or another word");
}

#[tokio::test]
async fn dying_before_the_final_dot_is_not_offered() {
    for at in [At::Connect, At::Ehlo, At::Mail, At::Recipient(1), At::Data, At::Body(1_000_000)] {
        let scene = Scene::new(SinkOptions::default()).await;
        scene.sink.always(at, Act::Drop);
        let said = scene.forward(message(b"0123456789abcdef\r\n".repeat(2_000_000))).await;
        assert!(matches!(said, Forwarded::NotOffered { cause: Cause::Closed | Cause::Protocol }), "{at:?}: {said:?}");
        scene.sink.behave();
        assert_relayed(&scene.forward(hello()).await);
        assert_eq!(scene.sink.count(), 1);
    }
}

#[tokio::test]
async fn dying_after_the_final_dot_is_unknown() {
    let scene = Scene::new(SinkOptions::default()).await;
    scene.sink.once(At::Final, Act::Drop);
    let said = scene.forward(hello()).await;
    assert!(matches!(said, Forwarded::Unknown { cause: Cause::Closed }), "{said:?}");
    assert_eq!(scene.sink.count(), 1, "it had it complete");
    assert_relayed(&scene.forward(hello()).await);
}

#[tokio::test]
async fn a_nonsense_reply_to_the_final_dot_is_not_a_yes() {
    let scene = Scene::new(SinkOptions::default()).await;
    for nonsense in ["151 will forward", "354 go on", "yes", "2", "2500 octets"] {
        scene.sink.once(At::Final, Act::ReplyAndDrop(nonsense));
        let said = scene.forward(hello()).await;
        assert!(matches!(said, Forwarded::Unknown { .. }), "{nonsense}: {said:?}");
    }
}

#[tokio::test]
async fn replies_that_lettre_does_not_know_are_understood() {
    let scene = Scene::new(SinkOptions::default()).await;
    for odd in ["250", "250-2.0.0 a\r\n250", "250 \u{fc}ml\u{e4}ut"] {
        scene.sink.once(At::Final, Act::Reply(odd));
        assert_relayed(&scene.forward(hello()).await);
    }
    assert_eq!(scene.sink.connections(), 1);
}

/// RFC 5321 §4.2: a client acts on the first digit.
#[tokio::test]
async fn a_reply_is_read_by_its_first_digit_whatever_its_line_is_like() {
    let long: &[u8] = format!("250 2.0.0 {}\r\n", "x".repeat(1_012)).leak().as_bytes();
    assert_eq!(long.len(), 1_024);
    let yes = [
        (At::Final, b"200 ok\r\n" as &[u8]),
        (At::Final, b"251 will forward\r\n"),
        (At::Final, b"252 cannot say\r\n"),
        (At::Final, b"299 2.0.0 whatever\r\n"),
        (At::Final, b"250-2.0.0 bare\n250 2.0.0 line feeds\n"),
        (At::Final, long),
        (At::Data, b"355 go on\r\n"),
        (At::Data, b"399 go on\n"),
        (At::Mail, b"299 whatever\r\n"),
        (At::Mail, long),
        (At::Recipient(1), b"251 not local\n"),
    ];
    for pipelining in [true, false] {
        let scene = Scene::new(SinkOptions { pipelining, ..Default::default() }).await;
        for (sent, (at, reply)) in (1..).zip(&yes) {
            scene.sink.once(*at, Act::Answer(reply));
            let said = scene.forward(hello()).await;
            assert!(matches!(said, Forwarded::Relayed { .. }), "{} at {at:?}: {said:?}", reply.escape_ascii());
            assert_eq!(scene.sink.count(), sent, "{} at {at:?}", reply.escape_ascii());
        }
        assert_eq!(scene.sink.connections(), 1, "each reply was understood, so the connection is reused");
        scene.sink.once(At::Final, Act::Reply("571 5.7.1 no"));
        let said = scene.forward(hello()).await;
        assert!(matches!(&said, Forwarded::Refused { code: 550, .. }), "{said:?}");
    }
}

#[tokio::test]
async fn a_stall_before_the_final_dot_ends_at_the_deadline_and_nothing_is_sent_later() {
    for at in [At::Connect, At::Ehlo, At::Mail, At::Recipient(1), At::Data] {
        let scene = Scene::new(SinkOptions::default()).await;
        scene.sink.always(at, Act::Stall);
        let said = scene.forward_within(hello(), Duration::from_millis(200)).await;
        assert!(matches!(said, Forwarded::NotOffered { cause: Cause::Timeout }), "{at:?}: {said:?}");
        scene.sink.behave();
        scene.sink.release();
        scene.sink.wait_for_open(0, SOON).await;
        assert_eq!(scene.sink.count(), 0, "the upstream woke up and was not told more");
    }
}

#[tokio::test]
async fn a_stall_after_the_final_dot_is_open_and_its_outcome_comes_later() {
    let late: [(Act, Told); 3] = [
        (Act::Stall, |said| matches!(said, Forwarded::Relayed { .. })),
        (Act::StallThen(Box::new(Act::Drop)), |said| matches!(said, Forwarded::Unknown { cause: Cause::Closed })),
        (Act::StallThen(Box::new(Act::Reply("554 5.7.1 spam"))), |said| {
            matches!(said, Forwarded::Refused { code: 554, .. })
        }),
    ];
    for (act, told) in late {
        let scene = Scene::new(SinkOptions::default()).await;
        scene.sink.once(At::Final, act);
        let said = scene.forward_within(hello(), Duration::from_millis(300)).await;
        let Forwarded::Open { cause: Cause::Timeout, outcome } = said else { panic!("{said:?}") };
        scene.sink.release();
        let said = outcome.await.expect("an outcome");
        assert!(told(&said), "{said:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_interrupts_a_body_is_heard_and_the_dot_is_held_back() {
    let scene = Scene::new(SinkOptions::default()).await;
    scene.sink.once(At::Body(100_000), Act::Reply("552 5.3.4 that is too much"));
    let said = scene.forward(message(b"0123456789abcdef\r\n".repeat(2_000_000))).await;
    assert!(matches!(said, Forwarded::Refused { code: 552, .. }), "{said:?}");
    assert_eq!(scene.sink.count(), 0);
}

#[tokio::test]
async fn a_message_whose_caller_went_away_is_finished_and_its_connection_is_clean() {
    let scene = Scene::with(SinkOptions::default(), |settings| settings.connections = 1).await;
    scene.sink.once(At::Final, Act::Stall);
    {
        let gone = scene.forward(hello());
        tokio::select! {
            said = gone => panic!("{said:?}"),
            () = scene.sink.wait_for_stalled(1, SOON) => {}
        }
    }
    scene.sink.once(At::Final, Act::Reply("550 5.7.1 not this one"));
    scene.sink.release();
    // The next message hears its own reply, not the one that the first left behind.
    let said = scene.forward(to(&["two@example.net"])).await;
    let arrived = scene.sink.wait_for(1, SOON).await;
    assert!(matches!(said, Forwarded::Refused { code: 550, .. }), "{said:?}");
    assert_eq!(arrived.len(), 1);
    assert_eq!(arrived[0].to, ["one@example.net"]);
    assert_eq!(scene.sink.connections(), 1);
}
