//! Queue of pending status writes: the most urgent first, then in turn by namespace, and the oldest of each first.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use crate::operator::object_ref::Ref;
use crate::operator::watch::work_queue::Turns;

/// The urgency of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    Phase,
    Movement,
    Count,
}

impl Rank {
    const ALL: [Self; 3] = [Self::Phase, Self::Movement, Self::Count];
}

/// Every n-th write goes by turn alone, whatever its rank: a steady flow of movements must not keep the counts of other
/// objects from ever being shown.
const FAIR: u64 = 5;

/// Objects with a pending status write, each once: the most urgent first, then in turn by namespace.
#[derive(Default)]
pub struct StatusQueue {
    places: HashMap<Ref, (Rank, u64)>,
    /// Time since when each is due, by age.
    since: BTreeMap<u64, Timestamp>,
    by_rank: [Turns<Ref>; Rank::ALL.len()],
    by_turn: Turns<Ref>,
    arrived: u64,
    left: u64,
}

impl StatusQueue {
    /// Adds an object. If it is queued already, it keeps its age, and the more urgent of both ranks.
    pub fn push(&mut self, rank: Rank, what: Ref, now: Timestamp) {
        let tenant = what.name().tenant();
        let age = match self.places.get(&what) {
            Some((old, _)) if *old <= rank => return,
            Some((old, age)) => {
                self.by_rank[*old as usize].remove(tenant, *age);
                *age
            }
            None => {
                self.arrived += 1;
                self.by_turn.push(tenant, self.arrived, what.clone());
                self.since.insert(self.arrived, now);
                self.arrived
            }
        };
        self.by_rank[rank as usize].push(tenant, age, what.clone());
        self.places.insert(what, (rank, age));
    }

    pub fn pop(&mut self) -> Option<Ref> {
        let what = if self.left % FAIR == FAIR - 1 {
            self.by_turn.pop(|_| true)
        } else {
            self.by_rank.iter_mut().find_map(|turns| turns.pop(|_| true))
        }?;
        self.remove(&what);
        self.left += 1;
        Some(what)
    }

    /// Removes an object from the queue. Returns false if it was not queued.
    pub fn remove(&mut self, what: &Ref) -> bool {
        let Some((rank, age)) = self.places.remove(what) else { return false };
        let tenant = what.name().tenant();
        self.by_rank[rank as usize].remove(tenant, age);
        self.by_turn.remove(tenant, age);
        self.since.remove(&age);
        true
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns how long the oldest has waited.
    pub fn behind(&self, now: Timestamp) -> Duration {
        let oldest = self.since.first_key_value().map(|(_, since)| now.duration_since(*since));
        oldest.and_then(|waited| Duration::try_from(waited).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::object_ref::Name;

    const NOW: Timestamp = Timestamp::constant(1_000, 0);

    fn account(name: &str) -> Ref {
        Ref::Account(Name::new("team", name))
    }

    #[test]
    fn the_urgent_go_first_then_who_waited_longer_and_nobody_waits_for_ever() {
        let mut queue = StatusQueue::default();
        queue.push(Rank::Count, account("counted"), NOW);
        for name in ["z", "y", "x"] {
            queue.push(Rank::Movement, account(name), NOW);
        }
        queue.push(Rank::Phase, account("x"), NOW);
        assert_eq!(queue.pop(), Some(account("x")));
        assert_eq!(queue.pop(), Some(account("z")));
        // New movements arrive at every tick, and still the count is written.
        let written = (0..10).position(|index| {
            queue.push(Rank::Phase, account(&format!("busy-{index}")), NOW);
            queue.pop() == Some(account("counted"))
        });
        assert_eq!(written, Some(2));
        while queue.pop().is_some() {}
        assert!(queue.is_empty() && queue.since.is_empty());
        assert!(queue.by_rank.iter().all(Turns::is_empty) && queue.by_turn.is_empty());
    }

    #[test]
    fn a_namespace_with_a_thousand_movements_delays_another_by_one_write() {
        let mut queue = StatusQueue::default();
        let of = |namespace: &str, index: usize| Ref::Key(Name::new(namespace, format!("{index}")));
        (0..1000).for_each(|index| queue.push(Rank::Phase, of("flood", index), NOW));
        queue.push(Rank::Phase, of("quiet", 0), NOW);
        queue.push(Rank::Count, of("counted", 0), NOW);
        let written: Vec<Ref> = (0..15).filter_map(|_| queue.pop()).collect();
        assert_eq!(written[1], of("quiet", 0));
        assert!(written.contains(&of("counted", 0)), "{written:?}");
    }
}
