//! The trail's notes of an edit that changes no limit.

use serde_json::{Value, json};

use super::world::{Place, World, account, key, monthly, policy, policy_id};
use franking::domain::directory::{Entry, UpstreamEntry, UpstreamTls};
use franking::domain::sender::{MailDomain, SenderPattern};
use franking::domain::settings::Settings;

/// Returns the details of `setting.changed` that these entries add.
async fn told(world: &mut World, entries: &[Entry]) -> Vec<Value> {
    let after = world.store.events(0, 1_000).await.expect("events").last().map_or(0, |event| event.seq);
    world.put(entries).await;
    let events = world.store.events(after, 1_000).await.expect("events");
    events.into_iter().filter(|event| event.kind == "setting.changed").map(|event| event.detail).collect()
}

fn patterns(texts: &[&str]) -> Vec<SenderPattern> {
    texts.iter().map(|text| SenderPattern::parse(text).expect("a pattern")).collect()
}

pub async fn an_edited_setting_is_told_from_what_to_what(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let mut plan = policy(1, monthly(None));
    plan.sender_domains = vec![MailDomain::parse("example.com").expect("a domain")];
    plan.upstream = Some(UpstreamEntry {
        host: "smtp.example.com".to_owned(),
        port: 465,
        tls: UpstreamTls::Implicit,
        secret: Some(franking::domain::directory::Sealed("sealed-1".to_owned())),
        max_recipients: 100,
    });
    let rows = told(&mut world, &[Entry::Policy(plan.clone())]).await;
    assert_eq!(
        rows,
        [
            json!({"field": "senders.domains", "from": [], "to": ["example.com"]}),
            json!({"field": "upstream.host", "from": null, "to": "smtp.example.com"}),
            json!({"field": "upstream.port", "from": null, "to": 465}),
        ]
    );
    plan.upstream.as_mut().expect("one").secret = Some(franking::domain::directory::Sealed("sealed-2".to_owned()));
    assert_eq!(told(&mut world, &[Entry::Policy(plan)]).await, [json!({"field": "upstream.credentials"})]);

    let mut narrowed = account(1, monthly(None));
    narrowed.allowed_senders = Some(patterns(&["a@example.com"]));
    let rows = told(&mut world, &[Entry::Account(narrowed.clone())]).await;
    assert_eq!(rows, [json!({"field": "allowedSenders", "from": null, "to": ["a@example.com"]})]);
    // Long lists are recorded by their differences.
    let many: Vec<String> = (0..30).map(|n| format!("s{n}@example.com")).collect();
    narrowed.allowed_senders = Some(patterns(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    let rows = told(&mut world, &[Entry::Account(narrowed.clone())]).await;
    assert_eq!((&rows[0]["fromCount"], &rows[0]["toCount"]), (&json!(1), &json!(30)));
    assert_eq!(rows[0]["removed"], json!(["a@example.com"]));
    let added = rows[0]["added"].as_array().expect("a list");
    assert_eq!((added.len(), added.last()), (11, Some(&json!("… and 20 more"))));
    narrowed.policy = policy_id(2);
    world.put(&[Entry::Policy(policy(2, monthly(None)))]).await;
    let rows = told(&mut world, &[Entry::Account(narrowed.clone())]).await;
    assert_eq!(rows, [json!({"field": "policyRef", "from": policy_id(1), "to": policy_id(2)})]);

    let mut printer = key(1, 1, monthly(None));
    printer.allow_from = vec!["10.1.2.0/24".parse().expect("a network")];
    printer.plain_listener = true;
    let rows = told(&mut world, &[Entry::Key(printer.clone())]).await;
    assert_eq!(
        rows,
        [
            json!({"field": "allowFrom", "from": [], "to": ["10.1.2.0/24"]}),
            json!({"field": "plainListener", "from": false, "to": true}),
        ]
    );

    // An entry of an older version has no settings: the earlier values are unknown, and not recorded.
    printer.settings = Some(Settings::of([("rotation.every", json!("720h"))]));
    let rows = told(&mut world, &[Entry::Key(printer.clone())]).await;
    assert_eq!(rows, [json!({"field": "rotation.every", "to": "720h"})]);
    printer.settings = Some(Settings::of([("rotation.every", json!("1h")), ("secret.adopt", json!(true))]));
    let rows = told(&mut world, &[Entry::Key(printer.clone())]).await;
    assert_eq!(
        rows,
        [
            json!({"field": "rotation.every", "from": "720h", "to": "1h"}),
            json!({"field": "secret.adopt", "from": null, "to": true}),
        ]
    );
    let epoch = world.store.changes(0).await.expect("changes").epoch;
    world.put(&[Entry::Key(printer.clone())]).await;
    assert_eq!(world.store.changes(0).await.expect("changes").epoch, epoch);

    // A key that leaves service is not edited. One that comes back tells all that it has, so that no edit hides behind a
    // deletion; its earlier values are gone.
    let gone = printer.removed(world.clock_now());
    assert_eq!(gone.settings, Some(Settings::default()));
    assert_eq!(told(&mut world, &[Entry::Key(gone)]).await, Vec::<Value>::new());
    printer.allow_from.clear();
    assert_eq!(
        told(&mut world, &[Entry::Key(printer)]).await,
        [
            json!({"field": "plainListener", "to": true}),
            json!({"field": "rotation.every", "to": "1h"}),
            json!({"field": "secret.adopt", "to": true}),
        ]
    );
    world.check().await;
}
