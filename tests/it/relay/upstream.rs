//! The failure table: what the client hears and what is settled, for each way in which an upstream can fail.

use std::time::Duration;

use franking::domain::directory::{
    AccountEntry, ClientCertificate, Entry, KeyEntry, PolicyEntry, UpstreamEntry, UpstreamSecret, UpstreamTls,
};
use franking::domain::id::{AccountId, PolicyId};
use franking::ledger::seal::Sealer;
use franking::runtime::clock::Clock as _;
use franking::runtime::relay_config::KeyBytes;
use uuid::Uuid;

use super::scene::{FROM, MAIL, POLICY, Scene, TO};
use crate::support::sink::{Act, At, Sink, SinkOptions, SinkTls};

const THREE: [&str; 3] = [TO, "second@elsewhere.example", "third@elsewhere.example"];

/// What one message ends with when the upstream does `act` once at `at`.
async fn ends(at: At, act: Act, reply: &str, usage: [i64; 5]) {
    let scene = Scene::new().await;
    scene.sink.once(at, act);
    let mut client = scene.client().await;
    client.deliver(FROM, &THREE, MAIL).await.is(reply);
    scene.until_usage(usage).await;
}

#[tokio::test]
async fn one_refused_recipient_refuses_the_message_for_all_and_costs_nothing() {
    let scene = Scene::new().await;
    scene.sink.once(At::Recipient(2), Act::Reply("553 5.1.3 no such person"));
    let mut client = scene.client().await;
    client.deliver(FROM, &THREE, MAIL).await.is("550 5.1.3 second@elsewhere.example: no such person");
    assert_eq!(scene.sink.count(), 0);
    scene.until_usage([0, 0, 3, 0, 0]).await;
    client.deliver(FROM, &THREE, MAIL).await.is("250 2.0.0");
    scene.until_usage([3, 3, 3, 0, 0]).await;
}

#[tokio::test]
async fn a_recipient_refused_for_now_is_451() {
    ends(At::Recipient(3), Act::Reply("450 4.2.1 mailbox busy"), "451 4.2.1 third@elsewhere.example", [0, 0, 3, 0, 0])
        .await;
}

#[tokio::test]
async fn the_upstreams_own_words_about_a_message_are_passed_on() {
    ends(At::Final, Act::Reply("554 5.7.1 looks like spam"), "554 5.7.1 looks like spam", [0, 0, 3, 0, 0]).await;
    ends(At::Final, Act::Reply("452 4.3.1 full"), "452 4.3.1 full", [0, 0, 3, 0, 0]).await;
}

#[tokio::test]
async fn an_upstream_that_refuses_us_is_no_bounce_for_the_sender() {
    ends(At::Mail, Act::Reply("530 5.7.0 authentication required"), "451 4.3.5", [0, 0, 3, 0, 0]).await;
}

#[tokio::test]
async fn an_upstream_that_dies_before_the_final_dot_costs_nothing() {
    let scene = Scene::with(|config| config.limits.message_bytes = 10_000_000, |_| {}).await;
    scene.sink.once(At::Body(100_000), Act::Drop);
    // More than the sockets between them hold, so that the final dot is still here when the upstream goes.
    let large = format!("{MAIL}\r\n{}", format!("{}\r\n", "x".repeat(98)).repeat(90_000));
    scene.client().await.deliver(FROM, &THREE, &large).await.is("451 4.4.1");
    scene.until_usage([0, 0, 0, 3, 0]).await;
}

#[tokio::test]
async fn an_upstream_that_dies_after_the_final_dot_leaves_the_charge() {
    ends(At::Final, Act::Drop, "451 4.4.2", [3, 0, 0, 0, 3]).await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_costs_nothing() {
    let scene = Scene::with(
        |_| {},
        |rows| {
            if let Some(upstream) = &mut rows.policy.upstream {
                // Nobody listens on the discard port of this machine.
                upstream.port = 9;
            }
        },
    )
    .await;
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("451 4.4.1");
    scene.until_usage([0, 0, 0, 1, 0]).await;
}

#[tokio::test]
async fn an_upstream_that_stalls_before_the_final_dot_is_slow_and_costs_nothing() {
    let scene = Scene::with(|config| config.listeners[1].budget_seconds = 1, |_| {}).await;
    scene.sink.once(At::Mail, Act::Stall);
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2");
    scene.until_usage([0, 0, 0, 1, 0]).await;
}

#[tokio::test]
async fn an_outcome_that_is_known_late_corrects_the_books() {
    let scene = Scene::with(|config| config.listeners[1].budget_seconds = 1, |_| {}).await;
    scene.sink.once(At::Final, Act::Stall);
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2");
    scene.until_usage([1, 0, 0, 0, 1]).await;
    scene.sink.release();
    scene.until_usage([1, 1, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_late_refusal_is_refunded() {
    let scene = Scene::with(|config| config.listeners[1].budget_seconds = 1, |_| {}).await;
    scene.sink.once(At::Final, Act::StallThen(Box::new(Act::Reply("554 5.7.1 no"))));
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("451 4.4.2");
    scene.until_usage([1, 0, 0, 0, 1]).await;
    scene.sink.release();
    scene.until_usage([0, 0, 1, 0, 0]).await;
}

#[tokio::test]
async fn a_client_that_vanishes_after_the_final_dot_changes_nothing() {
    let scene = Scene::new().await;
    let client = scene.stalled().await;
    drop(client);
    scene.sink.release();
    scene.until_usage([1, 1, 0, 0, 0]).await;
    assert_eq!(scene.sink.count(), 1);
}

#[tokio::test]
async fn policies_have_their_own_upstreams_with_sealed_logins() {
    let login = ("relay".to_owned(), "upstream-password".to_owned());
    let options = SinkOptions { tls: SinkTls::Implicit, login: Some(login.clone()), ..SinkOptions::default() };
    let other = Sink::start(options).await;
    let secret = UpstreamSecret { login: Some(login), ca_pem: other.ca_pem().map(str::to_owned), client: None };
    let upstream = encrypted(&other, &secret);
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("250");
    let mut policy = super::scene::policy(scene.sink.address().port());
    policy.upstream = Some(upstream);
    scene.put(&[Entry::Policy(policy)]).await;
    let moved = std::time::Instant::now();
    while other.count() == 0 {
        client.deliver(FROM, &[TO], MAIL).await.is("250");
        assert!(moved.elapsed() < Duration::from_secs(1), "the upstream has not changed within a second");
    }
    assert_eq!(other.messages()[0].auth.as_deref(), Some("relay"));
}

/// A sink as an upstream with TLS, with what is sealed for it.
fn encrypted(sink: &Sink, secret: &UpstreamSecret) -> UpstreamEntry {
    let plain = serde_json::to_vec(secret).expect("JSON");
    let sealed = Sealer::new(&KeyBytes([8; 32])).seal(&format!("upstream/{POLICY}"), &plain, [1; 12]);
    UpstreamEntry {
        host: "localhost".to_owned(),
        port: sink.address().port(),
        tls: UpstreamTls::Implicit,
        secret: Some(sealed),
        max_recipients: 5,
    }
}

#[tokio::test]
async fn an_upstream_that_asks_for_a_certificate_is_shown_the_policys() {
    let ours = rcgen::generate_simple_self_signed(["franking".to_owned()]).expect("a certificate");
    let options = SinkOptions { tls: SinkTls::Implicit, client_ca: Some(ours.cert.pem()), ..SinkOptions::default() };
    let strict = Sink::start(options).await;
    let mut secret = UpstreamSecret { ca_pem: strict.ca_pem().map(str::to_owned), ..UpstreamSecret::default() };
    let bare = encrypted(&strict, &secret);
    let scene = Scene::with(|_| {}, |rows| rows.policy.upstream = Some(bare)).await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.4.1");
    assert_eq!(strict.count(), 0);

    let (certificate_pem, key_pem) = (ours.cert.pem(), ours.signing_key.serialize_pem());
    secret.client = Some(ClientCertificate { certificate_pem, key_pem });
    let mut policy = super::scene::policy(1);
    policy.upstream = Some(encrypted(&strict, &secret));
    scene.put(&[Entry::Policy(policy)]).await;
    scene
        .until("the certificate is shown", async |scene| {
            let mut client = scene.client().await;
            client.deliver(FROM, &[TO], MAIL).await.code == 250
        })
        .await;
    assert_eq!(strict.count(), 1);
}

/// What EHLO promises to whoever connects now: the keywords that depend on the upstreams.
async fn promised(scene: &Scene) -> Vec<String> {
    let text = scene.greeted().await.ask("EHLO x").await.text;
    let depends = |line: &&str| ["SIZE", "8BITMIME", "SMTPUTF8"].iter().any(|keyword| line.starts_with(keyword));
    text.lines().filter(depends).map(str::to_owned).collect()
}

#[tokio::test]
async fn only_what_all_upstreams_carry_is_promised_as_soon_as_they_were_asked() {
    let modest = SinkOptions { smtputf8: false, eight_bit_mime: false, size: Some(90_000), ..SinkOptions::default() };
    let modest = Sink::start(modest).await;
    let other = PolicyId(Uuid::from_u128(0x101));
    let poor = PolicyEntry { id: other, ..super::scene::policy(modest.address().port()) };
    let account = AccountEntry { id: AccountId(Uuid::from_u128(0x201)), policy: other, ..super::scene::account() };
    let key = KeyEntry { account: account.id, ..super::scene::key(3) };
    let rows = [Entry::Policy(poor.clone()), Entry::Account(account), Entry::Key(key)];
    let scene = Scene::with(|_| {}, |known| known.others.extend(rows)).await;
    let all = ["SIZE 100000", "8BITMIME", "SMTPUTF8"];
    assert_eq!(promised(&scene).await, all, "nobody has asked an upstream yet");
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("250");
    assert_eq!(promised(&scene).await, all, "this one takes more than the relay does");

    let mut client = scene.client_of(3).await;
    client.deliver(FROM, &[TO], MAIL).await.is("250");
    assert_eq!(promised(&scene).await, [format!("SIZE {}", 90_000 - 1024)], "what is added in front fits too");
    client.ask(&format!("MAIL FROM:<{FROM}> SMTPUTF8")).await.is("250");
    client.ask("RCPT TO:<grüße@elsewhere.example>").await.is("553 5.6.7");
    client.ask("RSET").await.is("250");
    client.ask(&format!("MAIL FROM:<{FROM}> SIZE=95000")).await.is("552 5.3.4");
    // The other policy's messages are judged by its own upstream, whatever was promised.
    let mut able = scene.client().await;
    let utf8 = format!("{MAIL}\r\n{}", "ü\r\n".repeat(24_000));
    able.ask(&format!("MAIL FROM:<{FROM}> SIZE=96100 SMTPUTF8")).await.is("250");
    able.ask("RCPT TO:<grüße@elsewhere.example>").await.is("250");
    able.ask("DATA").await.is("354");
    able.send(format!("{utf8}\r\n.\r\n")).await;
    able.reply().await.is("250");
    assert_eq!((scene.sink.count(), modest.count()), (2, 1));

    // Another upstream, and none at all: what the last one announced is forgotten.
    let moved = PolicyEntry { upstream: super::scene::policy(scene.sink.address().port()).upstream, ..poor.clone() };
    scene.put(&[Entry::Policy(moved)]).await;
    scene.until("the old upstream limits nothing", async |scene| promised(scene).await == all).await;
    scene.put(&[Entry::Policy(poor.clone())]).await;
    scene
        .until("the modest upstream is asked again", async |scene| {
            scene.client_of(3).await.deliver(FROM, &[TO], MAIL).await.is("250");
            promised(scene).await.len() == 1
        })
        .await;
    scene.put(&[Entry::Policy(PolicyEntry { removed_at: Some(scene.clock.now()), upstream: None, ..poor })]).await;
    scene.until("a policy that is gone limits nothing", async |scene| promised(scene).await == all).await;
    let gone = format!("policy=\"{other}\"");
    let figures =
        |metrics: String| metrics.lines().any(|line| line.starts_with("franking_upstream_") && line.contains(&gone));
    assert!(!figures(scene.metrics()), "its figures are gone with it");
}
