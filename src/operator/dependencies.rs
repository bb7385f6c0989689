//! The operator's settings and dependencies.

use std::sync::Arc;

use rand::rngs::StdRng;

use super::plan::endpoint::Endpoint;
use super::plan::relay_state::RelayState;
use crate::ledger::Store;
use crate::operator::fleet::installation::Installation;
use crate::operator::report::account_metrics::AccountMetrics;
use crate::operator::state::lease::Leadership;
use crate::runtime::clock::Clock;
use crate::runtime::health::Health;
use crate::runtime::metrics::Registry;
use crate::runtime::notifier::Notifier;
use crate::runtime::relay_config::{InstallationKeys, LedgerAddress};

/// Settings of the operator that are fixed per deployment.
#[derive(Clone, Debug)]
pub struct OperatorSettings {
    /// The operator's own namespace, which holds the upstream Secrets.
    pub namespace: String,
    /// Namespaces whose Secrets RBAC lets the operator watch and write. Empty: all.
    pub secret_namespaces: Vec<String>,
    /// Concurrent reconciles, for each kind. An eighth of them is reserved for changes that stop a sender, and one
    /// namespace gets three quarters at most. Each has at most one request under way, and kube opens a connection for
    /// each, so this bounds the sockets too.
    pub concurrency: u16,
    /// Name of the ConfigMap that records the config in force on the relays.
    pub effective_config_map: String,
    /// The accounts that have metrics of their own.
    pub account_metrics: AccountMetrics,
    /// True if the chart's MutatingAdmissionPolicy stamps the user who changed a spec. Without it any client can set
    /// that annotation.
    pub changed_by_stamped: bool,
    /// Limit on status writes for figures alone; the default is negligible for an API server.
    pub status_writes_per_second: u32,
}

impl Default for OperatorSettings {
    fn default() -> Self {
        Self {
            namespace: "franking".to_owned(),
            secret_namespaces: Vec::new(),
            concurrency: 16,
            effective_config_map: "franking-relay-effective".to_owned(),
            account_metrics: AccountMetrics::Top(1_000),
            changed_by_stamped: false,
            status_writes_per_second: 25,
        }
    }
}

/// The dependencies of the operator role.
pub struct Dependencies {
    pub client: kube::Client,
    pub store: Arc<dyn Store>,
    pub settings: OperatorSettings,
    pub endpoint: tokio::sync::watch::Receiver<Endpoint>,
    pub relay: tokio::sync::watch::Receiver<RelayState>,
    pub keys: InstallationKeys,
    pub clock: Arc<dyn Clock>,
    pub rng: StdRng,
    pub registry: Registry,
    pub health: Health,
    /// Name of the ledger session: a new session with the same name fences the old one.
    pub name: String,
    /// The installation that the ledger must belong to, and its address. `None`: any ledger is accepted.
    pub place: Option<(Installation, LedgerAddress)>,
    /// The lease that this operator holds, where several share the ledger. `None`: there is no other operator.
    pub leadership: Option<Leadership>,
    /// Delivers notices to the platform.
    pub notifier: Arc<dyn Notifier>,
}
