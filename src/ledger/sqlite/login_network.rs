//! Networks that keys logged in from.

use std::collections::HashMap;

use rusqlite::params;

use super::failure::Op;
use super::rows;
use super::write::Tx;
use crate::domain::id::{Holder, KeyId};
use crate::domain::login_network::LoginFrom;
use crate::ledger::audit::RELAY;
use crate::ledger::rules::first_login::{KnownNetwork, judge, keys_of};
use crate::ledger::store::LedgerSession;

impl Tx<'_> {
    pub fn note_logins(&mut self, session: &LedgerSession, logins: &[LoginFrom]) -> Op<()> {
        self.fence(session)?;
        let mut known = HashMap::new();
        for key in keys_of(logins) {
            known.insert(key, self.networks_of(key)?);
        }
        let changes = judge(known, logins, self.now);
        for (key, network) in &changes.seen {
            self.connection
                .prepare_cached("UPDATE login_network SET seen_at = ?3 WHERE key = ?1 AND network = ?2")?
                .execute(params![key.0.as_bytes(), network, self.now_ms()])?;
        }
        for (key, network) in &changes.forgotten {
            self.connection
                .prepare_cached("DELETE FROM login_network WHERE key = ?1 AND network = ?2")?
                .execute(params![key.0.as_bytes(), network])?;
        }
        for first in changes.first {
            self.connection
                .prepare_cached("INSERT INTO login_network (key, network, at, seen_at) VALUES (?1, ?2, ?3, ?3)")?
                .execute(params![first.key.0.as_bytes(), first.network, self.now_ms()])?;
            self.note(RELAY, Holder::Key(first.key), &first.note)?;
        }
        Ok(())
    }

    fn networks_of(&self, key: KeyId) -> Op<Vec<KnownNetwork>> {
        let mut statement =
            self.connection.prepare_cached("SELECT network, at, seen_at FROM login_network WHERE key = ?1")?;
        let mut found = statement.query([key.0.as_bytes()])?;
        let mut known = Vec::new();
        while let Some(row) = found.next()? {
            let (told_at, seen_at) = (rows::instant(row.get(1)?)?, rows::instant(row.get(2)?)?);
            known.push(KnownNetwork { network: row.get(0)?, told_at, seen_at });
        }
        Ok(known)
    }
}
