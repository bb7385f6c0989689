//! Connections: how many, how long, and when one must not be used again.

use super::*;
use crate::support::sink::{Act, At};
use franking::upstream::Cause;

#[tokio::test]
async fn one_connection_serves_one_message_after_another() {
    let scene = Scene::new(SinkOptions::default()).await;
    for _ in 0..20 {
        assert_relayed(&scene.forward(hello()).await);
    }
    assert_eq!(scene.sink.connections(), 1);
}

#[tokio::test]
async fn never_more_connections_than_allowed_and_who_waits_is_served() {
    let scene = Scene::with(SinkOptions::default(), |settings| settings.connections = 3).await;
    scene.sink.always(At::Final, Act::Delay(Duration::from_millis(5)));
    let all = futures::future::join_all((0..30).map(|_| scene.forward(hello()))).await;
    all.iter().for_each(assert_relayed);
    assert!(scene.sink.connections() <= 3, "{} connections", scene.sink.connections());
    assert!(
        scene.metrics().contains(&format!("franking_upstream_connections{{policy=\"{}\"}} 3", scene.target.policy))
    );
}

#[tokio::test]
async fn a_full_pool_is_busy_and_costs_nothing() {
    let edit = |settings: &mut UpstreamSettings| (settings.connections, settings.queue) = (1, 1);
    let scene = Scene::with(SinkOptions::default(), edit).await;
    scene.sink.once(At::Mail, Act::Stall);
    let first = scene.forward(hello());
    let second = async {
        scene.sink.wait_for_stalled(1, SOON).await;
        let waits = scene.forward_within(hello(), Duration::from_millis(200));
        let (waits, refused) = tokio::join!(biased; waits, scene.forward(hello()));
        assert!(matches!(waits, Forwarded::NotOffered { cause: Cause::Busy }), "{waits:?}");
        assert!(matches!(refused, Forwarded::NotOffered { cause: Cause::Busy }), "{refused:?}");
        scene.sink.release();
    };
    let (first, ()) = tokio::join!(first, second);
    assert_relayed(&first);
    assert_eq!(scene.sink.count(), 1);
}

#[tokio::test]
async fn a_parked_connection_that_the_upstream_closed_is_replaced_in_silence() {
    let scene = Scene::new(SinkOptions::default()).await;
    assert_relayed(&scene.forward(hello()).await);
    // It takes the next command and hangs up: as an idle limit does when the two cross on the wire.
    scene.sink.once(At::Mail, Act::Drop);
    assert_relayed(&scene.forward(hello()).await);
    scene.sink.once(At::Mail, Act::ReplyAndDrop("421 4.4.2 idle too long"));
    assert_relayed(&scene.forward(hello()).await);
    assert_eq!(scene.sink.connections(), 3);
    assert_eq!(scene.sink.count(), 3);
}

#[tokio::test]
async fn a_reply_too_many_is_not_taken_for_the_next_messages() {
    let scene = Scene::new(SinkOptions::default()).await;
    scene.sink.once(At::Final, Act::Inject(b"250 2.0.0 and another one\r\n"));
    assert_relayed(&scene.forward(hello()).await);
    scene.sink.once(At::Final, Act::Reply("554 5.7.1 no"));
    let said = scene.forward(hello()).await;
    assert!(matches!(said, Forwarded::Refused { code: 554, .. }), "{said:?}");
    assert_eq!(scene.sink.connections(), 2);
}

#[tokio::test]
async fn a_250_that_came_before_the_message_does_not_accept_it() {
    let scene = Scene::new(SinkOptions::default()).await;
    for recipients in [&["one@example.net"][..], &["one@example.net", "two@example.net"]] {
        scene.sink.once(At::Data, Act::Inject(b"250 2.0.0 queued already\r\n"));
        let said = scene.forward(to(recipients)).await;
        assert!(matches!(said, Forwarded::NotOffered { cause: Cause::Protocol }), "{said:?}");
    }
    assert_eq!(scene.sink.count(), 0);
    assert_relayed(&scene.forward(hello()).await);
}

#[tokio::test]
async fn connections_are_retired_by_uses_and_by_idleness() {
    let scene = Scene::with(SinkOptions::default(), |settings| settings.max_uses = 2).await;
    for _ in 0..4 {
        assert_relayed(&scene.forward(hello()).await);
    }
    scene.sink.wait_for_open(0, SOON).await;
    assert_eq!((scene.sink.connections(), scene.sink.quits()), (2, 2));
    let scene = Scene::with(SinkOptions::default(), |settings| settings.idle = Duration::ZERO).await;
    for _ in 0..2 {
        assert_relayed(&scene.forward(hello()).await);
    }
    assert_eq!(scene.sink.connections(), 2);
}

#[tokio::test]
async fn an_idle_pool_quits_its_connections_and_then_goes_with_its_figures() {
    let edit = |settings: &mut UpstreamSettings| {
        settings.tidy_every = Duration::from_millis(10);
        settings.idle = Duration::from_millis(50);
        settings.forget_after = Duration::from_millis(200);
    };
    let scene = Scene::with(SinkOptions::default(), edit).await;
    assert_relayed(&scene.forward(hello()).await);
    let policy = scene.target.policy.to_string();
    assert!(scene.metrics().contains(&policy));
    scene.sink.wait_for_open(0, SOON).await;
    assert_eq!(scene.sink.quits(), 1);
    let deadline = Instant::now() + SOON;
    while scene.metrics().contains(&policy) {
        assert!(Instant::now() < deadline, "the figures of a forgotten policy stay: {}", scene.metrics());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_relayed(&scene.forward(hello()).await);
}

#[tokio::test]
async fn draining_says_quit_on_every_parked_connection() {
    let scene = Scene::new(SinkOptions::default()).await;
    assert_relayed(&scene.forward(hello()).await);
    scene.upstreams.drain().await;
    scene.sink.wait_for_open(0, SOON).await;
    assert_eq!(scene.sink.quits(), 1);
}

#[tokio::test]
async fn a_policy_that_changes_its_upstream_uses_the_new_one_at_once() {
    let mut scene = Scene::new(SinkOptions::default()).await;
    assert_relayed(&scene.forward(hello()).await);
    let other = Sink::start(SinkOptions::default()).await;
    scene.target.entry.port = other.address().port();
    assert_relayed(&scene.forward(hello()).await);
    assert_eq!((scene.sink.count(), other.count()), (1, 1));
    scene.sink.wait_for_open(0, SOON).await;
}

#[tokio::test]
async fn an_upstream_that_keeps_failing_is_not_asked_until_a_probe_is_good() {
    let scene = Scene::new(SinkOptions::default()).await;
    scene.sink.always(At::Mail, Act::Reply("550 5.7.1 relaying denied"));
    let mut asked = 0;
    loop {
        match scene.forward(hello()).await {
            Forwarded::RefusesUs { .. } => asked += 1,
            Forwarded::NotOffered { cause: Cause::RefusedBefore } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(asked, 5);
    let open = format!("franking_upstream_breaker{{policy=\"{}\"}} 2", scene.target.policy);
    assert!(scene.metrics().contains(&open), "{}", scene.metrics());
    scene.sink.behave();
    let deadline = Instant::now() + SOON;
    while !matches!(scene.forward(hello()).await, Forwarded::Relayed { .. }) {
        assert!(Instant::now() < deadline, "the breaker never let a probe through");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_relayed(&scene.forward(hello()).await);
}

#[tokio::test]
async fn one_probe_at_a_time_asks_an_upstream_that_failed() {
    let scene = Scene::new(SinkOptions::default()).await;
    scene.sink.always(At::Mail, Act::Reply("550 5.7.1 relaying denied"));
    while matches!(scene.forward(hello()).await, Forwarded::RefusesUs { .. }) {}
    scene.sink.behave();
    scene.sink.once(At::Mail, Act::Stall);
    let others = async {
        scene.sink.wait_for_stalled(1, SOON).await;
        let asked = scene.sink.connections();
        for _ in 0..5 {
            let said = scene.forward(hello()).await;
            assert!(matches!(said, Forwarded::NotOffered { cause: Cause::RefusedBefore }), "{said:?}");
        }
        assert_eq!(scene.sink.connections(), asked, "more than the probe reached the upstream");
        scene.sink.release();
    };
    let deadline = Instant::now() + SOON;
    let probe = async {
        loop {
            match scene.forward(hello()).await {
                Forwarded::NotOffered { cause: Cause::RefusedBefore } => assert!(Instant::now() < deadline, "no probe"),
                said => break said,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (probe, ()) = tokio::join!(probe, others);
    assert_relayed(&probe);
}

#[tokio::test]
async fn the_same_refusal_for_three_accounts_of_two_namespaces_is_a_refusal_of_us() {
    let scene = Scene::new(SinkOptions::default()).await;
    let from = |account, namespace: &str| Message { tenant: tenant(account, namespace), ..hello() };
    assert_relayed(&scene.forward(from(3, "two")).await);
    scene.sink.always(At::Final, Act::Reply("554 5.7.1 your IP is on a list"));
    for account in [1, 1, 2, 4] {
        let said = scene.forward(from(account, "one")).await;
        assert!(matches!(said, Forwarded::Refused { code: 554, .. }), "{said:?}");
    }
    let said = scene.forward(from(3, "two")).await;
    assert!(matches!(said, Forwarded::RefusesUs { .. }), "{said:?}");
}

/// An upstream that takes no more connections works on those that it has.
#[tokio::test]
async fn an_upstream_with_enough_connections_is_not_one_that_fails() {
    let scene = Scene::new(SinkOptions::default()).await;
    scene.sink.once(At::Mail, Act::Stall);
    let busy = scene.forward(hello());
    let others = async {
        scene.sink.wait_for_stalled(1, SOON).await;
        scene.sink.always(At::Connect, Act::ReplyAndDrop("421 4.7.0 too many connections from you"));
        for _ in 0..10 {
            let said = scene.forward(hello()).await;
            assert!(matches!(said, Forwarded::RefusesUs { .. }), "{said:?}");
        }
        scene.sink.behave();
        let said = scene.forward(hello()).await;
        assert_relayed(&said);
        scene.sink.release();
    };
    let (busy, ()) = tokio::join!(busy, others);
    assert_relayed(&busy);
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_unreachable() {
    let mut scene = Scene::new(SinkOptions::default()).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    scene.target.entry.port = free.port();
    let said = scene.forward(hello()).await;
    assert!(matches!(said, Forwarded::NotOffered { cause: Cause::Unreachable }), "{said:?}");
}
