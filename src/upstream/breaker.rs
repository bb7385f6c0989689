//! When to stop asking an upstream that fails, and when to try again. Pure: `now` is handed in.
//!
//! Several senders share it, and what one of them sends must not stop the others' mail: its own refused sender address,
//! or a dialogue that the upstream ends because of its recipients, fails like an outage does. So as soon as several
//! senders use an upstream, failures of one alone neither open it nor keep it open.

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
    Bad(Failing),
    /// The transaction says nothing about it, for example because our own pool was full.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failing {
    pub blame: Blame,
    /// It answered, and does not want us.
    pub refuses_us: bool,
}

/// Whose doing it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// No sender had a say: the connection, its TLS, the login.
    Upstream,
    /// It failed in this sender's transaction.
    Sender(Uuid),
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
    culprit: Culprit,
    /// The last failure was a refusal of us.
    refused: bool,
    /// Set while open.
    opened: Option<Pause>,
    users: Users,
}

/// Who failed since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Culprit {
    #[default]
    Nobody,
    One(Uuid),
    /// Several senders, or the upstream by itself.
    Many,
}

/// Who has used the upstream, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Users {
    #[default]
    None,
    One(Uuid),
    Several,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    length: Duration,
    probing: bool,
    /// Its probe failed in its own transaction: until then others are asked to probe.
    barred: Option<(Uuid, Instant)>,
}

impl Breaker {
    /// Whether a message of `sender` may try now. The first one after the pause is the probe, the others wait for its
    /// result.
    pub fn admits(&mut self, sender: Uuid, now: Instant) -> Option<Pass> {
        self.users = match self.users {
            Users::None => Users::One(sender),
            Users::One(known) if known == sender => Users::One(known),
            Users::One(_) | Users::Several => Users::Several,
        };
        match &mut self.opened {
            None => Some(Pass::Trusted),
            Some(pause) if now < pause.until => None,
            Some(Pause { barred: Some((barred, until)), .. }) if *barred == sender && now < *until => None,
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
            Health::Good => *self = Self { users: self.users, ..Self::default() },
            Health::Bad(failing) => self.failed(pass, failing, now),
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

    fn failed(&mut self, pass: Pass, failing: Failing, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.culprit = match (self.culprit, failing.blame) {
            (Culprit::Nobody, Blame::Sender(sender)) => Culprit::One(sender),
            (Culprit::One(known), Blame::Sender(sender)) if known == sender => Culprit::One(known),
            (Culprit::Nobody | Culprit::One(_) | Culprit::Many, _) => Culprit::Many,
        };
        let shared = self.users == Users::Several;
        let length = match &mut self.opened {
            Some(pause) if pass == Pass::Probe => {
                if let Blame::Sender(sender) = failing.blame
                    && shared
                    && pause.barred.is_none_or(|(barred, _)| barred == sender)
                {
                    // It may be the sender's own doing: whoever else has mail finds out.
                    (pause.until, pause.probing) = (now, false);
                    pause.barred = Some((sender, now + pause.length));
                    return;
                }
                (pause.length * 2).min(PAUSE_MAX)
            }
            Some(_) => return,
            None if self.failures < FAILURES_TO_OPEN => return,
            None if shared && matches!(self.culprit, Culprit::One(_)) => return,
            None => PAUSE_MIN,
        };
        self.refused = failing.refuses_us;
        self.opened = Some(Pause { until: now + length, length, probing: false, barred: None });
    }

    /// While open: whether it refuses us, rather than that it cannot be used.
    pub fn is_refused(&self) -> bool {
        self.refused
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

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);
    const BAD: Health = Health::Bad(Failing { blame: Blame::Upstream, refuses_us: false });

    fn fails(sender: Uuid) -> Health {
        Health::Bad(Failing { blame: Blame::Sender(sender), refuses_us: true })
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_a_good_probe() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES_TO_OPEN {
            breaker.note(Pass::Trusted, BAD, start);
        }
        breaker.note(Pass::Trusted, Health::Good, start);
        for _ in 1..FAILURES_TO_OPEN {
            breaker.note(Pass::Trusted, BAD, start);
            assert_eq!(breaker.admits(A, start), Some(Pass::Trusted), "a success in between starts the count anew");
        }
        breaker.note(Pass::Trusted, BAD, start);
        assert_eq!(breaker.state(), State::Open);
        assert_eq!(breaker.admits(A, start), None);
        let later = start + PAUSE_MIN;
        assert_eq!(breaker.admits(A, later), Some(Pass::Probe));
        assert_eq!(breaker.state(), State::HalfOpen);
        assert_eq!(breaker.admits(A, later), None, "one probe at a time");
        for straggler in [Health::Silent, BAD] {
            breaker.note(Pass::Trusted, straggler, later);
            assert_eq!((breaker.state(), breaker.admits(A, later)), (State::HalfOpen, None), "{straggler:?}");
        }
        breaker.note(Pass::Probe, BAD, later);
        assert_eq!(breaker.admits(A, later + PAUSE_MIN), None, "the pause doubles");
        assert_eq!(breaker.admits(A, later + 2 * PAUSE_MIN), Some(Pass::Probe));
        breaker.note(Pass::Probe, Health::Silent, later + 2 * PAUSE_MIN);
        assert_eq!(
            breaker.admits(A, later + 2 * PAUSE_MIN),
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

    /// A breaker that `users` have used.
    fn used_by(users: &[Uuid], now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for user in users {
            assert_eq!(breaker.admits(*user, now), Some(Pass::Trusted));
            breaker.note(Pass::Trusted, Health::Good, now);
        }
        breaker
    }

    #[test]
    fn one_sender_among_several_does_not_open_it() {
        let now = Instant::now();
        let mut shared = used_by(&[A, B], now);
        for _ in 0..10 * FAILURES_TO_OPEN {
            shared.note(Pass::Trusted, fails(A), now);
        }
        assert_eq!(shared.admits(B, now), Some(Pass::Trusted));
        shared.note(Pass::Trusted, fails(B), now);
        assert_eq!((shared.state(), shared.is_refused()), (State::Open, true), "now it is not A's doing alone");
        let mut lonely = used_by(&[A], now);
        for _ in 0..FAILURES_TO_OPEN {
            lonely.note(Pass::Trusted, fails(A), now);
        }
        assert_eq!(lonely.state(), State::Open, "nobody else is hurt");
    }

    #[test]
    fn one_sender_among_several_does_not_keep_it_open() {
        let start = Instant::now();
        let mut breaker = used_by(&[A, B], start);
        for _ in 0..FAILURES_TO_OPEN {
            breaker.note(Pass::Trusted, BAD, start);
        }
        let later = start + PAUSE_MIN;
        assert_eq!(breaker.admits(A, later), Some(Pass::Probe));
        breaker.note(Pass::Probe, fails(A), later);
        assert_eq!(breaker.admits(A, later), None, "others are asked first");
        assert_eq!(breaker.admits(B, later), Some(Pass::Probe));
        breaker.note(Pass::Probe, Health::Good, later);
        assert_eq!(breaker.state(), State::Closed);

        for _ in 0..FAILURES_TO_OPEN {
            breaker.note(Pass::Trusted, BAD, start);
        }
        for sender in [A, B] {
            assert_eq!(breaker.admits(sender, later), Some(Pass::Probe));
            breaker.note(Pass::Probe, fails(sender), later);
        }
        assert_eq!(breaker.admits(B, later + PAUSE_MIN), None, "both failed: the pause doubles");
        assert_eq!(breaker.admits(A, later + 2 * PAUSE_MIN), Some(Pass::Probe));
        breaker.note(Pass::Probe, fails(A), later + 2 * PAUSE_MIN);
        let patient = later + 4 * PAUSE_MIN;
        assert_eq!(breaker.admits(A, patient), Some(Pass::Probe), "where nobody else sends it may try again");
    }
}
