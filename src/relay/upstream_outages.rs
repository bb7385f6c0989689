//! Reports to the ledger which upstreams are not tried for a while, and that they are tried again.
//!
//! It reports once a second, and writes only what changed. A new session has reported nothing, so it reports all again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::admit::Admission;
use crate::domain::trouble::{TROUBLES_MAX, Trouble};
use crate::ledger::Error;
use crate::ledger::store::LedgerSession;
use crate::runtime::failure_streak::FailureStreak;

/// Interval of reports. A shorter one has no use: an upstream that comes back is probed after two seconds at the
/// earliest.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The latest report, and the session that made it.
#[derive(Default)]
struct Told {
    session: Option<LedgerSession>,
    troubles: Vec<Trouble>,
    /// The outages seen last, reported or not.
    seen: Vec<Trouble>,
}

/// Reports until `stop`. A session's reports end with it.
pub async fn tell(admission: Arc<Admission>, stop: CancellationToken) {
    let mut told = Told::default();
    let mut failures = FailureStreak::default();
    loop {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let session = admission.ledger.session().await;
        told.seen = since_then(admission.upstreams.troubles(admission.auth.now()), &told.seen);
        if told.session.as_ref() != Some(&session) {
            told.session = Some(session.clone());
            // Reports of an ended session do not count, and need not be withdrawn.
            told.troubles.clear();
        }
        if told.seen == told.troubles {
            continue;
        }
        let put = admission.ledger.store().put_troubles(&session, &told.seen).await;
        // The heartbeat opens another session, unless the relay is shutting down.
        if matches!(put, Err(Error::Fenced)) {
            continue;
        }
        if let Some(error) = failures.first(&put) {
            tracing::warn!(error = error as &dyn std::error::Error, "telling of upstreams in trouble");
        }
        if put.is_ok() {
            told.troubles.clone_from(&told.seen);
        }
    }
}

/// Returns the outages seen now, each since it was first seen, in a stable order.
fn since_then(mut seen: Vec<Trouble>, before: &[Trouble]) -> Vec<Trouble> {
    let same = |one: &Trouble, other: &Trouble| {
        (one.policy, &one.upstream, one.fault) == (other.policy, &other.upstream, other.fault)
    };
    for trouble in &mut seen {
        if let Some(known) = before.iter().find(|known| same(known, trouble)) {
            trouble.since = known.since;
        }
    }
    seen.sort_by_key(|trouble| (trouble.since, trouble.policy.0));
    seen.truncate(TROUBLES_MAX);
    seen
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::PolicyId;
    use crate::domain::trouble::Fault;

    fn trouble(policy: u128, fault: Fault, second: i64) -> Trouble {
        let since = Timestamp::from_second(second).expect("a time");
        let (upstream, why) = ("smtp.example.com:465".to_owned(), String::new());
        Trouble { policy: PolicyId(Uuid::from_u128(policy)), upstream, fault, why, since }
    }

    #[test]
    fn a_trouble_that_stays_began_when_it_was_seen_first() {
        let told = [trouble(1, Fault::Unreachable, 10), trouble(2, Fault::Unreachable, 20)];
        let seen = vec![
            trouble(3, Fault::Unreachable, 30),
            trouble(2, Fault::RefusesUs, 30),
            trouble(1, Fault::Unreachable, 30),
        ];
        let now = since_then(seen, &told);
        let expected =
            [trouble(1, Fault::Unreachable, 10), trouble(2, Fault::RefusesUs, 30), trouble(3, Fault::Unreachable, 30)];
        assert_eq!(now, expected, "another fault is another trouble");
        assert_eq!(since_then(now.clone(), &now), now);
    }
}
