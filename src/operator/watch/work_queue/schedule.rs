//! The order of the passes: pure, with the time as an argument.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::operator::object_ref::Name;
use crate::operator::watch::work_queue::turns::Turns;

/// Stops in a row before others get a turn: a tenant that revokes all day long must not delay others' new keys.
const STOPS_IN_A_ROW: u32 = 4;
/// Minimum delay before a failed object is retried, whatever changed during that pass: the change may have been its own
/// write coming back.
const FLOOR: Duration = Duration::from_secs(1);

/// Reasons for a pass. Later variants outweigh earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its figures or counts must be written. This alone does not retry a failed object early.
    Figures,
    /// Its spec, its Secret or an object that it waits for changed.
    Change,
    /// Its spec revokes or suspends it, or its deletion was requested. It goes ahead of everything else.
    Stop,
}

/// Limits on the passes under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    pub all: usize,
    /// The part of them reserved for stops: however slow other passes are, a revocation finds a place.
    pub for_stops: usize,
    /// The limit of one tenant.
    pub per_tenant: usize,
}

impl Places {
    /// Reserves an eighth for stops, and gives one tenant three quarters at most: enough to keep two cores busy.
    pub fn of(concurrency: u16) -> Self {
        let all = usize::from(concurrency.max(1));
        Self { all, for_stops: all / 8, per_tenant: all - all / 4 }
    }
}

/// The end of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing to do until a change.
    Settled,
    /// The object is reconciled again at this instant, although nothing changed.
    RequeueAt(Instant),
    /// The pass is retried at this instant, or earlier if something changes.
    Failed(Instant),
    /// The object is gone.
    Gone,
}

/// The urgency of a pass; the more urgent class is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Stop,
    Rest,
}

impl Class {
    fn of(cause: Cause) -> Self {
        match cause {
            Cause::Stop => Self::Stop,
            Cause::Change | Cause::Figures => Self::Rest,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting {
        class: Class,
        age: u64,
    },
    UnderWay {
        class: Class,
        again: Option<Cause>,
    },
    /// Waits until this instant, and then in this class.
    Resting {
        until: Instant,
        class: Class,
    },
}

struct Object {
    state: State,
    /// Failed passes in a row.
    failures: u32,
}

/// Holds each object once: no more than the watches know, and none that needs nothing.
pub struct Schedule {
    places: Places,
    objects: HashMap<Name, Object>,
    stops: Turns<Name>,
    rest: Turns<Name>,
    resting: BTreeSet<(Instant, Name)>,
    /// Passes under way, by tenant.
    tenants: HashMap<String, usize>,
    under_way: usize,
    /// Those of them that are not stops.
    rest_under_way: usize,
    stops_in_a_row: u32,
    next_age: u64,
}

impl Schedule {
    pub fn new(places: Places) -> Self {
        Self {
            places,
            objects: HashMap::new(),
            stops: Turns::default(),
            rest: Turns::default(),
            resting: BTreeSet::new(),
            tenants: HashMap::new(),
            under_way: 0,
            rest_under_way: 0,
            stops_in_a_row: 0,
            next_age: 0,
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.resting.is_empty() && self.tenants.is_empty()
    }

    /// Returns the number of objects that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.objects.len() - self.under_way - self.resting.len()
    }

    /// Schedules a pass for an object. One that waits keeps its place; one under way gets another pass after it.
    pub fn wake(&mut self, name: Name, cause: Cause) {
        let Some(object) = self.objects.get_mut(&name) else {
            return self.wait(name, Class::of(cause), 0);
        };
        let failures = object.failures;
        match &mut object.state {
            State::Waiting { class: Class::Rest, age } if cause == Cause::Stop => {
                let age = *age;
                self.rest.remove(name.tenant(), age);
                self.wait(name, Class::Stop, failures);
            }
            State::Waiting { .. } => {}
            State::UnderWay { again, .. } => *again = (*again).max(Some(cause)),
            State::Resting { .. } if failures > 0 && cause == Cause::Figures => {}
            State::Resting { until, class } => {
                // A failed stop stays a stop.
                let class = Class::of(cause).min(*class);
                self.resting.remove(&(*until, name.clone()));
                self.wait(name, class, failures);
            }
        }
    }

    /// Takes the next object, if there is a place for it.
    pub fn take(&mut self, now: Instant) -> Option<Name> {
        self.end_rests(now);
        let free = self.places.all - self.under_way;
        let free_for_rest = self.places.all - self.places.for_stops - self.rest_under_way;
        if free == 0 {
            return None;
        }
        let (tenants, most) = (&self.tenants, self.places.per_tenant);
        let may = |tenant: &str| tenants.get(tenant).is_none_or(|under_way| *under_way < most);
        let rest = &mut self.rest;
        let mut rest = || if free_for_rest > 0 { rest.pop(may) } else { None };
        let (name, class) = if self.stops_in_a_row < STOPS_IN_A_ROW {
            let stop = self.stops.pop(may).map(|name| (name, Class::Stop));
            stop.or_else(|| rest().map(|name| (name, Class::Rest)))
        } else {
            let other = rest().map(|name| (name, Class::Rest));
            other.or_else(|| self.stops.pop(may).map(|name| (name, Class::Stop)))
        }?;
        match class {
            Class::Stop => self.stops_in_a_row += 1,
            Class::Rest => {
                self.stops_in_a_row = 0;
                self.rest_under_way += 1;
            }
        }
        self.under_way += 1;
        *self.tenants.entry(name.tenant().to_owned()).or_default() += 1;
        if let Some(object) = self.objects.get_mut(&name) {
            object.state = State::UnderWay { class, again: None };
        }
        Some(name)
    }

    /// Returns the failures in a row of an object whose pass is under way.
    pub fn failures(&self, name: &Name) -> u32 {
        self.objects.get(name).map_or(0, |object| object.failures)
    }

    /// Counts a failure of the object whose pass is under way, and returns the failures in a row including it.
    pub fn fail(&mut self, name: &Name) -> u32 {
        let Some(object) = self.objects.get_mut(name) else { return 1 };
        object.failures = object.failures.saturating_add(1);
        object.failures
    }

    /// Ends the pass of an object that was taken.
    pub fn end(&mut self, name: Name, ended: Ended, now: Instant) {
        let Some(Object { state: State::UnderWay { class, again }, failures }) = self.objects.remove(&name) else {
            return;
        };
        self.leave_place(&name, class);
        match (ended, again) {
            (Ended::Failed(at), Some(cause @ (Cause::Change | Cause::Stop))) => {
                self.rest_until(name, at.min(now + FLOOR), class.min(Class::of(cause)), failures);
            }
            (Ended::Failed(at), Some(Cause::Figures) | None) => self.rest_until(name, at, class, failures),
            (Ended::Settled | Ended::RequeueAt(_) | Ended::Gone, Some(cause)) => self.wait(name, Class::of(cause), 0),
            (Ended::RequeueAt(at), None) => self.rest_until(name, at, Class::Rest, 0),
            (Ended::Settled | Ended::Gone, None) => {}
        }
    }

    /// Returns when the first resting object is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    fn wait(&mut self, name: Name, class: Class, failures: u32) {
        self.next_age += 1;
        let age = self.next_age;
        let turns = match class {
            Class::Stop => &mut self.stops,
            Class::Rest => &mut self.rest,
        };
        turns.push(name.tenant(), age, name.clone());
        self.objects.insert(name, Object { state: State::Waiting { class, age }, failures });
    }

    fn rest_until(&mut self, name: Name, until: Instant, class: Class, failures: u32) {
        self.resting.insert((until, name.clone()));
        self.objects.insert(name, Object { state: State::Resting { until, class }, failures });
    }

    fn end_rests(&mut self, now: Instant) {
        while self.next_due().is_some_and(|due| due <= now) {
            let Some((_, name)) = self.resting.pop_first() else { return };
            if let Some(Object { state: State::Resting { class, .. }, failures }) = self.objects.get(&name) {
                let (class, failures) = (*class, *failures);
                self.wait(name, class, failures);
            }
        }
    }

    fn leave_place(&mut self, name: &Name, class: Class) {
        self.under_way -= 1;
        if class == Class::Rest {
            self.rest_under_way -= 1;
        }
        if let Some(under_way) = self.tenants.get_mut(name.tenant()) {
            *under_way -= 1;
            if *under_way == 0 {
                self.tenants.remove(name.tenant());
            }
        }
    }
}
