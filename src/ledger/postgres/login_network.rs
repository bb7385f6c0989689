//! Networks that keys logged in from.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use super::failure::Op;
use super::tx::Tx;
use crate::domain::id::{Holder, KeyId};
use crate::domain::login_network::LoginFrom;
use crate::ledger::rules::first_login::{first_logins, keys_of};
use crate::ledger::trail::RELAY;

/// Relays follow each other here, so that no network is told twice and the bound is exact. It is rare: what a relay told
/// once it does not tell again.
pub async fn note(tx: &mut Tx, logins: &[LoginFrom]) -> Op<()> {
    tx.batch("LOCK TABLE login_network IN SHARE ROW EXCLUSIVE MODE").await?;
    let asked: Vec<Uuid> = keys_of(logins).into_iter().map(|key| key.0).collect();
    let rows = tx.query("SELECT key, network FROM login_network WHERE key = ANY ($1)", &[&asked]).await?;
    let mut known: HashMap<KeyId, BTreeSet<String>> = HashMap::new();
    for row in &rows {
        known.entry(KeyId(row.try_get(0)?)).or_default().insert(row.try_get(1)?);
    }
    let first = first_logins(known, logins);
    if first.is_empty() {
        return Ok(());
    }
    let keys: Vec<Uuid> = first.iter().map(|first| first.key.0).collect();
    let networks: Vec<&str> = first.iter().map(|first| first.network.as_str()).collect();
    tx.execute(
        "INSERT INTO login_network (key, network, at) \
         SELECT x.key, x.network, $3 FROM unnest($1::uuid[], $2::text[]) x(key, network)",
        &[&keys, &networks, &tx.now_ms()],
    )
    .await?;
    for first in first {
        tx.record_notes(RELAY, Holder::Key(first.key), [first.note]);
    }
    Ok(())
}
