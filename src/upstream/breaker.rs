//! Decides when to stop trying after failures, and when to try again. Pure: `now` is passed in.
//!
//! There is one for an upstream, which counts only failures that no sender can influence (connection, TLS, login), and
//! one for each account whose own mail keeps failing there. So no sender's failures stop another sender's mail.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open it: enough that one lost connection is not an outage.
pub(super) const FAILURES_TO_OPEN: u32 = 5;
/// The first pause; it doubles with every failed probe up to [`PAUSE_MAX`]. A device retries after minutes, so a
/// pause of seconds costs no message and spares the upstream.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Maximum time that other messages wait for a probe: a transaction within the usual budget is over by then.
const PROBE_MAX: Duration = Duration::from_secs(300);

/// The verdict of a finished transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Good,
    Bad {
        /// The upstream answered, and refuses us.
        refuses_us: bool,
    },
    /// Nothing, for example because our own pool was full.
    Silent,
}

/// The way a message was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// All was well when it began.
    Trusted,
    /// The other messages wait for its outcome.
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
    /// The last failure was a refusal of us.
    refused: bool,
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
    /// Decides whether a message may be tried now. The first one after the pause is the probe, the others wait for its
    /// result.
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

    /// Records a result. Only the probe decides how the probe went: a straggler that began before the breaker opened
    /// must not let others through in its place. Any success closes the breaker.
    pub fn note(&mut self, pass: Pass, health: Health, now: Instant) {
        match health {
            Health::Good => *self = Self::default(),
            Health::Bad { refuses_us } => self.failed(pass, refuses_us, now),
            // A probe without a verdict passes the right to probe to the next message.
            Health::Silent => {
                if let Some(pause) = &mut self.opened
                    && pass == Pass::Probe
                {
                    (pause.until, pause.probing) = (now, false);
                }
            }
        }
    }

    fn failed(&mut self, pass: Pass, refuses_us: bool, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let length = match &self.opened {
            Some(pause) if pass == Pass::Probe => (pause.length * 2).min(PAUSE_MAX),
            Some(_) => return,
            None if self.failures < FAILURES_TO_OPEN => return,
            None => PAUSE_MIN,
        };
        self.refused = refuses_us;
        self.opened = Some(Pause { until: now + length, length, probing: false });
    }

    /// True if, while open, the last failure was a refusal of us.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// True if it remembers nothing.
    pub fn is_untouched(&self) -> bool {
        self.failures == 0 && self.opened.is_none()
    }

    pub fn state(&self) -> State {
        match &self.opened {
            None => State::Closed,
            Some(pause) if pause.probing => State::HalfOpen,
            Some(_) => State::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Health = Health::Bad { refuses_us: false };

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_a_good_probe() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        assert!(breaker.is_untouched());
        for _ in 1..FAILURES_TO_OPEN {
            breaker.note(Pass::Trusted, BAD, start);
        }
        breaker.note(Pass::Trusted, Health::Good, start);
        for _ in 1..FAILURES_TO_OPEN {
            breaker.note(Pass::Trusted, BAD, start);
            assert_eq!(breaker.admits(start), Some(Pass::Trusted), "a success in between starts the count anew");
        }
        breaker.note(Pass::Trusted, Health::Bad { refuses_us: true }, start);
        assert_eq!((breaker.state(), breaker.is_refused(), breaker.is_untouched()), (State::Open, true, false));
        assert_eq!(breaker.admits(start), None);
        let later = start + PAUSE_MIN;
        assert_eq!(breaker.admits(later), Some(Pass::Probe));
        assert_eq!(breaker.state(), State::HalfOpen);
        assert_eq!(breaker.admits(later), None, "one probe at a time");
        for straggler in [Health::Silent, BAD] {
            breaker.note(Pass::Trusted, straggler, later);
            assert_eq!((breaker.state(), breaker.admits(later)), (State::HalfOpen, None), "{straggler:?}");
        }
        breaker.note(Pass::Probe, BAD, later);
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
    fn no_pause_is_longer_than_a_minute() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN {
            breaker.note(Pass::Trusted, BAD, now);
        }
        for _ in 0..20 {
            now += PAUSE_MAX;
            assert_eq!(breaker.admits(now), Some(Pass::Probe));
            breaker.note(Pass::Probe, BAD, now);
        }
    }
}
