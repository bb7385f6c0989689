//! A message that comes again: what the ledger answers, as far as no engine is needed to say it.
//!
//! A kept fingerprint stands for one message of one client. It must never swallow a second one: whoever sends the same
//! bytes twice and was told 250 for both means two messages. So a trace answers one copy, and is used up.

use crate::domain::credit::{Outcome, Verdict};
use crate::domain::id::MessageId;

/// A kept fingerprint with what became of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The message that was charged.
    pub message: MessageId,
    /// What is known of it. `None`: its rows are gone.
    pub outcome: Option<Outcome>,
    /// The message whose transaction may still be under way: itself, or the copy that stands in for it.
    pub carrier: Option<MessageId>,
    /// Whether the session that carries it lives.
    pub lives: bool,
    /// The copy that was answered as relayed.
    pub answered: Option<MessageId>,
}

/// What is written of a trace when a copy is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The copy carries it from here on.
    Carried,
    /// The copy is answered as relayed: nothing is left to answer.
    Answered,
}

/// What the copy `asker` is answered, and which trace is to be marked. `None`: nothing is open, so it is a new message.
/// Asked again, it answers the same. `traces` are those of its fingerprint, oldest first.
pub fn recognise(asker: MessageId, traces: &mut [Trace]) -> Option<(Verdict, Option<(MessageId, Mark)>)> {
    if let Some(trace) = traces.iter().find(|trace| trace.answered == Some(asker)) {
        return Some((Verdict::Relayed(trace.message), None));
    }
    if let Some(trace) = traces.iter().find(|trace| trace.carrier == Some(asker)) {
        return Some((Verdict::Resumed(trace.message), None));
    }
    let rank = |trace: &Trace| match (trace.outcome, trace.answered) {
        (Some(Outcome::Relayed), None) => Some(0),
        (Some(Outcome::Unknown), None) if trace.carrier.is_none() || !trace.lives => Some(1),
        (Some(Outcome::Unknown), None) => Some(2),
        // It was given back, it is used up, or nobody knows it any more.
        (Some(Outcome::Refused | Outcome::NotOffered) | None, _) | (_, Some(_)) => None,
    };
    let found = traces.iter_mut().filter_map(|trace| Some((rank(trace)?, trace))).min_by_key(|(rank, _)| *rank);
    let (rank, trace) = found?;
    let message = trace.message;
    Some(match rank {
        0 => {
            trace.answered = Some(asker);
            (Verdict::Relayed(message), Some((message, Mark::Answered)))
        }
        1 => {
            (trace.carrier, trace.lives) = (Some(asker), true);
            (Verdict::Resumed(message), Some((message, Mark::Carried)))
        }
        _ => (Verdict::UnderWay(message), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id(n: u128) -> MessageId {
        MessageId(Uuid::from_u128(n))
    }

    fn trace(n: u128, outcome: Outcome) -> Trace {
        Trace { message: id(n), outcome: Some(outcome), carrier: None, lives: true, answered: None }
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
            // Two were open: what is certain comes first.
            (vec![carried, trace(2, Outcome::Unknown), trace(3, Outcome::Relayed)], Some(Verdict::Relayed(id(3)))),
        ];
        for (mut traces, expected) in cases {
            let shown = format!("{traces:?}");
            let answer = recognise(id(9), &mut traces);
            assert_eq!(answer.as_ref().map(|(verdict, _)| verdict.clone()), expected, "{shown}");
            if !matches!(expected, Some(Verdict::UnderWay(_))) {
                assert_eq!(recognise(id(9), &mut traces).map(|(verdict, _)| verdict), expected, "{shown}");
            }
        }
    }

    #[test]
    fn one_trace_answers_one_copy() {
        let mut relayed = [trace(1, Outcome::Relayed)];
        assert!(recognise(id(8), &mut relayed).is_some());
        assert_eq!(recognise(id(9), &mut relayed), None, "used up");
        let mut unknown = [trace(1, Outcome::Unknown)];
        assert!(recognise(id(8), &mut unknown).is_some());
        assert_eq!(recognise(id(9), &mut unknown), Some((Verdict::UnderWay(id(1)), None)), "one carries it already");
    }
}
