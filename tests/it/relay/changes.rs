//! What changes while the relay runs: certificates, settings, and the stop.

use franking::relay::{Relay, run};
use franking::runtime::relay_config::{ListenerMode, RelayConfig};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::scene::{FROM, MAIL, PASSWORD, SOON, Scene, TO, another, certificate, client_of, listener, username};
use crate::support::client::Client;
use crate::support::sink::{Act, At};

#[tokio::test]
async fn a_changed_certificate_is_served_without_a_restart() {
    let mut scene = Scene::new().await;
    let mut before = scene.client().await;
    scene.ca_pem = certificate(scene.folder.path());
    scene
        .until("the new certificate is served", async |scene| {
            // A handshake with the old certificate panics its task and nothing else.
            let (address, ca_pem) = (scene.address("implicit"), scene.ca_pem.clone());
            tokio::spawn(async move { Client::connect_tls(address, &ca_pem).await }).await.is_ok()
        })
        .await;
    before.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
}

#[tokio::test]
async fn changed_settings_are_taken_over_and_wrong_ones_are_not() {
    let mut scene = Scene::new().await;
    let mut before = scene.client().await;
    let submission = scene.address("submission");

    scene.config.listeners.retain(|listener| listener.name != "plain");
    scene.config.listeners.push(listener("new", ListenerMode::Implicit));
    scene.config.limits.message_bytes = 200_000;
    scene.write_config();
    scene
        .until("the listeners changed", async |scene| {
            let addresses = scene.relay.as_ref().expect("a relay").addresses();
            addresses.contains_key("new") && !addresses.contains_key("plain")
        })
        .await;
    assert_eq!(scene.address("submission"), submission, "a listener that did not change keeps its socket");
    let mut client = Client::connect_tls(scene.address("new"), &scene.ca_pem).await;
    let offer = client.ask("EHLO x").await;
    assert!(offer.text.contains("SIZE 200000"), "{}", offer.text);
    before.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");

    let good = scene.config.clone();
    scene.config.listeners.clear();
    scene.write_config();
    scene
        .until("the wrong settings were looked at", async |scene| {
            scene.metrics().contains("franking_relay_settings_refused 1")
        })
        .await;
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.config = good;
    scene.config.limits.message_bytes = 300_000;
    scene.write_config();
    scene
        .until("settings are taken over again", async |scene| {
            let mut client = Client::connect_tls(scene.address("implicit"), &scene.ca_pem).await;
            client.ask("EHLO x").await.text.contains("SIZE 300000")
        })
        .await;
    scene
        .until("nothing is refused any more", async |scene| {
            scene.metrics().contains("franking_relay_settings_refused 0")
        })
        .await;
}

#[tokio::test]
async fn a_changed_host_name_reaches_the_upstream_and_no_session_ends() {
    let mut scene = Scene::new().await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.config.hostname = "renamed.example.com".to_owned();
    scene.config.limits.upstream_connections = 3;
    scene.write_config();
    scene.until("the connection with the old name is closed", async |scene| scene.sink.quits() == 1).await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    let received = scene.sink.wait_for(2, SOON).await.pop().expect("a message");
    assert_eq!(received.connection, 2);
    let body = String::from_utf8(received.body).expect("text");
    assert!(body.starts_with("Received: by renamed.example.com "), "{body}");
    assert_eq!(scene.sink.hello(), "EHLO renamed.example.com");
}

#[tokio::test]
async fn another_key_for_hashes_is_taken_over() {
    let mut scene = Scene::new().await;
    scene.config.keys.hash.0 = [9; 32];
    scene.write_config();
    scene
        .until("passwords are hashed with the new key", async |scene| {
            let mut client = scene.greeted().await;
            client.login(&username(1), PASSWORD).await.code == 535
        })
        .await;
}

#[tokio::test]
async fn the_relay_waits_for_its_settings_and_says_so() {
    let mut scene = Scene::new().await;
    scene.relay.take().expect("a relay").drain().await;
    std::fs::remove_file(scene.config_file()).expect("relay.yaml");
    let (registry, health) =
        (franking::runtime::metrics::Registry::new(), franking::runtime::health::Health::default());
    let mut dependencies = scene.dependencies();
    (dependencies.registry, dependencies.health) = (registry, health.clone());
    let stop = CancellationToken::new();
    let role = tokio::spawn(run(dependencies, stop.clone()));
    scene
        .until("the gate names the file", async |_| {
            health.closed().iter().any(|(gate, reason)| *gate == "relay" && reason.contains("relay.yaml"))
        })
        .await;
    scene.write_config();
    scene.until("the relay is ready", async |_| health.closed().is_empty()).await;
    stop.cancel();
    timeout(SOON, role).await.expect("in time").expect("no panic").expect("a stop in good order");
}

#[tokio::test]
async fn a_foreign_ledger_judges_nobody() {
    let mut scene = Scene::new().await;
    scene.relay.take().expect("a relay").drain().await;
    scene.config.installation = Uuid::from_u128(99);
    scene.write_config();
    let mut dependencies = scene.dependencies();
    dependencies.registry = franking::runtime::metrics::Registry::new();
    scene.relay = Relay::start(dependencies, &CancellationToken::new()).await.expect("it waits for its own ledger");
    // It answers all the same: to be told to come back is better than to find nobody there.
    let mut client = scene.greeted().await;
    client.login(&username(1), PASSWORD).await.is("454 4.7.0");
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_says_goodbye() {
    let mut scene = Scene::new().await;
    let mut idle = scene.client().await;
    let mut sending = scene.stalled().await;

    let address = scene.address("implicit");
    let drain = tokio::spawn(scene.relay.take().expect("a relay").drain());
    idle.reply().await.is("421 4.3.2");
    idle.closed().await;
    assert!(scene.health.closed().iter().any(|(gate, reason)| *gate == "relay" && reason == "draining"));
    let refused = tokio::net::TcpStream::connect(address).await;
    assert!(refused.is_err(), "a draining relay accepts no connection");
    assert!(!drain.is_finished());

    scene.sink.release();
    sending.reply().await.is("250 2.0.0 relayed");
    sending.reply().await.is("421 4.3.2");
    sending.closed().await;
    timeout(SOON, drain).await.expect("drained in time").expect("no panic");
    scene.until_usage([1, 1, 0, 0, 0]).await;
    scene.sink.wait_for_open(0, SOON).await;
    assert_eq!(scene.sink.quits(), 1);
}

#[tokio::test]
async fn a_client_that_says_everything_at_once_begins_nothing_new_in_a_drain() {
    let mut scene = Scene::new().await;
    scene.sink.once(At::Final, Act::Stall);
    let mut idle = scene.client().await;
    let mut sending = scene.client().await;
    let message = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\nDATA\r\n{MAIL}\r\n.\r\n");
    sending.send(message.repeat(3)).await;
    scene.sink.wait_for_stalled(1, SOON).await;
    let drain = tokio::spawn(scene.relay.take().expect("a relay").drain());
    idle.reply().await.is("421 4.3.2");
    scene.sink.release();
    for reply in ["250 2.1.0", "250 2.1.5", "354", "250 2.0.0 relayed", "421 4.3.2"] {
        sending.reply().await.is(reply);
    }
    sending.closed().await;
    timeout(SOON, drain).await.expect("drained in time").expect("no panic");
    scene.until_usage([1, 1, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_client_that_never_begins_its_handshake_does_not_hold_up_a_drain() {
    let mut scene = Scene::new().await;
    let silent = tokio::net::TcpStream::connect(scene.address("implicit")).await.expect("a connection");
    let mut halfway = Client::connect(scene.address("submission")).await;
    halfway.ask("STARTTLS").await.is("220 2.0.0");
    scene
        .until("both are served", async |scene| {
            let served = |name| format!("franking_relay_connections{{listener=\"{name}\"}} 1");
            let metrics = scene.metrics();
            metrics.contains(&served("implicit")) && metrics.contains(&served("submission"))
        })
        .await;
    let started = std::time::Instant::now();
    scene.relay.take().expect("a relay").drain().await;
    assert!(started.elapsed().as_secs() < 10, "the drain waited {:?} for nobody's mail", started.elapsed());
    drop((silent, halfway));
}

#[tokio::test]
async fn a_body_that_is_being_read_when_the_drain_begins_is_relayed() {
    let mut scene = Scene::new().await;
    let mut client = scene.client().await;
    let mut idle = scene.client().await;
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
    client.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
    client.ask("DATA").await.is("354");
    let drain = tokio::spawn(scene.relay.take().expect("a relay").drain());
    idle.reply().await.is("421 4.3.2");
    client.send(format!("{MAIL}\r\n.\r\n")).await;
    client.reply().await.is("250 2.0.0 relayed");
    client.reply().await.is("421 4.3.2");
    timeout(SOON, drain).await.expect("drained in time").expect("no panic");
}

/// A scene of two relays, of which the first is stopped while its upstream keeps `count` messages waiting; the second,
/// and what the clients hear who sent them.
async fn stopped_with(count: u64, act: Act) -> (Scene, Relay, JoinHandle<()>, Vec<Client>) {
    let brief = |config: &mut RelayConfig| {
        config.limits.drain_seconds = 6;
        config.listeners.iter_mut().for_each(|listener| listener.budget_seconds = 6);
    };
    let mut scene = Scene::with(brief, |_| {}).await;
    scene.sink.always(At::Final, act);
    let mut senders = Vec::new();
    for n in 0..count {
        let mut client = scene.client_of(1 + u128::from(n % 2)).await;
        begin(&mut client).await;
        client.send(format!("{}\r\n.\r\n", numbered(n))).await;
        senders.push(client);
    }
    scene.sink.wait_for_stalled(count, SOON).await;
    scene.sink.behave();
    let other = another(&scene).await;
    let drain = tokio::spawn(scene.relay.take().expect("a relay").drain());
    for sender in &mut senders {
        sender.reply().await.is("451 4.4.2 the upstream received the message");
        sender.reply().await.is("421 4.3.2");
        sender.closed().await;
    }
    (scene, other, drain, senders)
}

async fn begin(client: &mut Client) {
    for line in [format!("MAIL FROM:<{FROM}>"), format!("RCPT TO:<{TO}>")] {
        client.ask(&line).await.is("250");
    }
    client.ask("DATA").await.is("354");
}

fn numbered(n: u64) -> String {
    format!("{MAIL} {n}")
}

async fn retry(scene: &Scene, other: &Relay, n: u64) -> String {
    let mut client = client_of(other, scene, 1 + u128::from(n % 2)).await;
    client.deliver(FROM, &[TO], &numbered(n)).await.is("250 2.0.0").text
}

#[tokio::test]
async fn what_an_upstream_answers_after_the_drains_farewell_is_sent_once_and_charged_once() {
    let (scene, other, drain, _senders) = stopped_with(10, Act::Stall).await;
    scene.until_usage([10, 0, 0, 0, 10]).await;
    scene.sink.release();
    scene.until_usage([10, 10, 0, 0, 0]).await;
    timeout(SOON, drain).await.expect("drained in time").expect("no panic");
    for n in 0..10 {
        retry(&scene, &other, n).await;
    }
    scene.until_usage([10, 10, 0, 0, 0]).await;
    assert_eq!(scene.sink.count(), 10, "no mail twice");
}

#[tokio::test]
async fn an_upstream_slower_than_the_drain_leaves_one_charge_for_each_message_and_its_retry() {
    let (scene, other, drain, _senders) = stopped_with(10, Act::StallThen(Box::new(Act::Reply("451 4.3.2 no")))).await;
    timeout(SOON, drain).await.expect("drained in time").expect("no panic");
    // The upstream refused them in the end, when nobody listened any more.
    scene.sink.release();
    for n in 0..10 {
        retry(&scene, &other, n).await;
    }
    scene.until_usage([10, 10, 0, 0, 0]).await;
    assert_eq!(scene.sink.count(), 10, "each once, by the other relay");
    // It was told: the same once more is another message.
    retry(&scene, &other, 0).await;
    scene.until_usage([11, 11, 0, 0, 0]).await;
}

#[tokio::test]
async fn what_was_not_offered_when_the_drain_ends_is_refunded_and_told_to_come_again() {
    let brief = |config: &mut RelayConfig| {
        config.limits.drain_seconds = 4;
        config.listeners.iter_mut().for_each(|listener| listener.budget_seconds = 4);
    };
    let mut scene = Scene::with(brief, |_| {}).await;
    scene.sink.once(At::Mail, Act::Stall);
    let (mut offered, mut uploading) = (scene.client().await, scene.client().await);
    begin(&mut offered).await;
    offered.send(format!("{MAIL}\r\n.\r\n")).await;
    scene.sink.wait_for_stalled(1, SOON).await;
    begin(&mut uploading).await;
    uploading.send("From: alerts@example.com\r\n\r\nnever ends\r\n").await;
    let drain = tokio::spawn(scene.relay.take().expect("a relay").drain());
    offered.reply().await.is("451 4.4.2");
    timeout(SOON, drain).await.expect("drained in time").expect("no panic");
    scene.until_usage([0, 0, 0, 1, 0]).await;
    scene.sink.release();
    assert_eq!(scene.sink.count(), 0);
}
