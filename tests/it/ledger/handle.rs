//! The handle ([`Ledger`]) over an engine that fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::faulty::{Fault, Faulty};
use super::world::{Place, World, chain};
use crate::intercepted::Intercepted;
use franking::domain::credit::{Outcome, Reservation, Verdict};
use franking::domain::id::MessageId;
use franking::ledger::Ledger;
use franking::ledger::store::{DedupUpdate, Error, FINGERPRINT_KEPT, Kept, Role, Settlement};
use franking::runtime::metrics::{Registry, render};

/// Timeout longer than any step here takes, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two checks of an awaited condition: the wait must not take the processor from the work.
const LOOK: Duration = Duration::from_millis(1);

struct Desk {
    world: World,
    faulty: Arc<Intercepted<Faulty>>,
    ledger: Ledger,
    registry: Registry,
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

async fn desk(place: &impl Place, cap: Option<i64>) -> Desk {
    let world = World::with(place, None, cap, None).await;
    let faulty = Faulty::in_front_of(world.store.clone());
    let registry = Registry::new();
    let name = "relay-1".to_owned();
    let ledger =
        Ledger::start(faulty.clone(), Role::Relay, name, &registry, Arc::new(|_| Ok(())), CancellationToken::new())
            .await
            .expect("a ledger");
    Desk { world, faulty, ledger, registry }
}

impl Desk {
    fn fail(&self, reserve: &[Fault], settle: &[Fault]) {
        self.faulty.reserve.lock().expect("no panic").extend(reserve);
        self.faulty.settle.lock().expect("no panic").extend(settle);
    }

    async fn send(&mut self, credits: u32) -> (MessageId, Result<Verdict, Error>) {
        let reservation = self.world.reservation(credits);
        (reservation.message, self.ledger.reserve(reservation, soon()).await)
    }

    /// Waits until the store had so many calls.
    async fn until_asked(&self, calls: usize) {
        let reached = async {
            while self.faulty.batches.lock().expect("no panic").len() < calls {
                tokio::time::sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("the store was never asked {calls} times"));
    }

    /// Waits until the account has consumed `credits`.
    async fn settles_at(&self, credits: i64) {
        let reached = async {
            while self.world.consumed().await[1] != credits || self.ledger.unsettled() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("never came to {credits} credits"));
        self.world.check().await;
    }
}

pub async fn a_call_without_an_answer_is_asked_again_and_charged_once(place: &impl Place) {
    let mut desk = desk(place, Some(5)).await;
    desk.fail(&[Fault::LostReply, Fault::LostRequest, Fault::Fenced, Fault::LostReply], &[]);
    let (_, verdict) = desk.send(2).await;
    assert_eq!(verdict.expect("answered"), Verdict::Reserved);
    desk.settles_at(2).await;
}

pub async fn a_charge_that_comes_after_the_deadline_is_given_back(place: &impl Place) {
    let mut desk = desk(place, Some(5)).await;
    let permits = desk.faulty.permits.acquire_many(1_000_000).await.expect("all");
    let reservation = desk.world.reservation(2);
    let deadline = Instant::now() + Duration::from_millis(300);
    let late = desk.ledger.reserve(reservation, deadline).await;
    desk.until_asked(1).await;
    assert!(matches!(late, Err(Error::Unavailable { .. })), "{late:?}");
    drop(permits);
    let (_, verdict) = desk.send(1).await;
    assert_eq!(verdict.expect("answered"), Verdict::Reserved);
    desk.settles_at(1).await;
    assert_eq!(desk.world.balance(chain()[1]).await.usage.not_offered, 2);
}

pub async fn a_caller_that_goes_away_is_not_charged(place: &impl Place) {
    let mut desk = desk(place, Some(5)).await;
    let permits = desk.faulty.permits.acquire_many(1_000_000).await.expect("all");
    let (first, second) = (desk.world.reservation(1), desk.world.reservation(2));
    let (ledger, other) = (desk.ledger.clone(), desk.ledger.clone());
    let asked = tokio::spawn(async move { ledger.reserve(first, soon()).await });
    desk.until_asked(1).await;
    let queued = tokio::spawn(async move { other.reserve(second, soon()).await });
    tokio::task::yield_now().await;
    asked.abort();
    queued.abort();
    assert!(asked.await.expect_err("aborted").is_cancelled() && queued.await.expect_err("aborted").is_cancelled());
    drop(permits);
    let (message, verdict) = desk.send(4).await;
    assert_eq!(verdict.expect("answered"), Verdict::Reserved);
    desk.ledger.settle(Settlement::of(message, Outcome::Relayed));
    desk.settles_at(4).await;
}

pub async fn a_full_disk_is_answered_at_once_and_heals(place: &impl Place) {
    let mut desk = desk(place, Some(5)).await;
    desk.fail(&[Fault::DiskFull], &[]);
    assert!(matches!(desk.send(1).await.1, Err(Error::Full)));
    let (_, verdict) = desk.send(1).await;
    assert_eq!(verdict.expect("answered"), Verdict::Reserved);
    // If an earlier try may have charged, its charge is given back.
    desk.fail(&[Fault::LostReply, Fault::DiskFull], &[]);
    assert!(matches!(desk.send(2).await.1, Err(Error::Full)));
    desk.settles_at(1).await;
}

pub async fn one_message_that_cannot_be_written_does_not_stop_the_others(place: &impl Place) {
    let mut desk = desk(place, Some(50)).await;
    let poison = desk.world.reservation(7);
    *desk.faulty.poison.lock().expect("no panic") = Some(poison.message);
    let permits = desk.faulty.permits.acquire_many(1_000_000).await.expect("all");
    let mut asks = vec![];
    for reservation in [desk.world.reservation(1), poison.clone(), desk.world.reservation(1)] {
        let ledger = desk.ledger.clone();
        let message = reservation.message;
        asks.push((message, tokio::spawn(async move { ledger.reserve(reservation, soon()).await })));
    }
    drop(permits);
    for (message, ask) in asks {
        let answer = ask.await.expect("no panic");
        assert_eq!(answer.is_ok(), message != poison.message, "{answer:?}");
    }
    // The same for its outcome.
    desk.ledger.settle(Settlement::of(poison.message, Outcome::Refused));
    let (message, _) = desk.send(3).await;
    desk.ledger.settle(Settlement::of(message, Outcome::Refused));
    let written = async {
        while desk.world.consumed().await[1] != 2 {
            tokio::time::sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, written).await.expect("the others are written");
    assert_eq!(desk.ledger.unsettled(), 1, "it is still not forgotten");
}

pub async fn outcomes_are_retried_until_they_are_written(place: &impl Place) {
    let mut desk = desk(place, Some(5)).await;
    let (message, _) = desk.send(3).await;
    desk.fail(&[], &[Fault::LostRequest, Fault::DiskFull, Fault::LostReply]);
    desk.ledger.settle(Settlement::of(message, Outcome::Refused));
    desk.settles_at(0).await;
}

pub async fn draining_writes_what_waits_and_closes_the_session(place: &impl Place) {
    let mut desk = desk(place, Some(50)).await;
    let mut messages = vec![];
    for _ in 0..10 {
        messages.push(desk.send(1).await.0);
    }
    desk.fail(&[], &[Fault::LostRequest]);
    for message in messages {
        desk.ledger.settle(Settlement::of(message, Outcome::Refused));
    }
    assert_eq!(desk.ledger.drain(soon()).await, 0);
    assert_eq!(desk.world.consumed().await, [0; 3]);
    let session = desk.ledger.session().await;
    assert!(matches!(desk.world.store.heartbeat(&session).await, Err(Error::Fenced)));
    assert!(desk.send(1).await.1.is_err(), "nothing new is taken");
}

pub async fn what_cannot_be_written_by_the_deadline_is_counted(place: &impl Place) {
    let mut desk = desk(place, None).await;
    let (message, _) = desk.send(1).await;
    *desk.faulty.poison.lock().expect("no panic") = Some(message);
    desk.ledger.settle(Settlement::of(message, Outcome::Refused));
    assert_eq!(desk.ledger.drain(Instant::now() + Duration::from_millis(50)).await, 1);
}

pub async fn a_given_up_session_is_renewed(place: &impl Place) {
    let mut desk = desk(place, None).await;
    let stale = desk.ledger.session().await;
    desk.world.store.close_session(&stale).await.expect("closed");
    assert_eq!(desk.send(1).await.1.expect("answered"), Verdict::Reserved);
    let renewed = desk.ledger.session().await;
    assert_eq!((renewed.id, renewed.epoch), (stale.id, stale.epoch + 1));
    assert_eq!(desk.ledger.renew(&stale).await.expect("renewed"), renewed, "it is renewed once");
}

pub async fn batches_grow_with_the_load_and_limits_hold(place: &impl Place) {
    const ASKED: usize = 1_200;
    let mut desk = desk(place, Some(700)).await;
    let permits = desk.faulty.permits.acquire_many(1_000_000).await.expect("all");
    let reservations: Vec<Reservation> = (0..ASKED).map(|_| desk.world.reservation(1)).collect();
    let mut asks = tokio::task::JoinSet::new();
    for reservation in reservations {
        let ledger = desk.ledger.clone();
        asks.spawn(async move { ledger.reserve(reservation, soon()).await.expect("answered") == Verdict::Reserved });
    }
    drop(permits);
    let reserved = asks.join_all().await.into_iter().filter(|reserved| *reserved).count();
    assert_eq!(reserved, 700);
    let batches = desk.faulty.batches.lock().expect("no panic").clone();
    assert!(batches.iter().all(|size| *size <= 500) && batches.iter().sum::<usize>() == ASKED, "{batches:?}");
    assert!(batches.len() < ASKED / 4, "{} batches", batches.len());
    let text = render(&desk.registry);
    assert!(text.contains("franking_ledger_verdicts_total{role=\"relay\",verdict=\"account.cap\"} 500"), "{text}");
}

pub async fn a_kept_fingerprint_is_there_when_its_keeper_says_so(place: &impl Place) {
    let mut desk = desk(place, None).await;
    let first = desk.world.copy(7);
    assert_eq!(desk.ledger.reserve(first.clone(), soon()).await.expect("answered"), Verdict::Reserved);
    let kept = |fingerprint| Kept { fingerprint, within: FINGERPRINT_KEPT };
    let dedup = first.fingerprint.map(kept).map(DedupUpdate::Open);
    desk.fail(&[], &[Fault::LostRequest, Fault::LostReply]);
    let kept = Settlement { message: first.message, outcome: Outcome::Unknown, dedup };
    desk.ledger.settle_written(kept, soon()).await;
    let copy = desk.world.copy(7);
    assert_eq!(desk.world.ask(&copy).await, Verdict::UnderWay(first.message));
    // The answer of a caller that goes away is left for the next one.
    desk.ledger.settle(Settlement::of(first.message, Outcome::Relayed));
    desk.settles_at(1).await;
    let gone = desk.world.copy(7);
    let permits = desk.faulty.permits.acquire_many(1_000_000).await.expect("all");
    let answer = desk.ledger.reserve(gone, Instant::now() + Duration::from_millis(10)).await;
    assert!(answer.is_err(), "{answer:?}");
    drop(permits);
    let heard = async {
        loop {
            let next = desk.world.copy(7);
            match desk.ledger.reserve(next, soon()).await.expect("answered") {
                Verdict::Relayed(message) => return message,
                // The lost answer is not given back yet: this one is charged, and given back.
                Verdict::Reserved => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(timeout(PATIENCE, heard).await.expect("answered in time"), first.message);
}
