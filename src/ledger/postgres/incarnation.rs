//! Accepts a ledger that was replaced, and restores what it has lost.

use uuid::Uuid;

use super::failure::{Failure, Op};
use super::identity::tag;
use super::pool::{Connections, Lease};
use super::tx::{Clock, Lane, Tx};
use super::{floors, records, rows};
use crate::domain::id::Kind;
use crate::ledger::audit::{Note, OPERATOR};
use crate::ledger::store::{Acceptance, Because, LedgerSession, State};

/// Holds an open ledger: one that is held already keeps its reason, and one that was accepted its acceptance.
pub async fn hold(connections: &Connections, because: Because) -> Op<()> {
    let connection = Lease::take(connections).await?;
    let held = connection
        .execute("UPDATE meta SET state = $1 WHERE state = 'open'", &[&State::Held(because).as_str()])
        .await
        .map(drop);
    connection.give_back_answered();
    held
}

pub async fn accept(connections: &Connections, clock: &Clock, acceptance: &Acceptance) -> Op<()> {
    let mut tx = Tx::begin_alone(connections, clock).await?;
    let accepted = accept_in(&mut tx, acceptance).await;
    tx.end(accepted).await
}

async fn accept_in(tx: &mut Tx, acceptance: &Acceptance) -> Op<()> {
    let found = tag(tx).await?;
    if found.incarnation == acceptance.incarnation {
        return Ok(());
    }
    let accepted = tx
        .execute(
            "UPDATE meta SET installation = $1, cluster = $2, incarnation = $3, state = $4, accepted_at = $5 \
             WHERE incarnation = $6",
            &[
                &acceptance.installation,
                &acceptance.cluster,
                &acceptance.incarnation,
                &State::Rebuilding.as_str(),
                &tx.now_ms(),
                &acceptance.found,
            ],
        )
        .await?;
    if accepted == 0 {
        return Err(Failure::Replaced { found: found.incarnation, expected: acceptance.found });
    }
    tx.execute("UPDATE session SET epoch = epoch + 1, closed_at = coalesce(closed_at, $1)", &[&tx.now_ms()]).await?;
    tx.note_of_ledger(&acceptance.actor, Note::accepted(&found, acceptance));
    Ok(())
}

pub async fn reopen(connections: &Connections, clock: &Clock, session: &LedgerSession) -> Op<()> {
    let mut tx = Tx::begin_fenced(connections, clock, session, Lane::Records).await?;
    let opened = reopen_in(&mut tx).await;
    tx.end(opened).await
}

async fn reopen_in(tx: &mut Tx) -> Op<()> {
    if tx.state != State::Rebuilding {
        return Ok(());
    }
    floors::raise_parents(tx, OPERATOR, &[]).await?;
    let opened = tx
        .execute("UPDATE meta SET state = $1 WHERE state = $2", &[&State::Open.as_str(), &State::Rebuilding.as_str()])
        .await?;
    if opened == 1 {
        tx.note_of_ledger(OPERATOR, Note::opened());
    }
    Ok(())
}

pub async fn assign(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    (kind, namespace_uid, name): (Kind, &str, &str),
    id: Uuid,
) -> Op<Uuid> {
    let tx = Tx::begin_fenced(connections, clock, session, Lane::Records).await?;
    let assigned = assign_in(&tx, kind, namespace_uid, name, id).await;
    tx.end(assigned).await
}

async fn assign_in(tx: &Tx, kind: Kind, namespace_uid: &str, name: &str, id: Uuid) -> Op<Uuid> {
    let digest = records::digest(tx, kind, namespace_uid, name).await?;
    let kind_number = rows::kind_number(kind);
    let taken = tx
        .query_opt(
            "SELECT digest, kind <> $2 OR at >= (SELECT accepted_at FROM meta) FROM identity WHERE id = $1",
            &[&id, &kind_number],
        )
        .await?;
    if let Some(row) = taken {
        let holder: Vec<u8> = row.try_get(0)?;
        if holder == digest {
            return Ok(id);
        }
        if row.try_get(1)? {
            // Another name has it by right: an object that shows it too has copied it.
            return records::identify_in(tx, kind, namespace_uid, name).await;
        }
    }
    tx.execute("DELETE FROM identity WHERE id = $1 OR digest = $2", &[&id, &digest]).await?;
    tx.execute(
        "INSERT INTO identity (digest, kind, id, at) VALUES ($1, $2, $3, $4)",
        &[&digest, &kind_number, &id, &tx.now_ms()],
    )
    .await?;
    Ok(id)
}
