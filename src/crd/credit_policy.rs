//! `CreditPolicy`: the parent account and its plan.

#![expect(clippy::duplicated_attributes, reason = "each printer column has a type and a path of its own")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::alerts::{Alerts, CheckedAlerts};
use super::checks::{is_false, suspension};
use super::cost::PolicyCostStatus;
use super::limit::{Cap, CheckedCap, PeriodStatus, Pool, PoolCreditStatus};
use super::prepaid::Prepaid;
use super::pricing::Pricing;
use super::problem::Problem;
use super::rate::RateLimit;
use super::selector::NamespaceRule;
use super::upstream::{CheckedUpstream, Upstream};
use crate::domain::credit::{self, Limit, Rate};
use crate::domain::directory::Suspension;
use crate::domain::money;
use crate::domain::sender::MailDomain;

/// The plan that many senders share: a pool of credits, an upstream smarthost, and the rules.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "franking.io",
    version = "v1alpha1",
    kind = "CreditPolicy",
    doc = "A mail plan that many senders share: a pool of credits, an upstream smarthost, and the rules.",
    plural = "creditpolicies",
    shortname = "credpol",
    status = "CreditPolicyStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Sending", type_ = "string", json_path = ".status.sending"),
    printcolumn(name = "Accounts", type_ = "integer", json_path = ".status.accounts.active"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.credits.used"),
    printcolumn(name = "Remaining", type_ = "integer", json_path = ".status.credits.remaining"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspended"),
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
#[x_kube(validation = Rule::new(
    "!has(self.perAccount) || !has(self.perAccount.spendLimit) || self.perAccount.spendLimit != 'Required' || \
     has(self.pricing)"
).message("perAccount.spendLimit: Required needs pricing, which sets the price of a message"))]
pub struct CreditPolicySpec {
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub display_name: Option<String>,
    /// The shared credits, and the calendar of all periods. Absent means unlimited, counted per month in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
    /// Prepaid credits that all accounts use up together, beside the pool. If present, nothing is sent once they are
    /// used up, whatever the pool still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub prepaid: Option<Prepaid>,
    /// Treatment of messages when the pool is used up. Deny refuses them. Allow accepts them and counts them
    /// separately; prepaid credits, and the caps of accounts and keys, still apply. Deny if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overage: Option<Overage>,
    /// Reply to senders when credits are used up, whichever limit it is. Defer answers 452, so that a client with a
    /// queue keeps its mail and tries again until the next period or top-up. Reject answers 550, so that the sender
    /// knows at once, but 452 while messages under way may still give back enough credits. Defer if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_exhausted: Option<WhenExhausted>,
    /// Defaults and ceilings for the accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_account: Option<PerAccount>,
    /// Prices of sending, for the bill and for spend limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing: Option<Pricing>,
    /// Alerts when credits run short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<Alerts>,
    /// Senders that may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub senders: Option<Senders>,
    /// Namespaces from which accounts may be attached. Absent means all, for platforms where the platform team creates
    /// the accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,
    /// The smarthost that mail is forwarded to.
    pub upstream: Upstream,
    /// True stops all accounts within a second; their state becomes ParentSuspended. Nothing is deleted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspended: bool,
    /// Reason for the suspension; senders are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new(r"!self.matches('[\\x00-\\x1f\\x7f]')")
        .message("write suspendReason in one line without control characters"))]
    pub suspend_reason: Option<String>,
}

/// Defaults and ceilings for the accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.defaultCap) || !has(self.maxCap) || (self.defaultCap.credits <= self.maxCap.credits && \
     (has(self.defaultCap.period) ? self.defaultCap.period : 'Monthly') == \
     (has(self.maxCap.period) ? self.maxCap.period : 'Monthly'))"
).message("defaultCap may not be above maxCap, and must have its period"))]
pub struct PerAccount {
    /// Cap of an account that sets none. Absent means maxCap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_cap: Option<Cap>,
    /// Highest cap that an account may set, and the cap of accounts that set none if there is no defaultCap. Accounts
    /// must use its period, because caps of different periods cannot be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cap: Option<Cap>,
    /// Maximum number of accounts of this policy in one namespace. Accounts that were removed in the current period, or
    /// moved to another policy, count too. Absent means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_accounts_per_namespace: Option<i32>,
    /// Limit on how fast each account may send, all its keys together. An account may set a slower one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Requirement that each account be prepaid. Required treats an account without prepaid as one with nothing in it,
    /// so that no tenant sends on account by making another account. Optional lets it send without. If absent, it may
    /// send without too, but the condition SelfServiceUnbounded warns as soon as an account of the policy is prepaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepaid: Option<Requirement>,
    /// Requirement that each account have a spend limit. Required treats an account without spendLimitMinor as one that
    /// may spend nothing; it needs pricing. Optional lets it spend without a limit. If absent, it may spend without a
    /// limit too, but the condition SelfServiceUnbounded warns as soon as an account of the policy has a spend limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend_limit: Option<Requirement>,
    /// Requirement that each account list its senders. Required treats an account without allowedSenders as one that
    /// may use no sender. Optional lets it use all that senders allows. If absent, it may use them all too, but the
    /// condition SelfServiceUnbounded warns as soon as an account of the policy has allowedSenders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_senders: Option<Requirement>,
}

/// Rule for an account that does not set a limit: Required gives it the strictest limit, Optional none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Requirement {
    Optional,
    Required,
}

/// Treatment of messages when the pool is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Overage {
    #[default]
    Deny,
    Allow,
}

impl From<Overage> for credit::Overage {
    fn from(overage: Overage) -> Self {
        match overage {
            Overage::Deny => Self::Deny,
            Overage::Allow => Self::Allow,
        }
    }
}

/// Reply to senders when credits are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenExhausted {
    #[default]
    Defer,
    Reject,
}

impl From<WhenExhausted> for credit::WhenExhausted {
    fn from(when: WhenExhausted) -> Self {
        match when {
            WhenExhausted::Defer => Self::Defer,
            WhenExhausted::Reject => Self::Reject,
        }
    }
}

/// Senders that may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Senders {
    /// Mail domains that every account of this policy may send from, such as example.com. Subdomains must be listed
    /// themselves. An empty list means that nothing may be sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(r"self.all(domain, domain.matches('^[^@\\s]+$'))")
            .message("write mail domains such as example.com")
    )]
    pub domains: Vec<String>,
}

/// Namespaces from which accounts may be attached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
    .message("selector goes with from: Selector, and only with it"))]
pub struct AllowedNamespaces {
    /// All, or Selector for namespaces whose labels match the selector.
    pub from: NamespacesFrom,
    /// Labels that a namespace must have. An empty selector matches all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::crd::selector::schema")]
    pub selector: Option<LabelSelector>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    All,
    Selector,
}

/// Last observed state of the policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreditPolicyStatus {
    /// Id in the ledger; it outlives this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36))]
    pub policy_id: Option<String>,
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
    /// The current period of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<PeriodStatus>,
    /// Credits used in the current period, and credits left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits: Option<PoolCreditStatus>,
    /// The currency that is, or ever was, in pricing. It stays, because spending is counted in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 3))]
    pub currency: Option<String>,
    /// Cost of the current billing period so far; absent without pricing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<PolicyCostStatus>,
    /// Number of accounts of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<AccountCounts>,
    /// The relay that accounts of this policy send to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayStatus>,
    /// Time at which the figures were read. They are updated with a delay; the metrics have exact ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
}

/// Number of accounts of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountCounts {
    /// Accounts that exist.
    #[schemars(range(min = 0))]
    pub total: i64,
    /// Accounts that may send.
    #[schemars(range(min = 0))]
    pub active: i64,
    /// Accounts that are suspended themselves.
    #[schemars(range(min = 0))]
    pub suspended: i64,
    /// Accounts that were deleted in the current period, or moved to another policy; what they used still counts.
    #[schemars(range(min = 0))]
    pub removed: i64,
}

/// The relay that programs send to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayStatus {
    /// Host name of the relay.
    #[schemars(length(max = 253))]
    pub host: String,
    /// Ports of the relay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ports: Vec<RelayPort>,
    /// Hash of the settings that the relays run with. They are in the ConfigMap RELEASE-relay-effective, with this hash
    /// as its annotation franking.io/config-hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub config_hash: Option<String>,
    /// Number of relays that serve, if they are a separate fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ready_replicas: Option<i32>,
}

/// A port of the relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayPort {
    /// Name of the listener.
    #[schemars(length(max = 63))]
    pub name: String,
    /// TCP port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// A policy that passed the checks.
#[derive(Clone, Debug)]
pub struct CheckedPolicy {
    /// The pool, whose calendar is the one of all the policy's periods.
    pub pool: Limit,
    pub prepaid: Option<credit::Prepaid>,
    pub overage: credit::Overage,
    pub when_exhausted: credit::WhenExhausted,
    pub pricing: Option<money::Pricing>,
    pub default_cap: Option<CheckedCap>,
    pub max_cap: Option<CheckedCap>,
    pub max_accounts_per_namespace: Option<u32>,
    /// The fastest rate of each account.
    pub account_rate: Option<Rate>,
    /// Requirement for an account without `prepaid`; `None` if the policy does not say.
    pub prepaid_requirement: Option<Requirement>,
    /// Requirement for an account without `spendLimitMinor`; `None` if the policy does not say.
    pub spend_limit_requirement: Option<Requirement>,
    /// Requirement for an account without `allowedSenders`; `None` if the policy does not say.
    pub senders_requirement: Option<Requirement>,
    pub alerts: CheckedAlerts,
    pub sender_domains: Vec<MailDomain>,
    pub namespaces: NamespaceRule,
    pub upstream: CheckedUpstream,
    pub suspended: Option<Suspension>,
}

impl CreditPolicySpec {
    /// Converts what a user wrote into what the rest of Franking works with; there is no other way.
    pub fn check(&self) -> Result<CheckedPolicy, Problem> {
        let per_account = self.per_account.clone().unwrap_or_default();
        let cap = |cap: &Option<Cap>, field: &str| {
            cap.as_ref().map(|cap| cap.check(&format!("spec.perAccount.{field}"))).transpose()
        };
        let default_cap = cap(&per_account.default_cap, "defaultCap")?;
        let max_cap = cap(&per_account.max_cap, "maxCap")?;
        if let (Some(default), Some(ceiling)) = (default_cap, max_cap)
            && (default.period != ceiling.period || default.credits > ceiling.credits)
        {
            return Err(Problem::new(
                "spec.perAccount.defaultCap",
                format!("write at most maxCap's {} credits, with the same period", ceiling.credits),
            ));
        }
        let max_accounts_per_namespace =
            per_account.max_accounts_per_namespace.map(u32::try_from).transpose().map_err(|_| {
                Problem::new("spec.perAccount.maxAccountsPerNamespace", "write how many accounts, 0 or more")
            })?;
        if per_account.spend_limit == Some(Requirement::Required) && self.pricing.is_none() {
            let fix = "Required needs spec.pricing, which sets the price of a message; write it, or Optional here";
            return Err(Problem::new("spec.perAccount.spendLimit", fix));
        }
        let domains = self.senders.iter().flat_map(|senders| &senders.domains);
        let sender_domains = domains
            .enumerate()
            .map(|(index, domain)| {
                MailDomain::parse(domain).map_err(|fix| Problem::new(format!("spec.senders.domains[{index}]"), fix))
            })
            .collect::<Result<_, _>>()?;
        Ok(CheckedPolicy {
            pool: self.pool.clone().unwrap_or_default().check("spec.pool")?,
            prepaid: self.prepaid.as_ref().map(|prepaid| prepaid.check("spec.prepaid")).transpose()?,
            overage: self.overage.unwrap_or_default().into(),
            when_exhausted: self.when_exhausted.unwrap_or_default().into(),
            pricing: self.pricing.as_ref().map(|pricing| pricing.check("spec.pricing")).transpose()?,
            default_cap,
            max_cap,
            max_accounts_per_namespace,
            account_rate: per_account.rate_limit.map(|rate| rate.check("spec.perAccount.rateLimit")).transpose()?,
            prepaid_requirement: per_account.prepaid,
            spend_limit_requirement: per_account.spend_limit,
            senders_requirement: per_account.allowed_senders,
            alerts: self.alerts.as_ref().map_or(Ok(CheckedAlerts::default()), |alerts| alerts.check("spec.alerts"))?,
            sender_domains,
            namespaces: self.allowed_namespaces.as_ref().map_or(Ok(NamespaceRule::All), AllowedNamespaces::check)?,
            upstream: self.upstream.check()?,
            suspended: suspension(self.suspended, self.suspend_reason.as_deref())?,
        })
    }
}

impl AllowedNamespaces {
    fn check(&self) -> Result<NamespaceRule, Problem> {
        match (self.from, &self.selector) {
            (NamespacesFrom::All, None) => Ok(NamespaceRule::All),
            (NamespacesFrom::Selector, Some(selector)) => {
                NamespaceRule::matching(selector, "spec.allowedNamespaces.selector")
            }
            (NamespacesFrom::All, Some(_)) | (NamespacesFrom::Selector, None) => Err(Problem::new(
                "spec.allowedNamespaces.selector",
                "write it together with from: Selector, and only then",
            )),
        }
    }
}
