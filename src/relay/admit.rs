//! The only file that joins mail to money: reserve → forward → settle.
//!
//! From the reservation on, a message has its own task. A client that goes away does not stop it, so what is settled
//! is what happened. The order is the promise: charged before it is offered to the upstream, 250 only after the
//! upstream's 250, given back only when the upstream cannot have it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::crowd::Memory;
use super::judge::{self, Identity, Judge, Labels};
use super::metrics::{MessageResult, Metrics};
use super::settings::Settings;
use super::shortage::Shortages;
use super::smtp::data::Body;
use super::smtp::header::{self, Added, Header};
use super::smtp::reply::{Carries, Haste, Moment, Reply, Shortage};
use super::smtp::session::Transaction;
use super::targets::Targets;
use crate::domain::credit::{Outcome, Reservation, Verdict};
use crate::domain::directory::Sender;
use crate::domain::id::MessageId;
use crate::ledger::Ledger;
use crate::ledger::store::Settlement;
use crate::upstream::{Cause, Forwarded, Message, Stage, Target, Upstreams};

/// How long a client waits for the ledger alone. A group commit takes milliseconds; after this it is down.
const RESERVE_LIMIT: Duration = Duration::from_secs(10);
/// RFC 5321 §6.3 wants at least 100; nothing honest passes 50 servers.
const RECEIVED_MAX: usize = 50;

/// A message that was read to its final dot.
pub struct Received {
    pub transaction: Transaction,
    pub body: Body,
    pub encrypted: bool,
    /// When the client must be answered at the latest.
    pub deadline: Instant,
    /// The body's share of the memory for bodies; given back when the message is done with.
    pub memory: Memory,
}

pub struct Admission {
    pub judge: Judge,
    pub settings: Arc<ArcSwap<Settings>>,
    pub ledger: Ledger,
    pub upstreams: Upstreams,
    pub targets: Targets,
    pub shortages: Shortages,
    pub metrics: Metrics,
    /// Messages under way. A drain waits for them.
    pub tasks: TaskTracker,
    pub rng: Mutex<StdRng>,
}

/// A message that may ask for credits.
struct Errand {
    id: MessageId,
    sender: Sender,
    target: Arc<Target>,
    credits: u32,
    octets: usize,
    deadline: Instant,
    _memory: Memory,
}

/// An answer with what it is counted as.
struct Answer {
    reply: Reply,
    result: MessageResult,
}

impl Admission {
    /// Whether one more recipient may be named. The sender is judged here and not at MAIL: more clients show this
    /// reply, and the log has the recipient.
    pub async fn recipient(&self, who: &Identity, transaction: &Transaction) -> Result<(), Reply> {
        let from = transaction.mail.from.as_ref();
        let sender = self.judge.sender(who, |sender| judge::envelope(sender, from)).await?;
        let settings = self.settings.load();
        let target = self.targets.of(&sender.policy, &settings.sealer).ok_or(Reply::NoUpstream)?;
        let limit = settings.config.limits.recipients.min(target.entry.max_recipients);
        let named = transaction.recipients.len();
        if named >= usize::from(limit) {
            return Err(Reply::TooManyRecipients { limit });
        }
        match self.shortages.foresee(sender.chain(), named + 1, Instant::now()) {
            Some(shortage) => Err(Reply::Short(shortage)),
            None => Ok(()),
        }
    }

    /// Takes a whole message and says what becomes of it.
    pub async fn take(self: &Arc<Self>, who: &Identity, received: Received) -> Reply {
        let header = match header::read(received.body.content()) {
            Ok(header) => header,
            Err(fault) => return self.refused(who, MessageResult::Malformed, Reply::Header(fault)),
        };
        if header.received > RECEIVED_MAX {
            return self.refused(who, MessageResult::Loop, Reply::Loop);
        }
        if header.from_fields != 1 {
            return self.refused(who, MessageResult::Malformed, Reply::FromCount);
        }
        let from = received.transaction.mail.from.clone();
        let allowed = |sender: &Sender| {
            judge::envelope(sender, from.as_ref())?;
            judge::header(sender, &header)
        };
        let sender = match self.judge.sender(who, allowed).await {
            Ok(sender) => sender,
            Err(reply) => return self.refused(who, denied_as(&reply), reply),
        };
        let Some(target) = self.targets.of(&sender.policy, &self.settings.load().sealer) else {
            return self.refused(who, MessageResult::NoUpstream, Reply::NoUpstream);
        };
        let (errand, message) = self.errand(sender, target, &header, received);
        let (say, hear) = oneshot::channel();
        self.tasks.spawn(self.clone().carry(errand, message, say));
        // The task ends without an answer only if it panics, and then nobody knows.
        hear.await.unwrap_or(Reply::OutcomeUnknown)
    }

    /// Counts a message that was refused before it asked for credits.
    pub fn refused(&self, who: &Identity, result: MessageResult, reply: Reply) -> Reply {
        let labels = self.judge.labels(who);
        self.metrics.message(&labels, result, self.metric_accounts());
        let Labels { policy, account, key } = labels;
        tracing::info!(policy, account, key, outcome = result.as_str(), code = reply.code(), "message");
        reply
    }

    /// What every upstream can take, as far as they were asked. One that was never asked is given the benefit of the
    /// doubt; it refuses the single message otherwise.
    pub fn carries(&self) -> Carries {
        let mut carries = Carries { eight_bit: true, utf8: true };
        for seen in self.judge.policies().into_iter().filter_map(|policy| self.upstreams.seen(policy)) {
            carries.eight_bit &= seen.eight_bit_mime;
            carries.utf8 &= seen.smtputf8;
        }
        carries
    }

    fn errand(&self, sender: Sender, target: Arc<Target>, header: &Header, received: Received) -> (Errand, Message) {
        let Received { transaction, body, encrypted, deadline, memory } = received;
        let id = self.next_id();
        let settings = self.settings.load();
        let added = Added {
            id,
            hostname: &settings.config.hostname,
            received_at: self.judge.now(),
            encrypted,
            utf8: transaction.mail.utf8,
        };
        let eight_bit = !body.content().is_ascii();
        let credits = u32::try_from(transaction.recipients.len()).unwrap_or(u32::MAX);
        let message = Message {
            sender: transaction.mail.from,
            recipients: transaction.recipients,
            body: body.with(&added.fields(header)),
            eight_bit,
            smtputf8: transaction.mail.utf8,
            sender_tag: sender.account.id.0,
        };
        (Errand { id, sender, target, credits, octets: message.body.len(), deadline, _memory: memory }, message)
    }

    /// A UUIDv7, so that the ledger's newest rows lie together.
    fn next_id(&self) -> MessageId {
        let mut random = [0; 10];
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut random);
        let millis = u64::try_from(self.judge.now().as_millisecond()).unwrap_or(0);
        MessageId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    async fn carry(self: Arc<Self>, errand: Errand, message: Message, say: oneshot::Sender<Reply>) {
        let started = Instant::now();
        let reservation = Reservation { message: errand.id, key: errand.sender.key.id, credits: errand.credits };
        let verdict = self.ledger.reserve(reservation, errand.deadline.min(started + RESERVE_LIMIT)).await;
        let refusal = match verdict {
            Ok(Verdict::Reserved) => None,
            Ok(Verdict::Short { meter, granted, remaining, reopens_at }) => {
                let shortage = Shortage { meter, granted, remaining, reopens_at };
                self.shortages.remember(errand.sender.chain(), shortage.clone(), Instant::now());
                Some(Answer { reply: Reply::Short(shortage), result: MessageResult::Short })
            }
            Ok(Verdict::TooFast { pace, rate, retry_at }) => {
                let haste = Haste::new(pace, rate, retry_at, self.judge.now());
                Some(Answer { reply: Reply::TooFast(haste), result: MessageResult::TooFast })
            }
            Ok(Verdict::Blocked(blocked)) => {
                Some(Answer { reply: Reply::Blocked(blocked, Moment::Transaction), result: MessageResult::Blocked })
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "asking the ledger for credits");
                Some(Answer { reply: Reply::LedgerUnavailable, result: MessageResult::LedgerUnavailable })
            }
        };
        if let Some(answer) = refusal {
            return self.answer(&errand, started, answer, say);
        }
        match self.upstreams.forward(&errand.target, message, errand.deadline).await {
            Forwarded::Open { cause, outcome } => {
                let (settled, answer) = concluded(Forwarded::Unknown { cause });
                self.settle(&errand, settled);
                self.answer(&errand, started, answer, say);
                // What turned out corrects the books; the client was answered.
                if let Ok(forwarded) = outcome.await {
                    let (settled, answer) = concluded(forwarded);
                    if settled != Outcome::Unknown {
                        self.settle(&errand, settled);
                        tracing::info!(message.id = %errand.id, outcome = answer.result.as_str(), "outcome known late");
                    }
                }
            }
            forwarded => {
                let (settled, answer) = concluded(forwarded);
                self.settle(&errand, settled);
                self.answer(&errand, started, answer, say);
            }
        }
    }

    fn metric_accounts(&self) -> u32 {
        self.settings.load().config.limits.metric_accounts
    }

    fn settle(&self, errand: &Errand, outcome: Outcome) {
        self.ledger.settle(Settlement { message: errand.id, outcome });
        self.metrics.settled(&Labels::of(&errand.sender), outcome, errand.credits, self.metric_accounts());
    }

    /// The one line per message, and the client's reply.
    fn answer(&self, errand: &Errand, started: Instant, answer: Answer, say: oneshot::Sender<Reply>) {
        let Errand { id, sender, credits, octets, .. } = errand;
        let took = started.elapsed();
        let labels = Labels::of(sender);
        self.metrics.message(&labels, answer.result, self.metric_accounts());
        let Labels { policy, account, key } = labels;
        self.metrics.took(took);
        let reply = match answer.reply {
            // Only here is the id at hand.
            Reply::Accepted(_) => {
                self.metrics.relayed(&policy, *octets);
                Reply::Accepted(*id)
            }
            reply => reply,
        };
        tracing::info!(
            message.id = %id,
            policy,
            account,
            key,
            credits,
            octets,
            outcome = answer.result.as_str(),
            code = reply.code(),
            took_ms = took.as_millis(),
            "message"
        );
        // The client may be gone; the books are right all the same.
        let _ = say.send(reply);
    }
}

/// What a reply of the judge is counted as.
fn denied_as(reply: &Reply) -> MessageResult {
    if matches!(reply, Reply::Blocked(..)) {
        MessageResult::Blocked
    } else if matches!(reply, Reply::DirectoryStale) {
        MessageResult::DirectoryStale
    } else {
        MessageResult::SenderDenied
    }
}

/// The failure table: what is settled, and what the client hears.
fn concluded(forwarded: Forwarded) -> (Outcome, Answer) {
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
