//! Stops the operator after its i-th write, wherever that is: between the operator and the API server, and between the
//! operator and its ledger. And takes the ledger away, or holds a write up until the test has looked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use franking::domain::directory::Entry;
use franking::ledger::store::{LedgerSession, Result, Store};
use http_body_util::{Either, Full};
use tokio::sync::Notify;
use tower::{Layer, Service};

use super::valve::Valve;
use crate::intercepted::{Intercepted, Interceptor};

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

/// Takes a ledger down, behind a fuse.
pub struct Fragile {
    fuse: Arc<Fuse>,
    pub down: AtomicBool,
    /// In front of every policy that is written.
    pub policies: Valve,
    /// In front of every account that is written.
    pub accounts: Valve,
}

impl Fragile {
    pub fn in_front_of(inner: Arc<dyn Store>, fuse: Arc<Fuse>) -> Arc<Intercepted<Self>> {
        let (policies, accounts) = (Valve::default(), Valve::default());
        Intercepted::new(inner, Self { fuse, down: AtomicBool::new(false), policies, accounts })
    }
}

#[async_trait]
impl Interceptor for Fragile {
    async fn before(&self) -> Result<()> {
        self.fuse.pass().await;
        if self.down.load(Ordering::SeqCst) {
            let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into();
            return Err(franking::ledger::Error::Unavailable { doing: "reaching the ledger", source });
        }
        Ok(())
    }

    async fn put(&self, inner: &dyn Store, session: &LedgerSession, actor: &str, entries: &[Entry]) -> Result<()> {
        for entry in entries {
            match entry {
                Entry::Policy(_) => self.policies.pass().await,
                Entry::Account(_) => self.accounts.pass().await,
                Entry::Key(_) => {}
            }
        }
        // It may have gone down meanwhile.
        self.before().await?;
        inner.put(session, actor, entries).await?;
        self.fuse.wrote().await;
        Ok(())
    }
}
