//! What users write: the three kinds, their schemas, and raw → checked.
//!
//! A raw spec is what the API server lets through. `check()` of each spec makes the checked type from it, in one
//! place for operator and API alike, or names the field that is wrong and says what to write instead. What can be
//! said in the schema is said there (bounds, CEL), so that `kubectl apply` refuses it and nothing has to be explained
//! later in a status.
//!
//! It must never talk to anybody: no client, no clock, no ledger. Nothing here defaults a field in the schema either:
//! what a user left out stays left out, so that GitOps tools see no difference between their file and the object.

mod account_cap;
mod account_terms;
mod alerts;
mod api_key;
mod condition;
mod cost;
mod credit_policy;
mod limit;
mod prepaid;
mod pricing;
mod print;
mod rate;
mod reason;
mod reference;
mod secret;
mod selector;
mod settings;
mod sub_account;
mod template;
#[cfg(test)]
mod tests;
mod upstream;

use std::fmt;

pub use account_cap::{CapRefusal, account_limit};
pub use account_terms::{AccountTerms, MissingField, account_terms};
pub use alerts::{
    AccountAlertEmail, AccountAlerts, AlertEmail, AlertWebhook, Alerts, CheckedAlerts, CheckedMail, CheckedWebhook,
};
pub use api_key::{
    CheckedKey, CheckedRotation, CredentialStatus, DeniedSendersStatus, Rotation, SubAccountApiKey,
    SubAccountApiKeySpec, SubAccountApiKeyStatus,
};
pub use condition::{ConditionType, Conditions, find_condition, printable};
pub use cost::{CostStatus, PolicyCostStatus};
pub use credit_policy::{
    AccountCounts, AllowedNamespaces, CheckedPolicy, CreditPolicy, CreditPolicySpec, CreditPolicyStatus,
    NamespacesFrom, Overage, PerAccount, RelayPort, RelayStatus, Requirement, Senders,
};
pub use limit::{
    Cap, CheckedCap, CreditStatus, Period, PeriodStatus, Pool, PoolCreditStatus, SpendStatus, UsageStatus,
};
pub use prepaid::{Every, Grant, Prepaid, Recurring};
pub use pricing::Pricing;
pub use print::{File, all, chart_template, files, yaml};
pub use rate::{Per, RateLimit, slower};
pub use reason::Reason;
pub use reference::{LocalRef, is_dns_label, is_dns_subdomain, is_object_name};
pub use secret::{CheckedSecret, ENV_KEYS, Preset, SECRET_KEYS, SECRET_TYPE, SecretMetadata, SecretSpec};
pub use selector::NamespaceRule;
pub use sub_account::{
    AccountState, CheckedAccount, DeletionPolicy, KeyCounts, SubAccount, SubAccountSpec, SubAccountStatus,
    SuspensionSource, SuspensionStatus,
};
pub use template::{Field, Template};
pub use upstream::{CheckedUpstream, Upstream, UpstreamTls};

use jiff::Timestamp;

use crate::domain::directory::Suspension;
use crate::domain::sender::SenderPattern;

/// The API group of all kinds.
pub const GROUP: &str = "franking.io";
/// The version of all kinds. Fields are only added until v1.
pub const VERSION: &str = "v1alpha1";

/// What is wrong in a spec, and what to write instead. It becomes the message of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path from the object's root, such as `spec.allowFrom[2]`.
    pub field: String,
    /// A sentence that says how to put it right.
    pub fix: String,
}

impl Problem {
    pub(crate) fn new(field: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { field: field.into(), fix: fix.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.fix)
    }
}

/// A suspension as written in a spec. The reason is told to senders, so it must fit into one line of a reply.
fn suspension(suspended: bool, reason: Option<&str>) -> Result<Option<Suspension>, Problem> {
    if reason.is_some_and(|reason| reason.chars().any(char::is_control)) {
        return Err(Problem::new("spec.suspendReason", "write one line without control characters"));
    }
    Ok(suspended.then(|| Suspension { reason: reason.map(str::to_owned) }))
}

/// Admission's rule for `spec.allowedSenders` of an account or a key. `check()` knows the rest.
const SENDERS_RULE: &str = r"self.all(sender, sender.matches('^[^@\\s]*@[^@\\s]+$'))";
const SENDERS_FIX: &str = "write senders such as alerts@example.com or *@example.com";

/// `spec.allowedSenders` of an account or a key.
fn sender_patterns(texts: &[String]) -> Result<Vec<SenderPattern>, Problem> {
    let pattern = |(index, text): (usize, &String)| {
        SenderPattern::parse(text).map_err(|fix| Problem::new(format!("spec.allowedSenders[{index}]"), fix))
    };
    texts.iter().enumerate().map(pattern).collect()
}

/// A time as RFC 3339 writes it.
fn check_time(text: &str, field: &str) -> Result<Timestamp, Problem> {
    text.parse().map_err(|_| Problem::new(field, "write a time such as 2027-01-01T00:00:00Z"))
}

/// For `skip_serializing_if`: a switch that is off is left out, as a user would leave it out.
pub(crate) fn is_false(switch: &bool) -> bool {
    !switch
}
