//! TLS and AUTH towards an upstream.

use super::*;
use crate::support::sink::{Act, At};
use franking::upstream::Cause;

fn with_login(tls: SinkTls, mechanisms: &'static str) -> SinkOptions {
    SinkOptions { tls, login: Some(("plan".into(), "s3cret".into())), mechanisms, ..Default::default() }
}

#[tokio::test]
async fn mail_leaves_encrypted_and_logged_in() {
    for tls in [SinkTls::Implicit, SinkTls::StartTls] {
        for mechanisms in ["PLAIN LOGIN", "LOGIN", "CRAM-MD5 PLAIN"] {
            let scene = Scene::new(with_login(tls, mechanisms)).await;
            assert_relayed(&scene.forward(hello()).await);
            let received = scene.sink.messages();
            assert!(received[0].tls);
            assert_eq!(received[0].auth.as_deref(), Some("plan"));
            assert_eq!(received[0].parameters, "SIZE=25", "the EHLO inside TLS counts");
        }
    }
}

#[tokio::test]
async fn a_refused_login_is_our_fault() {
    let mut scene = Scene::new(with_login(SinkTls::Implicit, "PLAIN")).await;
    scene.target.secret.as_mut().expect("a secret").login = Some(("plan".into(), "wrong".into()));
    let said = scene.forward(hello()).await;
    assert!(matches!(&said, Forwarded::RefusesUs { text } if text == "535 5.7.8 wrong"), "{said:?}");
    scene.target.secret.as_mut().expect("a secret").login = None;
    let said = scene.forward(hello()).await;
    assert!(matches!(&said, Forwarded::RefusesUs { text } if text.starts_with("530")), "{said:?}");
    let scene = Scene::new(with_login(SinkTls::Implicit, "CRAM-MD5")).await;
    let said = scene.forward(hello()).await;
    assert!(matches!(said, Forwarded::RefusesUs { .. }), "{said:?}");
}

#[tokio::test]
async fn a_certificate_that_is_not_the_hosts_or_not_trusted_is_refused() {
    for tls in [SinkTls::Implicit, SinkTls::StartTls] {
        let mut scene = Scene::new(SinkOptions { tls, ..Default::default() }).await;
        let trusted = scene.target.secret.clone();
        scene.target.secret = None;
        let said = scene.forward(hello()).await;
        assert!(matches!(said, Forwarded::NotOffered { cause: Cause::Tls }), "not trusted: {said:?}");
        scene.target.secret = trusted;
        scene.target.entry.host = "127.0.0.2".into();
        let said = scene.forward(hello()).await;
        assert!(
            matches!(said, Forwarded::NotOffered { cause: Cause::Tls | Cause::Unreachable }),
            "another host's: {said:?}"
        );
        assert_eq!(scene.sink.count(), 0);
    }
}

#[tokio::test]
async fn starttls_never_falls_back() {
    // The sink does not offer it.
    let mut scene = Scene::new(SinkOptions::default()).await;
    scene.target.entry.tls = UpstreamTls::StartTls;
    let said = scene.forward(hello()).await;
    assert!(matches!(said, Forwarded::NotOffered { cause: Cause::Tls }), "{said:?}");
    // It offers it and refuses it.
    let scene = Scene::new(SinkOptions { tls: SinkTls::StartTls, ..Default::default() }).await;
    scene.sink.once(At::StartTls, Act::Reply("454 4.7.0 not available"));
    let said = scene.forward(hello()).await;
    assert!(matches!(said, Forwarded::NotOffered { cause: Cause::Tls }), "{said:?}");
    assert_eq!(scene.sink.count(), 0);
}

#[tokio::test]
async fn a_reply_injected_before_the_handshake_ends_the_connection() {
    let scene = Scene::new(with_login(SinkTls::StartTls, "PLAIN")).await;
    scene.sink.once(At::StartTls, Act::Inject(b"250-injected\r\n250 AUTH PLAIN\r\n"));
    let said = scene.forward(hello()).await;
    assert!(matches!(said, Forwarded::NotOffered { cause: Cause::Tls }), "{said:?}");
    assert_eq!(scene.sink.count(), 0);
    assert_relayed(&scene.forward(hello()).await);
}
