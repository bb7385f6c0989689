//! The figures of a holder's credits, as its status shows them.

use jiff::Timestamp;

use crate::crd::{CreditStatus, PeriodStatus, PoolCreditStatus, SpendStatus};

/// Fraction of the shown value by which `left` must move to be written, for holders that did not send themselves: a
/// busy pool would otherwise rewrite each of its ten thousand idle keys every minute.
const LEFT_PART: i64 = 100;

/// The figures in a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Start of the count: the beginning of the period, or the moment in it at which the limit began.
    pub start: Timestamp,
    pub end: Timestamp,
    /// The period's limit.
    pub granted: Option<i64>,
    /// Used in the whole period, overage included.
    pub used: i64,
    /// The least of the holder's own limits.
    pub remaining: Option<i64>,
    /// For keys: the least of its own limits, its account's and its policy's. Otherwise the same as `remaining`.
    pub left: Option<i64>,
    /// Remaining prepaid credits; `None`: not prepaid.
    pub prepaid: Option<i64>,
    /// Overage of a policy whose pool may be exceeded.
    pub overage: Option<i64>,
    /// Spending of an account with a spend limit.
    pub spend: Option<SpendStatus>,
}

/// The states of use that a reader would act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Untouched,
    InUse,
    /// The pool is used up, and messages are still accepted.
    Beyond,
    Exhausted,
}

impl Figures {
    /// Reads those of a key's status, which shows the remainder under all limits.
    pub fn of_key(period: &PeriodStatus, credits: &CreditStatus) -> Self {
        let remaining = credits.cap.map(|cap| (cap - credits.used).max(0));
        Self { remaining, ..Self::of_credits(period, credits, None) }
    }

    /// Reads those of an account's status.
    pub fn of_credits(period: &PeriodStatus, credits: &CreditStatus, spend: Option<SpendStatus>) -> Self {
        Self {
            start: period.start.0,
            end: period.end.0,
            granted: credits.cap,
            used: credits.used,
            remaining: credits.remaining,
            left: credits.remaining,
            prepaid: credits.prepaid,
            overage: None,
            spend,
        }
    }

    /// Reads those of a policy's status.
    pub fn of_pool(period: &PeriodStatus, credits: &PoolCreditStatus) -> Self {
        Self {
            start: period.start.0,
            end: period.end.0,
            granted: credits.granted,
            used: credits.used,
            remaining: credits.remaining,
            left: credits.remaining,
            prepaid: credits.prepaid,
            overage: credits.overage,
            spend: None,
        }
    }

    /// True if nothing more is sent until a limit is raised or a period begins.
    pub fn is_exhausted(&self) -> bool {
        self.phase() == Phase::Exhausted
    }

    pub fn phase(&self) -> Phase {
        match (self.remaining, self.overage) {
            // Overage exceeds the pool, but never the prepaid credits.
            (Some(0), Some(_)) if self.prepaid != Some(0) => Phase::Beyond,
            (Some(0), Some(_) | None) => Phase::Exhausted,
            (Some(_) | None, Some(_) | None) if self.used == 0 => Phase::Untouched,
            (Some(_) | None, Some(_) | None) => Phase::InUse,
        }
    }

    /// Checks whether `fresh` figures must be written at once: another phase, or other limits.
    pub fn outdated_by(&self, fresh: &Self) -> bool {
        let limits = |figures: &Self| {
            let spend = figures.spend.map(|spend| spend.limit_minor);
            (figures.granted, figures.prepaid.is_some(), figures.overage.is_some(), spend)
        };
        limits(self) != limits(fresh) || self.phase() != fresh.phase()
    }

    /// Checks whether `fresh` figures are worth a write: any change of the holder's own, or a large enough change in
    /// what the limits of others leave it.
    pub fn differs_from(&self, fresh: &Self) -> bool {
        let own = |figures: &Self| Self { left: None, ..figures.clone() };
        let left = match (self.left, fresh.left) {
            (Some(shown), Some(fresh)) => {
                (shown == 0) != (fresh == 0) || (shown - fresh).abs() >= (shown / LEFT_PART).max(1)
            }
            (shown, fresh) => shown != fresh,
        };
        own(self) != own(fresh) || left
    }
}

/// Truncates a time to whole seconds, as on the wire; a finer one would differ from the value read back.
pub fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
