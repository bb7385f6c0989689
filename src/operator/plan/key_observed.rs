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

/// What was seen of a key and of what it hangs on.
#[derive(Debug)]
pub struct Observed {
    pub id: KeyId,
    pub entry: Option<KeyEntry>,
    pub namespace: Namespace,
    pub account: Option<Account>,
    /// The Secret of the spec's name, read live.
    pub secret: Option<Secret>,
    /// Other Secrets of this key, read live: it had another name before. Of a key on its way out, those that it shares.
    pub others: Vec<Secret>,
    pub endpoint: Endpoint,
    pub hash_key: HashKey,
    /// The ledger was replaced, and the Secret is all that knows the password.
    pub rebuilding: bool,
    pub gauge: Option<Gauge>,
    /// What was reported last of messages that were refused for their sender, while this process leads.
    pub denied: Option<DeniedReport>,
    pub figures_granted: bool,
}

/// The account that a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    /// Whether the directory lets it send.
    pub programmed: bool,
    /// What its own conditions say where it does not.
    pub refusal: Option<String>,
    /// Nothing changes about that until the account is edited.
    pub stalled: bool,
    /// Whom its keys may write as: the domains of its policy, and its own patterns as the directory has them. `None`
    /// where that is not known.
    pub senders: Option<(Vec<MailDomain>, Option<Vec<SenderPattern>>)>,
    /// Why its keys cannot send although the directory lets it, as their condition says it.
    pub obstacle: Option<(Reason, String)>,
    /// What SENDING says of it.
    pub sending: Option<String>,
    /// The calendar of its policy, where that is known.
    pub calendar: Option<Calendar>,
}

pub type KeyPlan = Plan<SubAccountApiKeyStatus>;
