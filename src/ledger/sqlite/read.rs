//! The one thread of this process that reads, on a connection that cannot write, and its queries.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{mpsc, oneshot};

use super::failure::{Failure, Op};
use super::file_identity::FileIdentity;
use super::{file, identity, lots, rows, usage};
use crate::domain::credential::Username;
use crate::domain::directory::{Directory, Entry, Named};
use crate::domain::id::{Holder, KeyId};
use crate::ledger::rules::balance::balance;
use crate::ledger::store::{Balance, Changes, Error, Event, Result, Usage};
use crate::runtime::clock::Clock;

/// Maximum reads that may wait. Each takes microseconds, a status read of a thousand holders some milliseconds.
const QUEUE: usize = 1_024;
/// Maximum rows of the audit trail in one answer.
const EVENTS_MAX: usize = 1_000;

/// A read, which gets the connection or the reason why there is none.
type Job = Box<dyn FnOnce(Op<&Connection>) + Send>;

/// The reader's queue.
pub struct Reader {
    jobs: mpsc::Sender<Job>,
    clock: Arc<dyn Clock>,
}

impl Reader {
    pub fn start(mut connection: Connection, clock: Arc<dyn Clock>, identity: Arc<FileIdentity>) -> Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let path = identity.path().to_owned();
        let mut generation = 0;
        thread::Builder::new()
            .name("ledger-reader".to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    let ready = identity.look().and_then(|found| {
                        if found != generation {
                            connection = file::connect_reader(identity.path())
                                .map_err(|error| Failure::Gone(error.to_string()))?;
                            generation = found;
                        }
                        Ok(())
                    });
                    let found = ready.map(|()| &connection);
                    // A bug in one read must not end all others. The caller finds its reply dropped.
                    if catch_unwind(AssertUnwindSafe(|| job(found))).is_err() {
                        tracing::error!("a ledger read panicked");
                    }
                }
            })
            .map_err(|error| Error::Unfit {
                path: path.display().to_string(),
                why: format!("no thread could be started for it ({error})"),
            })?;
        Ok(Self { jobs, clock })
    }

    /// Runs `work` on one snapshot of the file.
    pub async fn call<T, F>(&self, doing: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, Timestamp) -> Op<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let clock = self.clock.clone();
        let job: Job = Box::new(move |connection: Op<&Connection>| {
            let result = connection.and_then(|connection| {
                snapshot(connection, |connection| {
                    let last: i64 =
                        connection.prepare_cached("SELECT last_now FROM meta")?.query_row([], |row| row.get(0))?;
                    work(connection, rows::later(clock.now(), last)?)
                })
            });
            let _ = reply.send(result.map_err(|failure| failure.of(doing)));
        });
        self.jobs.try_send(job).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Failure::Crowded.of(doing),
            mpsc::error::TrySendError::Closed(_) => Failure::Stopped.of(doing),
        })?;
        answer.await.unwrap_or_else(|_| Err(Failure::Panicked.of(doing)))
    }
}

/// Runs `work` so that all its statements see the same commit.
pub fn snapshot<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Op<T>) -> Op<T> {
    let transaction = connection.unchecked_transaction()?;
    work(&transaction)
}

pub fn changes(connection: &Connection, after: i64) -> Op<Changes> {
    let epoch = connection.prepare_cached("SELECT config_epoch FROM meta")?.query_row([], |row| row.get(0))?;
    let entries = if epoch > after { rows::entries_after(connection, after)? } else { Vec::new() };
    Ok(Changes { entries, epoch, tag: identity::tag(connection)? })
}

pub fn find_sender(connection: &Connection, username: &Username) -> Op<Option<Named>> {
    identity::refuse_unless_open(connection)?;
    // A username that was given again belongs to the key that is not removed.
    let id: Option<[u8; 16]> = connection
        .prepare_cached("SELECT id FROM directory WHERE username = ?1 ORDER BY removed, epoch DESC LIMIT 1")?
        .query_row([username.as_str()], |row| row.get(0))
        .optional()?;
    let Some(id) = id else { return Ok(None) };
    let id = KeyId(uuid::Uuid::from_bytes(id));
    let mut directory = Directory::default();
    let mut next = Some(Holder::Key(id));
    while let Some(holder) = next {
        let Some(entry) = rows::entry(connection, holder)? else { break };
        next = entry.parent();
        directory.apply(entry);
    }
    Ok(directory.named(id))
}

pub fn balances(connection: &Connection, holders: &[Holder], now: Timestamp) -> Op<Vec<Balance>> {
    identity::refuse_held(connection)?;
    let mut found = Vec::with_capacity(holders.len());
    for holder in holders {
        let Some(entry) = rows::entry(connection, *holder)? else { continue };
        found.push((*holder, entry, lots::latest(connection, *holder, now)?));
    }
    let latest = found.iter().filter_map(|(_, _, latest)| Some(latest.as_ref()?.lot.id)).collect();
    let untaken = usage::untaken(connection, &latest)?;
    let mut balances = Vec::with_capacity(found.len());
    for (holder, entry, latest) in found {
        let terms = entry.terms();
        let (lot, usage) = match latest {
            Some(row) if now < row.lot.window.to => {
                let usage = row.usage(untaken.get(&row.lot.id).copied().unwrap_or_default());
                (row.lot, usage)
            }
            // No message was sent in this period yet: the lot that the first one would find.
            ended => {
                let lots = lots::of_latest(holder, ended);
                let from = lots.counts_from(terms.limit, now);
                let used = from.map_or(Ok(0), |from| usage::used_since(connection, holder, from))?;
                (lots.next((terms.limit, terms.overage), used, now), Usage::default())
            }
        };
        let more = if terms.has_more() { lots::live(connection, holder, now)? } else { Vec::new() };
        let price = if terms.spend_limit.is_some() { unit_price(connection, &entry)? } else { 0 };
        balances.push(balance(&terms, lot, usage, more, price, now));
    }
    Ok(balances)
}

/// Returns the price of a credit by the pricing of an account's policy.
fn unit_price(connection: &Connection, entry: &Entry) -> Op<i64> {
    let Entry::Account(account) = entry else { return Ok(0) };
    match rows::entry(connection, Holder::Policy(account.policy))? {
        Some(Entry::Policy(policy)) => Ok(policy.unit_price()),
        Some(Entry::Account(_) | Entry::Key(_)) | None => Ok(0),
    }
}

pub fn moved(connection: &Connection, cursor: i64, limit: usize) -> Op<(Vec<Holder>, i64)> {
    let mut next = cursor;
    let mut statement =
        connection.prepare_cached("SELECT kind, id, seq FROM moved WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let mut found = statement.query(params![cursor, rows::limit(limit)])?;
    let mut holders = Vec::new();
    while let Some(row) = found.next()? {
        holders.push(rows::holder(row)?);
        next = row.get(2)?;
    }
    Ok((holders, next))
}

pub fn events(connection: &Connection, after: i64, limit: usize) -> Op<Vec<Event>> {
    let mut statement = connection.prepare_cached(
        "SELECT holder_kind, holder, seq, at, actor, kind, detail FROM event WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut found = statement.query(params![after, rows::limit(limit.min(EVENTS_MAX))])?;
    let mut events = Vec::new();
    while let Some(row) = found.next()? {
        let about_nobody = row.get_ref(0)? == rusqlite::types::ValueRef::Null;
        let detail: String = row.get(6)?;
        events.push(Event {
            seq: row.get(2)?,
            at: rows::instant(row.get(3)?)?,
            actor: row.get(4)?,
            kind: row.get(5)?,
            holder: if about_nobody { None } else { Some(rows::holder(row)?) },
            detail: serde_json::from_str(&detail).map_err(|error| Failure::Row(error.to_string()))?,
        });
    }
    Ok(events)
}
