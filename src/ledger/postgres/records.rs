//! Sessions, ids, the directory, lots ahead: the rare writes.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::identity::refuse_held;
use super::lots::{LotsByHolder, used_under};
use super::pool::{Connections, Lease};
use super::settle::settle_in;
use super::tx::{Clock, Lane, Tx, clock_ms};
use super::{floors, rows};
use crate::domain::credit::Outcome;
use crate::domain::directory::Entry;
use crate::domain::id::{Holder, Kind, MessageId};
use crate::ledger::audit::{LEDGER, Note, of_change};
use crate::ledger::digest;
use crate::ledger::rules::lots::{Lots, drops_lots_ahead, holding};
use crate::ledger::store::{LedgerSession, Role, Settlement};

pub async fn open_session(connections: &Connections, clock: &Clock, role: Role, name: &str) -> Op<LedgerSession> {
    let connection = Lease::take(connections).await?;
    let row = connection
        .query_one(
            "WITH opened AS ( \
                 INSERT INTO session AS s (role, name, epoch, opened_at) VALUES ($1, $2, 1, ledger_now($3)) \
                 ON CONFLICT (role, name) DO UPDATE \
                 SET epoch = s.epoch + 1, opened_at = excluded.opened_at, closed_at = NULL RETURNING id, epoch, opened_at), \
             seen AS ( \
                 INSERT INTO beat AS b (session, lane, seq, at, seen_at) SELECT id, $4, 1, opened_at, opened_at FROM opened \
                 ON CONFLICT (session, lane) DO UPDATE \
                 SET seq = b.seq + 1, at = greatest(b.at, excluded.at), \
                     seen_at = greatest(b.seen_at, excluded.seen_at)) \
             SELECT id, epoch FROM opened",
            &[&role.as_str(), &name, &clock_ms(clock), &Lane::Records.number()],
        )
        .await;
    connection.give_back_answered();
    let row = row?;
    Ok(LedgerSession { id: row.try_get(0)?, epoch: row.try_get(1)? })
}

pub async fn close_session(connections: &Connections, clock: &Clock, session: &LedgerSession) -> Op<()> {
    let tx = Tx::begin_fenced(connections, clock, session, Lane::Records).await?;
    let closed =
        tx.execute("UPDATE session SET closed_at = $2 WHERE id = $1", &[&session.id, &tx.now_ms()]).await.map(drop);
    tx.end(closed).await
}

/// Gives up sessions that were silent. Returns those of their messages that are taken as unknown, at most `limit`.
pub async fn sweep(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    silence: SignedDuration,
    limit: usize,
) -> Op<Vec<MessageId>> {
    let mut tx = Tx::begin_fenced(connections, clock, session, Lane::Chores).await?;
    let swept = sweep_in(&mut tx, session, silence, limit).await;
    tx.end(swept).await
}

async fn sweep_in(tx: &mut Tx, session: &LedgerSession, silence: SignedDuration, limit: usize) -> Op<Vec<MessageId>> {
    let since = tx.now.saturating_sub(silence).unwrap_or(Timestamp::MIN);
    let given_up = tx
        .query(
            "UPDATE session s SET closed_at = $3, epoch = epoch + 1 \
             WHERE s.id <> $1 AND s.closed_at IS NULL \
                 AND (SELECT max(b.seen_at) FROM beat b WHERE b.session = s.id) < $2 RETURNING role, name",
            &[&session.id, &since.as_millisecond(), &tx.now_ms()],
        )
        .await?;
    for row in &given_up {
        tx.note_of_ledger(LEDGER, Note::given_up(row.try_get(0)?, row.try_get(1)?));
    }
    let orphans = tx
        .query(
            "SELECT u.message FROM unsettled u WHERE NOT EXISTS \
                 (SELECT FROM session s WHERE s.id = u.session AND s.epoch = u.epoch AND s.closed_at IS NULL) \
                 AND NOT EXISTS (SELECT FROM settlement t WHERE t.day = u.day AND t.message = u.message) LIMIT $1",
            &[&rows::limit(limit)],
        )
        .await?;
    let orphans: Vec<Settlement> = orphans
        .iter()
        .map(|row| Ok(Settlement::of(MessageId(row.try_get(0)?), Outcome::Unknown)))
        .collect::<Op<_>>()?;
    settle_in(tx, &orphans).await?;
    Ok(orphans.into_iter().map(|orphan| orphan.message).collect())
}

pub async fn identify(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    kind: Kind,
    namespace_uid: &str,
    name: &str,
) -> Op<Uuid> {
    let tx = Tx::begin_fenced(connections, clock, session, Lane::Records).await?;
    let id = match refuse_held(tx.state) {
        Ok(()) => identify_in(&tx, kind, namespace_uid, name).await,
        Err(held) => Err(held),
    };
    tx.end(id).await
}

pub async fn identify_in(tx: &Tx, kind: Kind, namespace_uid: &str, name: &str) -> Op<Uuid> {
    let digest = digest(tx, kind, namespace_uid, name).await?;
    // The id is a name, not a secret; the server's generator is seeded by its system.
    tx.execute(
        "INSERT INTO identity (digest, kind, id, at) VALUES ($1, $2, gen_random_uuid(), $3) ON CONFLICT DO NOTHING",
        &[&digest, &rows::kind_number(kind), &tx.now_ms()],
    )
    .await?;
    Ok(tx.query_one("SELECT id FROM identity WHERE digest = $1", &[&digest]).await?.try_get(0)?)
}

pub async fn digest(tx: &Tx, kind: Kind, namespace_uid: &str, name: &str) -> Op<Vec<u8>> {
    let installation = tx.query_one("SELECT installation FROM meta", &[]).await?.try_get(0)?;
    Ok(digest::of_name(installation, kind, namespace_uid, name))
}

pub async fn put(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    actor: &str,
    entries: &[Entry],
) -> Op<()> {
    let mut tx = Tx::begin_fenced(connections, clock, session, Lane::Records).await?;
    let written = put_in(&mut tx, actor, entries).await;
    tx.end(written).await
}

async fn put_in(tx: &mut Tx, actor: &str, entries: &[Entry]) -> Op<()> {
    refuse_held(tx.state)?;
    let stored = lock_entries(tx, entries).await?;
    // The last of several entries of one holder is the one that stays; each is an edit of the one before.
    let mut current = stored.clone();
    let mut edits = Vec::new();
    for entry in entries {
        let before = current.insert(entry.holder(), entry.clone());
        if before.as_ref() != Some(entry) {
            edits.push((before, entry));
        }
    }
    if edits.is_empty() {
        return Ok(());
    }
    let mut holders: Vec<Holder> = edits.iter().map(|(_, entry)| entry.holder()).collect();
    holders.sort_unstable();
    holders.dedup();
    let mut lots = lock_for_edit(tx, &edits, &holders).await?;
    for (before, entry) in &edits {
        let holder = entry.holder();
        let notes = of_change(before.as_ref(), entry);
        // An edit without a note in the trail changes no limit and no figure.
        if notes.is_empty() {
            continue;
        }
        tx.record_notes(actor, holder, notes);
        tx.mark_moved(holder);
        if let Some(of_holder) = lots.get_mut(&holder) {
            let used = used_under(tx, of_holder, &holding(before.as_ref(), entry).terms(), tx.now).await?;
            let notes = of_holder.edit(before.as_ref(), entry, used, tx.now);
            tx.record_notes(actor, holder, notes);
        }
    }
    // Ended lots first: if one is cut, the next begins at the same instant.
    tx.write_changed(&lots).await?;
    tx.insert_new(&mut lots).await?;
    let new: Vec<&Entry> = edits.iter().filter(|(before, _)| before.is_none()).map(|(_, entry)| *entry).collect();
    if !new.is_empty() {
        floors::raise_remembered(tx, actor, &new).await?;
    }
    let written: Vec<&Entry> = holders.iter().filter_map(|holder| current.get(holder)).collect();
    store_entries(tx, &written).await
}

/// Returns the stored entries of these holders, locked: two calls that write the same entry follow each other.
async fn lock_entries(tx: &Tx, entries: &[Entry]) -> Op<HashMap<Holder, Entry>> {
    let (kinds, ids) = rows::columns(entries.iter().map(Entry::holder));
    let found = tx
        .query(
            "SELECT d.body FROM directory d JOIN unnest($1::smallint[], $2::uuid[]) h(kind, id) \
             ON d.kind = h.kind AND d.id = h.id ORDER BY d.kind, d.id FOR UPDATE OF d",
            &[&kinds, &ids],
        )
        .await?;
    let mut stored = HashMap::with_capacity(found.len());
    for row in &found {
        let entry = rows::parse_entry(row.try_get(0)?)?;
        stored.insert(entry.holder(), entry);
    }
    Ok(stored)
}

/// Returns the lots of the holders now, locked. Lots that were made ahead are dropped for those whose rules change:
/// they are made again.
async fn lock_for_edit(tx: &Tx, edits: &[(Option<Entry>, &Entry)], holders: &[Holder]) -> Op<LotsByHolder> {
    let changed = edits.iter().filter(|(before, entry)| drops_lots_ahead(before.as_ref(), entry));
    let (kinds, ids) = rows::columns(changed.map(|(_, entry)| entry.holder()));
    tx.execute(
        "DELETE FROM lot l USING unnest($1::smallint[], $2::uuid[]) h(kind, id) \
         WHERE l.holder = h.id AND l.kind = h.kind AND l.source = 'period' AND l.valid_from > $3 \
             AND l.consumed + l.overage = 0",
        &[&kinds, &ids, &tx.now_ms()],
    )
    .await?;
    // A lot that is left has begun for others while this transaction waited.
    let begun: bool = tx
        .query_one(
            "SELECT EXISTS (SELECT FROM lot l JOIN unnest($1::smallint[], $2::uuid[]) h(kind, id) \
                 ON l.holder = h.id AND l.kind = h.kind WHERE l.source = 'period' AND l.valid_from > $3)",
            &[&kinds, &ids, &tx.now_ms()],
        )
        .await?
        .try_get(0)?;
    if begun {
        return Err(Failure::Overtaken);
    }
    tx.lock_lots_of(holders).await
}

/// Stores entries. The epoch is the last lock that is taken, so a reader of an epoch sees every entry up to it.
async fn store_entries(tx: &Tx, entries: &[&Entry]) -> Op<()> {
    let epoch: i64 = tx
        .query_one("UPDATE meta SET config_epoch = config_epoch + 1 RETURNING config_epoch", &[])
        .await?
        .try_get(0)?;
    let (kinds, ids) = rows::columns(entries.iter().map(|entry| entry.holder()));
    let removed: Vec<bool> = entries.iter().map(|entry| entry.removed_at().is_some()).collect();
    let usernames: Vec<Option<&str>> = entries
        .iter()
        .map(|entry| match entry {
            Entry::Key(key) => Some(key.username.as_str()),
            Entry::Policy(_) | Entry::Account(_) => None,
        })
        .collect();
    let bodies: Vec<String> = entries
        .iter()
        .map(|entry| serde_json::to_string(entry).map_err(|error| Failure::Row(error.to_string())))
        .collect::<Op<_>>()?;
    tx.execute(
        "INSERT INTO directory (epoch, kind, id, removed, username, body) \
         SELECT $1, x.* FROM unnest($2::smallint[], $3::uuid[], $4::boolean[], $5::text[], $6::text[]) x \
         ON CONFLICT (kind, id) DO UPDATE SET epoch = excluded.epoch, removed = excluded.removed, \
             username = excluded.username, body = excluded.body",
        &[&epoch, &kinds, &ids, &removed, &usernames, &bodies],
    )
    .await?;
    Ok(())
}

/// Makes the lots that will hold at `until`, for up to `limit` holders that lack one. Returns how many lots.
pub async fn prepare_lots(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    until: Timestamp,
    limit: usize,
) -> Op<u64> {
    let mut tx = Tx::begin_fenced(connections, clock, session, Lane::Chores).await?;
    let made = prepare_in(&mut tx, until, limit).await;
    tx.end(made).await
}

async fn prepare_in(tx: &mut Tx, until: Timestamp, limit: usize) -> Op<u64> {
    let lacking = tx
        .query(
            "SELECT d.body FROM directory d WHERE NOT d.removed AND NOT EXISTS \
                 (SELECT FROM lot l WHERE l.holder = d.id AND l.kind = d.kind AND l.source = 'period' \
                 AND l.valid_to > $1) ORDER BY d.kind, d.id LIMIT $2 FOR UPDATE OF d",
            &[&until.as_millisecond(), &rows::limit(limit)],
        )
        .await?;
    if lacking.is_empty() {
        return Ok(0);
    }
    let lacking: Vec<Entry> = lacking.iter().map(|row| rows::parse_entry(row.try_get(0)?)).collect::<Op<_>>()?;
    let holders: Vec<Holder> = lacking.iter().map(Entry::holder).collect();
    let mut lots = super::lots::read(tx, &holders, until).await?;
    let mut made = 0;
    for entry in &lacking {
        let of_holder = lots.entry(entry.holder()).or_insert_with(|| Lots::empty(entry.holder()));
        made += of_holder.prepare(entry.limit(), tx.now, until);
        tx.mark_moved(entry.holder());
    }
    tx.insert_new(&mut lots).await?;
    Ok(made)
}
