//! The plan of an account: whether its policy accepts it, and its directory entry.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use super::cost::{Cost, carry_cost};
use super::credit_policy::{self, changed_currency};
use super::figures;
use super::gauge::Gauge;
use super::places::Places;
use super::usage::{self, Metered};
use super::{Plan, Readiness, Step, is_true, meta, sending};
use crate::crd::{
    AccountState, AccountTerms, CheckedAccount, CheckedPolicy, ConditionType, CostStatus, CreditPolicy, DeletionPolicy,
    KeyCounts, Reason, SubAccount, SubAccountStatus, SuspensionSource, SuspensionStatus, account_terms, find_condition,
};
use crate::domain::directory::{AccountEntry, Entry, Suspension};
use crate::domain::id::{AccountId, PolicyId};
use crate::domain::sender::sender_domains;
use crate::operator::object_ref::Name;
use crate::operator::plan::figures::Figures;

/// The observed state of an account and of its dependencies.
#[derive(Debug)]
pub struct Observed {
    pub id: AccountId,
    /// Its entry in the directory.
    pub entry: Option<AccountEntry>,
    pub namespace: Namespace,
    pub policy: Option<Policy>,
    /// The oldest account of the policy with the same externalId.
    pub claimant: Option<Name>,
    /// Places of the policy in this namespace that are ahead of its own.
    pub places: Places,
    pub gauge: Option<Gauge>,
    pub cost: Cost<CostStatus>,
    pub keys: KeyCounts,
    /// True if figures alone may be written now.
    pub figures_permitted: bool,
}

/// The namespace of a namespaced object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub terminating: bool,
}

/// The policy of an account.
#[derive(Clone, Debug)]
pub struct Policy {
    pub id: PolicyId,
    pub object: std::sync::Arc<CreditPolicy>,
    /// True if the directory has it in service.
    pub stands: bool,
    /// The currency in which spending under it is counted.
    pub currency: Option<String>,
}

impl Metered for SubAccountStatus {
    fn shown(&self) -> Option<(Figures, Timestamp)> {
        let (usage, credits) = (self.usage.as_ref()?, self.credits.as_ref()?);
        Some((Figures::of_credits(&usage.period, credits, self.spend), self.observed_at.as_ref()?.0))
    }

    fn carry(&mut self, from: &Self) {
        self.usage.clone_from(&from.usage);
        self.credits.clone_from(&from.credits);
        self.spend = from.spend;
        self.keys = from.keys;
        carry_cost(&mut self.cost, &from.cost);
        self.observed_at.clone_from(&from.observed_at);
    }
}

pub fn plan(account: &SubAccount, observed: &Observed, now: Timestamp) -> Plan<SubAccountStatus> {
    if meta::deleting(&account.metadata) {
        return removal(account, observed, now);
    }
    if observed.namespace.terminating {
        return leaving(observed, now);
    }
    let mut plan = Plan::nothing();
    if !meta::holds(&account.metadata) {
        plan.steps.push(Step::AddFinalizer);
    }
    match judge(account, observed) {
        Ok(accepted) if accepted.stands => accept(plan, account, observed, &accepted, now),
        // The policy is about to be written, and wakes this account: until then report nothing on a new one, and keep
        // the old plan of one that moves.
        Ok(_) if account.status.is_none() => plan,
        Ok(accepted) => {
            let message = format!("waiting until the relays know the CreditPolicy \"{}\"", accepted.spec.policy);
            refuse(plan, account, observed, (&Readiness::waiting(Reason::PolicyNotReady, message), true), now)
        }
        Err(readiness) => {
            plan.requeue_at = next_period(observed, now).filter(|_| observed.places.had > 0);
            let serves = matches!(readiness, Readiness::Waiting { .. }) && is_of_named_policy(observed);
            refuse(plan, account, observed, (&readiness, serves), now)
        }
    }
}

/// Returns when places of this period that are no longer held stop counting.
fn next_period(observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    let policy = observed.policy.as_ref()?.object.spec.check().ok()?;
    Some(policy.pool.calendar.window(now).to)
}

/// True if the directory has the account under the policy that it names. One that moves to an invalid policy must not
/// stay under the old one, whose administrators could no longer change its terms.
fn is_of_named_policy(observed: &Observed) -> bool {
    let named = observed.policy.as_ref().map(|policy| policy.id);
    observed.entry.as_ref().is_some_and(|entry| Some(entry.policy) == named)
}

struct Accepted {
    spec: CheckedAccount,
    policy: PolicyId,
    stands: bool,
    policy_suspended: Option<Suspension>,
    terms: AccountTerms,
    sender_domains: Vec<String>,
}

/// Checks the account, in the order in which a user can fix the problems.
fn judge(account: &SubAccount, observed: &Observed) -> Result<Accepted, Readiness> {
    let spec = account.spec.check().map_err(|problem| Readiness::refused(Reason::Invalid, problem.to_string()))?;
    let Some(policy) = &observed.policy else {
        let fix =
            format!("spec.policyRef.name: there is no CreditPolicy \"{}\"; create it, or name another", spec.policy);
        return Err(Readiness::refused(Reason::PolicyNotFound, fix));
    };
    let serves = observed.entry.as_ref().is_some_and(|entry| entry.removed_at.is_none());
    if meta::deleting(&policy.object.metadata) && !serves {
        let fix = format!(
            "spec.policyRef.name: the CreditPolicy \"{}\" is being deleted and takes no new accounts; name another, or \
             create it anew when it is gone",
            spec.policy
        );
        return Err(Readiness::refused(Reason::PolicyNotReady, fix));
    }
    let plan = policy.object.spec.check().map_err(|problem| {
        let message = format!("the CreditPolicy \"{}\" is not valid: {problem}", spec.policy);
        Readiness::waiting(Reason::PolicyNotReady, message)
    })?;
    if let Some(sentence) = changed_currency(&policy.object, policy.currency.as_deref()) {
        let message = format!("the CreditPolicy \"{}\" is not valid: {sentence}", spec.policy);
        return Err(Readiness::waiting(Reason::PolicyNotReady, message));
    }
    if !plan.namespaces.allows(&observed.namespace.labels) {
        let fix = format!(
            "spec.policyRef.name: the CreditPolicy \"{}\" does not allow this namespace; give the namespace a label \
             that its spec.allowedNamespaces selects, or name another policy",
            spec.policy
        );
        return Err(Readiness::refused(Reason::NotAllowedByPolicy, fix));
    }
    let terms =
        account_terms(&plan, &spec).map_err(|refusal| Readiness::refused(refusal.reason(), refusal.to_string()))?;
    priced(&plan, &spec)?;
    not_too_many(&plan, observed)?;
    unique(account, &spec, observed)?;
    let mut sender_domains: Vec<String> =
        sender_domains(&plan.sender_domains, terms.allowed_senders.as_deref()).map(ToString::to_string).collect();
    // Sorted and without duplicates, however the policy listed them.
    sender_domains.sort_unstable();
    sender_domains.dedup();
    let policy_suspended = plan.suspended;
    Ok(Accepted { policy: policy.id, stands: policy.stands, policy_suspended, terms, spec, sender_domains })
}

fn priced(plan: &CheckedPolicy, spec: &CheckedAccount) -> Result<(), Readiness> {
    if spec.spend_limit_micro.is_none() || plan.pricing.is_some() {
        return Ok(());
    }
    let fix = format!(
        "spec.spendLimitMinor: the CreditPolicy \"{}\" has no spec.pricing, so a message has no price; ask the platform \
         team for a price, or remove the limit",
        spec.policy
    );
    Err(Readiness::refused(Reason::PricingMissing, fix))
}

fn not_too_many(plan: &CheckedPolicy, observed: &Observed) -> Result<(), Readiness> {
    let Some(most) = plan.max_accounts_per_namespace else { return Ok(()) };
    let Places { older, had } = observed.places;
    if older + had < most as usize {
        return Ok(());
    }
    let fix = format!(
        "spec.policyRef.name: the policy allows {most} accounts per namespace, and this one has {older} older ones and \
         {had} more that had a place in this period (removed and moved ones count); remove an account and wait for the \
         next period, or ask the platform team to raise perAccount.maxAccountsPerNamespace"
    );
    Err(Readiness::refused(Reason::TooManyAccounts, fix))
}

fn unique(account: &SubAccount, spec: &CheckedAccount, observed: &Observed) -> Result<(), Readiness> {
    let (Some(id), Some(claimant)) = (&spec.external_id, &observed.claimant) else { return Ok(()) };
    if *claimant == Name::of(account) {
        return Ok(());
    }
    // Names of another tenant must not be disclosed.
    let who = if claimant.namespace == account.namespace().unwrap_or_default() {
        format!("the older SubAccount \"{}\"", claimant.name)
    } else {
        "an older SubAccount of the policy in another namespace".to_owned()
    };
    let fix = format!("spec.externalId: \"{id}\" is used by {who}; choose another");
    Err(Readiness::refused(Reason::DuplicateExternalId, fix))
}

fn accept(
    mut plan: Plan<SubAccountStatus>,
    account: &SubAccount,
    observed: &Observed,
    accepted: &Accepted,
    now: Timestamp,
) -> Plan<SubAccountStatus> {
    let entry = AccountEntry {
        id: observed.id,
        policy: accepted.policy,
        namespace: account.namespace().unwrap_or_default(),
        name: account.name_any(),
        suspended: accepted.spec.suspended.clone(),
        cap: accepted.terms.limit.clone(),
        prepaid: accepted.terms.prepaid.clone(),
        spend_limit_micro: accepted.terms.spend_limit_micro,
        rate: accepted.terms.rate,
        allowed_senders: accepted.terms.allowed_senders.clone(),
        departures: observed.entry.as_ref().map(|entry| entry.departures_for(accepted.policy, now)).unwrap_or_default(),
        settings: account.spec.settings().kept(observed.entry.as_ref().map(|entry| &entry.settings)),
        removed_at: None,
    };
    if observed.entry.as_ref() != Some(&entry) {
        plan.repeat_pass = meta::holds(&account.metadata) && !same_limits(observed.entry.as_ref(), &entry);
        plan.arrives_at = takes_a_place(observed, &entry).then(|| accepted.spec.policy.clone());
        plan.steps.push(Step::Put(Box::new(Entry::Account(entry))));
    }
    let suspensions = suspensions(account, accepted, now);
    let (state, readiness) = match suspensions.first().map(|suspension| suspension.source) {
        Some(SuspensionSource::Spec) => {
            let message = "suspended by spec.suspended: nothing is sent until it is removed";
            (AccountState::Suspended, Readiness::held(Reason::Suspended, message))
        }
        Some(SuspensionSource::Policy) => {
            let why = because(&suspensions[0]);
            let message = format!("its policy \"{}\" is suspended{why}", accepted.spec.policy);
            (AccountState::ParentSuspended, Readiness::held(Reason::ParentSuspended, message))
        }
        None => (AccountState::Active, unsuspended(accepted, observed)),
    };
    let gauge = observed.gauge.clone().unwrap_or_else(|| Gauge::untouched(&accepted.terms.limit, now));
    let open = matches!(readiness, Readiness::Ready { .. });
    let readiness = readiness.beside(sending::aside(Some(&gauge), "its policy", above(observed)));
    let sender_domains = accepted.sender_domains.clone();
    let shown = Shown { state, suspensions, sender_domains, gauge: Some(gauge.clone()), open };
    let next = status(account, observed, &readiness, (true, true), now, shown);
    plan.events.extend(usage::news(account.status.as_ref(), &next, Some(&gauge)));
    plan.status = Some(next);
    plan
}

/// Checks whether `next` gives the account a place that it did not have, if the policy counts them.
fn takes_a_place(observed: &Observed, next: &AccountEntry) -> bool {
    let policy = observed.policy.as_ref().map(|policy| &policy.object.spec);
    let counts = policy.and_then(|spec| spec.per_account.as_ref()?.max_accounts_per_namespace).is_some();
    let had = observed.entry.as_ref().is_some_and(|entry| entry.removed_at.is_none() && entry.policy == next.policy);
    counts && !had
}

/// Returns a suspension's reason as the end of a sentence.
fn because(suspension: &SuspensionStatus) -> String {
    suspension.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// Returns why a key of the account cannot send although the directory allows it, in the words of the key's condition.
pub fn obstacle(account: &SubAccount) -> Option<(Reason, String)> {
    let status = account.status.as_ref()?;
    let ready = find_condition(&status.conditions, ConditionType::Ready).filter(|ready| ready.status == "False")?;
    // An account that is not accepted waits or is refused; the directory says whether its last accepted spec still
    // serves.
    if !is_true(&status.conditions, ConditionType::Accepted) {
        return None;
    }
    let is = |reason: Reason| reason.as_str() == ready.reason;
    if is(Reason::Suspended) {
        let why = status.suspensions.first().map(because).unwrap_or_default();
        return Some((Reason::ParentSuspended, format!("its account is suspended{why}")));
    }
    let inherited = [Reason::ParentSuspended, Reason::PolicyNotReady].into_iter().find(|reason| is(*reason));
    let own = || format!("its account \"{}\" is not ready: {}", account.name_any(), ready.message);
    match inherited {
        Some(reason) => Some((reason, ready.message.clone())),
        None => {
            (is(Reason::RequiredByPolicy) || is(Reason::SendersNotPermitted)).then(|| (Reason::AccountNotReady, own()))
        }
    }
}

/// Returns the SENDING column of the policy.
fn above(observed: &Observed) -> Option<&str> {
    observed.policy.as_ref()?.object.status.as_ref()?.sending.as_deref()
}

/// Returns the readiness of an account that is not suspended.
fn unsuspended(accepted: &Accepted, observed: &Observed) -> Readiness {
    if let Some(message) = observed.policy.as_ref().and_then(|policy| credit_policy::obstacle(&policy.object)) {
        return Readiness::held(Reason::PolicyNotReady, message);
    }
    let missing: Vec<&str> = accepted.terms.missing.iter().map(|field| field.sentence()).collect();
    if !missing.is_empty() {
        let message = format!(
            "nothing can be sent: the CreditPolicy \"{}\" requires {} of each account; ask an administrator with the verb \
             grant on the policy to set it",
            accepted.spec.policy,
            missing.join(" and ")
        );
        return Readiness::held(Reason::RequiredByPolicy, message);
    }
    if !accepted.sender_domains.is_empty() {
        return Readiness::ready("its settings permit sending");
    }
    let is_narrowed = accepted.terms.allowed_senders.is_some();
    if is_narrowed {
        let message = format!(
            "spec.allowedSenders: nothing can be sent, because none of these senders is in a domain that the CreditPolicy \
             \"{}\" lists in its spec.senders.domains; ask an administrator with the verb grant on the policy to name \
             senders in its domains, or the platform team to add a domain to it",
            accepted.spec.policy
        );
        return Readiness::held(Reason::SendersNotPermitted, message);
    }
    // Judged by the spec: the policy's status may not report it yet, or may report its deletion instead.
    let sentence = credit_policy::NO_SENDER_DOMAINS;
    let message = format!("its policy \"{}\" is not ready: {sentence}", accepted.spec.policy);
    Readiness::held(Reason::PolicyNotReady, message)
}

/// Checks whether the figures that were read stay valid when `next` is written. For new accounts with nothing but a cap
/// they are known in advance.
fn same_limits(standing: Option<&AccountEntry>, next: &AccountEntry) -> bool {
    match standing {
        Some(standing) => {
            (standing.policy, &standing.cap, &standing.prepaid, standing.spend_limit_micro)
                == (next.policy, &next.cap, &next.prepaid, next.spend_limit_micro)
        }
        None => next.prepaid.is_none() && next.spend_limit_micro.is_none(),
    }
}

/// Reports a refused account and takes its directory entry out of service, unless it still `serves`. Its used credits
/// stay.
fn refuse(
    mut plan: Plan<SubAccountStatus>,
    account: &SubAccount,
    observed: &Observed,
    (readiness, serves): (&Readiness, bool),
    now: Timestamp,
) -> Plan<SubAccountStatus> {
    if let Some(entry) = observed.entry.as_ref().filter(|entry| entry.removed_at.is_none()) {
        // A temporarily invalid policy must not stop accounts that it had already accepted. But suspending one of them
        // does not wait for the policy.
        let suspend = || account.spec.suspended.then(|| Suspension { reason: account.spec.suspend_reason.clone() });
        let next = AccountEntry {
            removed_at: (!serves).then_some(now),
            suspended: entry.suspended.clone().or_else(suspend),
            ..entry.clone()
        };
        if next != *entry {
            plan.steps.push(Step::Put(Box::new(Entry::Account(next))));
        }
    }
    let serves = serves && observed.entry.as_ref().is_some_and(|entry| entry.removed_at.is_none());
    let state = match readiness {
        Readiness::Waiting { .. } if serves && account.spec.suspended => AccountState::Suspended,
        Readiness::Waiting { .. } if serves => AccountState::Active,
        Readiness::Waiting { .. } | Readiness::Refused { .. } | Readiness::Held { .. } | Readiness::Ready { .. } => {
            AccountState::Refused
        }
    };
    let sender_domains = match state {
        AccountState::Active | AccountState::Suspended => {
            account.status.as_ref().map(|status| status.sender_domains.clone()).unwrap_or_default()
        }
        AccountState::ParentSuspended | AccountState::Refused | AccountState::Deleted => Vec::new(),
    };
    let open = state == AccountState::Active;
    let shown = Shown { state, suspensions: Vec::new(), sender_domains, gauge: observed.gauge.clone(), open };
    plan.status = Some(status(account, observed, readiness, (false, false), now, shown));
    plan
}

fn suspensions(account: &SubAccount, accepted: &Accepted, now: Timestamp) -> Vec<SuspensionStatus> {
    let standing = account.status.iter().flat_map(|status| &status.suspensions);
    let known: Vec<&SuspensionStatus> = standing.collect();
    let both =
        [(SuspensionSource::Spec, &accepted.spec.suspended), (SuspensionSource::Policy, &accepted.policy_suspended)];
    both.into_iter()
        .filter_map(|(source, suspension)| {
            let reason = suspension.as_ref()?.reason.clone();
            let since = known.iter().find(|known| known.source == source).map(|known| known.since.clone());
            Some(SuspensionStatus { source, reason, since: since.unwrap_or(Time(figures::second(now))) })
        })
        .collect()
}

/// The part of a status besides its conditions.
struct Shown {
    state: AccountState,
    suspensions: Vec<SuspensionStatus>,
    sender_domains: Vec<String>,
    gauge: Option<Gauge>,
    /// True if only its credits can stop it from sending.
    open: bool,
}

fn status(
    account: &SubAccount,
    observed: &Observed,
    readiness: &Readiness,
    (accepted, programmed): (bool, bool),
    now: Timestamp,
    Shown { state, suspensions, sender_domains, gauge, open }: Shown,
) -> SubAccountStatus {
    let standing = account.status.as_ref();
    let conditions = standing.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let next = SubAccountStatus {
        account_id: Some(observed.id.to_string()),
        state: Some(state),
        suspensions,
        sender_domains,
        sending: Some(sending::column(open, gauge.as_ref(), above(observed))),
        observed_generation: account.metadata.generation,
        conditions: readiness.conditions(conditions, account.metadata.generation, now, (accepted, programmed)),
        usage: gauge.as_ref().map(Gauge::usage),
        credits: gauge.as_ref().map(Gauge::credits),
        spend: gauge.as_ref().and_then(|gauge| gauge.figures.spend),
        cost: observed.cost.status(standing.and_then(|status| status.cost.as_ref())),
        keys: Some(observed.keys),
        observed_at: Some(Time(figures::second(now))),
    };
    usage::settle(next, standing, observed.figures_permitted)
}

/// Ends an account in a terminating namespace at once. Such a namespace never comes back, so its own deletion need not
/// be awaited.
fn leaving(observed: &Observed, now: Timestamp) -> Plan<SubAccountStatus> {
    let mut plan = Plan::nothing();
    if let Some(entry) = observed.entry.as_ref().filter(|entry| entry.removed_at.is_none()) {
        plan.steps.push(Step::Put(Box::new(Entry::Account(entry.removed(now)))));
    }
    plan
}

/// Plans the removal of an account: the ledger records it before the object goes, which stops its keys. One that only
/// finalizers of others still hold may be in service in a restored ledger.
fn removal(account: &SubAccount, observed: &Observed, now: Timestamp) -> Plan<SubAccountStatus> {
    let mut plan = Plan::nothing();
    if let Some(entry) = &observed.entry {
        let gone = match account.spec.deletion_policy.unwrap_or_default() {
            DeletionPolicy::Retain => entry.removed(now),
            DeletionPolicy::Purge => entry.purged(now, observed.namespace.uid.clone()),
        };
        if gone != *entry {
            plan.steps.push(Step::Put(Box::new(Entry::Account(gone))));
        }
    }
    if meta::holds(&account.metadata) {
        plan.steps.push(Step::RemoveFinalizer);
    }
    plan
}
