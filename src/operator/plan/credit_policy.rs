//! The plan of a policy: its upstream, its pool, and the accounts that block its deletion.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;

use super::availability::{self, Availability};
use super::cost::{Cost, carry_cost};
use super::figures;
use super::gauge::Gauge;
use super::usage::{self, Metered};
use super::{Plan, Readiness, Step, meta, sending};
use crate::crd::{
    AccountCounts, CheckedPolicy, CheckedUpstream, ConditionType, Conditions, CreditPolicy, CreditPolicyStatus,
    PerAccount, PolicyCostStatus, Pricing, Reason, RelayPort, RelayStatus, find_condition,
};
use crate::domain::directory::{Entry, PolicyEntry, Sealed, Suspension, UpstreamEntry};
use crate::domain::id::PolicyId;
use crate::domain::trouble::Sightings;
use crate::operator::object_ref::Name;
use crate::operator::plan::endpoint::Endpoint;
use crate::operator::plan::figures::Figures;
use crate::operator::plan::relay_state::RelayState;
use crate::operator::state::index::AccountCount;

/// The message of a policy without sender domains, which its accounts repeat.
pub const NO_SENDER_DOMAINS: &str = "spec.senders.domains: nothing can be sent, because no domain is listed; list the mail \
                                     domains that accounts of this policy send from, such as example.com";
/// Number of blocking accounts that the message names.
const NAMED_USERS: usize = 10;

/// The observed state of a policy and of its dependencies.
#[derive(Debug)]
pub struct Observed {
    pub id: PolicyId,
    pub entry: Option<PolicyEntry>,
    pub login: Login,
    /// The operator's own namespace, which holds the upstream Secrets.
    pub namespace: String,
    pub gauge: Option<Gauge>,
    pub cost: Cost<PolicyCostStatus>,
    pub accounts: AccountCounts,
    pub limited: LimitedAccounts,
    /// The accounts that refer to it, if it is being deleted.
    pub users: Vec<Name>,
    pub endpoint: Endpoint,
    pub relay: RelayState,
    /// Hash of the config in force on the relays; `None` while it is not known.
    pub config_hash: Option<String>,
    /// The relays' reports on upstreams; `None` before they were asked.
    pub sightings: Option<Arc<Sightings>>,
    /// Message about entries without a resource that wait for an administrator.
    pub orphans: Option<String>,
    /// Message about a ledger whose time is ahead of the clock.
    pub ledger_ahead: Option<String>,
    pub figures_permitted: bool,
}

/// Counts of a policy's accounts limited by an optional field that the policy may make mandatory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitedAccounts {
    pub prepaid: i64,
    pub spend_limited: i64,
    pub narrowed: i64,
}

impl LimitedAccounts {
    pub fn of(count: &AccountCount) -> Self {
        Self { prepaid: count.prepaid, spend_limited: count.spend_limited, narrowed: count.narrowed }
    }
}

/// The state of the policy's upstream credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// The upstream needs none, or the spec is invalid anyway.
    None,
    Missing(Wanted),
    Unlabelled(Wanted),
    /// The Secret lacks a key or holds an unusable value; the text names it.
    Unusable(Wanted, String),
    Sealed(Sealed),
}

/// The upstream Secret in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Credentials,
    ClientCertificate,
}

impl Wanted {
    fn field(self) -> &'static str {
        match self {
            Self::Credentials => "spec.upstream.credentialsSecretRef.name",
            Self::ClientCertificate => "spec.upstream.clientCertificateSecretRef.name",
        }
    }

    fn keys(self) -> &'static str {
        match self {
            Self::Credentials => "username and password",
            Self::ClientCertificate => "tls.crt and tls.key",
        }
    }

    fn name(self, upstream: &CheckedUpstream) -> &str {
        let name = match self {
            Self::Credentials => &upstream.credentials_secret,
            Self::ClientCertificate => &upstream.client_certificate_secret,
        };
        name.as_deref().unwrap_or_default()
    }
}

impl Metered for CreditPolicyStatus {
    fn shown(&self) -> Option<(Figures, Timestamp)> {
        let (period, credits) = (self.period.as_ref()?, self.credits.as_ref()?);
        Some((Figures::of_pool(period, credits), self.observed_at.as_ref()?.0))
    }

    fn carry(&mut self, from: &Self) {
        self.period.clone_from(&from.period);
        self.credits.clone_from(&from.credits);
        self.accounts = from.accounts;
        carry_cost(&mut self.cost, &from.cost);
        self.observed_at.clone_from(&from.observed_at);
    }
}

type PolicyPlan = Plan<CreditPolicyStatus>;

pub fn plan(policy: &CreditPolicy, observed: &Observed, now: Timestamp) -> PolicyPlan {
    let deleting = meta::deleting(&policy.metadata);
    // A policy in use waits for its accounts, and stays in force until then.
    let in_use = deleting && !observed.users.is_empty() && !meta::forced(&policy.metadata);
    if deleting && !(in_use && meta::holds(&policy.metadata)) {
        return removal(policy, observed, now);
    }
    let waiting = in_use.then(|| Readiness::waiting(Reason::InUse, sentence_of_users(&observed.users)));
    let mut plan = Plan::nothing();
    if !meta::holds(&policy.metadata) {
        plan.steps.push(Step::AddFinalizer);
    }
    let known = known_currency(policy, observed.entry.as_ref());
    let spec = match checked(policy, known.as_deref()) {
        Ok(spec) => spec,
        Err((reason, sentence)) => {
            suspend(&mut plan, policy, observed);
            let readiness = waiting.unwrap_or_else(|| Readiness::refused(reason, sentence));
            let gauge = observed.gauge.clone();
            let upstream = observed.entry.as_ref().and_then(|entry| entry.upstream.as_ref());
            let serves = |entry: &PolicyEntry| entry.suspended.is_none() && !entry.sender_domains.is_empty();
            let open = upstream.is_some() && observed.entry.as_ref().is_some_and(serves) && !policy.spec.suspended;
            plan.status = Some(status(policy, observed, (readiness, upstream, open), (false, false), gauge, now));
            return plan;
        }
    };
    let (upstream, readiness) = upstream(&spec, observed);
    let entry = PolicyEntry {
        id: observed.id,
        name: policy.name_any(),
        suspended: spec.suspended.clone(),
        pool: spec.pool.clone(),
        prepaid: spec.prepaid.clone(),
        overage: spec.overage,
        when_exhausted: spec.when_exhausted,
        currency: spec.pricing.as_ref().map(|pricing| pricing.currency.clone()).or(known),
        pricing: spec.pricing.clone(),
        sender_domains: spec.sender_domains.clone(),
        upstream: upstream.clone(),
        settings: policy.spec.settings().kept(observed.entry.as_ref().map(|entry| &entry.settings)),
        removed_at: None,
    };
    let untouched = || Gauge::untouched(&entry.pool, now).with_overage(entry.overage);
    let gauge = observed.gauge.clone().unwrap_or_else(untouched);
    let stands = observed.entry.as_ref().is_some_and(|entry| entry.removed_at.is_none());
    if observed.entry.as_ref() != Some(&entry) && (stands || !deleting) {
        plan.repeat_pass = meta::holds(&policy.metadata) && !same_limits(observed.entry.as_ref(), &entry);
        plan.steps.push(Step::Put(Box::new(Entry::Policy(entry))));
    }
    let accepted = matches!(readiness, Readiness::Ready { .. } | Readiness::Held { .. });
    let open = matches!(readiness, Readiness::Ready { .. });
    let said = (waiting.unwrap_or(readiness), upstream.as_ref(), open);
    let next = status(policy, observed, said, (accepted, true), Some(gauge.clone()), now);
    plan.events.extend(usage::news(policy.status.as_ref(), &next, Some(&gauge)));
    let standing = policy.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    plan.events.extend(availability::news(standing, &next.conditions));
    plan.status = Some(next);
    plan
}

/// Checks the spec, and that its pricing is in the known currency.
fn checked(policy: &CreditPolicy, known: Option<&str>) -> Result<CheckedPolicy, (Reason, String)> {
    let spec = policy.spec.check().map_err(|problem| (Reason::Invalid, problem.to_string()))?;
    match changed_currency(policy, known) {
        Some(sentence) => Err((Reason::CurrencyChanged, sentence)),
        None => Ok(spec),
    }
}

/// Returns the currency of the policy's money, from the directory or, if that was lost, from the status.
pub fn known_currency(policy: &CreditPolicy, entry: Option<&PolicyEntry>) -> Option<String> {
    let shown = || policy.status.as_ref().and_then(|status| status.currency.clone());
    entry.and_then(PolicyEntry::counted_in).map(str::to_owned).or_else(shown)
}

/// Returns the pricing in force: none if its currency was changed.
pub fn valid_pricing(policy: &CreditPolicy) -> Option<&Pricing> {
    let known = policy.status.as_ref().and_then(|status| status.currency.as_deref());
    policy.spec.pricing.as_ref().filter(|_| changed_currency(policy, known).is_none())
}

/// Returns the message that refuses a pricing in another currency than the known one. A schema rule compares only one
/// edit, and this takes two: removing the pricing and writing it again.
pub fn changed_currency(policy: &CreditPolicy, known: Option<&str>) -> Option<String> {
    let currency = &policy.spec.pricing.as_ref()?.currency;
    let known = known.filter(|known| known != currency)?;
    Some(format!(
        "spec.pricing.currency: spending under this policy is counted in {known}, and it cannot become {currency}; \
         remove pricing and write it again in {known}, or make a new policy"
    ))
}

/// Suspends the directory entry of an invalid policy whose spec asks for it. Otherwise the entry stays: a mistake in an
/// edit stops no mail, but a suspension is always deliberate.
fn suspend(plan: &mut PolicyPlan, policy: &CreditPolicy, observed: &Observed) {
    let Some(entry) = observed.entry.as_ref().filter(|entry| entry.suspended.is_none()) else { return };
    if policy.spec.suspended {
        let entry = PolicyEntry { suspended: Some(Suspension { reason: None }), ..entry.clone() };
        plan.steps.push(Step::Put(Box::new(Entry::Policy(entry))));
    }
}

/// Returns the upstream for the relay. `None` makes mail wait with 451, as it must without credentials.
fn upstream(spec: &CheckedPolicy, observed: &Observed) -> (Option<UpstreamEntry>, Readiness) {
    let upstream = &spec.upstream;
    let namespace = &observed.namespace;
    let about = |wanted: Wanted| (wanted.field(), wanted.name(upstream));
    let secret = match &observed.login {
        Login::None => None,
        Login::Sealed(sealed) => Some(sealed.clone()),
        Login::Missing(wanted) => {
            let (field, name) = about(*wanted);
            let fix = format!(
                "{field}: there is no Secret \"{name}\" in the namespace {namespace}; create it with the label \
                 {}: \"true\" and the keys {}",
                meta::USE_LABEL,
                wanted.keys()
            );
            return (None, Readiness::refused(Reason::SecretNotFound, fix));
        }
        Login::Unlabelled(wanted) => {
            let (field, name) = about(*wanted);
            let fix = format!(
                "{field}: the Secret \"{name}\" in the namespace {namespace} may not be used; give it the label {}: \"true\"",
                meta::USE_LABEL
            );
            return (None, Readiness::refused(Reason::SecretNotLabelled, fix));
        }
        Login::Unusable(wanted, what) => {
            let (field, name) = about(*wanted);
            let fix = format!("{field}: the Secret \"{name}\" in the namespace {namespace} {what}");
            return (None, Readiness::refused(Reason::SecretInvalid, fix));
        }
    };
    let entry = UpstreamEntry {
        host: upstream.host.clone(),
        port: upstream.port,
        tls: upstream.tls,
        secret,
        max_recipients: upstream.max_recipients,
    };
    let readiness = if spec.sender_domains.is_empty() {
        Readiness::refused(Reason::NoSenderDomains, NO_SENDER_DOMAINS)
    } else if spec.suspended.is_some() {
        let message = "suspended by spec.suspended: no account sends until it is removed";
        Readiness::held(Reason::Suspended, message)
    } else {
        Readiness::ready("accounts can send")
    };
    (Some(entry), readiness)
}

/// Checks whether the figures that were read stay valid when `next` is written. For new policies with nothing but a
/// pool they are known in advance.
fn same_limits(standing: Option<&PolicyEntry>, next: &PolicyEntry) -> bool {
    match standing {
        Some(standing) => {
            (&standing.pool, &standing.prepaid, standing.overage, &standing.pricing)
                == (&next.pool, &next.prepaid, next.overage, &next.pricing)
        }
        None => next.prepaid.is_none() && next.overage.is_deny(),
    }
}

/// Returns why a policy's settings block mail, unless its accounts report it themselves: the directory holds no
/// upstream for it, or no domain to send from.
pub fn obstacle(policy: &CreditPolicy) -> Option<String> {
    let ready = find_condition(&policy.status.as_ref()?.conditions, ConditionType::Ready)?;
    let blocks = [Reason::SecretNotFound, Reason::SecretNotLabelled, Reason::SecretInvalid, Reason::NoSenderDomains];
    let blocked = ready.status == "False" && blocks.iter().any(|reason| reason.as_str() == ready.reason);
    blocked.then(|| format!("its policy \"{}\" is not ready: {}", policy.name_any(), ready.message))
}

/// Builds the status. `open`: the settings allow sending.
fn status(
    policy: &CreditPolicy,
    observed: &Observed,
    (readiness, upstream, open): (Readiness, Option<&UpstreamEntry>, bool),
    said: (bool, bool),
    gauge: Option<Gauge>,
    now: Timestamp,
) -> CreditPolicyStatus {
    let standing = policy.status.as_ref();
    let conditions = standing.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ports = observed.endpoint.ports.iter();
    let available = Availability::of(observed.id, upstream, observed.sightings.as_deref());
    let above = obstruction(conditions, &available, &observed.relay);
    let readiness = readiness.beside(sending::aside(gauge.as_ref(), "the policy", above));
    let stated = readiness.stated(conditions, policy.metadata.generation, now, said, lacks(&observed.relay));
    let next = CreditPolicyStatus {
        policy_id: Some(observed.id.to_string()),
        sending: Some(sending::column(open, gauge.as_ref(), above)),
        observed_generation: policy.metadata.generation,
        conditions: warned(available.state(stated), policy, observed).build(),
        period: gauge.as_ref().map(Gauge::period),
        credits: gauge.as_ref().map(Gauge::pool),
        currency: known_currency(policy, observed.entry.as_ref())
            .or_else(|| policy.spec.pricing.as_ref().map(|pricing| pricing.currency.clone())),
        cost: observed.cost.status(standing.and_then(|status| status.cost.as_ref())),
        accounts: Some(observed.accounts),
        relay: Some(RelayStatus {
            host: observed.endpoint.host.clone(),
            ready_replicas: observed.relay.replicas.map(|replicas| replicas.ready),
            // The old hash is kept until it is known again, so that a restart changes no status.
            config_hash: observed
                .config_hash
                .clone()
                .or_else(|| standing.and_then(|status| status.relay.as_ref()?.config_hash.clone())),
            ports: ports.map(|(name, port)| RelayPort { name: name.clone(), port: i32::from(*port) }).collect(),
        }),
        observed_at: Some(Time(figures::second(now))),
    };
    usage::settle(next, standing, observed.figures_permitted)
}

/// Returns what stops a policy's mail, worded for SENDING. Until the relays are asked, the current condition applies.
fn obstruction(standing: &[Condition], available: &Availability, relay: &RelayState) -> Option<&'static str> {
    let away = match available {
        Availability::NotAsked => find_condition(standing, ConditionType::UpstreamAvailable)
            .is_some_and(|condition| condition.status == "False"),
        Availability::Unavailable(..) => true,
        Availability::NoUpstream | Availability::NoRelay | Availability::Available => false,
    };
    match lacks(relay) {
        Some((Reason::RelayNotReady, _)) => Some(sending::NO_RELAY),
        Some(_) | None => away.then_some(sending::UPSTREAM_AWAY),
    }
}

/// Sets the warnings, which do not affect other conditions.
///
/// SelfServiceUnbounded: the operator may not list in RBAC who can attach accounts, so the warning is based on what it
/// sees: limited accounts, and a policy that does not say whether others may be unlimited.
fn warned<'a>(conditions: Conditions<'a>, policy: &CreditPolicy, observed: &Observed) -> Conditions<'a> {
    let warnings = [
        (ConditionType::SelfServiceUnbounded, Reason::SelfServiceUnbounded, unbounded(policy, observed.limited)),
        (ConditionType::SweepStopped, Reason::SweepStopped, observed.orphans.clone()),
        (ConditionType::LedgerAhead, Reason::LedgerAhead, observed.ledger_ahead.clone()),
    ];
    let set = |conditions: Conditions<'a>, (kind, reason, sentence): (_, _, Option<String>)| match sentence {
        Some(sentence) => conditions.set(kind, true, reason, sentence),
        None => conditions,
    };
    warnings.into_iter().fold(conditions, set)
}

/// Returns the message about limits that further accounts of the policy could go without, if there are any.
pub fn unbounded(policy: &CreditPolicy, limited: LimitedAccounts) -> Option<String> {
    let none = PerAccount::default();
    let decided = policy.spec.per_account.as_ref().unwrap_or(&none);
    let fields = [
        (limited.prepaid, decided.prepaid, "spec.prepaid", "spec.perAccount.prepaid"),
        (limited.spend_limited, decided.spend_limit, "spec.spendLimitMinor", "spec.perAccount.spendLimit"),
        (limited.narrowed, decided.allowed_senders, "spec.allowedSenders", "spec.perAccount.allowedSenders"),
    ];
    let open = fields.into_iter().filter(|(count, decision, ..)| *count > 0 && decision.is_none());
    let (written, undecided): (Vec<&str>, Vec<&str>) = open.map(|(_, _, written, field)| (written, field)).unzip();
    if undecided.is_empty() {
        return None;
    }
    let undecided = undecided.join(", ");
    Some(format!(
        "accounts of this policy are limited by {}, but the policy does not require these limits: every user with the verb use \
         on it can attach an account without them; set {undecided} to Required, or to Optional if only the platform \
         team attaches accounts",
        written.join(", ")
    ))
}

/// Returns why the relays do not accept mail of any policy, or not with the current settings.
pub fn lacks(relay: &RelayState) -> Option<(Reason, String)> {
    if let Some(sentence) = &relay.refused {
        return Some((Reason::RelayInvalid, sentence.clone()));
    }
    let replicas = relay.replicas.filter(|replicas| replicas.ready < 1)?;
    let message = format!("no relay is ready, of {} that are wanted", replicas.wanted);
    Some((Reason::RelayNotReady, message))
}

/// Removes a policy that is unused or force-deleted.
fn removal(policy: &CreditPolicy, observed: &Observed, now: Timestamp) -> PolicyPlan {
    let mut plan = Plan::nothing();
    if !meta::holds(&policy.metadata) {
        return plan;
    }
    if let Some(entry) = observed.entry.as_ref().filter(|entry| entry.removed_at.is_none()) {
        plan.steps.push(Step::Put(Box::new(Entry::Policy(entry.removed(now)))));
    }
    plan.steps.push(Step::RemoveFinalizer);
    plan
}

fn sentence_of_users(users: &[Name]) -> String {
    let named: Vec<String> = users.iter().take(NAMED_USERS).map(Name::to_string).collect();
    let more = match users.len().saturating_sub(NAMED_USERS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "deletion waits for {} SubAccounts that use this policy: {}{more}; delete them or name another policy in them",
        users.len(),
        named.join(", ")
    )
}
