//! A ledger behind an interceptor, with which a test refuses calls, holds them up or loses their replies.

use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;
use franking::domain::credential::Username;
use franking::domain::credit::{Meter, Reservation, Verdict};
use franking::domain::denied_sender::{DeniedReport, DeniedSenders};
use franking::domain::directory::{Entry, Named};
use franking::domain::id::{Holder, Kind, MessageId, PolicyId};
use franking::domain::login_network::LoginFrom;
use franking::domain::trouble::{Sightings, Trouble};
use franking::ledger::report::{
    BillingTerms, Channel, Ended, Queued, Report, Spender, ThresholdNotice, Told, UsageRow,
};
use franking::ledger::store::{
    Acceptance, Balance, Because, Changes, Discrepancy, Event, Floor, Identity, LedgerSession, LedgerTime, Result,
    Role, Settlement, Store,
};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// Changes what happens to calls of a ledger.
#[async_trait]
pub trait Interceptor: Send + Sync + 'static {
    /// Runs before each call. An error is its answer.
    async fn before(&self) -> Result<()> {
        Ok(())
    }

    async fn reserve(&self, inner: &dyn Store, session: &LedgerSession, batch: &[Reservation]) -> Result<Vec<Verdict>> {
        inner.reserve(session, batch).await
    }

    async fn settle(&self, inner: &dyn Store, session: &LedgerSession, batch: &[Settlement]) -> Result<()> {
        inner.settle(session, batch).await
    }

    async fn put(&self, inner: &dyn Store, session: &LedgerSession, actor: &str, entries: &[Entry]) -> Result<()> {
        inner.put(session, actor, entries).await
    }
}

/// The ledger as its callers see it.
pub struct Intercepted<I> {
    pub inner: Arc<dyn Store>,
    by: I,
}

impl<I> Intercepted<I> {
    pub fn new(inner: Arc<dyn Store>, by: I) -> Arc<Self> {
        Arc::new(Self { inner, by })
    }
}

impl<I> Deref for Intercepted<I> {
    type Target = I;

    fn deref(&self) -> &I {
        &self.by
    }
}

#[async_trait]
impl<I: Interceptor> Store for Intercepted<I> {
    async fn reserve(&self, session: &LedgerSession, batch: &[Reservation]) -> Result<Vec<Verdict>> {
        self.by.before().await?;
        self.by.reserve(&*self.inner, session, batch).await
    }

    async fn settle(&self, session: &LedgerSession, batch: &[Settlement]) -> Result<()> {
        self.by.before().await?;
        self.by.settle(&*self.inner, session, batch).await
    }

    async fn identity(&self) -> Result<Identity> {
        self.by.before().await?;
        self.inner.identity().await
    }

    async fn time(&self) -> Result<LedgerTime> {
        self.by.before().await?;
        self.inner.time().await
    }

    async fn open_session(&self, role: Role, name: &str) -> Result<LedgerSession> {
        self.by.before().await?;
        self.inner.open_session(role, name).await
    }

    async fn heartbeat(&self, session: &LedgerSession) -> Result<()> {
        self.by.before().await?;
        self.inner.heartbeat(session).await
    }

    async fn close_session(&self, session: &LedgerSession) -> Result<()> {
        self.by.before().await?;
        self.inner.close_session(session).await
    }

    async fn sweep_sessions(&self, session: &LedgerSession, silence: SignedDuration) -> Result<Vec<MessageId>> {
        self.by.before().await?;
        self.inner.sweep_sessions(session, silence).await
    }

    async fn identify(&self, session: &LedgerSession, kind: Kind, namespace_uid: &str, name: &str) -> Result<Uuid> {
        self.by.before().await?;
        self.inner.identify(session, kind, namespace_uid, name).await
    }

    async fn put(&self, session: &LedgerSession, actor: &str, entries: &[Entry]) -> Result<()> {
        self.by.before().await?;
        self.by.put(&*self.inner, session, actor, entries).await
    }

    async fn changes(&self, after: i64) -> Result<Changes> {
        self.by.before().await?;
        self.inner.changes(after).await
    }

    async fn find_sender(&self, username: &Username) -> Result<Option<Named>> {
        self.by.before().await?;
        self.inner.find_sender(username).await
    }

    async fn find(&self, holder: Holder) -> Result<Option<Entry>> {
        self.by.before().await?;
        self.inner.find(holder).await
    }

    async fn prepare_lots(&self, session: &LedgerSession, until: Timestamp) -> Result<u64> {
        self.by.before().await?;
        self.inner.prepare_lots(session, until).await
    }

    async fn balances(&self, holders: &[Holder]) -> Result<Vec<Balance>> {
        self.by.before().await?;
        self.inner.balances(holders).await
    }

    async fn moved(&self, cursor: i64, limit: usize) -> Result<(Vec<Holder>, i64)> {
        self.by.before().await?;
        self.inner.moved(cursor, limit).await
    }

    async fn rollup(&self, session: &LedgerSession) -> Result<u64> {
        self.by.before().await?;
        self.inner.rollup(session).await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<Event>> {
        self.by.before().await?;
        self.inner.events(after, limit).await
    }

    async fn record(
        &self,
        session: &LedgerSession,
        actor: &str,
        kind: &str,
        holder: Option<Holder>,
        detail: serde_json::Value,
    ) -> Result<()> {
        self.by.before().await?;
        self.inner.record(session, actor, kind, holder, detail).await
    }

    async fn forget_fingerprints(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        self.by.before().await?;
        self.inner.forget_fingerprints(session, before).await
    }

    async fn forget_keys(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        self.by.before().await?;
        self.inner.forget_keys(session, before).await
    }

    async fn retire(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        self.by.before().await?;
        self.inner.retire(session, before).await
    }

    async fn check(&self) -> Result<Vec<Discrepancy>> {
        self.by.before().await?;
        self.inner.check().await
    }

    async fn hold(&self, because: Because) -> Result<()> {
        self.by.before().await?;
        self.inner.hold(because).await
    }

    async fn accept(&self, acceptance: &Acceptance) -> Result<()> {
        self.by.before().await?;
        self.inner.accept(acceptance).await
    }

    async fn assign(
        &self,
        session: &LedgerSession,
        kind: Kind,
        namespace_uid: &str,
        name: &str,
        id: Uuid,
    ) -> Result<Uuid> {
        self.by.before().await?;
        self.inner.assign(session, kind, namespace_uid, name, id).await
    }

    async fn raise(&self, session: &LedgerSession, actor: &str, floors: &[Floor]) -> Result<u64> {
        self.by.before().await?;
        self.inner.raise(session, actor, floors).await
    }

    async fn reopen(&self, session: &LedgerSession) -> Result<()> {
        self.by.before().await?;
        self.inner.reopen(session).await
    }
}

#[async_trait]
impl<I: Interceptor> Report for Intercepted<I> {
    async fn usage(
        &self,
        policy: PolicyId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Spender>,
        limit: usize,
    ) -> Result<Vec<UsageRow>> {
        self.by.before().await?;
        self.inner.usage(policy, from, to, after, limit).await
    }

    async fn put_terms(&self, session: &LedgerSession, terms: &BillingTerms) -> Result<()> {
        self.by.before().await?;
        self.inner.put_terms(session, terms).await
    }

    async fn terms(&self, policy: PolicyId, period: &str) -> Result<Option<BillingTerms>> {
        self.by.before().await?;
        self.inner.terms(policy, period).await
    }

    async fn told(&self, limits: &[(Holder, Meter)]) -> Result<Vec<Option<Told>>> {
        self.by.before().await?;
        self.inner.told(limits).await
    }

    async fn announce(
        &self,
        session: &LedgerSession,
        notices: &[(ThresholdNotice, Vec<Channel>)],
    ) -> Result<Vec<bool>> {
        self.by.before().await?;
        self.inner.announce(session, notices).await
    }

    async fn claim_notices(&self, session: &LedgerSession, channel: Channel, limit: usize) -> Result<Vec<Queued>> {
        self.by.before().await?;
        self.inner.claim_notices(session, channel, limit).await
    }

    async fn close_notices(&self, session: &LedgerSession, ended: &[(i64, Ended)]) -> Result<()> {
        self.by.before().await?;
        self.inner.close_notices(session, ended).await
    }

    async fn forget_notices(&self, session: &LedgerSession, before: Timestamp, limit: usize) -> Result<u64> {
        self.by.before().await?;
        self.inner.forget_notices(session, before, limit).await
    }

    async fn put_troubles(&self, session: &LedgerSession, troubles: &[Trouble]) -> Result<()> {
        self.by.before().await?;
        self.inner.put_troubles(session, troubles).await
    }

    async fn note_logins(&self, session: &LedgerSession, logins: &[LoginFrom]) -> Result<()> {
        self.by.before().await?;
        self.inner.note_logins(session, logins).await
    }

    async fn count_denied_senders(&self, session: &LedgerSession, denied: &[DeniedSenders]) -> Result<()> {
        self.by.before().await?;
        self.inner.count_denied_senders(session, denied).await
    }

    async fn report_denied_senders(
        &self,
        session: &LedgerSession,
        every: SignedDuration,
        limit: usize,
    ) -> Result<Vec<DeniedReport>> {
        self.by.before().await?;
        self.inner.report_denied_senders(session, every, limit).await
    }

    async fn sightings(&self) -> Result<Sightings> {
        self.by.before().await?;
        self.inner.sightings().await
    }
}
