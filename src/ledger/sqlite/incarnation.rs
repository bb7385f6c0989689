//! Accepts a ledger that was replaced, and restores what it has lost.

use rusqlite::{OptionalExtension as _, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::identity::tag;
use super::write::Tx;
use crate::domain::id::Kind;
use crate::ledger::audit::{Note, OPERATOR};
use crate::ledger::store::{Acceptance, LedgerSession, State};

impl Tx<'_> {
    pub fn accept(&mut self, acceptance: &Acceptance) -> Op<()> {
        let found = tag(self.connection)?;
        if found.incarnation == acceptance.incarnation {
            return Ok(());
        }
        if found.incarnation != acceptance.found {
            return Err(Failure::Replaced { found: found.incarnation, expected: acceptance.found });
        }
        self.connection.execute(
            "UPDATE meta SET installation = ?1, cluster = ?2, incarnation = ?3, state = ?4, accepted_at = ?5",
            params![
                acceptance.installation.as_bytes(),
                acceptance.cluster,
                acceptance.incarnation.as_bytes(),
                State::Rebuilding.as_str(),
                self.now_ms()
            ],
        )?;
        self.connection
            .execute("UPDATE session SET epoch = epoch + 1, closed_at = ifnull(closed_at, ?1)", [self.now_ms()])?;
        self.note_of_ledger(&acceptance.actor, &Note::accepted(&found, acceptance))
    }

    pub fn reopen(&mut self, session: &LedgerSession) -> Op<()> {
        self.fence(session)?;
        if tag(self.connection)?.state != State::Rebuilding {
            return Ok(());
        }
        self.raise_parents(OPERATOR)?;
        self.connection.execute("UPDATE meta SET state = ?1", [State::Open.as_str()])?;
        self.note_of_ledger(OPERATOR, &Note::opened())
    }

    pub fn assign(
        &mut self,
        session: &LedgerSession,
        kind: Kind,
        namespace_uid: &str,
        name: &str,
        id: Uuid,
    ) -> Op<Uuid> {
        self.fence(session)?;
        let digest = self.digest(kind, namespace_uid, name)?;
        let taken: Option<(Vec<u8>, bool)> = self
            .connection
            .prepare_cached(
                "SELECT digest, kind <> ?2 OR at >= (SELECT accepted_at FROM meta) FROM identity WHERE id = ?1",
            )?
            .query_row(params![id.as_bytes(), kind.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match taken {
            Some((holder, _)) if holder == digest => return Ok(id),
            // Another name has it by right: an object that shows it too has copied it.
            Some((_, true)) => return self.identify(session, kind, namespace_uid, name),
            Some((_, false)) | None => {}
        }
        self.connection
            .prepare_cached("DELETE FROM identity WHERE id = ?1 OR digest = ?2")?
            .execute(params![id.as_bytes(), digest])?;
        self.connection
            .prepare_cached("INSERT INTO identity (digest, kind, id, at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![digest, kind.as_str(), id.as_bytes(), self.now_ms()])?;
        Ok(id)
    }
}
