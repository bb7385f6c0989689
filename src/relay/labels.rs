//! The names of a sender for logs and metrics.

use crate::domain::directory::Sender;

/// The names of a sender for logs and metrics; empty where the directory has no such sender.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    pub policy: String,
    pub account: String,
    pub key: String,
}

impl Labels {
    pub fn of(sender: &Sender) -> Self {
        Self {
            policy: sender.policy.name.clone(),
            account: format!("{}/{}", sender.account.namespace, sender.account.name),
            key: format!("{}/{}", sender.key.namespace, sender.key.name),
        }
    }
}
