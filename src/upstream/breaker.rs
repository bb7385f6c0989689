//! When to stop asking an upstream that fails, and when to try again. Pure: `now` is handed in.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// Failures in a row that open it: enough that one lost connection is not an outage.
pub(super) const FAILURES_TO_OPEN: u32 = 5;
/// The first pause; it doubles with every failed probe up to [`PAUSE_MAX`]. A device retries after minutes, so a
/// pause of seconds costs no message and spares the upstream.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The longest that others wait for a probe: a transaction within the usual budget is over by then.
const PROBE_MAX: Duration = Duration::from_secs(300);
/// Different senders that hear the same refusal in a row before it is taken for a refusal of us.
const SENDERS_ALIKE: usize = 3;

/// What a finished transaction says about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It took or refused a message on its merits.
    Good,
    /// It could not be used, or it refuses us.
    Bad,
    /// The transaction says nothing about it, for example because our own pool was full.
    Silent,
}

/// How a message was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// The upstream was trusted when it began.
    Trusted,
    /// The others wait for what becomes of it.
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    /// One probe is on its way.
    HalfOpen,
    Open,
}

/// Closed → (failures in a row) → open → (pause) → one probe → closed or open again.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    /// Set while open.
    opened: Option<Pause>,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    length: Duration,
    probing: bool,
}

impl Breaker {
    /// Whether a message may try now. The first one after the pause is the probe, the others wait for its result.
    pub fn admits(&mut self, now: Instant) -> Option<Pass> {
        match &mut self.opened {
            None => Some(Pass::Trusted),
            Some(pause) if now < pause.until => None,
            Some(pause) => {
                // A probe that never reports back does not keep the others waiting for ever.
                pause.until = now + PROBE_MAX;
                pause.probing = true;
                Some(Pass::Probe)
            }
        }
    }

    /// Only the probe says how the probe went: a straggler that began before it opened, and one that was not let
    /// through, must not let others through in its place.
    pub fn note(&mut self, pass: Pass, health: Health, now: Instant) {
        match health {
            Health::Good => *self = Self::default(),
            Health::Bad => {
                self.failures = self.failures.saturating_add(1);
                let length = match &self.opened {
                    Some(pause) if pass == Pass::Probe => (pause.length * 2).min(PAUSE_MAX),
                    Some(_) => return,
                    None if self.failures < FAILURES_TO_OPEN => return,
                    None => PAUSE_MIN,
                };
                self.opened = Some(Pause { until: now + length, length, probing: false });
            }
            // A probe that said nothing hands the right to probe to the next.
            Health::Silent => {
                if let Some(pause) = &mut self.opened
                    && pass == Pass::Probe
                {
                    (pause.until, pause.probing) = (now, false);
                }
            }
        }
    }

    pub fn state(&self) -> State {
        match &self.opened {
            None => State::Closed,
            Some(pause) if pause.probing => State::HalfOpen,
            Some(_) => State::Open,
        }
    }
}

/// Refusals that different senders hear in a row, word for word: then it is not about a message.
#[derive(Debug, Default)]
pub(super) struct Streak {
    likeness: String,
    /// At most [`SENDERS_ALIKE`].
    senders: Vec<Uuid>,
}

impl Streak {
    /// Takes note of a refusal and says whether it now counts as a refusal of us.
    pub fn refused(&mut self, likeness: String, sender: Uuid) -> bool {
        if self.likeness != likeness {
            *self = Self { likeness, senders: Vec::new() };
        }
        if self.senders.len() < SENDERS_ALIKE && !self.senders.contains(&sender) {
            self.senders.push(sender);
        }
        self.senders.len() >= SENDERS_ALIKE
    }

    /// Something else was heard.
    pub fn broken(&mut self) {
        if !self.senders.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_a_good_probe() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES_TO_OPEN {
            breaker.note(Pass::Trusted, Health::Bad, start);
        }
        breaker.note(Pass::Trusted, Health::Good, start);
        for _ in 1..FAILURES_TO_OPEN {
            breaker.note(Pass::Trusted, Health::Bad, start);
            assert_eq!(breaker.admits(start), Some(Pass::Trusted), "a success in between starts the count anew");
        }
        breaker.note(Pass::Trusted, Health::Bad, start);
        assert_eq!(breaker.state(), State::Open);
        assert_eq!(breaker.admits(start), None);
        let later = start + PAUSE_MIN;
        assert_eq!(breaker.admits(later), Some(Pass::Probe));
        assert_eq!(breaker.state(), State::HalfOpen);
        assert_eq!(breaker.admits(later), None, "one probe at a time");
        for straggler in [Health::Silent, Health::Bad] {
            breaker.note(Pass::Trusted, straggler, later);
            assert_eq!((breaker.state(), breaker.admits(later)), (State::HalfOpen, None), "{straggler:?}");
        }
        breaker.note(Pass::Probe, Health::Bad, later);
        assert_eq!(breaker.admits(later + PAUSE_MIN), None, "the pause doubles");
        assert_eq!(breaker.admits(later + 2 * PAUSE_MIN), Some(Pass::Probe));
        breaker.note(Pass::Probe, Health::Silent, later + 2 * PAUSE_MIN);
        assert_eq!(
            breaker.admits(later + 2 * PAUSE_MIN),
            Some(Pass::Probe),
            "a probe that said nothing is not the last"
        );
        breaker.note(Pass::Probe, Health::Good, later);
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn three_senders_alike_are_our_fault_one_sender_thrice_is_not() {
        let sender = Uuid::from_u128;
        let mut streak = Streak::default();
        for _ in 0..5 {
            assert!(!streak.refused("554 no".into(), sender(1)));
        }
        assert!(!streak.refused("554 no".into(), sender(2)));
        assert!(streak.refused("554 no".into(), sender(3)));
        streak.broken();
        assert!(!streak.refused("554 no".into(), sender(3)));
        assert!(!streak.refused("554 else".into(), sender(1)));
        assert!(!streak.refused("554 no".into(), sender(2)));
    }
}
