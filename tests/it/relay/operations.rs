//! What whoever runs the relay sees: figures, the log, readiness, and a stop under load.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use franking::domain::directory::{AccountEntry, Entry};
use franking::domain::id::AccountId;
use franking::runtime::clock::Clock as _;
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;
use uuid::Uuid;

use super::scene::{FROM, MAIL, PASSWORD, SOON, Scene, TO, account, key, username};
use crate::support::client::plain;
use crate::support::sink::{Act, At};

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Pages(Arc<Mutex<Vec<u8>>>);

impl Pages {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("the pages").clone()).expect("text")
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("the pages").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Pages {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The test's tasks all run on its own thread, so what they log is heard here and nowhere else.
#[tokio::test]
async fn the_log_tells_each_messages_story_by_its_id_and_no_secret_or_address() {
    let pages = Pages::default();
    let writer =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(pages.clone());
    let _heard = tracing::subscriber::set_default(writer.finish());
    // Where there is only one subscriber, tracing asks the thread that first logs somewhere, which may be another test's.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let reply = client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0 relayed, id ");
        ids.push(reply.text.rsplit(' ').next().expect("an id").to_owned());
    }
    // Every way to fail that has an address or a secret in it.
    client.deliver("forged@evil.example", &[TO], MAIL).await.is("550 5.7.1");
    client.ask("RSET").await.is("250");
    client.deliver(FROM, &[TO], "From: forged@evil.example\r\n\r\nbody-of-somebody").await.is("550 5.7.1");
    client.deliver(FROM, &["no address"], MAIL).await.is("501");
    client.ask("RSET").await.is("250");
    scene.sink.once(At::Recipient(0), Act::Reply("550 5.1.1 <somebody@elsewhere.example> is unknown"));
    client.deliver(FROM, &[TO], MAIL).await.is("550");
    scene.sink.once(At::Final, Act::Reply("554 5.7.1 somebody@elsewhere.example wants no spam"));
    client.deliver(FROM, &[TO], MAIL).await.is("554");
    let mut guesser = scene.greeted().await;
    guesser.login(&username(1), "a-wrong-guess").await.is("535");
    guesser.ask("AUTH LOGIN somebody@elsewhere.example").await;
    guesser.ask(&format!("AUTH PLAIN {}", plain("secret-name@elsewhere.example", "another-wrong-guess"))).await;

    let log = pages.text();
    for id in &ids {
        let told: Vec<&str> =
            log.lines().filter(|line| line.contains(" INFO ") && line.contains(id.as_str())).collect();
        assert_eq!(told.len(), 1, "of {id} in\n{log}");
        for fact in
            ["policy=\"plan\"", "account=\"team/account\"", "key=\"team/key-1\"", "outcome=\"relayed\"", "code=250"]
        {
            assert!(told[0].contains(fact), "{fact} is not in {}", told[0]);
        }
    }
    assert!(log.contains("outcome=\"refused_by_upstream\"") && log.contains("outcome=\"sender_denied\""), "{log}");
    // The domain shows what is wrong without an address.
    let refusals = log.lines().filter(|line| line.contains("reason=\"policy\" domain=\"evil.example\"")).count();
    assert_eq!(refusals, 2, "{log}");
    let private =
        [PASSWORD, "wrong-guess", "alerts@example.com", "elsewhere.example", "forged@", "body-of-somebody", "hello"];
    for secret in private {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
    }
    for encoded in [plain(&username(1), PASSWORD), plain(&username(1), "a-wrong-guess")] {
        assert!(!log.contains(&encoded), "a login is in\n{log}");
    }
}

#[tokio::test]
async fn a_stop_under_load_loses_nothing_and_ends_in_time() {
    let mut scene = Scene::new().await;
    let stopped = Arc::new(AtomicBool::new(false));
    let mut senders = Vec::new();
    for n in 0..20 {
        let mut client = scene.client_of(1 + n % 2).await;
        let stopped = stopped.clone();
        senders.push(tokio::spawn(async move {
            let mut accepted = 0_u64;
            loop {
                let reply = client.deliver(FROM, &[TO], MAIL).await;
                match reply.code {
                    250 => accepted += 1,
                    // Said between two messages only.
                    421 => break,
                    code => panic!("{code} {}", reply.text),
                }
                assert!(accepted < 100_000, "nobody stopped");
            }
            client.closed().await;
            assert!(stopped.load(Ordering::Acquire), "told to go before the stop");
            accepted
        }));
    }
    scene.sink.wait_for(100, SOON).await;
    stopped.store(true, Ordering::Release);
    let drain = scene.relay.take().expect("a relay").drain();
    timeout(SOON, drain).await.expect("drained inside the grace period");
    let mut accepted = 0;
    for sender in senders {
        accepted += sender.await.expect("a sender that heard the truth");
    }
    assert_eq!(scene.sink.count(), accepted, "what was accepted is what was relayed");
    let charged = i64::try_from(accepted).expect("few");
    scene.until_usage([charged, charged, 0, 0, 0]).await;
}

/// A relay with room for the counters of one account, and two accounts: key 3 is of the other one.
async fn crowded() -> Scene {
    let other = AccountId(Uuid::from_u128(0x201));
    Scene::with(
        |config| config.limits.metric_accounts = 1,
        |rows| {
            rows.others.push(Entry::Account(AccountEntry { id: other, name: "other".to_owned(), ..account() }));
            let mut third = key(3);
            third.account = other;
            rows.others.push(Entry::Key(third));
        },
    )
    .await
}

#[tokio::test]
async fn figures_by_account_are_bounded() {
    let scene = crowded().await;
    for key in [1, 3, 2] {
        scene.client_of(key).await.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    }
    scene.until_usage([3, 3, 0, 0, 0]).await;
    let metrics = scene.metrics();
    for line in [
        "franking_relay_account_messages_total{account=\"team/account\",policy=\"plan\",result=\"relayed\"} 2",
        "franking_relay_account_messages_total{account=\"other\",policy=\"plan\",result=\"relayed\"} 1",
        "franking_relay_account_credits_total{account=\"team/account\",outcome=\"relayed\",policy=\"plan\"} 2",
        "franking_relay_account_credits_total{account=\"other\",outcome=\"relayed\",policy=\"plan\"} 1",
        "franking_relay_accounts_left_out 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn the_counters_of_a_removed_account_make_room_for_another() {
    let scene = crowded().await;
    for key in [1, 3] {
        scene.client_of(key).await.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    }
    scene.until_usage([2, 2, 0, 0, 0]).await;
    let now = scene.clock.now();
    let keys = [key(1), key(2)].map(|key| Entry::Key(key.removed(now)));
    scene.put(&[[Entry::Account(account().removed(now))].as_slice(), &keys].concat()).await;
    // A last scrape has read them by then.
    scene.clock.advance(601);
    scene.until("its counters are gone", async |scene| !scene.metrics().contains("team/account")).await;
    assert!(scene.metrics().contains("franking_relay_accounts_left_out 1"), "the other one has not sent meanwhile");
    scene.client_of(3).await.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.until_usage([3, 3, 0, 0, 0]).await;
    let metrics = scene.metrics();
    for line in [
        "franking_relay_account_messages_total{account=\"team/other\",policy=\"plan\",result=\"relayed\"} 1",
        // What it sent before is not taken out of a counter.
        "franking_relay_account_messages_total{account=\"other\",policy=\"plan\",result=\"relayed\"} 1",
        "franking_relay_account_credits_total{account=\"team/other\",outcome=\"relayed\",policy=\"plan\"} 1",
        "franking_relay_account_credits_total{account=\"other\",outcome=\"relayed\",policy=\"plan\"} 1",
        "franking_relay_accounts_left_out 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
