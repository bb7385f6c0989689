//! Whole sessions: every line and every body has its one reply, in order, whatever the pieces they come in.

use bytes::BytesMut;
use franking::domain::id::MessageId;
use franking::domain::sender::Address;
use franking::relay::smtp::command::{LINE_MAX, Recipient, parse, text_of};
use franking::relay::smtp::data::{BodyReader, Progress, Refusal};
use franking::relay::smtp::reply::{Carries, Reply};
use franking::relay::smtp::sasl::Login;
use franking::relay::smtp::session::{Answer, Next, SessionParameters, SmtpSession, Transaction};
use franking::runtime::relay_config::{LineEnds, ListenerMode};
use memchr::memchr;
use uuid::Uuid;

use super::body::plain_rules;
use super::written;

pub const PASSWORD: &str = "open";
/// Octets of a message.
pub const MESSAGE_MAX: usize = 4096;
/// Refused commands until the connection is closed.
const ERRORS_MAX: u32 = 100;

/// What a connection said and took.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// In order, the greeting first.
    pub replies: Vec<Vec<u8>>,
    pub messages: Vec<(Transaction, Vec<u8>)>,
    /// Whether the relay ended it.
    pub closed: bool,
    /// Whether it ended in a handshake: what follows is TLS's.
    pub encrypting: bool,
    /// Whole lines that were taken as commands or parts of a login.
    pub lines: usize,
    /// Bodies that came to their end.
    pub bodies: usize,
}

/// Two octets choose the listener and the length of the pieces; the others are what the client says.
pub fn check(bytes: &[u8]) {
    let [mode, piece, wire @ ..] = bytes else { return };
    let mode = [ListenerMode::Plain, ListenerMode::Implicit, ListenerMode::StartTls][usize::from(*mode) % 3];
    let whole = play(mode, wire, wire.len().max(1));
    assert_eq!(play(mode, wire, usize::from(*piece).max(1)), whole, "pieces make a difference");
    holds(mode, &whole);
}

/// What is true of every session.
pub fn holds(mode: ListenerMode, played: &Played) {
    let Played { replies, messages, lines, bodies, .. } = played;
    assert_eq!(replies.len(), 1 + lines + bodies, "greeting, {lines} lines and {bodies} bodies have a reply each");
    let logged_in = replies.iter().any(|reply| reply.starts_with(b"235 "));
    assert!(messages.is_empty() || logged_in, "a message without a login");
    assert!(messages.is_empty() || mode != ListenerMode::StartTls, "a message in the clear");
    let accepted =
        replies.iter().filter(|reply| reply.ends_with(b"relayed, id 00000000-0000-0000-0000-000000000000\r\n"));
    assert_eq!(accepted.count(), messages.len());
    for (transaction, body) in messages {
        assert!(!transaction.recipients.is_empty(), "a message to nobody");
        assert!(body.len() <= MESSAGE_MAX);
    }
}

struct Player {
    session: SmtpSession,
    input: BytesMut,
    scanned: usize,
    skipping: bool,
    played: Played,
}

/// Plays a wire in pieces against the pure session, with a stand-in for everything it asks about: the password is
/// [`PASSWORD`], recipients called `gone` are refused, and the upstream takes all.
pub fn play(mode: ListenerMode, wire: &[u8], piece: usize) -> Played {
    let parameters = SessionParameters {
        hostname: "relay.example".to_owned(),
        mode,
        message_bytes: MESSAGE_MAX,
        errors: ERRORS_MAX,
        auth_attempts: 3,
        carries: Carries { eight_bit: true, utf8: true, size: MESSAGE_MAX },
    };
    let session = SmtpSession::new(parameters);
    let greeting = written(&session.greeting());
    let mut player = Player { session, input: BytesMut::new(), scanned: 0, skipping: false, played: Played::default() };
    player.played.replies.push(greeting);
    let mut body = None;
    for piece in wire.chunks(piece) {
        player.input.extend_from_slice(piece);
        player.take(&mut body);
        if player.played.closed || player.played.encrypting {
            break;
        }
    }
    player.played
}

impl Player {
    /// Takes all that can be taken of the input.
    fn take(&mut self, body: &mut Option<(BodyReader, Vec<u8>)>) {
        loop {
            if let Some((mut reader, mut raw)) = body.take() {
                match reader.feed(&self.input) {
                    Progress::More => {
                        raw.extend_from_slice(&self.input.split());
                        *body = Some((reader, raw));
                        return;
                    }
                    Progress::End(length) => {
                        raw.extend_from_slice(&self.input.split_to(length));
                        self.finish(reader, &raw);
                        if self.played.closed {
                            return;
                        }
                    }
                }
            }
            let next = match self.cut() {
                None => return,
                Some(Err(reply)) => Next::Answer(self.session.unreadable(reply)),
                Some(Ok(line)) if self.session.in_exchange() => self.session.auth_line(text_of(&line)),
                Some(Ok(line)) => self.session.command(parse(&line)),
            };
            self.played.lines += 1;
            let answer = self.follow(next, body);
            self.say(&answer);
            if self.played.closed || self.played.encrypting {
                return;
            }
        }
    }

    fn say(&mut self, answer: &Answer) {
        self.played.replies.push(written(&answer.reply));
        self.played.closed |= answer.close;
    }

    /// As the relay's wire cuts lines.
    fn cut(&mut self) -> Option<Result<BytesMut, Reply>> {
        let Some(found) = memchr(b'\n', &self.input[self.scanned..]) else {
            if self.skipping || self.input.len() > LINE_MAX {
                self.skipping = true;
                self.input.clear();
            }
            self.scanned = self.input.len();
            return None;
        };
        let line = self.input.split_to(self.scanned + found + 1);
        self.scanned = 0;
        if std::mem::take(&mut self.skipping) || line.len() > LINE_MAX {
            return Some(Err(Reply::CommandTooLong));
        }
        Some(Ok(line))
    }

    fn follow(&mut self, next: Next, body: &mut Option<(BodyReader, Vec<u8>)>) -> Answer {
        match next {
            Next::Answer(answer) => answer,
            Next::StartTls => {
                self.played.encrypting = true;
                Answer::say(Reply::ReadyForTls)
            }
            Next::Prompt(prompt) => Answer::say(Reply::Challenge(prompt)),
            Next::Login(Login { password, .. }) if password.expose() == PASSWORD => {
                self.session.logged_in();
                Answer::say(Reply::AuthOk)
            }
            Next::Login(_) => self.session.login_failed(Reply::BadLogin),
            Next::Mail(mail) => {
                self.session.begin(mail);
                Answer::say(Reply::SenderOk)
            }
            Next::Recipient(recipient) => {
                let address = match recipient {
                    Recipient::Mailbox(address) => address,
                    Recipient::Postmaster => Address::parse("postmaster@relay.example").expect("an address"),
                };
                if address.local() == "gone" {
                    return self.session.answer(Reply::BadRecipientAddress);
                }
                self.session.add(address);
                Answer::say(Reply::RecipientOk)
            }
            Next::Data => {
                let announced = self.session.transaction().map_or(0, |transaction| transaction.mail.size);
                *body = Some((BodyReader::new(MESSAGE_MAX, announced, LineEnds::Normalize), Vec::new()));
                Answer::say(Reply::StartData)
            }
        }
    }

    fn finish(&mut self, reader: BodyReader, raw: &[u8]) {
        self.played.bodies += 1;
        let transaction = self.session.reset().expect("DATA needs a transaction");
        let plain = plain_rules(raw, MESSAGE_MAX, LineEnds::Normalize).expect("an end");
        let answer = match reader.finish() {
            Ok(body) => {
                assert_eq!(plain.body.as_deref(), Ok(body.content()), "{}", raw.escape_ascii());
                self.played.messages.push((transaction, body.content().to_vec()));
                Answer::say(Reply::Accepted(MessageId(Uuid::nil())))
            }
            Err(refusal) => {
                assert!(plain.body.is_err(), "{} is refused", raw.escape_ascii());
                self.session.answer(match refusal {
                    Refusal::TooBig | Refusal::NoMemory => Reply::TooBig { limit: MESSAGE_MAX },
                    Refusal::Fault(fault) => Reply::Body(fault),
                })
            }
        };
        self.say(&answer);
    }
}
