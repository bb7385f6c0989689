//! Upstreams as the platform team sees them, on a real API server with the real binary: what a policy says of one that
//! refuses it, and one that is logged in to with a password and a client certificate.

use std::time::Duration;

use franking::crd::CreditPolicy;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::{DEADLINE, Home, eventually};
use crate::support::mail::{Credentials, Session};
use crate::support::sink::{Act, At, Sink, SinkOptions, SinkTls};
use crate::support::{definitions, identity};

/// A condition is as old as a look of the relay, one of the operator's and a reconcile; the rest is a busy machine.
const SAID: Duration = Duration::from_secs(60);

/// An operator's namespace, whose name is the policy's too, with `franking all` to be started in it.
struct UpstreamSetup {
    /// Of its own: two operators on one would work against each other.
    plane: ControlPlane,
    home: Home,
    name: &'static str,
}

impl UpstreamSetup {
    async fn new(name: &'static str) -> Self {
        let plane = ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
        definitions::install(&plane.admin_client().await).await;
        let (kubeconfig, _) = identity::operator(&plane, name).await;
        Self { home: Home::new(&kubeconfig, name), plane, name }
    }

    fn apply(&self, object: serde_json::Value) {
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        succeeded(self.plane.kubectl_stdin(&apply, &object.to_string()));
    }

    fn get(&self, what: &str, output: &str) -> String {
        let output = format!("--output={output}");
        succeeded(self.plane.kubectl(&["get", what, "--namespace", self.name, &output]))
    }

    /// A plan with this upstream, an account and a key.
    fn plan(&self, upstream: serde_json::Value) {
        let kind = |kind: &str, metadata: serde_json::Value, spec: serde_json::Value| {
            self.apply(json!({"apiVersion": "franking.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}));
        };
        let here = |name: &str| json!({"name": name, "namespace": self.name});
        let spec = json!({"senders": {"domains": ["example.com"]}, "upstream": upstream});
        kind("CreditPolicy", json!({"name": self.name}), spec);
        kind("SubAccount", here("shop"), json!({"policyRef": {"name": self.name}}));
        kind("SubAccountApiKey", here("orders"), json!({"subAccountRef": {"name": "shop"}}));
    }

    fn credentials(&self) -> Credentials {
        let wait = ["wait", "--for=condition=Ready", "subaccountapikey/orders", "--namespace", self.name];
        let waited = self.plane.kubectl(&[&wait[..], &["--timeout=60s"]].concat());
        assert!(waited.status.success(), "the key is not ready: {waited:?}\n{}", self.home.log());
        let secret: Secret = serde_json::from_str(&self.get("secret/orders", "json")).expect("a Secret");
        Credentials::from_secret(&secret).expect("a Secret of ours")
    }

    fn policy(&self) -> CreditPolicy {
        serde_json::from_str(&self.get(&format!("creditpolicy/{}", self.name), "json")).expect("a policy")
    }

    /// Waits until a condition of the policy is so; its message.
    fn said(&self, kind: &str, status: &str, reason: &str) -> String {
        eventually(&format!("{kind}={status}, {reason}"), SAID, || {
            let conditions = self.policy().status?.conditions;
            let found = conditions.into_iter().find(|condition| condition.type_ == kind)?;
            (found.status == status && found.reason == reason).then_some(found.message)
        })
    }

    fn events(&self) -> Vec<String> {
        let events = ["get", "events.events.k8s.io", "--namespace", "default", "--output"];
        let path = format!(
            "jsonpath={{range .items[?(@.regarding.name==\"{}\")]}}{{.type}} {{.reason}}: {{.note}}{{\"\\n\"}}{{end}}",
            self.name
        );
        let all = succeeded(self.plane.kubectl(&[&events[..], &[path.as_str()]].concat()));
        all.lines().map(str::to_owned).collect()
    }
}

fn send(credentials: &Credentials) -> String {
    let (mut session, reply) = Session::open_quietly(credentials).expect("a connection");
    assert!(reply.starts_with("235"), "{reply}");
    session.send("orders@example.com", "reader@example.net", "Order").expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_us_is_said_on_its_policy_until_it_takes_mail_again() {
    let setup = UpstreamSetup::new("upstreams-refusing").await;
    let sink = Sink::start(SinkOptions::default()).await;
    let place = sink.address();
    let franking = setup.home.start();
    setup.plan(json!({"host": "127.0.0.1", "port": place.port(), "tls": "None"}));
    let credentials = setup.credentials();
    tokio::task::block_in_place(|| {
        assert!(send(&credentials).starts_with("250"));
        setup.said("UpstreamAvailable", "True", "UpstreamAvailable");

        sink.always(At::Mail, Act::Reply("530 5.7.0 authentication required for relay@secret.example"));
        for _ in 0..6 {
            let reply = send(&credentials);
            assert!(reply.starts_with("451 4.3.5"), "{reply}");
        }
        let message = setup.said("UpstreamAvailable", "False", "UpstreamRefusesUs");
        let begins = format!("{place} refuses us since 20");
        assert!(
            message.starts_with(&begins) && message.contains("it refuses our login (530); 1 of 1 relays"),
            "{message}"
        );
        assert!(!message.contains("secret.example"), "an upstream's own words are nobody's business: {message}");
        setup.said("Ready", "True", "Ready");
        let described = succeeded(setup.plane.kubectl(&["describe", "creditpolicy", setup.name]));
        assert!(described.contains("UpstreamRefusesUs") && described.contains(&begins), "{described}");
        eventually("the Event", DEADLINE, || {
            setup.events().into_iter().find(|event| event.starts_with("Warning UpstreamRefusesUs: ")).map(drop)
        });

        sink.behave();
        eventually("mail flows again", SAID, || send(&credentials).starts_with("250").then_some(()));
        setup.said("UpstreamAvailable", "True", "UpstreamAvailable");
        eventually("the Event", DEADLINE, || {
            let told = "Normal UpstreamAvailable: the upstream accepts mail again";
            setup.events().into_iter().find(|event| event == told).map(drop)
        });

        // Nobody who answers, and then nobody who could tell.
        setup.plan(json!({"host": "127.0.0.1", "port": 9, "tls": "None"}));
        eventually("the upstream is gone", SAID, || send(&credentials).starts_with("451 4.4.1").then_some(()));
        for _ in 0..5 {
            send(&credentials);
        }
        let message = setup.said("UpstreamAvailable", "False", "UpstreamUnreachable");
        assert!(message.starts_with("127.0.0.1:9 cannot be used since 20"), "{message}");
        setup.plan(json!({"host": "127.0.0.1", "port": place.port(), "tls": "None"}));
        setup.said("UpstreamAvailable", "True", "UpstreamAvailable");
    });
    assert_eq!(franking.stop(), 0, "{}", setup.home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_and_a_login_from_secrets_are_shown_to_the_upstream() {
    let setup = UpstreamSetup::new("upstreams-strict").await;
    let ours = rcgen::generate_simple_self_signed(["franking.example".to_owned()]).expect("a certificate");
    let options = SinkOptions {
        tls: SinkTls::Implicit,
        login: Some(("plan".to_owned(), "upstream-password".to_owned())),
        client_ca: Some(ours.cert.pem()),
        ..SinkOptions::default()
    };
    let strict = Sink::start(options).await;
    let franking = setup.home.start();
    let secret = |name: &str, data: serde_json::Value| {
        setup.apply(json!({
            "apiVersion": "v1", "kind": "Secret", "stringData": data,
            "metadata": {"name": name, "namespace": setup.name, "labels": {"franking.io/use": "true"}}
        }));
    };
    secret(
        "login",
        json!({
            "username": "plan", "password": "upstream-password", "ca.crt": strict.ca_pem().expect("an authority")
        }),
    );
    let upstream = json!({
        "host": "localhost", "port": strict.address().port(), "tls": "Implicit",
        "credentialsSecretRef": {"name": "login"}, "clientCertificateSecretRef": {"name": "certificate"}
    });
    setup.plan(upstream);
    tokio::task::block_in_place(|| {
        let message = setup.said("Ready", "False", "SecretNotFound");
        assert!(message.contains("clientCertificateSecretRef"), "{message}");
        let stranger = rcgen::generate_simple_self_signed(["stranger.example".to_owned()]).expect("a certificate");
        secret(
            "certificate",
            json!({
                "tls.crt": stranger.cert.pem(), "tls.key": stranger.signing_key.serialize_pem()
            }),
        );
        setup.said("Ready", "True", "Ready");
        let credentials = setup.credentials();
        eventually("the stranger's certificate is refused", SAID, || {
            send(&credentials).starts_with("451 4.4.").then_some(())
        });
        assert_eq!(strict.count(), 0);
        secret("certificate", json!({"tls.crt": ours.cert.pem(), "tls.key": ours.signing_key.serialize_pem()}));
        eventually("ours is shown", SAID, || send(&credentials).starts_with("250").then_some(()));
        let received = strict.messages();
        assert_eq!((received.len(), received[0].auth.as_deref(), received[0].tls), (1, Some("plan"), true));
    });
    assert_eq!(franking.stop(), 0, "{}", setup.home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_not_allowed_is_told_on_its_key_once_and_its_domains_on_the_account() {
    let setup = UpstreamSetup::new("senders-denied").await;
    let sink = Sink::start(SinkOptions::default()).await;
    let franking = setup.home.start();
    setup.plan(json!({"host": "127.0.0.1", "port": sink.address().port(), "tls": "None"}));
    let credentials = setup.credentials();
    tokio::task::block_in_place(|| {
        let account = setup.get("subaccount/shop", "jsonpath={.status.senderDomains}");
        assert_eq!(account, "[\"example.com\"]");
        let forged = || {
            let (mut session, _) = Session::open_quietly(&credentials).expect("a connection");
            session.send("secret-name@bank.example", "reader@example.net", "Order").expect("an answer")
        };
        let reply = forged();
        let look = "its domain is not in status.senderDomains of SubAccount senders-denied/shop";
        assert!(reply.starts_with("550 5.7.1") && reply.contains(look), "{reply}");
        let events = || {
            let path = "jsonpath={range .items[?(@.reason==\"SenderDenied\")]}{.regarding.name}: {.note}{\"\\n\"}{end}";
            let get = ["get", "events.events.k8s.io", "--namespace", setup.name, "--output", path];
            succeeded(setup.plane.kubectl(&get)).lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let told = eventually("the Event", SAID, || events().pop());
        let words =
            "orders: 1 message was refused: the sender's domain, last of bank.example, is not in status.senderDomains";
        assert!(told.starts_with(words) && !told.contains("secret-name"), "{told}");
        let count = || setup.get("subaccountapikey/orders", "jsonpath={.status.deniedSenders.messages}");
        eventually("the count", SAID, || (count() == "1").then_some(()));
        // More of the same within the hour is no news, and another reason is.
        for _ in 0..3 {
            forged();
        }
        let key = json!({"subAccountRef": {"name": "shop"}, "allowedSenders": ["orders@example.com"]});
        let metadata = json!({"name": "orders", "namespace": setup.name});
        setup.apply(json!({
            "apiVersion": "franking.io/v1alpha1", "kind": "SubAccountApiKey", "metadata": metadata, "spec": key
        }));
        eventually("the other reason", SAID, || {
            let (mut session, _) = Session::open_quietly(&credentials).expect("a connection");
            let reply = session.send("else@example.com", "reader@example.net", "Order").expect("an answer");
            reply.contains("spec.allowedSenders of SubAccountApiKey").then_some(())
        });
        eventually("its Event", SAID, || events().into_iter().find(|event| event.contains("of this key")).map(drop));
        let of_the_first = events().iter().filter(|event| event.contains("bank.example")).count();
        assert_eq!(of_the_first, 1, "{:?}", events());
        eventually("all of them", SAID, || (count() == "5").then_some(()));
        let of_the_account = || setup.get("subaccount/shop", "jsonpath={.status.keys.deniedMessages}");
        eventually("all of them on the account", SAID, || (of_the_account() == "5").then_some(()));
    });
    assert_eq!(franking.stop(), 0, "{}", setup.home.log());
}
