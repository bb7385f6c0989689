//! The failure table of the design: what is settled for each way in which a message can end, and what its client hears.
//! Pure.

use uuid::Uuid;

use super::metrics::MessageResult;
use super::smtp::reply::Reply;
use crate::domain::credit::Outcome;
use crate::domain::id::MessageId;
use crate::upstream::{Cause, Forwarded, Stage};

/// An answer with what it is counted as.
pub struct Answer {
    pub reply: Reply,
    pub result: MessageResult,
}

/// What a reply of the judge is counted as.
pub fn denied_as(reply: &Reply) -> MessageResult {
    if matches!(reply, Reply::Blocked(..) | Reply::KeyNotInUse) {
        MessageResult::Blocked
    } else if matches!(reply, Reply::DirectoryStale) {
        MessageResult::DirectoryStale
    } else {
        MessageResult::SenderDenied
    }
}

/// The failure table: what is settled, and what the client hears.
pub fn concluded(forwarded: Forwarded) -> (Outcome, Answer) {
    let (outcome, reply, result) = match forwarded {
        Forwarded::Relayed { .. } => {
            (Outcome::Relayed, Reply::Accepted(MessageId(Uuid::nil())), MessageResult::Relayed)
        }
        Forwarded::Refused { code, enhanced, text, recipient, stage } => {
            let text = match recipient {
                Some(recipient) => format!("{recipient}: {text}"),
                None => text,
            };
            let reply = Reply::Upstream { code: passed(code, stage), enhanced, text };
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

/// The upstream's code as ours. A refused recipient refuses the message for all: 550 or 451. 421 would say that we
/// close, and anything but a refusal would be a lie.
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
    use super::*;
    use crate::domain::sender::Address;

    fn refused(code: u16, stage: Stage) -> Forwarded {
        let recipient = (stage == Stage::Recipient).then(|| Address::parse("x@y.z").expect("an address"));
        Forwarded::Refused { code, enhanced: None, text: "no".into(), recipient, stage }
    }

    #[test]
    fn every_end_of_a_message_is_settled_as_the_failure_table_says() {
        let cases = [
            (Forwarded::Relayed { reply: "ok".into() }, Outcome::Relayed, 250),
            (refused(550, Stage::Message), Outcome::Refused, 550),
            (refused(452, Stage::Message), Outcome::Refused, 452),
            (refused(421, Stage::Mail), Outcome::Refused, 451),
            (refused(250, Stage::Mail), Outcome::Refused, 451),
            (refused(553, Stage::Recipient), Outcome::Refused, 550),
            (refused(450, Stage::Recipient), Outcome::Refused, 451),
            (refused(552, Stage::Announced), Outcome::Refused, 552),
            (Forwarded::RefusesUs { text: "no".into() }, Outcome::Refused, 451),
            (Forwarded::NotOffered { cause: Cause::Unreachable }, Outcome::NotOffered, 451),
            (Forwarded::NotOffered { cause: Cause::Timeout }, Outcome::NotOffered, 451),
            (Forwarded::NotOffered { cause: Cause::SenderPaused }, Outcome::NotOffered, 451),
            (Forwarded::Unknown { cause: Cause::Closed }, Outcome::Unknown, 451),
        ];
        for (forwarded, outcome, code) in cases {
            let what = format!("{forwarded:?}");
            let (settled, answer) = concluded(forwarded);
            assert_eq!((settled, answer.reply.code()), (outcome, code), "{what}");
        }
    }

    #[test]
    fn a_refused_recipient_is_named() {
        let (_, answer) = concluded(refused(550, Stage::Recipient));
        let Reply::Upstream { text, .. } = answer.reply else { panic!("not the upstream's words") };
        assert_eq!(text, "x@y.z: no");
    }
}
