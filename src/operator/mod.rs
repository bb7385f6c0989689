//! Turns specs into Secrets, directory entries and status: observe ▶ plan (pure) ▶ apply ▶ report.
//!
//! One generic loop ([`reconcile`]) serves the three kinds. A plan decides everything; [`apply`] only writes;
//! [`report`] is the only writer of status, Events and the loop's metrics. Watches resolve references ([`references`]).
//!
//! The operator must never write to a `spec`; touch a Secret that is not ours, or overwrite what others wrote into a
//! shared one; let a credential outlive its resource; retry every few seconds what only a user can fix; write when
//! nothing has changed.
//!
//! The rights that reconciling needs:
//!
//! | group | resources | verbs | where |
//! | --- | --- | --- | --- |
//! | franking.io | creditpolicies, subaccounts, subaccountapikeys | get, list, watch, patch | everywhere |
//! | franking.io | the three, `/status` | patch | everywhere |
//! | – | namespaces | get, list, watch | everywhere |
//! | – | secrets | get, list, watch, create, patch, delete | everywhere, or in `secret_namespaces` and its own namespace |
//! | events.k8s.io | events | create | everywhere |
//! | – | the ConfigMap `<release>-relay-effective` | patch; create, if the chart did not make it | its own namespace |
//!
//! The chart grants more in the operator's own namespace: get and patch of the ConfigMap and Secret
//! `franking-installation` (keys, known ledger, acceptance); create of ConfigMaps and Secrets, because authorization
//! does not know the names of new objects; and with PostgreSQL the objects of the relay fleet and the Lease for leader
//! election. No right on `/finalizers`: the owner references of our Secrets do not block the owner's deletion, so no
//! admission asks for it.

pub mod apply;
pub mod context;
pub mod dependencies;
pub mod error;
pub mod fleet;
pub mod kinds;
pub mod object_ref;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod report;
pub mod resource;
pub mod state;
pub mod tasks;
pub mod watch;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::crd::{CreditPolicy, SubAccount, SubAccountApiKey};

pub use dependencies::{Dependencies, OperatorSettings};
pub use error::Error;
pub use plan::endpoint::Endpoint;
pub use plan::relay_state::{RelayInForce, RelayState, Replicas};
pub use report::account_metrics::AccountMetrics;

use context::Context;
use error::Deposed;
use state::lease::Leader;
use tasks::costs::RunningBills;
use tasks::denied_senders::SenderDenials;
use tasks::effective::EffectiveConfig;
use tasks::housekeeping::Housekeeping;
use tasks::notices::NoticeDelivery;
use tasks::upstreams::UpstreamReports;
use tasks::{changes, incarnation, ledger_time, sweep, usage, write_off};
use watch::references::References;
use watch::work_queue::WorkQueues;

/// Runs until `shutdown`, then lets the reconciles under way finish. All tasks end with the returned future. A deposed
/// leader ends at once and finishes nothing.
pub async fn run(mut dependencies: Dependencies, shutdown: CancellationToken) -> Result<(), Error> {
    let Some(leadership) = dependencies.leadership.take() else {
        return Box::pin(work(dependencies, None, shutdown)).await;
    };
    let leader = leadership.leader();
    let ended = tokio::select! {
        // Polled first: a deposed operator must not do anything more.
        biased;
        () = leader.lost() => Err(Error::Deposed(Deposed)),
        ended = Box::pin(work(dependencies, Some(leadership.leader()), shutdown)) => ended,
    };
    match ended {
        Err(Error::Deposed(_)) => drop(leadership),
        // Resigns after a failure too: another process may succeed.
        Ok(()) | Err(_) => leadership.resign().await,
    }
    ended
}

async fn work(dependencies: Dependencies, leader: Option<Leader>, shutdown: CancellationToken) -> Result<(), Error> {
    let settings = dependencies.settings.clone();
    let gate = dependencies.health.gate("operator");
    let (references, writers) = References::new(&settings);
    let queues = WorkQueues::new(settings.concurrency);
    let client = dependencies.client.clone();
    let context = Arc::new(Context::new(dependencies, leader, references, queues));
    let mut reconcilers = JoinSet::new();
    reconcilers.spawn(reconcile::run::<CreditPolicy>(context.clone(), shutdown.clone()));
    reconcilers.spawn(reconcile::run::<SubAccount>(context.clone(), shutdown.clone()));
    reconcilers.spawn(reconcile::run::<SubAccountApiKey>(context.clone(), shutdown.clone()));

    let watching = Box::pin(watch::feed::watch(&context.references, &client, &settings, writers, &context.queues));
    let background = async {
        context.references.ready().await?;
        gate.open();
        tracing::info!("the operator has seen all resources");
        run_tasks(&context).await;
        Ok(())
    };
    let ended = tokio::select! {
        // Polled first, because a shutdown ends the loops too, which is no failure.
        biased;
        () = shutdown.cancelled() => Ok(()),
        () = watching => Err(Error::Watch),
        ended = background => ended,
        // A loop ends by itself only if it failed, and an operator with two loops of three would look alive.
        Some(_) = reconcilers.join_next() => Err(Error::Loop),
    };
    // A shutdown may have come while the branches were being polled.
    let ended = if shutdown.is_cancelled() { Ok(()) } else { ended };
    gate.close("stopping");
    shutdown.cancel();
    while reconcilers.join_next().await.is_some() {}
    incarnation::end(&context).await;
    if let Err(error) = context.ledger.close().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "closing the ledger's session");
    }
    ended
}

/// Runs the tasks beside the passes. Each gets what it uses; those that judge or replace everything get the context.
async fn run_tasks(context: &Context) {
    let Context { client, ledger, ledger_guard, references, queues, report, ids, .. } = context;
    let (settings, clock) = (&context.settings, context.clock.as_ref());
    let housekeeping = Housekeeping { ledger_guard, ledger, report, clock };
    let running_bills = RunningBills { ledger, costs: &context.costs, ids, references, clock };
    let effective_config = EffectiveConfig {
        client,
        config_map: (&settings.namespace, &settings.effective_config_map),
        ledger_guard,
        ledger,
        relay: &context.relay,
        config_hash: &context.config_hash,
        references,
        clock,
    };
    let notice_delivery = NoticeDelivery {
        ledger,
        notices: &context.notices,
        references,
        report,
        endpoint: &context.endpoint,
        sealer: &context.sealer,
        namespace: &settings.namespace,
        clock,
    };
    let upstream_reports =
        UpstreamReports { ledger_guard, ledger, upstreams: &context.upstreams, ids, references, queues };
    let sender_denials =
        SenderDenials { ledger_guard, ledger, denied: &context.denied, references, report, queues, clock };
    // Boxed: together they would fill half of a thread's stack where they are created.
    tokio::join!(
        Box::pin(incarnation::run(context)),
        Box::pin(ledger_time::run(ledger, &context.ledger_clock, references, queues)),
        Box::pin(housekeeping.run()),
        Box::pin(usage::run(context)),
        Box::pin(running_bills.run()),
        Box::pin(effective_config.run()),
        Box::pin(notice_delivery.run()),
        Box::pin(write_off::run(context)),
        Box::pin(sweep::run(context)),
        Box::pin(upstream_reports.run()),
        Box::pin(sender_denials.run()),
        Box::pin(changes::of_endpoint(context.endpoint.clone(), references, queues)),
        Box::pin(changes::of_relay(context.relay.clone(), references, queues))
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_role_can_run_on_any_thread() {
        fn is_send<T: Send>(_: impl FnOnce(super::Dependencies, super::CancellationToken) -> T) {}
        is_send(super::run);
    }
}
