//! An open session outlives neither what its login was judged by, nor its greatest age.

use std::time::Duration;

use franking::domain::credential::{Credential, HashKey, Password, Stage};
use franking::domain::directory::{Entry, KeyEntry};
use franking::runtime::clock::Clock as _;
use franking::runtime::relay_config::RelayConfig;
use jiff::SignedDuration;
use tokio::time::{Instant, sleep, sleep_until};

use super::scene::{FROM, MAIL, PASSWORD, SOON, Scene, TO, key, username};
use crate::support::client::{Client, Reply};

const NEW: &str = "another-password-of-the-key";

fn credential(password: &str, stage: Stage) -> Credential {
    Credential { hash: HashKey::new(&[7; 32]).hash(&Password::given(password)), stage }
}

fn current(scene: &Scene) -> Stage {
    Stage::Current { since: scene.clock.now() }
}

/// Says MAIL again and again until it is refused; what it hears then. The relay hears of a change within a second.
async fn refused(client: &mut Client) -> Reply {
    let deadline = Instant::now() + SOON;
    loop {
        let reply = client.ask(&format!("MAIL FROM:<{FROM}>")).await;
        if reply.code != 250 {
            return reply;
        }
        client.ask("RSET").await.is("250");
        assert!(Instant::now() < deadline, "it is never refused");
        sleep(Duration::from_millis(20)).await;
    }
}

fn ended(scene: &Scene, reason: &str, times: u32) {
    let line = format!("franking_relay_sessions_ended_total{{reason=\"{reason}\"}} {times}\n");
    assert!(scene.metrics().contains(&line), "{line} is not in\n{}", scene.metrics());
}

#[tokio::test]
async fn a_session_ends_where_its_key_may_not_be_used_from_there_any_more() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    let allow_from = vec!["127.0.0.0/8".parse().expect("a network")];
    scene.put(&[Entry::Key(KeyEntry { allow_from, ..key(1) })]).await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    let allow_from = vec!["192.0.2.0/24".parse().expect("a network")];
    scene.put(&[Entry::Key(KeyEntry { allow_from, ..key(1) })]).await;
    refused(&mut client).await.is("421 4.7.0 this login is over: the key may not be used from this network");
    client.closed().await;
    scene.greeted().await.login(&username(1), PASSWORD).await.is("535 5.7.8");
    ended(&scene, "login", 1);
}

#[tokio::test]
async fn a_session_without_tls_ends_where_its_key_may_not_be_used_so_any_more() {
    let scene = Scene::with(|_| {}, |rows| rows.keys[0].plain_listener = true).await;
    let mut client = Client::connect(scene.address("plain")).await;
    client.ask("EHLO printer").await.is("250");
    client.login(&username(1), PASSWORD).await.is("235");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    let mut encrypted = scene.client().await;
    scene.put(&[Entry::Key(KeyEntry { plain_listener: false, ..key(1) })]).await;
    refused(&mut client).await.is("421 4.7.0 this login is over: the key may not be used without TLS");
    client.closed().await;
    encrypted.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
}

#[tokio::test]
async fn a_session_ends_with_the_password_that_it_came_in_by() {
    let scene = Scene::new().await;
    let mut old = scene.client().await;
    // A rotation with an overlap: the old one is good until it ends.
    let until = scene.clock.now() + SignedDuration::from_secs(60);
    let credentials = vec![credential(PASSWORD, Stage::Previous { until }), credential(NEW, current(&scene))];
    scene.put(&[Entry::Key(KeyEntry { credentials, ..key(1) })]).await;
    scene
        .until("the new password works", async |scene| scene.greeted().await.login(&username(1), NEW).await.code == 235)
        .await;
    let mut new = scene.greeted().await;
    new.login(&username(1), NEW).await.is("235");
    for client in [&mut old, &mut new] {
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    }
    scene.clock.set(until);
    refused(&mut old).await.is("421 4.7.0 this login is over: its password was replaced");
    old.closed().await;
    new.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    // A forced one: at once.
    let credentials = vec![credential("a third password of the key", current(&scene))];
    scene.put(&[Entry::Key(KeyEntry { credentials, ..key(1) })]).await;
    refused(&mut new).await.is("421 4.7.0 this login is over: its password was replaced");
    new.closed().await;
    scene.greeted().await.login(&username(1), NEW).await.is("535 5.7.8");
    ended(&scene, "login", 2);
}

/// Commands that keep a connection open would else keep a transaction for the day when the password is changed.
#[tokio::test]
async fn an_open_transaction_outlives_no_password() {
    let scene = Scene::new().await;
    let mut old = scene.client().await;
    old.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
    old.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
    let credentials = vec![credential(NEW, current(&scene))];
    scene.put(&[Entry::Key(KeyEntry { credentials, ..key(1) })]).await;
    let replaced = async |scene: &Scene| scene.greeted().await.login(&username(1), PASSWORD).await.code == 535;
    scene.until("the old password is known to be replaced", replaced).await;
    old.ask("NOOP").await.is("250");
    old.ask("DATA").await.is("421 4.7.0 this login is over: its password was replaced");
    old.closed().await;
    ended(&scene, "login", 1);
}

#[tokio::test]
async fn an_open_transaction_does_not_keep_a_session_for_ever() {
    let limits = |config: &mut RelayConfig| {
        (config.limits.session_seconds, config.limits.idle_seconds) = (3, 2);
    };
    let scene = Scene::with(limits, |_| {}).await;
    let mut client = scene.client().await;
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
    let deadline = Instant::now() + SOON;
    loop {
        match client.try_ask("NOOP").await {
            Some(reply) if reply.code == 250 => {}
            Some(reply) => {
                reply.is("421");
                break;
            }
            None => break,
        }
        assert!(Instant::now() < deadline, "it is kept for ever");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_session_ends_when_its_key_expires() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    let expires_at = Some(scene.clock.now());
    scene.put(&[Entry::Key(KeyEntry { expires_at, ..key(1) })]).await;
    refused(&mut client).await.is("550 5.7.13 the key has expired");
}

#[tokio::test]
async fn an_old_session_ends_between_two_messages_and_never_in_one() {
    let scene = Scene::with(|config| config.limits.session_seconds = 2, |_| {}).await;
    let mut idle = scene.client().await;
    let mut busy = scene.client().await;
    let opened = Instant::now();
    let age = Duration::from_secs(2);
    idle.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    busy.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
    // Nothing was asked of it, so the client finds it closed before its next message.
    idle.reply().await.is("421 4.3.2 this session is old");
    idle.closed().await;
    sleep_until(opened + age).await;
    busy.deliver_rest(&[TO], MAIL).await.is("250 2.0.0");
    busy.try_ask(&format!("MAIL FROM:<{FROM}>")).await.expect("an answer").is("421 4.3.2 this session is old");
    busy.closed().await;
    ended(&scene, "age", 2);
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.until_usage([3, 3, 0, 0, 0]).await;
}
