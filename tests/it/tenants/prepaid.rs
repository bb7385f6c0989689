//! A second account is no way past what the plan imposes on each.

use std::time::Duration;

use serde_json::json;

use super::{Cluster, User, resource};
use crate::examples::folder;
use crate::support::chart::utf8;
use crate::support::franking::eventually;

const SOON: Duration = Duration::from_secs(60);

/// The example as shipped, and the bakery's own people as attackers.
#[tokio::test(flavor = "multi_thread")]
async fn a_customer_of_the_prepaid_example_makes_another_account_and_sends_nothing_with_it() {
    let cluster = Cluster::install().await;
    let franking = cluster.stage.home.start();
    cluster.applied_as_admin(&["--filename", &utf8(&folder().join("prepaid"))]);
    // One who writes accounts in a namespace that has none yet, with the same rights.
    cluster.stage.apply("{apiVersion: v1, kind: Namespace, metadata: {name: florist}}");
    let baker = User::in_groups("baker", &["bakery", "customers"]);
    let florist = User::in_groups("florist", &["customers"]);
    cluster.bind("florist", "franking-self-service", &florist);
    cluster.says("subaccount", "bakery", "bakery", "Ready", "Ready");

    // Beside the account that is there, a second one has no place.
    let plain = json!({"policyRef": {"name": "hosting"}});
    cluster
        .apply(&baker, &resource("SubAccount", "bakery", "second", &plain))
        .expect("self-service may write accounts");
    let sentence = cluster.says("subaccount", "bakery", "second", "Ready", "TooManyAccounts");
    assert!(sentence.contains("allows 1 account"), "{sentence}");

    // Where there is place for one, it has what the plan imposes: nothing prepaid, nothing to spend.
    cluster.apply(&florist, &resource("SubAccount", "florist", "first", &plain)).expect("self-service may");
    let key = json!({"subAccountRef": {"name": "first"}, "secret": {"presets": ["env"]}});
    cluster.apply(&florist, &resource("SubAccountApiKey", "florist", "key", &key)).expect("self-service may");
    let sentence = cluster.says("subaccount", "florist", "first", "Ready", "RequiredByPolicy");
    for words in ["nothing can be sent", "\"hosting\"", "spec.prepaid", "spec.spendLimitMinor", "spec.allowedSenders"] {
        assert!(sentence.contains(words), "{sentence}");
    }
    let key = cluster.credentials("florist", "key");
    let reply = cluster.send(&key, "bakery@hosted.example.com");
    assert!(reply.starts_with("550 5.7.1 this key may not send"), "{reply}");
    let senders = json!({"spec": {"allowedSenders": ["florist@hosted.example.com"]}}).to_string();
    cluster.stage.kubectl(&["patch", "subaccount", "first", "-n", "florist", "--type=merge", "-p", &senders]);
    let reply = eventually("the account to have a sender", SOON, || {
        let reply = cluster.send(&key, "florist@hosted.example.com");
        (!reply.starts_with("550 5.7.1")).then_some(reply)
    });
    assert!(reply.starts_with("452 4.7.1 credits: the account's"), "{reply}");
    eventually("the status to say that nothing is left", SOON, || {
        let account = cluster.get("subaccount", "florist", "first")?;
        let credits = &account["status"]["credits"];
        (credits["remaining"] == 0 && credits["prepaid"] == 0).then_some(())
    });
    // Writing the fields oneself takes `grant`.
    for more in [
        json!({"prepaid": {"grants": [{"id": "gift", "credits": 9}]}}),
        json!({"spendLimitMinor": 9000}),
        json!({"allowedSenders": ["*@hosted.example.com"]}),
    ] {
        let patch = json!({"spec": more}).to_string();
        let arguments = ["patch", "subaccount", "first", "-n", "florist", "--type=merge", "-p", &patch];
        super::refused(cluster.run(&florist, &arguments, ""), &["the verb grant on creditpolicies/hosting"]);
    }
    assert_eq!(franking.stop(), 0, "{}", cluster.stage.home.log());
}
