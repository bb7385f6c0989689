//! Postfix as the upstream: what most installations have behind the relay, as a durable queue.

use franking::domain::directory::{UpstreamSecret, UpstreamTls};
use franking::domain::relay_config::KeyBytes;
use franking::ledger::seal::Sealer;

use super::MESSAGE;
use crate::relay::scene::{FROM, MAIL, POLICY, SOON, Scene, TO, certificate};
use crate::support::postfix::{Postfix, free_port};

/// A relay whose upstream is a Postfix that takes mail by TLS and hands it to the scene's sink.
async fn behind(tls: UpstreamTls, more: &str) -> (Scene, Postfix) {
    let port = free_port();
    let folder = tempfile::tempdir().expect("a folder");
    let ca_pem = Some(certificate(folder.path()));
    let sealed = |ca_pem| {
        let plain = serde_json::to_vec(&UpstreamSecret { ca_pem, ..UpstreamSecret::default() }).expect("JSON");
        Sealer::new(&KeyBytes([8; 32])).seal(&format!("upstream/{POLICY}"), &plain, [1; 12])
    };
    let scene = Scene::with(
        |_| {},
        |rows| {
            let upstream = rows.policy.upstream.as_mut().expect("an upstream");
            (upstream.host, upstream.port, upstream.tls) = ("localhost".to_owned(), port, tls);
            upstream.secret = Some(sealed(ca_pem));
        },
    )
    .await;
    let read = |name| std::fs::read_to_string(folder.path().join(name)).expect("a file");
    let wrapped = if tls == UpstreamTls::Implicit { "yes" } else { "no" };
    let settings = format!(
        "relayhost = [127.0.0.1]:{}\n\
         smtpd_tls_security_level = encrypt\n\
         smtpd_tls_wrappermode = {wrapped}\n\
         smtpd_tls_chain_files = $config_directory/tls.key, $config_directory/tls.crt\n\
         smtpd_recipient_restrictions = check_recipient_access inline:{{gone@elsewhere.example=REJECT}}, permit_mynetworks\n\
         {more}",
        scene.sink.address().port()
    );
    let (key, crt) = (read("tls.key"), read("tls.crt"));
    let postfix = Postfix::start(port, "smarthost.example", &settings, &[("tls.key", &key), ("tls.crt", &crt)]).await;
    (scene, postfix)
}

#[tokio::test]
async fn a_message_goes_through_postfix_byte_for_byte() {
    for tls in [UpstreamTls::StartTls, UpstreamTls::Implicit] {
        let (scene, postfix) = behind(tls, "").await;
        let mut client = scene.client().await;
        let stuffed = MESSAGE.replace("\r\n.", "\r\n..");
        let message = stuffed.strip_suffix("\r\n").expect("a line end");
        // On one connection to the upstream, with several recipients too.
        client.deliver(FROM, &[TO], message).await.is("250 2.0.0 relayed");
        client.deliver(FROM, &[TO, "second@elsewhere.example"], message).await.is("250 2.0.0 relayed");
        let received = scene.sink.wait_for(2, SOON).await;
        for message in &received {
            assert!(message.body.ends_with(MESSAGE.as_bytes()), "{tls:?}: {}", message.body.escape_ascii());
        }
        assert_eq!(received.iter().map(|message| message.to.len()).sum::<usize>(), 3);
        // The first was the test's, to see that it listens.
        let connects = postfix.log().matches(": connect from localhost").count();
        assert_eq!(connects, 2, "{tls:?}: {}", postfix.log());
        scene.until_usage([3, 3, 0, 0, 0]).await;
    }
}

#[tokio::test]
async fn what_postfix_refuses_is_passed_on_and_costs_nothing() {
    let (scene, _postfix) = behind(UpstreamTls::StartTls, "message_size_limit = 20000\n").await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO, "gone@elsewhere.example"], MAIL).await.is("550 5.7.1 gone@elsewhere.example: ");
    let large = format!("{MAIL}\r\n{}", format!("{}\r\n", "x".repeat(98)).repeat(300));
    client.deliver(FROM, &[TO], &large).await.is("552 5.3.4");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    // What is too large for Postfix is refused before anything is charged.
    scene.until_usage([1, 1, 2, 0, 0]).await;
    assert_eq!(scene.sink.wait_for(1, SOON).await.len(), 1);
}

#[tokio::test]
async fn a_postfix_that_hangs_up_on_idle_connections_loses_no_message() {
    let (scene, postfix) = behind(UpstreamTls::Implicit, "smtpd_timeout = 1s\n").await;
    let mut client = scene.client().await;
    for sent in 1..=3_u64 {
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
        scene.sink.wait_for(sent, SOON).await;
        // The first to hang up was the test, when it had seen that it listens.
        let hung_up = format!("Postfix hangs up #{sent}");
        scene.until(&hung_up, async |_| postfix.log().matches("disconnect from localhost").count() as u64 > sent).await;
    }
    scene.until_usage([3, 3, 0, 0, 0]).await;
}
