//! A refusal before the upload: it is the ledger's word of that very moment, with the limits and the credits as they
//! are then, also a moment after another word.

use franking::domain::credit::Limit;
use franking::domain::directory::{AccountEntry, Entry};
use franking::runtime::relay_config::RelayConfig;

use super::scene::{FROM, MAIL, SOON, Scene, TO, account, monthly};
use crate::support::client::Client;
use crate::support::sink::Act;

/// Recipients enough.
const MANY: [&str; 5] =
    [TO, "b@elsewhere.example", "c@elsewhere.example", "d@elsewhere.example", "e@elsewhere.example"];

async fn capped(credits: i64) -> Scene {
    Scene::with(|_: &mut RelayConfig| {}, |rows| rows.account.cap = monthly(Some(credits))).await
}

fn account_with(cap: Limit) -> Entry {
    Entry::Account(AccountEntry { cap, ..account() })
}

async fn begin(client: &mut Client) {
    client.ask("RSET").await.is("250");
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
}

#[tokio::test]
async fn a_raised_limit_holds_from_the_next_recipient_on() {
    let scene = capped(1).await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    for raised in 2..12 {
        let refused = format!("452 4.7.1 credits: the account's cap of {} has 0 left", raised - 1);
        begin(&mut client).await;
        client.deliver_rest(&[TO], MAIL).await.is(&refused);
        begin(&mut client).await;
        client.ask(&format!("RCPT TO:<{TO}>")).await.is(&refused);
        scene.put(&[account_with(monthly(Some(raised)))]).await;
        client.ask(&format!("RCPT TO:<{TO}>")).await.is("250 2.1.5");
        client.deliver_rest(&[], MAIL).await.is("250 2.0.0");
    }
}

#[tokio::test]
async fn what_is_left_is_told_as_it_is_after_others_used_it() {
    let scene = capped(5).await;
    let (mut client, mut colleague) = (scene.client_of(1).await, scene.client_of(2).await);
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    client.deliver(FROM, &MANY, MAIL).await.is("452 4.7.1 credits: the account's cap of 5 has 4 left");
    begin(&mut client).await;
    for to in &MANY[..3] {
        client.ask(&format!("RCPT TO:<{to}>")).await.is("250 2.1.5");
    }
    colleague.deliver(FROM, &MANY[..4], MAIL).await.is("250 2.0.0");
    client.ask(&format!("RCPT TO:<{TO}>")).await.is("452 4.7.1 credits: the account's cap of 5 has 0 left");
}

#[tokio::test]
async fn a_refund_is_there_for_the_next_recipient() {
    let scene = capped(1).await;
    let mut first = scene.stalled_then(Act::Reply("550 5.7.1 no")).await;
    let mut second = scene.client_of(2).await;
    second.deliver(FROM, &[TO], MAIL).await.is("452 4.7.1 credits: the account's cap of 1 has 0 left");
    begin(&mut second).await;
    second.ask(&format!("RCPT TO:<{TO}>")).await.is("452 4.7.1");
    scene.sink.release();
    first.reply().await.is("550 5.7.1");
    second.ask(&format!("RCPT TO:<{TO}>")).await.is("250 2.1.5");
    second.deliver_rest(&[], MAIL).await.is("250 2.0.0");
    scene.sink.wait_for(1, SOON).await;
    scene.until_usage([1, 1, 1, 0, 0]).await;
}
