//! How mail leaves, on the real wire: each row of the failure table against a sink that does just that.

mod bodies;
mod failures;
mod login;
mod notifier;
mod pool;

use std::time::Duration;

use bytes::Bytes;
use franking::domain::directory::{UpstreamEntry, UpstreamSecret, UpstreamTls};
use franking::domain::id::PolicyId;
use franking::domain::sender::Address;
use franking::runtime::metrics::{Registry, render};
use franking::upstream::{Forwarded, Message, Target, Tenant, UpstreamSettings, Upstreams};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::sink::{Sink, SinkOptions, SinkTls};

/// Longer than anything here takes; a test that waits so long has failed.
const SOON: Duration = Duration::from_secs(20);

/// A sink, a pool and a policy that forwards to it.
struct Scene {
    sink: Sink,
    upstreams: Upstreams,
    target: Target,
    registry: Registry,
}

impl Scene {
    async fn new(options: SinkOptions) -> Self {
        Self::with(options, |_| {}).await
    }

    async fn with(options: SinkOptions, edit: impl FnOnce(&mut UpstreamSettings)) -> Self {
        let login = options.login.clone();
        let tls = match options.tls {
            SinkTls::None => UpstreamTls::None,
            SinkTls::StartTls => UpstreamTls::StartTls,
            SinkTls::Implicit => UpstreamTls::Implicit,
        };
        let sink = Sink::start(options).await;
        let mut settings = UpstreamSettings::new("relay.example.com", 4);
        edit(&mut settings);
        let registry = Registry::new();
        let secret = UpstreamSecret { login, ca_pem: sink.ca_pem().map(str::to_owned), client: None };
        let entry = UpstreamEntry {
            host: "localhost".into(),
            port: sink.address().port(),
            tls,
            secret: None,
            max_recipients: 100,
        };
        let target = Target { policy: PolicyId(Uuid::from_u128(1)), entry, secret: Some(secret) };
        Self { upstreams: Upstreams::new(settings, &registry), sink, target, registry }
    }

    async fn forward(&self, message: Message) -> Forwarded {
        self.upstreams.forward(&self.target, message, Instant::now() + SOON).await
    }

    async fn forward_within(&self, message: Message, budget: Duration) -> Forwarded {
        self.upstreams.forward(&self.target, message, Instant::now() + budget).await
    }

    fn metrics(&self) -> String {
        render(&self.registry)
    }
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("an address")
}

fn message(body: impl Into<Bytes>) -> Message {
    let body = body.into();
    Message {
        sender: Some(address("alerts@example.com")),
        recipients: vec![address("one@example.net")],
        eight_bit: !body.is_ascii(),
        body,
        smtputf8: false,
        tenant: tenant(7, "team"),
    }
}

fn tenant(account: u128, namespace: &str) -> Tenant {
    Tenant { account: Uuid::from_u128(account), namespace: namespace.into() }
}

fn hello() -> Message {
    message("Subject: hello\r\n\r\nhello\r\n")
}

fn to(recipients: &[&str]) -> Message {
    Message { recipients: recipients.iter().map(|text| address(text)).collect(), ..hello() }
}

fn assert_relayed(forwarded: &Forwarded) {
    assert!(matches!(forwarded, Forwarded::Relayed { .. }), "{forwarded:?}");
}

#[tokio::test]
async fn a_relayed_message_arrives_with_its_envelope_and_the_upstreams_word() {
    let scene = Scene::new(SinkOptions::default()).await;
    let said = scene.forward(to(&["one@example.net", "two@example.net"])).await;
    assert!(matches!(&said, Forwarded::Relayed { reply } if reply == "250 2.0.0 taken"), "{said:?}");
    let null_sender = Message { sender: None, ..hello() };
    assert_relayed(&scene.forward(null_sender).await);
    let received = scene.sink.messages();
    assert_eq!(received[0].from, "alerts@example.com");
    assert_eq!(received[0].to, ["one@example.net", "two@example.net"]);
    assert_eq!(received[0].parameters, "SIZE=25");
    assert_eq!(received[0].body, b"Subject: hello\r\n\r\nhello\r\n");
    assert_eq!(received[1].from, "");
    let metrics = scene.metrics();
    let policy = scene.target.policy;
    let line = format!("franking_upstream_transactions_total{{outcome=\"relayed\",policy=\"{policy}\"}} 2");
    assert!(metrics.contains(&line), "{metrics}");
    let seen = scene.upstreams.announced(&scene.target).expect("capabilities after the first message");
    assert!(seen.pipelining && seen.smtputf8);
}

#[tokio::test]
async fn an_upstream_without_extensions_is_spoken_to_step_by_step() {
    let bare =
        SinkOptions { pipelining: false, eight_bit_mime: false, smtputf8: false, size: None, ..Default::default() };
    let scene = Scene::new(bare).await;
    assert_relayed(&scene.forward(hello()).await);
    assert_relayed(&scene.forward(to(&["one@example.net", "two@example.net"])).await);
    assert_eq!(scene.sink.messages()[1].to.len(), 2);
    assert_eq!(scene.sink.messages()[1].parameters, "");
    let refused =
        [(message("Subject: x\r\n\r\n\u{fc}\r\n"), 554, "5.6.3"), (to(&["gr\u{fc}\u{df}e@example.net"]), 554, "5.6.9")];
    for (message, expected, status) in refused {
        let said = scene.forward(message).await;
        assert!(
            matches!(&said, Forwarded::Refused { code, enhanced: Some(enhanced), .. } if *code == expected && enhanced == status),
            "{said:?}"
        );
    }
    assert_eq!(scene.sink.count(), 2);
}

#[tokio::test]
async fn extensions_are_used_where_they_are_offered() {
    let scene = Scene::new(SinkOptions { size: Some(100), ..Default::default() }).await;
    assert_relayed(&scene.forward(message("Subject: x\r\n\r\n\u{fc}\r\n")).await);
    assert_eq!(scene.sink.messages()[0].parameters, "SIZE=18 BODY=8BITMIME");
    assert_relayed(&scene.forward(to(&["gr\u{fc}\u{df}e@example.net"])).await);
    assert_eq!(scene.sink.messages()[1].parameters, "SIZE=25 SMTPUTF8");
    assert_eq!(scene.sink.messages()[1].to, ["gr\u{fc}\u{df}e@example.net"]);
    let said = scene.forward(message("x".repeat(99) + "\r\n")).await;
    assert!(matches!(said, Forwarded::Refused { code: 552, .. }), "{said:?}");
    assert_eq!(scene.sink.count(), 2);
}
