use super::*;
use crate::domain::credit::Source;
use crate::domain::id::{AccountId, KeyId, PolicyId};
use crate::domain::period::{Calendar, Period, Window};
use uuid::Uuid;

const PRICE: i64 = 10;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

fn now() -> Timestamp {
    at("2026-11-21T12:00:00Z")
}

fn chain() -> Chain {
    let id = Uuid::from_u128(1);
    Chain { key: KeyId(id), account: AccountId(id), policy: PolicyId(id) }
}

fn window(period: Period) -> Window {
    Calendar::new(period, 1, "UTC").expect("a calendar").window(now())
}

/// Returns rows with monthly period lots 1, 2, 3 for key, account and policy, with these limits.
fn rows(limits: [Option<i64>; 3]) -> BatchRows {
    let mut rows = BatchRows::default();
    for ((id, holder), credits) in (1..).map(LotId).zip(chain().holders()).zip(limits) {
        rows.lots.insert(id, Lot { id, ..Lot::of_period(holder, window(Period::Monthly), credits) });
        rows.holdings.insert(holder, Holding::plain(id));
    }
    rows
}

impl BatchRows {
    fn holding(&mut self, holder: usize) -> &mut Holding {
        self.holdings.get_mut(&chain().holders()[holder]).expect("held")
    }

    fn with_spend(mut self, limit: i64) -> Self {
        let holder = chain().holders()[ACCOUNT];
        self.lots.insert(LotId(10), Lot { id: LotId(10), ..Lot::of_source(holder, Source::Spend, Some(limit), None) });
        self.holding(ACCOUNT).spend = Some(LotId(10));
        self
    }

    /// Adds a prepaid balance of lots from `first` on, with these credits.
    fn with_prepaid(mut self, holder: usize, first: i64, credits: &[i64], next_top_up: Option<&str>) -> Self {
        let ids: Vec<LotId> = (first..).take(credits.len()).map(LotId).collect();
        for (id, credits) in ids.iter().zip(credits) {
            let source = Source::Grant(id.0.to_string());
            let lot = Lot { id: *id, ..Lot::of_source(chain().holders()[holder], source, Some(*credits), None) };
            self.lots.insert(*id, lot);
        }
        self.holding(holder).prepaid = Some(Stock { lots: ids, next_top_up: next_top_up.map(at) });
        self
    }

    fn with_rate(mut self, holder: usize, messages: u32, per_seconds: u32) -> Self {
        let rate = Rate { messages, per_seconds };
        self.holding(holder).rate_state = Some(RateState { rate, arrival: None, moved: false });
        self
    }

    fn with_overage(mut self) -> Self {
        self.holding(POLICY).overage = Overage::Allow;
        self
    }

    fn send(&mut self, credits: i64) -> (Verdict, Vec<Part>) {
        let charge = Charge { credits, chain: chain(), unit_price: PRICE };
        match decide(self, &charge, now()) {
            Ok(parts) => (Verdict::Reserved, parts),
            Err(refused) => (refused, vec![]),
        }
    }

    fn used(&self, lot: i64) -> i64 {
        self.lots[&LotId(lot)].used()
    }
}

const KEY: usize = 0;
const ACCOUNT: usize = 1;
const POLICY: usize = 2;

#[test]
fn all_meters_are_charged_or_none_and_the_first_of_those_closed_longest_is_named() {
    const MONTH: &str = "2026-12-01T00:00:00Z";
    let open = || rows([None; 3]);
    let cases = [
        (rows([Some(2), None, None]), Meter::KeyCap, Some(MONTH)),
        (open().with_spend(2 * PRICE), Meter::AccountSpend, None),
        (rows([None, Some(2), None]), Meter::AccountCap, Some(MONTH)),
        (open().with_prepaid(ACCOUNT, 20, &[1, 1], None), Meter::AccountPrepaid, None),
        (
            open().with_prepaid(ACCOUNT, 20, &[2], Some("2026-11-23T00:00:00Z")),
            Meter::AccountPrepaid,
            Some("2026-11-23T00:00:00Z"),
        ),
        (open().with_prepaid(POLICY, 30, &[2], None), Meter::PolicyPrepaid, None),
        (rows([None, None, Some(2)]), Meter::PolicyPool, Some(MONTH)),
        // Several meters: those of one period in order, but one that never opens before all others.
        (rows([Some(2); 3]), Meter::KeyCap, Some(MONTH)),
        (rows([Some(2); 3]).with_prepaid(POLICY, 30, &[2], None), Meter::PolicyPrepaid, None),
        (rows([Some(2); 3]).with_spend(2 * PRICE).with_prepaid(POLICY, 30, &[2], None), Meter::AccountSpend, None),
        (rows([Some(2); 3]).with_prepaid(ACCOUNT, 20, &[2], Some("2026-11-23T00:00:00Z")), Meter::KeyCap, Some(MONTH)),
        (
            rows([None, None, Some(2)]).with_prepaid(ACCOUNT, 20, &[2], Some("2027-11-23T00:00:00Z")),
            Meter::AccountPrepaid,
            Some("2027-11-23T00:00:00Z"),
        ),
    ];
    for (mut rows, meter, reopens_at) in cases {
        assert_eq!(rows.send(2).0, Verdict::Reserved, "{meter:?}");
        let before = rows.lots.clone();
        let expected =
            Verdict::Short { meter, granted: 2, remaining: 0, reopens_at: reopens_at.map(at), pending: false };
        assert_eq!(rows.send(1), (expected, vec![]));
        assert_eq!(rows.lots, before, "{meter:?}");
    }
}

#[test]
fn a_smaller_message_passes_after_a_larger_one_was_refused() {
    let mut rows = rows([None, Some(3), None]);
    let passed: Vec<bool> = [2, 2, 1].map(|credits| rows.send(credits).0 == Verdict::Reserved).into();
    assert_eq!(passed, [true, false, true]);
}

#[test]
fn a_message_takes_parts_of_several_lots_of_one_meter_in_their_order() {
    let mut rows = rows([None; 3]).with_prepaid(ACCOUNT, 20, &[2, 0, 5], None).with_prepaid(POLICY, 30, &[9], None);
    let period = [Part(LotId(1), 4), Part(LotId(2), 4), Part(LotId(3), 4)];
    let (verdict, parts) = rows.send(4);
    assert_eq!(verdict, Verdict::Reserved);
    assert_eq!(parts[..3], period, "the period lots come first, in order");
    assert_eq!(parts[3..], [Part(LotId(20), 2), Part(LotId(22), 2), Part(LotId(30), 4)]);
    assert_eq!((rows.send(4).0, rows.used(22)), (short_of(Meter::AccountPrepaid, 7, 3), 2));
}

fn short_of(meter: Meter, granted: i64, remaining: i64) -> Verdict {
    Verdict::Short { meter, granted, remaining, reopens_at: None, pending: false }
}

#[test]
fn money_is_charged_at_the_price_of_the_moment_and_told_in_credits() {
    let mut rows = rows([None; 3]).with_spend(55);
    assert_eq!(rows.send(2).1[3..], [Part(LotId(10), 20)]);
    assert_eq!(rows.send(4).0, short_of(Meter::AccountSpend, 5, 3));
    let mut free = Charge { credits: 1_000, chain: chain(), unit_price: 0 };
    assert_eq!(decide(&mut rows, &free, now()).expect("charged").len(), 3, "no price, no money");
    free.unit_price = i64::MAX;
    assert_eq!(decide(&mut rows, &free, now()), Err(short_of(Meter::AccountSpend, 0, 0)));
}

#[test]
fn what_goes_beyond_a_pool_is_overage_where_that_is_allowed() {
    let mut rows = rows([None, None, Some(3)]).with_overage();
    assert_eq!(rows.send(2).1[2], Part(LotId(3), 2));
    assert_eq!(rows.send(5).1[2], Part(LotId(3), 5));
    let pool = &rows.lots[&LotId(3)];
    assert_eq!((pool.consumed, pool.overage), (3, 4));
    rows.holding(POLICY).overage = Overage::Deny;
    assert!(matches!(rows.send(1).0, Verdict::Short { meter: Meter::PolicyPool, remaining: 0, .. }));
}

#[test]
fn a_rate_is_judged_before_credits_and_a_refused_message_moves_nothing() {
    let mut rows = rows([None, Some(3), None]).with_rate(KEY, 2, 60).with_rate(ACCOUNT, 3, 60);
    // Refused for its size: the rate is unchanged.
    assert!(matches!(rows.send(9).0, Verdict::Short { .. }));
    assert!(!rows.holding(KEY).rate_state.expect("paced").moved);
    assert_eq!((rows.send(1).0, rows.send(1).0), (Verdict::Reserved, Verdict::Reserved));
    let before = (rows.lots.clone(), rows.holdings.clone());
    for credits in [1, 9] {
        let retry_at = at("2026-11-21T12:00:30Z");
        let rate = Rate { messages: 2, per_seconds: 60 };
        assert_eq!(rows.send(credits).0, Verdict::TooFast { scope: RateScope::Key, rate, retry_at });
    }
    assert_eq!((rows.lots.clone(), rows.holdings.clone()), before);
    // Another key of the account still has the account's third message.
    rows.holding(KEY).rate_state = None;
    assert_eq!(rows.send(1).0, Verdict::Reserved);
    assert!(matches!(rows.send(1).0, Verdict::TooFast { scope: RateScope::Account, .. }));
    rows = rows.with_rate(KEY, 1, 3600);
    rows.holding(KEY).rate_state.as_mut().expect("paced").arrival = Some(at("2026-11-21T13:00:00Z"));
    assert!(
        matches!(rows.send(1).0, Verdict::TooFast { scope: RateScope::Key, retry_at, .. } if retry_at == at("2026-11-21T13:00:00Z")),
        "the one that waits longer is named"
    );
}
