//! Deletes the directory's rows of keys that were removed long ago.

use jiff::Timestamp;
use rusqlite::params;
use uuid::Uuid;

use super::failure::Op;
use super::rows;
use super::write::Tx;
use crate::domain::directory::{Entry, KeyEntry};
use crate::domain::id::{Holder, KeyId};
use crate::ledger::audit::{LEDGER, Note};
use crate::ledger::rules::time::forgettable_before;
use crate::ledger::store::LedgerSession;

/// Deletes the rows of a key other than its lots and its usage.
const ROWS: [&str; 5] = [
    "DELETE FROM directory WHERE kind = ?1 AND id = ?2",
    "DELETE FROM moved WHERE kind = ?1 AND id = ?2",
    "DELETE FROM tempo WHERE kind = ?1 AND holder = ?2",
    "DELETE FROM denied_sender WHERE ?1 = 'key' AND key = ?2",
    "DELETE FROM login_network WHERE ?1 = 'key' AND key = ?2",
];

impl Tx<'_> {
    /// Checks up to `limit` keys after `after`, in the order of their ids. Returns the last of them, if there may be
    /// more, and how many were forgotten.
    pub fn forget_keys(
        &mut self,
        session: &LedgerSession,
        before: Timestamp,
        after: Option<KeyId>,
        limit: usize,
    ) -> Op<(Option<KeyId>, usize)> {
        self.fence(session)?;
        let before = forgettable_before(before, self.now);
        let keys = self.keys_after(after, limit)?;
        let removed = keys.iter().filter_map(|(_, removed)| removed.as_ref());
        let gone: Vec<Holder> =
            removed.filter(|key| key.is_gone_before(before)).map(|key| Holder::Key(key.id)).collect();
        for holder in &gone {
            for rows in ROWS {
                let mut delete = self.connection.prepare_cached(rows)?;
                delete.execute(params![holder.kind().as_str(), holder.uuid().as_bytes()])?;
            }
        }
        if !gone.is_empty() {
            self.note_of_ledger(LEDGER, &Note::forgotten(gone.len()))?;
        }
        let last = keys.last().filter(|_| keys.len() == limit).map(|(id, _)| *id);
        Ok((last, gone.len()))
    }

    /// Returns keys in the order of their ids, with the entries of those that are removed.
    fn keys_after(&self, after: Option<KeyId>, limit: usize) -> Op<Vec<(KeyId, Option<KeyEntry>)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, CASE WHEN removed = 1 THEN body END FROM directory \
             WHERE kind = 'key' AND id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let from = after.map(|id| id.0.into_bytes().to_vec()).unwrap_or_default();
        let mut found = statement.query(params![from, rows::limit(limit)])?;
        let mut keys = Vec::new();
        while let Some(row) = found.next()? {
            let body: Option<String> = row.get(1)?;
            let removed = match body.map(|body| rows::parse_entry(&body)).transpose()? {
                Some(Entry::Key(key)) => Some(key),
                Some(Entry::Account(_) | Entry::Policy(_)) | None => None,
            };
            keys.push((KeyId(Uuid::from_bytes(row.get(0)?)), removed));
        }
        Ok(keys)
    }
}
