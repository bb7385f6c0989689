//! A write transaction of several statements: begun, entered, ended. A call that takes too long loses its connection.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::connection::PgConnection;
use super::failure::{Failure, Op};
use super::pool::{Connections, Lease};
use super::{identity, rows};
use crate::domain::id::Holder;
use crate::ledger::audit::Note;
use crate::ledger::rules::time;
use crate::ledger::store::{LedgerSession, State};

/// The writers of one process that need not wait for each other: each lane has its own row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Reserve,
    Settle,
    /// The heartbeat, the directory, the audit trail.
    Records,
    /// Work that may take long: rollup, sweep, lots ahead, old rows.
    Chores,
}

impl Lane {
    pub fn number(self) -> i16 {
        match self {
            Self::Reserve => 1,
            Self::Settle => 2,
            Self::Records => 3,
            Self::Chores => 4,
        }
    }
}

/// The source of the time.
pub type Clock = Option<std::sync::Arc<dyn crate::runtime::clock::Clock>>;

/// Returns the given clock's time. `None`: the server's is used.
pub fn clock_ms(clock: &Clock) -> Option<i64> {
    clock.as_ref().map(|clock| clock.now().as_millisecond())
}

pub struct Tx {
    connection: Lease,
    /// The ledger's time.
    pub now: Timestamp,
    /// The clock that it was taken from: the given one, or the server's.
    clock: Timestamp,
    /// The session had been given up when this began.
    pub fenced: bool,
    pub config_epoch: i64,
    /// The ledger's state, which decides whether mail may be charged.
    pub state: State,
    /// Notes for the audit trail, written at the end.
    notes: Vec<(String, Line)>,
    /// Holders whose figures moved, marked at the end.
    moved: Vec<Holder>,
}

struct Line {
    kind: String,
    holder: Option<Holder>,
    detail: Value,
}

impl std::ops::Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl Tx {
    /// Begins, and reports that the session is alive.
    pub async fn begin(connections: &Connections, clock: &Clock, session: &LedgerSession, lane: Lane) -> Op<Self> {
        let connection = Lease::take(connections).await?;
        connection.batch("BEGIN").await?;
        let entered = connection
            .query_one(
                "SELECT now_ms, fenced, config_epoch, state, \
                     coalesce($4, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) \
                 FROM enter($1, $2, $3, $4)",
                &[&session.id, &session.epoch, &lane.number(), &clock_ms(clock)],
            )
            .await?;
        let now = rows::instant(entered.try_get(0)?)?;
        let (fenced, config_epoch) = (entered.try_get(1)?, entered.try_get(2)?);
        let state = identity::state(entered.try_get(3)?)?;
        let clock = rows::instant(entered.try_get(4)?)?;
        Ok(Self { connection, now, clock, fenced, config_epoch, state, notes: vec![], moved: vec![] })
    }

    /// Begins without a session: for an administrator's actions, also when every session has ended.
    pub async fn begin_alone(connections: &Connections, clock: &Clock) -> Op<Self> {
        let connection = Lease::take(connections).await?;
        connection.batch("BEGIN").await?;
        let found = connection
            .query_one("SELECT ledger_now($1), config_epoch, state FROM meta FOR UPDATE", &[&clock_ms(clock)])
            .await?;
        let now = rows::instant(found.try_get(0)?)?;
        let state = identity::state(found.try_get(2)?)?;
        let config_epoch = found.try_get(1)?;
        Ok(Self { connection, now, clock: now, fenced: false, config_epoch, state, notes: vec![], moved: vec![] })
    }

    /// Begins like [`begin`](Self::begin), for work that a session may do only while it lives.
    pub async fn begin_fenced(
        connections: &Connections,
        clock: &Clock,
        session: &LedgerSession,
        lane: Lane,
    ) -> Op<Self> {
        let tx = Self::begin(connections, clock, session, lane).await?;
        if tx.fenced {
            return tx.end(Err(Failure::Fenced)).await;
        }
        Ok(tx)
    }

    /// Returns the time by which rates and expiries are judged.
    pub fn judged_at(&self) -> Timestamp {
        time::judged_at(self.now, self.clock)
    }

    pub fn now_ms(&self) -> i64 {
        self.now.as_millisecond()
    }

    pub fn record(&mut self, actor: &str, kind: &str, holder: Option<Holder>, detail: Value) {
        self.notes.push((actor.to_owned(), Line { kind: kind.to_owned(), holder, detail }));
    }

    pub fn record_notes(&mut self, actor: &str, holder: Holder, notes: impl IntoIterator<Item = Note>) {
        for Note { kind, detail } in notes {
            self.record(actor, kind, Some(holder), detail);
        }
    }

    /// Notes what concerns no single holder.
    pub fn note_of_ledger(&mut self, actor: &str, note: Note) {
        self.record(actor, note.kind, None, note.detail);
    }

    /// Marks a holder's figures as changed.
    pub fn mark_moved(&mut self, holder: Holder) {
        self.moved.push(holder);
    }

    /// Commits what succeeded and rolls back what failed. The connection is reused if it is known to be clean.
    pub async fn end<T>(mut self, result: Op<T>) -> Op<T> {
        let result = match result {
            Ok(value) => self.write_lines().await.map(|()| value),
            Err(failure) => Err(failure),
        };
        match result {
            Ok(value) => {
                self.connection.batch("COMMIT").await?;
                self.connection.give_back();
                Ok(value)
            }
            Err(failure) => {
                if self.connection.batch("ROLLBACK").await.is_ok() {
                    self.connection.give_back();
                }
                Err(failure)
            }
        }
    }

    /// Writes the trail and the marks. Numbers follow the order of commits, because a transaction that takes some holds
    /// the row of `meta` until it has committed. Nothing is locked after it.
    async fn write_lines(&mut self) -> Op<()> {
        self.moved.sort_unstable();
        self.moved.dedup();
        if self.moved.is_empty() && self.notes.is_empty() {
            return Ok(());
        }
        let (lines, moves) = (rows::limit(self.notes.len()), rows::limit(self.moved.len()));
        let numbers = self
            .query_one(
                "UPDATE meta SET events = events + $1, moved = moved + $2 RETURNING events - $1, moved - $2",
                &[&lines, &moves],
            )
            .await?;
        let (events, moved): (i64, i64) = (numbers.try_get(0)?, numbers.try_get(1)?);
        if !self.moved.is_empty() {
            let (kinds, ids) = rows::columns(self.moved.iter().copied());
            self.execute(
                "INSERT INTO moved (kind, id, seq) \
                 SELECT x.kind, x.id, $1 + x.n FROM unnest($2::smallint[], $3::uuid[]) WITH ORDINALITY x(kind, id, n) \
                 ON CONFLICT (kind, id) DO UPDATE SET seq = excluded.seq",
                &[&moved, &kinds, &ids],
            )
            .await?;
        }
        if !self.notes.is_empty() {
            self.write_events(events).await?;
        }
        Ok(())
    }

    async fn write_events(&self, after: i64) -> Op<()> {
        let lines = || self.notes.iter();
        let actors: Vec<&str> = lines().map(|(actor, _)| actor.as_str()).collect();
        let kinds: Vec<&str> = lines().map(|(_, line)| line.kind.as_str()).collect();
        let holder_kinds: Vec<Option<i16>> =
            lines().map(|(_, line)| line.holder.map(|holder| rows::kind_number(holder.kind()))).collect();
        let holders: Vec<Option<Uuid>> = lines().map(|(_, line)| line.holder.map(Holder::uuid)).collect();
        let details: Vec<String> = lines().map(|(_, line)| line.detail.to_string()).collect();
        self.execute(
            "INSERT INTO event (seq, at, actor, kind, holder_kind, holder, detail) \
             SELECT $1 + x.n, $2, x.actor, x.kind, x.holder_kind, x.holder, x.detail \
             FROM unnest($3::text[], $4::text[], $5::smallint[], $6::uuid[], $7::text[]) WITH ORDINALITY \
                 x(actor, kind, holder_kind, holder, detail, n)",
            &[&after, &self.now_ms(), &actors, &kinds, &holder_kinds, &holders, &details],
        )
        .await?;
        Ok(())
    }
}
