//! Which logins are news for the audit trail, and how many of them a key can cause.

use std::collections::{BTreeSet, HashMap};

use serde_json::json;

use crate::domain::id::KeyId;
use crate::domain::login_network::{LOGINS_MAX, LoginFrom, NETWORKS_PER_KEY};
use crate::ledger::trail::{KEY_NETWORK, Note};

/// A row that is to be written, and what the trail says of it.
#[derive(Debug, PartialEq)]
pub struct FirstLogin {
    pub key: KeyId,
    pub network: String,
    pub note: Note,
}

/// The keys of a batch, each once: those whose networks the rule below must know.
pub fn keys_of(logins: &[LoginFrom]) -> BTreeSet<KeyId> {
    logins.iter().take(LOGINS_MAX).map(|login| login.key).collect()
}

/// The logins of a batch from networks that their key never came from. A key that has come from [`NETWORKS_PER_KEY`]
/// causes no more: the last that is told says so by its number.
pub fn first_logins(mut known: HashMap<KeyId, BTreeSet<String>>, logins: &[LoginFrom]) -> Vec<FirstLogin> {
    let mut first = Vec::new();
    for LoginFrom { key, network } in logins.iter().take(LOGINS_MAX) {
        let (known, network) = (known.entry(*key).or_default(), network.to_string());
        if known.len() < NETWORKS_PER_KEY && known.insert(network.clone()) {
            let note = Note::new(KEY_NETWORK, json!({ "network": network, "number": known.len() }));
            first.push(FirstLogin { key: *key, network, note });
        }
    }
    first
}
