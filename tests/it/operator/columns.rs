//! What `kubectl get --output=wide` shows of a key.

use serde_json::json;

use super::harness::{World, shared};
use super::waits::until;
use crate::support::control_plane::succeeded;

#[tokio::test]
async fn a_key_shows_its_policy_its_networks_and_its_end_in_one_look() {
    let world = World::shared("columns").await;
    world.ready_key().await;
    let narrowed = json!({"allowFrom": ["10.1.2.0/24", "2001:db8::/32"], "expiresAt": "2099-01-01T00:00:00Z"});
    world.key("key", "account", narrowed).await;
    let shows = |policy: &'static str, networks: i64| {
        move |key: Option<&franking::crd::SubAccountApiKey>| {
            let status = key?.status.as_ref()?;
            (status.policy.as_deref() == Some(policy) && status.networks == Some(networks)).then_some(())
        }
    };
    until(world.keys(), "key", "its policy and its networks", shows("columns", 2)).await;
    let get = ["get", "sak", "key", "--namespace", "columns", "--output=wide"];
    let table = succeeded(shared().plane.control.kubectl(&get));
    let (header, row) = table.trim().split_once('\n').expect("a header and a row");
    // kubectl pads each column to one width in both lines, so a cell begins where its title does.
    let cell = |title: &str| {
        let start = header.find(title).unwrap_or_else(|| panic!("no column {title} in {header}"));
        row[start..].split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(cell("POLICY"), "columns", "{table}");
    assert_eq!(cell("NETWORKS"), "2", "{table}");
    assert_eq!(cell("EXPIRES"), "2099-01-01T00:00:00Z", "{table}");
    assert!(header.contains("LAST USED"), "{table}");

    // An account that moves to another plan takes its keys along.
    world.plain_policy("columns-other", json!({})).await;
    world.account("account", json!({"policyRef": {"name": "columns-other"}})).await;
    until(world.keys(), "key", "the other policy", shows("columns-other", 2)).await;
    world.key("key", "account", json!({})).await;
    until(world.keys(), "key", "no networks", shows("columns-other", 0)).await;
}
