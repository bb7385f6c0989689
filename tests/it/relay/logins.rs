//! What programs and devices say on their way in: names in code pages, user names as people enter them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use franking::domain::id::Holder;
use franking::runtime::health::Health;
use franking::runtime::metrics::Registry;
use serde_json::{Value, json};

use super::scene::{FROM, MAIL, PASSWORD, Scene, TO, key_id, username};
use crate::support::client::Client;

#[tokio::test]
async fn any_octets_may_be_the_name_in_a_greeting() {
    let scene = Scene::with(|_| {}, |rows| rows.keys[0].plain_listener = true).await;
    for greeting in [b"EHLO M\xdcLLER-PC\r\n" as &[u8], b"EHLO \xff\x00\x1b[31m\r\n", b"ehlo \xe5\xb7\xa5\r\n"] {
        for listener in ["implicit", "plain"] {
            let mut client = match listener {
                "implicit" => Client::connect_tls(scene.address(listener), &scene.ca_pem).await,
                _ => Client::connect(scene.address(listener)).await,
            };
            client.send(greeting).await;
            client.reply().await.is("250 ");
            client.login(&username(1), PASSWORD).await.is("235 2.7.0");
            client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
        }
    }
    // It is not passed on.
    let received = scene.sink.messages();
    assert!(received.iter().all(|message| !String::from_utf8_lossy(&message.body).contains("LLER-PC")));
    // Other commands stay text.
    let mut client = scene.greeted().await;
    client.send(b"NOOP \xdc\r\n").await;
    client.reply().await.is("500");
}

/// The actor, the key and the detail of each login that the audit trail tells of.
async fn networks(scene: &Scene) -> Vec<(String, Option<Holder>, Value)> {
    let events = scene.store.events(0, 1_000).await.expect("the ledger answers");
    let told = events.into_iter().filter(|event| event.kind == "key.network");
    told.map(|event| (event.actor, event.holder, event.detail)).collect()
}

#[tokio::test]
async fn a_first_login_from_a_network_is_in_the_trail_and_a_second_or_a_failed_one_is_not() {
    let mut scene = Scene::new().await;
    scene.greeted().await.login(&username(2), "wrong").await.is("535 5.7.8");
    scene.greeted().await.login(&username(1), PASSWORD).await.is("235 2.7.0");
    scene.until("the login is told", async |scene: &Scene| !networks(scene).await.is_empty()).await;
    let first = [("relay".to_owned(), Some(Holder::Key(key_id(1))), json!({"network": "127.0.0.0/24", "number": 1}))];
    assert_eq!(networks(&scene).await, first);
    // Not by this relay, which remembers it and tells the rest when it ends, nor by one that does not.
    for _ in 0..2 {
        scene.greeted().await.login(&username(1), PASSWORD).await.is("235 2.7.0");
        scene.relay.take().expect("a relay").drain().await;
        assert_eq!(networks(&scene).await, first);
        (scene.registry, scene.health) = (Registry::new(), Health::default());
        scene.start().await;
    }
}

#[tokio::test]
async fn a_user_name_is_taken_as_people_and_programs_enter_it() {
    let scene = Scene::new().await;
    let taken = [
        "KEY-1",
        "Key-1",
        "key-1 ",
        " key-1\t",
        "key-1@relay.example.com",
        "Key-1@Relay.Example.COM ",
        "key-1 @relay.example.com",
    ];
    for entered in taken {
        scene.greeted().await.login(entered, PASSWORD).await.is("235 2.7.0");
        let mut client = scene.greeted().await;
        client.ask("AUTH LOGIN").await.is("334");
        client.ask(&BASE64.encode(entered)).await.is("334");
        client.ask(&BASE64.encode(PASSWORD)).await.is("235 2.7.0");
    }
    let others =
        ["key-1@elsewhere.example", "key-1@relay.example.com@x", "@relay.example.com", "key-1@relay", "key", "key-12"];
    for entered in others {
        scene.greeted().await.login(entered, PASSWORD).await.is("535 5.7.8");
    }
    // A password is taken as it is.
    scene.greeted().await.login(&username(1), &format!("{PASSWORD} ")).await.is("535 5.7.8");
}

/// Each spelling is another try of the same name.
#[tokio::test]
async fn no_spelling_of_a_name_gives_a_guesser_another_try() {
    let scene = Scene::new().await;
    let started = tokio::time::Instant::now();
    for entered in ["key-1", "KEY-1", "key-1@relay.example.com"] {
        scene.greeted().await.login(entered, "wrong").await.is("535 5.7.8");
    }
    // 0.5 s, 1 s and 2 s: the pause doubles with the name as well as with the address.
    assert!(started.elapsed().as_millis() >= 3_500, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_key_whose_account_is_not_accepted_is_told_to_wait() {
    let scene =
        Scene::with(|_| {}, |rows| rows.keys[0].account = franking::domain::id::AccountId(uuid::Uuid::from_u128(9)))
            .await;
    let mut client = scene.greeted().await;
    client.login(&username(1), PASSWORD).await.is("454 4.7.0 this key is not in use yet; see its condition Ready");
    // Whoever does not know the password learns nothing.
    scene.greeted().await.login(&username(1), "wrong").await.is("535 5.7.8");
    scene.greeted().await.login(&username(2), PASSWORD).await.is("235 2.7.0");
    scene.put(&[franking::domain::directory::Entry::Key(super::scene::key(1))]).await;
    scene
        .until("the relay knows", async |scene| scene.greeted().await.login(&username(1), PASSWORD).await.code == 235)
        .await;
}
