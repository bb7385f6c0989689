//! Networks that keys logged in from.

use std::collections::HashMap;

use uuid::Uuid;

use super::failure::Op;
use super::rows;
use super::tx::Tx;
use crate::domain::id::{Holder, KeyId};
use crate::domain::login_network::LoginFrom;
use crate::ledger::audit::RELAY;
use crate::ledger::rules::first_login::{FirstLogin, KnownNetwork, judge, keys_of};

/// Notes logins, one relay at a time, so that no network is recorded twice and the bound is exact. This is rare: a
/// relay does not report the same login again within the hour.
pub async fn note(tx: &mut Tx, logins: &[LoginFrom]) -> Op<()> {
    tx.batch("LOCK TABLE login_network IN SHARE ROW EXCLUSIVE MODE").await?;
    let asked: Vec<Uuid> = keys_of(logins).into_iter().map(|key| key.0).collect();
    let found = tx.query("SELECT key, network, at, seen_at FROM login_network WHERE key = ANY ($1)", &[&asked]).await?;
    let mut known: HashMap<KeyId, Vec<KnownNetwork>> = HashMap::new();
    for row in &found {
        let (told_at, seen_at) = (rows::instant(row.try_get(2)?)?, rows::instant(row.try_get(3)?)?);
        known.entry(KeyId(row.try_get(0)?)).or_default().push(KnownNetwork {
            network: row.try_get(1)?,
            told_at,
            seen_at,
        });
    }
    let changes = judge(known, logins, tx.now);
    if !changes.seen.is_empty() {
        let (keys, networks) = columns(changes.seen.iter().map(|(key, network)| (*key, network.as_str())));
        tx.execute(
            "UPDATE login_network n SET seen_at = $3 FROM unnest($1::uuid[], $2::text[]) x(key, network) \
             WHERE n.key = x.key AND n.network = x.network",
            &[&keys, &networks, &tx.now_ms()],
        )
        .await?;
    }
    if !changes.forgotten.is_empty() {
        let (keys, networks) = columns(changes.forgotten.iter().map(|(key, network)| (*key, network.as_str())));
        tx.execute(
            "DELETE FROM login_network n USING unnest($1::uuid[], $2::text[]) x(key, network) \
             WHERE n.key = x.key AND n.network = x.network",
            &[&keys, &networks],
        )
        .await?;
    }
    insert(tx, changes.first).await
}

async fn insert(tx: &mut Tx, first: Vec<FirstLogin>) -> Op<()> {
    if first.is_empty() {
        return Ok(());
    }
    let (keys, networks) = columns(first.iter().map(|first| (first.key, first.network.as_str())));
    tx.execute(
        "INSERT INTO login_network (key, network, at, seen_at) \
         SELECT x.key, x.network, $3, $3 FROM unnest($1::uuid[], $2::text[]) x(key, network)",
        &[&keys, &networks, &tx.now_ms()],
    )
    .await?;
    for first in first {
        tx.record_notes(RELAY, Holder::Key(first.key), [first.note]);
    }
    Ok(())
}

fn columns<'a>(rows: impl Iterator<Item = (KeyId, &'a str)>) -> (Vec<Uuid>, Vec<&'a str>) {
    rows.map(|(key, network)| (key.0, network)).unzip()
}
