//! Decides which logins are news for the audit trail, and which networks of a key are kept.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use serde_json::json;

use crate::domain::id::KeyId;
use crate::domain::login_network::{LOGINS_MAX, LoginFrom, NETWORKS_PER_KEY, NEWS_WITHIN, SEEN_EVERY};
use crate::ledger::audit::{KEY_NETWORK, Note};

/// A network that a key logged in from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub network: String,
    /// When the trail recorded it.
    pub told_at: Timestamp,
    /// When the key last logged in from it, as far as it was written.
    pub seen_at: Timestamp,
}

/// The changes that a batch of logins makes, in the order in which they are to be written.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Rows whose key logged in from there again.
    pub seen: Vec<(KeyId, String)>,
    /// Rows to delete.
    pub forgotten: Vec<(KeyId, String)>,
    /// Rows to insert, recorded and seen now.
    pub first: Vec<FirstLogin>,
}

/// A row to write, and its note for the trail.
#[derive(Debug, PartialEq)]
pub struct FirstLogin {
    pub key: KeyId,
    pub network: String,
    pub note: Note,
}

/// Returns the keys of a batch, each once: the rule below must know their networks.
pub fn keys_of(logins: &[LoginFrom]) -> BTreeSet<KeyId> {
    logins.iter().take(LOGINS_MAX).map(|login| login.key).collect()
}

/// Judges a batch of logins. A login from a network that is not known for its key is news, unless the key caused
/// [`NETWORKS_PER_KEY`] of them within [`NEWS_WITHIN`]; if the key already has as many networks, the one that it used
/// longest ago is forgotten in exchange.
pub fn judge(mut known: HashMap<KeyId, Vec<Known>>, logins: &[LoginFrom], now: Timestamp) -> Changes {
    let mut changes = Changes::default();
    for LoginFrom { key, network } in logins.iter().take(LOGINS_MAX) {
        let (known, network) = (known.entry(*key).or_default(), network.to_string());
        if let Some(again) = known.iter_mut().find(|known| known.network == network) {
            if now.duration_since(again.seen_at) >= SEEN_EVERY {
                again.seen_at = now;
                changes.seen.push((*key, network));
            }
            continue;
        }
        let news = known.iter().filter(|known| now.duration_since(known.told_at) < NEWS_WITHIN).count();
        if news >= NETWORKS_PER_KEY {
            continue;
        }
        let forgotten = if known.len() >= NETWORKS_PER_KEY { forget(known) } else { None };
        known.push(Known { network: network.clone(), told_at: now, seen_at: now });
        let mut detail = json!({ "network": network, "number": known.len() });
        if let Some(forgotten) = forgotten {
            detail["forgotten"] = json!(forgotten);
            changes.forgotten.push((*key, forgotten));
        }
        changes.first.push(FirstLogin { key: *key, network, note: Note::new(KEY_NETWORK, detail) });
    }
    changes
}

/// Removes the network that a key used longest ago; of several, the one recorded first. While fewer than all are news
/// of this day, that is none of this batch.
fn forget(known: &mut Vec<Known>) -> Option<String> {
    let oldest = (0..known.len()).min_by_key(|index| (known[*index].seen_at, known[*index].told_at))?;
    Some(known.remove(oldest).network)
}
