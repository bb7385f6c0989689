//! A lot, one bucket of one source, and the operations on it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Meter, Overage};
use crate::domain::id::Holder;
use crate::domain::period::Window;

/// The row id of a lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LotId(pub i64);

/// An amount charged to a lot: credits, or micro-units of money if the lot is money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part(pub LotId, pub i64);

/// The rule that a lot came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A key's or an account's cap, or a policy's pool: one lot in each period.
    Period,
    /// An account's spend limit: one lot, for life.
    Spend,
    /// A grant, by its id: one lot.
    Grant(String),
    /// Recurring top-ups: one lot, to which they add.
    TopUp,
}

const GRANT: &str = "grant/";

impl Source {
    /// Returns the word in the ledger's tables.
    pub fn word(&self) -> String {
        match self {
            Self::Period => "period".to_owned(),
            Self::Spend => "spend".to_owned(),
            Self::Grant(id) => format!("{GRANT}{id}"),
            Self::TopUp => "topup".to_owned(),
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "period" => Some(Self::Period),
            "spend" => Some(Self::Spend),
            "topup" => Some(Self::TopUp),
            other => other.strip_prefix(GRANT).map(|id| Self::Grant(id.to_owned())),
        }
    }

    /// Returns the meter of this source's lots; `None` if this holder cannot have such a source.
    pub fn meter(&self, holder: Holder) -> Option<Meter> {
        match (self, holder) {
            (Self::Period, _) => Some(Meter::of_period(holder)),
            (Self::Spend, Holder::Account(_)) => Some(Meter::AccountSpend),
            (Self::Spend, Holder::Key(_) | Holder::Policy(_)) => None,
            (Self::Grant(_) | Self::TopUp, _) => Meter::of_prepaid(holder),
        }
    }
}

/// The progress of recurring top-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topped {
    /// All credits that were ever added. The lot grants these, or nothing while the rule is removed.
    pub total: i64,
    /// End of the last period that was added; the next one begins here.
    pub until: Timestamp,
}

/// One bucket of one holder: the ledger's only contended row. A period's lot holds credits of that period; lots of
/// other sources are valid from their creation until they expire, if they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    pub id: LotId,
    pub holder: Holder,
    pub source: Source,
    /// Time that it counts: a period of its limit's calendar.
    pub window: Window,
    /// Instant from which messages are charged to it: later than the window's start if the limit began within a period.
    pub begun: Timestamp,
    /// Credits or money granted; `None` if nothing limits this holder in this period.
    pub granted: Option<i64>,
    /// Amount consumed when the limit was lowered below it; otherwise 0.
    pub overdraft: i64,
    /// Amount charged and not given back, including `carried`.
    pub consumed: i64,
    /// Amount that its holder had used in its window before it began, and that has not been given back.
    pub carried: i64,
    /// Amount used beyond the limit where that is allowed: counted apart, given back first.
    pub overage: i64,
    /// For lots of top-ups only.
    pub topped: Option<Topped>,
}

impl Lot {
    /// Returns a new lot for a whole period, not yet written.
    pub fn of_period(holder: Holder, window: Window, credits: Option<i64>) -> Self {
        Self { begun: window.from, window, granted: credits, ..Self::blank(holder, Source::Period) }
    }

    /// Returns a new lot for a period whose limit begins within it, not yet written. It carries what its holder had
    /// used in the period until then.
    pub fn within_period(
        holder: Holder,
        window: Window,
        begun: Timestamp,
        credits: Option<i64>,
        overage: Overage,
        used: i64,
    ) -> Self {
        let mut lot = Self { begun, carried: used, ..Self::of_period(holder, window, credits) };
        lot.take_in(used, overage);
        lot
    }

    /// Returns a new lot that is valid until it expires, not yet written.
    pub fn of_source(holder: Holder, source: Source, granted: Option<i64>, expires_at: Option<Timestamp>) -> Self {
        Self { window: Window::always(expires_at), granted, ..Self::blank(holder, source) }
    }

    fn blank(holder: Holder, source: Source) -> Self {
        Self {
            id: LotId(0),
            holder,
            source,
            window: Window::always(None),
            begun: Timestamp::MIN,
            granted: None,
            overdraft: 0,
            consumed: 0,
            carried: 0,
            overage: 0,
            topped: None,
        }
    }

    pub fn meter(&self) -> Meter {
        self.source.meter(self.holder).unwrap_or(Meter::of_period(self.holder))
    }

    /// Returns the expiry; `None` if the lot never expires.
    pub fn expires_at(&self) -> Option<Timestamp> {
        Some(self.window.to).filter(|to| *to != Timestamp::MAX)
    }

    pub fn remaining(&self) -> Option<i64> {
        self.granted.map(|granted| (granted - self.consumed).max(0))
    }

    /// Returns all that its holder has used in its window.
    pub fn used(&self) -> i64 {
        self.consumed + self.overage
    }

    /// Returns what was charged to it and not given back.
    pub fn charged(&self) -> i64 {
        self.used() - self.carried
    }

    pub fn holds_at(&self, at: Timestamp) -> bool {
        self.begun <= at && at < self.window.to
    }

    /// Checks whether `amount` more fits.
    pub fn fits(&self, amount: i64) -> bool {
        self.granted.is_none_or(|granted| self.consumed.saturating_add(amount) <= granted)
    }

    /// Charges what fits, and the rest as overage.
    pub fn charge(&mut self, amount: i64) {
        let within = self.remaining().map_or(amount, |remaining| remaining.min(amount));
        self.consumed += within;
        self.overage += amount - within;
    }

    /// Counts use that was not charged to this lot. Beyond the limit it becomes overage if that is allowed; otherwise
    /// it becomes overdraft, as if the limit had been lowered afterwards.
    pub fn take_in(&mut self, used: i64, overage: Overage) {
        match overage {
            Overage::Allow => self.charge(used),
            Overage::Deny => {
                self.consumed += used;
                self.regrant(self.granted);
            }
        }
    }

    /// Gives back what the lot carries of a message that was charged to an earlier lot.
    pub fn refund_carried(&mut self, amount: i64) {
        let amount = amount.min(self.carried);
        self.carried -= amount;
        self.refund(amount);
    }

    /// Applies a changed limit to the running lot. Lowering it below what is used stops sending and changes no history:
    /// what was consumed stays, as overdraft. Raising it takes in what was counted as overage: used credits stay used,
    /// so no edit refills.
    pub fn regrant(&mut self, granted: Option<i64>) {
        self.granted = granted;
        let taken_in = self.remaining().map_or(self.overage, |room| room.min(self.overage));
        self.consumed += taken_in;
        self.overage -= taken_in;
        self.overdraft = match granted {
            Some(granted) if self.consumed > granted => self.consumed,
            Some(_) | None => 0,
        };
    }

    /// Gives back an amount, from overage first. The overdraft falls with consumption, so a refund never makes room
    /// above the limit.
    pub fn refund(&mut self, amount: i64) {
        let beyond = amount.min(self.overage);
        self.overage -= beyond;
        self.consumed -= amount - beyond;
        self.overdraft = self.overdraft.min(self.consumed);
        if self.granted.is_some_and(|granted| self.consumed <= granted) {
            self.overdraft = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{AccountId, KeyId};
    use crate::domain::period::Calendar;
    use uuid::Uuid;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    fn lot(granted: Option<i64>) -> Lot {
        Lot::of_period(Holder::Key(KeyId(Uuid::nil())), month(), granted)
    }

    fn month() -> Window {
        Calendar::monthly_utc().window(at("2026-11-21T00:00:00Z"))
    }

    #[test]
    fn lowering_a_limit_stops_sending_and_refunds_make_no_room_above_it() {
        let mut lot = lot(Some(10));
        lot.charge(8);
        lot.regrant(Some(5));
        assert_eq!((lot.overdraft, lot.remaining()), (8, Some(0)));
        lot.refund(2);
        assert_eq!((lot.consumed, lot.overdraft, lot.remaining()), (6, 6, Some(0)));
        lot.refund(2);
        assert_eq!((lot.consumed, lot.overdraft, lot.remaining()), (4, 0, Some(1)));
    }

    #[test]
    fn what_is_over_is_counted_apart_given_back_first_and_taken_in_by_a_higher_limit() {
        let mut lot = lot(Some(10));
        lot.charge(8);
        lot.charge(8);
        assert_eq!((lot.consumed, lot.overage, lot.used()), (10, 6, 16));
        lot.refund(4);
        assert_eq!((lot.consumed, lot.overage), (10, 2));
        lot.refund(4);
        assert_eq!((lot.consumed, lot.overage), (8, 0));
        lot.charge(5);
        lot.regrant(Some(12));
        assert_eq!((lot.consumed, lot.overage), (12, 1));
        lot.regrant(Some(6));
        assert_eq!((lot.consumed, lot.overdraft, lot.overage), (12, 12, 1));
        lot.charge(2);
        assert_eq!((lot.consumed, lot.overage), (12, 3));
        lot.refund(10);
        assert_eq!((lot.consumed, lot.overdraft, lot.overage), (5, 0, 0));
        lot.regrant(None);
        lot.charge(100);
        assert_eq!((lot.consumed, lot.overage), (105, 0));
    }

    #[test]
    fn a_limit_that_begins_within_a_period_carries_what_was_used_in_it() {
        let holder = Holder::Key(KeyId(Uuid::nil()));
        let begun = at("2026-11-21T12:00:00Z");
        let begin = |granted, overage, used| Lot::within_period(holder, month(), begun, granted, overage, used);
        // granted, overage, used; consumed, overdraft, overage, remaining
        let cases = [
            (Some(10), Overage::Deny, 7, (7, 0, 0, Some(3))),
            (Some(10), Overage::Deny, 12, (12, 12, 0, Some(0))),
            (Some(10), Overage::Allow, 12, (10, 0, 2, Some(0))),
            (None, Overage::Deny, 12, (12, 0, 0, None)),
        ];
        for (granted, overage, used, expected) in cases {
            let lot = begin(granted, overage, used);
            assert_eq!(
                (lot.consumed, lot.overdraft, lot.overage, lot.remaining()),
                expected,
                "{granted:?} {overage:?}"
            );
            assert_eq!((lot.used(), lot.charged()), (used, 0));
            assert!(lot.holds_at(begun) && !lot.holds_at(at("2026-11-21T11:59:59Z")));
        }
        let mut lot = begin(Some(10), Overage::Deny, 7);
        lot.charge(2);
        lot.refund_carried(5);
        assert_eq!((lot.used(), lot.charged(), lot.carried), (4, 2, 2));
        lot.refund(2);
        assert_eq!((lot.used(), lot.charged(), lot.carried), (2, 0, 2));
        lot.refund_carried(5);
        assert_eq!((lot.used(), lot.carried), (0, 0), "no more than it carries");
    }

    #[test]
    fn a_source_is_one_meter_of_its_holder_and_reads_back() {
        let (key, account) = (Holder::Key(KeyId(Uuid::nil())), Holder::Account(AccountId(Uuid::nil())));
        let sources = [Source::Period, Source::Spend, Source::Grant("a/b".into()), Source::TopUp];
        for source in &sources {
            assert_eq!(Source::parse(&source.word()).as_ref(), Some(source));
        }
        assert_eq!(sources.each_ref().map(|source| source.meter(key)), [Some(Meter::KeyCap), None, None, None]);
        let of_account = [Meter::AccountCap, Meter::AccountSpend, Meter::AccountPrepaid, Meter::AccountPrepaid];
        assert_eq!(sources.each_ref().map(|source| source.meter(account)), of_account.map(Some));
        assert_eq!(Source::parse("nonsense"), None);
    }
}
