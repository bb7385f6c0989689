//! The order in which a message is judged: known → standing → copy → rate → charge.
//!
//! An engine calls [`screen`] with the reservations and directory rows that it read, reads what the messages that are
//! still open need (kept fingerprints, lots), calls [`decide`], and writes each [`Decision`].

use std::collections::HashMap;

use jiff::Timestamp;

use super::dedup::{DedupChange, DedupRecord, Recognised, recognise};
use crate::domain::credit::{self, BatchRows, Blocked, Charge, Part, Reservation, Verdict};
use crate::domain::directory::ResolvedKey;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::id::{IdMap, IdSet, KeyId, MessageId};

/// The result of judging a message without its lots.
#[derive(Clone, Debug)]
pub enum Step {
    /// It was reserved before, or its sender may not send.
    Answered(Verdict),
    /// The same message stands earlier in the batch, at this index: it gets the same answer.
    Repeats(usize),
    /// In good standing: its kept fingerprints and its lots decide.
    Open(ResolvedKey),
}

/// Judges what needs no lots: an existing reservation of each message, and its sender's standing. `sender` finds a key
/// with its account and policy on rows that are fresh in this transaction.
pub fn screen(
    batch: &[Reservation],
    reserved: &IdSet<MessageId>,
    sender: impl Fn(KeyId) -> Option<ResolvedKey>,
    now: Timestamp,
) -> Vec<Step> {
    let mut first: IdMap<MessageId, usize> = IdMap::with_capacity_and_hasher(batch.len(), Default::default());
    let steps = batch.iter().enumerate().map(|(index, asked)| {
        let earlier = *first.entry(asked.message).or_insert(index);
        if earlier != index {
            return Step::Repeats(earlier);
        }
        if reserved.contains(&asked.message) {
            return Step::Answered(Verdict::Reserved);
        }
        // The directory forgets a key long after it was removed; a key that it does not know is not good.
        let Some(sender) = sender(asked.key) else { return Step::Answered(Verdict::Blocked(Blocked::KeyRevoked)) };
        match sender.standing(now) {
            Ok(()) => Step::Open(sender),
            Err(blocked) => Step::Answered(Verdict::Blocked(blocked)),
        }
    });
    steps.collect()
}

/// Returns the senders whose lots a batch is decided on.
pub fn senders(steps: &[Step]) -> impl Iterator<Item = &ResolvedKey> {
    steps.iter().filter_map(|step| match step {
        Step::Open(sender) => Some(sender),
        Step::Answered(_) | Step::Repeats(_) => None,
    })
}

/// Returns the messages that may be copies, with their fingerprints.
pub fn fingerprints<'a>(
    batch: &'a [Reservation],
    steps: &'a [Step],
) -> impl Iterator<Item = (MessageId, Fingerprint)> + 'a {
    batch.iter().zip(steps).filter_map(|(asked, step)| match step {
        Step::Open(_) => Some((asked.message, asked.fingerprint?)),
        Step::Answered(_) | Step::Repeats(_) => None,
    })
}

/// The answer to a message, and the rows to write for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub verdict: Verdict,
    /// The reservation that is to be inserted. Its lots are charged in the rows.
    pub charged: Option<Charged>,
    /// The change to write to an earlier message's kept fingerprint.
    pub change: Option<(MessageId, DedupChange)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Charged {
    pub charge: Charge,
    /// First the period lots of key, account and policy, then the parts of other lots.
    pub parts: Vec<Part>,
}

impl Decision {
    fn answered(verdict: Verdict) -> Self {
        Self { verdict, charged: None, change: None }
    }
}

/// Decides a batch in order, charging the rows and changing the records in place. The rows must hold the lots of every
/// open message's key, account and policy; `records` the kept fingerprints of all of them, oldest first.
pub fn decide(
    batch: &[Reservation],
    steps: &[Step],
    records: &mut HashMap<Fingerprint, Vec<DedupRecord>>,
    rows: &mut BatchRows,
    now: Timestamp,
) -> Vec<Decision> {
    let mut decisions: Vec<Decision> = Vec::with_capacity(batch.len());
    for (asked, step) in batch.iter().zip(steps) {
        let decision = match step {
            Step::Answered(verdict) => Decision::answered(verdict.clone()),
            Step::Repeats(earlier) => Decision::answered(decisions[*earlier].verdict.clone()),
            Step::Open(sender) => decide_open(asked, sender, records, rows, now),
        };
        decisions.push(decision);
    }
    decisions
}

fn decide_open(
    asked: &Reservation,
    sender: &ResolvedKey,
    records: &mut HashMap<Fingerprint, Vec<DedupRecord>>,
    rows: &mut BatchRows,
    now: Timestamp,
) -> Decision {
    let kept = asked.fingerprint.and_then(|fingerprint| records.get_mut(&fingerprint));
    if let Some(decision) = kept.and_then(|records| decide_copy(asked, sender, records, rows, now)) {
        return decision;
    }
    let charge = charge_of(asked, sender);
    match credit::decide(rows, &charge, now) {
        Ok(parts) => Decision { charged: Some(Charged { charge, parts }), ..Decision::answered(Verdict::Reserved) },
        Err(refused) => Decision::answered(refused),
    }
}

/// Returns what a message costs its sender at this moment.
pub fn charge_of(asked: &Reservation, sender: &ResolvedKey) -> Charge {
    Charge { credits: i64::from(asked.credits), chain: sender.chain(), unit_price: sender.policy.unit_price() }
}

/// Answers a copy. One that is to be sent counts for the rate, though it is not charged.
fn decide_copy(
    asked: &Reservation,
    sender: &ResolvedKey,
    records: &mut [DedupRecord],
    rows: &mut BatchRows,
    now: Timestamp,
) -> Option<Decision> {
    let Recognised { verdict, change } = recognise(asked.message, records)?;
    let Some((index, change)) = change else { return Some(Decision::answered(verdict)) };
    let paced = match change {
        DedupChange::Carried => credit::take_rate(rows, sender.chain(), now),
        DedupChange::Answered => Ok(()),
    };
    if let Err(too_fast) = paced {
        return Some(Decision::answered(too_fast));
    }
    let record = &mut records[index];
    record.apply(asked.message, change);
    Some(Decision { verdict, charged: None, change: Some((record.message, change)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credit::{Holding, Limit, Lot, LotId, Outcome, Rate, RateState};
    use crate::domain::directory::Directory;
    use crate::domain::period::Calendar;
    use crate::ledger::world;
    use uuid::Uuid;

    fn now() -> Timestamp {
        world::at(world::START)
    }

    fn id(n: u128) -> MessageId {
        MessageId(Uuid::from_u128(n))
    }

    fn asked(message: u128, fingerprint: Option<u8>) -> Reservation {
        let fingerprint = fingerprint.map(|byte| Fingerprint([byte; 32]));
        Reservation { message: id(message), key: world::key_id(1), credits: 2, fingerprint }
    }

    /// Key 1 in good standing, with these credits on each period lot and a rate of one message an hour.
    struct Case {
        directory: Directory,
        reserved: IdSet<MessageId>,
        records: HashMap<Fingerprint, Vec<DedupRecord>>,
        rows: BatchRows,
    }

    impl Case {
        fn new(credits: i64) -> Self {
            let limit = Limit { credits: Some(credits), calendar: Calendar::monthly_utc() };
            let mut directory = Directory::default();
            directory.apply(crate::domain::directory::Entry::Policy(world::policy(1, limit.clone())));
            directory.apply(crate::domain::directory::Entry::Account(world::account(1, limit.clone())));
            directory.apply(crate::domain::directory::Entry::Key(world::key(1, 1, limit.clone())));
            let mut rows = BatchRows::default();
            for (id, holder) in (1..).map(LotId).zip(world::chain()) {
                let lot = Lot::of_period(holder, limit.calendar.window(now()), limit.credits);
                rows.lots.insert(id, Lot { id, ..lot });
                rows.holdings.insert(holder, Holding::plain(id));
            }
            let rate = Rate { messages: 1, per_seconds: 3_600 };
            let key = rows.holdings.get_mut(&world::chain()[0]).expect("held");
            key.rate_state = Some(RateState { rate, arrival: None, moved: false });
            Self { directory, reserved: IdSet::default(), records: HashMap::new(), rows }
        }

        fn decide(&mut self, batch: &[Reservation]) -> Vec<Decision> {
            let steps = screen(batch, &self.reserved, |key| self.directory.sender(key), now());
            decide(batch, &steps, &mut self.records, &mut self.rows, now())
        }
    }

    #[test]
    fn each_step_answers_before_the_next_is_asked() {
        let relayed = DedupRecord {
            message: id(90),
            outcome: Some(Outcome::Relayed),
            carrier: None,
            lives: true,
            answered: None,
            stand_ins: 0,
        };
        // Known, though its sender is unknown and nothing is left.
        let mut case = Case::new(0);
        case.reserved.insert(id(1));
        case.directory = Directory::default();
        let kept = HashMap::from([(Fingerprint([7; 32]), vec![relayed.clone()])]);
        case.records = kept.clone();
        let decided = case.decide(&[asked(1, Some(7)), asked(2, Some(7))]);
        let revoked = Verdict::Blocked(Blocked::KeyRevoked);
        assert_eq!(decided[0], Decision::answered(Verdict::Reserved));
        assert_eq!(decided[1], Decision::answered(revoked), "standing comes before copies");
        assert_eq!(case.records, kept, "whoever may not send uses no record up");

        // A copy, though nothing is left.
        let mut case = Case::new(0);
        case.records = kept;
        let decided = case.decide(&[asked(1, Some(7)), asked(2, Some(7)), asked(1, Some(7))]);
        assert_eq!(decided[0].verdict, Verdict::Relayed(id(90)));
        assert_eq!(decided[0].change, Some((id(90), DedupChange::Answered)));
        assert!(matches!(decided[1].verdict, Verdict::Short { .. }), "a record answers one copy");
        assert_eq!(decided[2], Decision::answered(Verdict::Relayed(id(90))), "the same message, marked once");

        // A copy that is sent in its place is judged by the rate, and uses nothing up if the rate refuses it.
        let mut case = Case::new(2);
        let unknown = DedupRecord { outcome: Some(Outcome::Unknown), ..relayed };
        case.records = HashMap::from([(Fingerprint([7; 32]), vec![unknown])]);
        let decided = case.decide(&[asked(3, None), asked(1, Some(7)), asked(2, Some(7))]);
        assert!(decided[0].charged.is_some());
        for too_fast in &decided[1..] {
            assert!(matches!(too_fast.verdict, Verdict::TooFast { .. }), "{too_fast:?}");
            assert_eq!(too_fast.change, None);
        }
        let key = case.rows.holdings.get_mut(&world::chain()[0]).expect("held");
        key.rate_state.as_mut().expect("paced").arrival = None;
        let decided = case.decide(&[asked(1, Some(7)), asked(2, Some(7)), asked(1, Some(7)), asked(4, None)]);
        assert_eq!(decided[0].verdict, Verdict::Resumed(id(90)));
        assert_eq!(decided[1].verdict, Verdict::UnderWay(id(90)));
        assert_eq!(decided[2], Decision::answered(Verdict::Resumed(id(90))));
        assert!(matches!(decided[3].verdict, Verdict::TooFast { .. }), "the stand-in took the hour's message");

        // The rate, and then the charge, each once however often it is asked in one batch.
        let mut case = Case::new(2);
        let decided = case.decide(&[asked(1, None), asked(1, None), asked(2, None)]);
        let charged = decided[0].charged.as_ref().expect("charged");
        assert_eq!((charged.charge.credits, charged.parts.len()), (2, 3));
        assert_eq!(decided[1], Decision::answered(Verdict::Reserved));
        assert!(matches!(decided[2].verdict, Verdict::TooFast { .. }), "{decided:?}");
        assert!(case.rows.lots.values().all(|lot| lot.consumed == 2));
    }
}
