//! One message's id in the log of all that had to do with it, and one object's name and UID.

use std::time::Duration;

use crate::story::{Stage, send};
use crate::support::franking::{DEADLINE, eventually};
use crate::support::mail::{Credentials, Session};
use crate::support::sink::{Act, At};

const SOON: Duration = Duration::from_secs(30);

/// The value of a field in a line of the log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("{name}="))?;
    rest.split(|c: char| c.is_whitespace() || c == '}' || c == ':').next().map(|value| value.trim_matches('"'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_followed_by_its_id_through_relay_ledger_and_operator() {
    let stage = Stage::set().await;
    let franking = stage.home.start();
    stage.policy(100);
    stage.account("cap: {credits: 10}");
    stage.key("website", "label: Website");
    stage.wait_ready();
    let credentials = stage.credentials("website");

    // The upstream has it and says nothing, when everything is killed.
    stage.sink.always(At::Final, Act::Stall);
    let (mut session, reply) = Session::open_quietly(&credentials).expect("a login");
    assert!(reply.starts_with("235"), "{reply}");
    let sending = tokio::task::spawn_blocking(move || session.send("news@example.com", "reader@example.net", "lost"));
    stage.sink.wait_for_stalled(1, SOON).await;
    franking.kill();
    assert!(!sending.await.expect("no panic").is_ok_and(|reply| reply.starts_with("250")));
    stage.sink.behave();
    let franking = stage.home.start();

    let lost = eventually("the operator to name the lost message", DEADLINE, || {
        let log = stage.home.log();
        let line = log.lines().find(|line| line.contains("ended without settling it"))?.to_owned();
        Some(field(&line, "message.id").unwrap_or_else(|| panic!("no id in {line}")).to_owned())
    });
    let log = stage.home.log();
    let of_message: Vec<&str> = log.lines().filter(|line| line.contains(&lost)).collect();
    for (room, words) in [
        ("franking::relay", "read to its final dot"),
        ("franking::ledger", "judged and charged"),
        ("franking::operator", "ended without settling it"),
    ] {
        let found = of_message.iter().find(|line| line.contains(room) && line.contains(words));
        assert!(found.is_some(), "{room}: {words} is not among {of_message:#?}");
    }
    let of_relay = of_message.iter().find(|line| line.contains("franking::relay")).expect("a line");
    assert_eq!(field(of_relay, "key"), Some("team/website"), "{of_relay}");

    // One that arrives has its id in each layer too.
    let (mut session, _) = Session::open_quietly(&credentials).expect("a login");
    let reply = send(&mut session, "arrives");
    assert!(reply.starts_with("250"), "{reply}");
    let log = stage.home.log();
    let done =
        log.lines().rfind(|line| line.contains("outcome=\"relayed\"") && line.contains("took_ms")).expect("a line");
    let id = field(done, "message.id").expect("an id");
    for words in ["read to its final dot", "judged and charged", "its outcome is handed in"] {
        assert!(log.lines().any(|line| line.contains(id) && line.contains(words)), "{words} of {id}");
    }

    // A device that shows nothing but "Error" is found by its address, and neither its name nor its password is written down.
    let wrong =
        Credentials { username: "people-type-it-here".to_owned(), password: "mistyped".to_owned(), ..credentials };
    let (_, reply) = Session::open_quietly(&wrong).expect("a connection");
    assert!(reply.starts_with("535"), "{reply}");
    let log = stage.home.log();
    let line = log.lines().find(|line| line.contains("login refused")).expect("a line of the refused login");
    assert_eq!((field(line, "peer"), field(line, "result")), (Some("127.0.0.1"), Some("bad_login")), "{line}");
    assert!(!log.contains("people-type-it-here") && !log.contains("mistyped"));
    assert_eq!(franking.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_of_a_reconcile_names_the_object_and_its_uid() {
    let stage = Stage::set().await;
    stage.policy(100);
    stage.account("cap: {credits: 10}");
    // In the way of the key's Secret, and immutable: what a pass runs into is logged.
    stage.apply(
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: none, namespace: team}, spec: {hard: {secrets: 0}}}",
    );
    eventually("the quota to be in force", DEADLINE, || {
        (stage.kubectl(&["get", "quota", "none", "-n", "team", "-o", "jsonpath={.status.hard.secrets}"]) == "0")
            .then_some(())
    });
    let franking = stage.home.start();
    stage.key("website", "label: Website");
    let uid = stage.kubectl(&["get", "subaccountapikey", "website", "-n", "team", "-o", "jsonpath={.metadata.uid}"]);
    let line = eventually("a pass that fails", DEADLINE, || {
        let log = stage.home.log();
        log.lines().find(|line| line.contains("reconcile{") && line.contains("WARN")).map(str::to_owned)
    });
    assert_eq!(field(&line, "object"), Some("team/website"), "{line}");
    assert_eq!(field(&line, "uid"), Some(uid.as_str()), "{line}");
    assert!(line.contains("kind=SubAccountApiKey"), "{line}");
    drop(franking);
}
