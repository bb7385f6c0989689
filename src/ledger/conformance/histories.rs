//! Random histories: the engine and the model must agree on every verdict and every figure.

use std::sync::Arc;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop};
use proptest::prop_oneof;
use proptest::test_runner::{TestCaseError, TestRunner};
use uuid::Uuid;

use super::model::{Model, account, key, policy};
use super::world::{self, Place, START, at, key_id};
use crate::domain::credit::{Limit, Outcome, Reservation};
use crate::domain::directory::{Entry, Suspension};
use crate::domain::id::{Holder, MessageId};
use crate::domain::period::{Calendar, Period};
use crate::ledger::store::{Error, Role, Session, Settlement, Store};
use crate::runtime::clock::{Clock, ManualClock};

/// Enough that each removed rule was found in a few seconds when they were tried (see the mutants in the room's
/// history); a nightly run may raise it.
const HISTORIES: u32 = 48;
const STEPS: usize = 70;

#[derive(Clone, Debug)]
enum Step {
    /// New messages in one call: key and credits of each.
    Send(Vec<(u128, u32)>),
    /// Messages asked for before, whatever became of them, in one call; some may be there twice.
    SendAgain(Vec<usize>),
    Settle {
        messages: Vec<usize>,
        outcome: Outcome,
        /// By the session before this one.
        late: bool,
    },
    Limit {
        holder: usize,
        credits: Option<i64>,
        calendar: Calendar,
    },
    Revoke(bool),
    Suspend(bool),
    Clock(i64),
    /// Everything in memory is lost; the old session is stale from here on.
    Crash,
    Sweep,
    PrepareLots {
        days: i64,
    },
    Rollup,
}

fn calendars() -> impl Strategy<Value = Calendar> {
    let period = prop_oneof![
        Just((Period::Daily, 1)),
        Just((Period::Weekly, 3)),
        Just((Period::Monthly, 1)),
        Just((Period::Monthly, 31))
    ];
    (period, prop_oneof![3 => Just("UTC"), 1 => Just("Asia/Kolkata")])
        .prop_map(|((period, anchor), zone)| Calendar::new(period, anchor, zone).expect("a calendar"))
}

fn steps() -> impl Strategy<Value = Step> {
    let outcome = prop::sample::select(Outcome::ALL.to_vec());
    prop_oneof![
        8 => prop::collection::vec((1..=2u128, 1..=4u32), 1..6).prop_map(Step::Send),
        2 => prop::collection::vec(any::<usize>(), 1..4).prop_map(Step::SendAgain),
        6 => (prop::collection::vec(any::<usize>(), 1..4), outcome, any::<bool>())
            .prop_map(|(messages, outcome, late)| Step::Settle { messages, outcome, late }),
        5 => (0..4usize, prop::option::weighted(0.8, 0..40i64), calendars())
            .prop_map(|(holder, credits, calendar)| Step::Limit { holder, credits, calendar }),
        1 => any::<bool>().prop_map(Step::Revoke),
        1 => any::<bool>().prop_map(Step::Suspend),
        4 => prop_oneof![0..10i64, 3_600..90_000i64, 600_000..3_000_000i64, -100_000..0i64].prop_map(Step::Clock),
        1 => Just(Step::Crash),
        1 => Just(Step::Sweep),
        1 => (0..70i64).prop_map(|days| Step::PrepareLots { days }),
        1 => Just(Step::Rollup),
    ]
}

/// Runs histories on a fresh place each. `inspect` looks at the engine's own rows after each history.
pub fn random_histories_agree_with_the_model<P: Place>(fresh: impl Fn() -> P, inspect: impl Fn(&P)) {
    let config = ProptestConfig { cases: HISTORIES, failure_persistence: None, ..ProptestConfig::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = TestRunner::new(config).run(&prop::collection::vec(steps(), 1..STEPS), |history| {
        runtime.block_on(async {
            let place = fresh();
            let mut run = Run::start(&place).await;
            for step in &history {
                run.step(&place, step).await?;
                run.compare(step).await?;
            }
            inspect(&place);
            let wrong = run.store.check().await.expect("checked");
            agree(&"the end", "check", &wrong, &vec![])
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

fn agree<T: PartialEq + std::fmt::Debug>(
    step: &dyn std::fmt::Debug,
    what: &str,
    engine: &T,
    model: &T,
) -> Result<(), TestCaseError> {
    if engine == model {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("{what} after {step:?}: the engine says {engine:?}, the model {model:?}")))
}

struct Run {
    clock: ManualClock,
    store: Arc<dyn Store>,
    session: Session,
    /// The one before.
    stale: Session,
    model: Model,
    /// Key and credits of each message, by its number.
    messages: Vec<(u128, u32)>,
}

fn holders() -> [Holder; 4] {
    [key(1), key(2), account(), policy()]
}

impl Run {
    async fn start(place: &impl Place) -> Self {
        let clock = ManualClock::new(at(START));
        let store = place.open(Arc::new(clock.clone()));
        let stale = store.open_session(Role::Relay, "relay-0").await.expect("a session");
        let session = store.open_session(Role::Relay, "relay-0").await.expect("a session");
        let mut run = Self { clock, store, session, stale, model: Model::default(), messages: vec![] };
        run.model.tick(run.clock.now());
        for holder in holders() {
            run.model.change(holder, &world::monthly(Some(20)));
        }
        run.put().await;
        run
    }

    /// Writes all entries as the model knows them.
    async fn put(&self) {
        let limit = |holder| self.model.limits[&holder].clone();
        let mut first = world::key(1, 1, limit(key(1)));
        first.revoked = self.model.revoked;
        let mut of_both = world::account(1, limit(account()));
        of_both.suspended = self.model.suspended.then_some(Suspension { reason: None });
        let entries = [
            Entry::Policy(world::policy(1, limit(policy()))),
            Entry::Account(of_both),
            Entry::Key(first),
            Entry::Key(world::key(2, 1, limit(key(2)))),
        ];
        self.store.put(&self.session, "test", &entries).await.expect("written");
    }

    async fn reserve(&mut self, step: &Step, numbers: &[usize]) -> Result<(), TestCaseError> {
        let batch: Vec<Reservation> = numbers
            .iter()
            .map(|number| {
                let (of, credits) = self.messages[*number];
                Reservation { message: id(*number), key: key_id(of), credits }
            })
            .collect();
        let fenced = self.store.reserve(&self.stale, &batch).await;
        if !matches!(fenced, Err(Error::Fenced)) {
            return Err(TestCaseError::fail(format!("a stale session was answered {fenced:?}")));
        }
        let verdicts = self.store.reserve(&self.session, &batch).await.expect("answered");
        let mut expected = vec![];
        for (index, number) in numbers.iter().enumerate() {
            // A message that is there twice is answered the same twice.
            let verdict = match numbers[..index].iter().position(|earlier| earlier == number) {
                Some(earlier) => Clone::clone(&expected[earlier]),
                None => {
                    let (of, credits) = self.messages[*number];
                    self.model.reserve(*number, of, i64::from(credits), self.session.epoch)
                }
            };
            expected.push(verdict);
        }
        agree(step, "verdicts", &verdicts, &expected)
    }

    async fn step(&mut self, place: &impl Place, step: &Step) -> Result<(), TestCaseError> {
        if let Step::Clock(seconds) = step {
            self.clock.advance(*seconds);
            return Ok(());
        }
        self.model.tick(self.clock.now());
        match step {
            Step::Send(sent) => {
                let first = self.messages.len();
                self.messages.extend(sent);
                let numbers: Vec<usize> = (first..self.messages.len()).collect();
                self.reserve(step, &numbers).await?;
            }
            Step::SendAgain(picks) => {
                let numbers = self.pick(picks);
                self.reserve(step, &numbers).await?;
            }
            Step::Settle { messages, outcome, late } => {
                let session = if *late { &self.stale } else { &self.session };
                let numbers = self.pick(messages);
                let batch: Vec<Settlement> =
                    numbers.iter().map(|number| Settlement { message: id(*number), outcome: *outcome }).collect();
                self.store.settle(session, &batch).await.expect("settled");
                for number in numbers {
                    self.model.settle(number, *outcome);
                }
            }
            Step::Limit { holder, credits, calendar } => {
                let limit = Limit { credits: *credits, calendar: calendar.clone() };
                self.model.change(holders()[*holder], &limit);
                self.put().await;
            }
            Step::Revoke(revoked) => {
                self.model.revoked = *revoked;
                self.put().await;
            }
            Step::Suspend(suspended) => {
                self.model.suspended = *suspended;
                self.put().await;
            }
            Step::Crash => {
                self.store = place.open(Arc::new(self.clock.clone()));
                let session = self.store.open_session(Role::Relay, "relay-0").await.expect("a session");
                self.stale = std::mem::replace(&mut self.session, session);
            }
            Step::Sweep => {
                let swept = self.store.sweep_sessions(&self.session, jiff::SignedDuration::MAX).await;
                agree(step, "swept", &swept.expect("swept"), &self.model.sweep(self.session.epoch))?;
            }
            Step::PrepareLots { days } => {
                let until = self.model.now + jiff::SignedDuration::from_hours(24 * days);
                self.store.prepare_lots(&self.session, until).await.expect("made");
            }
            Step::Rollup => {
                self.store.rollup(&self.session).await.expect("rolled");
            }
            Step::Clock(_) => {}
        }
        Ok(())
    }

    fn pick(&self, picks: &[usize]) -> Vec<usize> {
        let count = self.messages.len();
        picks.iter().filter_map(|pick| pick.checked_rem(count)).collect()
    }

    /// Every figure of every holder.
    async fn compare(&self, step: &Step) -> Result<(), TestCaseError> {
        let balances = self.store.balances(&holders()).await.expect("balances");
        for balance in balances {
            let lot = &balance.lot;
            let mut model = self.model.running(lot.holder, self.clock.now());
            model.usage.accepted = model.consumed;
            let what = format!("{:?}", lot.holder);
            agree(step, &what, &(lot.window.from, lot.window.to), &(model.from, model.to))?;
            agree(step, &what, &(lot.granted, lot.consumed), &(model.granted, model.consumed))?;
            agree(step, &what, &balance.usage, &model.usage)?;
            let ceiling = lot.granted.unwrap_or(i64::MAX).max(lot.overhang);
            agree(step, "consumed ≤ max(granted, overhang)", &(lot.consumed <= ceiling), &true)?;
        }
        Ok(())
    }
}

fn id(number: usize) -> MessageId {
    MessageId(Uuid::from_u128(number as u128 + 1))
}
