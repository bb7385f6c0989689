//! The ledger on a PostgreSQL server that many processes share.
//!
//! A batch that fits is charged in one round trip, by a function that compares what the process remembered with the
//! rows; every other batch is decided on locked rows by the same [`decide`](crate::domain::credit::decide) as on every
//! engine. Time is the server's, so relays' clocks need not agree.
//!
//! It must never answer "charged" without having written something in the transaction that says so. A commit that
//! stopped waiting for the standby is on the primary's disk only; a retry that finds its rows and writes nothing would
//! not wait either, and a failover would forget the charge. Therefore every transaction writes a beat of its session.
//! And it never cancels a statement: a call that takes too long loses its connection.

mod address;
mod charge_cache;
mod connection;
pub mod copy;
mod denied_sender;
mod durability;
mod failure;
mod fingerprint;
mod floors;
mod history;
mod identity;
mod incarnation;
mod login_network;
mod lots;
mod pool;
mod read;
mod records;
mod refusals;
mod removed_keys;
mod report;
mod reserve;
mod retire;
mod rows;
mod schema;
mod settle;
pub mod target;
mod trouble;
mod tx;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use charge_cache::ChargeCache;
use durability::Demands;
use failure::{Failure, Op};
use jiff::{SignedDuration, Timestamp};
use pool::{Connections, Connector};
use read::Snapshot;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tx::{Lane, Tx};
use uuid::Uuid;

use crate::domain::credential::Username;
use crate::domain::credit::{Reservation, Verdict};
use crate::domain::directory::{Entry, Named};
use crate::domain::id::{Holder, Kind, MessageId};
use crate::ledger::incarnation::Naming;
use crate::ledger::store::{
    Acceptance, Balance, Because, Changes, Discrepancy, Error, Event, Floor, Identity, LedgerSession, LedgerTime,
    Result, Role, Settlement, Store,
};

pub use tx::Clock;

/// The schema that holds the tables.
const SCHEMA: &str = "franking";
/// Maximum time of a call, a little more than the server gives one statement. The caller retries, with the same ids.
const CALL_LIMIT: Duration = Duration::from_secs(25);
/// Maximum time of a call that reads many rows: giving it up would not make it faster.
const LONG_LIMIT: Duration = Duration::from_secs(3600);
/// Maximum tries of a call in a row when others wrote the same rows first.
const TRIES: usize = 5;
/// Maximum holders or messages in one transaction of the lot maker and the sweep, so that mail does not wait for them.
const PIECE: usize = 2_000;

/// The engine. Connections are made when they are needed, and each is checked before it is used.
pub struct PostgresStore {
    connections: Connections,
    clock: Clock,
    cache: Mutex<ChargeCache>,
}

fn connector(url: &str, place: String, single_node: bool, schema: &str) -> Result<Connector> {
    let address = address::parse(url).map_err(|why| Error::Unfit { path: place.clone(), why })?;
    Ok(Connector { address, demands: Demands { place, single_node, schema: schema.to_owned() } })
}

/// Makes the tables in the database or brings them to this release's schema, and returns the ledger's identity. The
/// ledger of another installation is not touched.
pub async fn prepare(url: &str, place: String, single_node: bool, naming: &Naming, now: Timestamp) -> Result<Identity> {
    schema::prepare(&connector(url, place, single_node, SCHEMA)?, naming, schema::MIGRATIONS, now).await
}

impl PostgresStore {
    /// Opens a ledger that [`prepare`] made, without calling the server yet. `clock`: `None` is the server's own.
    pub fn open(url: &str, place: String, single_node: bool, clock: Clock) -> Result<Self> {
        Self::over(connector(url, place, single_node, SCHEMA)?, clock)
    }

    fn over(connector: Connector, clock: Clock) -> Result<Self> {
        Ok(Self { connections: pool::pool(connector)?, clock, cache: Mutex::default() })
    }

    /// Makes a call within the time limit, and retries it if others were faster.
    async fn call<T, F>(&self, doing: &'static str, work: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Op<T>> + Send,
    {
        self.call_within(CALL_LIMIT, doing, work).await
    }

    async fn call_within<T, F>(&self, limit: Duration, doing: &'static str, work: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Op<T>> + Send,
    {
        let mut last = Failure::Overtaken;
        for _ in 0..TRIES {
            match timeout(limit, work()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failure)) if failure.passes() => last = failure,
                Ok(Err(failure)) => return Err(failure.of(doing)),
                Err(_) => return Err(Failure::Late.of(doing)),
            }
        }
        tracing::debug!(error = &last as &dyn std::error::Error, doing, "others were faster every time");
        Err(Failure::Overtaken.of(doing))
    }

    async fn try_reserve(
        &self,
        cache: &mut ChargeCache,
        session: &LedgerSession,
        batch: &[Reservation],
    ) -> Op<Vec<Verdict>> {
        if let Some(plan) = cache.plan(batch) {
            match reserve::charge_as_planned(&self.connections, &self.clock, session, &plan, batch).await {
                Ok(now) => {
                    cache.charged(plan, now);
                    return Ok(vec![Verdict::Reserved; batch.len()]);
                }
                Err(failure) if failure.is_fence() => return Err(Failure::Fenced),
                Err(failure) if failure.wants_care() => {}
                Err(failure) => return Err(failure),
            }
        }
        reserve::decide_locked(&self.connections, &self.clock, session, cache, batch).await
    }

    async fn try_settle(&self, session: &LedgerSession, batch: &[Settlement]) -> Op<()> {
        let plain = |settlement: &Settlement| settlement.dedup.is_none() && !settlement.outcome.refunds();
        if batch.iter().all(plain) {
            match settle::settle_as_new(&self.connections, &self.clock, session, batch).await {
                Err(failure) if failure.wants_care() => {}
                answered => return answered,
            }
        }
        settle::settle_locked(&self.connections, &self.clock, session, Lane::Settle, batch).await
    }

    /// Reads in one snapshot of the database.
    async fn look<'a, T, F>(&'a self, doing: &'static str, work: impl Fn(&'a Self) -> F) -> Result<T>
    where
        F: Future<Output = Op<T>> + Send,
    {
        self.call(doing, || work(self)).await
    }
}

/// Reads in one snapshot of the database, then ends it.
macro_rules! on_snapshot {
    ($store:expr, $doing:literal, |$snapshot:ident| $work:expr) => {
        $store
            .look($doing, |store| async move {
                let $snapshot = Snapshot::take(&store.connections).await?;
                let found = $work.await;
                $snapshot.end(found).await
            })
            .await
    };
}

#[async_trait]
impl Store for PostgresStore {
    async fn identity(&self) -> Result<Identity> {
        on_snapshot!(self, "reading who the ledger is", |snapshot| identity::read_identity(&snapshot))
    }

    async fn time(&self) -> Result<LedgerTime> {
        on_snapshot!(self, "reading the ledger's time", |snapshot| snapshot.time(&self.clock))
    }

    async fn open_session(&self, role: Role, name: &str) -> Result<LedgerSession> {
        self.call("opening a ledger session", || records::open_session(&self.connections, &self.clock, role, name))
            .await
    }

    async fn heartbeat(&self, session: &LedgerSession) -> Result<()> {
        let beat = || async {
            let tx = Tx::begin_fenced(&self.connections, &self.clock, session, Lane::Records).await?;
            tx.end(Ok(())).await
        };
        self.call("renewing the ledger session", beat).await
    }

    async fn close_session(&self, session: &LedgerSession) -> Result<()> {
        self.call("closing the ledger session", || records::close_session(&self.connections, &self.clock, session))
            .await
    }

    async fn sweep_sessions(&self, session: &LedgerSession, silence: SignedDuration) -> Result<Vec<MessageId>> {
        let mut all = Vec::new();
        loop {
            // Open messages are known as far as the rollup has come.
            self.rollup(session).await?;
            let sweep = || records::sweep(&self.connections, &self.clock, session, silence, PIECE);
            let swept = self.call("giving up silent sessions", sweep).await?;
            let is_last = swept.len() < PIECE;
            all.extend(swept);
            if is_last {
                return Ok(all);
            }
        }
    }

    async fn identify(&self, session: &LedgerSession, kind: Kind, namespace_uid: &str, name: &str) -> Result<Uuid> {
        let identify = || records::identify(&self.connections, &self.clock, session, kind, namespace_uid, name);
        self.call("looking an id up", identify).await
    }

    async fn put(&self, session: &LedgerSession, actor: &str, entries: &[Entry]) -> Result<()> {
        let put = || records::put(&self.connections, &self.clock, session, actor, entries);
        self.call("writing the directory", put).await
    }

    async fn changes(&self, after: i64) -> Result<Changes> {
        on_snapshot!(self, "reading the directory", |snapshot| read::changes(&snapshot, after))
    }

    async fn find_sender(&self, username: &Username) -> Result<Option<Named>> {
        on_snapshot!(self, "looking a sender up", |snapshot| read::find_sender(&snapshot, username))
    }

    async fn find(&self, holder: Holder) -> Result<Option<Entry>> {
        on_snapshot!(self, "looking an entry up", |snapshot| rows::entry(&snapshot, holder))
    }

    async fn reserve(&self, session: &LedgerSession, batch: &[Reservation]) -> Result<Vec<Verdict>> {
        // One batch in flight: more would only wait for each other's locks.
        let cache = &self.cache;
        let reserve = || async { self.try_reserve(&mut *cache.lock().await, session, batch).await };
        let answer = self.call("reserving credits", reserve).await;
        if answer.is_err() {
            cache.lock().await.forget();
        }
        answer
    }

    async fn settle(&self, session: &LedgerSession, batch: &[Settlement]) -> Result<()> {
        self.call("settling messages", || self.try_settle(session, batch)).await
    }

    async fn forget_fingerprints(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        let mut total = 0;
        loop {
            let forget = || fingerprint::forget(&self.connections, &self.clock, session, before, PIECE);
            let forgotten = self.call("forgetting fingerprints", forget).await?;
            total += forgotten;
            if forgotten < PIECE as u64 {
                return Ok(total);
            }
        }
    }

    async fn prepare_lots(&self, session: &LedgerSession, until: Timestamp) -> Result<u64> {
        let mut total = 0;
        loop {
            let prepare = || records::prepare_lots(&self.connections, &self.clock, session, until, PIECE);
            let made = self.call("making the next lots", prepare).await?;
            total += made;
            if made == 0 {
                break;
            }
        }
        self.call("making the next days", || retire::make_days(&self.connections, &self.clock, session, until)).await?;
        Ok(total)
    }

    async fn balances(&self, holders: &[Holder]) -> Result<Vec<Balance>> {
        on_snapshot!(self, "reading balances", |snapshot| async {
            let now = snapshot.now(&self.clock).await?;
            read::balances(&snapshot, holders, now).await
        })
    }

    async fn moved(&self, cursor: i64, limit: usize) -> Result<(Vec<Holder>, i64)> {
        on_snapshot!(self, "reading what moved", |snapshot| read::moved(&snapshot, cursor, limit))
    }

    async fn rollup(&self, session: &LedgerSession) -> Result<u64> {
        let rollup = || async {
            let tx = Tx::begin_fenced(&self.connections, &self.clock, session, Lane::Chores).await?;
            let taken = async {
                // A backlog from while no operator counted is taken at once; no charge waits for it.
                tx.batch("SET LOCAL statement_timeout = 0").await?;
                let row = tx.query_one("SELECT rollup()", &[]).await?;
                Ok(row.try_get::<_, i64>(0)? as u64)
            };
            let taken = taken.await;
            tx.end(taken).await
        };
        self.call_within(LONG_LIMIT, "rolling usage up", rollup).await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<Event>> {
        on_snapshot!(self, "reading the audit trail", |snapshot| read::events(&snapshot, after, limit))
    }

    async fn record(
        &self,
        session: &LedgerSession,
        actor: &str,
        kind: &str,
        holder: Option<Holder>,
        detail: serde_json::Value,
    ) -> Result<()> {
        let record = || async {
            let mut tx = Tx::begin_fenced(&self.connections, &self.clock, session, Lane::Records).await?;
            tx.record(actor, kind, holder, detail.clone());
            tx.end(Ok(())).await
        };
        self.call("writing the audit trail", record).await
    }

    async fn forget_keys(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        let (mut after, mut total) = (None, 0);
        loop {
            let forget = || removed_keys::forget(&self.connections, &self.clock, session, before, (after, PIECE));
            let (last, forgotten) = self.call("forgetting removed keys", forget).await?;
            total += forgotten as u64;
            if last.is_none() {
                return Ok(total);
            }
            after = last;
        }
    }

    async fn check(&self) -> Result<Vec<Discrepancy>> {
        let check = || async {
            let snapshot = Snapshot::take(&self.connections).await?;
            let found = read::check(&snapshot).await;
            snapshot.end(found).await
        };
        self.call_within(LONG_LIMIT, "checking the ledger", check).await
    }

    async fn retire(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        let mut total = 0;
        self.call("forgetting old usage", || retire::forget_used(&self.connections, &self.clock, session)).await?;
        while let Some(day) = self.call("looking for old days", || retire::oldest(&self.connections, before)).await? {
            // A day's messages are settled before it is sealed: what is open by now stays unknown.
            self.rollup(session).await?;
            let close = || retire::close(&self.connections, &self.clock, session, day, PIECE);
            while self.call("closing an old day", close).await? == PIECE {}
            self.rollup(session).await?;
            let seal = || retire::seal(&self.connections, &self.clock, session, day);
            match self.call_within(LONG_LIMIT, "sealing an old day", seal).await? {
                Some(messages) => total += messages,
                // Another process wrote to it meanwhile: it is sealed the next time.
                None => break,
            }
        }
        Ok(total)
    }

    async fn hold(&self, because: Because) -> Result<()> {
        self.call("holding the ledger", || incarnation::hold(&self.connections, because)).await
    }

    async fn accept(&self, acceptance: &Acceptance) -> Result<()> {
        self.call("accepting the ledger", || incarnation::accept(&self.connections, &self.clock, acceptance)).await
    }

    async fn assign(
        &self,
        session: &LedgerSession,
        kind: Kind,
        namespace_uid: &str,
        name: &str,
        id: Uuid,
    ) -> Result<Uuid> {
        let name = (kind, namespace_uid, name);
        self.call("assigning an id", || incarnation::assign(&self.connections, &self.clock, session, name, id)).await
    }

    async fn raise(&self, session: &LedgerSession, actor: &str, floors: &[Floor]) -> Result<u64> {
        let raise = || floors::raise(&self.connections, &self.clock, session, actor, floors);
        self.call("raising what is used", raise).await
    }

    async fn reopen(&self, session: &LedgerSession) -> Result<()> {
        self.call("opening the rebuilt ledger", || incarnation::reopen(&self.connections, &self.clock, session)).await
    }
}
