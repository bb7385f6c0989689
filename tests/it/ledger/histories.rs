//! Random histories: the engine and the model must agree on every verdict and every figure.

use std::sync::Arc;

use jiff::SignedDuration;
use proptest::prelude::{ProptestConfig, prop};
use proptest::test_runner::{TestCaseError, TestRunner};

use super::dedup_model::CopyEvent;
use super::incarnation::accept_as_found;
use super::model::{Asked, Model, POLICIES, account, id, kept_within, key, policy};
use super::raises::floor;
use super::steps::{Step, starts, steps};
use super::world::{self, Place, at, key_id, policy_id};
use franking::domain::credit::{Limit, Outcome, Overage, Reservation, Verdict, WhenExhausted};
use franking::domain::directory::{Entry, Suspension};
use franking::domain::fingerprint::Fingerprint;
use franking::domain::id::Holder;
use franking::domain::money::Pricing;
use franking::ledger::store::{DedupUpdate, Error, Floor, Kept, LedgerSession, Role, Settlement, Store};
use franking::runtime::clock::{Clock, ManualClock};

/// Enough that each removed rule is found in a few seconds (`make mutants`); `PROPTEST_CASES` asks for more.
const HISTORIES: u32 = 48;
/// Proptest's default number of cases.
const UNASKED: u32 = 256;
const STEPS: usize = 70;
/// First number of a flood's messages, apart from those that are sent again; a flood has enough to reach the bound
/// where caps let them pass.
const FLOOD: usize = 1_000_000;
const FLOOD_BATCH: usize = 25;
const FLOOD_ROUNDS: usize = 60;

/// Runs histories on a fresh place each. `inspect` checks the engine's own rows after each history.
pub fn random_histories_agree_with_the_model<P: Place>(fresh: impl Fn() -> P, inspect: impl Fn(&P)) {
    let asked = ProptestConfig::default();
    let cases = if asked.cases == UNASKED { HISTORIES } else { asked.cases };
    let config = ProptestConfig { cases, failure_persistence: None, ..asked };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome =
        TestRunner::new(config).run(&(starts(), prop::collection::vec(steps(), 1..STEPS)), |(start, history)| {
            runtime.block_on(async {
                let place = fresh();
                let mut run = Run::start(&place, start).await;
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
    session: LedgerSession,
    /// The previous session.
    stale: LedgerSession,
    model: Model,
    /// Each message, by its number, with its last answer.
    messages: Vec<(Asked, Option<Verdict>)>,
    /// Number of messages sent in floods.
    flooded: usize,
}

fn holders() -> [Holder; 3 + POLICIES] {
    [key(1), key(2), account(), policy(0), policy(1)]
}

impl Run {
    async fn start(place: &impl Place, start: &str) -> Self {
        let clock = ManualClock::new(at(start));
        let store = place.open(Arc::new(clock.clone()));
        let stale = store.open_session(Role::Relay, "relay-0").await.expect("a session");
        let session = store.open_session(Role::Relay, "relay-0").await.expect("a session");
        let mut run = Self { clock, store, session, stale, model: Model::default(), messages: vec![], flooded: 0 };
        run.model.tick(run.clock.now());
        for holder in holders() {
            run.model.change(holder, &world::monthly(Some(20)));
        }
        run.put().await;
        run
    }

    /// Writes all entries as the model knows them.
    async fn put(&self) {
        let rules = &self.model.rules;
        let limit = |holder| rules.limits[&holder].clone();
        let rate = |holder| rules.rates.get(&holder).copied();
        let parent = |number: usize| {
            let mut parent = world::policy(number as u128 + 1, limit(policy(number)));
            parent.overage = if rules.overage[number] { Overage::Allow } else { Overage::Deny };
            parent.prepaid = rules.prepaid.get(&policy(number)).cloned();
            parent.when_exhausted = if rules.reject[number] { WhenExhausted::Reject } else { WhenExhausted::Defer };
            let price_per_thousand_minor = rules.prices[number] / 1_000;
            let currency = "EUR".to_owned();
            parent.pricing = Some(Pricing { currency, base_price_minor: 0, price_per_thousand_minor });
            Entry::Policy(parent)
        };
        let mut of_both = world::account(1, limit(account()));
        of_both.policy = policy_id(rules.policy as u128 + 1);
        of_both.suspended = rules.suspended.then_some(Suspension { reason: None });
        of_both.removed_at = rules.removed.then_some(at("2026-01-01T00:00:00Z"));
        of_both.prepaid = rules.prepaid.get(&account()).cloned();
        of_both.spend_limit_micro = rules.spend_limit;
        of_both.rate = rate(account());
        let [mut first, mut second] = [1, 2].map(|n| world::key(n, 1, limit(key(n))));
        first.revoked = rules.revoked;
        (first.rate, second.rate) = (rate(key(1)), rate(key(2)));
        let entries = [parent(0), parent(1), Entry::Account(of_both), Entry::Key(first), Entry::Key(second)];
        self.store.put(&self.session, "test", &entries).await.expect("written");
    }

    async fn reserve(&mut self, step: &Step, numbers: &[usize]) -> Result<(), TestCaseError> {
        let batch: Vec<Reservation> =
            numbers.iter().map(|number| reservation(*number, self.messages[*number].0)).collect();
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
                None => self.model.reserve(*number, self.messages[*number].0, self.session.epoch),
            };
            expected.push(verdict);
        }
        for (number, verdict) in numbers.iter().zip(&verdicts) {
            self.messages[*number].1 = Some(verdict.clone());
        }
        agree(step, "verdicts", &verdicts, &expected)
    }

    /// Settles as the relay does that sent a message, or a copy, and does not know its outcome.
    async fn tell(&mut self, message: usize, outcome: Outcome, told: [bool; 2], late: bool) {
        // Done even if nothing is settled: every write moves the ledger's time.
        self.store.heartbeat(&self.session).await.expect("alive");
        let Some(number) = message.checked_rem(self.messages.len()) else { return };
        let (Asked { print: Some(print), .. }, answered) = &self.messages[number] else { return };
        let (print, [ended, heard]) = (*print, told);
        let (outcome, told) = match answered {
            Some(Verdict::Reserved) => (Outcome::Unknown, CopyEvent::ComeAgain { ended }),
            Some(Verdict::Resumed(_)) => (outcome, CopyEvent::StoodIn { heard }),
            // Its client was not told: the answer is left for the next copy.
            Some(Verdict::Relayed(_)) => (Outcome::NotOffered, CopyEvent::StoodIn { heard: false }),
            Some(_) | None => return,
        };
        let kept = Kept { fingerprint: fingerprint(print), within: kept_within(print) };
        let update = match told {
            CopyEvent::ComeAgain { ended: false } => DedupUpdate::Open(kept),
            CopyEvent::ComeAgain { ended: true } => DedupUpdate::Ended(kept),
            CopyEvent::StoodIn { heard } => DedupUpdate::StoodIn { fingerprint: kept.fingerprint, told: heard },
        };
        let session = if late { &self.stale } else { &self.session };
        let settlement = Settlement { message: id(number), outcome, dedup: Some(update) };
        self.store.settle(session, &[settlement]).await.expect("settled");
        self.model.tell(number, print, outcome, told, session.epoch);
    }

    /// Has the upstream refuse as many messages as it may in an hour, and some more.
    async fn flood(&mut self, step: &Step) -> Result<(), TestCaseError> {
        for _ in 0..FLOOD_ROUNDS {
            let first = FLOOD + self.flooded;
            self.flooded += FLOOD_BATCH;
            let numbers: Vec<usize> = (first..first + FLOOD_BATCH).collect();
            let asked = Asked { key: 1, credits: 1, print: None };
            let batch: Vec<Reservation> = numbers.iter().map(|number| reservation(*number, asked)).collect();
            let verdicts = self.store.reserve(&self.session, &batch).await.expect("answered");
            let expected: Vec<Verdict> =
                numbers.iter().map(|number| self.model.reserve(*number, asked, self.session.epoch)).collect();
            agree(step, "verdicts", &verdicts, &expected)?;
            let charged = numbers.into_iter().zip(verdicts).filter(|(_, verdict)| *verdict == Verdict::Reserved);
            let charged: Vec<usize> = charged.map(|(number, _)| number).collect();
            if charged.is_empty() {
                break;
            }
            self.settle(&charged, Outcome::Refused, false).await;
        }
        Ok(())
    }

    async fn begin_session(&mut self) {
        let session = self.store.open_session(Role::Relay, "relay-0").await.expect("a session");
        self.stale = std::mem::replace(&mut self.session, session);
    }

    /// Accepts the ledger as one that was replaced.
    async fn accept(&mut self, floors: &[(usize, i64)], hours: i64) {
        let seen_at = self.model.now - SignedDuration::from_hours(hours);
        let floors: Vec<Floor> = floors.iter().map(|(which, amount)| floor(*which, *amount, seen_at)).collect();
        // A removed account shows no status.
        let shown = |floor: &&Floor| floor.holder != account() || !self.model.rules.removed;
        let floors: Vec<Floor> = floors.iter().filter(shown).copied().collect();
        accept_as_found(self.store.as_ref()).await;
        self.begin_session().await;
        self.model.accept();
        for _ in 0..2 {
            // Repeating it changes nothing.
            self.store.raise(&self.session, "rebuild", &floors).await.expect("raised");
        }
        self.store.reopen(&self.session).await.expect("opened");
        floors.iter().for_each(|floor| self.model.raise(floor));
        self.model.reopen();
    }

    async fn settle(&mut self, numbers: &[usize], outcome: Outcome, late: bool) {
        let session = if late { &self.stale } else { &self.session };
        let batch: Vec<Settlement> = numbers.iter().map(|number| Settlement::of(id(*number), outcome)).collect();
        self.store.settle(session, &batch).await.expect("settled");
        for number in numbers {
            self.model.settle(*number, outcome);
        }
    }

    /// Changes one rule and writes it.
    async fn edit(&mut self, step: &Step) {
        let model = &mut self.model;
        match step {
            Step::Limit { holder, credits, calendar } => {
                let limit = Limit { credits: *credits, calendar: calendar.clone() };
                model.change(holders()[*holder], &limit);
            }
            Step::Prepaid { of, prepaid } => {
                model.prepay(of.checked_sub(1).map_or(account(), policy), prepaid.clone());
            }
            Step::Rate { holder, rate } => {
                let holder = [key(1), key(2), account()][*holder];
                match rate {
                    Some(rate) => model.rules.rates.insert(holder, *rate),
                    None => model.rules.rates.remove(&holder),
                };
            }
            Step::SpendLimit(limit) => model.rules.spend_limit = *limit,
            Step::Price(policy, price) => model.rules.prices[*policy] = *price,
            Step::Overage(policy, allowed) => model.rules.overage[*policy] = *allowed,
            Step::Reject(policy, rejects) => model.rules.reject[*policy] = *rejects,
            Step::Move(policy) => model.rules.policy = *policy,
            Step::Revoke(revoked) => model.rules.revoked = *revoked,
            Step::Suspend(suspended) => model.rules.suspended = *suspended,
            Step::Remove(removed) => model.remove(*removed),
            _ => return,
        }
        self.put().await;
    }

    async fn step(&mut self, place: &impl Place, step: &Step) -> Result<(), TestCaseError> {
        if let Step::Clock(seconds) = step {
            self.clock.advance(*seconds);
            return Ok(());
        }
        self.model.tick(self.clock.now());
        match step {
            Step::Send { messages, lost_replies } => {
                let first = self.messages.len();
                self.messages.extend(messages.iter().map(|asked| (*asked, None)));
                let numbers: Vec<usize> = (first..self.messages.len()).collect();
                for _ in 0..=*lost_replies {
                    self.reserve(step, &numbers).await?;
                }
            }
            Step::SendAgain(picks) => {
                let numbers = self.pick(picks);
                self.reserve(step, &numbers).await?;
            }
            Step::Settle { messages, outcome, late } => {
                let numbers = self.pick(messages);
                self.settle(&numbers, *outcome, *late).await;
            }
            Step::Flood => self.flood(step).await?,
            Step::Accept { floors, hours } => self.accept(floors, *hours).await,
            Step::Tell { message, outcome, ended, heard, late } => {
                self.tell(*message, *outcome, [*ended, *heard], *late).await;
            }
            Step::Crash => {
                self.store = place.open(Arc::new(self.clock.clone()));
                self.begin_session().await;
            }
            Step::Sweep => {
                let swept = self.store.sweep_sessions(&self.session, SignedDuration::MAX).await;
                agree(step, "swept", &(swept.expect("swept").len() as u64), &self.model.sweep(self.session.epoch))?;
            }
            Step::PrepareLots { days } => {
                let until = self.model.now + SignedDuration::from_hours(24 * days);
                self.store.prepare_lots(&self.session, until).await.expect("made");
            }
            Step::Rollup => {
                self.store.rollup(&self.session).await.expect("rolled");
            }
            _ => self.edit(step).await,
        }
        Ok(())
    }

    fn pick(&self, picks: &[usize]) -> Vec<usize> {
        let count = self.messages.len();
        picks.iter().filter_map(|pick| pick.checked_rem(count)).collect()
    }

    /// Compares every figure of every holder.
    async fn compare(&self, step: &Step) -> Result<(), TestCaseError> {
        let balances = self.store.balances(&holders()).await.expect("balances");
        for balance in balances {
            let (lot, now) = (&balance.lot, self.clock.now());
            let running = self.model.running(lot.holder, now);
            let used = self.model.used(lot.holder, running.window.from);
            let what = format!("{:?}", lot.holder);
            agree(step, &what, &(&lot.window, lot.begun), &(&running.window, running.begun))?;
            let left = running.granted.map(|granted| (granted - used).max(0));
            agree(step, &what, &(lot.granted, lot.used(), lot.remaining()), &(running.granted, used, left))?;
            let is_pool = matches!(lot.holder, Holder::Policy(_));
            agree(step, "only a pool is exceeded", &(is_pool || lot.overage == 0), &true)?;
            agree(step, &what, &balance.prepaid, &self.model.prepaid(lot.holder, now))?;
            agree(step, &what, &balance.usage, &self.model.usage(lot.holder, now))?;
            let spend = balance.spend.map(|spend| (spend.limit_micro, spend.used_micro, spend.unit_price));
            let rules = &self.model.rules;
            let limited = rules.spend_limit.filter(|_| lot.holder == account());
            agree(step, "spent", &spend, &limited.map(|limit| (limit, self.model.spent(), rules.price())))?;
            let ceiling = lot.granted.unwrap_or(i64::MAX).max(lot.overdraft);
            agree(step, "consumed ≤ max(granted, overdraft)", &(lot.consumed <= ceiling), &true)?;
        }
        Ok(())
    }
}

fn reservation(number: usize, Asked { key, credits, print }: Asked) -> Reservation {
    Reservation { message: id(number), key: key_id(key), credits, fingerprint: print.map(fingerprint) }
}

fn fingerprint(print: u8) -> Fingerprint {
    Fingerprint([print; 32])
}
