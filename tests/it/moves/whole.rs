//! Nothing is lost, and work goes on.

use std::sync::Arc;

use franking::domain::credit::{Outcome, Reservation, Verdict};
use franking::domain::id::MessageId;
use franking::ledger::sqlite::SqliteStore;
use franking::ledger::store::{Role, Settlement, State};
use franking::runtime::clock::Clock as _;
use uuid::Uuid;

use super::ledger::{INSTALLATION, Old, asked, holders, identity, key_id};
use super::{New, last};

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_with_a_history_is_moved_whole_and_goes_on() {
    for seed in 0..4 {
        let mut old = Old::new(seed).await;
        old.live(600).await;
        let new = New::database(&format!("move_whole_{seed}")).await;
        // What the rollup has not taken is moved as such: the old ledger is not rolled up before, but afterwards.
        let before = identity(old.store.as_ref()).await;
        let copy = old.folder().join("copy.db");
        franking::ledger::sqlite::backup::backup(&old.path(), &copy, false).expect("a copy");
        let output = new.run(old.folder(), &[]);
        let (code, said) = last(&output);
        assert_eq!(code, Some(0), "seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("both sides agree"), "{said}");

        let clock = Arc::new(old.clock.clone());
        let copied = SqliteStore::open(&copy, clock).expect("the copy");
        let (left, there) = (Arc::new(copied), new.store(&old.clock));
        let left_session = franking::ledger::Store::open_session(left.as_ref(), Role::Operator, "asks").await;
        let session = there.open_session(Role::Operator, "asks").await.expect("a session");
        let wanted = asked(left.as_ref(), &left_session.expect("a session")).await;
        let mut found = asked(there.as_ref(), &session).await;

        // The trail has all, and the move itself.
        let moved = found.events.pop().expect("the move");
        assert_eq!((moved.kind.as_str(), moved.actor.as_str()), ("ledger.moved", "franking ledger move"));
        assert_eq!(found, wanted, "seed {seed}");
        let after = identity(there.as_ref()).await;
        assert_eq!((after.installation, after.cluster.as_str()), (INSTALLATION, "cluster"));
        assert_eq!((after.incarnation, after.state), (before.incarnation, State::Open));
        assert!(after.progress.reaches(before.progress), "{after:?} would be taken for an older one than {before:?}");
        goes_on(&old, there.as_ref()).await;

        // The old one is closed, also to who had it open.
        let refused = SqliteStore::open(&old.path(), Arc::new(old.clock.clone())).map(drop).expect_err("it was moved");
        assert!(refused.to_string().contains("it was moved to postgresql://"), "{refused}");
        assert!(old.store.open_session(Role::Relay, "late").await.is_err(), "it was written to");
        // Run again, it finds everything done.
        let (code, said) = last(&new.run(old.folder(), &[]));
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("already"), "{said}");
    }
}

/// Messages of before are known, copies are recognised, outcomes are taken, and mail is charged.
async fn goes_on(old: &Old, store: &dyn franking::ledger::Store) {
    let relay = store.open_session(Role::Relay, "relay-0").await.expect("a session");
    let before = store.balances(&holders()).await.expect("balances");
    let again: Vec<Reservation> =
        old.charged.iter().map(|asked| Reservation { fingerprint: None, ..asked.clone() }).collect();
    assert!(again.len() > 20, "{} messages", again.len());
    for batch in again.chunks(100) {
        let verdicts = store.reserve(&relay, batch).await.expect("answered");
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Reserved), "{verdicts:?}");
    }
    assert_eq!(store.balances(&holders()).await.expect("balances"), before, "a message was charged twice");

    let ms = u64::try_from(old.clock.now().as_millisecond()).expect("after 1970");
    let mut number = 0_u8;
    let mut message = || {
        number += 1;
        MessageId(uuid::Builder::from_unix_timestamp_millis(ms, &[number; 10]).into_uuid())
    };
    let mut recognised = 0;
    for (earlier, key, fingerprint) in &old.unknown {
        let copy = Reservation { message: message(), key: *key, credits: 1, fingerprint: Some(*fingerprint) };
        let kept = old.clock.now().duration_since(time_of(*earlier)).as_hours() < 12;
        let verdicts = store.reserve(&relay, &[copy]).await.expect("answered");
        if kept {
            assert_eq!(verdicts, [Verdict::Resumed(*earlier)]);
            recognised += 1;
        }
    }
    assert!(
        recognised > 0
            || old
                .unknown
                .iter()
                .all(|(earlier, _, _)| { old.clock.now().duration_since(time_of(*earlier)).as_hours() >= 12 })
    );
    let fresh = Reservation { message: message(), key: key_id(0), credits: 2, fingerprint: None };
    let charged = store.reserve(&relay, std::slice::from_ref(&fresh)).await.expect("answered");
    assert_eq!(charged, [Verdict::Reserved]);
    store.settle(&relay, &[Settlement::of(fresh.message, Outcome::Refused)]).await.expect("settled");
    // Sessions of before are over: what they left open is unknown in the end.
    store.sweep_sessions(&relay, jiff::SignedDuration::from_hours(1)).await.expect("swept");
    store.rollup(&relay).await.expect("rolled up");
    assert_eq!(store.check().await.expect("checked"), []);
    let id = store.identify(&relay, franking::domain::id::Kind::Key, "team", "another").await.expect("an id");
    assert_ne!(id, Uuid::nil());
}

fn time_of(message: MessageId) -> jiff::Timestamp {
    let seconds = message.0.get_timestamp().expect("a UUIDv7").to_unix().0;
    jiff::Timestamp::from_second(i64::try_from(seconds).expect("a time")).expect("a time")
}
