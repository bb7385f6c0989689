//! A lot: one bucket of one source, and what may be done to it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Meter;
use crate::domain::id::Holder;
use crate::domain::period::{Calendar, Window};

/// The row id of a lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LotId(pub i64);

/// What was charged to a lot: credits, or micro-units of money where the lot is money.
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
    /// The word in the ledger's tables.
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

    /// The meter of this source's lots. `None`: this holder cannot have such a source.
    pub fn meter(&self, holder: Holder) -> Option<Meter> {
        match (self, holder) {
            (Self::Period, _) => Some(Meter::of_period(holder)),
            (Self::Spend, Holder::Account(_)) => Some(Meter::AccountSpend),
            (Self::Spend, Holder::Key(_) | Holder::Policy(_)) => None,
            (Self::Grant(_) | Self::TopUp, _) => Meter::of_prepaid(holder),
        }
    }
}

/// How far top-ups were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topped {
    /// All that was ever added. What the lot grants is this, or nothing while the rule is taken away.
    pub total: i64,
    /// The end of the last period that was added; the next begins here.
    pub until: Timestamp,
}

/// One bucket of one holder: the ledger's only contended row. A period's lot holds credits of that period; the lots of
/// other sources hold from their making until they expire, if they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    pub id: LotId,
    pub holder: Holder,
    pub source: Source,
    pub window: Window,
    pub share: Share,
    /// `None`: nothing limits this holder in this period.
    pub granted: Option<i64>,
    /// What was consumed when the limit was lowered under it; else 0.
    pub overhang: i64,
    pub consumed: i64,
    /// What was used beyond the limit where that is allowed: counted apart, given back first.
    pub overage: i64,
    /// Of a top-up's lot only.
    pub topped: Option<Topped>,
}

impl Lot {
    /// A new lot of a period, not yet written.
    pub fn of_period(holder: Holder, new: NewLot, credits: Option<i64>) -> Self {
        let granted = credits.map(|credits| new.share.of(credits));
        Self { window: new.window, share: new.share, granted, ..Self::blank(holder, Source::Period) }
    }

    /// A new lot that holds until it expires, not yet written.
    pub fn of_source(holder: Holder, source: Source, granted: i64, expires_at: Option<Timestamp>) -> Self {
        Self { window: Window::always(expires_at), granted: Some(granted), ..Self::blank(holder, source) }
    }

    fn blank(holder: Holder, source: Source) -> Self {
        Self {
            id: LotId(0),
            holder,
            source,
            window: Window::always(None),
            share: Share::FULL,
            granted: None,
            overhang: 0,
            consumed: 0,
            overage: 0,
            topped: None,
        }
    }

    pub fn meter(&self) -> Meter {
        self.source.meter(self.holder).unwrap_or(Meter::of_period(self.holder))
    }

    /// `None` for one that never expires.
    pub fn expires_at(&self) -> Option<Timestamp> {
        Some(self.window.to).filter(|to| *to != Timestamp::MAX)
    }

    pub fn remaining(&self) -> Option<i64> {
        self.granted.map(|granted| (granted - self.consumed).max(0))
    }

    /// All that was charged and not given back.
    pub fn used(&self) -> i64 {
        self.consumed + self.overage
    }

    pub fn holds_at(&self, at: Timestamp) -> bool {
        self.window.from <= at && at < self.window.to
    }

    /// Whether `amount` more fit.
    pub fn fits(&self, amount: i64) -> bool {
        self.granted.is_none_or(|granted| self.consumed.saturating_add(amount) <= granted)
    }

    /// Charges what fits, and the rest as overage.
    pub fn charge(&mut self, amount: i64) {
        let within = self.remaining().map_or(amount, |remaining| remaining.min(amount));
        self.consumed += within;
        self.overage += amount - within;
    }

    /// Applies a changed limit to the running lot. Lowering it below what is used stops sending and changes no
    /// history: what was consumed stays, as overhang. Raising it takes in what was counted as overage: what is used is
    /// used, so no edit refills.
    pub fn regrant(&mut self, granted: Option<i64>) {
        self.granted = granted;
        let taken_in = self.remaining().map_or(self.overage, |room| room.min(self.overage));
        self.consumed += taken_in;
        self.overage -= taken_in;
        self.overhang = match granted {
            Some(granted) if self.consumed > granted => self.consumed,
            Some(_) | None => 0,
        };
    }

    /// Gives back what was charged: overage first. The overhang follows consumption down, so a refund never makes room
    /// above the limit.
    pub fn refund(&mut self, amount: i64) {
        let beyond = amount.min(self.overage);
        self.overage -= beyond;
        self.consumed -= amount - beyond;
        self.overhang = self.overhang.min(self.consumed);
        if self.granted.is_some_and(|granted| self.consumed <= granted) {
            self.overhang = 0;
        }
    }
}

/// The part of its calendar's window that a lot covers: 1 unless the lot is a short first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub part: i64,
    pub whole: i64,
}

impl Share {
    pub const FULL: Self = Self { part: 1, whole: 1 };

    /// The credits of a lot that covers this share of a period, rounded down.
    pub fn of(self, credits: i64) -> i64 {
        // 128 bits: a trillion credits times a month of seconds passes 64.
        let share = i128::from(credits) * i128::from(self.part) / i128::from(self.whole.max(1));
        i64::try_from(share).unwrap_or(credits)
    }
}

/// A lot that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLot {
    pub window: Window,
    pub share: Share,
}

/// The lot that holds at `at` for a calendar, after `previous` (the end of the holder's latest lot, if it ever had
/// one, and whether that lot limited nothing; it must have ended by `at`).
///
/// Lots of one source never overlap, so no edit of period, zone or anchor refills: a new calendar starts when the
/// previous lot ends, and where that is inside a window of the new calendar, the first lot is short and its credits
/// are in proportion. Only a lot that limited nothing is cut short at once (`unlimited`): there is nothing to
/// refill, and whoever adds a limit expects it to hold from now on, in full.
pub fn next_lot(calendar: &Calendar, previous: Option<(Timestamp, bool)>, at: Timestamp) -> NewLot {
    let mut window = calendar.window(at);
    let Some((ended, unlimited)) = previous.filter(|(ended, _)| *ended > window.from) else {
        return NewLot { window, share: Share::FULL };
    };
    let whole = window.to.as_second() - window.from.as_second();
    window.from = ended;
    let part = window.to.as_second() - window.from.as_second();
    let share = if unlimited { Share::FULL } else { Share { part, whole } };
    NewLot { window, share }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{AccountId, KeyId};
    use crate::domain::period::Period;
    use uuid::Uuid;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    fn lot(granted: Option<i64>) -> Lot {
        let window = Calendar::monthly_utc().window(at("2026-11-21T00:00:00Z"));
        Lot::of_period(Holder::Key(KeyId(Uuid::nil())), NewLot { window, share: Share::FULL }, granted)
    }

    fn daily() -> Calendar {
        Calendar::new(Period::Daily, 1, "UTC").expect("a calendar")
    }

    #[test]
    fn lowering_a_limit_stops_sending_and_refunds_make_no_room_above_it() {
        let mut lot = lot(Some(10));
        lot.charge(8);
        lot.regrant(Some(5));
        assert_eq!((lot.overhang, lot.remaining()), (8, Some(0)));
        lot.refund(2);
        assert_eq!((lot.consumed, lot.overhang, lot.remaining()), (6, 6, Some(0)));
        lot.refund(2);
        assert_eq!((lot.consumed, lot.overhang, lot.remaining()), (4, 0, Some(1)));
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
        assert_eq!((lot.consumed, lot.overhang, lot.overage), (12, 12, 1));
        lot.charge(2);
        assert_eq!((lot.consumed, lot.overage), (12, 3));
        lot.refund(10);
        assert_eq!((lot.consumed, lot.overhang, lot.overage), (5, 0, 0));
        lot.regrant(None);
        lot.charge(100);
        assert_eq!((lot.consumed, lot.overage), (105, 0));
    }

    #[test]
    fn a_changed_period_starts_when_the_running_lot_ends_short_and_prorated() {
        // A weekly lot that ran to Monday 06:00 in another zone; daily from then on.
        let ended = at("2026-11-23T06:00:00Z");
        let short = next_lot(&daily(), Some((ended, false)), ended);
        assert_eq!((short.window.from, short.window.to), (ended, at("2026-11-24T00:00:00Z")));
        assert_eq!(short.share.of(100), 75);
        let full = next_lot(&daily(), Some((short.window.to, false)), at("2026-11-24T00:00:01Z"));
        assert_eq!((full.window.from, full.share), (short.window.to, Share::FULL));
    }

    #[test]
    fn a_first_lot_is_whole_and_so_is_the_first_that_limits() {
        let first = next_lot(&daily(), None, at("2026-11-23T18:00:00Z"));
        assert_eq!((first.share, first.window.key.as_str()), (Share::FULL, "2026-11-23"));
        let cut = at("2026-11-23T18:00:00Z");
        let limited = next_lot(&daily(), Some((cut, true)), cut);
        assert_eq!((limited.window.from, limited.share), (cut, Share::FULL));
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
