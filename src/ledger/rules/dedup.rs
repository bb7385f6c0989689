//! Recognises a message that is sent again: the pure part of the answer.
//!
//! A kept fingerprint stands for one message of one client. It must never swallow a second one: a client that sends the
//! same bytes twice and was told 250 for both means two messages. So a record answers one copy, and is then used up.

use crate::domain::credit::{Outcome, Verdict};
use crate::domain::id::MessageId;

/// A kept fingerprint with the outcome of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DedupRecord {
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

/// The change of a record when a copy is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DedupChange {
    /// The copy stands in for it and carries it from here on.
    Carried,
    /// The copy is answered as relayed: the record is used up.
    Answered,
}

/// Maximum copies of one fingerprint that may be sent without a charge in place of messages whose outcome will never be
/// known. A copy that was certainly not sent does not count. Any further copy is a new message: an upstream that never
/// reports what it did must not make mail free.
pub const STAND_INS_MAX: u32 = 2;

/// The change of a record when the copy that it answered, or that stood in for its message, is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The client was told that the message is relayed: the record is used up.
    UsedUp,
    /// The copy was certainly not sent: the next copy may take its place, and it does not count as a stand-in.
    NotSent,
    /// The next copy may take its place.
    Open,
}

/// Returns what the outcome of a copy changes in the record that it held. `told`: its client was told that the message
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

/// The answer to a copy, and the record to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognised {
    pub verdict: Verdict,
    pub change: Option<(usize, DedupChange)>,
}

/// Returns the answer to the copy `asker`. `None`: nothing is open, so it is a new message. A retry gets the same
/// answer. `records` are those of its fingerprint, oldest first.
pub fn recognise(asker: MessageId, records: &[DedupRecord]) -> Option<Recognised> {
    let known = |verdict| Some(Recognised { verdict, change: None });
    if let Some(record) = records.iter().find(|record| record.answered == Some(asker)) {
        return known(Verdict::Relayed(record.message));
    }
    if let Some(record) = records.iter().find(|record| record.carrier == Some(asker)) {
        return known(Verdict::Resumed(record.message));
    }
    let unknown = records.iter().filter(|record| record.outcome == Some(Outcome::Unknown));
    let may_stand_in = unknown.map(|record| record.stand_ins).sum::<u32>() < STAND_INS_MAX;
    let rank = |record: &DedupRecord| match (record.outcome, record.answered) {
        (Some(Outcome::Relayed), None) => Some(0),
        (Some(Outcome::Unknown), None) if record.carrier.is_none() || !record.lives => may_stand_in.then_some(1),
        (Some(Outcome::Unknown), None) => Some(2),
        // It was given back, it is used up, or its rows are gone.
        (Some(Outcome::Refused | Outcome::NotOffered) | None, _) | (_, Some(_)) => None,
    };
    let found = records.iter().enumerate().filter_map(|(index, record)| Some((rank(record)?, index)));
    let (rank, index) = found.min_by_key(|(rank, _)| *rank)?;
    let message = records[index].message;
    Some(match rank {
        0 => Recognised { verdict: Verdict::Relayed(message), change: Some((index, DedupChange::Answered)) },
        1 => Recognised { verdict: Verdict::Resumed(message), change: Some((index, DedupChange::Carried)) },
        _ => Recognised { verdict: Verdict::UnderWay(message), change: None },
    })
}

impl DedupRecord {
    /// Applies the change.
    pub fn apply(&mut self, asker: MessageId, change: DedupChange) {
        match change {
            DedupChange::Answered => self.answered = Some(asker),
            DedupChange::Carried => {
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

    fn record(n: u128, outcome: Outcome) -> DedupRecord {
        DedupRecord { message: id(n), outcome: Some(outcome), carrier: None, lives: true, answered: None, stand_ins: 0 }
    }

    fn answer(asker: u128, records: &mut [DedupRecord]) -> Option<Verdict> {
        let Recognised { verdict, change } = recognise(id(asker), records)?;
        if let Some((index, change)) = change {
            records[index].apply(id(asker), change);
        }
        Some(verdict)
    }

    #[test]
    fn what_became_of_the_earlier_one_is_the_answer() {
        let carried = DedupRecord { carrier: Some(id(1)), ..record(1, Outcome::Unknown) };
        let cases = [
            (vec![], None),
            (vec![record(1, Outcome::Relayed)], Some(Verdict::Relayed(id(1)))),
            (vec![DedupRecord { carrier: Some(id(1)), ..record(1, Outcome::Relayed) }], Some(Verdict::Relayed(id(1)))),
            (vec![record(1, Outcome::Unknown)], Some(Verdict::Resumed(id(1)))),
            (vec![carried.clone()], Some(Verdict::UnderWay(id(1)))),
            (vec![DedupRecord { lives: false, ..carried.clone() }], Some(Verdict::Resumed(id(1)))),
            (vec![record(1, Outcome::Refused)], None),
            (vec![record(1, Outcome::NotOffered)], None),
            (vec![DedupRecord { outcome: None, ..record(1, Outcome::Unknown) }], None),
            // Several were open: the certain answer comes first.
            (
                vec![carried.clone(), record(2, Outcome::Unknown), record(3, Outcome::Relayed)],
                Some(Verdict::Relayed(id(3))),
            ),
            // Sent twice without a charge, for this message or for another one.
            (vec![DedupRecord { stand_ins: 1, ..record(1, Outcome::Unknown) }], Some(Verdict::Resumed(id(1)))),
            (vec![DedupRecord { stand_ins: 2, ..record(1, Outcome::Unknown) }], None),
            (vec![DedupRecord { stand_ins: 2, ..record(1, Outcome::Unknown) }, record(2, Outcome::Unknown)], None),
            (
                vec![
                    DedupRecord { stand_ins: 2, answered: Some(id(7)), ..record(1, Outcome::Relayed) },
                    record(2, Outcome::Unknown),
                ],
                Some(Verdict::Resumed(id(2))),
            ),
            (vec![DedupRecord { stand_ins: 2, ..carried }], Some(Verdict::UnderWay(id(1)))),
            (vec![DedupRecord { stand_ins: 2, ..record(1, Outcome::Relayed) }], Some(Verdict::Relayed(id(1)))),
        ];
        for (mut records, expected) in cases {
            let shown = format!("{records:?}");
            let verdict = answer(9, &mut records);
            assert_eq!(verdict, expected, "{shown}");
            if !matches!(expected, Some(Verdict::UnderWay(_)) | None) {
                assert_eq!(answer(9, &mut records), expected, "{shown}");
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
        let mut relayed = [record(1, Outcome::Relayed)];
        assert!(answer(8, &mut relayed).is_some());
        assert_eq!(answer(9, &mut relayed), None, "used up");
        let mut unknown = [record(1, Outcome::Unknown)];
        assert!(answer(8, &mut unknown).is_some());
        assert_eq!(answer(9, &mut unknown), Some(Verdict::UnderWay(id(1))), "one carries it already");
    }
}
