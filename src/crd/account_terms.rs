//! The terms of an account, from its own spec and from what its policy imposes on every account.
//!
//! The requirements of a plan also apply to an account that does not mention them: leaving the field out, or making
//! another account without it, is never a way past it.

use super::credit_policy::Requirement;
use super::{CapRefusal, CheckedAccount, CheckedPolicy, account_limit, slower};
use crate::domain::credit::{Limit, Prepaid, Rate};
use crate::domain::money::Pricing;
use crate::domain::sender::SenderPattern;

/// The limits of an account under its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountTerms {
    pub limit: Limit,
    pub rate: Option<Rate>,
    pub prepaid: Option<Prepaid>,
    /// Spend limit in millionths of the currency's minor unit.
    pub spend_limit_micro: Option<i64>,
    /// `None` = all senders that the policy allows.
    pub allowed_senders: Option<Vec<SenderPattern>>,
    /// Fields that the policy requires and the account does not mention, if their absence keeps it from sending.
    pub missing: Vec<MissingField>,
}

/// A field that a policy requires of each account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingField {
    Prepaid,
    SpendLimit,
    AllowedSenders,
}

impl MissingField {
    /// Returns the account's field and what its absence counts as, for a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Prepaid => "spec.prepaid (absent, it counts as prepaid with nothing in it)",
            Self::SpendLimit => "spec.spendLimitMinor (absent, it counts as 0)",
            Self::AllowedSenders => "spec.allowedSenders (absent, no sender is allowed)",
        }
    }
}

/// Returns the terms of an account with this spec under `policy`, or an error if the policy does not accept its cap.
pub fn account_terms(policy: &CheckedPolicy, spec: &CheckedAccount) -> Result<AccountTerms, CapRefusal> {
    let mut missing = Vec::new();
    let imposed = |requirement: Option<Requirement>| match requirement {
        Some(Requirement::Required) => true,
        Some(Requirement::Optional) | None => false,
    };
    let prepaid = spec.prepaid.clone().or_else(|| {
        imposed(policy.prepaid_requirement).then(|| {
            missing.push(MissingField::Prepaid);
            Prepaid::default()
        })
    });
    let spend_limit_micro = spec.spend_limit_micro.or_else(|| {
        imposed(policy.spend_limit_requirement).then(|| {
            // Without a price, mail can be sent with nothing to spend.
            if policy.pricing.as_ref().is_some_and(|pricing: &Pricing| pricing.credit_micro() > 0) {
                missing.push(MissingField::SpendLimit);
            }
            0
        })
    });
    let senders = Some(&spec.allowed_senders).filter(|senders| !senders.is_empty()).cloned();
    let allowed_senders = senders.or_else(|| {
        imposed(policy.senders_requirement).then(|| {
            missing.push(MissingField::AllowedSenders);
            Vec::new()
        })
    });
    Ok(AccountTerms {
        limit: account_limit(policy, spec.cap)?,
        rate: slower(spec.rate, policy.account_rate),
        prepaid,
        spend_limit_micro,
        allowed_senders,
        missing,
    })
}
