//! The context of a pass: the clients, the stores and the state that passes and tasks share.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use uuid::Uuid;

use super::dependencies::{Dependencies, Settings};
use super::error::{Error, Result};
use super::object_ref::{Name, Ref};
use super::plan::endpoint::Endpoint;
use super::plan::relay_state::RelayState;
use super::report::Report;
use crate::domain::credential::HashKey;
use crate::domain::directory::Entry;
use crate::domain::id::{Holder, PolicyId};
use crate::ledger::Sealer;
use crate::operator::state::awaiting_policy::AwaitingPolicy;
use crate::operator::state::costs::Costs;
use crate::operator::state::denied_senders::Denied;
use crate::operator::state::guard::Guard;
use crate::operator::state::lease::Leader;
use crate::operator::state::ledger_client::LedgerClient;
use crate::operator::state::ledger_clock::LedgerClock;
use crate::operator::state::notices::Notices;
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
    pub settings: Settings,
    pub endpoint: watch::Receiver<Endpoint>,
    pub relay: watch::Receiver<RelayState>,
    pub clock: Arc<dyn Clock>,
    pub report: Report,
    pub secret_watches: SecretWatches,
    pub guard: Guard,
    pub ledger_clock: LedgerClock,
    pub awaiting_policy: AwaitingPolicy,
    pub costs: Costs,
    pub notices: Notices,
    pub upstreams: Upstreams,
    pub denied: Denied,
    pub hash_key: HashKey,
    pub sealer: Sealer,
    rng: Mutex<StdRng>,
    /// IDs of the objects that were reconciled and still exist, each with the UID of its namespace at that time.
    ids: Mutex<HashMap<Ref, (String, Uuid)>>,
    /// The object of each holder in the ledger.
    holders: Mutex<HashMap<Holder, Ref>>,
    /// Objects whose figures may be written now.
    granted: Mutex<HashSet<Ref>>,
    /// The currency of each policy's money.
    currencies: Mutex<HashMap<PolicyId, String>>,
    /// Hash of the config in force on the relays; `None` until it was written.
    config_hash: Mutex<Option<String>>,
    /// Messages for policies about entries without a resource that wait for an administrator.
    orphans: Mutex<BTreeMap<PolicyId, String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> parking_lot::MutexGuard<'_, T> {
    mutex.lock()
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
            guard: Guard::new(place, &registry),
            ledger_clock: LedgerClock::new(&registry, &health),
            awaiting_policy: AwaitingPolicy::default(),
            client,
            ledger: LedgerClient::new(store, name, leader),
            references,
            queues,
            settings,
            endpoint,
            relay,
            clock,
            currencies: Mutex::default(),
            config_hash: Mutex::default(),
            orphans: Mutex::default(),
            costs: Costs::default(),
            notices: Notices::new(notifier, &registry),
            upstreams: Upstreams::default(),
            denied: Denied::default(),
            hash_key: HashKey::new(&keys.hash.0),
            sealer: Sealer::new(&keys.seal),
            rng: Mutex::new(rng),
            ids: Mutex::default(),
            holders: Mutex::default(),
            granted: Mutex::default(),
        }
    }

    /// Returns a new generator, so that no lock is held while a plan is made.
    pub fn rng(&self) -> StdRng {
        StdRng::from_rng(&mut *lock(&self.rng))
    }

    pub fn permit_status(&self, what: Ref) {
        lock(&self.granted).insert(what);
    }

    /// True if the status may be written for its figures alone, or to correct figures that another writer changed.
    pub fn status_permitted(&self, what: &Ref) -> bool {
        lock(&self.granted).contains(what) || self.references.shown.is_to_be_put_right(what)
    }

    pub fn use_status_permit(&self, what: &Ref) {
        lock(&self.granted).remove(what);
    }

    /// Returns the hash of the config in force on the relays; `None` until it was written.
    pub fn config_hash(&self) -> Option<String> {
        lock(&self.config_hash).clone()
    }

    /// Replaces the hash of the config in force on the relays. Returns true if it changed.
    pub fn replace_config_hash(&self, hash: &str) -> bool {
        let old = lock(&self.config_hash).replace(hash.to_owned());
        old.as_deref() != Some(hash)
    }

    /// Replaces the policies' messages about orphans. Returns the policies whose message changed.
    pub fn replace_orphans(&self, next: BTreeMap<PolicyId, String>) -> Vec<PolicyId> {
        let mut standing = lock(&self.orphans);
        let both: BTreeSet<PolicyId> = standing.keys().chain(next.keys()).copied().collect();
        let changed = both.into_iter().filter(|policy| standing.get(policy) != next.get(policy)).collect();
        *standing = next;
        changed
    }

    /// Returns the message about a policy's entries without a resource, if there are any.
    pub fn orphans_of(&self, policy: PolicyId) -> Option<String> {
        lock(&self.orphans).get(&policy).cloned()
    }

    /// Returns the currency of a policy's money, if it was read before.
    pub fn known_currency(&self, policy: PolicyId) -> Option<String> {
        lock(&self.currencies).get(&policy).cloned()
    }

    pub fn remember_currency(&self, policy: PolicyId, currency: String) {
        lock(&self.currencies).insert(policy, currency);
    }

    pub fn object_of(&self, holder: Holder) -> Option<Ref> {
        lock(&self.holders).get(&holder).cloned()
    }

    pub fn holder_of(&self, what: &Ref) -> Option<Holder> {
        let (uid, id) = lock(&self.ids).get(what).cloned()?;
        let namespace = &what.name().namespace;
        let current = namespace.is_empty() || self.references.namespace(namespace)?.uid()? == uid;
        current.then(|| Holder::new(what.kind(), id))
    }

    pub fn forget(&self, what: &Ref) {
        if let Some((_, id)) = lock(&self.ids).remove(what) {
            lock(&self.holders).remove(&Holder::new(what.kind(), id));
        }
        lock(&self.granted).remove(what);
        self.references.shown.forget(what);
    }

    /// Forgets the IDs and figures that belong to the previous ledger.
    pub async fn forget_ledger(&self) {
        self.ledger.forget().await;
        self.awaiting_policy.forget();
        lock(&self.ids).clear();
        lock(&self.holders).clear();
        lock(&self.granted).clear();
        lock(&self.currencies).clear();
    }

    pub fn wake_everything(&self) {
        for policy in self.references.policies.state() {
            self.queues.wake(&Ref::Policy(Name::of(policy.as_ref())));
        }
        for account in self.references.accounts.state() {
            self.queues.wake(&Ref::Account(Name::of(account.as_ref())));
        }
        for key in self.references.keys.state() {
            self.queues.wake(&Ref::Key(Name::of(key.as_ref())));
        }
    }

    pub async fn id(&self, what: &Ref, namespace_uid: &str) -> Result<Uuid> {
        if let Some((_, id)) = lock(&self.ids).get(what).filter(|(uid, _)| uid == namespace_uid) {
            return Ok(*id);
        }
        let id = self.identify(what, namespace_uid).await?;
        lock(&self.ids).insert(what.clone(), (namespace_uid.to_owned(), id));
        Ok(id)
    }

    /// Returns the ID of the object with this name in the namespace as it is now. Reads the namespace live, because a
    /// watch may still show its predecessor. `None`: there is no such namespace. Does not remember the ID, because the
    /// object may not exist.
    pub async fn live_id(&self, what: &Ref) -> Result<Option<Uuid>> {
        let name = what.name();
        if name.namespace.is_empty() {
            return self.identify(what, "").await.map(Some);
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let live = api.get_metadata_opt(&name.namespace).await.map_err(Error::cluster("reading a namespace"))?;
        let Some(uid) = live.and_then(|namespace: PartialObjectMeta<Namespace>| namespace.metadata.uid) else {
            return Ok(None);
        };
        self.identify(what, &uid).await.map(Some)
    }

    async fn identify(&self, what: &Ref, namespace_uid: &str) -> Result<Uuid> {
        let identified = self.ledger.identify(what.kind(), namespace_uid, &what.name().name);
        identified.await.map_err(Error::ledger("identifying an object"))
    }

    /// Returns the holder of `what` and remembers the mapping.
    pub async fn holder(&self, what: Ref, namespace_uid: &str) -> Result<Holder> {
        let holder = Holder::new(what.kind(), self.id(&what, namespace_uid).await?);
        // Figures that changed before the holder's object was known are processed now.
        if lock(&self.holders).insert(holder, what.clone()).is_none() {
            self.references.recount(what);
        }
        Ok(holder)
    }

    pub async fn entry(&self, holder: Holder) -> Result<Option<Entry>> {
        self.ledger.entry(holder).await.map_err(Error::ledger("reading the directory"))
    }
}
