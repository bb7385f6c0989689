//! The steps of a history.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::{Just, Strategy, any, prop};
use proptest::prop_oneof;

use super::model::{Asked, POLICIES};
use super::raises::FLOORS;
use super::world::{START, at};
use franking::domain::credit::{Grant, Outcome, Prepaid, Rate, TopUp};
use franking::domain::period::{Calendar, Period};

#[derive(Clone, Debug)]
pub enum Step {
    /// New messages in one call. The call is retried as often as its reply was lost.
    Send {
        messages: Vec<Asked>,
        lost_replies: u8,
    },
    /// Messages asked for before, whatever their outcome, in one call; some may be there twice.
    SendAgain(Vec<usize>),
    Settle {
        messages: Vec<usize>,
        outcome: Outcome,
        /// Settled by the previous session.
        late: bool,
    },
    /// The relay settles a message that its client sends again, or a copy.
    Tell {
        message: usize,
        outcome: Outcome,
        ended: bool,
        heard: bool,
        late: bool,
    },
    /// Key 1 sends, and the upstream refuses, again and again.
    Flood,
    Limit {
        holder: usize,
        credits: Option<i64>,
        calendar: Calendar,
    },
    /// The holder: the account (0), or a policy by its number from 1.
    Prepaid {
        of: usize,
        prepaid: Option<Prepaid>,
    },
    Rate {
        holder: usize,
        rate: Option<Rate>,
    },
    /// Micro-units.
    SpendLimit(Option<i64>),
    /// A policy's price of a credit, in micro-units.
    Price(usize, i64),
    Overage(usize, bool),
    /// A policy refuses for good, or does not.
    Reject(usize, bool),
    /// The account moves to a policy.
    Move(usize),
    /// The ledger was replaced by itself, and is accepted with these floors, by their numbers; their amounts were seen
    /// so many hours before.
    Accept {
        floors: Vec<(usize, i64)>,
        hours: i64,
    },
    Revoke(bool),
    Suspend(bool),
    /// The account is deleted, or applied again.
    Remove(bool),
    Clock(i64),
    /// Everything in memory is lost; the old session is stale from here on.
    Crash,
    Sweep,
    PrepareLots {
        days: i64,
    },
    Rollup,
}

/// Some day, and the evening before the night in which Berlin's clocks go back.
pub fn starts() -> impl Strategy<Value = &'static str> {
    prop_oneof![2 => Just(START), 1 => Just("2026-10-24T20:00:00Z")]
}

fn calendars() -> impl Strategy<Value = Calendar> {
    let period = prop_oneof![
        Just((Period::Daily, 1)),
        Just((Period::Weekly, 3)),
        Just((Period::Monthly, 1)),
        Just((Period::Monthly, 31))
    ];
    let zone = prop_oneof![3 => Just("UTC"), 1 => Just("Asia/Kolkata"), 1 => Just("Europe/Berlin")];
    (period, zone).prop_map(|((period, anchor), zone)| Calendar::new(period, anchor, zone).expect("a calendar"))
}

/// Hours around the beginning of a history.
fn times() -> impl Strategy<Value = Timestamp> {
    (-500..1_500i64).prop_map(|hours| at(START) + SignedDuration::from_hours(hours))
}

fn prepaid() -> impl Strategy<Value = Option<Prepaid>> {
    let ids = prop::sample::subsequence(vec!["a", "b", "c"], 0..=3);
    let grant = (0..25i64, prop::option::weighted(0.5, times()));
    let grants = (ids, prop::collection::vec(grant, 3)).prop_map(|(ids, grants)| {
        let grants = ids.into_iter().zip(grants);
        grants.map(|(id, (credits, expires_at))| Grant { id: id.to_owned(), credits, expires_at }).collect()
    });
    let every = prop::sample::select(vec![Period::Daily, Period::Weekly, Period::Monthly]);
    let rule = (0..15i64, every, prop::option::weighted(0.3, times()), prop::option::weighted(0.3, times()));
    let recurring = rule.prop_map(|(credits, every, start, end)| TopUp { credits, every, start, end });
    let prepaid = (grants, prop::option::weighted(0.5, recurring));
    prop::option::weighted(0.7, prepaid.prop_map(|(grants, recurring)| Prepaid { grants, recurring }))
}

pub fn steps() -> impl Strategy<Value = Step> {
    let outcome = prop::sample::select(Outcome::ALL.to_vec());
    let asked = (1..=2u128, 1..=4u32, prop::option::weighted(0.4, 0..2u8));
    let asked = asked.prop_map(|(key, credits, print)| Asked { key, credits, print });
    let messages = prop::collection::vec(asked, 1..6);
    let rate = (1..5u32, 1..200u32).prop_map(|(messages, per_seconds)| Rate { messages, per_seconds });
    prop_oneof![
        10 => (messages, prop_oneof![3 => Just(0u8), 1 => Just(1)])
            .prop_map(|(messages, lost_replies)| Step::Send { messages, lost_replies }),
        2 => prop::collection::vec(any::<usize>(), 1..4).prop_map(Step::SendAgain),
        7 => (prop::collection::vec(any::<usize>(), 1..4), outcome.clone(), any::<bool>())
            .prop_map(|(messages, outcome, late)| Step::Settle { messages, outcome, late }),
        6 => (any::<usize>(), outcome, any::<bool>(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(message, outcome, ended, heard, late)| Step::Tell { message, outcome, ended, heard, late }),
        1 => Just(Step::Flood),
        8 => (0..3 + POLICIES, prop::option::weighted(0.8, 0..40i64), calendars())
            .prop_map(|(holder, credits, calendar)| Step::Limit { holder, credits, calendar }),
        2 => (0..=POLICIES, prepaid()).prop_map(|(of, prepaid)| Step::Prepaid { of, prepaid }),
        1 => (0..3usize, prop::option::weighted(0.3, rate)).prop_map(|(holder, rate)| Step::Rate { holder, rate }),
        1 => prop::option::weighted(0.5, 0..60_000i64).prop_map(Step::SpendLimit),
        1 => (0..POLICIES, 0..4i64).prop_map(|(policy, price)| Step::Price(policy, price * 1_000)),
        2 => (0..POLICIES, any::<bool>()).prop_map(|(policy, allowed)| Step::Overage(policy, allowed)),
        2 => (0..POLICIES, prop::bool::weighted(0.7)).prop_map(|(policy, rejects)| Step::Reject(policy, rejects)),
        2 => (0..POLICIES).prop_map(Step::Move),
        1 => (prop::collection::vec((0..FLOORS, 0..60i64), 0..4), 0..100i64)
            .prop_map(|(floors, hours)| Step::Accept { floors, hours }),
        1 => any::<bool>().prop_map(Step::Revoke),
        1 => any::<bool>().prop_map(Step::Suspend),
        1 => any::<bool>().prop_map(Step::Remove),
        5 => prop_oneof![
            0..10i64,
            Just(3_600i64),
            Just(-3_600i64),
            3_600..90_000i64,
            600_000..3_000_000i64,
            -100_000..0i64
        ]
        .prop_map(Step::Clock),
        1 => Just(Step::Crash),
        1 => Just(Step::Sweep),
        1 => (0..70i64).prop_map(|days| Step::PrepareLots { days }),
        1 => Just(Step::Rollup),
    ]
}
