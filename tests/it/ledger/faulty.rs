//! A store that loses replies, fails and stalls on command, in front of a real one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use franking::domain::credit::{Reservation, Verdict};
use franking::domain::id::MessageId;
use franking::ledger::store::{Error, LedgerSession, Result, Settlement, Store, Undone};

use crate::intercepted::{Intercepted, Interceptor};

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
    pub fn in_front_of(inner: Arc<dyn Store>) -> Arc<Intercepted<Self>> {
        let faulty = Self {
            reserve: Mutex::default(),
            settle: Mutex::default(),
            poison: Mutex::default(),
            permits: Semaphore::new(1_000_000),
            batches: Mutex::default(),
        };
        Intercepted::new(inner, faulty)
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
impl Interceptor for Faulty {
    async fn reserve(&self, inner: &dyn Store, session: &LedgerSession, batch: &[Reservation]) -> Result<Vec<Verdict>> {
        self.batches.lock().expect("no panic").push(batch.len());
        let _permit = self.permits.acquire().await.expect("open");
        self.check_poison(batch.iter().map(|reservation| reservation.message))?;
        around(Self::next(&self.reserve), inner.reserve(session, batch)).await
    }

    async fn settle(&self, inner: &dyn Store, session: &LedgerSession, batch: &[Settlement]) -> Result<()> {
        self.check_poison(batch.iter().map(|settlement| settlement.message))?;
        around(Self::next(&self.settle), inner.settle(session, batch)).await
    }
}
