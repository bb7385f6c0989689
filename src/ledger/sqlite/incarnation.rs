//! Who the file is, whether mail may be charged to it, and how it is put right after it was replaced.

use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::write::Tx;
use crate::domain::id::Kind;
use crate::ledger::store::{Acceptance, Because, Identity, Mark, Session, State, Tag};
use crate::ledger::trail::{LEDGER_ACCEPTED, LEDGER_OPENED};

pub fn read_identity(connection: &Connection) -> Op<Identity> {
    let (identity, state) = connection
        .prepare_cached(
            // Reservations count as movements here, so that what was sent since the last rollup is in the mark.
            "SELECT installation, cluster, incarnation, schema_version, config_epoch, \
             moved + (SELECT ifnull(max(seq), 0) FROM reservation), (SELECT ifnull(max(seq), 0) FROM event), state \
             FROM meta",
        )?
        .query_row([], |row| {
            let mark = Mark { config_epoch: row.get(4)?, moved: row.get(5)?, event: row.get(6)? };
            let identity = Identity {
                installation: Uuid::from_bytes(row.get(0)?),
                cluster: row.get(1)?,
                incarnation: Uuid::from_bytes(row.get(2)?),
                schema_version: row.get(3)?,
                state: State::Open,
                mark,
            };
            Ok((identity, row.get::<_, String>(7)?))
        })?;
    Ok(Identity { state: parse(&state)?, ..identity })
}

pub fn tag(connection: &Connection) -> Op<Tag> {
    let (installation, incarnation, state) = connection
        .prepare_cached("SELECT installation, incarnation, state FROM meta")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)))?;
    let (installation, incarnation) = (Uuid::from_bytes(installation), Uuid::from_bytes(incarnation));
    Ok(Tag { installation, incarnation, state: parse(&state)? })
}

fn parse(word: &str) -> Op<State> {
    State::parse(word).ok_or_else(|| Failure::Row(format!("unknown state {word}")))
}

/// Charging and judging need an open ledger.
pub fn refuse_unless_open(connection: &Connection) -> Op<()> {
    match tag(connection)?.state {
        State::Open => Ok(()),
        held @ (State::Held(_) | State::Rebuilding) => Err(Failure::Held(held)),
    }
}

/// The operator reads and writes what is open or being rebuilt. What it reads from a held one would be shown as true.
pub fn refuse_held(connection: &Connection) -> Op<()> {
    match tag(connection)?.state {
        State::Open | State::Rebuilding => Ok(()),
        held @ State::Held(_) => Err(Failure::Held(held)),
    }
}

/// Only an open ledger is held: one that is held already keeps its reason, and one that was accepted its acceptance.
pub fn hold(connection: &Connection, because: Because) -> Op<()> {
    connection
        .prepare_cached("UPDATE meta SET state = ?1 WHERE state = 'open'")?
        .execute([State::Held(because).as_str()])?;
    Ok(())
}

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
        let detail = serde_json::json!({
            "was": found.state.as_str(),
            "installation": { "from": found.installation, "to": acceptance.installation },
            "incarnation": { "from": found.incarnation, "to": acceptance.incarnation },
        });
        self.record(&acceptance.actor, LEDGER_ACCEPTED, None, &detail)
    }

    pub fn reopen(&mut self, session: &Session) -> Op<()> {
        self.fence(session)?;
        if tag(self.connection)?.state != State::Rebuilding {
            return Ok(());
        }
        self.raise_parents("operator")?;
        self.connection.execute("UPDATE meta SET state = ?1", [State::Open.as_str()])?;
        self.record("operator", LEDGER_OPENED, None, &serde_json::json!({}))
    }

    pub fn assign(&mut self, session: &Session, kind: Kind, namespace_uid: &str, name: &str, id: Uuid) -> Op<Uuid> {
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
            // Another name has it by right: whoever shows it too has copied it.
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
