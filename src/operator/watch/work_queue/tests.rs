//! Tests of the queue: which object has the next pass.

use std::time::{Duration, Instant};

use crate::operator::object_ref::Name;
use crate::operator::watch::work_queue::schedule::{Cause, Ended, Places, Schedule};

fn name(tenant: &str, index: usize) -> Name {
    Name::new(tenant, format!("{index}"))
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

/// Returns a schedule with one place, so that only the order is tested.
fn one_at_a_time() -> Schedule {
    Schedule::new(Places { all: 1, for_stops: 0, per_tenant: 1 })
}

/// Takes and ends until nothing waits, and returns the names in order.
fn drain(schedule: &mut Schedule, now: Instant) -> Vec<String> {
    let served = std::iter::from_fn(|| {
        let name = schedule.take(now)?;
        schedule.end(name.clone(), Ended::Settled, now);
        Some(name.to_string())
    });
    served.collect()
}

#[test]
fn one_tenants_thousand_objects_keep_nobody_waiting() {
    let (mut schedule, now) = (one_at_a_time(), Instant::now());
    (0..1000).for_each(|index| schedule.wake(name("flood", index), Cause::Change));
    schedule.wake(name("quiet", 0), Cause::Change);
    let served = drain(&mut schedule, now);
    assert_eq!(served.iter().position(|served| served == "quiet/0"), Some(1));
    assert_eq!(served.len(), 1001);
}

#[test]
fn a_stop_goes_first_and_the_rest_goes_on() {
    let (mut schedule, now) = (one_at_a_time(), Instant::now());
    (0..3).for_each(|index| schedule.wake(name("a", index), Cause::Change));
    (0..8).for_each(|index| schedule.wake(name("b", index), Cause::Stop));
    schedule.wake(name("c", 0), Cause::Stop);
    let served = drain(&mut schedule, now);
    let expected = ["b/0", "c/0", "b/1", "b/2", "a/0", "b/3", "b/4", "b/5", "b/6", "a/1", "b/7", "a/2"];
    assert_eq!(served, expected);
}

#[test]
fn an_object_that_waits_is_put_forward_when_it_is_to_stop() {
    let (mut schedule, now) = (one_at_a_time(), Instant::now());
    (0..3).for_each(|index| schedule.wake(name("a", index), Cause::Change));
    schedule.wake(name("a", 2), Cause::Stop);
    schedule.wake(name("a", 2), Cause::Change);
    assert_eq!(drain(&mut schedule, now), ["a/2", "a/0", "a/1"]);
}

#[test]
fn no_two_passes_over_one_object_and_no_wake_is_lost() {
    let (mut schedule, now) = (Schedule::new(Places::of(16)), Instant::now());
    schedule.wake(name("a", 0), Cause::Change);
    assert_eq!(schedule.take(now), Some(name("a", 0)));
    schedule.wake(name("a", 0), Cause::Change);
    schedule.wake(name("a", 0), Cause::Figures);
    assert_eq!(schedule.take(now), None);
    schedule.end(name("a", 0), Ended::Settled, now);
    assert_eq!(schedule.take(now), Some(name("a", 0)));
    schedule.end(name("a", 0), Ended::Settled, now);
    assert_eq!(schedule.take(now), None);
    assert_eq!(schedule.waiting(), 0);
}

#[test]
fn a_place_is_left_for_a_stop_and_one_for_another_tenant() {
    let (mut schedule, now) = (Schedule::new(Places::of(16)), Instant::now());
    let taken = |schedule: &mut Schedule| std::iter::from_fn(|| schedule.take(now)).count();
    (0..100).for_each(|index| schedule.wake(name("flood", index), Cause::Change));
    assert_eq!(taken(&mut schedule), 12);
    (0..100).for_each(|index| schedule.wake(name("another", index), Cause::Change));
    assert_eq!(taken(&mut schedule), 2);
    (0..100).for_each(|index| schedule.wake(name("third", index), Cause::Stop));
    assert_eq!(taken(&mut schedule), 2);
    schedule.end(name("another", 0), Ended::Settled, now);
    assert_eq!(schedule.take(now).map(|name| name.namespace), Some("third".to_owned()));
}

#[test]
fn the_smallest_queue_works() {
    let (mut schedule, now) = (Schedule::new(Places::of(0)), Instant::now());
    schedule.wake(name("a", 0), Cause::Stop);
    schedule.wake(name("a", 1), Cause::Change);
    assert_eq!(drain(&mut schedule, now), ["a/0", "a/1"]);
}

#[test]
fn each_policy_has_a_turn_of_its_own() {
    let (mut schedule, now) = (Schedule::new(Places { all: 8, for_stops: 0, per_tenant: 1 }), Instant::now());
    ["gold", "silver"].iter().for_each(|policy| schedule.wake(Name::new("", *policy), Cause::Change));
    assert!(schedule.take(now).is_some() && schedule.take(now).is_some());
}

#[test]
fn figures_do_not_shorten_a_back_off_and_a_change_does() {
    let start = Instant::now();
    let mut schedule = one_at_a_time();
    let fail = |schedule: &mut Schedule, now| {
        let taken = schedule.take(now).expect("its turn");
        assert_eq!(taken, name("a", 0));
        let failures = schedule.fail(&taken);
        schedule.end(taken, Ended::Failed(after(now, 100)), now);
        failures
    };
    schedule.wake(name("a", 0), Cause::Change);
    assert_eq!(fail(&mut schedule, start), 1);
    schedule.wake(name("a", 0), Cause::Figures);
    assert_eq!(schedule.take(after(start, 99)), None);
    assert_eq!(schedule.next_due(), Some(after(start, 100)));
    assert_eq!(fail(&mut schedule, after(start, 100)), 2);
    schedule.wake(name("a", 0), Cause::Change);
    assert_eq!(fail(&mut schedule, after(start, 101)), 3);
    // Once it has succeeded, figures cause a pass like any other reason.
    schedule.wake(name("a", 0), Cause::Stop);
    assert_eq!(drain(&mut schedule, after(start, 102)), ["a/0"]);
    schedule.wake(name("a", 0), Cause::Figures);
    assert_eq!(schedule.take(after(start, 103)), Some(name("a", 0)));
    assert_eq!(schedule.fail(&name("a", 0)), 1);
}

#[test]
fn what_changed_during_a_pass_that_failed_waits_a_second() {
    let start = Instant::now();
    for (cause, due) in [(Cause::Figures, 100), (Cause::Change, 1), (Cause::Stop, 1)] {
        let mut schedule = one_at_a_time();
        schedule.wake(name("a", 0), Cause::Change);
        let taken = schedule.take(start).expect("its turn");
        schedule.wake(name("a", 0), cause);
        schedule.end(taken, Ended::Failed(after(start, 100)), start);
        assert_eq!(schedule.next_due(), Some(after(start, due)), "{cause:?}");
        assert_eq!(drain(&mut schedule, after(start, due)), ["a/0"]);
    }
}

#[test]
fn a_stop_that_failed_is_still_one() {
    let (mut schedule, start) = (one_at_a_time(), Instant::now());
    schedule.wake(name("a", 0), Cause::Stop);
    let taken = schedule.take(start).expect("its turn");
    schedule.end(taken, Ended::Failed(after(start, 1)), start);
    (1..4).for_each(|index| schedule.wake(name("b", index), Cause::Change));
    assert_eq!(drain(&mut schedule, after(start, 1)).first().map(String::as_str), Some("a/0"));
}

#[test]
fn an_instant_is_kept_and_a_change_before_it_replaces_it() {
    let (mut schedule, start) = (one_at_a_time(), Instant::now());
    schedule.wake(name("a", 0), Cause::Change);
    let taken = schedule.take(start).expect("its turn");
    schedule.end(taken, Ended::RequeueAt(after(start, 60)), start);
    assert_eq!((schedule.waiting(), schedule.take(after(start, 59))), (0, None));
    schedule.wake(name("a", 0), Cause::Figures);
    assert_eq!(drain(&mut schedule, after(start, 59)), ["a/0"]);
    assert_eq!(schedule.next_due(), None);
}

#[test]
fn nothing_is_kept_of_what_needs_nothing() {
    let (mut schedule, now) = (Schedule::new(Places::of(4)), Instant::now());
    for index in 0..100 {
        schedule.wake(name("a", index), Cause::Change);
        let taken = schedule.take(now).expect("its turn");
        schedule.fail(&taken);
        let ended = if index % 2 == 0 { Ended::Gone } else { Ended::Settled };
        schedule.end(taken, ended, now);
    }
    assert!(schedule.is_empty());
}
