//! The model's kept fingerprints: the outcomes of messages whose client was told to try again.

use jiff::{SignedDuration, Timestamp};

use franking::domain::credit::Outcome;

/// The part of a settlement that has to do with copies, as the relay writes it.
#[derive(Clone, Copy, Debug)]
pub enum CopyEvent {
    /// Its client was told to try again, and an answer may still come; or none will.
    ComeAgain { ended: bool },
    /// It stood in for another message, or was answered as one; its client was told so, or was not.
    StoodIn { heard: bool },
}

/// A kept message. Messages are numbers here, fingerprints too.
#[derive(Clone, Debug)]
pub struct KeptMessage {
    pub print: u8,
    pub message: usize,
    at: Timestamp,
    until: Timestamp,
    carrier: Option<usize>,
    /// Epoch of the session that carries it.
    epoch: i64,
    answered: Option<usize>,
    stand_ins: u32,
}

/// The answer to a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyAnswer {
    Relayed(usize),
    Resumed(usize),
    /// It would stand in for this one, if the rate allows.
    WouldResume(usize),
    UnderWay(usize),
}

#[derive(Clone, Debug, Default)]
pub struct DedupModel(Vec<KeptMessage>);

impl DedupModel {
    /// Returns the answer to `asker` from its fingerprint's messages; `outcome` returns the outcome of each, `epoch` is
    /// the session that lives.
    pub fn look(
        &self,
        asker: usize,
        print: u8,
        (now, epoch): (Timestamp, i64),
        outcome: impl Fn(usize) -> Option<Outcome>,
    ) -> Option<CopyAnswer> {
        let mut known: Vec<&KeptMessage> =
            self.0.iter().filter(|kept| kept.print == print && now < kept.until).collect();
        known.sort_by_key(|kept| (kept.at, kept.message));
        if let Some(kept) = known.iter().find(|kept| kept.answered == Some(asker)) {
            return Some(CopyAnswer::Relayed(kept.message));
        }
        if let Some(kept) = known.iter().find(|kept| kept.carrier == Some(asker)) {
            return Some(CopyAnswer::Resumed(kept.message));
        }
        let unknown = known.iter().filter(|kept| outcome(kept.message) == Some(Outcome::Unknown));
        let exhausted = unknown.map(|kept| kept.stand_ins).sum::<u32>() >= 2;
        let open = known.iter().filter(|kept| kept.answered.is_none());
        let carried = |kept: &KeptMessage| kept.carrier.is_some() && kept.epoch == epoch;
        let (mut relayed, mut idle, mut busy) = (None, None, None);
        for kept in open {
            match outcome(kept.message) {
                Some(Outcome::Relayed) => relayed = relayed.or(Some(CopyAnswer::Relayed(kept.message))),
                Some(Outcome::Unknown) if carried(kept) => busy = busy.or(Some(CopyAnswer::UnderWay(kept.message))),
                Some(Outcome::Unknown) if !exhausted => idle = idle.or(Some(CopyAnswer::WouldResume(kept.message))),
                Some(_) | None => {}
            }
        }
        relayed.or(idle).or(busy)
    }

    /// Returns true if a message's own transaction is under way.
    pub fn carries_itself(&self, message: usize, epoch: i64) -> bool {
        self.0.iter().any(|kept| kept.message == message && kept.carrier == Some(message) && kept.epoch == epoch)
    }

    fn of(&mut self, message: usize) -> Option<&mut KeptMessage> {
        self.0.iter_mut().find(|kept| kept.message == message)
    }

    pub fn answer(&mut self, message: usize, asker: usize) {
        if let Some(kept) = self.of(message) {
            kept.answered = Some(asker);
        }
    }

    pub fn carry(&mut self, message: usize, asker: usize, epoch: i64) {
        if let Some(kept) = self.of(message) {
            (kept.carrier, kept.epoch) = (Some(asker), epoch);
            kept.stand_ins += 1;
        }
    }

    pub fn keep(
        &mut self,
        (message, print): (usize, u8),
        ended: bool,
        (at, within): (Timestamp, SignedDuration),
        epoch: i64,
    ) {
        match self.of(message) {
            Some(kept) if ended && kept.carrier == Some(message) => kept.carrier = None,
            Some(_) => {}
            None => {
                let carrier = (!ended).then_some(message);
                let (until, answered, stand_ins) = (at + within, None, 0);
                self.0.push(KeptMessage { print, message, at, until, carrier, epoch, answered, stand_ins });
            }
        }
    }

    /// Ends a copy's turn. Returns the earlier message that is relayed too.
    pub fn stood_in(&mut self, asker: usize, print: u8, outcome: Outcome, heard: bool) -> Option<usize> {
        let stands = |kept: &KeptMessage| kept.carrier == Some(asker) || kept.answered == Some(asker);
        let index = self.0.iter().position(|kept| kept.print == print && kept.message != asker && stands(kept))?;
        let message = self.0[index].message;
        if outcome == Outcome::Relayed && heard {
            self.0.remove(index);
        } else {
            let kept = &mut self.0[index];
            let unsent = matches!(outcome, Outcome::Refused | Outcome::NotOffered) && kept.carrier == Some(asker);
            kept.stand_ins -= u32::from(unsent);
            (kept.carrier, kept.answered) = (None, None);
        }
        (outcome == Outcome::Relayed).then_some(message)
    }
}
