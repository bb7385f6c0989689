//! What is said of the relays, on the status of the policies whose mail goes through them.

use std::sync::Arc;
use std::time::Duration;

use franking::crd::CreditPolicy;
use franking::operator::plan::relay_state::{RelayInForce, RelayState, Replicas};
use franking::runtime::clock::ManualClock;
use franking::runtime::relay_config::{Limits, LineEnds, Listener, ListenerMode};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::json;

use super::harness::{SYSTEM, World, alone};
use super::lifecycle::own;
use super::waits::{Conditioned, merge_patch, ready, until};

fn said(policy: &CreditPolicy) -> (String, Option<i32>) {
    let programmed = policy.conditions().iter().find(|condition| condition.type_ == "Programmed").expect("Programmed");
    let relay = policy.status.as_ref().and_then(|status| status.relay.as_ref()).expect("the relay");
    (format!("{}: {}", programmed.reason, programmed.message), relay.ready_replicas)
}

/// Moves the operator's clock, which stands still by itself here: counts wait for two seconds of it.
fn passing(clock: ManualClock) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            clock.advance(1);
        }
    })
}

#[tokio::test]
async fn a_policy_says_how_many_relays_are_ready_and_why_their_settings_are_not_in_force() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("relays", None).await;
    let passing = passing(clock);
    let secret = world.ready_key().await;
    let replicas = |ready| Some(Replicas { ready, wanted: 3 });
    let refused = Some("replicas is 0; it must be 1 to 64".to_owned());
    for (state, sentence, ready) in [
        (
            RelayState { refused: None, replicas: replicas(3), in_force: None },
            "Programmed: the relay knows it",
            Some(3),
        ),
        (
            RelayState { refused: None, replicas: replicas(2), in_force: None },
            "Programmed: the relay knows it",
            Some(2),
        ),
        (
            RelayState { refused, replicas: replicas(3), in_force: None },
            "RelayInvalid: replicas is 0; it must be 1 to 64",
            Some(3),
        ),
        (
            RelayState { refused: None, replicas: replicas(0), in_force: None },
            "RelayNotReady: no relay is ready, of 3 that are wanted",
            Some(0),
        ),
        (RelayState::default(), "Programmed: the relay knows it", None),
    ] {
        running.relay.send_replace(state);
        until(world.policies(), &world.name, sentence, |policy: Option<&CreditPolicy>| {
            (said(policy?) == (sentence.to_owned(), ready)).then_some(())
        })
        .await;
        // What the relays lack is not the policy's fault.
        let policy = world.policies().get(&world.name).await.expect("the policy");
        assert!(policy.conditions().iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    }
    assert!(world.may_send(&secret).await);
    passing.abort();
    world.clear().await;
    running.stop().await;
}

/// Settings with one listener and the default limits.
fn in_force() -> RelayInForce {
    let listener = Listener {
        name: "submissions".to_owned(),
        address: ([127, 0, 0, 1], 465).into(),
        mode: ListenerMode::Implicit,
        networks: Vec::new(),
        proxy_from: Vec::new(),
        budget_seconds: 300,
        line_ends: LineEnds::Reject,
    };
    RelayInForce { hostname: "relay.example".to_owned(), listeners: vec![listener], limits: Limits::default() }
}

/// Waits until the ConfigMap says so. Returns its text and its hash.
async fn shows(world: &World, what: &str) -> (String, String) {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), SYSTEM);
    until(maps, "franking-relay-effective", what, |map: Option<&ConfigMap>| {
        let text = map?.data.as_ref()?.get("effective.yaml").filter(|text| text.contains(what))?;
        Some((text.clone(), map?.metadata.annotations.as_ref()?.get("franking.io/config-hash")?.clone()))
    })
    .await
}

#[tokio::test]
async fn what_the_relays_run_with_is_read_in_a_config_map_and_its_hash_in_status() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("effective", None).await;
    let passing = passing(clock);
    running.relay.send_modify(|state| state.in_force = Some(Arc::new(in_force())));
    world.plain_policy("effective", json!({"senders": {"domains": ["b.example", "a.example"]}})).await;
    world.account("account", json!({})).await;
    world.key("key", "account", json!({})).await;
    ready(world.keys(), "key").await;
    let counts = |active, suspended| {
        let counts = format!("      active: {active}\n      suspended: {suspended}\n");
        format!("    accounts:\n{counts}    keys:\n{counts}")
    };
    let (text, first) = shows(&world, &counts(1, 0)).await;
    for words in [
        "hostname: relay.example",
        "name: submissions",
        "host: smtp.example.com",
        "- a.example\n    - b.example",
        "suspended: false",
        // Of 256 MiB, two fifths and half, which no setting names.
        "bytesInFlightPerAccount: 107374182\n",
        "bytesInFlightPerNamespace: 134217728\n",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    let suspended = json!({"upstream": {"host": "other.example.com"}, "suspended": true, "suspendReason": "unpaid"});
    world.plain_policy("effective", suspended).await;
    let (text, second) = shows(&world, "host: other.example.com").await;
    assert!(text.contains("suspended: true") && text.contains(&counts(0, 1)) && first != second, "{text}");
    assert!(!text.contains("unpaid"), "why it is suspended is read by whoever may read ConfigMaps:\n{text}");
    until(world.policies(), "effective", "the hash of what is in force", |policy: Option<&CreditPolicy>| {
        let relay = policy?.status.as_ref()?.relay.clone()?;
        (relay.config_hash.as_ref() == Some(&second)).then_some(())
    })
    .await;
    passing.abort();
    world.clear().await;
    running.stop().await;
}

#[tokio::test]
async fn an_edit_of_a_policy_is_in_the_config_map_within_a_second() {
    const EDITS: u32 = 20;
    let _turn = alone().await;
    let (world, running, _folder, _clock) = own("effective-soon", None).await;
    running.relay.send_modify(|state| state.in_force = Some(Arc::new(in_force())));
    world.plain_policy("effective-soon", json!({})).await;
    shows(&world, "effective-soon:").await;
    let mut took = Vec::new();
    for edit in 0..EDITS {
        let host = format!("smtp-{edit}.example.com");
        let began = tokio::time::Instant::now();
        merge_patch(&world.policies(), "effective-soon", json!({"spec": {"upstream": {"host": host}}})).await;
        shows(&world, &format!("host: {host}\n")).await;
        took.push(began.elapsed());
    }
    took.sort();
    let (half, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!("from an edit of a CreditPolicy to the ConfigMap: half {half:?}, most {most:?}, of {EDITS}");
    // A second on a quiet machine, which this one is not always.
    assert!(half < Duration::from_secs(3) && most < Duration::from_secs(10), "half {half:?}, most {most:?}");
    world.clear().await;
    running.stop().await;
}
