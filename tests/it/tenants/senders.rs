//! A department sends as itself, whatever keys it makes.

use serde_json::json;

use super::{Cluster, User, refused, resource};
use crate::examples::folder;
use crate::support::chart::utf8;
use crate::support::client::Client;
use crate::support::mail::Credentials;

/// The example as shipped, with a sink for the provider; and Sales, with the namespace's ordinary role.
async fn company() -> (Cluster, User) {
    let cluster = Cluster::install().await;
    cluster.applied_as_admin(&["--filename", &utf8(&folder().join("company"))]);
    let port = cluster.stage.sink.address().port();
    let sink = json!({"host": "127.0.0.1", "port": port, "tls": "None", "credentialsSecretRef": null});
    let patch = json!({"spec": {"upstream": sink}}).to_string();
    cluster.stage.kubectl(&["patch", "creditpolicy", "company", "--type=merge", "-p", &patch]);
    let sales = User::new("sam");
    cluster.bind("sales", "edit", &sales);
    (cluster, sales)
}

/// Sends one message with this envelope and these header fields; the reply to the first command that is refused, or to
/// the final dot.
async fn send(cluster: &Cluster, credentials: &Credentials, envelope: &str, header: &str) -> String {
    let mut client = Client::connect_tls(cluster.stage.home.relay, &credentials.certificates).await;
    client.ask("EHLO sales.example.com").await.is("250 ");
    client.login(&credentials.username, &credentials.password).await.is("235 ");
    let message = format!("{header}\r\nTo: r@example.net\r\nSubject: attack\r\n\r\nGood morning.");
    let reply = client.deliver(envelope, &["r@example.net"], &message).await;
    format!("{} {}", reply.code, reply.text)
}

#[tokio::test(flavor = "multi_thread")]
async fn sales_makes_keys_and_sends_as_no_other_department() {
    let (cluster, sales) = company().await;
    let franking = cluster.stage.home.start();
    // One that narrows nothing, and one that names those that it wants to be.
    let wanted = json!(["*@example.com", "support@example.com", "ceo@example.com"]);
    for (name, senders) in [("all", json!([])), ("others", wanted)] {
        let key = json!({"subAccountRef": {"name": "sales"}, "allowedSenders": senders});
        cluster.apply(&sales, &resource("SubAccountApiKey", "sales", name, &key)).expect("edit may make keys");
        cluster.says("subaccountapikey", "sales", name, "Ready", "Ready");
        let credentials = cluster.credentials("sales", name);
        let own = "From: Sales <sales@example.com>";
        for other in ["support@example.com", "ceo@example.com", "SUPPORT@EXAMPLE.COM", "sales+ceo@example.com"] {
            let reply = send(&cluster, &credentials, other, own).await;
            let words = format!(
                "550 5.7.1 this key may not send as {other} (envelope's sender): it is not in spec.allowedSenders"
            );
            assert!(reply.starts_with(&words), "{reply}");
            for header in [
                format!("From: {other}"),
                format!("From: sales@example.com, {other}"),
                format!("{own}\r\nSender: {other}"),
                format!("{own}\r\nResent-From: {other}"),
                format!("{own}\r\nResent-From: sales@example.com\r\nResent-Sender: {other}"),
            ] {
                for envelope in ["sales@example.com", ""] {
                    let reply = send(&cluster, &credentials, envelope, &header).await;
                    assert!(reply.starts_with("550 5.7.1 "), "{name}, <{envelope}>, {header}: {reply}");
                }
            }
        }
        // What is the department's own passes, also where the key asks for more.
        let reply = send(&cluster, &credentials, "sales@example.com", own).await;
        assert!(reply.starts_with("250 2.0.0"), "{name}: {reply}");
    }
    assert_eq!(cluster.stage.sink.messages().len(), 2, "nothing else got through");
    let reply =
        send(&cluster, &cluster.credentials("sales", "all"), "x@mail.example.com", "From: x@mail.example.com").await;
    assert!(reply.starts_with("250 2.0.0"), "{reply}");

    // Another key of the same account is none of another account: the list is the account's, and not theirs to write.
    let widen = json!({"spec": {"allowedSenders": ["*@example.com"]}}).to_string();
    let patch = ["patch", "subaccount", "sales", "-n", "sales", "--type=merge", "-p", &widen];
    refused(cluster.run(&sales, &patch, ""), &["cannot patch resource \"subaccounts\""]);
    // Where they may write accounts, it takes `grant`.
    cluster.bind("sales", "franking-self-service", &sales);
    refused(cluster.run(&sales, &patch, ""), &["spec.allowedSenders", "the verb grant on creditpolicies/company"]);
    assert_eq!(franking.stop(), 0, "{}", cluster.stage.home.log());
}
