//! A store that loses replies, fails and stalls on command, in front of a real one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;
use uuid::Uuid;

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
    Acceptance, Balance, Because, Changes, Discrepancy, Error, Event, Floor, Identity, LedgerSession, LedgerTime,
    Result, Role, Settlement, Store, Undone,
};

/// The fault of the next call that reserves or settles.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It never arrives.
    LostRequest,
    /// It is done, and the caller does not get the reply.
    LostReply,
    DiskFull,
    Fenced,
}

pub struct Faulty {
    pub inner: Arc<dyn Store>,
    pub reserve: Mutex<VecDeque<Fault>>,
    pub settle: Mutex<VecDeque<Fault>>,
    /// A batch with this message fails because of it and is rolled back.
    pub poison: Mutex<Option<MessageId>>,
    /// Reservations need a permit to be answered.
    pub permits: Semaphore,
    /// Number of messages of each reservation call, noted when it arrived.
    pub batches: Mutex<Vec<usize>>,
}

#[derive(Debug, thiserror::Error)]
#[error("injected")]
struct Injected;

fn unavailable() -> Error {
    Error::Unavailable { doing: "testing", source: Box::new(Injected) }
}

impl Faulty {
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            reserve: Mutex::default(),
            settle: Mutex::default(),
            poison: Mutex::default(),
            permits: Semaphore::new(1_000_000),
            batches: Mutex::default(),
        })
    }

    fn next(queue: &Mutex<VecDeque<Fault>>) -> Option<Fault> {
        queue.lock().expect("no panic").pop_front()
    }

    fn check_poison(&self, mut messages: impl Iterator<Item = MessageId>) -> Result<()> {
        let poison = *self.poison.lock().expect("no panic");
        if messages.any(|message| Some(message) == poison) {
            return Err(Error::Unavailable { doing: "testing", source: Box::new(Undone(Box::new(Injected))) });
        }
        Ok(())
    }
}

/// Injects `fault` around a call.
async fn around<T>(fault: Option<Fault>, call: impl Future<Output = Result<T>>) -> Result<T> {
    match fault {
        None => call.await,
        Some(Fault::LostRequest) => Err(unavailable()),
        Some(Fault::LostReply) => {
            call.await?;
            Err(unavailable())
        }
        Some(Fault::DiskFull) => Err(Error::Full),
        Some(Fault::Fenced) => Err(Error::Fenced),
    }
}

#[async_trait]
impl Store for Faulty {
    async fn reserve(&self, session: &LedgerSession, batch: &[Reservation]) -> Result<Vec<Verdict>> {
        self.batches.lock().expect("no panic").push(batch.len());
        let _permit = self.permits.acquire().await.expect("open");
        self.check_poison(batch.iter().map(|reservation| reservation.message))?;
        around(Self::next(&self.reserve), self.inner.reserve(session, batch)).await
    }

    async fn settle(&self, session: &LedgerSession, batch: &[Settlement]) -> Result<()> {
        self.check_poison(batch.iter().map(|settlement| settlement.message))?;
        around(Self::next(&self.settle), self.inner.settle(session, batch)).await
    }

    async fn identity(&self) -> Result<Identity> {
        self.inner.identity().await
    }

    async fn time(&self) -> Result<LedgerTime> {
        self.inner.time().await
    }

    async fn open_session(&self, role: Role, name: &str) -> Result<LedgerSession> {
        self.inner.open_session(role, name).await
    }

    async fn heartbeat(&self, session: &LedgerSession) -> Result<()> {
        self.inner.heartbeat(session).await
    }

    async fn close_session(&self, session: &LedgerSession) -> Result<()> {
        self.inner.close_session(session).await
    }

    async fn sweep_sessions(&self, session: &LedgerSession, silence: SignedDuration) -> Result<Vec<MessageId>> {
        self.inner.sweep_sessions(session, silence).await
    }

    async fn identify(&self, session: &LedgerSession, kind: Kind, namespace_uid: &str, name: &str) -> Result<Uuid> {
        self.inner.identify(session, kind, namespace_uid, name).await
    }

    async fn put(&self, session: &LedgerSession, actor: &str, entries: &[Entry]) -> Result<()> {
        self.inner.put(session, actor, entries).await
    }

    async fn changes(&self, after: i64) -> Result<Changes> {
        self.inner.changes(after).await
    }

    async fn find_sender(&self, username: &Username) -> Result<Option<Named>> {
        self.inner.find_sender(username).await
    }

    async fn find(&self, holder: Holder) -> Result<Option<Entry>> {
        self.inner.find(holder).await
    }

    async fn prepare_lots(&self, session: &LedgerSession, until: Timestamp) -> Result<u64> {
        self.inner.prepare_lots(session, until).await
    }

    async fn balances(&self, holders: &[Holder]) -> Result<Vec<Balance>> {
        self.inner.balances(holders).await
    }

    async fn moved(&self, cursor: i64, limit: usize) -> Result<(Vec<Holder>, i64)> {
        self.inner.moved(cursor, limit).await
    }

    async fn rollup(&self, session: &LedgerSession) -> Result<u64> {
        self.inner.rollup(session).await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<Event>> {
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
        self.inner.record(session, actor, kind, holder, detail).await
    }

    async fn forget_fingerprints(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        self.inner.forget_fingerprints(session, before).await
    }

    async fn forget_keys(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        self.inner.forget_keys(session, before).await
    }

    async fn retire(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        self.inner.retire(session, before).await
    }

    async fn check(&self) -> Result<Vec<Discrepancy>> {
        self.inner.check().await
    }

    async fn hold(&self, because: Because) -> Result<()> {
        self.inner.hold(because).await
    }

    async fn accept(&self, acceptance: &Acceptance) -> Result<()> {
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
        self.inner.assign(session, kind, namespace_uid, name, id).await
    }

    async fn raise(&self, session: &LedgerSession, actor: &str, floors: &[Floor]) -> Result<u64> {
        self.inner.raise(session, actor, floors).await
    }

    async fn reopen(&self, session: &LedgerSession) -> Result<()> {
        self.inner.reopen(session).await
    }
}

#[async_trait]
impl Report for Faulty {
    async fn usage(
        &self,
        policy: PolicyId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Spender>,
        limit: usize,
    ) -> Result<Vec<UsageRow>> {
        self.inner.usage(policy, from, to, after, limit).await
    }

    async fn put_terms(&self, session: &LedgerSession, terms: &BillingTerms) -> Result<()> {
        self.inner.put_terms(session, terms).await
    }

    async fn terms(&self, policy: PolicyId, period: &str) -> Result<Option<BillingTerms>> {
        self.inner.terms(policy, period).await
    }

    async fn told(&self, limits: &[(Holder, Meter)]) -> Result<Vec<Option<Told>>> {
        self.inner.told(limits).await
    }

    async fn announce(
        &self,
        session: &LedgerSession,
        notices: &[(ThresholdNotice, Vec<Channel>)],
    ) -> Result<Vec<bool>> {
        self.inner.announce(session, notices).await
    }

    async fn claim_notices(&self, session: &LedgerSession, channel: Channel, limit: usize) -> Result<Vec<Queued>> {
        self.inner.claim_notices(session, channel, limit).await
    }

    async fn close_notices(&self, session: &LedgerSession, ended: &[(i64, Ended)]) -> Result<()> {
        self.inner.close_notices(session, ended).await
    }

    async fn forget_notices(&self, session: &LedgerSession, before: Timestamp, limit: usize) -> Result<u64> {
        self.inner.forget_notices(session, before, limit).await
    }

    async fn put_troubles(&self, session: &LedgerSession, troubles: &[Trouble]) -> Result<()> {
        self.inner.put_troubles(session, troubles).await
    }

    async fn note_logins(&self, session: &LedgerSession, logins: &[LoginFrom]) -> Result<()> {
        self.inner.note_logins(session, logins).await
    }

    async fn count_denied_senders(&self, session: &LedgerSession, denied: &[DeniedSenders]) -> Result<()> {
        self.inner.count_denied_senders(session, denied).await
    }

    async fn report_denied_senders(
        &self,
        session: &LedgerSession,
        every: SignedDuration,
        limit: usize,
    ) -> Result<Vec<DeniedReport>> {
        self.inner.report_denied_senders(session, every, limit).await
    }

    async fn sightings(&self) -> Result<Sightings> {
        self.inner.sightings().await
    }
}
