//! The observation of a key and of what it depends on.

use k8s_openapi::api::core::v1::Secret;

use super::Plan;
use super::endpoint::Endpoint;
use super::gauge::Gauge;
use super::sub_account::Namespace;
use crate::crd::{Reason, SubAccountApiKeyStatus};
use crate::domain::credential::HashKey;
use crate::domain::denied_sender::DeniedReport;
use crate::domain::directory::KeyEntry;
use crate::domain::id::{AccountId, KeyId};
use crate::domain::period::Calendar;
use crate::domain::sender::{MailDomain, SenderPattern};

/// The observed state of a key and of its dependencies.
#[derive(Debug)]
pub struct Observed {
    pub id: KeyId,
    pub entry: Option<KeyEntry>,
    pub namespace: Namespace,
    pub account: Option<Account>,
    /// The Secret named in the spec, read live.
    pub secret: Option<Secret>,
    /// Other Secrets of this key, read live, left from an earlier name. For keys being deleted: those that it shares.
    pub others: Vec<Secret>,
    /// The Secret of the user's own that brings the password, read live.
    pub existing: Option<Secret>,
    /// True if that one brings the login of a policy's upstream.
    pub is_existing_a_login: bool,
    /// Why none of them could be read, if the API server forbids it.
    pub forbidden: Option<String>,
    pub endpoint: Endpoint,
    pub hash_key: HashKey,
    /// The ledger was replaced, and only the Secret holds the password.
    pub rebuilding: bool,
    pub gauge: Option<Gauge>,
    /// The last report on messages refused for their sender, while this process leads.
    pub denied: Option<DeniedReport>,
    pub figures_permitted: bool,
}

/// The account of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    /// Name of its policy.
    pub policy: String,
    /// True if the directory allows it to send.
    pub programmed: bool,
    /// Message from its own conditions if it may not send.
    pub refusal: Option<String>,
    /// True if that cannot change until the account is edited.
    pub stalled: bool,
    /// The permitted senders of its keys: the domains of its policy, and its own patterns from the directory. `None` if
    /// not known.
    pub senders: Option<(Vec<MailDomain>, Option<Vec<SenderPattern>>)>,
    /// Reason and message if its keys cannot send although the directory allows it.
    pub obstacle: Option<(Reason, String)>,
    /// The text of its SENDING column.
    pub sending: Option<String>,
    /// The calendar of its policy, if known.
    pub calendar: Option<Calendar>,
}

pub type KeyPlan = Plan<SubAccountApiKeyStatus>;
