//! A body arrives as it was handed over, to the octet.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

fn line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        Just(b".".to_vec()),
        Just(b"..".to_vec()),
        Just(b".\t.".to_vec()),
        Just(b"MAIL FROM:<x@y.z>".to_vec()),
        prop::collection::vec(any::<u8>().prop_filter("a line has no CR or LF", |b| !b"\r\n".contains(b)), 0..80),
        // Around lettre's chunk and past every line limit.
        (30_000..70_000usize).prop_map(|length| vec![b'.'; length]),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(line(), 0..12)
        .prop_map(|lines| lines.iter().flat_map(|line| [line, &b"\r\n"[..]].concat()).collect())
}

#[test]
fn every_body_arrives_to_the_octet() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for tls in [SinkTls::None, SinkTls::Implicit] {
        let scene = runtime.block_on(Scene::new(SinkOptions { tls, ..Default::default() }));
        let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
        let result = runner.run(&body(), |body| {
            let said = runtime.block_on(scene.forward(message(body.clone())));
            prop_assert!(matches!(said, Forwarded::Relayed { .. }), "{:?}", said);
            let arrived = scene.sink.messages().pop().expect("a message").body;
            prop_assert!(arrived == body, "{} octets became {}", body.len(), arrived.len());
            Ok(())
        });
        result.expect("a byte-exact body");
    }
}

#[tokio::test]
async fn bodies_at_the_edges_arrive_to_the_octet() {
    let scene = Scene::new(SinkOptions::default()).await;
    let edges: [&[u8]; 7] = [b"", b"\r\n", b"\r\n\r\n", b".\r\n", b"..\r\n.\r\n", b"a\r\n.\r\n\r\n", b"\r\n.\r\n.\r\n"];
    for edge in edges {
        assert_relayed(&scene.forward(message(edge)).await);
        assert_eq!(scene.sink.messages().pop().expect("a message").body, edge);
    }
    let large: Vec<u8> = b".0123456789abcdef\r\n".repeat(1_000_000);
    assert_relayed(&scene.forward(message(large.clone())).await);
    assert!(scene.sink.messages().pop().expect("a message").body == large);
    assert_eq!(scene.sink.connections(), 1, "each ended at a boundary");
}

#[tokio::test]
async fn a_body_with_bare_line_ends_is_refused_before_it_is_sent() {
    let scene = Scene::new(SinkOptions::default()).await;
    for bad in ["a\n.\r\nQUIT\r\n", "a\n", "a\r\r\n", "\n", "a\rb\r\n", "no end", "a\r"] {
        let said = scene.forward(message(bad)).await;
        assert!(matches!(said, Forwarded::Refused { code: 554, .. }), "{bad:?}: {said:?}");
    }
    assert_eq!(scene.sink.connections(), 0);
}
