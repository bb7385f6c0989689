//! Decides which logins are news for the audit trail, and which networks of a key are kept.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use serde_json::json;

use crate::domain::id::KeyId;
use crate::domain::login_network::{LOGINS_MAX, LoginFrom, NETWORKS_PER_KEY, NEWS_WITHIN, SEEN_EVERY};
use crate::ledger::audit::{KEY_NETWORK, Note};

/// A network that a key logged in from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNetwork {
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
pub fn judge(mut known: HashMap<KeyId, Vec<KnownNetwork>>, logins: &[LoginFrom], now: Timestamp) -> Changes {
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
        let forgotten = if known.len() >= NETWORKS_PER_KEY { forget(known, now) } else { None };
        known.push(KnownNetwork { network: network.clone(), told_at: now, seen_at: now });
        let mut detail = json!({ "network": network, "number": known.len() });
        if let Some(forgotten) = forgotten {
            detail["forgotten"] = json!(forgotten);
            changes.forgotten.push((*key, forgotten));
        }
        changes.first.push(FirstLogin { key: *key, network, note: Note::new(KEY_NETWORK, detail) });
    }
    changes
}

/// Removes the network that a key used longest ago; of several, the one recorded first. News within [`NEWS_WITHIN`] stay:
/// without their rows the key could cause as many again.
fn forget(known: &mut Vec<KnownNetwork>, now: Timestamp) -> Option<String> {
    let is_old = |index: &usize| now.duration_since(known[*index].told_at) >= NEWS_WITHIN;
    let oldest = (0..known.len()).filter(is_old).min_by_key(|index| (known[*index].seen_at, known[*index].told_at))?;
    Some(known.remove(oldest).network)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_key_that_comes_from_ever_new_networks_is_news_so_many_times_a_day_and_no_more() {
        let key = KeyId(Uuid::from_u128(1));
        let login = |network: u32| LoginFrom::new(key, std::net::IpAddr::V4((network << 8).into()));
        let start: Timestamp = "2026-11-20T10:00:00Z".parse().expect("a time");
        let home = login(1).network.to_string();
        let mut known = vec![KnownNetwork {
            network: home.clone(),
            told_at: start - SignedDuration::from_hours(48),
            seen_at: start,
        }];
        let (mut news, mut next) = (0, 2);
        for hour in 0..24 {
            let now = start + SignedDuration::from_hours(hour);
            // The old network is used each hour, so that the new ones are always those that were used longest ago.
            let logins: Vec<LoginFrom> = std::iter::once(login(1)).chain((0..63).map(|n| login(next + n))).collect();
            next += 63;
            let changes = judge(HashMap::from([(key, known.clone())]), &logins, now);
            for (_, seen) in &changes.seen {
                known.iter_mut().filter(|row| row.network == *seen).for_each(|row| row.seen_at = now);
            }
            known.retain(|row| !changes.forgotten.iter().any(|(_, network)| *network == row.network));
            let first = changes.first.into_iter();
            known.extend(first.map(|first| KnownNetwork { network: first.network, told_at: now, seen_at: now }));
            news = known.iter().filter(|row| row.told_at >= start).count().max(news);
            assert!(known.len() <= NETWORKS_PER_KEY);
        }
        assert_eq!(news, NETWORKS_PER_KEY, "of a day");
        assert!(known.iter().all(|row| row.network == home || row.told_at >= start));
    }
}
