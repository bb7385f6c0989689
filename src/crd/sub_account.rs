//! `SubAccount`: the child account, a customer, department or application.

#![expect(clippy::duplicated_attributes, reason = "each printer column has a type and a path of its own")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::alerts::AccountAlerts;
use super::checks::{SENDERS_FIX, SENDERS_RULE, is_false, sender_patterns, suspension};
use super::cost::CostStatus;
use super::limit::{Cap, CheckedCap, CreditStatus, SpendStatus, UsageStatus};
use super::prepaid::Prepaid;
use super::pricing::minor;
use super::problem::Problem;
use super::rate::RateLimit;
use super::reference::LocalRef;
use crate::domain::credit::{self, Rate};
use crate::domain::directory::Suspension;
use crate::domain::money::{self, MINOR_MAX};
use crate::domain::sender::{Address, SenderPattern};

/// One sender of a shared plan: a customer, a department or an application.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "franking.io",
    version = "v1alpha1",
    kind = "SubAccount",
    doc = "One sender of a shared mail plan: a customer, a department or an application.",
    plural = "subaccounts",
    shortname = "suba",
    category = "franking",
    namespaced,
    status = "SubAccountStatus",
    derive = "PartialEq",
    selectable = ".spec.policyRef.name",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Sending", type_ = "string", json_path = ".status.sending"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.policyRef.name"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.credits.used"),
    printcolumn(name = "Remaining", type_ = "integer", json_path = ".status.credits.remaining"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    )
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.suspendReason) || (has(self.suspended) && self.suspended)")
    .message("suspendReason says why it is suspended: remove it, or set suspended to true"))]
pub struct SubAccountSpec {
    /// Policy whose plan this account shares. A change takes effect from the next message on.
    pub policy_ref: LocalRef,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub display_name: Option<String>,
    /// Web site of the sender, such as https://example.com.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://[^\\s]+$')")
        .message("write the address of a web site, such as https://example.com"))]
    pub website: Option<String>,
    /// Id of this account in your own systems, such as a customer number. No two accounts of a policy may have the
    /// same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub external_id: Option<String>,
    /// Your own notes, at most 32 keys with values of at most 256 characters. Franking keeps them and does not read
    /// them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = json!({"type": "string", "maxLength": 256})))]
    #[x_kube(validation = Rule::new("self.all(key, key.size() >= 1 && key.size() <= 63)")
        .message("a key of metadata has 1 to 63 characters"))]
    pub metadata: BTreeMap<String, String>,
    /// Limit on what this account may send in a period. Absent means the policy's defaultCap, else its maxCap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<Cap>,
    /// Prepaid credits of this account. If present, nothing is sent once they are used up, whatever the cap still
    /// allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub prepaid: Option<Prepaid>,
    /// Maximum that this account may ever cost, in minor units of the policy's currency, such as cents, at the policy's
    /// pricePerThousandMinor when each message is sent. 0 means that nothing with a price may be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000_000_i64))]
    pub spend_limit_minor: Option<i64>,
    /// Senders that the keys of this account may use, such as sales@example.com or *@sales.example.com. They narrow
    /// what the policy allows and never widen it; a key's own list narrows these. Empty means all that the policy
    /// allows, or none if its perAccount.allowedSenders is Required.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 320)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(SENDERS_RULE).message(SENDERS_FIX)
    )]
    pub allowed_senders: Vec<String>,
    /// Limit on how fast this account may send, all its keys together. If the policy has one too, the slower applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Notices to the account's own people when its credits run short. The policy's alerts go to the platform's people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<AccountAlerts>,
    /// True stops all keys of this account within a second. Nothing is deleted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspended: bool,
    /// Reason for the suspension; senders are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new(r"!self.matches('[\\x00-\\x1f\\x7f]')")
        .message("write suspendReason in one line without control characters"))]
    pub suspend_reason: Option<String>,
    /// Treatment of the account when this object is deleted. Retain: usage is kept, and applying the object again in
    /// the same namespace finds it. Purge: personal data is erased; used credits stay until the period ends. Retain if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Purge,
}

/// Last observed state of the account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubAccountStatus {
    /// Id in the ledger; it outlives this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36))]
    pub account_id: Option<String>,
    /// Active, Suspended (the account itself), ParentSuspended (its policy), Refused (the policy does not accept it;
    /// see the conditions) or Deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AccountState>,
    /// Everything that keeps the account from sending; each alone suffices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub suspensions: Vec<SuspensionStatus>,
    /// Mail domains that the account's keys may send from, as A-labels: those of its policy, as far as `allowedSenders`
    /// of the account leaves them. A key's own `allowedSenders` may leave fewer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub sender_domains: Vec<String>,
    /// Current state of sending, for people: yes; no (the condition Ready gives the reason); no credits, and until
    /// when; no relay; upstream away. It is updated with a delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub sending: Option<String>,
    /// The metadata.generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Conditions: Ready, Accepted, Programmed; Reconciling and Stalled only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crd::condition::schema")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Mail sent in the current period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageStatus>,
    /// Credits used in the current period, and credits left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits: Option<CreditStatus>,
    /// Cost of the account; absent without a spend limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend: Option<SpendStatus>,
    /// The account's part of the cost of the current billing period so far; absent if the policy has no pricing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostStatus>,
    /// Number of keys of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeyCounts>,
    /// Time at which the figures were read. They are updated with a delay; the metrics have exact ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccountState {
    Active,
    Suspended,
    ParentSuspended,
    Refused,
    Deleted,
}

impl AccountState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Suspended => "Suspended",
            Self::ParentSuspended => "ParentSuspended",
            Self::Refused => "Refused",
            Self::Deleted => "Deleted",
        }
    }
}

/// One thing that keeps an account from sending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuspensionStatus {
    /// Source of the suspension: Spec (the account's own) or Policy.
    pub source: SuspensionSource,
    /// Reason as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
    /// Time at which it was first seen.
    pub since: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SuspensionSource {
    Spec,
    Policy,
}

/// Number of keys of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyCounts {
    /// Keys that exist.
    #[schemars(range(min = 0))]
    pub total: i64,
    /// Keys that are Ready.
    #[schemars(range(min = 0))]
    pub active: i64,
    /// Messages that Franking refused because these keys may not use their sender, or because their sender cannot be
    /// read: the sum of their `deniedSenders`. `usage.refused` counts what the upstream refused.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub denied_messages: i64,
}

/// An account that passed the checks of its own fields; its policy decides whether to accept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedAccount {
    /// Name of the policy.
    pub policy: String,
    pub external_id: Option<String>,
    pub cap: Option<CheckedCap>,
    pub prepaid: Option<credit::Prepaid>,
    /// Spend limit in millionths of the currency's minor unit.
    pub spend_limit_micro: Option<i64>,
    pub rate: Option<Rate>,
    /// Empty = the account itself does not narrow its senders.
    pub allowed_senders: Vec<SenderPattern>,
    /// Addresses of its own people that are sent its thresholds by mail.
    pub alert_recipients: Vec<Address>,
    pub suspended: Option<Suspension>,
    pub deletion: DeletionPolicy,
}

impl SubAccountSpec {
    /// Converts what a user wrote into what the rest of Franking works with; there is no other way.
    pub fn check(&self) -> Result<CheckedAccount, Problem> {
        Ok(CheckedAccount {
            policy: self.policy_ref.check("spec.policyRef")?,
            external_id: self.external_id.clone(),
            cap: self.cap.as_ref().map(|cap| cap.check("spec.cap")).transpose()?,
            prepaid: self.prepaid.as_ref().map(|prepaid| prepaid.check("spec.prepaid")).transpose()?,
            spend_limit_micro: self
                .spend_limit_minor
                .map(|limit| minor(limit, MINOR_MAX, "spec.spendLimitMinor").map(money::micro))
                .transpose()?,
            rate: self.rate_limit.map(|rate| rate.check("spec.rateLimit")).transpose()?,
            allowed_senders: sender_patterns(&self.allowed_senders)?,
            alert_recipients: self.alerts.as_ref().map_or(Ok(Vec::new()), |alerts| alerts.check("spec.alerts"))?,
            suspended: suspension(self.suspended, self.suspend_reason.as_deref())?,
            deletion: self.deletion_policy.unwrap_or_default(),
        })
    }
}
