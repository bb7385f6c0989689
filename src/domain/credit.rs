//! Credits: what a message must pass, and the one decision both engines use.
//!
//! A credit is the right to have one recipient accepted. A message must pass the meters of its key, its account and
//! its policy, all or none. Each holder has exactly one lot at any instant (also where nothing limits it, so that
//! usage is exact and a limit that comes later counts what was used before it).

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::id::{AccountId, Holder, KeyId, MessageId, PolicyId};
use super::period::{Calendar, Window};

/// The most credits a limit may name: exact in a JSON number, and far from any overflow when summed.
pub const CREDITS_MAX: i64 = 1_000_000_000_000;

/// The limits a message is judged by, in the order they are judged and named to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Meter {
    /// `cap` of the key.
    KeyCap,
    /// `cap` of the account, or the policy's `defaultCap`, never above `maxCap`.
    AccountCap,
    /// The policy's pool: the hard ceiling.
    PolicyPool,
}

impl Meter {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyCap => "key.cap",
            Self::AccountCap => "account.cap",
            Self::PolicyPool => "policy.pool",
        }
    }

    /// The meter of a word that [`as_str`](Self::as_str) gave.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::KeyCap, Self::AccountCap, Self::PolicyPool].into_iter().find(|meter| meter.as_str() == word)
    }

    /// The meter that a holder's lots belong to.
    pub fn of(holder: Holder) -> Self {
        match holder {
            Holder::Key(_) => Self::KeyCap,
            Holder::Account(_) => Self::AccountCap,
            Holder::Policy(_) => Self::PolicyPool,
        }
    }
}

/// A limit per period. `credits: None` counts and never refuses; 0 refuses everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits: Option<i64>,
    pub calendar: Calendar,
}

/// The row id of a lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LotId(pub i64);

/// One bucket of credits of one holder in one period: the ledger's only contended row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    pub id: LotId,
    pub holder: Holder,
    pub window: Window,
    pub share: Share,
    /// `None`: nothing limits this holder in this period.
    pub granted: Option<i64>,
    /// What was consumed when the limit was lowered under it; else 0.
    pub overhang: i64,
    pub consumed: i64,
}

impl Lot {
    pub fn remaining(&self) -> Option<i64> {
        self.granted.map(|granted| (granted - self.consumed).max(0))
    }

    pub fn holds_at(&self, at: Timestamp) -> bool {
        self.window.from <= at && at < self.window.to
    }

    /// Whether `credits` more fit.
    fn fits(&self, credits: i64) -> bool {
        self.granted.is_none_or(|granted| self.consumed + credits <= granted)
    }

    /// Applies a changed limit to the running lot. Lowering it below what is used stops sending and changes no
    /// history: what was consumed stays, as overhang.
    pub fn regrant(&mut self, granted: Option<i64>) {
        self.granted = granted;
        self.overhang = match granted {
            Some(granted) if self.consumed > granted => self.consumed,
            Some(_) | None => 0,
        };
    }

    /// Gives credits back. The overhang follows consumption down, so a refund never makes room above the limit.
    pub fn refund(&mut self, credits: i64) {
        self.consumed -= credits;
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

/// The lot that holds at `at` for a calendar, after `previous` (the window of the holder's latest lot, if it ever
/// had one; it must have ended by `at`).
///
/// Lots of one holder never overlap, so no edit of period, zone or anchor refills: a new calendar starts when the
/// previous lot ends, and where that is inside a window of the new calendar, the first lot is short and its credits
/// are in proportion. Only a lot that limited nothing is cut short at once (`unlimited`): there is nothing to
/// refill, and whoever adds a limit expects it to hold from now on, in full.
pub fn next_lot(calendar: &Calendar, previous: Option<(&Window, bool)>, at: Timestamp) -> NewLot {
    let mut window = calendar.window(at);
    let Some((previous, unlimited)) = previous.filter(|(previous, _)| previous.to > window.from) else {
        return NewLot { window, share: Share::FULL };
    };
    let whole = window.to.as_second() - window.from.as_second();
    window.from = previous.to;
    let part = window.to.as_second() - window.from.as_second();
    let share = if unlimited { Share::FULL } else { Share { part, whole } };
    NewLot { window, share }
}

/// A request to charge a message: one credit for each of its recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub message: MessageId,
    pub key: KeyId,
    pub credits: u32,
}

/// Who a reservation is charged to, as the fresh rows say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    pub key: KeyId,
    pub account: AccountId,
    pub policy: PolicyId,
}

impl Chain {
    /// In the order of the meters, which is also the order in which lots are locked: pools last.
    pub fn holders(self) -> [Holder; 3] {
        [Holder::Key(self.key), Holder::Account(self.account), Holder::Policy(self.policy)]
    }
}

/// What a message was charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part(pub LotId, pub i64);

/// Why a sender may not send, whatever the credits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Revoked, or its resource is gone.
    KeyRevoked,
    KeyExpired,
    AccountSuspended {
        reason: Option<String>,
    },
    /// Deleted, or no longer accepted by its policy.
    AccountRemoved,
    PolicySuspended {
        reason: Option<String>,
    },
    PolicyRemoved,
}

/// The answer to a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Charged, now or by an earlier call with the same message id.
    Reserved,
    /// A limit lacks credits. `reopens_at` is the end of its period.
    Short {
        meter: Meter,
        granted: i64,
        remaining: i64,
        reopens_at: Timestamp,
    },
    Blocked(Blocked),
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The upstream said 250.
    Relayed,
    /// The upstream definitely said no: refunded.
    Refused,
    /// It never got as far as the upstream's final dot: refunded.
    NotOffered,
    /// The final dot was written and no reply came: stays charged. May be replaced once by what turned out.
    Unknown,
}

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Relayed, Self::Refused, Self::NotOffered, Self::Unknown];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Refused => "refused",
            Self::NotOffered => "not_offered",
            Self::Unknown => "unknown",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }

    pub fn refunds(self) -> bool {
        match self {
            Self::Refused | Self::NotOffered => true,
            Self::Relayed | Self::Unknown => false,
        }
    }
}

/// One message to decide, on fresh rows: charged already, blocked, or to be charged to `lots` in meter order.
#[derive(Clone, Debug)]
pub enum Demand {
    Known,
    Blocked(Blocked),
    Charge { credits: i64, lots: [LotId; 3] },
}

/// Decides a batch in order, charging `lots` in place. Returns for each message its verdict and what it was charged.
///
/// This is the only place where credits are given or refused. Both engines call it with the rows they hold locked.
pub fn decide(lots: &mut HashMap<LotId, Lot>, batch: &[Demand]) -> Vec<(Verdict, Vec<Part>)> {
    batch.iter().map(|demand| decide_one(lots, demand)).collect()
}

fn decide_one(lots: &mut HashMap<LotId, Lot>, demand: &Demand) -> (Verdict, Vec<Part>) {
    let (credits, chain) = match demand {
        Demand::Known => return (Verdict::Reserved, Vec::new()),
        Demand::Blocked(blocked) => return (Verdict::Blocked(blocked.clone()), Vec::new()),
        Demand::Charge { credits, lots } => (*credits, lots),
    };
    for id in chain {
        let lot = &lots[id];
        if let (false, Some(granted)) = (lot.fits(credits), lot.granted) {
            let remaining = lot.remaining().unwrap_or(0);
            let reopens_at = lot.window.to;
            return (Verdict::Short { meter: Meter::of(lot.holder), granted, remaining, reopens_at }, Vec::new());
        }
    }
    let mut parts = Vec::with_capacity(chain.len());
    for id in chain {
        if let Some(lot) = lots.get_mut(id) {
            lot.consumed += credits;
            parts.push(Part(*id, credits));
        }
    }
    (Verdict::Reserved, parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::period::Period;
    use uuid::Uuid;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    fn lot(id: i64, holder: Holder, granted: Option<i64>) -> (LotId, Lot) {
        let window = Calendar::monthly_utc().window(at("2026-11-21T00:00:00Z"));
        (LotId(id), Lot { id: LotId(id), holder, window, share: Share::FULL, granted, overhang: 0, consumed: 0 })
    }

    fn chain(key: Option<i64>, account: Option<i64>, pool: Option<i64>) -> HashMap<LotId, Lot> {
        let id = Uuid::from_u128(1);
        HashMap::from([
            lot(1, Holder::Key(KeyId(id)), key),
            lot(2, Holder::Account(AccountId(id)), account),
            lot(3, Holder::Policy(PolicyId(id)), pool),
        ])
    }

    fn charge(credits: i64) -> Demand {
        Demand::Charge { credits, lots: [LotId(1), LotId(2), LotId(3)] }
    }

    fn daily() -> Calendar {
        Calendar::new(Period::Daily, 1, "UTC").expect("a calendar")
    }

    #[test]
    fn all_meters_are_charged_or_none_and_the_first_short_one_is_named() {
        for (limits, meter) in [
            ((Some(2), None, None), Meter::KeyCap),
            ((None, Some(2), None), Meter::AccountCap),
            ((None, None, Some(2)), Meter::PolicyPool),
            ((Some(2), Some(2), Some(2)), Meter::KeyCap),
        ] {
            let mut lots = chain(limits.0, limits.1, limits.2);
            let verdicts = decide(&mut lots, &[charge(2), charge(1)]);
            assert_eq!(verdicts[0].0, Verdict::Reserved);
            assert_eq!(verdicts[0].1.len(), 3);
            assert!(
                matches!(verdicts[1].0, Verdict::Short { meter: short, granted: 2, remaining: 0, .. } if short == meter)
            );
            assert!(lots.values().all(|lot| lot.consumed == 2), "{lots:?}");
        }
    }

    #[test]
    fn a_smaller_message_passes_after_a_larger_one_was_refused() {
        let mut lots = chain(None, Some(3), None);
        let verdicts = decide(&mut lots, &[charge(2), charge(2), charge(1)]);
        let passed: Vec<bool> = verdicts.iter().map(|(verdict, _)| *verdict == Verdict::Reserved).collect();
        assert_eq!(passed, [true, false, true]);
    }

    #[test]
    fn lowering_a_limit_stops_sending_and_refunds_make_no_room_above_it() {
        let (_, mut lot) = lot(1, Holder::Key(KeyId(Uuid::nil())), Some(10));
        lot.consumed = 8;
        lot.regrant(Some(5));
        assert_eq!((lot.overhang, lot.remaining()), (8, Some(0)));
        lot.refund(2);
        assert_eq!((lot.consumed, lot.overhang, lot.remaining()), (6, 6, Some(0)));
        lot.refund(2);
        assert_eq!((lot.consumed, lot.overhang, lot.remaining()), (4, 0, Some(1)));
    }

    #[test]
    fn a_changed_period_starts_when_the_running_lot_ends_short_and_prorated() {
        // A weekly lot that ran to Monday 06:00 in another zone; daily from then on.
        let previous =
            Window { key: "2026-W47".into(), from: at("2026-11-16T06:00:00Z"), to: at("2026-11-23T06:00:00Z") };
        let short = next_lot(&daily(), Some((&previous, false)), at("2026-11-23T06:00:00Z"));
        assert_eq!((short.window.from, short.window.to), (previous.to, at("2026-11-24T00:00:00Z")));
        assert_eq!(short.share.of(100), 75);
        let full = next_lot(&daily(), Some((&short.window, false)), at("2026-11-24T00:00:01Z"));
        assert_eq!((full.window.from, full.share), (short.window.to, Share::FULL));
    }

    #[test]
    fn a_first_lot_is_whole_and_so_is_the_first_that_limits() {
        let first = next_lot(&daily(), None, at("2026-11-23T18:00:00Z"));
        assert_eq!((first.share, first.window.key.as_str()), (Share::FULL, "2026-11-23"));
        let cut = Window { key: "2026-11".into(), from: at("2026-11-01T00:00:00Z"), to: at("2026-11-23T18:00:00Z") };
        let limited = next_lot(&daily(), Some((&cut, true)), at("2026-11-23T18:00:00Z"));
        assert_eq!((limited.window.from, limited.share), (cut.to, Share::FULL));
    }
}
