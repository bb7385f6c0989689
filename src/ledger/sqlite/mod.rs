//! The ledger in one file, for one pod.
//!
//! Several processes (the containers of the pod) share the file. Each has one thread that writes, in group commits,
//! and one that reads; nothing is remembered across transactions that another process could have changed, except
//! directory rows, whose epoch is compared inside each transaction.
//!
//! It must never acknowledge what a power cut can undo (WAL with `synchronous=FULL`, verified when it is opened), and
//! never run on a file system whose locks are not enforced.

pub mod backup;
mod charge;
mod check;
mod config;
mod denied_sender;
mod failure;
mod file;
mod file_identity;
mod fingerprint;
mod floors;
mod identity;
mod incarnation;
mod ledgered;
mod login_network;
mod lot_cache;
mod lot_row;
mod lots;
pub mod moved;
mod rate_state;
mod read;
mod refusals;
mod removed_keys;
mod report;
mod retire;
mod rows;
pub mod source;
mod trouble;
mod usage;
mod write;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use failure::{Failure, Op};
use file_identity::FileIdentity;
use jiff::{SignedDuration, Timestamp};
use read::Reader;
use tokio::time::sleep;
use uuid::Uuid;
use write::Tx;
use writer::Writer;

use crate::domain::credential::Username;
use crate::domain::credit::{Reservation, Verdict};
use crate::domain::directory::{Entry, Named};
use crate::domain::id::{Holder, Kind, MessageId};
use crate::ledger::incarnation::Naming;
use crate::ledger::store::{
    Acceptance, Balance, Because, Changes, Discrepancy, Event, Floor, Identity, LedgerSession, LedgerTime, Result,
    Role, Settlement, State, Store,
};
use crate::runtime::clock::Clock;

/// Maximum rows in one transaction of a chore, so that mail waits for none of them longer than some 20 milliseconds.
const PIECE: usize = 1_000;
/// Pause between two pieces of a chore. A process that waits for the file's lock tries it every millisecond; without a
/// pause it hardly ever tries between two pieces, and a long chore keeps all mail waiting.
const BREATH: Duration = Duration::from_millis(3);

/// The engine. Its threads end when it is dropped.
pub struct SqliteStore {
    path: PathBuf,
    writer: Writer,
    reader: Reader,
    clock: Arc<dyn Clock>,
}

/// Makes the ledger's file or brings it to this release's schema (copying it beside itself before), and returns its
/// identity. The ledger of another installation is not touched.
pub fn prepare(path: &Path, installation: Uuid, cluster: &str, incarnation: Uuid, now: Timestamp) -> Result<Identity> {
    prepare_as(path, &Naming { installation, cluster: cluster.to_owned(), incarnation, state: State::Open }, now)
}

/// Does the same, with the state that a new ledger begins in.
pub fn prepare_as(path: &Path, naming: &Naming, now: Timestamp) -> Result<Identity> {
    file::prepare(path, naming, file::MIGRATIONS, now)
}

impl SqliteStore {
    /// Does a chore piece by piece, until one is less than `whole`. Returns the sum.
    async fn in_pieces<W>(&self, doing: &'static str, whole: usize, piece: W) -> Result<u64>
    where
        W: Fn(&mut Tx<'_>) -> Op<u64> + Clone + Send + 'static,
    {
        let mut total = 0;
        loop {
            let piece = piece.clone();
            let done = self.writer.call(doing, writer::GROUP, move |tx| piece(tx)).await?;
            total += done;
            if done < whole as u64 {
                return Ok(total);
            }
            sleep(BREATH).await;
        }
    }

    /// Opens a ledger that [`prepare`] made.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let connection = file::connect_ledger(path)?;
        let reading = file::connect_reader(path)?;
        let identity = Arc::new(FileIdentity::begin(path, &connection)?);
        Ok(Self {
            path: path.to_owned(),
            writer: Writer::start(connection, clock.clone(), identity.clone())?,
            reader: Reader::start(reading, clock.clone(), identity)?,
            clock,
        })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn identity(&self) -> Result<Identity> {
        self.reader.call("reading who the ledger is", |connection, _| identity::read_identity(connection)).await
    }

    async fn time(&self) -> Result<LedgerTime> {
        let clock = self.clock.now();
        let ledger = self.reader.call("reading the ledger's time", |_, now| Ok(now)).await?;
        Ok(LedgerTime { ledger, clock })
    }

    async fn open_session(&self, role: Role, name: &str) -> Result<LedgerSession> {
        let name = name.to_owned();
        self.writer.call("opening a ledger session", 1, move |tx| tx.open_session(role, &name)).await
    }

    async fn heartbeat(&self, session: &LedgerSession) -> Result<()> {
        let session = session.clone();
        self.writer.call("renewing the ledger session", 1, move |tx| tx.fence(&session)).await
    }

    async fn close_session(&self, session: &LedgerSession) -> Result<()> {
        let session = session.clone();
        self.writer.call("closing the ledger session", 1, move |tx| tx.close_session(&session)).await
    }

    async fn sweep_sessions(&self, session: &LedgerSession, silence: SignedDuration) -> Result<Vec<MessageId>> {
        let mut swept = Vec::new();
        loop {
            let session = session.clone();
            let sweep = move |tx: &mut Tx<'_>| tx.sweep(&session, silence, PIECE);
            let piece = self.writer.call("giving up silent sessions", writer::GROUP, sweep).await?;
            let is_last = piece.len() < PIECE;
            swept.extend(piece);
            if is_last {
                return Ok(swept);
            }
            sleep(BREATH).await;
        }
    }

    async fn identify(&self, session: &LedgerSession, kind: Kind, namespace_uid: &str, name: &str) -> Result<Uuid> {
        let (session, namespace_uid, name) = (session.clone(), namespace_uid.to_owned(), name.to_owned());
        self.writer.call("looking an id up", 1, move |tx| tx.identify(&session, kind, &namespace_uid, &name)).await
    }

    async fn put(&self, session: &LedgerSession, actor: &str, entries: &[Entry]) -> Result<()> {
        let (session, actor, entries) = (session.clone(), actor.to_owned(), entries.to_vec());
        self.writer.call("writing the directory", entries.len(), move |tx| tx.put(&session, &actor, &entries)).await
    }

    async fn changes(&self, after: i64) -> Result<Changes> {
        self.reader.call("reading the directory", move |connection, _| read::changes(connection, after)).await
    }

    async fn find_sender(&self, username: &Username) -> Result<Option<Named>> {
        let username = username.clone();
        self.reader.call("looking a sender up", move |connection, _| read::find_sender(connection, &username)).await
    }

    async fn find(&self, holder: Holder) -> Result<Option<Entry>> {
        self.reader.call("looking an entry up", move |connection, _| rows::entry(connection, holder)).await
    }

    async fn reserve(&self, session: &LedgerSession, batch: &[Reservation]) -> Result<Vec<Verdict>> {
        let (session, batch) = (session.clone(), batch.to_vec());
        self.writer.charge("reserving credits", batch.len(), move |tx| tx.reserve(&session, &batch)).await
    }

    async fn settle(&self, session: &LedgerSession, batch: &[Settlement]) -> Result<()> {
        let (session, batch) = (session.clone(), batch.to_vec());
        self.writer.charge("settling messages", batch.len(), move |tx| tx.settle(&session, &batch)).await
    }

    async fn forget_fingerprints(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        let session = session.clone();
        self.in_pieces("forgetting fingerprints", PIECE, move |tx| tx.forget_fingerprints(&session, before, PIECE))
            .await
    }

    async fn prepare_lots(&self, session: &LedgerSession, until: Timestamp) -> Result<u64> {
        let session = session.clone();
        self.in_pieces("making the next lots", 1, move |tx| tx.prepare_lots(&session, until, PIECE)).await
    }

    async fn balances(&self, holders: &[Holder]) -> Result<Vec<Balance>> {
        let holders = holders.to_vec();
        self.reader.call("reading balances", move |connection, now| read::balances(connection, &holders, now)).await
    }

    async fn moved(&self, cursor: i64, limit: usize) -> Result<(Vec<Holder>, i64)> {
        self.reader.call("reading what moved", move |connection, _| read::moved(connection, cursor, limit)).await
    }

    async fn rollup(&self, session: &LedgerSession) -> Result<u64> {
        let session = session.clone();
        self.in_pieces("rolling usage up", PIECE, move |tx| tx.rollup(&session, PIECE)).await
    }

    async fn events(&self, after: i64, limit: usize) -> Result<Vec<Event>> {
        self.reader.call("reading the audit trail", move |connection, _| read::events(connection, after, limit)).await
    }

    async fn record(
        &self,
        session: &LedgerSession,
        actor: &str,
        kind: &str,
        holder: Option<Holder>,
        detail: serde_json::Value,
    ) -> Result<()> {
        let (session, actor, kind) = (session.clone(), actor.to_owned(), kind.to_owned());
        self.writer
            .call("writing the audit trail", 1, move |tx| {
                tx.fence(&session)?;
                tx.record(&actor, &kind, holder, &detail)
            })
            .await
    }

    async fn retire(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        let mut total = 0;
        loop {
            // Messages that are not counted are not deleted.
            self.rollup(session).await?;
            let session = session.clone();
            let work = move |tx: &mut Tx<'_>| tx.retire(&session, before, writer::GROUP);
            let retired = self.writer.call("sealing old messages", writer::GROUP, work).await?;
            total += retired as u64;
            if retired < writer::GROUP {
                return Ok(total);
            }
            sleep(BREATH).await;
        }
    }

    async fn forget_keys(&self, session: &LedgerSession, before: Timestamp) -> Result<u64> {
        let (mut after, mut total) = (None, 0);
        loop {
            let session = session.clone();
            let look = move |tx: &mut Tx<'_>| tx.forget_keys(&session, before, after, PIECE);
            let (last, forgotten) = self.writer.call("forgetting removed keys", writer::GROUP, look).await?;
            total += forgotten as u64;
            if last.is_none() {
                return Ok(total);
            }
            after = last;
            sleep(BREATH).await;
        }
    }

    async fn check(&self) -> Result<Vec<Discrepancy>> {
        let doing = "checking the ledger";
        let path = self.path.clone();
        // On a connection of its own: it reads everything, and the relays' directory must not wait for it.
        tokio::task::spawn_blocking(move || {
            let connection = file::connect_reader(&path)?;
            read::snapshot(&connection, check::check).map_err(|failure| failure.of(doing))
        })
        .await
        .unwrap_or_else(|_| Err(Failure::Panicked.of(doing)))
    }

    async fn hold(&self, because: Because) -> Result<()> {
        self.writer.call("holding the ledger", 1, move |tx| identity::hold(tx.connection, because)).await
    }

    async fn accept(&self, acceptance: &Acceptance) -> Result<()> {
        let doing = "accepting the ledger";
        let (path, acceptance, clock) = (self.path.clone(), acceptance.clone(), self.clock.clone());
        // On a connection of its own: the writer leaves another installation's file alone until this is done.
        tokio::task::spawn_blocking(move || {
            let connection = file::connect_ledger(&path)?;
            writer::once(&connection, clock.as_ref(), |tx| tx.accept(&acceptance)).map_err(|failure| failure.of(doing))
        })
        .await
        .unwrap_or_else(|_| Err(Failure::Panicked.of(doing)))
    }

    async fn assign(
        &self,
        session: &LedgerSession,
        kind: Kind,
        namespace_uid: &str,
        name: &str,
        id: Uuid,
    ) -> Result<Uuid> {
        let (session, namespace_uid, name) = (session.clone(), namespace_uid.to_owned(), name.to_owned());
        self.writer.call("assigning an id", 1, move |tx| tx.assign(&session, kind, &namespace_uid, &name, id)).await
    }

    async fn raise(&self, session: &LedgerSession, actor: &str, floors: &[Floor]) -> Result<u64> {
        let (session, actor, floors) = (session.clone(), actor.to_owned(), floors.to_vec());
        self.writer.call("raising what is used", floors.len(), move |tx| tx.raise(&session, &actor, &floors)).await
    }

    async fn reopen(&self, session: &LedgerSession) -> Result<()> {
        let session = session.clone();
        self.writer.call("opening the rebuilt ledger", 1, move |tx| tx.reopen(&session)).await
    }
}
