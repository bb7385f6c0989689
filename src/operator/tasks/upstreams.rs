//! Reads the relays' reports on the policies' upstreams from the ledger, for the policies' status.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::domain::id::{Holder, PolicyId};
use crate::domain::trouble::Sightings;
use crate::operator::context::Context;
use crate::operator::object_ref::{Name, Ref};
use crate::runtime::failure_streak::FailureStreak;

/// Interval of one query to the ledger, shorter than the time in which a status is read.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same while there is no relay: one that starts beside the operator is there in a moment.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// Time without a relay before that is reported. A relay that is being replaced, or starts beside the operator, changes
/// no status, and a restart writes nothing.
const ALONE_FOR: Duration = Duration::from_secs(60);

/// Runs until the future is dropped. Wakes the policies for which the relays' reports changed.
pub async fn run(context: &Context) {
    let mut failures = FailureStreak::default();
    let mut relay_at = Instant::now();
    loop {
        // Not while the ledger is held or being rebuilt.
        context.guard.opened().await;
        let sightings = context.ledger.sightings().await;
        if let Some(error) = failures.first(&sightings) {
            tracing::warn!(error = error as &dyn std::error::Error, "asking what the relays say of upstreams");
        }
        match sightings {
            Ok(next) if next.relays == 0 && relay_at.elapsed() < ALONE_FOR => {
                // The last report stays in force.
                sleep(LOOK_SOON).await;
                continue;
            }
            Ok(next) => {
                if next.relays > 0 {
                    relay_at = Instant::now();
                }
                let next = Arc::new(next);
                match context.upstreams.replace(next.clone()) {
                    Some(before) if before == next => {}
                    Some(before) if (before.relays == 0) == (next.relays == 0) => wake(context, &before, &next),
                    Some(_) | None => wake_all(context),
                }
            }
            // The last report stays in force.
            Err(_) => {}
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Wakes every policy with a reported problem, before or now: its status also shows the number of relays.
fn wake(context: &Context, before: &Sightings, next: &Sightings) {
    let both = before.troubles.iter().chain(&next.troubles);
    let policies: HashSet<PolicyId> = both.map(|trouble| trouble.policy).collect();
    for policy in policies {
        if let Some(what) = context.object_of(Holder::Policy(policy)) {
            context.queues.wake(&what);
        }
    }
}

fn wake_all(context: &Context) {
    for policy in context.references.policies.state() {
        context.queues.wake(&Ref::Policy(Name::of(policy.as_ref())));
    }
}
