//! The stores that the watches fill, the index of how their objects refer to each other, and what is remembered of own
//! writes.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource as _;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::watch;

use crate::crd::{CreditPolicy, SubAccount, SubAccountApiKey};
use crate::operator::dependencies::OperatorSettings;
use crate::operator::error::{Error, Result};
use crate::operator::object_ref::Name;
use crate::operator::object_ref::Ref;
use crate::operator::plan::adoption::Adoption;
use crate::operator::plan::meta;
use crate::operator::state::deletions::Deletions;
use crate::operator::state::edits::Edits;
use crate::operator::state::expectations::Expectations;
use crate::operator::state::index::Index;
use crate::operator::state::own_statuses::OwnStatuses;
use crate::operator::watch::work_queue::WorkQueues;

/// Number of watches beside those of Secrets in all namespaces: the three kinds, namespaces, and the upstreams' logins.
const OTHERS: usize = 5;
/// Number of watches of Secrets for each namespace that may be watched: ours, and the users' own passwords.
const OF_SECRETS: usize = 2;

/// The state known from the watches.
pub struct References {
    pub policies: Store<CreditPolicy>,
    pub accounts: Store<SubAccount>,
    pub keys: Store<SubAccountApiKey>,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    /// Secrets in the operator's namespace that may be used.
    logins: Store<Secret>,
    index: RwLock<Index>,
    pub expectations: Expectations,
    pub own_statuses: OwnStatuses<Ref>,
    pub deletions: Deletions,
    pub edits: Edits,
    /// Objects whose figures or counts must be judged again.
    recount: Mutex<BTreeSet<Ref>>,
    /// Policies that accounts left since they were last counted; only the ledger knows how many.
    departures: Mutex<BTreeSet<String>>,
    /// Kinds whose first list is in its store and in the index. Not `Store::wait_until_ready`: kube 5 keeps one waker
    /// for all that wait for a store, so of several (each reconcile, and kube's own scheduler) all but the last would
    /// sleep for ever.
    listed: watch::Sender<usize>,
    /// Number of watches of Secrets: two, or two for each namespace that may be watched.
    secret_watches: usize,
}

/// The write handles of the stores.
pub struct Writers {
    pub(super) policies: Writer<CreditPolicy>,
    pub(super) accounts: Writer<SubAccount>,
    pub(super) keys: Writer<SubAccountApiKey>,
    pub(super) namespaces: Writer<PartialObjectMeta<Namespace>>,
    pub(super) logins: Writer<Secret>,
}

impl References {
    pub fn new(settings: &OperatorSettings) -> (Self, Writers) {
        let (policies, policy_writer) = reflector::store();
        let (accounts, account_writer) = reflector::store();
        let (keys, key_writer) = reflector::store();
        let (namespaces, namespace_writer) = reflector::store();
        let (logins, login_writer) = reflector::store();
        let (index, recount, departures) = (RwLock::default(), Mutex::default(), Mutex::default());
        let listed = watch::Sender::new(0);
        let writers = Writers {
            policies: policy_writer,
            accounts: account_writer,
            keys: key_writer,
            namespaces: namespace_writer,
            logins: login_writer,
        };
        let (expectations, deletions) = (Expectations::default(), Deletions::default());
        (
            Self {
                policies,
                accounts,
                keys,
                namespaces,
                logins,
                index,
                expectations,
                own_statuses: OwnStatuses::default(),
                deletions,
                edits: Edits::default(),
                recount,
                departures,
                listed,
                secret_watches: OF_SECRETS * settings.secret_namespaces.len().max(1),
            },
            writers,
        )
    }

    /// Waits until every store, and the index, has its first list: no decision is made from partial state.
    pub async fn ready(&self) -> Result<()> {
        self.listed
            .subscribe()
            .wait_for(|listed| *listed == OTHERS + self.secret_watches)
            .await
            .map(drop)
            .map_err(|_| Error::Watch)
    }

    pub fn policy(&self, name: &str) -> Option<Arc<CreditPolicy>> {
        self.policies.get(&ObjectRef::new(name))
    }

    pub fn account(&self, name: &Name) -> Option<Arc<SubAccount>> {
        self.accounts.get(&ObjectRef::new(&name.name).within(&name.namespace))
    }

    pub fn key(&self, name: &Name) -> Option<Arc<SubAccountApiKey>> {
        self.keys.get(&ObjectRef::new(&name.name).within(&name.namespace))
    }

    pub fn namespace(&self, name: &str) -> Option<Arc<PartialObjectMeta<Namespace>>> {
        self.namespaces.get(&ObjectRef::new(name))
    }

    pub fn login(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.logins.get(&ObjectRef::new(name).within(namespace))
    }

    /// Returns the policies whose upstream's login this Secret of the operator's namespace brings.
    pub fn policies_with_login(&self, secret: &str) -> Vec<Arc<CreditPolicy>> {
        self.policies.state_filter(|policy| {
            let upstream = &policy.spec.upstream;
            let references = [&upstream.credentials_secret_ref, &upstream.client_certificate_secret_ref];
            references.into_iter().flatten().any(|reference| reference.name == secret)
        })
    }

    /// Records that a Secret of this key is about to be written, so that its deletion wakes the key even if the watch
    /// shows only the deletion, or neither. Returns false if the Secret was not known to be the key's.
    pub fn secret_intended(&self, secret: &Name, key: &str) -> bool {
        self.change_index(|index| index.set_secret(secret, Some(key.to_owned()))).is_some()
    }

    /// Records that the API server refused to create an intended Secret.
    pub fn secret_refused(&self, secret: &Name) {
        self.change_index(|index| index.set_secret(secret, None));
    }

    /// Takes over a Secret as returned by our write, so that the watch's event for it is ignored.
    pub fn secret_written(&self, secret: &Secret) {
        let name = Name::of(secret);
        let adopted = is_adopted(&secret.metadata);
        self.change_index(|index| index.set_adopted(&name, adopted));
        self.expectations.secret(name, &secret.metadata);
    }

    /// Runs a query on the index.
    pub fn index<T>(&self, question: impl FnOnce(&Index) -> T) -> T {
        question(&self.index.read())
    }

    pub(super) fn change_index<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        change(&mut self.index.write())
    }

    /// Gives every object a pass.
    pub fn wake_all(&self, queues: &WorkQueues) {
        self.wake_policies(queues);
        for account in self.accounts.state() {
            queues.wake(&Ref::Account(Name::of(account.as_ref())));
        }
        for key in self.keys.state() {
            queues.wake(&Ref::Key(Name::of(key.as_ref())));
        }
    }

    /// Gives every policy a pass.
    pub fn wake_policies(&self, queues: &WorkQueues) {
        for policy in self.policies.state() {
            queues.wake(&Ref::Policy(Name::of(policy.as_ref())));
        }
    }

    /// Queues a recount of every policy.
    pub fn recount_policies(&self) {
        for policy in self.policies.state() {
            self.recount(Ref::Policy(Name::of(policy.as_ref())));
        }
    }

    /// Takes the objects whose figures or counts changed since the last call.
    pub fn take_recounts(&self) -> BTreeSet<Ref> {
        std::mem::take(&mut *self.recount.lock())
    }

    /// Queues an object to have its figures and counts judged again.
    pub fn recount(&self, what: Ref) {
        self.recount.lock().insert(what);
    }

    fn departures(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.departures.lock()
    }

    /// Records that an account left this policy.
    pub fn account_left(&self, policy: &Name) {
        self.departures().insert(policy.name.clone());
        self.recount(Ref::Policy(policy.clone()));
    }

    /// True if accounts left this policy since they were last counted.
    pub fn has_departures(&self, policy: &str) -> bool {
        self.departures().contains(policy)
    }

    /// Records that the accounts of this policy are being counted now.
    pub fn departures_counted(&self, policy: &str) {
        self.departures().remove(policy);
    }

    /// Records that the first list of a watch is in its store and in the index.
    pub(super) fn listed(&self) {
        self.listed.send_modify(|listed| *listed += 1);
    }
}

/// True if it is a foreign Secret that a key shares.
pub(super) fn is_adopted(meta: &ObjectMeta) -> bool {
    meta::controlling_key(meta, &SubAccountApiKey::kind(&())).is_none() && Adoption::of(meta).is_some()
}
