//! A write transaction: its time, the sessions that it has written, and its cache.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::lot_cache::LotCache;
use super::{identity, rows};
use crate::domain::directory::{Directory, Entry, ResolvedKey};
use crate::domain::id::{Holder, KeyId, Kind};
use crate::ledger::audit::Note;
use crate::ledger::digest;
use crate::ledger::rules::time;
use crate::ledger::store::{LedgerSession, REMEMBERED_FOR, Role};

/// The writer's cache between transactions: directory rows it has used, and the running lots it has charged. Each
/// transaction first drops or renews what another process changed.
#[derive(Default)]
pub struct Cache {
    directory: Directory,
    config_epoch: i64,
    /// When it was last compared with the file.
    compared_at: Timestamp,
    pub lots: LotCache,
    /// The warning that the clock is behind was logged.
    said_behind: bool,
}

impl Cache {
    pub fn forget(&mut self) {
        *self = Self { said_behind: self.said_behind, ..Self::default() };
    }

    /// Warns if the clock is behind: no period opens until it catches up, and an operator should look at it.
    fn watch_clock(&mut self, now: Timestamp, clock: Timestamp) {
        let behind = time::ahead(now, clock).is_some();
        if behind && !self.said_behind {
            tracing::warn!(ledger = %now, %clock, "the clock stepped back; the ledger's time stands until it catches up");
        }
        self.said_behind = behind;
    }

    fn knows(&self, holder: Holder) -> bool {
        match holder {
            Holder::Key(id) => self.directory.key(id).is_some(),
            Holder::Account(id) => self.directory.account(id).is_some(),
            Holder::Policy(id) => self.directory.policy(id).is_some(),
        }
    }
}

/// One write transaction. Each writes `meta` and a session row.
pub struct Tx<'a> {
    pub connection: &'a Connection,
    /// The ledger's time: the clock's, but never before an earlier transaction's.
    pub now: Timestamp,
    /// The process's clock.
    clock: Timestamp,
    pub cache: &'a mut Cache,
    state: State,
    /// Sessions that this transaction has already written.
    written: HashSet<(i64, i64)>,
}

/// Numbers that are written back to `meta` at the end.
#[derive(Clone, Copy)]
struct State {
    config_epoch: i64,
    moved: i64,
}

/// The state that a failed operation returns to.
pub struct Savepoint(State);

impl<'a> Tx<'a> {
    pub fn begin(connection: &'a Connection, cache: &'a mut Cache, clock: Timestamp) -> Op<Self> {
        let (state, last_now) = connection
            .prepare_cached("SELECT config_epoch, moved, last_now FROM meta")?
            .query_row([], |row| Ok((State { config_epoch: row.get(0)?, moved: row.get(1)? }, row.get(2)?)))?;
        let now = rows::later(clock, last_now)?;
        cache.watch_clock(now, clock);
        if now.duration_since(cache.compared_at) > REMEMBERED_FOR {
            cache.forget();
        }
        cache.compared_at = now;
        cache.lots.renew(connection)?;
        let mut tx = Self { connection, now, clock, cache, state, written: HashSet::new() };
        if tx.cache.config_epoch != state.config_epoch {
            tx.renew_cache()?;
        }
        Ok(tx)
    }

    pub fn savepoint(&self) -> Savepoint {
        Savepoint(self.state)
    }

    /// Restores the state after an operation was undone: what it may have left in memory goes too.
    pub fn reset(&mut self, savepoint: Savepoint) {
        self.state = savepoint.0;
        self.written.clear();
        self.cache.forget();
        self.cache.config_epoch = self.state.config_epoch;
    }

    pub fn finish(self) -> Op<()> {
        self.connection
            .prepare_cached("UPDATE meta SET last_now = ?1, config_epoch = ?2, moved = ?3")?
            .execute(params![self.now.as_millisecond(), self.state.config_epoch, self.state.moved])?;
        Ok(())
    }

    /// Returns the time by which rates and expiries are judged.
    pub fn judged_at(&self) -> Timestamp {
        time::judged_at(self.now, self.clock)
    }

    pub fn now_ms(&self) -> i64 {
        self.now.as_millisecond()
    }

    /// Refuses a session that was given up or replaced, and reports that this one is alive.
    pub fn fence(&mut self, session: &LedgerSession) -> Op<()> {
        if !self.written.insert((session.id, session.epoch)) {
            return Ok(());
        }
        if self.touch(session)? { Ok(()) } else { Err(Failure::Fenced) }
    }

    /// Reports that the session is alive. False if it was given up.
    pub fn touch(&mut self, session: &LedgerSession) -> Op<bool> {
        let written = self
            .connection
            .prepare_cached("UPDATE session SET seen_at = ?3 WHERE id = ?1 AND epoch = ?2 AND closed_at IS NULL")?
            .execute(params![session.id, session.epoch, self.now_ms()])?;
        Ok(written == 1)
    }

    // ---- sessions, ids, the audit trail

    pub fn open_session(&mut self, role: Role, name: &str) -> Op<LedgerSession> {
        let session = self
            .connection
            .prepare_cached(
                "INSERT INTO session (role, name, epoch, opened_at, seen_at) VALUES (?1, ?2, 1, ?3, ?3) \
                 ON CONFLICT (role, name) DO UPDATE \
                 SET epoch = epoch + 1, opened_at = excluded.opened_at, seen_at = excluded.seen_at, closed_at = NULL \
                 RETURNING id, epoch",
            )?
            .query_row(params![role.as_str(), name, self.now_ms()], |row| {
                Ok(LedgerSession { id: row.get(0)?, epoch: row.get(1)? })
            })?;
        Ok(session)
    }

    pub fn close_session(&mut self, session: &LedgerSession) -> Op<()> {
        self.fence(session)?;
        self.written.clear();
        self.connection
            .prepare_cached("UPDATE session SET closed_at = ?2 WHERE id = ?1")?
            .execute(params![session.id, self.now_ms()])?;
        Ok(())
    }

    pub fn identify(&mut self, session: &LedgerSession, kind: Kind, namespace_uid: &str, name: &str) -> Op<Uuid> {
        self.fence(session)?;
        identity::refuse_held(self.connection)?;
        let digest = self.digest(kind, namespace_uid, name)?;
        let known = self
            .connection
            .prepare_cached("SELECT id FROM identity WHERE digest = ?1")?
            .query_row([&digest], |row| row.get(0))
            .optional()?;
        if let Some(id) = known {
            return Ok(Uuid::from_bytes(id));
        }
        // SQLite's generator is seeded by the system. The id is a name, not a secret.
        let random: [u8; 16] = self.connection.query_row("SELECT randomblob(16)", [], |row| row.get(0))?;
        let id = uuid::Builder::from_random_bytes(random).into_uuid();
        self.connection
            .prepare_cached("INSERT INTO identity (digest, kind, id, at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![digest, kind.as_str(), id.as_bytes(), self.now_ms()])?;
        Ok(id)
    }

    pub fn digest(&self, kind: Kind, namespace_uid: &str, name: &str) -> Op<Vec<u8>> {
        let installation =
            self.connection.prepare_cached("SELECT installation FROM meta")?.query_row([], |row| row.get(0))?;
        Ok(digest::of_name(Uuid::from_bytes(installation), kind, namespace_uid, name))
    }

    pub fn record(&mut self, actor: &str, kind: &str, holder: Option<Holder>, detail: &serde_json::Value) -> Op<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO event (at, actor, kind, holder_kind, holder, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                self.now_ms(),
                actor,
                kind,
                holder.map(|holder| holder.kind().as_str()),
                holder.map(|holder| holder.uuid().into_bytes()),
                detail.to_string()
            ])?;
        Ok(())
    }

    pub fn note(&mut self, actor: &str, holder: Holder, note: &Note) -> Op<()> {
        self.record(actor, note.kind, Some(holder), &note.detail)
    }

    /// Notes what concerns no single holder.
    pub fn note_of_ledger(&mut self, actor: &str, note: &Note) -> Op<()> {
        self.record(actor, note.kind, None, &note.detail)
    }

    /// Marks a holder's figures as changed.
    pub fn moved(&mut self, holder: Holder) -> Op<()> {
        self.state.moved += 1;
        self.connection
            .prepare_cached("INSERT INTO moved (kind, id, seq) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET seq = ?3")?
            .execute(params![holder.kind().as_str(), holder.uuid().as_bytes(), self.state.moved])?;
        Ok(())
    }

    // ---- the directory

    /// Returns the key with its account and policy, on rows that are fresh in this transaction.
    pub fn sender(&mut self, key: KeyId) -> Op<Option<ResolvedKey>> {
        if let Some(sender) = self.cache.directory.sender(key) {
            return Ok(Some(sender));
        }
        let Some(Entry::Key(row)) = self.load(Holder::Key(key))? else { return Ok(None) };
        let Some(Entry::Account(account)) = self.load(Holder::Account(row.account))? else { return Ok(None) };
        self.load(Holder::Policy(account.policy))?;
        Ok(self.cache.directory.sender(key))
    }

    /// Reads one fresh entry and remembers it.
    pub fn load(&mut self, holder: Holder) -> Op<Option<Entry>> {
        let entry = rows::entry(self.connection, holder)?;
        if let Some(entry) = &entry {
            self.cache.directory.apply_standing(entry.clone());
        }
        Ok(entry)
    }

    /// Returns the epoch for rows that this call writes.
    pub fn next_epoch(&mut self) -> i64 {
        self.state.config_epoch += 1;
        self.cache.config_epoch = self.state.config_epoch;
        self.state.config_epoch
    }

    pub fn store(&mut self, entry: &Entry, epoch: i64) -> Op<()> {
        rows::store_entry(self.connection, entry, epoch)?;
        if self.cache.knows(entry.holder()) {
            self.cache.directory.apply_standing(entry.clone());
        }
        Ok(())
    }

    /// Takes over other processes' changes of the rows kept here.
    fn renew_cache(&mut self) -> Op<()> {
        if self.cache.config_epoch == 0 {
            // Nothing has been read yet.
            self.cache.config_epoch = self.state.config_epoch;
            return Ok(());
        }
        let changed: Vec<Holder> = self
            .connection
            .prepare_cached("SELECT kind, id FROM directory WHERE epoch > ?1")?
            .query_map([self.cache.config_epoch], rows::holder)?
            .collect::<rusqlite::Result<_>>()?;
        for holder in changed {
            if self.cache.knows(holder) {
                self.load(holder)?;
            }
        }
        self.cache.config_epoch = self.state.config_epoch;
        Ok(())
    }
}
