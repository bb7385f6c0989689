//! Deletes the directory's rows of keys that were removed long ago.

use jiff::Timestamp;
use uuid::Uuid;

use super::failure::Op;
use super::pool::Connections;
use super::rows;
use super::tx::{Clock, Lane, Tx};
use crate::domain::directory::Entry;
use crate::domain::id::{KeyId, Kind};
use crate::ledger::audit::{LEDGER, Note};
use crate::ledger::rules::time::forgettable_before;
use crate::ledger::store::LedgerSession;

/// Checks up to `limit` keys after `after`, in the order of their ids. Returns the last of them, if there may be more,
/// and how many were forgotten.
pub async fn forget(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    before: Timestamp,
    (after, limit): (Option<KeyId>, usize),
) -> Op<(Option<KeyId>, usize)> {
    let mut tx = Tx::begin_fenced(connections, clock, session, Lane::Chores).await?;
    let forgotten = forget_in(&mut tx, before, after, limit).await;
    tx.end(forgotten).await
}

async fn forget_in(tx: &mut Tx, before: Timestamp, after: Option<KeyId>, limit: usize) -> Op<(Option<KeyId>, usize)> {
    let before = forgettable_before(before, tx.now);
    let (key, after) = (rows::kind_number(Kind::Key), after.map_or(Uuid::nil(), |id| id.0));
    let keys = tx
        .query(
            "SELECT id, epoch, CASE WHEN removed THEN body END FROM directory \
             WHERE kind = $1 AND id > $2 ORDER BY id LIMIT $3",
            &[&key, &after, &rows::limit(limit)],
        )
        .await?;
    let (mut gone, mut epochs): (Vec<Uuid>, Vec<i64>) = (Vec::new(), Vec::new());
    for row in &keys {
        let body: Option<&str> = row.try_get(2)?;
        match body.map(rows::parse_entry).transpose()? {
            Some(Entry::Key(key)) if key.is_gone_before(before) => {
                gone.push(key.id.0);
                epochs.push(row.try_get(1)?);
            }
            Some(Entry::Key(_) | Entry::Account(_) | Entry::Policy(_)) | None => {}
        }
    }
    let last = keys.last().filter(|_| keys.len() == limit).map(|row| row.try_get(0).map(KeyId)).transpose()?;
    // A key that was applied again meanwhile has another epoch, and stays.
    let deleted = tx
        .query(
            "DELETE FROM directory d USING unnest($2::uuid[], $3::bigint[]) g(id, epoch) \
             WHERE d.kind = $1 AND d.id = g.id AND d.epoch = g.epoch RETURNING d.id",
            &[&key, &gone, &epochs],
        )
        .await?;
    let deleted: Vec<Uuid> = deleted.iter().map(|row| Ok(row.try_get(0)?)).collect::<Op<_>>()?;
    if !deleted.is_empty() {
        tx.execute("DELETE FROM moved WHERE kind = $1 AND id = ANY ($2)", &[&key, &deleted]).await?;
        tx.execute("DELETE FROM tempo WHERE kind = $1 AND holder = ANY ($2)", &[&key, &deleted]).await?;
        tx.execute("DELETE FROM denied_sender WHERE key = ANY ($1)", &[&deleted]).await?;
        tx.execute("DELETE FROM login_network WHERE key = ANY ($1)", &[&deleted]).await?;
        tx.note_of_ledger(LEDGER, Note::forgotten(deleted.len()));
    }
    Ok((last, deleted.len()))
}
