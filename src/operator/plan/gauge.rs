//! A holder's credits from the ledger, in the form that status and Events show.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::crd::{CreditStatus, PeriodStatus, PoolCreditStatus, SpendStatus, UsageStatus};
use crate::domain::credit::{Limit, Meter, Overage};
use crate::domain::id::Kind;
use crate::domain::money::MICRO;
use crate::ledger::store::{Balance, Exhausted, SpendBalance, Usage};
use crate::operator::plan::figures::{Figures, second};

/// A holder's figures with the outcomes of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauge {
    pub figures: Figures,
    /// Next time that the figures change without any sending.
    pub changes_at: Timestamp,
    usage: Usage,
    exhausted: Option<Exhausted>,
    reopens_at: Option<Timestamp>,
}

impl Gauge {
    pub fn of(balance: &Balance) -> Self {
        let lot = &balance.lot;
        // A pool that may be exceeded refuses no message, but readers still want to see when it is used up.
        let pool = lot.remaining().filter(|_| !balance.overage.is_deny());
        let remaining = [balance.remaining(), pool].into_iter().flatten().min();
        let figures = Figures {
            start: second(lot.begun),
            end: second(lot.window.to),
            granted: lot.granted,
            used: lot.used(),
            remaining,
            left: remaining,
            prepaid: balance.prepaid.map(|prepaid| prepaid.remaining),
            overage: Some(lot.overage)
                .filter(|overage| *overage > 0 || !balance.overage.is_deny())
                .filter(|_| lot.holder.kind() == Kind::Policy),
            spend: balance.spend.map(spend),
        };
        Self {
            figures,
            changes_at: balance.changes_at(),
            usage: balance.usage,
            exhausted: balance.exhausted(),
            reopens_at: balance.reopens_at().map(second),
        }
    }

    /// Reduces a key's figures to what its account and policy, `above`, leave it: the remainder under all limits, and
    /// when an exhausted one opens again.
    pub fn under<'a>(mut self, above: impl Iterator<Item = &'a Balance>) -> Self {
        for balance in above {
            self.figures.left = [self.figures.left, balance.remaining()].into_iter().flatten().min();
            self.changes_at = self.changes_at.min(balance.changes_at());
            let Some(theirs) = balance.exhausted() else { continue };
            let ours = self.exhausted.map_or(theirs, |ours| ours.or_longer(theirs));
            self.exhausted = Some(ours);
            self.reopens_at = ours.reopens_at.map(second);
        }
        self
    }

    /// Returns the figures to expect for a new holder whose only limit is one per period.
    pub fn untouched(limit: &Limit, now: Timestamp) -> Self {
        let window = limit.calendar.window(now);
        let figures = Figures {
            start: second(window.from),
            end: second(window.to),
            granted: limit.credits,
            used: 0,
            remaining: limit.credits,
            left: limit.credits,
            prepaid: None,
            overage: None,
            spend: None,
        };
        let reopens_at = limit.credits.map(|_| figures.end);
        Self { figures, changes_at: window.to, usage: Usage::default(), exhausted: None, reopens_at }
    }

    /// Sets the remainder of a key whose account is refused to nothing; no new period changes that.
    #[must_use]
    pub fn with_nothing_left(mut self) -> Self {
        self.figures.left = Some(0);
        self.reopens_at = None;
        self
    }

    /// Marks the pool of a policy as one that may be exceeded, or not.
    pub fn with_overage(mut self, overage: Overage) -> Self {
        self.figures.overage = (!overage.is_deny()).then_some(0);
        self
    }

    pub fn period(&self) -> PeriodStatus {
        PeriodStatus { start: Time(self.figures.start), end: Time(self.figures.end) }
    }

    pub fn usage(&self) -> UsageStatus {
        UsageStatus {
            period: self.period(),
            accepted: self.usage.accepted,
            relayed: self.usage.relayed,
            refused: self.usage.refused,
            unknown: self.usage.unknown,
            last_sent_at: self.last_sent_at().map(Time),
        }
    }

    pub fn last_sent_at(&self) -> Option<Timestamp> {
        self.usage.last_sent_at.map(second)
    }

    pub fn credits(&self) -> CreditStatus {
        let Figures { granted, used, left, prepaid, .. } = self.figures;
        CreditStatus { cap: granted, used, remaining: left, prepaid, reopens_at: self.reopens_at.map(Time) }
    }

    pub fn pool(&self) -> PoolCreditStatus {
        let Figures { granted, used, remaining, prepaid, overage, .. } = self.figures;
        PoolCreditStatus { granted, used, remaining, prepaid, overage, reopens_at: self.reopens_at.map(Time) }
    }

    /// Returns the text for SENDING if credits of this holder are used up.
    pub fn shortage(&self) -> Option<String> {
        let until = self.reopens_at.map(|at| format!(" until {at}")).unwrap_or_default();
        self.figures.is_exhausted().then(|| format!("no credits{until}"))
    }

    /// Returns a message that names the exhausted limit and its remedy.
    pub fn sentence_of_end(&self) -> String {
        let meter = self.exhausted.map(|exhausted| exhausted.meter);
        let (what, remedy) = match meter {
            Some(Meter::KeyCap | Meter::AccountCap) => ("the cap", "raise spec.cap"),
            Some(Meter::AccountSpend) => ("the spend limit", "raise spec.spendLimitMinor"),
            Some(Meter::AccountPrepaid | Meter::PolicyPrepaid) => {
                ("the prepaid balance", "add a grant to spec.prepaid.grants")
            }
            Some(Meter::PolicyPool) => ("the pool", "raise spec.pool.credits"),
            None => ("a limit", "raise it"),
        };
        match self.reopens_at {
            Some(at) => format!("{what} is used up: nothing more is sent until {at}; {remedy} to send before"),
            None => format!("{what} is used up: nothing more is sent; {remedy}"),
        }
    }
}

/// Converts a spend balance to minor units. A fraction counts as a whole, so that money is never understated.
fn spend(balance: SpendBalance) -> SpendStatus {
    SpendStatus {
        limit_minor: balance.limit_micro / MICRO,
        used_minor: balance.used_micro / MICRO + i64::from(balance.used_micro % MICRO > 0),
    }
}
