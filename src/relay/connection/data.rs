//! DATA: from the command to the reply after the final dot.
//!
//! Memory for the body is taken as its octets arrive, and a client must keep up a rate for all of it: a client that
//! holds memory has sent as much, and lately.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::{Connection, seconds};
use crate::domain::directory::AccountEntry;
use crate::relay::admit::Received;
use crate::relay::body_memory::HeldMemory;
use crate::relay::metrics::{Late, MessageResult, SessionEnd};
use crate::relay::smtp::data::{Body, BodyReader, Progress, Refusal};
use crate::relay::smtp::reply::Reply;
use crate::relay::smtp::session::Answer;
use crate::runtime::relay_config::Limits;

/// Multiple of the largest message after which a client without a final dot is cut off: it is not going to read a
/// reply.
const DISCARD_FACTOR: usize = 4;

/// Time that a connection whose client closed its side is kept for the reply. A client that hung up for good will
/// reconnect, and needs the place of its key.
const LISTENS_MAX: Duration = Duration::from_secs(5);

/// The end of a body.
enum Read {
    Whole(Body, HeldMemory),
    Refused(Refusal),
    /// Far over the limit, and still no final dot.
    Endless,
}

impl Connection {
    pub(super) async fn data(&mut self) -> io::Result<Answer> {
        let announced = self.session.transaction().map_or(0, |transaction| transaction.mail.size);
        let memory = match self.account().await {
            Ok(account) => self.shared.bodies.of(&account),
            Err(reply) => {
                if matches!(reply, Reply::LoginOver(_)) {
                    self.shared.admission.metrics.session_ended(SessionEnd::Login);
                }
                return Ok(self.session.answer(reply));
            }
        };
        // A body that cannot be kept need not be uploaded. No memory is taken on an announcement.
        if !memory.has_room_for(announced, &self.shared.admission.settings.load().config.limits) {
            let reply = match &self.identity {
                Some(who) => self.shared.admission.refused(who, MessageResult::NoMemory, Reply::NoMemory),
                None => Reply::AuthFirst,
            };
            return Ok(self.session.answer(reply));
        }
        self.say(&Reply::StartData);
        self.waiting_for = Late::Body;
        let read = self.body(announced, memory).await?;
        self.waiting_for = Late::Command;
        let dot = Instant::now();
        let deadline = dot + seconds(self.listener.budget_seconds);
        let transaction = self.session.reset();
        let (Some(transaction), Some(who)) = (transaction, &self.identity) else {
            return Ok(self.session.answer(Reply::AuthFirst));
        };
        let admission = &self.shared.admission;
        let reply = match read {
            Read::Whole(body, memory) => {
                let encrypted = self.session.is_encrypted();
                let (report_hung_up, hung_up) = oneshot::channel();
                let received = Received { transaction, body, encrypted, deadline, memory };
                let mut answered = pin!(admission.admit(who, received, hung_up));
                tokio::select! {
                    biased;
                    reply = &mut answered => reply,
                    () = self.stream.hung_up() => {
                        // The message may be finished already.
                        let _ = report_hung_up.send(dot.elapsed());
                        // A client that closed only its own side still reads.
                        let listens = timeout(LISTENS_MAX, answered).await;
                        listens.map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?
                    }
                }
            }
            Read::Refused(refusal) => {
                let (result, reply) = self.refusal(refusal);
                admission.refused(who, result, reply)
            }
            Read::Endless => {
                let (result, reply) = self.refusal(Refusal::TooBig);
                return Ok(Answer::close(admission.refused(who, result, reply)));
            }
        };
        Ok(self.session.answer(reply))
    }

    /// Returns the account that sends, if it still may. The login is judged as at MAIL: a transaction may have been
    /// open for long.
    async fn account(&self) -> Result<Arc<AccountEntry>, Reply> {
        let who = self.identity.as_ref().ok_or(Reply::AuthFirst)?;
        let judge = &self.shared.admission.auth;
        judge.sender(who, |sender| judge.still_logged_in(who, sender)).await.map(|sender| sender.account)
    }

    fn refusal(&self, refusal: Refusal) -> (MessageResult, Reply) {
        match refusal {
            Refusal::TooBig => {
                (MessageResult::TooBig, Reply::TooBig { limit: self.settings.config.limits.message_bytes })
            }
            Refusal::NoMemory => (MessageResult::NoMemory, Reply::NoMemory),
            Refusal::Fault(fault) => (MessageResult::Malformed, Reply::Body(fault)),
        }
    }

    /// Reads the body to the final dot.
    async fn body(&mut self, announced: usize, mut memory: HeldMemory) -> io::Result<Read> {
        let settings = self.settings.clone();
        let limits = &settings.config.limits;
        let mut reader = BodyReader::new(limits.message_bytes, announced, self.listener.line_ends);
        let mut deadline = BodyDeadline::new(limits, Instant::now());
        loop {
            let progress = reader.feed(&self.stream.input);
            if !memory.grow_to(reader.held(), &self.shared.admission.settings.load().config.limits) {
                reader.discard();
            }
            if reader.refused() {
                memory.release();
            }
            match progress {
                Progress::End(length) => {
                    self.stream.consume(length);
                    return Ok(match reader.finish() {
                        Ok(body) => Read::Whole(body, memory),
                        Err(refusal) => Read::Refused(refusal),
                    });
                }
                Progress::More => self.stream.consume(self.stream.input.len()),
            }
            if reader.size() > limits.message_bytes.saturating_mul(DISCARD_FACTOR) {
                return Ok(Read::Endless);
            }
            self.stream.flush().await?;
            let read = self.stream.fill(deadline.due()).await;
            let now = Instant::now();
            if deadline.is_over(now) {
                self.waiting_for = Late::Message;
            }
            match read? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                read => deadline.moved(read, now),
            }
        }
    }
}

/// The time that a client has for a body: each octet buys it time, up to one window, and never beyond the end.
struct BodyDeadline {
    window: Duration,
    octets_per_second: u32,
    due: Instant,
    end: Instant,
}

impl BodyDeadline {
    fn new(limits: &Limits, now: Instant) -> Self {
        let window = seconds(limits.data_seconds);
        Self {
            window,
            octets_per_second: limits.data_bytes_per_second.max(1),
            due: now + window,
            end: now + seconds(limits.message_seconds),
        }
    }

    /// Returns the time by which the next octets must arrive.
    fn due(&self) -> Instant {
        self.due.min(self.end)
    }

    /// True if the whole body is late, rather than its next octets.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.end
    }

    fn moved(&mut self, octets: usize, now: Instant) {
        let bought = Duration::from_secs(octets as u64) / self.octets_per_second;
        self.due = (self.due + bought).min(now + self.window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 100;

    fn deadline(now: Instant) -> BodyDeadline {
        let limits = Limits { data_seconds: 10, data_bytes_per_second: RATE, message_seconds: 60, ..Limits::default() };
        BodyDeadline::new(&limits, now)
    }

    #[test]
    fn a_fast_start_is_no_excuse_for_a_slow_end() {
        let start = Instant::now();
        let mut deadline = deadline(start);
        deadline.moved(1_000_000, start);
        assert_eq!(deadline.due(), start + seconds(10), "a window, and no more");
        // One octet now and then buys next to nothing.
        for second in 1..10 {
            deadline.moved(1, start + seconds(second));
        }
        assert!(deadline.due() < start + seconds(11));
    }

    #[test]
    fn who_keeps_up_the_rate_has_time_until_the_end() {
        let start = Instant::now();
        let mut deadline = deadline(start);
        for second in 1..60 {
            let now = start + seconds(second);
            assert!(now < deadline.due(), "cut off after {second} s");
            assert!(!deadline.is_over(now));
            deadline.moved(RATE as usize, now);
        }
        assert_eq!(deadline.due(), start + seconds(60));
        assert!(deadline.is_over(start + seconds(60)));
    }
}
