//! The operator's ledger client: one session, reopened after it was lost, and a tally of directory entries that no
//! resource shows any more.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::domain::denied_sender::DeniedReport;
use crate::domain::departure::Departure;
use crate::domain::directory::Entry;
use crate::domain::id::{AccountId, Holder, Kind, MessageId, PolicyId};
use crate::domain::trouble::Sightings;
use crate::ledger::report::{BillingTerms, Channel, Ended, Queued, ThresholdNotice};
use crate::ledger::store::{Balance, Error, Floor, LedgerSession, Result, Role, Store};
use crate::operator::state::in_service::InService;
use crate::operator::state::lease::Leader;

/// Sessions tried for one write before its fencing is returned: fenced once, we were given up; fenced twice, another
/// process uses our name.
const SESSIONS: usize = 2;

/// Removed accounts are kept this long before a period in which they could count: longer than any period.
const REMOVED_COUNTED: SignedDuration = SignedDuration::from_hours(35 * 24);

pub struct LedgerClient {
    store: Arc<dyn Store>,
    name: String,
    /// Set if several operators share the ledger: only the leader opens a session, and never a second one.
    leader: Option<Leader>,
    session: Mutex<Option<LedgerSession>>,
    tally: Mutex<Tally>,
}

/// The part of the directory that the operator has to know without a call.
#[derive(Default)]
pub struct Tally {
    epoch: i64,
    /// Accounts that were removed, or moved to another policy.
    removed: HashMap<AccountId, Vec<Removed>>,
    in_service: InService,
}

/// An account that no longer belongs to a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    pub policy: PolicyId,
    pub namespace: String,
    pub name: String,
    pub at: Timestamp,
}

/// Does a write under the session, or under a new one if the old was lost. A macro, because the futures of an async
/// closure cannot be promised to be `Send` yet.
macro_rules! under_session {
    ($ledger:ident, $session:ident, $write:expr) => {{
        let mut tries = SESSIONS;
        loop {
            let open = $ledger.session().await?;
            let $session = &open;
            tries -= 1;
            match $write.await {
                Err(Error::Fenced) if tries > 0 && $ledger.reopens() => $ledger.lost(&open).await,
                answer => break answer,
            }
        }
    }};
}

impl LedgerClient {
    pub fn new(store: Arc<dyn Store>, name: String, leader: Option<Leader>) -> Self {
        Self { store, name, leader, session: Mutex::new(None), tally: Mutex::default() }
    }

    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    async fn session(&self) -> Result<LedgerSession> {
        let mut open = self.session.lock().await;
        if let Some(session) = &*open {
            return Ok(session.clone());
        }
        let session = self.store.open_session(Role::Operator, &self.name).await?;
        // A process that was paused between its last check of the lease and this point has taken the session from the
        // current leader. It writes nothing under it: that leader ends, and the next one opens its own.
        if let Some(leader) = &self.leader
            && !leader.confirm().await
        {
            return Err(Error::Fenced);
        }
        *open = Some(session.clone());
        Ok(session)
    }

    /// True if no other operator can lead at this moment, by our own clock.
    pub fn leads(&self) -> bool {
        self.leader.as_ref().is_none_or(Leader::believes)
    }

    /// True if a new session may replace a lost one. Among several operators a session is lost because another one
    /// leads.
    fn reopens(&self) -> bool {
        match &self.leader {
            Some(leader) => {
                leader.depose();
                false
            }
            None => true,
        }
    }

    /// Drops a session that the ledger ended, unless another task has opened a new one meanwhile.
    async fn lost(&self, session: &LedgerSession) {
        tracing::warn!(session.id, session.epoch, "the ledger gave the operator's session up; opening another");
        let mut open = self.session.lock().await;
        if open.as_ref() == Some(session) {
            *open = None;
        }
    }

    pub async fn identify(&self, kind: Kind, namespace_uid: &str, name: &str) -> Result<Uuid> {
        under_session!(self, session, self.store.identify(session, kind, namespace_uid, name))
    }

    pub async fn put(&self, actor: &str, entries: &[Entry]) -> Result<()> {
        under_session!(self, session, self.store.put(session, actor, entries))
    }

    pub async fn record(&self, actor: &str, kind: &str, holder: Holder, detail: serde_json::Value) -> Result<()> {
        under_session!(self, session, self.store.record(session, actor, kind, Some(holder), detail.clone()))
    }

    pub async fn assign(&self, kind: Kind, namespace_uid: &str, name: &str, id: Uuid) -> Result<Uuid> {
        under_session!(self, session, self.store.assign(session, kind, namespace_uid, name, id))
    }

    pub async fn raise(&self, actor: &str, floors: &[Floor]) -> Result<u64> {
        under_session!(self, session, self.store.raise(session, actor, floors))
    }

    pub async fn reopen(&self) -> Result<()> {
        under_session!(self, session, self.store.reopen(session))
    }

    /// Forgets what belongs to the previous ledger.
    pub async fn forget(&self) {
        *self.tally.lock().await = Tally::default();
        *self.session.lock().await = None;
    }

    pub async fn put_terms(&self, terms: &BillingTerms) -> Result<()> {
        under_session!(self, session, self.store.put_terms(session, terms))
    }

    pub async fn announce(&self, notices: &[(ThresholdNotice, Vec<Channel>)]) -> Result<Vec<bool>> {
        under_session!(self, session, self.store.announce(session, notices))
    }

    pub async fn claim_notices(&self, channel: Channel, limit: usize) -> Result<Vec<Queued>> {
        under_session!(self, session, self.store.claim_notices(session, channel, limit))
    }

    pub async fn close_notices(&self, ended: &[(i64, Ended)]) -> Result<()> {
        under_session!(self, session, self.store.close_notices(session, ended))
    }

    pub async fn forget_notices(&self, before: Timestamp, limit: usize) -> Result<u64> {
        under_session!(self, session, self.store.forget_notices(session, before, limit))
    }

    pub async fn report_denied_senders(&self, every: SignedDuration, limit: usize) -> Result<Vec<DeniedReport>> {
        under_session!(self, session, self.store.report_denied_senders(session, every, limit))
    }

    pub async fn sightings(&self) -> Result<Sightings> {
        self.store.sightings().await
    }

    pub async fn heartbeat(&self) -> Result<()> {
        under_session!(self, session, self.store.heartbeat(session))
    }

    pub async fn rollup(&self) -> Result<u64> {
        under_session!(self, session, self.store.rollup(session))
    }

    pub async fn forget_fingerprints(&self, before: Timestamp) -> Result<u64> {
        under_session!(self, session, self.store.forget_fingerprints(session, before))
    }

    pub async fn forget_keys(&self, before: Timestamp) -> Result<u64> {
        under_session!(self, session, self.store.forget_keys(session, before))
    }

    pub async fn retire(&self, before: Timestamp) -> Result<u64> {
        under_session!(self, session, self.store.retire(session, before))
    }

    pub async fn prepare_lots(&self, until: Timestamp) -> Result<u64> {
        under_session!(self, session, self.store.prepare_lots(session, until))
    }

    pub async fn sweep_sessions(&self, silence: SignedDuration) -> Result<Vec<MessageId>> {
        under_session!(self, session, self.store.sweep_sessions(session, silence))
    }

    /// Closes the session in good order; the next write would open another.
    pub async fn close(&self) -> Result<()> {
        match self.session.lock().await.take() {
            Some(session) => self.store.close_session(&session).await,
            None => Ok(()),
        }
    }

    pub async fn entry(&self, holder: Holder) -> Result<Option<Entry>> {
        self.store.find(holder).await
    }

    /// Returns the balances of holders in their order, without those that the directory does not have.
    pub async fn balances(&self, holders: &[Holder]) -> Result<Vec<Balance>> {
        let mut found = self.store.balances(holders).await?;
        found.sort_by_key(|balance| holders.iter().position(|holder| *holder == balance.lot.holder));
        Ok(found)
    }

    async fn refreshed(&self) -> Result<tokio::sync::MutexGuard<'_, Tally>> {
        let mut tally = self.tally.lock().await;
        let changes = self.store.changes(tally.epoch).await?;
        tally.epoch = changes.epoch;
        changes.entries.into_iter().for_each(|entry| tally.take(entry));
        Ok(tally)
    }

    /// Returns the accounts of a policy that were removed since `since`, or moved to another policy: everywhere, or in
    /// the namespace of this name or, for purged ones, of this UID. In one namespace also those whose entry has the
    /// policy: one that moves keeps its place until the ledger has recorded that it left, so that no other account
    /// slips in between.
    pub async fn removed_accounts(
        &self,
        policy: PolicyId,
        namespace: Option<[&str; 2]>,
        since: Timestamp,
    ) -> Result<Vec<(AccountId, Removed)>> {
        let mut tally = self.refreshed().await?;
        // They no longer count in any period of any policy.
        let forgotten = since.saturating_sub(REMOVED_COUNTED).unwrap_or(Timestamp::MIN);
        tally.removed.retain(|_, places| places.iter().any(|removed| removed.at >= forgotten));
        let counts = |removed: &Removed| {
            removed.policy == policy
                && removed.at >= since
                && namespace.is_none_or(|ways| ways.contains(&removed.namespace.as_str()))
        };
        let all = tally.removed.iter();
        let mut found: HashMap<AccountId, Removed> =
            all.filter_map(|(id, places)| Some((*id, places.iter().find(|place| counts(place))?.clone()))).collect();
        if let Some([name, _]) = namespace {
            for (id, account) in tally.in_service.accounts_of(policy, name) {
                let removed = || Removed { policy, namespace: name.to_owned(), name: account.name.clone(), at: since };
                found.entry(id).or_insert_with(removed);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Runs a query on the entries that the directory has in service at this moment.
    pub async fn in_service<T>(&self, question: impl FnOnce(&InService) -> T) -> Result<T> {
        Ok(question(&self.refreshed().await?.in_service))
    }
}

impl Tally {
    fn take(&mut self, entry: Entry) {
        self.in_service.take(&entry);
        let Entry::Account(account) = entry else { return };
        let removed = account.removed_at.map(|at| Departure { policy: account.policy, at });
        let left = account.departures.iter().copied().chain(removed);
        let places: Vec<Removed> = left
            .map(|Departure { policy, at }| Removed {
                policy,
                namespace: account.namespace.clone(),
                name: account.name.clone(),
                at,
            })
            .collect();
        if places.is_empty() {
            self.removed.remove(&account.id);
        } else {
            self.removed.insert(account.id, places);
        }
    }
}
