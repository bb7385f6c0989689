//! The operator's settings and all that it is built from.

use std::sync::Arc;

use rand::rngs::StdRng;

use super::plan::endpoint::Endpoint;
use super::plan::relay_state::RelayState;
use crate::domain::relay_config::{InstallationKeys, LedgerAddress};
use crate::ledger::Store;
use crate::operator::fleet::installation::Installation;
use crate::operator::report::account_metrics::AccountMetrics;
use crate::operator::state::lease::Leadership;
use crate::runtime::clock::Clock;
use crate::runtime::courier::Courier;
use crate::runtime::health::Health;
use crate::runtime::metrics::Registry;

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
