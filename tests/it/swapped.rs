//! The database below a fleet is another than it was: nothing is sent, everything says why, and what an administrator
//! accepts by name has everybody's password and used credits.

use crate::spread::{Process, SpreadSetup, plan, with_databases};
use crate::support::franking::{DEADLINE, eventually};
use crate::support::mail::{Credentials, Session};
use crate::support::sink::{Sink, SinkOptions};

const DATABASE: &str = "swapped";

/// The processes of the fleet, as they are started when their pods are.
struct Running {
    operator: Process,
    relay: Process,
    credentials: Credentials,
}

impl Running {
    fn start(setup: &SpreadSetup) -> Self {
        let operator = setup.operate();
        eventually("the Secrets of the relays", DEADLINE, || setup.has_relay_secrets().then_some(()));
        let (mut relay, port) = setup.relay("relay-0");
        relay.wait_ready();
        let mut credentials = setup.credentials_now("orders");
        credentials.port = port;
        Self { operator, relay, credentials }
    }

    fn log_in(&self) -> String {
        Session::open_quietly(&self.credentials).map_or_else(|error| error, |(_, reply)| reply)
    }

    /// Sends until it is refused; how many went through.
    fn send_all(&self) -> usize {
        let (mut session, reply) = Session::open_quietly(&self.credentials).expect("a connection");
        assert!(reply.starts_with("235"), "{reply}");
        let mut send = || session.send("orders@example.com", "reader@example.net", "Order").expect("an answer");
        let passed = std::iter::repeat_with(&mut send).take_while(|reply| reply.starts_with("250")).count();
        let refused = send();
        assert!(refused.starts_with("452 4.7.1"), "{refused}");
        passed
    }

    fn stop(mut self) {
        self.relay.stop();
        self.operator.stop();
    }
}

fn account(setup: &SpreadSetup, path: &str) -> String {
    setup.read_in("team", &["subaccount", "shop"], path)
}

fn shows_used(setup: &SpreadSetup, used: &str) {
    let field = || (account(setup, "{.status.credits.used}") == used).then_some(());
    eventually(&format!("{used} used credits on status"), DEADLINE, field);
}

/// Nothing is sent, and everything says that the ledger is `what`; the name by which it would be accepted.
fn held(setup: &SpreadSetup, running: &Running, what: &str) -> String {
    for kind in ["subaccount/shop", "subaccountapikey/orders"] {
        eventually(kind, DEADLINE, || {
            let shown = setup.read_in("team", &[kind], "{.status.conditions[?(@.type==\"Stalled\")]}");
            (shown.contains("LedgerReplaced") && shown.contains(what)).then_some(())
        });
    }
    let reply = running.log_in();
    assert!(reply.starts_with("454"), "{reply}");
    let message = account(setup, "{.status.conditions[?(@.type==\"Stalled\")].message}");
    let (_, name) = message.split_once("franking.io/accept-ledger=").unwrap_or_else(|| panic!("{message}"));
    name.to_owned()
}

/// Accepted, and rebuilt: everything is Ready again, and the relays are rolled with what they are told of it.
fn accepted(setup: &SpreadSetup, running: Running, finding: &str) -> Running {
    let password = running.credentials.password.clone();
    setup.accept(finding);
    for (namespace, object) in [("team", "subaccount/shop"), ("team", "subaccountapikey/orders")] {
        eventually(object, DEADLINE, || {
            let ready = setup.read_in(namespace, &[object], "{.status.conditions[?(@.type==\"Ready\")].status}");
            (ready == "True").then_some(())
        });
    }
    running.stop();
    let running = Running::start(setup);
    assert_eq!(running.credentials.password, password);
    eventually("the same password to work", DEADLINE, || {
        let reply = running.log_in();
        assert!(!reply.starts_with('5'), "refused for good: {reply}");
        reply.starts_with("235").then_some(())
    });
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_empty_or_restored_is_held_until_it_is_accepted() {
    let setup = SpreadSetup::new(DATABASE).await;
    let sink = Sink::start(SinkOptions::default()).await;
    let mut operator = setup.operate();
    setup.apply(&plan(&sink, 4));
    setup.key("orders");
    setup.credentials("orders", DEADLINE);
    operator.stop();
    let running = Running::start(&setup);
    assert_eq!(running.send_all(), 4);
    shows_used(&setup, "4");
    running.stop();

    let (old, saved) = (format!("{DATABASE}_old"), format!("{DATABASE}_saved"));
    let drop = |name: &str| format!("DROP DATABASE IF EXISTS {name}");
    let rename = |from: &str, to: &str| format!("ALTER DATABASE {from} RENAME TO {to}");
    with_databases(&[drop(&old), rename(DATABASE, &old), format!("CREATE DATABASE {DATABASE}")]).await;
    let running = Running::start(&setup);
    let finding = held(&setup, &running, "is empty");
    let running = accepted(&setup, running, &finding);
    assert_eq!(running.send_all(), 0, "no credit is given twice");
    running.stop();

    // A copy of this moment, put in its place when it is not the truth any more.
    with_databases(&[drop(&saved), format!("CREATE DATABASE {saved} TEMPLATE {DATABASE}")]).await;
    let running = Running::start(&setup);
    setup.apply(&plan(&sink, 6));
    eventually("the raised cap", DEADLINE, || (account(&setup, "{.status.credits.remaining}") == "2").then_some(()));
    assert_eq!(running.send_all(), 2);
    shows_used(&setup, "6");
    running.stop();
    with_databases(&[drop(DATABASE), rename(&saved, DATABASE)]).await;
    let running = Running::start(&setup);
    let finding = held(&setup, &running, "is older than");
    let running = accepted(&setup, running, &finding);
    assert_eq!(running.send_all(), 0, "no credit is given twice");
    running.stop();

    // Empty once more, and everything is deleted and made again before it is accepted.
    with_databases(&[drop(&old), rename(DATABASE, &old), format!("CREATE DATABASE {DATABASE}")]).await;
    let running = Running::start(&setup);
    let finding = held(&setup, &running, "is empty");
    let objects = ["subaccountapikey/orders", "subaccount/shop"];
    objects.iter().for_each(|object| setup.delete(object));
    setup.accept(&finding);
    for object in objects {
        eventually("the deletion to be done", DEADLINE, || setup.is_gone(object).then_some(()));
    }
    setup.apply(&plan(&sink, 6));
    setup.key("orders");
    setup.credentials("orders", DEADLINE);
    running.stop();
    let running = Running::start(&setup);
    assert_eq!(running.send_all(), 0, "nothing is refilled by deleting");
    shows_used(&setup, "6");
    running.stop();
    setup.balances();
    with_databases(&[drop(&old), drop(DATABASE)]).await;
    assert_eq!(sink.messages().len(), 6);
}
