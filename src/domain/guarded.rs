//! Permissions that a change of a SubAccount requires, by the fields that are worth money or safety.
//!
//! RBAC knows two verbs on a CreditPolicy: `use` attaches accounts to it, `grant` changes guarded fields. An account
//! that leaves a policy takes what was granted or imposed there out of the control of that policy's administrators,
//! whether it keeps the fields or not: under the other policy it could drop them, and come back without. So leaving
//! with a guarded field requires `grant` on the policy that it leaves.
//!
//! The chart's ValidatingAdmissionPolicy says the same in CEL; a test checks that the two agree.

use serde::Deserialize;
use serde_json::Value;

/// The guarded part of a SubAccount's spec, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardedSpec {
    pub policy_ref: PolicyName,
    pub prepaid: Option<Value>,
    pub rate_limit: Option<Value>,
    pub spend_limit_minor: Option<i64>,
    #[serde(default)]
    pub allowed_senders: Vec<String>,
    #[serde(default)]
    pub suspended: bool,
    pub suspend_reason: Option<String>,
    /// `Purge`, or a value that does nothing.
    pub deletion_policy: Option<String>,
    /// Addresses that the platform writes to.
    pub alerts: Option<Value>,
}

/// The policy that an account names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PolicyName {
    pub name: String,
}

/// A guarded field of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Prepaid,
    RateLimit,
    SpendLimitMinor,
    AllowedSenders,
    Suspended,
    SuspendReason,
    DeletionPolicy,
    Alerts,
}

impl Field {
    /// All fields, in the order in which refusals name them.
    pub const ALL: [Self; 8] = [
        Self::Prepaid,
        Self::RateLimit,
        Self::SpendLimitMinor,
        Self::AllowedSenders,
        Self::Suspended,
        Self::SuspendReason,
        Self::DeletionPolicy,
        Self::Alerts,
    ];

    pub fn path(self) -> &'static str {
        match self {
            Self::Prepaid => "spec.prepaid",
            Self::RateLimit => "spec.rateLimit",
            Self::SpendLimitMinor => "spec.spendLimitMinor",
            Self::AllowedSenders => "spec.allowedSenders",
            Self::Suspended => "spec.suspended",
            Self::SuspendReason => "spec.suspendReason",
            Self::DeletionPolicy => "spec.deletionPolicy",
            Self::Alerts => "spec.alerts",
        }
    }

    /// True if the field is set on the account. Retain is the default of deletionPolicy, so only Purge counts as set.
    fn is_set(self, spec: &GuardedSpec) -> bool {
        match self {
            Self::Prepaid => spec.prepaid.is_some(),
            Self::RateLimit => spec.rate_limit.is_some(),
            Self::SpendLimitMinor => spec.spend_limit_minor.is_some(),
            Self::AllowedSenders => !spec.allowed_senders.is_empty(),
            Self::Suspended => spec.suspended,
            Self::SuspendReason => spec.suspend_reason.is_some(),
            Self::DeletionPolicy => spec.deletion_policy.as_deref() == Some("Purge"),
            Self::Alerts => spec.alerts.is_some(),
        }
    }

    /// True if an edit changes the field in a way that is guarded.
    fn is_changed(self, old: &GuardedSpec, new: &GuardedSpec) -> bool {
        match self {
            Self::Prepaid => old.prepaid != new.prepaid,
            Self::RateLimit => old.rate_limit != new.rate_limit,
            Self::SpendLimitMinor => old.spend_limit_minor != new.spend_limit_minor,
            Self::AllowedSenders => old.allowed_senders != new.allowed_senders,
            Self::Suspended => old.suspended != new.suspended,
            // Senders and administrators take the reason as given by the person who suspended the account.
            Self::SuspendReason => old.suspend_reason != new.suspend_reason,
            // Keeping data requires no permission.
            Self::DeletionPolicy => self.is_set(new) && !self.is_set(old),
            // Removing alerts requires none either; adding an address makes the platform write to it.
            Self::Alerts => self.is_set(new) && old.alerts != new.alerts,
        }
    }

    /// True if an account with the field would lose it by being deleted and made again.
    fn is_lost_by_deleting(self) -> bool {
        match self {
            Self::Prepaid | Self::RateLimit | Self::SpendLimitMinor | Self::AllowedSenders => true,
            Self::Suspended | Self::SuspendReason => true,
            Self::DeletionPolicy | Self::Alerts => false,
        }
    }
}

/// A permission that a change requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Permission to attach the account to the policy.
    Use { policy: String },
    /// Permission to change these fields under the policy.
    Grant { policy: String, fields: Vec<Field> },
    /// Permission to take the account with these fields away from the policy, or to delete it.
    GrantToLeave { policy: String, fields: Vec<Field> },
}

/// Lists the permissions that a change of an account requires: `old` absent is a creation, `new` absent a deletion. A
/// deletion together with the namespace requires none.
pub fn guarded(old: Option<&GuardedSpec>, new: Option<&GuardedSpec>) -> Vec<Need> {
    let moved = match (old, new) {
        (Some(old), Some(new)) => old.policy_ref != new.policy_ref,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    let set =
        |spec: &GuardedSpec| -> Vec<Field> { Field::ALL.into_iter().filter(|field| field.is_set(spec)).collect() };
    let mut needs = Vec::new();
    if let Some(new) = new {
        let policy = || new.policy_ref.name.clone();
        if moved {
            needs.push(Need::Use { policy: policy() });
        }
        let fields = match old {
            Some(old) if !moved => Field::ALL.into_iter().filter(|field| field.is_changed(old, new)).collect(),
            // Fields that the other policy's administrators granted count as new under this one.
            Some(_) | None => set(new),
        };
        needs.extend((!fields.is_empty()).then(|| Need::Grant { policy: policy(), fields }));
    }
    if let Some(old) = old {
        let fields: Vec<Field> = match new {
            Some(_) if moved => set(old),
            Some(_) => Vec::new(),
            None => set(old).into_iter().filter(|field| field.is_lost_by_deleting()).collect(),
        };
        let policy = old.policy_ref.name.clone();
        needs.extend((!fields.is_empty()).then_some(Need::GrantToLeave { policy, fields }));
    }
    needs
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(policy: &str, more: Value) -> GuardedSpec {
        let mut spec = json!({"policyRef": {"name": policy}, "cap": {"credits": 5}});
        spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        serde_json::from_value(spec).expect("a spec")
    }

    /// Writes the needs as `use a`, `grant a: spec.x` and `leave a: spec.x`.
    fn said(old: Option<&GuardedSpec>, new: Option<&GuardedSpec>) -> Vec<String> {
        let paths = |fields: &[Field]| fields.iter().map(|field| field.path()).collect::<Vec<_>>().join(", ");
        let words = |need: &Need| match need {
            Need::Use { policy } => format!("use {policy}"),
            Need::Grant { policy, fields } => format!("grant {policy}: {}", paths(fields)),
            Need::GrantToLeave { policy, fields } => format!("leave {policy}: {}", paths(fields)),
        };
        guarded(old, new).iter().map(words).collect()
    }

    #[test]
    fn each_change_takes_its_verbs() {
        let plain = |policy: &str| spec(policy, json!({"suspended": false, "deletionPolicy": "Retain"}));
        let paid = |policy: &str| spec(policy, json!({"prepaid": {}, "suspended": true}));
        let purged = spec("a", json!({"deletionPolicy": "Purge"}));
        let none: [&str; 0] = [];
        assert_eq!(said(None, Some(&plain("a"))), ["use a"]);
        assert_eq!(said(None, Some(&paid("a"))), ["use a", "grant a: spec.prepaid, spec.suspended"]);
        assert_eq!(said(Some(&plain("a")), Some(&plain("a"))), none);
        assert_eq!(said(Some(&plain("a")), Some(&paid("a"))), ["grant a: spec.prepaid, spec.suspended"]);
        assert_eq!(said(Some(&paid("a")), Some(&plain("a"))), ["grant a: spec.prepaid, spec.suspended"]);
        assert_eq!(said(Some(&plain("a")), Some(&plain("b"))), ["use b"]);
        let fields = "spec.prepaid, spec.suspended";
        assert_eq!(said(Some(&paid("a")), Some(&plain("b"))), ["use b".to_owned(), format!("leave a: {fields}")]);
        let told = |why: &str| spec("a", json!({"prepaid": {}, "suspended": true, "suspendReason": why}));
        assert_eq!(said(Some(&told("unpaid")), Some(&told("at our own wish"))), ["grant a: spec.suspendReason"]);
        assert_eq!(said(Some(&told("unpaid")), Some(&paid("a"))), ["grant a: spec.suspendReason"]);
        // Fields that it keeps leave the control of the old policy's administrators too: there it could drop them.
        let kept = ["use b".to_owned(), format!("grant b: {fields}"), format!("leave a: {fields}")];
        assert_eq!(said(Some(&paid("a")), Some(&paid("b"))), kept);
        assert_eq!(said(Some(&paid("a")), None), [format!("leave a: {fields}")]);
        assert_eq!(said(Some(&plain("a")), Some(&purged)), ["grant a: spec.deletionPolicy"]);
        assert_eq!((said(Some(&purged), Some(&plain("a"))).len(), said(Some(&purged), None).len()), (0, 0));
    }
}
