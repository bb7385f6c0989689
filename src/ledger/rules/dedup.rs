//! Recognises a message that is sent again: the pure part of the answer.
//!
//! A kept fingerprint stands for one message of one client. It must never swallow a second one: a client that sends the
//! same bytes twice and was told 250 for both means two messages. So a trace answers one copy, and is then used up.

use crate::domain::credit::{Outcome, Verdict};
use crate::domain::id::MessageId;

/// A kept fingerprint with the outcome of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The message that was charged.
    pub message: MessageId,
    /// The known outcome. `None`: its rows are gone.
    pub outcome: Option<Outcome>,
    /// The message whose transaction may still be under way: this one, or the copy that stands in for it.
    pub carrier: Option<MessageId>,
    /// The session that carries it is alive.
    pub lives: bool,
    /// The copy that was answered as relayed.
    pub answered: Option<MessageId>,
    /// Copies that stood in for it, except those that were certainly not sent.
    pub stand_ins: u32,
}

/// The change of a trace when a copy is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The copy stands in for it and carries it from here on.
    Carried,
    /// The copy is answered as relayed: the trace is used up.
    Answered,
}

/// Maximum copies of one fingerprint that may be sent without a charge in place of messages whose outcome will never be
/// known. A copy that was certainly not sent does not count. Any further copy is a new message: an upstream that never
/// reports what it did must not make mail free.
pub const STAND_INS_MAX: u32 = 2;

/// The change of a trace when the copy that it answered, or that stood in for its message, is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The client was told that the message is relayed: the trace is used up.
    UsedUp,
    /// The copy was certainly not sent: the next copy may take its place, and it does not count as a stand-in.
    NotSent,
    /// The next copy may take its place.
    Open,
}

/// Returns what the outcome of a copy changes in the trace that it held. `told`: its client was told that the message
/// is relayed.
pub fn release(outcome: Outcome, told: bool) -> Release {
    match outcome {
        Outcome::Relayed if told => Release::UsedUp,
        Outcome::Refused | Outcome::NotOffered => Release::NotSent,
        Outcome::Relayed | Outcome::Unknown => Release::Open,
    }
}

/// Returns the outcome of the earlier message that follows from the outcome of the copy that stood in for it.
pub fn earlier_outcome(outcome: Outcome) -> Option<Outcome> {
    match outcome {
        Outcome::Relayed => Some(Outcome::Relayed),
        Outcome::Refused | Outcome::NotOffered | Outcome::Unknown => None,
    }
}

/// The answer to a copy, and the trace to mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognised {
    pub verdict: Verdict,
    pub mark: Option<(usize, Mark)>,
}

/// Returns the answer to the copy `asker`. `None`: nothing is open, so it is a new message. A retry gets the same
/// answer. `traces` are those of its fingerprint, oldest first.
pub fn recognise(asker: MessageId, traces: &[Trace]) -> Option<Recognised> {
    let known = |verdict| Some(Recognised { verdict, mark: None });
    if let Some(trace) = traces.iter().find(|trace| trace.answered == Some(asker)) {
        return known(Verdict::Relayed(trace.message));
    }
    if let Some(trace) = traces.iter().find(|trace| trace.carrier == Some(asker)) {
        return known(Verdict::Resumed(trace.message));
    }
    let unknown = traces.iter().filter(|trace| trace.outcome == Some(Outcome::Unknown));
    let may_stand_in = unknown.map(|trace| trace.stand_ins).sum::<u32>() < STAND_INS_MAX;
    let rank = |trace: &Trace| match (trace.outcome, trace.answered) {
        (Some(Outcome::Relayed), None) => Some(0),
        (Some(Outcome::Unknown), None) if trace.carrier.is_none() || !trace.lives => may_stand_in.then_some(1),
        (Some(Outcome::Unknown), None) => Some(2),
        // It was given back, it is used up, or its rows are gone.
        (Some(Outcome::Refused | Outcome::NotOffered) | None, _) | (_, Some(_)) => None,
    };
    let found = traces.iter().enumerate().filter_map(|(index, trace)| Some((rank(trace)?, index)));
    let (rank, index) = found.min_by_key(|(rank, _)| *rank)?;
    let message = traces[index].message;
    Some(match rank {
        0 => Recognised { verdict: Verdict::Relayed(message), mark: Some((index, Mark::Answered)) },
        1 => Recognised { verdict: Verdict::Resumed(message), mark: Some((index, Mark::Carried)) },
        _ => Recognised { verdict: Verdict::UnderWay(message), mark: None },
    })
}

impl Trace {
    /// Applies the mark.
    pub fn mark(&mut self, asker: MessageId, mark: Mark) {
        match mark {
            Mark::Answered => self.answered = Some(asker),
            Mark::Carried => {
                (self.carrier, self.lives) = (Some(asker), true);
                self.stand_ins += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id(n: u128) -> MessageId {
        MessageId(Uuid::from_u128(n))
    }

    fn trace(n: u128, outcome: Outcome) -> Trace {
        Trace { message: id(n), outcome: Some(outcome), carrier: None, lives: true, answered: None, stand_ins: 0 }
    }

    fn answer(asker: u128, traces: &mut [Trace]) -> Option<Verdict> {
        let Recognised { verdict, mark } = recognise(id(asker), traces)?;
        if let Some((index, mark)) = mark {
            traces[index].mark(id(asker), mark);
        }
        Some(verdict)
    }

    #[test]
    fn what_became_of_the_earlier_one_is_the_answer() {
        let carried = Trace { carrier: Some(id(1)), ..trace(1, Outcome::Unknown) };
        let cases = [
            (vec![], None),
            (vec![trace(1, Outcome::Relayed)], Some(Verdict::Relayed(id(1)))),
            (vec![Trace { carrier: Some(id(1)), ..trace(1, Outcome::Relayed) }], Some(Verdict::Relayed(id(1)))),
            (vec![trace(1, Outcome::Unknown)], Some(Verdict::Resumed(id(1)))),
            (vec![carried.clone()], Some(Verdict::UnderWay(id(1)))),
            (vec![Trace { lives: false, ..carried.clone() }], Some(Verdict::Resumed(id(1)))),
            (vec![trace(1, Outcome::Refused)], None),
            (vec![trace(1, Outcome::NotOffered)], None),
            (vec![Trace { outcome: None, ..trace(1, Outcome::Unknown) }], None),
            // Several were open: the certain answer comes first.
            (
                vec![carried.clone(), trace(2, Outcome::Unknown), trace(3, Outcome::Relayed)],
                Some(Verdict::Relayed(id(3))),
            ),
            // Sent twice without a charge, for this message or for another one.
            (vec![Trace { stand_ins: 1, ..trace(1, Outcome::Unknown) }], Some(Verdict::Resumed(id(1)))),
            (vec![Trace { stand_ins: 2, ..trace(1, Outcome::Unknown) }], None),
            (vec![Trace { stand_ins: 2, ..trace(1, Outcome::Unknown) }, trace(2, Outcome::Unknown)], None),
            (
                vec![
                    Trace { stand_ins: 2, answered: Some(id(7)), ..trace(1, Outcome::Relayed) },
                    trace(2, Outcome::Unknown),
                ],
                Some(Verdict::Resumed(id(2))),
            ),
            (vec![Trace { stand_ins: 2, ..carried }], Some(Verdict::UnderWay(id(1)))),
            (vec![Trace { stand_ins: 2, ..trace(1, Outcome::Relayed) }], Some(Verdict::Relayed(id(1)))),
        ];
        for (mut traces, expected) in cases {
            let shown = format!("{traces:?}");
            let verdict = answer(9, &mut traces);
            assert_eq!(verdict, expected, "{shown}");
            if !matches!(expected, Some(Verdict::UnderWay(_)) | None) {
                assert_eq!(answer(9, &mut traces), expected, "{shown}");
            }
        }
    }

    #[test]
    fn a_copy_that_was_told_relayed_uses_its_trace_up_and_one_that_was_not_sent_does_not_count() {
        for (outcome, told, released, earlier) in [
            (Outcome::Relayed, true, Release::UsedUp, Some(Outcome::Relayed)),
            (Outcome::Relayed, false, Release::Open, Some(Outcome::Relayed)),
            (Outcome::Unknown, true, Release::Open, None),
            (Outcome::Unknown, false, Release::Open, None),
            (Outcome::Refused, true, Release::NotSent, None),
            (Outcome::Refused, false, Release::NotSent, None),
            (Outcome::NotOffered, true, Release::NotSent, None),
            (Outcome::NotOffered, false, Release::NotSent, None),
        ] {
            assert_eq!((release(outcome, told), earlier_outcome(outcome)), (released, earlier), "{outcome:?} {told}");
        }
    }

    #[test]
    fn one_trace_answers_one_copy() {
        let mut relayed = [trace(1, Outcome::Relayed)];
        assert!(answer(8, &mut relayed).is_some());
        assert_eq!(answer(9, &mut relayed), None, "used up");
        let mut unknown = [trace(1, Outcome::Unknown)];
        assert!(answer(8, &mut unknown).is_some());
        assert_eq!(answer(9, &mut unknown), Some(Verdict::UnderWay(id(1))), "one carries it already");
    }
}
