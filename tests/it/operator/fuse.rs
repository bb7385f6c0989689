//! Stops the operator after its i-th write, wherever that is: between the operator and the API server, and between the
//! operator and its ledger. And takes the ledger away, or holds a write up until the test has looked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
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
use http_body_util::{Either, Full};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tower::{Layer, Service};
use uuid::Uuid;

use super::valve::Valve;

/// Counts writes and blows after so many. Nothing gets through a blown one.
#[derive(Default)]
pub struct Fuse {
    /// Writes until it blows; negative: never.
    left: AtomicI64,
    writes: AtomicI64,
    blown: AtomicBool,
    news: Notify,
    /// Writes of a status that were begun, whatever became of them.
    statuses_begun: AtomicI64,
    /// The same of our kinds but their statuses: of finalizers.
    finalizers_begun: AtomicI64,
    /// In front of every write of a Secret.
    pub secrets: Valve,
    /// In front of every write of our kinds but their statuses: of finalizers.
    pub finalizers: Valve,
    /// In front of every write of a status.
    pub statuses: Valve,
    /// In front of the watch of all Secrets of ours. One that came while it was shut ends when it is opened, as one from an
    /// expired version on does: the watch lists anew.
    pub secret_watch: Valve,
}

impl Fuse {
    pub fn after(writes: Option<i64>) -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(writes.unwrap_or(-1)), ..Self::default() })
    }

    /// It blows after the next write.
    pub fn blow_next(&self) {
        self.left.store(1, Ordering::SeqCst);
    }

    /// It does not blow any more, unless it has.
    pub fn disarm(&self) {
        self.left.store(-1, Ordering::SeqCst);
    }

    pub fn writes(&self) -> i64 {
        self.writes.load(Ordering::SeqCst)
    }

    pub fn statuses_begun(&self) -> i64 {
        self.statuses_begun.load(Ordering::SeqCst)
    }

    pub fn finalizers_begun(&self) -> i64 {
        self.finalizers_begun.load(Ordering::SeqCst)
    }

    pub async fn blows(&self) {
        loop {
            let news = self.news.notified();
            if self.blown.load(Ordering::SeqCst) {
                return;
            }
            news.await;
        }
    }

    /// After a write that was done: nobody hears of its answer when it was the last.
    async fn wrote(&self) {
        self.writes.fetch_add(1, Ordering::SeqCst);
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.blown.store(true, Ordering::SeqCst);
            self.news.notify_waiters();
        }
        self.pass().await;
    }

    async fn pass(&self) {
        if self.blown.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

/// The fuse in a Kubernetes client.
#[derive(Clone)]
pub struct FuseLayer(pub Arc<Fuse>);

impl<S> Layer<S> for FuseLayer {
    type Service = Fused<S>;

    fn layer(&self, inner: S) -> Fused<S> {
        Fused { inner, fuse: self.0.clone() }
    }
}

#[derive(Clone)]
pub struct Fused<S> {
    inner: S,
    fuse: Arc<Fuse>,
}

/// The words with which the API server ends a watch from a version on that it does not know any more: the client lists
/// anew.
const EXPIRED: &str = concat!(
    r#"{"type": "ERROR", "object": {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 410, "#,
    r#""reason": "Expired", "message": "too old resource version"}}"#,
    "\n"
);

impl<S, B, A> Service<http::Request<B>> for Fused<S>
where
    S: Service<http::Request<B>, Response = http::Response<A>>,
    S::Future: Send + 'static,
    A: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Either<Full<Bytes>, A>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let writes = !matches!(*request.method(), http::Method::GET | http::Method::HEAD);
        let path: Vec<&str> = request.uri().path().split('/').collect();
        let secret = writes && path.contains(&"secrets");
        let finalizer = writes && path.contains(&"franking.io") && !path.contains(&"status");
        let status = writes && path.contains(&"franking.io") && path.contains(&"status");
        self.fuse.statuses_begun.fetch_add(i64::from(status), Ordering::SeqCst);
        self.fuse.finalizers_begun.fetch_add(i64::from(finalizer), Ordering::SeqCst);
        let query = request.uri().query().unwrap_or_default();
        let watch = request.uri().path() == "/api/v1/secrets" && query.contains("watch=");
        let expires = watch && self.fuse.secret_watch.is_shut();
        let held = secret && self.fuse.secrets.is_shut();
        // The request itself is lazy: nothing is sent before the future is polled.
        let (fuse, answer) = (self.fuse.clone(), self.inner.call(request));
        let answered = async move {
            fuse.pass().await;
            if secret {
                fuse.secrets.pass().await;
            }
            if finalizer {
                fuse.finalizers.pass().await;
            }
            if status {
                fuse.statuses.pass().await;
            }
            if expires {
                fuse.secret_watch.pass().await;
                return Ok(http::Response::new(Either::Left(Full::from(EXPIRED))));
            }
            let answer = answer.await;
            if writes {
                fuse.wrote().await;
            }
            fuse.pass().await;
            answer.map(|response| response.map(Either::Right))
        };
        if held {
            // It is on its way: a pass that waits no longer for its answer does not take it back.
            let sent = tokio::spawn(answered);
            return Box::pin(async move { sent.await.expect("a request does not panic") });
        }
        Box::pin(answered)
    }
}

/// A ledger that can be down, behind a fuse.
pub struct Fragile {
    pub inner: Arc<dyn Store>,
    pub fuse: Arc<Fuse>,
    pub down: AtomicBool,
    /// In front of every policy that is written.
    pub policies: Valve,
    /// In front of every account that is written.
    pub accounts: Valve,
}

impl Fragile {
    pub fn new(inner: Arc<dyn Store>, fuse: Arc<Fuse>) -> Arc<Self> {
        let (policies, accounts) = (Valve::default(), Valve::default());
        Arc::new(Self { inner, fuse, down: AtomicBool::new(false), policies, accounts })
    }

    async fn pass(&self) -> Result<()> {
        self.fuse.pass().await;
        if self.down.load(Ordering::SeqCst) {
            let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into();
            return Err(franking::ledger::Error::Unavailable { doing: "reaching the ledger", source });
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Fragile {
    async fn identity(&self) -> Result<Identity> {
        self.pass().await?;
        self.inner.identity().await
    }

    async fn time(&self) -> Result<LedgerTime> {
        self.pass().await?;
        self.inner.time().await
    }

    async fn open_session(&self, role: Role, name: &str) -> Result<LedgerSession> {
        self.pass().await?;
        self.inner.open_session(role, name).await
    }

    async fn heartbeat(&self, session: &LedgerSession) -> Result<()> {
        self.pass().await?;
        self.inner.heartbeat(session).await
    }

    async fn close_session(&self, session: &LedgerSession) -> Result<()> {
        self.pass().await?;
        self.inner.close_session(session).await
    }

    async fn sweep_sessions(&self, session: &LedgerSession, silence: SignedDuration) -> Result<Vec<MessageId>> {
        self.pass().await?;
        self.inner.sweep_sessions(session, silence).await
    }

    async fn identify(&self, session: &LedgerSession, kind: Kind, namespace_uid: &str, name: &str) -> Result<Uuid> {
        self.pass().await?;
        self.inner.identify(session, kind, namespace_uid, name).await
    }

    async fn put(&self, session: &LedgerSession, actor: &str, entries: &[Entry]) -> Result<()> {
        self.pass().await?;
        for entry in entries {
            match entry {
                Entry::Policy(_) => self.policies.pass().await,
                Entry::Account(_) => self.accounts.pass().await,
                Entry::Key(_) => {}
            }
        }
        // It may have gone down meanwhile.
        self.pass().await?;
        self.inner.put(session, actor, entries).await?;
        self.fuse.wrote().await;
        Ok(())
    }

    async fn changes(&self, after: i64) -> Result<Changes> {
        self.pass().await?;
        self.inner.changes(after).await
    }

    async fn find_sender(&self, username: &Username) -> Result<Option<Named>> {
        self.pass().await?;
        self.inner.find_sender(username).await
    }

    async fn find(&self, holder: Holder) -> Result<Option<Entry>> {
        self.pass().await?;
        self.inner.find(holder).await
    }

    async fn reserve(&self, session: &LedgerSession, batch: &[Reservation]) -> Result<Vec<Verdict>> {
        self.pass().await?;
        self.inner.reserve(session, batch).await
    }

    async fn settle(&self, session: &LedgerSession, batch: &[Settlement]) -> Result<()> {
        self.pass().await?;
        self.inner.settle(session, batch).await
    }

    async fn prepare_lots(&self, session: &LedgerSession, until: Timestamp) -> Result<u64> {
        self.pass().await?;
        self.inner.prepare_lots(session, until).await
    }

    async fn balances(&self, holders: &[Holder]) -> Result<Vec<Balance>> {
        self.pass().await?;
        self.inner.balances(holders).await
    }

    async fn moved(&self, cursor: i64, limit: usize) -> Result<(Vec<Holder>, i64)> {
        self.pass().await?;
        self.inner.moved(cursor, limit).await
    }

    async fn rollup(&self, session: &LedgerSession) -> Result<u64> {
        self.pass().await?;
        self.inner.rollup(session).await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<Event>> {
        self.pass().await?;
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
        self.pass().await?;
        self.inner.record(session, actor, kind, holder, detail).await
    }

    async fn forget_fingerprints(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        self.pass().await?;
        self.inner.forget_fingerprints(session, before).await
    }

    async fn forget_keys(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        self.pass().await?;
        self.inner.forget_keys(session, before).await
    }

    async fn retire(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        self.pass().await?;
        self.inner.retire(session, before).await
    }

    async fn check(&self) -> Result<Vec<Discrepancy>> {
        self.pass().await?;
        self.inner.check().await
    }

    async fn hold(&self, because: Because) -> Result<()> {
        self.pass().await?;
        self.inner.hold(because).await
    }

    async fn accept(&self, acceptance: &Acceptance) -> Result<()> {
        self.pass().await?;
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
        self.pass().await?;
        self.inner.assign(session, kind, namespace_uid, name, id).await
    }

    async fn raise(&self, session: &LedgerSession, actor: &str, floors: &[Floor]) -> Result<u64> {
        self.pass().await?;
        self.inner.raise(session, actor, floors).await
    }

    async fn reopen(&self, session: &LedgerSession) -> Result<()> {
        self.pass().await?;
        self.inner.reopen(session).await
    }
}

#[async_trait]
impl Report for Fragile {
    async fn usage(
        &self,
        policy: PolicyId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Spender>,
        limit: usize,
    ) -> Result<Vec<UsageRow>> {
        self.pass().await?;
        self.inner.usage(policy, from, to, after, limit).await
    }

    async fn put_terms(&self, session: &LedgerSession, terms: &BillingTerms) -> Result<()> {
        self.pass().await?;
        self.inner.put_terms(session, terms).await
    }

    async fn terms(&self, policy: PolicyId, period: &str) -> Result<Option<BillingTerms>> {
        self.pass().await?;
        self.inner.terms(policy, period).await
    }

    async fn told(&self, limits: &[(Holder, Meter)]) -> Result<Vec<Option<Told>>> {
        self.pass().await?;
        self.inner.told(limits).await
    }

    async fn announce(
        &self,
        session: &LedgerSession,
        notices: &[(ThresholdNotice, Vec<Channel>)],
    ) -> Result<Vec<bool>> {
        self.pass().await?;
        self.inner.announce(session, notices).await
    }

    async fn claim_notices(&self, session: &LedgerSession, channel: Channel, limit: usize) -> Result<Vec<Queued>> {
        self.pass().await?;
        self.inner.claim_notices(session, channel, limit).await
    }

    async fn close_notices(&self, session: &LedgerSession, ended: &[(i64, Ended)]) -> Result<()> {
        self.pass().await?;
        self.inner.close_notices(session, ended).await
    }

    async fn forget_notices(&self, session: &LedgerSession, before: Timestamp, limit: usize) -> Result<u64> {
        self.pass().await?;
        self.inner.forget_notices(session, before, limit).await
    }

    async fn put_troubles(&self, session: &LedgerSession, troubles: &[Trouble]) -> Result<()> {
        self.pass().await?;
        self.inner.put_troubles(session, troubles).await
    }

    async fn note_logins(&self, session: &LedgerSession, logins: &[LoginFrom]) -> Result<()> {
        self.pass().await?;
        self.inner.note_logins(session, logins).await
    }

    async fn count_denied_senders(&self, session: &LedgerSession, denied: &[DeniedSenders]) -> Result<()> {
        self.pass().await?;
        self.inner.count_denied_senders(session, denied).await
    }

    async fn report_denied_senders(
        &self,
        session: &LedgerSession,
        every: SignedDuration,
        limit: usize,
    ) -> Result<Vec<DeniedReport>> {
        self.pass().await?;
        self.inner.report_denied_senders(session, every, limit).await
    }

    async fn sightings(&self) -> Result<Sightings> {
        self.pass().await?;
        self.inner.sightings().await
    }
}
