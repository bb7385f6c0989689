//! The context of a pass: the clients, the stores and the state that passes and tasks share.
//!
//! A pass may use all of it, because the three kinds between them do. A task gets the parts that it uses; those that
//! judge or replace everything (usage, the ledger's identity, the rebuild, the write-off) get the whole.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use super::dependencies::{Dependencies, OperatorSettings};
use super::object_ref::Ref;
use super::plan::endpoint::Endpoint;
use super::plan::relay_state::RelayState;
use super::report::Report;
use crate::domain::credential::HashKey;
use crate::ledger::Sealer;
use crate::operator::state::awaiting_policy::AwaitingPolicy;
use crate::operator::state::config_hash::ConfigHash;
use crate::operator::state::costs::Costs;
use crate::operator::state::currencies::Currencies;
use crate::operator::state::denied_senders::Denied;
use crate::operator::state::guard::Guard;
use crate::operator::state::lease::Leader;
use crate::operator::state::ledger_client::LedgerClient;
use crate::operator::state::ledger_clock::LedgerClock;
use crate::operator::state::notices::Notices;
use crate::operator::state::orphan_messages::OrphanMessages;
use crate::operator::state::registered_ids::RegisteredIds;
use crate::operator::state::seeds::Seeds;
use crate::operator::state::status_permits::StatusPermits;
use crate::operator::state::upstreams::Upstreams;
use crate::operator::watch::references::References;
use crate::operator::watch::secret_watches::SecretWatches;
use crate::operator::watch::work_queue::WorkQueues;
use crate::runtime::clock::Clock;

/// Everything a reconcile may access.
pub struct Context {
    pub client: Client,
    pub ledger: LedgerClient,
    pub references: References,
    pub queues: WorkQueues,
    pub settings: OperatorSettings,
    pub endpoint: watch::Receiver<Endpoint>,
    pub relay: watch::Receiver<RelayState>,
    pub clock: Arc<dyn Clock>,
    pub seeds: Seeds,
    pub report: Report,
    pub hash_key: HashKey,
    pub sealer: Sealer,
    pub secret_watches: SecretWatches,
    pub ledger_guard: Guard,
    pub ledger_clock: LedgerClock,
    pub ids: RegisteredIds,
    pub status_permits: StatusPermits,
    pub awaiting_policy: AwaitingPolicy,
    pub currencies: Currencies,
    pub costs: Costs,
    pub notices: Notices,
    pub upstreams: Upstreams,
    pub denied: Denied,
    pub config_hash: ConfigHash,
    pub orphans: OrphanMessages,
}

impl Context {
    pub fn new(dependencies: Dependencies, leader: Option<Leader>, references: References, queues: WorkQueues) -> Self {
        let Dependencies {
            client,
            store,
            settings,
            endpoint,
            keys,
            clock,
            rng,
            registry,
            health,
            name,
            place,
            relay,
            leadership: _,
            notifier,
        } = dependencies;
        Self {
            report: Report::new(client.clone(), &registry, settings.account_metrics),
            secret_watches: SecretWatches::new(client.clone(), queues.keys.clone()),
            ledger_guard: Guard::new(place, &registry),
            ledger_clock: LedgerClock::new(&registry, &health),
            notices: Notices::new(notifier, &registry),
            hash_key: HashKey::new(&keys.hash.0),
            sealer: Sealer::new(&keys.seal),
            ledger: LedgerClient::new(store, name, leader),
            seeds: Seeds::new(rng),
            client,
            references,
            queues,
            settings,
            endpoint,
            relay,
            clock,
            ids: RegisteredIds::default(),
            status_permits: StatusPermits::default(),
            awaiting_policy: AwaitingPolicy::default(),
            currencies: Currencies::default(),
            costs: Costs::default(),
            upstreams: Upstreams::default(),
            denied: Denied::default(),
            config_hash: ConfigHash::default(),
            orphans: OrphanMessages::default(),
        }
    }

    /// True if the status may be written for its figures alone, or to correct figures that another writer changed.
    pub fn may_write_figures(&self, what: &Ref) -> bool {
        self.status_permits.is_granted(what) || self.references.own_statuses.must_be_reverted(what)
    }

    /// Forgets everything that is remembered of an object that is gone.
    pub fn forget(&self, what: &Ref) {
        self.ids.forget(what);
        self.status_permits.withdraw(what);
        self.references.own_statuses.forget(what);
        self.report.forget(what);
        match what {
            Ref::Policy(policy) => self.awaiting_policy.forget_policy(&policy.name),
            Ref::Account(account) => self.awaiting_policy.forget_account(account),
            Ref::Key(key) => self.secret_watches.release(key),
        }
    }

    /// Forgets the IDs and figures that belong to the previous ledger.
    pub async fn forget_ledger(&self) {
        self.ledger.forget().await;
        self.awaiting_policy.forget();
        self.ids.forget_all();
        self.status_permits.withdraw_all();
        self.currencies.forget_all();
    }
}
