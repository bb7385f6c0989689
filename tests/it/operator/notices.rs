//! Thresholds told by Event, mail and webhook, and the bill, with a restart in between.

use std::sync::Arc;

use franking::domain::credit::{Reservation, Verdict};
use franking::domain::id::{KeyId, MessageId};
use franking::domain::webhook::SigningKey;
use franking::ledger::bill::statement;
use franking::ledger::store::{Role, Settlement};
use franking::runtime::clock::{Clock, ManualClock, SystemClock};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use serde_json::json;
use uuid::Uuid;

use super::harness::{DEADLINE, Running, SYSTEM, World, alone, plane, store};
use super::waits::{create, delete, gone, merge_patch, ready, until};
use crate::support::receiver::{Posted, Receiver};
use crate::support::sink::{Act, At, Sink, SinkOptions};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A policy that tells a sink and a receiver, with one account and key.
struct Scene {
    world: World,
    clock: ManualClock,
    sink: Sink,
    receiver: Receiver,
    sent: u64,
}

impl Scene {
    async fn start(name: &str, folder: &std::path::Path) -> (Self, Running) {
        let clock = ManualClock::new(SystemClock.now());
        let ledger = store(folder, Arc::new(clock.clone()));
        let running = Running::start(plane().kubeconfig(), ledger.clone(), Arc::new(clock.clone()), None).await;
        let client = plane().control.admin_client().await;
        let world = World::new(client, ledger, Arc::new(clock.clone()), name).await;
        let (sink, receiver) = (Sink::start(SinkOptions::default()).await, Receiver::start().await);
        let scene = Self { world, clock, sink, receiver, sent: 0 };
        scene.make().await;
        (scene, running)
    }

    async fn make(&self) {
        let (world, name) = (&self.world, &self.world.name);
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), SYSTEM);
        let hook = json!({
            "metadata": {"name": name, "labels": {"franking.io/use": "true"}},
            "stringData": {"secret": SECRET, "ca.crt": self.receiver.ca_pem},
        });
        create::<Secret>(&secrets, hook).await;
        let url = format!("https://localhost:{}/franking", self.receiver.address.port());
        let spec = json!({
            "upstream": {"host": "127.0.0.1", "port": self.sink.address().port(), "tls": "None"},
            "pool": {"credits": 112},
            "pricing": {"currency": "EUR", "basePriceMinor": 1000, "pricePerThousandMinor": 100_000},
            "senders": {"domains": ["example.com"]},
            "alerts": {"email": {"to": ["ops@example.net"]}, "webhook": {"url": url, "secretRef": {"name": name}}},
        });
        world.policy(name, spec).await;
        world.account("account", json!({"cap": {"credits": 50}})).await;
        world.key("key", "account", json!({})).await;
        ready(world.keys(), "key").await;
    }

    /// Charges credits as a relay would, and has them rolled up.
    async fn send(&mut self, credits: u32) {
        let key = ready(self.world.keys(), "key").await;
        let key: KeyId = key.status.and_then(|status| status.key_id).expect("an id").parse().expect("a uuid");
        let store = &self.world.store;
        let session = store.open_session(Role::Relay, "relay").await.expect("a session");
        self.sent += 1;
        let message = MessageId(Uuid::from_u64_pair(0x0193_0000_0000_7000, 0x8000_0000_0000_0000 | self.sent));
        let verdicts = store
            .reserve(&session, &[Reservation { message, key, credits, fingerprint: None }])
            .await
            .expect("reserved");
        assert_eq!(verdicts, [Verdict::Reserved]);
        let outcome = franking::domain::credit::Outcome::Relayed;
        store.settle(&session, &[Settlement::of(message, outcome)]).await.expect("settled");
        store.rollup(&session).await.expect("rolled up");
    }

    /// Subjects of the mails so far.
    fn subjects(&self) -> Vec<String> {
        let subject = |body: &[u8]| {
            // Long headers are folded (RFC 5322 §2.2.3).
            let text = String::from_utf8_lossy(body).replace("\r\n ", " ");
            text.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned)).expect("a subject")
        };
        self.sink.messages().iter().map(|mail| subject(&mail.body)).collect()
    }

    /// Subjects of the mails to one address.
    fn subjects_to(&self, address: &str) -> Vec<String> {
        let all = self.sink.messages().into_iter().zip(self.subjects());
        all.filter(|(mail, _)| mail.to == [address]).map(|(_, subject)| subject).collect()
    }

    /// Waits until the operator has seen the account's spec as it is.
    async fn observed(&self, account: &str) {
        until(self.world.accounts(), account, "its spec to be seen", |account| {
            let account = account?;
            (account.status.as_ref()?.observed_generation == account.metadata.generation).then_some(())
        })
        .await;
    }

    async fn events(&self, namespace: &str) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.world.client.clone(), namespace);
        let events = api.list(&Default::default()).await.expect("events").items.into_iter();
        let about = |event: &Event| {
            let regarding = event.regarding.as_ref().and_then(|object| object.name.clone()).unwrap_or_default();
            event.reason.as_deref() == Some("ThresholdReached")
                && (regarding == self.world.name || regarding == "account")
        };
        events.filter(about).map(|event| event.note.unwrap_or_default()).collect()
    }

    async fn end(&self) {
        for (name, policy) in [("key", false), ("account", false), (self.world.name.as_str(), true)] {
            if policy {
                delete(&self.world.policies(), name).await;
                gone(self.world.policies(), name).await;
            } else if name == "key" {
                delete(&self.world.keys(), name).await;
                gone(self.world.keys(), name).await;
            } else {
                delete(&self.world.accounts(), name).await;
                gone(self.world.accounts(), name).await;
            }
        }
    }
}

fn thresholds(posted: &[Posted]) -> Vec<(String, i64)> {
    let read = |posted: &Posted| {
        let data = &posted.json()["data"];
        (data["meter"].as_str().expect("a meter").to_owned(), data["thresholdPercent"].as_i64().expect("a percentage"))
    };
    posted.iter().map(read).collect()
}

#[tokio::test]
async fn thresholds_are_told_once_on_every_way_also_over_a_restart() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (mut scene, running) = Scene::start("notices", folder.path()).await;

    // The receiver is down at first. What fails waits, and is sent again by whoever comes next.
    scene.receiver.next(&[503]);
    scene.send(26).await;
    scene.receiver.wait_for(1, DEADLINE).await;
    scene.sink.wait_for(1, DEADLINE).await;
    let half = "[franking] account notices/account: cap used up to 50 % (26 of 50 credits)";
    assert_eq!(scene.subjects(), [half]);
    running.until_metric("franking_notices_total{meter=\"account.cap\",threshold=\"50\"} 1").await;
    running.until_metric("franking_notice_deliveries_total{channel=\"webhook\",result=\"failed\"} 1").await;
    for channel in ["event", "mail"] {
        let line = format!("franking_notice_deliveries_total{{channel=\"{channel}\",result=\"sent\"}} 1");
        running.until_metric(&line).await;
    }
    running.stop().await;
    scene.clock.advance(60);
    let store = scene.world.store.clone();
    let running = Running::start(plane().kubeconfig(), store, Arc::new(scene.clock.clone()), None).await;
    let posted = scene.receiver.wait_for(2, DEADLINE).await;
    assert_eq!(posted[0].header("webhook-id"), posted[1].header("webhook-id"), "the same notice under the same name");
    let key = SigningKey::parse(SECRET).expect("a secret");
    for delivery in &posted {
        let at =
            Timestamp::from_second(delivery.header("webhook-timestamp").parse().expect("seconds")).expect("a time");
        let signature = key.sign(delivery.header("webhook-id"), at, &delivery.body);
        assert_eq!(delivery.header("webhook-signature"), signature);
    }
    let data = &posted[1].json()["data"];
    assert_eq!((&data["policy"], &data["account"], &data["used"]), (&json!("notices"), &json!("account"), &json!(26)));

    // Two at once: the higher one. Then a raised limit that is passed again, and the pool's first.
    scene.send(20).await;
    scene.receiver.wait_for(3, DEADLINE).await;
    scene.world.account("account", json!({"cap": {"credits": 60}})).await;
    until(scene.world.accounts(), "account", "the raised cap", |account| {
        account?.status.as_ref()?.credits.as_ref().filter(|credits| credits.cap == Some(60)).map(drop)
    })
    .await;
    scene.send(10).await;
    scene.receiver.wait_for(4, DEADLINE).await;
    scene.send(4).await;
    let posted = scene.receiver.wait_for(5, DEADLINE).await;
    let told =
        [("account.cap", 50), ("account.cap", 50), ("account.cap", 90), ("policy.pool", 50), ("account.cap", 100)];
    assert_eq!(thresholds(&posted), told.map(|(meter, threshold)| (meter.to_owned(), threshold)));
    scene.sink.wait_for(4, DEADLINE).await;
    let pool = "[franking] policy notices: pool used up to 50 % (56 of 112 credits)";
    assert_eq!((scene.subjects().len(), scene.subjects()[2].as_str()), (4, pool));
    assert_eq!(scene.sink.messages()[0].from, "franking@example.com");
    running.until_metric("franking_notice_deliveries_total{channel=\"event\",result=\"sent\"} 3").await;
    assert_eq!(scene.events("notices").await.len(), 3);
    assert_eq!(scene.events("default").await, ["policy notices: pool used up to 50 % (56 of 112 credits)"]);

    // A new period counts anew.
    scene.clock.advance(32 * 86_400);
    scene.send(30).await;
    let posted = scene.receiver.wait_for(6, DEADLINE).await;
    assert_eq!(thresholds(&posted)[5], ("account.cap".to_owned(), 50));
    assert_ne!(posted[5].header("webhook-id"), posted[1].header("webhook-id"));
    scene.end().await;
    running.stop().await;
    assert_eq!(scene.receiver.posted().len(), 6);
}

#[tokio::test]
async fn an_accounts_own_people_get_mail_at_its_thresholds() {
    const PEOPLE: [&str; 2] = ["billing@example.org", "second@example.org"];
    let _alone = alone().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (mut scene, running) = Scene::start("noticed", folder.path()).await;
    let alerts = |alerts| json!({"spec": {"alerts": alerts}});
    merge_patch(&scene.world.accounts(), "account", alerts(json!({"email": {"to": PEOPLE}}))).await;
    scene.observed("account").await;

    // Half is the policy's people's to know.
    scene.send(26).await;
    scene.sink.wait_for(1, DEADLINE).await;
    scene.send(12).await;
    scene.sink.wait_for(4, DEADLINE).await;
    let told = |percent: u8, used: i64| {
        format!("[franking] account noticed/account: cap used up to {percent} % ({used} of 50 credits)")
    };
    assert_eq!(scene.subjects_to("ops@example.net"), [told(50, 26), told(75, 38)]);
    for address in PEOPLE {
        assert_eq!(scene.subjects_to(address), [told(75, 38)], "{address}");
    }
    let mails = scene.sink.messages();
    let theirs = mails.iter().find(|mail| mail.to == ["billing@example.org"]).expect("a mail");
    let text = String::from_utf8_lossy(&theirs.body).into_owned();
    assert!(text.contains("From: Franking <franking@example.com>\r\n"), "{text}");
    assert!(text.contains("To: billing@example.org, second@example.org\r\n") && !text.contains("ops@"), "{text}");
    assert_eq!(theirs.from, "franking@example.com");
    running.until_metric("franking_notice_deliveries_total{channel=\"account_mail\",result=\"sent\"} 1").await;

    // Another leader tells none of it again. Used up, and first refused by the upstream.
    running.stop().await;
    scene.sink.always(At::Recipient(0), Act::Reply("450 4.2.0 later"));
    let store = scene.world.store.clone();
    let running = Running::start(plane().kubeconfig(), store, Arc::new(scene.clock.clone()), None).await;
    scene.send(12).await;
    for channel in ["mail", "account_mail"] {
        let line = format!("franking_notice_deliveries_total{{channel=\"{channel}\",result=\"failed\"}} 1");
        running.until_metric(&line).await;
    }
    running.until_metric("franking_notice_deliveries_total{channel=\"event\",result=\"sent\"} 1").await;
    running.stop().await;
    scene.sink.behave();
    scene.clock.advance(60);
    let store = scene.world.store.clone();
    let running = Running::start(plane().kubeconfig(), store, Arc::new(scene.clock.clone()), None).await;
    scene.sink.wait_for(7, DEADLINE).await;
    for address in PEOPLE {
        assert_eq!(scene.subjects_to(address), [told(75, 38), told(100, 50)], "{address}");
    }

    // Whose address is taken off hears nothing more, and no address is anywhere but in the spec.
    merge_patch(&scene.world.accounts(), "account", alerts(json!(null))).await;
    scene.observed("account").await;
    scene.clock.advance(32 * 86_400);
    scene.send(48).await;
    scene.sink.wait_for(8, DEADLINE).await;
    assert_eq!(scene.subjects_to("ops@example.net").last(), Some(&told(90, 48)));
    running.until_metric("franking_notice_deliveries_total{channel=\"event\",result=\"sent\"} 1").await;
    scene.end().await;
    let events = scene.events("noticed").await;
    let metrics = running.metrics();
    running.stop().await;
    assert_eq!((scene.sink.count(), events.len()), (8, 4), "{events:?}");
    assert!(!events.iter().any(|note| note.contains('@')), "{events:?}");
    assert!(!metrics.contains("example.org"), "{metrics}");
}

#[tokio::test]
async fn a_month_is_billed_to_the_minor_unit_and_shown_on_status() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (mut scene, running) = Scene::start("billed", folder.path()).await;
    scene.world.account("other", json!({})).await;
    ready(scene.world.accounts(), "other").await;
    // What waits for a time is not to wait for the test.
    let clock = scene.clock.clone();
    let ticking = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            ticks.tick().await;
            clock.advance(1);
        }
    });
    scene.send(26).await;
    // Base price and 26 credits of a unit each; the figures follow when a minute has passed.
    until(scene.world.accounts(), "account", "its cost", |account| {
        account?.status.as_ref()?.cost.as_ref().filter(|cost| cost.amount_minor == 1000 + 2600).map(drop)
    })
    .await;
    let world = &scene.world;
    until(world.policies(), "billed", "its cost", |policy| {
        let cost = policy?.status.as_ref()?.cost.clone()?;
        (cost.total_minor == 3600 && cost.currency == "EUR").then_some(())
    })
    .await;
    until(world.accounts(), "other", "its cost", |account| {
        account?.status.as_ref()?.cost.as_ref().filter(|cost| cost.amount_minor == 0).map(drop)
    })
    .await;

    ticking.abort();

    // An account that is gone stays on the bill, and a price that is raised changes no credit that was charged.
    delete(&world.keys(), "key").await;
    gone(world.keys(), "key").await;
    delete(&world.accounts(), "account").await;
    gone(world.accounts(), "account").await;
    let now = world.clock.now();
    let bill = statement(world.store.as_ref(), "billed", None, now).await.expect("read").expect("a bill");
    let csv = bill.csv();
    let line = csv.lines().nth(1).expect("a line");
    assert!(line.contains(",removed,") && line.ends_with(",billed,account,26,3600,EUR"), "{csv}");
    assert_eq!(csv.lines().count(), 2);
    let json: serde_json::Value = serde_json::from_str(&bill.json()).expect("json");
    assert_eq!((&json["totalMinor"], &json["lines"][0]["amountMinor"]), (&json!(3600), &json!(3600)));
    assert!(bill.table().contains("billed/account"));
    let refused = statement(world.store.as_ref(), "nobody", None, now).await.expect("read").expect_err("nobody");
    assert!(refused.to_string().contains("nobody"));
    let refused = statement(world.store.as_ref(), "billed", Some("soon"), now).await.expect("read").expect_err("soon");
    assert!(refused.to_string().contains("soon"));
    let before = statement(world.store.as_ref(), "billed", Some("2020-01"), now).await.expect("read");
    assert!(before.expect_err("a month without terms").to_string().contains("2020-01"));

    // The next month begins with the base price, which is the parent's while nobody sends; the last one stays.
    let month = bill.terms.period.clone();
    scene.clock.advance(32 * 86_400);
    let now = world.clock.now();
    let next = statement(world.store.as_ref(), "billed", None, now).await.expect("read").expect("a bill");
    assert!(next.csv().contains(",parent,,,,0,1000,EUR"));
    let last = statement(world.store.as_ref(), "billed", Some(&month), now).await.expect("read").expect("a bill");
    assert_eq!(last.csv(), csv);
    delete(&world.accounts(), "other").await;
    gone(world.accounts(), "other").await;
    delete(&world.policies(), "billed").await;
    gone(world.policies(), "billed").await;
    running.stop().await;
}
