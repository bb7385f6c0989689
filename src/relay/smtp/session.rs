//! What may follow what in one session.
//!
//! The session says what a command asks for; whoever drives it judges the sender, reads the body and writes the
//! replies, and tells the session what came of it. So the order of commands is tested without a socket.

use super::command::{Command, Mail};
use super::reply::{Offer, Reply};
use super::sasl::{self, Exchange, Login, Step};
use crate::domain::relay_config::ListenerMode;
use crate::domain::sender::Address;

/// What stays the same for a session.
#[derive(Clone, Debug)]
pub struct Terms {
    pub hostname: String,
    pub mode: ListenerMode,
    /// Octets of a message.
    pub message_bytes: usize,
    /// Refused commands before the connection is closed.
    pub errors: u32,
    /// Failed logins before the connection is closed.
    pub auth_attempts: u32,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Reply(Reply),
    /// Say it and close.
    Close(Reply),
    /// Say 220, then start TLS and call [`Session::encrypted`].
    StartTls,
    /// Send the prompt; the next line goes to [`Session::auth_line`].
    Prompt(&'static str),
    /// Judge it, then call [`Session::logged_in`] or [`Session::login_failed`].
    Login(Login),
    /// Judge it, then call [`Session::begin`].
    Mail(Mail),
    /// Judge it, then call [`Session::add`].
    Recipient(Address),
    /// Judge it once more, say 354, read the body, then call [`Session::reset`].
    Data,
}

/// The envelope so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub mail: Mail,
    pub recipients: Vec<Address>,
}

#[derive(Debug)]
pub struct Session {
    terms: Terms,
    encrypted: bool,
    greeted: bool,
    logged_in: bool,
    exchange: Option<Exchange>,
    transaction: Option<Transaction>,
    errors: u32,
    failed_logins: u32,
}

impl Session {
    pub fn new(terms: Terms) -> Self {
        let encrypted = match terms.mode {
            ListenerMode::Implicit => true,
            ListenerMode::StartTls | ListenerMode::Plain => false,
        };
        Self {
            terms,
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
        Reply::Greeting { hostname: self.terms.hostname.clone() }
    }

    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    pub fn is_logged_in(&self) -> bool {
        self.logged_in
    }

    /// Whether the next line belongs to a login.
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
            Err(refusal) => Next::Reply(refusal),
        };
        match next {
            Next::Reply(reply) => self.reply(reply),
            next => next,
        }
    }

    /// Counts a refusal, and closes after too many.
    pub fn reply(&mut self, reply: Reply) -> Next {
        if reply.code() < 500 {
            return Next::Reply(reply);
        }
        self.errors += 1;
        if self.errors > self.terms.errors { Next::Close(Reply::TooManyErrors) } else { Next::Reply(reply) }
    }

    fn next(&mut self, command: Command) -> Next {
        match command {
            Command::Ehlo => self.greet(true),
            Command::Helo => self.greet(false),
            Command::StartTls => self.start_tls(),
            Command::Auth { mechanism, initial } => self.auth(|| sasl::start(mechanism, initial.as_deref())),
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(address) => self.recipient(address),
            Command::Data => self.data(),
            Command::Rset => {
                self.reset();
                Next::Reply(Reply::Ok)
            }
            Command::Noop => Next::Reply(Reply::Ok),
            Command::Quit => Next::Close(Reply::Bye),
            Command::Vrfy => Next::Reply(Reply::CannotVerify),
            Command::Help => Next::Reply(Reply::Help),
        }
    }

    fn greet(&mut self, extended: bool) -> Next {
        self.greeted = true;
        self.reset();
        let hostname = self.terms.hostname.clone();
        if !extended {
            return Next::Reply(Reply::Helo { hostname });
        }
        let offer = Offer {
            size: self.terms.message_bytes,
            start_tls: !self.encrypted && self.terms.mode == ListenerMode::StartTls,
            auth: self.may_auth(),
        };
        Next::Reply(Reply::Ehlo { hostname, offer })
    }

    fn may_auth(&self) -> bool {
        match self.terms.mode {
            ListenerMode::Implicit | ListenerMode::StartTls => self.encrypted,
            ListenerMode::Plain => true,
        }
    }

    fn start_tls(&self) -> Next {
        match self.terms.mode {
            ListenerMode::StartTls if !self.encrypted => Next::StartTls,
            ListenerMode::StartTls | ListenerMode::Implicit => {
                Next::Reply(Reply::OutOfOrder("the connection is encrypted already"))
            }
            ListenerMode::Plain => Next::Reply(Reply::NotImplemented),
        }
    }

    /// TLS stands: all that was said in the clear is forgotten (RFC 3207 §4.2).
    pub fn encrypted(&mut self) {
        self.encrypted = true;
        self.greeted = false;
        self.exchange = None;
        self.transaction = None;
    }

    fn auth(&mut self, start: impl FnOnce() -> Step) -> Next {
        if !self.may_auth() {
            return Next::Reply(Reply::TlsFirstForAuth);
        }
        if self.logged_in {
            return Next::Reply(Reply::OutOfOrder("logged in already"));
        }
        if !self.greeted {
            return Next::Reply(Reply::OutOfOrder("EHLO first"));
        }
        self.step(start())
    }

    /// The next line of a login, or the reply that refuses it.
    pub fn auth_line(&mut self, line: Result<&str, Reply>) -> Next {
        let step = match (self.exchange.take(), line) {
            (Some(exchange), Ok(line)) => exchange.respond(line),
            (Some(_) | None, Ok(_) | Err(_)) => Step::Malformed,
        };
        match self.step(step) {
            Next::Reply(reply) => self.reply(reply),
            next => next,
        }
    }

    fn step(&mut self, step: Step) -> Next {
        match step {
            Step::Prompt(prompt, exchange) => {
                self.exchange = Some(exchange);
                Next::Prompt(prompt)
            }
            Step::Done(login) => Next::Login(login),
            Step::Cancelled => Next::Reply(Reply::AuthCancelled),
            Step::Malformed => Next::Reply(Reply::AuthMalformed),
        }
    }

    pub fn logged_in(&mut self) {
        self.logged_in = true;
    }

    /// Counts a failed login and says how to answer it. `refusal` is what this login deserves.
    pub fn login_failed(&mut self, refusal: Reply) -> Next {
        self.failed_logins += 1;
        if self.failed_logins >= self.terms.auth_attempts {
            Next::Close(Reply::TooManyLogins)
        } else {
            Next::Reply(refusal)
        }
    }

    pub fn failed_logins(&self) -> u32 {
        self.failed_logins
    }

    /// 530 before anything about a transaction; what comes first is named first.
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
            return Next::Reply(refusal);
        }
        if self.transaction.is_some() {
            return Next::Reply(Reply::OutOfOrder("a transaction is open; RSET ends it"));
        }
        if mail.size > self.terms.message_bytes {
            return Next::Reply(Reply::TooBig { limit: self.terms.message_bytes });
        }
        Next::Mail(mail)
    }

    fn recipient(&self, address: Address) -> Next {
        if let Err(refusal) = self.ready() {
            return Next::Reply(refusal);
        }
        match &self.transaction {
            None => Next::Reply(Reply::OutOfOrder("MAIL first")),
            Some(transaction) if !transaction.mail.utf8 && !address.is_ascii() => Next::Reply(Reply::Utf8NotAsked),
            Some(_) => Next::Recipient(address),
        }
    }

    fn data(&self) -> Next {
        if let Err(refusal) = self.ready() {
            return Next::Reply(refusal);
        }
        match &self.transaction {
            None => Next::Reply(Reply::OutOfOrder("MAIL first")),
            Some(transaction) if transaction.recipients.is_empty() => Next::Reply(Reply::NoRecipients),
            Some(_) => Next::Data,
        }
    }

    pub fn begin(&mut self, mail: Mail) {
        self.transaction = Some(Transaction { mail, recipients: Vec::new() });
    }

    /// Adds an accepted recipient. One that is named twice is one recipient, as most servers have it.
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

#[cfg(test)]
mod tests {
    use super::super::command::parse;
    use super::*;

    fn session(mode: ListenerMode) -> Session {
        Session::new(Terms { hostname: "relay.example".into(), mode, message_bytes: 100, errors: 3, auth_attempts: 3 })
    }

    fn say(session: &mut Session, line: &str) -> Next {
        session.command(parse(line.as_bytes()))
    }

    fn code(next: Next) -> u16 {
        match next {
            Next::Reply(reply) | Next::Close(reply) => reply.code(),
            other => panic!("no reply: {other:?}"),
        }
    }

    /// A session that may send.
    fn ready() -> Session {
        let mut session = session(ListenerMode::Implicit);
        say(&mut session, "EHLO x");
        session.logged_in();
        session
    }

    #[test]
    fn what_comes_too_early_is_refused_with_what_comes_first() {
        let mut clear = session(ListenerMode::StartTls);
        assert_eq!(say(&mut clear, "AUTH LOGIN"), Next::Reply(Reply::TlsFirstForAuth));
        assert_eq!(say(&mut clear, "MAIL FROM:<a@b.c>"), Next::Reply(Reply::TlsFirst));
        let mut encrypted = session(ListenerMode::Implicit);
        assert_eq!(code(say(&mut encrypted, "AUTH LOGIN")), 503);
        assert_eq!(say(&mut encrypted, "MAIL FROM:<a@b.c>"), Next::Reply(Reply::AuthFirst));
        let mut ready = ready();
        assert_eq!(code(say(&mut ready, "RCPT TO:<a@b.c>")), 503);
        assert_eq!(code(say(&mut ready, "DATA")), 503);
        assert_eq!(code(say(&mut ready, "AUTH LOGIN")), 503);
    }

    #[test]
    fn a_transaction_opens_once_and_needs_a_recipient() {
        let mut session = ready();
        let Next::Mail(mail) = say(&mut session, "MAIL FROM:<a@b.c> SIZE=100") else { panic!("no mail") };
        session.begin(mail);
        assert_eq!(code(say(&mut session, "MAIL FROM:<a@b.c>")), 503);
        assert_eq!(say(&mut session, "DATA"), Next::Reply(Reply::NoRecipients));
        for line in ["RCPT TO:<x@y.z>", "RCPT TO:<x@Y.z>"] {
            let Next::Recipient(address) = say(&mut session, line) else { panic!("no recipient") };
            session.add(address);
        }
        assert_eq!(session.transaction().expect("a transaction").recipients.len(), 1);
        assert_eq!(say(&mut session, "DATA"), Next::Data);
        assert_eq!(say(&mut session, "RSET"), Next::Reply(Reply::Ok));
        assert!(session.transaction().is_none() && session.is_logged_in());
    }

    #[test]
    fn a_size_over_the_limit_is_refused_before_the_upload() {
        assert_eq!(code(say(&mut ready(), "MAIL FROM:<a@b.c> SIZE=101")), 552);
    }

    #[test]
    fn tls_forgets_what_was_said_before_it_and_is_offered_once() {
        let mut session = session(ListenerMode::StartTls);
        say(&mut session, "EHLO x");
        assert_eq!(say(&mut session, "STARTTLS"), Next::StartTls);
        session.encrypted();
        assert_eq!(code(say(&mut session, "AUTH PLAIN")), 503, "EHLO has to be said again");
        let Next::Reply(Reply::Ehlo { offer, .. }) = say(&mut session, "EHLO x") else { panic!("no EHLO") };
        assert!(offer.auth && !offer.start_tls);
        assert_eq!(code(say(&mut session, "STARTTLS")), 503);
    }

    #[test]
    fn a_plain_listener_offers_auth_and_no_tls() {
        let mut session = session(ListenerMode::Plain);
        let Next::Reply(Reply::Ehlo { offer, .. }) = say(&mut session, "EHLO x") else { panic!("no EHLO") };
        assert!(offer.auth && !offer.start_tls);
        assert_eq!(code(say(&mut session, "STARTTLS")), 502);
    }

    #[test]
    fn too_many_errors_and_too_many_logins_close() {
        let mut noisy = session(ListenerMode::Implicit);
        for _ in 0..3 {
            assert_eq!(code(say(&mut noisy, "FOO")), 500);
        }
        assert_eq!(say(&mut noisy, "FOO"), Next::Close(Reply::TooManyErrors));
        let mut guessing = session(ListenerMode::Implicit);
        assert_eq!(guessing.login_failed(Reply::BadLogin), Next::Reply(Reply::BadLogin));
        assert_eq!(guessing.login_failed(Reply::BadLogin), Next::Reply(Reply::BadLogin));
        assert_eq!(guessing.login_failed(Reply::BadLogin), Next::Close(Reply::TooManyLogins));
    }

    #[test]
    fn a_login_is_an_exchange_of_lines_that_a_star_ends() {
        let mut session = session(ListenerMode::Implicit);
        say(&mut session, "EHLO x");
        assert_eq!(say(&mut session, "AUTH LOGIN"), Next::Prompt("VXNlcm5hbWU6"));
        assert!(session.in_exchange());
        assert_eq!(session.auth_line(Ok("*")), Next::Reply(Reply::AuthCancelled));
        assert!(!session.in_exchange());
        let Next::Login(login) = say(&mut session, "AUTH PLAIN AGEAYg==") else { panic!("no login") };
        assert_eq!(login.username, "a");
    }
}
