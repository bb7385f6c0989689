//! The only file in which mail meets money: reserve → forward → settle.
//!
//! A credit pays for one recipient. The ledger counts the credits; the upstream is the smarthost that takes the mail.
//! The order is the guarantee: a message's credits are reserved before it is offered to the upstream, its client gets 250
//! only after the upstream's 250, and the credits are refunded only if the upstream certainly did not accept it. From the
//! reservation on, a message has its own task. A client that hangs up does not stop it, so the settlement that the
//! ledger records is what happened.
//!
//! A client that must be told 451 while the outcome is open, or that hangs up before its reply, will retry. The ledger
//! knows the message's fingerprint, a hash of key, envelope and content, before the 451 is sent, so any relay
//! recognises the retry. It is then sent on the credits of the first, or not at all if the first was relayed.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::auth::{self, Authorizer, Identity};
use super::body_memory::HeldMemory;
use super::denied_senders::DeniedCounts;
use super::disposition::{Answer, Claim, ClientState, Disposition, conclude, denied_as};
use super::labels::Labels;
use super::login_networks::LoginNetworks;
use super::metrics::{MessageResult, Metrics};
use super::settings::RelaySettings;
use super::shortage::Shortages;
use super::smtp::command::{Mail, Recipient};
use super::smtp::data::Body;
use super::smtp::header::{self, Added, Header};
use super::smtp::reply::{Carries, Moment, RateExceeded, Reply, Shortage};
use super::smtp::session::Transaction;
use super::targets::Targets;
use crate::domain::credit::{Outcome, Reservation, Verdict, WhenExhausted};
use crate::domain::directory::ResolvedKey;
use crate::domain::fingerprint::{Fingerprint, TraceMark};
use crate::domain::id::{KeyId, MessageId};
use crate::domain::sender::{Address, MailDomain};
use crate::ledger::Ledger;
use crate::ledger::store::{FINGERPRINT_KEPT, FINGERPRINT_KEPT_UNMARKED, Kept};
use crate::upstream::{Common, Forwarded, Message, Target, Tenant, Upstreams};

/// Maximum time to wait for the ledger alone. A group commit takes milliseconds; a ledger that takes longer than this
/// is down.
const RESERVE_LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of Received fields. RFC 5321 §6.3 wants at least 100; no honest message passes 50 servers.
const RECEIVED_MAX: usize = 50;

/// A message that was read to its final dot.
pub struct Received {
    pub transaction: Transaction,
    pub body: Body,
    pub encrypted: bool,
    /// The latest time to answer the client.
    pub deadline: Instant,
    /// The memory reserved for the body; released when the message is finished.
    pub memory: HeldMemory,
}

/// Decides on each step of a transaction, and carries out the last.
pub struct Admission {
    /// Knows the key of a login, with its account and policy, and what each may do.
    pub auth: Authorizer,
    pub settings: Arc<ArcSwap<RelaySettings>>,
    pub ledger: Ledger,
    pub upstreams: Upstreams,
    /// The upstream of each policy, with its login unsealed.
    pub targets: Targets,
    /// The senders that lacked credits a moment ago.
    pub shortages: Shortages,
    /// Messages refused for their sender address, counted for their key's owner.
    pub denied: Arc<DeniedCounts>,
    /// The networks that each key logged in from.
    pub logins: Arc<LoginNetworks>,
    pub metrics: Metrics,
    /// The tasks of messages in progress. A drain waits for them.
    pub tasks: TaskTracker,
    pub rng: Mutex<StdRng>,
}

/// Maximum time that a 451 waits until the ledger has recorded the message; after that it is sent all the same. A commit
/// takes milliseconds. Devices give up at 30 s and are to be answered at 25 s, so this fits in between.
const RECORD_LIMIT: Duration = Duration::from_secs(2);
/// A client that hangs up sooner did not wait for a reply, so the same bytes without a Message-ID or a Date are probably
/// a new message: some devices send a fixed text and close at once. A client that retries has waited for a reply first.
const WAITED_MIN: Duration = Duration::from_millis(250);
/// Largest body that is hashed on the async thread, which takes half a millisecond; larger ones go to a blocking thread.
const HASHED_AT_ONCE: usize = 1024 * 1024;

/// A message that is ready to reserve credits.
struct InFlight {
    id: MessageId,
    /// The fingerprint, and how long the ledger keeps it.
    kept: Kept,
    sender: ResolvedKey,
    target: Arc<Target>,
    credits: u32,
    octets: usize,
    deadline: Instant,
    /// It has a Message-ID or a Date, so the same bytes again are a retry and no new message.
    is_distinguishable: bool,
    _memory: HeldMemory,
}

impl Admission {
    /// Checks whether a transaction may begin, by judging the login once more. A message announced as too large for the
    /// policy's upstream is refused here, before its upload.
    pub async fn begin(&self, identity: &Identity, mail: &Mail) -> Result<(), Reply> {
        let sender = self.auth.sender(identity, |sender| self.auth.still_logged_in(identity, sender)).await?;
        let settings = self.settings.load();
        let announced = self.targets.of(&sender.policy, &settings.sealer).and_then(|to| self.upstreams.announced(&to));
        match announced.and_then(|upstream| upstream.size) {
            Some(limit @ 1..) if mail.size > limit => Err(Reply::TooBig { limit }),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks that one more recipient may be named, and returns its address. The sender is judged here and not at MAIL,
    /// because more clients show this reply.
    pub async fn recipient(
        &self,
        identity: &Identity,
        transaction: &Transaction,
        to: Recipient,
    ) -> Result<Address, Reply> {
        let from = transaction.mail.from.as_ref();
        let sender = self.auth.sender(identity, |sender| auth::envelope(sender, from)).await?;
        let to = match to {
            Recipient::Mailbox(address) => address,
            Recipient::Postmaster => {
                Address::postmaster(sender.policy.sender_domains.first().ok_or(Reply::BadRecipientAddress)?)
            }
        };
        let settings = self.settings.load();
        let target = self.targets.of(&sender.policy, &settings.sealer).ok_or(Reply::NoUpstream)?;
        let foreign = !to.is_ascii() || from.is_some_and(|from| !from.is_ascii());
        if foreign && self.upstreams.announced(&target).is_some_and(|upstream| !upstream.smtputf8) {
            return Err(Reply::Utf8NotCarried);
        }
        let limit = settings.config.limits.recipients.min(target.entry.max_recipients);
        let named = transaction.recipients.len();
        if named >= usize::from(limit) {
            return Err(Reply::TooManyRecipients { limit });
        }
        let when = sender.policy.when_exhausted;
        // A refusal here is temporary. Only the reserve call may refuse for good, as `Reject` wants.
        let shortage = match when {
            WhenExhausted::Defer => {
                self.shortages.foresee(self.ledger.store().as_ref(), sender.chain(), named + 1).await
            }
            WhenExhausted::Reject => None,
        };
        shortage.map_or(Ok(to), |shortage| Err(Reply::Short(shortage, when)))
    }

    /// Admits a complete message and returns its reply. `hung_up` reports a client that hangs up, and how long after
    /// its final dot. Every log line about the message, of any layer, is in a span with its id and its key.
    pub async fn admit(
        self: &Arc<Self>,
        identity: &Identity,
        received: Received,
        hung_up: oneshot::Receiver<Duration>,
    ) -> Reply {
        let id = self.next_id();
        // The span has the level of an error, so that every line that is logged at all carries it.
        let span = tracing::error_span!("message", message.id = %id, key = self.auth.labels(identity).key);
        self.admit_as(id, identity, received, hung_up).instrument(span).await
    }

    async fn admit_as(
        self: &Arc<Self>,
        id: MessageId,
        identity: &Identity,
        mut received: Received,
        hung_up: oneshot::Receiver<Duration>,
    ) -> Reply {
        // Some programs send the first line of an mbox file, `From …`, before the header.
        received.body.skip(header::mailbox_line(received.body.content()));
        tracing::debug!(octets = received.body.content().len(), "read to its final dot");
        // The relay's own Received fields carry a mark of the key, by which a message that comes back is recognised.
        let mark = TraceMark::of(self.settings.load().config.installation, identity.key);
        let header = match header::read(received.body.content(), &mark) {
            Ok(header) => header,
            Err(fault) => return self.refused(identity, MessageResult::Malformed, Reply::Header(fault)),
        };
        if header.received > RECEIVED_MAX || header.own > 0 {
            return self.refused(identity, MessageResult::Loop, Reply::Loop);
        }
        if header.from_fields != 1 {
            return self.refused(identity, MessageResult::Malformed, Reply::FromCount);
        }
        let from = received.transaction.mail.from.clone();
        let allowed = |sender: &ResolvedKey| {
            auth::envelope(sender, from.as_ref())?;
            auth::header(sender, &header)
        };
        let sender = match self.auth.sender(identity, allowed).await {
            Ok(sender) => sender,
            Err(reply) => return self.refused(identity, denied_as(&reply), reply),
        };
        let Some(target) = self.targets.of(&sender.policy, &self.settings.load().sealer) else {
            return self.refused(identity, MessageResult::NoUpstream, Reply::NoUpstream);
        };
        let (in_flight, message) = self.in_flight(id, sender, target, (&header, &mark), received).await;
        // A message that the upstream is known to refuse, for its size for example, is not charged at all.
        if let Some(refusal) = self.upstreams.foresee(&in_flight.target, &message) {
            let (_, Answer { reply, result }) = conclude(id, &refusal);
            return self.refused(identity, result, reply);
        }
        let (reply_sender, reply) = oneshot::channel();
        let task = self.clone().reserve_forward_settle(in_flight, message, reply_sender, hung_up);
        self.tasks.spawn(task.in_current_span());
        // The task ends without an answer only if it panics, and then the outcome is unknown.
        reply.await.unwrap_or(Reply::OutcomeUnknown)
    }

    /// Counts and logs a message that was refused before it reserved credits.
    pub fn refused(&self, identity: &Identity, result: MessageResult, reply: Reply) -> Reply {
        let labels = self.auth.labels(identity);
        self.metrics.message(&labels, result, self.metric_accounts());
        let reason = self.sender_refused(identity, &labels, &reply);
        let domain = reply.denied_domain().map(MailDomain::as_str);
        let Labels { policy, account, key, account_id: _ } = labels;
        tracing::info!(policy, account, key, outcome = result.as_str(), code = reply.code(), reason, domain, "message");
        reply
    }

    /// Counts and logs a refused recipient. The caller reports a refusal for the sender once per transaction.
    pub fn recipient_refused(&self, identity: &Identity, reply: &Reply) {
        let labels = self.auth.labels(identity);
        let reason = self.sender_refused(identity, &labels, reply);
        let (code, domain) = (reply.code(), reply.denied_domain().map(MailDomain::as_str));
        let Labels { policy, account, key, account_id: _ } = labels;
        tracing::info!(policy, account, key, code, reason, domain, "recipient refused");
    }

    /// Counts a refusal for the sender and returns its reason; `None` if the sender is not the reason.
    fn sender_refused(&self, identity: &Identity, labels: &Labels, reply: &Reply) -> Option<&'static str> {
        let fault = reply.sender_fault()?;
        self.denied.add(identity.key, fault, 1, reply.denied_domain().cloned());
        self.metrics.sender_refused(&labels.policy, fault);
        Some(fault.as_str())
    }

    /// Returns the extensions that EHLO may announce before a login: those of every upstream that was connected to, and
    /// no message larger than `message_bytes`. An upstream not yet connected to may still refuse single messages.
    pub fn carries(&self, message_bytes: usize) -> Carries {
        let Common { eight_bit_mime, smtputf8, size } = self.upstreams.common();
        // The relay adds fields to a message before it sends it.
        let theirs = size.map(|limit| limit.saturating_sub(header::ADDED_MAX));
        Carries {
            eight_bit: eight_bit_mime,
            utf8: smtputf8,
            size: theirs.map_or(message_bytes, |limit| limit.min(message_bytes)),
        }
    }

    /// Forgets the upstreams that no policy names any more, according to the copy of the directory.
    pub fn forget_upstreams(&self) {
        if let Some(directory) = self.auth.changed() {
            self.upstreams.retain(|policy, upstream| {
                let policy = directory.policy(policy).filter(|policy| policy.removed_at.is_none());
                policy.is_some_and(|policy| policy.upstream.as_ref() == Some(upstream))
            });
        }
    }

    async fn in_flight(
        &self,
        id: MessageId,
        sender: ResolvedKey,
        target: Arc<Target>,
        (header, mark): (&Header, &TraceMark),
        received: Received,
    ) -> (InFlight, Message) {
        let Received { transaction, body, encrypted, deadline, memory } = received;
        let (transaction, body, fingerprint) = with_fingerprint(sender.key.id, transaction, body).await;
        let is_distinguishable = header.has_message_id || header.has_date;
        let within = if is_distinguishable { FINGERPRINT_KEPT } else { FINGERPRINT_KEPT_UNMARKED };
        let kept = Kept { fingerprint, within };
        let settings = self.settings.load();
        let added = Added {
            id,
            mark,
            hostname: &settings.config.hostname,
            received_at: self.auth.now(),
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
            tenant: Tenant { account: sender.account.id.0, namespace: Arc::from(sender.account.namespace.as_str()) },
        };
        let octets = message.body.len();
        (InFlight { id, kept, sender, target, credits, octets, deadline, is_distinguishable, _memory: memory }, message)
    }

    /// Returns a UUIDv7, so that the ledger's newest rows lie together.
    fn next_id(&self) -> MessageId {
        let mut random = [0; 10];
        self.rng.lock().fill_bytes(&mut random);
        let millis = u64::try_from(self.auth.now().as_millisecond()).unwrap_or(0);
        MessageId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    async fn reserve_forward_settle(
        self: Arc<Self>,
        in_flight: InFlight,
        message: Message,
        reply: oneshot::Sender<Reply>,
        hung_up: oneshot::Receiver<Duration>,
    ) {
        let started = Instant::now();
        let claim = match self.reserve(&in_flight, started).await {
            Ok(claim) => claim,
            Err(answer) => return self.answer(&in_flight, started, answer, reply),
        };
        let mut forwarding = pin!(self.upstreams.forward(&in_flight.target, message, in_flight.deadline));
        let (forwarded, is_recorded_open) = tokio::select! {
            biased;
            forwarded = &mut forwarding => (forwarded, false),
            // The client hung up without a reply: from now on it may retry.
            waited = hung_up => {
                // A session that ended without reporting a time counts as one that waited.
                let may_retry = in_flight.is_distinguishable || waited.unwrap_or(WAITED_MIN) >= WAITED_MIN;
                if may_retry {
                    self.settle_open(&in_flight, claim).await;
                }
                (forwarding.await, may_retry)
            }
        };
        let id = in_flight.id;
        // The time to answer the client is over, and the upstream has not replied to the final dot yet.
        if let Forwarded::Open { cause, outcome } = forwarded {
            if !is_recorded_open {
                self.settle_open(&in_flight, claim).await;
            }
            let (_, answer) = conclude(id, &Forwarded::Unknown { cause });
            self.answer(&in_flight, started, answer, reply);
            let (outcome, answer) = conclude(id, &outcome.await.unwrap_or(Forwarded::Unknown { cause }));
            self.settle_late(&in_flight, claim, outcome, &answer).await;
            return;
        }
        let (outcome, answer) = conclude(id, &forwarded);
        if is_recorded_open {
            self.settle_late(&in_flight, claim, outcome, &answer).await;
        } else {
            self.settle(&in_flight, Disposition::of_end(id, in_flight.kept, claim, outcome, ClientState::Waits)).await;
        }
        self.answer(&in_flight, started, answer, reply);
    }

    /// Reserves the credits. `Err` is the answer to a message that is not to be forwarded.
    async fn reserve(&self, in_flight: &InFlight, started: Instant) -> Result<Claim, Answer> {
        let InFlight { id, credits, .. } = *in_flight;
        let key = in_flight.sender.key.id;
        let reservation = Reservation { message: id, key, credits, fingerprint: Some(in_flight.kept.fingerprint) };
        let verdict = self.ledger.reserve(reservation, in_flight.deadline.min(started + RESERVE_LIMIT)).await;
        let (reply, result) = match verdict {
            Ok(Verdict::Reserved) => return Ok(Claim::Own),
            Ok(Verdict::Resumed(earlier)) => {
                tracing::info!(message.id = %id, earlier = %earlier, "sent in place of one whose outcome is not known");
                return Ok(Claim::StandsIn);
            }
            Ok(Verdict::Relayed(earlier)) => (Reply::Accepted(earlier), MessageResult::RelayedBefore),
            Ok(Verdict::UnderWay(_)) => (Reply::UnderWay, MessageResult::UnderWay),
            Ok(Verdict::Short { meter, granted, remaining, reopens_at, pending }) => {
                let shortage = Shortage { meter, granted, remaining, reopens_at };
                self.shortages.remember(in_flight.sender.chain(), meter, Instant::now());
                // Messages in progress may give credits back, so this is no reason to refuse permanently.
                let when = if pending { WhenExhausted::Defer } else { in_flight.sender.policy.when_exhausted };
                (Reply::Short(shortage, when), MessageResult::Short)
            }
            Ok(Verdict::TooFast { scope, rate, retry_at }) => {
                (Reply::TooFast(RateExceeded::new(scope, rate, retry_at, self.auth.now())), MessageResult::TooFast)
            }
            Ok(Verdict::Blocked(blocked)) => (Reply::Blocked(blocked, Moment::Transaction), MessageResult::Blocked),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "asking the ledger for credits");
                (Reply::LedgerUnavailable, MessageResult::LedgerUnavailable)
            }
        };
        Err(Answer { reply, result })
    }

    /// Records in the ledger a message whose client hung up, or is told 451, before the outcome is known, so that a
    /// retry is recognised.
    async fn settle_open(&self, in_flight: &InFlight, claim: Claim) {
        if let Some(disposition) = Disposition::of_open(in_flight.id, in_flight.kept, claim) {
            self.settle(in_flight, disposition).await;
        }
    }

    /// Settles an outcome that became known after the client hung up, or was told 451.
    async fn settle_late(&self, in_flight: &InFlight, claim: Claim, outcome: Outcome, answer: &Answer) {
        self.settle(in_flight, Disposition::of_end(in_flight.id, in_flight.kept, claim, outcome, ClientState::WasTold))
            .await;
        tracing::info!(message.id = %in_flight.id, outcome = answer.result.as_str(), "outcome known late");
    }

    async fn settle(&self, in_flight: &InFlight, disposition: Disposition) {
        let Disposition { settlement, is_awaited, is_counted } = disposition;
        if settlement.outcome.refunds() {
            self.shortages.forget(in_flight.sender.chain());
        }
        if is_awaited {
            self.ledger.settle_written(settlement, Instant::now() + RECORD_LIMIT).await;
        } else {
            self.ledger.settle(settlement);
        }
        if is_counted {
            let labels = Labels::of(&in_flight.sender);
            self.metrics.settled(&labels, settlement.outcome, in_flight.credits, self.metric_accounts());
        }
    }

    fn metric_accounts(&self) -> u32 {
        self.settings.load().config.limits.metric_accounts
    }

    /// Logs the one line per message, counts it, and sends the client's reply.
    fn answer(&self, in_flight: &InFlight, started: Instant, answer: Answer, to: oneshot::Sender<Reply>) {
        let InFlight { id, sender, credits, octets, .. } = in_flight;
        let took = started.elapsed();
        let labels = Labels::of(sender);
        self.metrics.message(&labels, answer.result, self.metric_accounts());
        let Labels { policy, account, key, account_id: _ } = labels;
        self.metrics.took(took);
        if answer.result == MessageResult::Relayed {
            self.metrics.relayed(&policy, *octets);
        }
        let reply = answer.reply;
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
        // The client may be gone; the ledger is right all the same.
        let _ = to.send(reply);
    }
}

/// Computes the message's fingerprint. A large message is hashed on a blocking thread, so that others need not wait for
/// it.
async fn with_fingerprint(key: KeyId, transaction: Transaction, body: Body) -> (Transaction, Body, Fingerprint) {
    let is_large = body.content().len() > HASHED_AT_ONCE;
    let work = move || {
        let Transaction { mail, recipients } = &transaction;
        let fingerprint = Fingerprint::of(key, mail.from.as_ref(), recipients, body.content());
        (transaction, body, fingerprint)
    };
    if !is_large {
        return work();
    }
    // The task does not panic, and is cancelled only with the runtime, when no caller waits any more.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
