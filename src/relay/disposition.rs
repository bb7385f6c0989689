//! The disposition of a message, as one table: from the credits that it was forwarded on, how it was forwarded and
//! whether its client still waits, to the settlement, the client's reply and the metric. Pure: [`admit`](super::admit)
//! carries it out.

use super::metrics::MessageResult;
use super::smtp::reply::Reply;
use crate::domain::credit::Outcome;
use crate::domain::id::MessageId;
use crate::ledger::store::{DedupUpdate, Kept, Settlement};
use crate::upstream::{Cause, Forwarded, Stage};

/// The credits that a message was forwarded on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The message's own credits.
    Own,
    /// The credits of an earlier message whose outcome is unknown: this one is sent in its place.
    StandsIn,
}

/// The client of a message when the message's outcome becomes known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// It waits for the reply.
    Waits,
    /// It hung up or was told to retry, and the ledger knows its message by [`Disposition::of_open`].
    WasTold,
}

/// A reply, with the result that the message is counted under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub reply: Reply,
    pub result: MessageResult,
}

/// A settlement, and how it is written and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disposition {
    pub settlement: Settlement,
    /// The settlement is written before the client is answered, because the client will retry, perhaps on another
    /// relay.
    pub is_awaited: bool,
    /// The outcome is counted. It is not if a message stood in for an earlier one and brought no new outcome for that.
    pub is_counted: bool,
}

impl Disposition {
    /// Returns the disposition of a message that has ended.
    pub fn of_end(message: MessageId, kept: Kept, claim: Claim, outcome: Outcome, client: ClientState) -> Self {
        let fingerprint = kept.fingerprint;
        let (is_certain, waits) = (outcome != Outcome::Unknown, client == ClientState::Waits);
        let dedup = match claim {
            Claim::Own if is_certain => None,
            Claim::Own => Some(DedupUpdate::Ended(kept)),
            Claim::StandsIn => Some(DedupUpdate::StoodIn { fingerprint, told: is_certain && waits }),
        };
        let is_counted = match claim {
            // An unknown outcome was counted already when its client was told.
            Claim::Own => is_certain || waits,
            Claim::StandsIn => outcome == Outcome::Relayed,
        };
        let settlement = Settlement { message, outcome, dedup };
        Self { settlement, is_awaited: !is_certain && waits, is_counted }
    }

    /// Returns the disposition of a message whose client leaves before it has ended. `None` if the ledger has it as in
    /// progress since the reservation.
    pub fn of_open(message: MessageId, kept: Kept, claim: Claim) -> Option<Self> {
        match claim {
            Claim::Own => {
                let settlement =
                    Settlement { message, outcome: Outcome::Unknown, dedup: Some(DedupUpdate::Open(kept)) };
                Some(Self { settlement, is_awaited: true, is_counted: true })
            }
            Claim::StandsIn => None,
        }
    }
}

/// Returns the outcome of a message that was forwarded, and the answer to its client. A message is relayed only by the
/// upstream's 2yz, and refunded only if the upstream cannot have it.
pub fn conclude(message: MessageId, forwarded: &Forwarded) -> (Outcome, Answer) {
    let (outcome, reply, result) = match forwarded {
        Forwarded::Relayed { .. } => (Outcome::Relayed, Reply::Accepted(message), MessageResult::Relayed),
        Forwarded::Refused { code, enhanced, text, recipient, stage } => {
            let text = match recipient {
                Some(recipient) => format!("{recipient}: {text}"),
                None => text.clone(),
            };
            let reply = Reply::Upstream { code: passed(*code, *stage), enhanced: enhanced.clone(), text };
            (Outcome::Refused, reply, MessageResult::RefusedByUpstream)
        }
        Forwarded::RefusesUs { .. } => (Outcome::Refused, Reply::UpstreamRefusesUs, MessageResult::UpstreamRefusesUs),
        Forwarded::NotOffered { cause } => {
            let reply = match cause {
                Cause::RefusedBefore => Reply::UpstreamRefusesUs,
                Cause::SenderPaused => Reply::SenderPaused,
                Cause::Timeout | Cause::Busy => Reply::UpstreamSlow,
                Cause::Unreachable | Cause::Tls | Cause::Closed | Cause::Protocol | Cause::BreakerOpen => {
                    Reply::UpstreamDown
                }
            };
            (Outcome::NotOffered, reply, MessageResult::UpstreamUnavailable)
        }
        Forwarded::Unknown { .. } | Forwarded::Open { .. } => {
            (Outcome::Unknown, Reply::OutcomeUnknown, MessageResult::OutcomeUnknown)
        }
    };
    (outcome, Answer { reply, result })
}

/// Returns the result that a refusal by the directory is counted under.
pub fn denied_as(reply: &Reply) -> MessageResult {
    if matches!(reply, Reply::Blocked(..) | Reply::KeyNotInUse) {
        MessageResult::Blocked
    } else if matches!(reply, Reply::DirectoryStale) {
        MessageResult::DirectoryStale
    } else {
        MessageResult::SenderDenied
    }
}

/// Translates the upstream's code into ours. A refused recipient refuses the message for all: 550 or 451. 421 would say
/// that we close, and any code but a refusal would be a lie.
fn passed(code: u16, stage: Stage) -> u16 {
    match stage {
        Stage::Recipient if code >= 500 => 550,
        Stage::Recipient => 451,
        Stage::Mail | Stage::Data | Stage::Message | Stage::Announced => match code {
            421 => 451,
            400..=599 => code,
            _ => 451,
        },
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::*;
    use crate::domain::fingerprint::Fingerprint;
    use crate::domain::id::KeyId;
    use crate::domain::sender::Address;

    const MESSAGE: MessageId = MessageId(Uuid::from_u128(7));

    fn refused(code: u16, stage: Stage) -> Forwarded {
        let recipient = (stage == Stage::Recipient).then(|| Address::parse("x@y.z").expect("an address"));
        Forwarded::Refused { code, enhanced: Some("5.1.1".into()), text: "no".into(), recipient, stage }
    }

    fn upstream(code: u16, text: &str) -> Reply {
        Reply::Upstream { code, enhanced: Some("5.1.1".into()), text: text.into() }
    }

    fn not_offered(cause: Cause) -> Forwarded {
        Forwarded::NotOffered { cause }
    }

    #[test]
    fn every_end_of_a_message_has_its_outcome_its_reply_and_its_result() {
        use MessageResult::{OutcomeUnknown, RefusedByUpstream, Relayed, UpstreamRefusesUs, UpstreamUnavailable};
        let open = || Forwarded::Open { cause: Cause::Timeout, outcome: oneshot::channel().1 };
        let cases = [
            (Forwarded::Relayed { reply: "ok".into() }, Outcome::Relayed, Reply::Accepted(MESSAGE), Relayed),
            (refused(550, Stage::Message), Outcome::Refused, upstream(550, "no"), RefusedByUpstream),
            (refused(452, Stage::Message), Outcome::Refused, upstream(452, "no"), RefusedByUpstream),
            (refused(421, Stage::Mail), Outcome::Refused, upstream(451, "no"), RefusedByUpstream),
            (refused(250, Stage::Mail), Outcome::Refused, upstream(451, "no"), RefusedByUpstream),
            (refused(354, Stage::Data), Outcome::Refused, upstream(451, "no"), RefusedByUpstream),
            (refused(553, Stage::Recipient), Outcome::Refused, upstream(550, "x@y.z: no"), RefusedByUpstream),
            (refused(450, Stage::Recipient), Outcome::Refused, upstream(451, "x@y.z: no"), RefusedByUpstream),
            (refused(552, Stage::Announced), Outcome::Refused, upstream(552, "no"), RefusedByUpstream),
            (Forwarded::RefusesUs { text: "no".into() }, Outcome::Refused, Reply::UpstreamRefusesUs, UpstreamRefusesUs),
            (not_offered(Cause::RefusedBefore), Outcome::NotOffered, Reply::UpstreamRefusesUs, UpstreamUnavailable),
            (not_offered(Cause::SenderPaused), Outcome::NotOffered, Reply::SenderPaused, UpstreamUnavailable),
            (not_offered(Cause::Timeout), Outcome::NotOffered, Reply::UpstreamSlow, UpstreamUnavailable),
            (not_offered(Cause::Busy), Outcome::NotOffered, Reply::UpstreamSlow, UpstreamUnavailable),
            (not_offered(Cause::Unreachable), Outcome::NotOffered, Reply::UpstreamDown, UpstreamUnavailable),
            (not_offered(Cause::Tls), Outcome::NotOffered, Reply::UpstreamDown, UpstreamUnavailable),
            (not_offered(Cause::Closed), Outcome::NotOffered, Reply::UpstreamDown, UpstreamUnavailable),
            (not_offered(Cause::Protocol), Outcome::NotOffered, Reply::UpstreamDown, UpstreamUnavailable),
            (not_offered(Cause::BreakerOpen), Outcome::NotOffered, Reply::UpstreamDown, UpstreamUnavailable),
            (Forwarded::Unknown { cause: Cause::Closed }, Outcome::Unknown, Reply::OutcomeUnknown, OutcomeUnknown),
            (open(), Outcome::Unknown, Reply::OutcomeUnknown, OutcomeUnknown),
        ];
        for (forwarded, outcome, reply, result) in cases {
            assert_eq!(conclude(MESSAGE, &forwarded), (outcome, Answer { reply, result }), "{forwarded:?}");
        }
    }

    #[test]
    fn every_end_is_settled_by_its_claim_and_its_client() {
        use Claim::{Own, StandsIn};
        use ClientState::{Waits, WasTold};
        use Outcome::{NotOffered, Refused, Relayed, Unknown};
        let fingerprint = Fingerprint::of(KeyId(Uuid::from_u128(1)), None, &[], b"a message");
        let kept = Kept { fingerprint, within: SignedDuration::from_mins(15) };
        let ended = Some(DedupUpdate::Ended(kept));
        let stood_in = |told| Some(DedupUpdate::StoodIn { fingerprint, told });
        let (awaited, counted) = (true, true);
        let table = [
            (Own, Relayed, Waits, None, !awaited, counted),
            (Own, Refused, Waits, None, !awaited, counted),
            (Own, NotOffered, Waits, None, !awaited, counted),
            (Own, Unknown, Waits, ended, awaited, counted),
            (Own, Relayed, WasTold, None, !awaited, counted),
            (Own, Refused, WasTold, None, !awaited, counted),
            (Own, NotOffered, WasTold, None, !awaited, counted),
            (Own, Unknown, WasTold, ended, !awaited, !counted),
            (StandsIn, Relayed, Waits, stood_in(true), !awaited, counted),
            (StandsIn, Refused, Waits, stood_in(true), !awaited, !counted),
            (StandsIn, NotOffered, Waits, stood_in(true), !awaited, !counted),
            (StandsIn, Unknown, Waits, stood_in(false), awaited, !counted),
            (StandsIn, Relayed, WasTold, stood_in(false), !awaited, counted),
            (StandsIn, Refused, WasTold, stood_in(false), !awaited, !counted),
            (StandsIn, NotOffered, WasTold, stood_in(false), !awaited, !counted),
            (StandsIn, Unknown, WasTold, stood_in(false), !awaited, !counted),
        ];
        for (claim, outcome, client, dedup, is_awaited, is_counted) in table {
            let settlement = Settlement { message: MESSAGE, outcome, dedup };
            let expected = Disposition { settlement, is_awaited, is_counted };
            let found = Disposition::of_end(MESSAGE, kept, claim, outcome, client);
            assert_eq!(found, expected, "{claim:?} {outcome:?} {client:?}");
        }
        let open = Settlement { message: MESSAGE, outcome: Unknown, dedup: Some(DedupUpdate::Open(kept)) };
        let open = Disposition { settlement: open, is_awaited: true, is_counted: true };
        assert_eq!(Disposition::of_open(MESSAGE, kept, Own), Some(open));
        assert_eq!(Disposition::of_open(MESSAGE, kept, StandsIn), None);
    }
}
