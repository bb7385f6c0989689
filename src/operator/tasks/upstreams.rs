//! Reads the relays' reports on the policies' upstreams from the ledger, for the policies' status.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::domain::id::{Holder, PolicyId};
use crate::domain::trouble::Sightings;
use crate::operator::state::guard::Guard;
use crate::operator::state::ledger_client::LedgerClient;
use crate::operator::state::registered_ids::RegisteredIds;
use crate::operator::state::upstreams::Upstreams;
use crate::operator::watch::references::References;
use crate::operator::watch::work_queue::WorkQueues;
use crate::runtime::failure_streak::FailureStreak;

/// Interval of one query to the ledger, shorter than the time in which a status is read.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same while there is no relay: one that starts beside the operator is there in a moment.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// Time without a relay before that is reported. A relay that is being replaced, or starts beside the operator, changes
/// no status, and a restart writes nothing.
const ALONE_FOR: Duration = Duration::from_secs(60);

/// The task, with what it uses of the operator.
pub struct UpstreamReports<'a> {
    pub ledger_guard: &'a Guard,
    pub ledger: &'a LedgerClient,
    pub upstreams: &'a Upstreams,
    pub ids: &'a RegisteredIds,
    pub references: &'a References,
    pub queues: &'a WorkQueues,
}

impl UpstreamReports<'_> {
    /// Runs until the future is dropped. Wakes the policies for which the relays' reports changed.
    pub async fn run(&self) {
        let mut failures = FailureStreak::default();
        let mut relay_at = Instant::now();
        loop {
            // Not while the ledger is held or being rebuilt.
            self.ledger_guard.opened().await;
            let sightings = self.ledger.sightings().await;
            if let Some(error) = failures.first(&sightings) {
                tracing::warn!(error = error as &dyn std::error::Error, "reading the relays' reports on upstreams");
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
                    match self.upstreams.replace(next.clone()) {
                        Some(before) if before == next => {}
                        Some(before) if (before.relays == 0) == (next.relays == 0) => self.wake(&before, &next),
                        Some(_) | None => self.references.wake_policies(self.queues),
                    }
                }
                // The last report stays in force.
                Err(_) => {}
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Wakes every policy with a reported problem, before or now: its status also shows the number of relays.
    fn wake(&self, before: &Sightings, next: &Sightings) {
        let both = before.troubles.iter().chain(&next.troubles);
        let policies: HashSet<PolicyId> = both.map(|trouble| trouble.policy).collect();
        for policy in policies {
            if let Some(what) = self.ids.object_of(Holder::Policy(policy)) {
                self.queues.wake(&what);
            }
        }
    }
}
