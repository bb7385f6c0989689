//! Networks that keys logged in from.

use std::collections::{BTreeSet, HashMap};

use rusqlite::params;

use super::failure::Op;
use super::write::Tx;
use crate::domain::id::{Holder, KeyId};
use crate::domain::login_network::LoginFrom;
use crate::ledger::rules::first_login::{first_logins, keys_of};
use crate::ledger::store::Session;
use crate::ledger::trail::RELAY;

impl Tx<'_> {
    pub fn note_logins(&mut self, session: &Session, logins: &[LoginFrom]) -> Op<()> {
        self.fence(session)?;
        let mut known = HashMap::new();
        for key in keys_of(logins) {
            known.insert(key, self.networks_of(key)?);
        }
        for first in first_logins(known, logins) {
            self.connection
                .prepare_cached("INSERT INTO login_network (key, network, at) VALUES (?1, ?2, ?3)")?
                .execute(params![first.key.0.as_bytes(), first.network, self.now_ms()])?;
            self.note(RELAY, Holder::Key(first.key), &first.note)?;
        }
        Ok(())
    }

    fn networks_of(&self, key: KeyId) -> Op<BTreeSet<String>> {
        let mut statement = self.connection.prepare_cached("SELECT network FROM login_network WHERE key = ?1")?;
        let found = statement.query_map([key.0.as_bytes()], |row| row.get(0))?;
        Ok(found.collect::<Result<_, _>>()?)
    }
}
