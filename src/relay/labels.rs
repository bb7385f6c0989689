//! The names of a sender for logs and metrics.

use super::account_counters::Whose;
use crate::domain::directory::ResolvedKey;
use crate::domain::id::AccountId;

/// The names of a sender for logs and metrics; empty if the directory has no such sender.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    pub policy: String,
    pub account: String,
    pub key: String,
    /// Id of the account.
    pub account_id: Option<AccountId>,
}

impl Labels {
    pub fn of(sender: &ResolvedKey) -> Self {
        Self {
            policy: sender.policy.name.clone(),
            account: format!("{}/{}", sender.account.namespace, sender.account.name),
            key: format!("{}/{}", sender.key.namespace, sender.key.name),
            account_id: Some(sender.account.id),
        }
    }

    /// Returns the labels that the counters by account need.
    pub fn whose(&self) -> Whose<'_> {
        Whose { policy: &self.policy, account: &self.account, id: self.account_id }
    }
}
