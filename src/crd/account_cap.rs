//! The cap that applies to an account: its own or the policy's default, and never above the policy's ceiling.

use std::fmt;

use super::{CheckedCap, CheckedPolicy, Reason};
use crate::domain::credit::Limit;

/// The reason why a policy does not accept an account's cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapRefusal {
    /// More credits than `perAccount.maxCap`.
    AboveCeiling { cap: CheckedCap, ceiling: CheckedCap },
    /// Another period than the ceiling's, so the two cannot be compared: 100 a day may be more or less than 2,000 a
    /// month.
    OtherPeriod { cap: CheckedCap, ceiling: CheckedCap },
}

impl CapRefusal {
    /// Returns the reason for the account's condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::AboveCeiling { .. } => Reason::CapAboveCeiling,
            Self::OtherPeriod { .. } => Reason::CapPeriodMismatch,
        }
    }
}

impl fmt::Display for CapRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AboveCeiling { cap, ceiling } => write!(
                f,
                "spec.cap.credits: the policy allows at most {} credits per {:?} period; write {} or less instead of {}",
                ceiling.credits, ceiling.period, ceiling.credits, cap.credits
            ),
            Self::OtherPeriod { cap, ceiling } => write!(
                f,
                "spec.cap.period: the policy's ceiling is {:?} and a {:?} cap cannot be compared with it; write {:?}, \
                 or give the account a policy without perAccount.maxCap",
                ceiling.period, cap.period, ceiling.period
            ),
        }
    }
}

/// Returns the limit of an account that asks for `cap` under `policy`. Without a cap it has the policy's default, else
/// its ceiling: leaving the field out is never a way past the ceiling.
pub fn account_limit(policy: &CheckedPolicy, cap: Option<CheckedCap>) -> Result<Limit, CapRefusal> {
    let effective = cap.or(policy.default_cap).or(policy.max_cap);
    if let (Some(cap), Some(ceiling)) = (effective, policy.max_cap) {
        if cap.period != ceiling.period {
            return Err(CapRefusal::OtherPeriod { cap, ceiling });
        }
        if cap.credits > ceiling.credits {
            return Err(CapRefusal::AboveCeiling { cap, ceiling });
        }
    }
    Ok(CheckedCap::limit(effective, &policy.pool.calendar))
}
