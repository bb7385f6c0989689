//! An installation outgrows its one pod: mail flows before and after, hears 451 in between, and what is charged in the end
//! is what arrived.

use std::process::Command;

use crate::spread::{NAMESPACE, SpreadSetup, plan};
use crate::support::franking::{DEADLINE, Home, eventually, free_port};
use crate::support::mail::{Credentials, Session};
use crate::support::sink::{Sink, SinkOptions};

const CAP: u32 = 1_000;
const BEFORE: usize = 30;
const AFTER: usize = 20;

/// Sends so many messages, and waits until each is acknowledged.
fn send(credentials: &Credentials, number: usize, when: &str) {
    let (mut session, reply) = Session::open_quietly(credentials).expect("a relay");
    assert!(reply.starts_with("235"), "{when}: {reply}");
    for n in 0..number {
        let reply = session.send("news@example.com", "reader@example.net", &format!("{when} {n}")).expect("a reply");
        assert!(reply.starts_with("250"), "{when}: {reply}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_moves_to_postgres_with_mail_before_and_after_and_every_credit() {
    let setup = SpreadSetup::new("move_story").await;
    let home = Home::new(setup.kubeconfig(), NAMESPACE);
    let sink = Sink::start(SinkOptions::default()).await;
    let single = home.start();
    setup.apply(&plan(&sink, CAP));
    setup.key("orders");
    let credentials = setup.credentials("orders", DEADLINE);
    send(&credentials, BEFORE, "before");
    assert_eq!(single.stop(), 0, "{}", home.log());

    // The fleet comes up on the empty database, and tells its clients to come again: nothing is refused for good.
    let mut operator = setup.operate();
    eventually("the Secrets of the relays", DEADLINE, || setup.has_relay_secrets().then_some(()));
    let port = free_port();
    let mut relay = setup.relay_on("relay-0", port);
    relay.wait_ready();
    let there = Credentials { port, ..credentials.clone() };
    let (_, reply) = Session::open_quietly(&there).expect("a relay");
    assert!(reply.starts_with("454"), "{reply}");

    let mut command = Command::new(env!("CARGO_BIN_EXE_franking"));
    command.args(["ledger", "move", "--from"]).arg(home.ledger()).arg("--config").arg(setup.settings()).env_clear();
    let moved = command.output().expect("the binary starts");
    assert!(moved.status.success(), "{moved:?}");

    // Nobody accepts anything: operator and relay find the ledger that they know.
    eventually("the same password to work", DEADLINE, || {
        let (_, reply) = Session::open_quietly(&there).ok()?;
        assert!(!reply.starts_with('5'), "refused for good: {reply}");
        reply.starts_with("235").then_some(())
    });
    send(&there, AFTER, "after");
    let credentials_now = setup.credentials("orders", DEADLINE);
    assert_eq!(credentials_now.password, credentials.password);
    eventually("the figures of both", DEADLINE, || {
        let used = setup.read_in("team", &["subaccount", "shop"], "{.status.credits.used}");
        (used == (BEFORE + AFTER).to_string()).then_some(())
    });
    relay.stop();
    operator.stop();
    assert_eq!(sink.messages().len(), BEFORE + AFTER);
    assert_eq!(setup.charged().await, BEFORE + AFTER, "charged is not what arrived");
    setup.balances();
}
