//! The order of commands in one session.
//!
//! The session says what a command asks for; its caller judges the sender, reads the body and writes the replies, and
//! tells the session the result. So the order of commands is tested without a socket.

use super::command::{Command, Mail, Recipient};
use super::reply::{Carries, Offer, Reply};
use super::sasl::{self, Exchange, Login, Step};
use crate::domain::sender::Address;
use crate::runtime::relay_config::ListenerMode;

/// Settings that stay the same for a session.
#[derive(Clone, Debug)]
pub struct SessionParameters {
    pub hostname: String,
    pub mode: ListenerMode,
    /// Maximum size of a message here. The limit of its upstream may be lower, and is known only later.
    pub message_bytes: usize,
    /// Number of refused commands before the connection is closed.
    pub errors: u32,
    /// Number of failed logins before the connection is closed.
    pub auth_attempts: u32,
    pub carries: Carries,
}

/// A reply, and the decision whether the connection ends with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub reply: Reply,
    pub close: bool,
}

impl Answer {
    pub fn say(reply: Reply) -> Self {
        Self { reply, close: false }
    }

    pub fn close(reply: Reply) -> Self {
        Self { reply, close: true }
    }
}

/// The next step for the caller.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Answer(Answer),
    /// Say 220, then start TLS and call [`SmtpSession::encrypted`].
    StartTls,
    /// Send the prompt; the next line goes to [`SmtpSession::auth_line`].
    Prompt(&'static str),
    /// Authorize it, then call [`SmtpSession::logged_in`] or [`SmtpSession::login_failed`].
    Login(Login),
    /// Authorize it, then call [`SmtpSession::begin`].
    Mail(Mail),
    /// Authorize it, then call [`SmtpSession::add`].
    Recipient(Recipient),
    /// Authorize it once more, say 354, read the body, then call [`SmtpSession::reset`].
    Data,
}

/// The envelope so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub mail: Mail,
    pub recipients: Vec<Address>,
}

#[derive(Debug)]
pub struct SmtpSession {
    parameters: SessionParameters,
    encrypted: bool,
    greeted: bool,
    logged_in: bool,
    exchange: Option<Exchange>,
    transaction: Option<Transaction>,
    errors: u32,
    failed_logins: u32,
}

impl SmtpSession {
    pub fn new(parameters: SessionParameters) -> Self {
        let encrypted = match parameters.mode {
            ListenerMode::Implicit => true,
            ListenerMode::StartTls | ListenerMode::Plain => false,
        };
        Self {
            parameters,
            encrypted,
            greeted: false,
            logged_in: false,
            exchange: None,
            transaction: None,
            errors: 0,
            failed_logins: 0,
        }
    }

    pub fn greeting(&self) -> Reply {
        Reply::Greeting { hostname: self.parameters.hostname.clone() }
    }

    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    pub fn is_logged_in(&self) -> bool {
        self.logged_in
    }

    /// True if the next line belongs to a login.
    pub fn in_exchange(&self) -> bool {
        self.exchange.is_some()
    }

    pub fn transaction(&self) -> Option<&Transaction> {
        self.transaction.as_ref()
    }

    /// Takes a parsed command, or the reply that refuses it.
    pub fn command(&mut self, parsed: Result<Command, Reply>) -> Next {
        let next = match parsed {
            Ok(command) => self.next(command),
            Err(refusal) => say(refusal),
        };
        self.counted(next)
    }

    fn counted(&mut self, next: Next) -> Next {
        match next {
            Next::Answer(Answer { reply, close: false }) => Next::Answer(self.answer(reply)),
            next => next,
        }
    }

    /// Counts a refusal, and closes after too many. A refusal by the upstream, or for lack of credits, is no mistake of
    /// the client: a newsletter may well name twenty people who are gone.
    pub fn answer(&mut self, reply: Reply) -> Answer {
        if reply.code() == 421 {
            // RFC 5321 §3.8: it says that the connection closes.
            return Answer::close(reply);
        }
        if reply.code() < 500 || matches!(reply, Reply::Upstream { .. } | Reply::Short(..)) {
            return Answer::say(reply);
        }
        self.errors += 1;
        if self.errors > self.parameters.errors { Answer::close(Reply::TooManyErrors) } else { Answer::say(reply) }
    }

    fn next(&mut self, command: Command) -> Next {
        match command {
            Command::Ehlo => self.greet(true),
            Command::Helo => self.greet(false),
            Command::StartTls => self.start_tls(),
            Command::Auth { mechanism, initial } => self.auth(|| sasl::start(mechanism, initial.as_deref())),
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(recipient) => self.recipient(recipient),
            Command::Data => self.data(),
            Command::Rset => {
                self.reset();
                say(Reply::Ok)
            }
            Command::Noop => say(Reply::Ok),
            Command::Quit => Next::Answer(Answer::close(Reply::Bye)),
            Command::Vrfy => say(Reply::CannotVerify),
            Command::Help => say(Reply::Help),
        }
    }

    fn greet(&mut self, extended: bool) -> Next {
        self.greeted = true;
        self.reset();
        let hostname = self.parameters.hostname.clone();
        if !extended {
            return say(Reply::Helo { hostname });
        }
        let offer = Offer {
            start_tls: !self.encrypted && self.parameters.mode == ListenerMode::StartTls,
            auth: self.may_auth(),
            carries: self.parameters.carries,
        };
        say(Reply::Ehlo { hostname, offer })
    }

    fn may_auth(&self) -> bool {
        match self.parameters.mode {
            ListenerMode::Implicit | ListenerMode::StartTls => self.encrypted,
            ListenerMode::Plain => true,
        }
    }

    fn start_tls(&self) -> Next {
        match self.parameters.mode {
            ListenerMode::StartTls if !self.encrypted => Next::StartTls,
            ListenerMode::StartTls | ListenerMode::Implicit => {
                say(Reply::OutOfOrder("the connection is encrypted already"))
            }
            ListenerMode::Plain => say(Reply::NotImplemented),
        }
    }

    /// Notes that TLS has started: all that was received in the clear is forgotten (RFC 3207 §4.2).
    pub fn encrypted(&mut self) {
        self.encrypted = true;
        self.greeted = false;
        self.exchange = None;
        self.transaction = None;
    }

    fn auth(&mut self, start: impl FnOnce() -> Step) -> Next {
        if !self.may_auth() {
            return say(Reply::TlsFirstForAuth);
        }
        if self.logged_in {
            return say(Reply::OutOfOrder("logged in already"));
        }
        if !self.greeted {
            return say(Reply::OutOfOrder("EHLO first"));
        }
        self.step(start())
    }

    /// Takes the next line of a login, or the reply that refuses it.
    pub fn auth_line(&mut self, line: Result<&str, Reply>) -> Next {
        let step = match (self.exchange.take(), line) {
            (Some(exchange), Ok(line)) => exchange.respond(line),
            (Some(_) | None, Ok(_) | Err(_)) => Step::Malformed,
        };
        let next = self.step(step);
        self.counted(next)
    }

    /// Takes an unreadable line, be it a command or a part of a login: it ends the login, so that the next line is a
    /// command for both sides.
    pub fn unreadable(&mut self, reply: Reply) -> Answer {
        self.exchange = None;
        self.answer(reply)
    }

    fn step(&mut self, step: Step) -> Next {
        match step {
            Step::Prompt(prompt, exchange) => {
                self.exchange = Some(exchange);
                Next::Prompt(prompt)
            }
            Step::Done(login) => Next::Login(login),
            Step::Cancelled => say(Reply::AuthCancelled),
            Step::Malformed => say(Reply::AuthMalformed),
        }
    }

    pub fn logged_in(&mut self) {
        self.logged_in = true;
    }

    /// Counts a failed login and returns the answer to it: `refusal`, or after too many the end of the connection.
    pub fn login_failed(&mut self, refusal: Reply) -> Answer {
        self.failed_logins += 1;
        if self.failed_logins >= self.parameters.auth_attempts {
            Answer::close(Reply::TooManyLogins)
        } else {
            Answer::say(refusal)
        }
    }

    /// Checks that TLS and the login are done. A missing step is refused (530) before anything about a transaction, TLS
    /// first.
    fn ready(&self) -> Result<(), Reply> {
        if !self.may_auth() {
            return Err(Reply::TlsFirst);
        }
        if !self.logged_in {
            return Err(Reply::AuthFirst);
        }
        Ok(())
    }

    fn mail(&self, mail: Mail) -> Next {
        if let Err(refusal) = self.ready() {
            return say(refusal);
        }
        if self.transaction.is_some() {
            return say(Reply::OutOfOrder("a transaction is open; RSET ends it"));
        }
        if mail.size > self.parameters.message_bytes {
            return say(Reply::TooBig { limit: self.parameters.message_bytes });
        }
        Next::Mail(mail)
    }

    fn recipient(&self, recipient: Recipient) -> Next {
        if let Err(refusal) = self.ready() {
            return say(refusal);
        }
        match &self.transaction {
            None => say(Reply::OutOfOrder("MAIL first")),
            Some(transaction) if !transaction.mail.utf8 && !recipient.is_ascii() => say(Reply::Utf8NotAsked),
            Some(_) => Next::Recipient(recipient),
        }
    }

    fn data(&self) -> Next {
        if let Err(refusal) = self.ready() {
            return say(refusal);
        }
        match &self.transaction {
            None => say(Reply::OutOfOrder("MAIL first")),
            Some(transaction) if transaction.recipients.is_empty() => say(Reply::NoRecipients),
            Some(_) => Next::Data,
        }
    }

    pub fn begin(&mut self, mail: Mail) {
        self.transaction = Some(Transaction { mail, recipients: Vec::new() });
    }

    /// Adds an accepted recipient. One that is named twice is one recipient, as on most servers.
    pub fn add(&mut self, address: Address) {
        if let Some(transaction) = &mut self.transaction
            && !transaction.recipients.contains(&address)
        {
            transaction.recipients.push(address);
        }
    }

    /// Ends the transaction; the login stays.
    pub fn reset(&mut self) -> Option<Transaction> {
        self.exchange = None;
        self.transaction.take()
    }
}

fn say(reply: Reply) -> Next {
    Next::Answer(Answer::say(reply))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::smtp::command::parse;

    fn session(mode: ListenerMode) -> SmtpSession {
        let carries = Carries { eight_bit: true, utf8: true, size: 100 };
        let hostname = "relay.example".to_owned();
        SmtpSession::new(SessionParameters { hostname, mode, message_bytes: 100, errors: 3, auth_attempts: 3, carries })
    }

    fn hear(session: &mut SmtpSession, line: &str) -> Next {
        session.command(parse(line.as_bytes()))
    }

    fn code(next: Next) -> u16 {
        match next {
            Next::Answer(answer) => answer.reply.code(),
            other => panic!("no reply: {other:?}"),
        }
    }

    /// A session that may send.
    fn ready() -> SmtpSession {
        let mut session = session(ListenerMode::Implicit);
        hear(&mut session, "EHLO x");
        session.logged_in();
        session
    }

    #[test]
    fn what_comes_too_early_is_refused_with_what_comes_first() {
        let mut clear = session(ListenerMode::StartTls);
        assert_eq!(hear(&mut clear, "AUTH LOGIN"), say(Reply::TlsFirstForAuth));
        assert_eq!(hear(&mut clear, "MAIL FROM:<a@b.c>"), say(Reply::TlsFirst));
        let mut encrypted = session(ListenerMode::Implicit);
        assert_eq!(code(hear(&mut encrypted, "AUTH LOGIN")), 503);
        assert_eq!(hear(&mut encrypted, "MAIL FROM:<a@b.c>"), say(Reply::AuthFirst));
        let mut ready = ready();
        assert_eq!(code(hear(&mut ready, "RCPT TO:<a@b.c>")), 503);
        assert_eq!(code(hear(&mut ready, "DATA")), 503);
        assert_eq!(code(hear(&mut ready, "AUTH LOGIN")), 503);
    }

    #[test]
    fn a_transaction_opens_once_and_needs_a_recipient() {
        let mut session = ready();
        let Next::Mail(mail) = hear(&mut session, "MAIL FROM:<a@b.c> SIZE=100") else { panic!("no mail") };
        session.begin(mail);
        assert_eq!(code(hear(&mut session, "MAIL FROM:<a@b.c>")), 503);
        assert_eq!(hear(&mut session, "DATA"), say(Reply::NoRecipients));
        for line in ["RCPT TO:<x@y.z>", "RCPT TO:<x@Y.z>"] {
            let Next::Recipient(Recipient::Mailbox(address)) = hear(&mut session, line) else { panic!("no recipient") };
            session.add(address);
        }
        assert_eq!(session.transaction().expect("a transaction").recipients.len(), 1);
        assert_eq!(hear(&mut session, "DATA"), Next::Data);
        assert_eq!(hear(&mut session, "RSET"), say(Reply::Ok));
        assert!(session.transaction().is_none() && session.is_logged_in());
    }

    #[test]
    fn a_size_over_the_limit_is_refused_before_the_upload() {
        assert_eq!(code(hear(&mut ready(), "MAIL FROM:<a@b.c> SIZE=101")), 552);
    }

    #[test]
    fn tls_forgets_what_was_said_before_it_and_is_offered_once() {
        let mut session = session(ListenerMode::StartTls);
        hear(&mut session, "EHLO x");
        assert_eq!(hear(&mut session, "STARTTLS"), Next::StartTls);
        session.encrypted();
        assert_eq!(code(hear(&mut session, "AUTH PLAIN")), 503, "EHLO has to be said again");
        let Next::Answer(Answer { reply: Reply::Ehlo { offer, .. }, .. }) = hear(&mut session, "EHLO x") else {
            panic!("no EHLO")
        };
        assert!(offer.auth && !offer.start_tls);
        assert_eq!(code(hear(&mut session, "STARTTLS")), 503);
    }

    #[test]
    fn a_plain_listener_offers_auth_and_no_tls() {
        let mut session = session(ListenerMode::Plain);
        let Next::Answer(Answer { reply: Reply::Ehlo { offer, .. }, .. }) = hear(&mut session, "EHLO x") else {
            panic!("no EHLO")
        };
        assert!(offer.auth && !offer.start_tls);
        assert_eq!(code(hear(&mut session, "STARTTLS")), 502);
    }

    #[test]
    fn too_many_errors_and_too_many_logins_close() {
        let mut noisy = session(ListenerMode::Implicit);
        for _ in 0..3 {
            assert_eq!(code(hear(&mut noisy, "FOO")), 500);
        }
        assert_eq!(hear(&mut noisy, "FOO"), Next::Answer(Answer::close(Reply::TooManyErrors)));
        let words = Reply::Upstream { code: 550, enhanced: None, text: "no such person".into() };
        let mut unlucky = ready();
        for _ in 0..10 {
            assert!(!unlucky.answer(words.clone()).close, "what an upstream refuses is no mistake of the client");
        }
        let mut guessing = session(ListenerMode::Implicit);
        assert_eq!(guessing.login_failed(Reply::BadLogin), Answer::say(Reply::BadLogin));
        assert_eq!(guessing.login_failed(Reply::BadLogin), Answer::say(Reply::BadLogin));
        assert_eq!(guessing.login_failed(Reply::BadLogin), Answer::close(Reply::TooManyLogins));
    }

    #[test]
    fn a_login_is_an_exchange_of_lines_that_a_star_ends() {
        let mut session = session(ListenerMode::Implicit);
        hear(&mut session, "EHLO x");
        assert_eq!(hear(&mut session, "AUTH LOGIN"), Next::Prompt("VXNlcm5hbWU6"));
        assert!(session.in_exchange());
        assert_eq!(session.auth_line(Ok("*")), say(Reply::AuthCancelled));
        assert!(!session.in_exchange());
        let Next::Login(login) = hear(&mut session, "AUTH PLAIN AGEAYg==") else { panic!("no login") };
        assert_eq!(login.username, "a");
        hear(&mut session, "AUTH LOGIN");
        assert_eq!(session.unreadable(Reply::CommandTooLong), Answer::say(Reply::CommandTooLong));
        assert!(!session.in_exchange(), "the next line is a command again, not a password");
    }
}
