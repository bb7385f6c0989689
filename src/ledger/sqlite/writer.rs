//! The one thread of this process that writes.
//!
//! It takes what is queued, runs it in one transaction, commits, and only then answers: group commit without a
//! timer. A call that fails is undone alone; a transaction that fails is answered as failed to every call in it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::failure::{Failure, Op};
use super::file;
use super::file_identity::FileIdentity;
use super::write::{Cache, Tx};
use crate::ledger::store::{Error, Result};
use crate::runtime::clock::Clock;

/// Maximum calls that may wait for the writer. A relay has one batch in flight, so this is room for the operator's
/// workers.
const QUEUE: usize = 1_024;
/// Maximum messages (or other calls) of one transaction. Measured: beyond 500 a commit's cost is shared well enough,
/// and a larger transaction only makes every caller wait.
pub const GROUP: usize = 500;

/// A queued call.
trait Job: Send {
    fn weight(&self) -> usize;
    /// Returns true if it keeps the remembered lots up to date.
    fn keeps_lots(&self) -> bool;
    fn run(&mut self, tx: &mut Tx<'_>) -> Op<()>;
    /// Answers the caller after the commit, or with the failure.
    fn answer(self: Box<Self>, failure: Option<Failure>);
}

struct Call<T, F> {
    doing: &'static str,
    weight: usize,
    keeps_lots: bool,
    work: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnMut(&mut Tx<'_>) -> Op<T> + Send> Job for Call<T, F> {
    fn weight(&self) -> usize {
        self.weight
    }

    fn keeps_lots(&self) -> bool {
        self.keeps_lots
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Op<()> {
        self.value = Some((self.work)(tx)?);
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<Failure>) {
        let answer = match (failure, self.value) {
            (None, Some(value)) => Ok(value),
            (Some(failure), _) => Err(failure.of(self.doing)),
            (None, None) => Err(Failure::Stopped.of(self.doing)),
        };
        // The caller may be gone; what was written stays written.
        let _ = self.reply.send(answer);
    }
}

/// The writer's queue.
pub struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    pub fn start(connection: Connection, clock: Arc<dyn Clock>, identity: Arc<FileIdentity>) -> Result<Self> {
        let path = identity.path().to_owned();
        let (jobs, queue) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(move || write_until_closed(connection, &*clock, queue, &identity))
            .map_err(|error| Error::Unfit {
                path: path.display().to_string(),
                why: format!("no thread could be started for it ({error})"),
            })?;
        Ok(Self { jobs })
    }

    /// Runs `work` in a transaction and returns after its commit. `work` runs at most once, but it is `FnMut` so that
    /// it need not be consumed before it is known to have failed.
    pub async fn call<T, F>(&self, doing: &'static str, weight: usize, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Op<T> + Send + 'static,
    {
        self.run(doing, weight, false, work).await
    }

    /// Does the same for work that writes lots through [`super::ledgered::Ledgered`] alone.
    pub async fn charge<T, F>(&self, doing: &'static str, weight: usize, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Op<T> + Send + 'static,
    {
        self.run(doing, weight, true, work).await
    }

    async fn run<T, F>(&self, doing: &'static str, weight: usize, keeps_lots: bool, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Op<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Call { doing, weight: weight.max(1), keeps_lots, work, value: None, reply });
        self.jobs.try_send(job).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Failure::Crowded.of(doing),
            mpsc::error::TrySendError::Closed(_) => Failure::Stopped.of(doing),
        })?;
        answer.await.unwrap_or_else(|_| Err(Failure::Stopped.of(doing)))
    }
}

fn write_until_closed(
    mut connection: Connection,
    clock: &dyn Clock,
    mut queue: mpsc::Receiver<Box<dyn Job>>,
    identity: &FileIdentity,
) {
    let mut cache = Cache::default();
    let mut generation = 0;
    while let Some(first) = queue.blocking_recv() {
        let mut weight = first.weight();
        let mut group = vec![first];
        while weight < GROUP {
            let Ok(job) = queue.try_recv() else { break };
            weight += job.weight();
            group.push(job);
        }
        let ready = identity.look().and_then(|found| {
            if found != generation {
                connection = file::connect_writer(identity.path()).map_err(|error| Failure::Gone(error.to_string()))?;
                cache.forget();
                generation = found;
            }
            Ok(())
        });
        let failures = match ready.and_then(|()| run_group(&connection, clock, &mut cache, &mut group)) {
            Ok(failures) => failures,
            Err(failure) => {
                undo(&connection, &mut cache);
                vec![Some(failure); group.len()]
            }
        };
        for (job, failure) in group.into_iter().zip(failures) {
            job.answer(failure);
        }
    }
}

/// Runs one transaction. Returns the failure of each job, or the failure of the whole.
fn run_group(
    connection: &Connection,
    clock: &dyn Clock,
    cache: &mut Cache,
    group: &mut [Box<dyn Job>],
) -> Op<Vec<Option<Failure>>> {
    // IMMEDIATE: a transaction that read first and then finds the file changed cannot be retried from inside.
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut tx = Tx::begin(connection, cache, clock.now())?;
    let mut failures = Vec::with_capacity(group.len());
    // A savepoint copies every page that is touched. A job that is alone needs none: no other work is undone with it.
    let alone = group.len() == 1;
    for job in group.iter_mut() {
        if !alone {
            connection.prepare_cached("SAVEPOINT job")?.execute([])?;
        }
        let before = tx.savepoint();
        if !job.keeps_lots() {
            tx.cache.lots.forget();
        }
        // A bug in one operation must not take the writer, and every other call, with it.
        let result = catch_unwind(AssertUnwindSafe(|| job.run(&mut tx))).unwrap_or(Err(Failure::Panicked));
        if let Err(failure) = &result {
            if alone || failure.spoils_transaction() || connection.is_autocommit() {
                return Err(failure.clone());
            }
            connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
            tx.reset(before);
        }
        if !alone {
            connection.prepare_cached("RELEASE job")?.execute([])?;
        }
        failures.push(result.err());
    }
    tx.finish()?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(failures)
}

/// Runs one operation in a transaction of its own, on a connection that is used for nothing else.
pub fn once<T>(connection: &Connection, clock: &dyn Clock, work: impl FnOnce(&mut Tx<'_>) -> Op<T>) -> Op<T> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let mut cache = Cache::default();
    let done = Tx::begin(connection, &mut cache, clock.now()).and_then(|mut tx| {
        let value = work(&mut tx)?;
        tx.finish()?;
        connection.execute_batch("COMMIT")?;
        Ok(value)
    });
    if done.is_err() {
        undo(connection, &mut cache);
    }
    done
}

fn undo(connection: &Connection, cache: &mut Cache) {
    cache.forget();
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::error!(error = &error as &dyn std::error::Error, "rolling back a ledger transaction failed");
    }
}
