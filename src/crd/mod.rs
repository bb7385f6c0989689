//! The resources that users write: the three kinds, their schemas, and raw → checked.
//!
//! A raw spec is what the API server accepts. `check()` of each spec makes the checked type from it, in one place for
//! operator and API alike, or names the field that is wrong and says what to write instead. Rules that a schema can
//! express are in the schema (bounds, CEL), so that `kubectl apply` refuses mistakes and no status has to explain them
//! later.
//!
//! This room must never use a client, a clock or the ledger. Nothing here sets defaults in the schema either: fields
//! that a user left out stay left out, so that GitOps tools see no difference between their file and the object.

mod account_cap;
mod account_terms;
mod alerts;
mod api_key;
mod checks;
mod condition;
mod condition_type;
mod cost;
mod credit_policy;
mod limit;
mod prepaid;
mod pricing;
mod print;
mod problem;
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

pub use account_cap::{CapRefusal, account_limit};
pub use account_terms::{AccountTerms, MissingField, account_terms};
pub use alerts::{
    AccountAlertEmail, AccountAlerts, AlertEmail, AlertWebhook, Alerts, CheckedAlerts, CheckedMail, CheckedWebhook,
};
pub use api_key::{
    CheckedKey, CheckedRotation, CredentialStatus, DeniedSendersStatus, Rotation, SubAccountApiKey,
    SubAccountApiKeySpec, SubAccountApiKeyStatus,
};
pub use condition::{Conditions, find_condition, printable};
pub use condition_type::ConditionType;
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
pub use problem::Problem;
pub use rate::{Per, RateLimit, slower};
pub use reason::Reason;
pub use reference::{LocalRef, is_dns_label, is_dns_subdomain, is_object_name};
pub use secret::{
    CheckedExisting, CheckedSecret, ENV_KEYS, ExistingSecret, Preset, SECRET_KEYS, SECRET_TYPE, SecretMetadata,
    SecretSpec,
};
pub use selector::NamespaceRule;
pub use sub_account::{
    AccountState, CheckedAccount, DeletionPolicy, KeyCounts, SubAccount, SubAccountSpec, SubAccountStatus,
    SuspensionSource, SuspensionStatus,
};
pub use template::{Field, Template};
pub use upstream::{CheckedUpstream, Upstream, UpstreamTls};

/// The API group of all kinds.
pub const GROUP: &str = "franking.io";
/// The version of all kinds. Fields are only added until v1.
pub const VERSION: &str = "v1alpha1";
