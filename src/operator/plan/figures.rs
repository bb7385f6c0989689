//! The figures of a holder's credits, as its status shows them.

use jiff::Timestamp;

use crate::crd::{CreditStatus, PeriodStatus, PoolCreditStatus, SpendStatus};

/// What the other limits leave to a holder that did not send itself is written when it moved by this part of what is
/// shown: a busy pool would rewrite each of its ten thousand idle keys every minute.
const LEFT_PART: i64 = 100;

/// The figures that a status shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Since when messages are counted: the beginning of the period, or the moment in it at which its limit began.
    pub start: Timestamp,
    pub end: Timestamp,
    /// Of the period's limit.
    pub granted: Option<i64>,
    /// In the whole period, overage included.
    pub used: i64,
    /// The least of the holder's own limits.
    pub remaining: Option<i64>,
    /// Of a key: the least of its own limits, its account's and its policy's. Of others the same as `remaining`.
    pub left: Option<i64>,
    /// What is left of prepaid credits; `None`: not prepaid.
    pub prepaid: Option<i64>,
    /// Of a policy whose pool may be exceeded.
    pub overage: Option<i64>,
    /// Of an account with a spend limit.
    pub spend: Option<SpendStatus>,
}

/// What a reader would act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Untouched,
    InUse,
    /// The pool is used up, and messages go on.
    Beyond,
    Exhausted,
}

impl Figures {
    /// Those of a key's status, which shows what is left under all limits.
    pub fn of_key(period: &PeriodStatus, credits: &CreditStatus) -> Self {
        let remaining = credits.cap.map(|cap| (cap - credits.used).max(0));
        Self { remaining, ..Self::of_credits(period, credits, None) }
    }

    /// Those of an account's status.
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

    /// Those of a policy's status.
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

    /// Says whether nothing more is sent before something opens.
    pub fn is_exhausted(&self) -> bool {
        self.phase() == Phase::Exhausted
    }

    pub fn phase(&self) -> Phase {
        match (self.remaining, self.overage) {
            // Overage goes beyond the pool and not beyond what was paid.
            (Some(0), Some(_)) if self.prepaid != Some(0) => Phase::Beyond,
            (Some(0), Some(_) | None) => Phase::Exhausted,
            (Some(_) | None, Some(_) | None) if self.used == 0 => Phase::Untouched,
            (Some(_) | None, Some(_) | None) => Phase::InUse,
        }
    }

    /// Whether `fresh` figures are news that wait for nobody: another phase, or other limits.
    pub fn outdated_by(&self, fresh: &Self) -> bool {
        let limits = |figures: &Self| {
            let spend = figures.spend.map(|spend| spend.limit_minor);
            (figures.granted, figures.prepaid.is_some(), figures.overage.is_some(), spend)
        };
        limits(self) != limits(fresh) || self.phase() != fresh.phase()
    }

    /// Whether `fresh` figures say something that these do not: any movement of the holder's own, and a movement of what
    /// others leave it that is worth a write.
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

/// Times on the wire have whole seconds; a finer one would differ from what is read back.
pub fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
