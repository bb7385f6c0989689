//! Credits under pressure, and a ledger that cannot be asked.

use franking::domain::id::Holder;
use rusqlite::Connection;
use tokio::task::JoinSet;

use super::scene::{ACCOUNT, FROM, MAIL, PASSWORD, Scene, TO, monthly, username};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_keys_racing_for_the_last_credits_get_exactly_the_cap() {
    const CAP: i64 = 40;
    let scene = Scene::with(|_| {}, |rows| rows.account.cap = monthly(Some(CAP))).await;
    let mut senders = JoinSet::new();
    for sender in 0..8 {
        let mut client = scene.client_of(1 + sender % 2).await;
        senders.spawn(async move {
            let mut accepted = 0;
            for _ in 0..10 {
                let reply = client.deliver(FROM, &[TO], MAIL).await;
                match reply.code {
                    250 => accepted += 1,
                    452 => {
                        reply.is("452 4.7.1 credits: the account's cap");
                        client.ask("RSET").await.is("250");
                    }
                    _ => panic!("{reply:?}"),
                }
            }
            accepted
        });
    }
    let accepted: i64 = senders.join_all().await.into_iter().sum();
    assert_eq!(accepted, CAP);
    assert_eq!(scene.sink.count(), CAP as u64);
    scene.until_usage([CAP, CAP, 0, 0, 0]).await;
    assert_eq!(scene.balance(Holder::Account(ACCOUNT)).await.lot.remaining(), Some(0));
}

/// Another process on the ledger's file.
fn intruder(scene: &Scene) -> Connection {
    Connection::open(scene.folder.path().join("ledger.db")).expect("the ledger's file")
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_makes_mail_wait() {
    let scene = Scene::with(|config| config.listeners[1].budget_seconds = 1, |_| {}).await;
    let mut client = scene.client().await;
    let lock = intruder(&scene);
    lock.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    client.deliver(FROM, &[TO], MAIL).await.is("451 4.3.2");
    assert_eq!(scene.sink.count(), 0);
    lock.execute_batch("ROLLBACK").expect("no lock");
    scene
        .until("mail flows again", async |scene| {
            let mut client = scene.client().await;
            client.deliver(FROM, &[TO], MAIL).await.code == 250
        })
        .await;
    // What was asked while it could not answer is not charged in the end.
    let sent = scene.sink.count() as i64;
    scene
        .until("only what was sent is charged", async |scene| {
            let usage = scene.balance(Holder::Account(ACCOUNT)).await.usage;
            (usage.accepted, usage.relayed) == (sent, sent)
        })
        .await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_refuses_nobody_for_good() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let thief = intruder(&scene);
    // The epoch moves, so that the relay looks for what is new.
    thief
        .execute_batch("ALTER TABLE directory RENAME TO stolen; UPDATE meta SET config_epoch = config_epoch + 1")
        .expect("no directory");
    scene
        .until("the copy is too old", async |scene| {
            scene.health.closed().iter().any(|(gate, _)| *gate == "relay directory")
        })
        .await;
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("451 4.3.2");
    let mut stranger = scene.greeted().await;
    stranger.login(&username(1), PASSWORD).await.is("454 4.7.0");
    stranger.login("nobody", PASSWORD).await.is("454 4.7.0");
    thief.execute_batch("ALTER TABLE stolen RENAME TO directory").expect("the directory");
    scene.until("the directory is followed again", async |scene| scene.health.closed().is_empty()).await;
    stranger.login(&username(1), PASSWORD).await.is("235");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
}
