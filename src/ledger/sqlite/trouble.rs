//! The reports of relays about their upstreams.

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::rows;
use super::write::Tx;
use crate::domain::id::PolicyId;
use crate::domain::trouble::{Fault, Sightings, TROUBLES_MAX, Trouble};
use crate::ledger::store::{LedgerSession, Role};

impl Tx<'_> {
    /// Replaces the session's report, and drops the reports of sessions that are over.
    pub fn put_troubles(&mut self, session: &LedgerSession, troubles: &[Trouble]) -> Op<()> {
        self.fence(session)?;
        self.connection
            .prepare_cached(
                "DELETE FROM trouble WHERE session = ?1 OR NOT EXISTS \
                 (SELECT 1 FROM session s WHERE s.id = trouble.session AND s.epoch = trouble.epoch \
                  AND s.closed_at IS NULL)",
            )?
            .execute([session.id])?;
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO trouble (session, policy, epoch, upstream, fault, why, since) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        for Trouble { policy, upstream, fault, why, since } in troubles.iter().take(TROUBLES_MAX) {
            let (policy, since) = (policy.0.as_bytes(), since.as_millisecond());
            insert.execute(params![session.id, policy, session.epoch, upstream, fault.as_str(), why, since])?;
        }
        Ok(())
    }
}

pub fn sightings(connection: &Connection) -> Op<Sightings> {
    let relays = connection
        .prepare_cached("SELECT count(*) FROM session WHERE role = ?1 AND closed_at IS NULL")?
        .query_row([Role::Relay.as_str()], |row| row.get(0))?;
    let mut statement = connection.prepare_cached(
        "SELECT t.policy, t.upstream, t.fault, t.why, t.since FROM trouble t \
         JOIN session s ON s.id = t.session AND s.epoch = t.epoch AND s.closed_at IS NULL \
         ORDER BY t.policy, t.since, t.session",
    )?;
    let mut found = statement.query([])?;
    let mut troubles = Vec::new();
    while let Some(row) = found.next()? {
        let fault: String = row.get(2)?;
        troubles.push(Trouble {
            policy: PolicyId(Uuid::from_bytes(row.get(0)?)),
            upstream: row.get(1)?,
            fault: Fault::parse(&fault).ok_or_else(|| Failure::Row(format!("unknown fault {fault}")))?,
            why: row.get(3)?,
            since: rows::instant(row.get(4)?)?,
        });
    }
    Ok(Sightings { relays, troubles })
}
