//! Specs become Secrets, directory entries and status: observe ▶ plan (pure) ▶ apply ▶ report.
//!
//! One generic loop ([`reconcile`]) for the three kinds; a plan decides everything, [`apply`] only writes, [`report`]
//! is the only writer of status, Events and the loop's metrics. References are resolved by watches ([`references`]).
//!
//! What it must never do: write to a `spec`; touch a Secret that is not ours, or overwrite what others wrote into one that
//! is shared; let a credential outlive its resource; retry every few seconds what only a user can put right; write where
//! there is nothing to do.
//!
//! The rights it needs, and no others (`charts/franking` grants exactly these):
//!
//! | group | resources | verbs | where |
//! | --- | --- | --- | --- |
//! | franking.io | creditpolicies, subaccounts, subaccountapikeys | get, list, watch, patch | everywhere |
//! | franking.io | the three, `/status` | patch | everywhere |
//! | – | namespaces | get, list, watch | everywhere |
//! | – | secrets | get, list, watch, create, patch, delete | everywhere |
//! | events.k8s.io | events | create | everywhere |
//! | – | the ConfigMap `<release>-relay-effective` | patch; where the chart did not make it, create | its own namespace |
//!
//! No right on `/finalizers`: the owner references of our Secrets do not block the owner's deletion, so no admission
//! asks for it. `prepare` needs more in its own namespace; the chart says what.

pub mod account_metrics;
mod apply;
pub mod books;
pub mod certificate;
pub mod chain;
pub mod costs;
pub mod deletions;
pub mod denied_senders;
pub mod early;
mod effective;
pub mod error;
pub mod fleet;
pub mod housekeeping;
pub mod in_service;
pub mod incarnation;
pub mod index;
pub mod installation;
pub mod kinds;
pub mod lease;
pub mod ledger_time;
pub mod marks;
pub mod notices;
pub mod observe;
pub mod plan;
pub mod prepare;
pub mod rebuild;
pub mod reconcile;
pub mod references;
pub mod relay_config;
pub mod report;
pub mod secret_watches;
pub mod shown;
pub mod status_queue;
pub mod sweep;
pub mod upstream_secret;
pub mod upstreams;
pub mod usage;
pub mod watch;
pub mod work_queue;
pub mod write_off;
pub mod written;

use std::sync::Arc;

use rand::rngs::StdRng;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::crd::{CreditPolicy, SubAccount, SubAccountApiKey};
use crate::domain::relay_config::{InstallationKeys, LedgerAddress, Limits, Listener};
use crate::ledger::Store;
use crate::runtime::clock::Clock;
use crate::runtime::courier::Courier;
use crate::runtime::health::Health;
use crate::runtime::metrics::Registry;
pub use account_metrics::AccountMetrics;
pub use error::Error;
use installation::Installation;
use lease::{Leader, Leadership};
use observe::Context;
use references::{References, WorkQueues};

/// Where programs send to: what Secrets and status say of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    /// Listeners by name.
    pub ports: Vec<(String, u16)>,
    /// The port with TLS from the first byte, for `smtps://`.
    pub tls_port: Option<u16>,
    /// The port with STARTTLS, for `smtp://` where there is no other.
    pub starttls_port: Option<u16>,
    /// The certificate authority, where it is a private one.
    pub ca_pem: Option<String>,
}

/// The port of a relay that names none: RFC 6409's.
const SUBMISSION: u16 = 587;

impl Endpoint {
    /// Scheme and port of the URI that programs are given.
    pub fn preferred(&self) -> (&'static str, u16) {
        match (self.tls_port, self.starttls_port) {
            (Some(port), _) => ("smtps", port),
            (None, Some(port)) => ("smtp", port),
            (None, None) => ("smtp", self.ports.first().map_or(SUBMISSION, |(_, port)| *port)),
        }
    }
}

/// What is known of the relays, for the policies' status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayState {
    /// Why what the settings say is not in force: the relays go on with what was good last.
    pub refused: Option<String>,
    /// `None` where nobody can say from here.
    pub replicas: Option<Replicas>,
    /// What they run with besides the directory; `None` until it is known.
    pub in_force: Option<Arc<RelayInForce>>,
}

/// The relays' settings that are in force, without what is secret in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayInForce {
    pub hostname: String,
    pub listeners: Vec<Listener>,
    pub limits: Limits,
}

/// The relays of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    pub ready: i32,
    pub wanted: i32,
}

/// What a deploy decides about the operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's own namespace, where upstream Secrets are.
    pub namespace: String,
    /// Reconciles at a time, for each kind: an eighth of them are kept for what stops a sender, and one namespace has three
    /// quarters at most. Each has one request under way at most, and kube opens a connection for each, so this bounds the
    /// sockets too.
    pub concurrency: u16,
    /// The ConfigMap that says what the relays run with.
    pub effective_config_map: String,
    /// How many accounts have figures of their own in the metrics.
    pub account_metrics: AccountMetrics,
    /// The chart's MutatingAdmissionPolicy stamps who changed a spec. Without it anybody may write that annotation.
    pub changed_by_stamped: bool,
    /// Statuses written for figures alone: by default what an API server does not notice.
    pub status_writes_per_second: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: "franking".to_owned(),
            concurrency: 16,
            effective_config_map: "franking-relay-effective".to_owned(),
            account_metrics: AccountMetrics::Top(1_000),
            changed_by_stamped: false,
            status_writes_per_second: 25,
        }
    }
}

/// All that the role is built from.
pub struct Dependencies {
    pub client: kube::Client,
    pub store: Arc<dyn Store>,
    pub settings: Settings,
    pub endpoint: tokio::sync::watch::Receiver<Endpoint>,
    pub relay: tokio::sync::watch::Receiver<RelayState>,
    pub keys: InstallationKeys,
    pub clock: Arc<dyn Clock>,
    pub rng: StdRng,
    pub registry: Registry,
    pub health: Health,
    /// Names the ledger session: a new one under the same name fences the old.
    pub name: String,
    /// The installation that the ledger must be of, and where it is. Without one, any ledger will do.
    pub place: Option<(Installation, LedgerAddress)>,
    /// Where several operators share the ledger: the lease that this one holds. `None`: there is no other.
    pub leadership: Option<Leadership>,
    /// Carries what the platform is told.
    pub courier: Arc<dyn Courier>,
}

/// Runs until `shutdown`, then lets the reconciles under way finish. Every task ends with the returned future. A leader
/// that is deposed finishes nothing.
pub async fn run(mut dependencies: Dependencies, shutdown: CancellationToken) -> Result<(), Error> {
    let Some(leadership) = dependencies.leadership.take() else {
        return Box::pin(work(dependencies, None, shutdown)).await;
    };
    let leader = leadership.leader();
    let ended = tokio::select! {
        // First: who does not lead any more must not do one thing more.
        biased;
        () = leader.lost() => Err(Error::Deposed(lease::Deposed)),
        ended = Box::pin(work(dependencies, Some(leadership.leader()), shutdown)) => ended,
    };
    match ended {
        Err(Error::Deposed(_)) => drop(leadership),
        // Also after a failure: another process may fare better.
        Ok(()) | Err(_) => leadership.resign().await,
    }
    ended
}

async fn work(dependencies: Dependencies, leader: Option<Leader>, shutdown: CancellationToken) -> Result<(), Error> {
    let settings = dependencies.settings.clone();
    let gate = dependencies.health.gate("operator");
    let (references, writers) = References::new();
    let queues = WorkQueues::new(settings.concurrency);
    let client = dependencies.client.clone();
    let context = Arc::new(Context::new(dependencies, leader, references, queues));
    let mut reconcilers = JoinSet::new();
    reconcilers.spawn(reconcile::run::<CreditPolicy>(context.clone(), shutdown.clone()));
    reconcilers.spawn(reconcile::run::<SubAccount>(context.clone(), shutdown.clone()));
    reconcilers.spawn(reconcile::run::<SubAccountApiKey>(context.clone(), shutdown.clone()));

    let watching = Box::pin(context.references.watch(&client, &settings.namespace, writers, &context.queues));
    let background = async {
        context.references.ready().await?;
        gate.open();
        tracing::info!("the operator has seen all resources");
        // Each on the heap: together they would fill half of a thread's stack where they are made.
        tokio::join!(
            Box::pin(incarnation::run(&context)),
            Box::pin(ledger_time::run(&context)),
            Box::pin(housekeeping::run(&context)),
            Box::pin(usage::run(&context)),
            Box::pin(costs::run(&context)),
            Box::pin(effective::run(&context)),
            Box::pin(notices::run(&context)),
            Box::pin(write_off::run(&context)),
            Box::pin(sweep::run(&context)),
            Box::pin(upstreams::run(&context)),
            Box::pin(denied_senders::run(&context)),
            Box::pin(endpoint_changes(&context)),
            Box::pin(relay_changes(&context))
        );
        Ok(())
    };
    let ended = tokio::select! {
        // First, because a stop ends the loops too, and that is not their breaking.
        biased;
        () = shutdown.cancelled() => Ok(()),
        () = watching => Err(Error::Watch),
        ended = background => ended,
        // A loop ends by itself only when it broke, and an operator with two loops of three would look alive.
        Some(_) = reconcilers.join_next() => Err(Error::Loop),
    };
    // A stop that came while the ends were being asked one by one.
    let ended = if shutdown.is_cancelled() { Ok(()) } else { ended };
    gate.close("stopping");
    shutdown.cancel();
    while reconcilers.join_next().await.is_some() {}
    incarnation::end(&context).await;
    if let Err(error) = context.books.close().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "closing the ledger's session");
    }
    ended
}

/// Another address of the relay goes into every Secret.
async fn endpoint_changes(context: &Context) {
    let mut endpoint = context.endpoint.clone();
    endpoint.mark_unchanged();
    while endpoint.changed().await.is_ok() {
        context.wake_everything();
    }
    std::future::pending::<()>().await;
}

/// What is said of the relays goes into every policy's status: at once where something is wrong or right again, and in
/// the budget of the counts where only their number changed.
async fn relay_changes(context: &Context) {
    let mut relay = context.relay.clone();
    let mut shown = relay.borrow_and_update().clone();
    while relay.changed().await.is_ok() {
        let next = relay.borrow_and_update().clone();
        let urgent = plan::credit_policy::lacks(&shown) != plan::credit_policy::lacks(&next);
        for policy in context.references.policies.state() {
            let what = references::Ref::Policy(watch::Name::of(policy.as_ref()));
            if urgent { context.queues.wake(&what) } else { context.references.recount(what) }
        }
        shown = next;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_role_can_run_on_any_thread() {
        fn is_send<T: Send>(_: impl FnOnce(super::Dependencies, super::CancellationToken) -> T) {}
        is_send(super::run);
    }
}
