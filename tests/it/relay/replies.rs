//! One test per row of the reply table.

use franking::domain::directory::{Entry, Suspension};
use franking::domain::id::Holder;

use super::scene::{ACCOUNT, FROM, MAIL, PASSWORD, POLICY, SOON, Scene, TO, key, monthly, username};
use crate::support::client::Client;

#[tokio::test]
async fn a_message_is_relayed_charged_and_accepted() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.deliver(FROM, &[TO, "other@elsewhere.example"], MAIL).await.is("250 2.0.0 relayed, id ");
    client.ask("QUIT").await.is("221 2.0.0");
    client.closed().await;

    let messages = scene.sink.wait_for(1, SOON).await;
    assert_eq!((messages.len(), messages[0].from.as_str()), (1, FROM));
    assert_eq!(messages[0].to, [TO, "other@elsewhere.example"]);
    let body = String::from_utf8(messages[0].body.clone()).expect("text");
    assert!(body.starts_with("Received: by relay.example.com (Franking) with ESMTPSA id "), "{body}");
    assert!(body.contains("\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n"), "{body}");
    assert!(body.contains("@relay.example.com>\r\n") && body.ends_with(&format!("{MAIL}\r\n")), "{body}");
    scene.until_usage([2, 2, 0, 0, 0]).await;
    let metrics = scene.metrics();
    assert!(metrics.contains("franking_relay_messages_total{policy=\"plan\",result=\"relayed\"} 1"), "{metrics}");
    assert!(metrics.contains("franking_relay_credits_total{outcome=\"relayed\",policy=\"plan\"} 2"), "{metrics}");
}
