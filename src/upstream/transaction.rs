//! MAIL, RCPT, DATA, the body: one message over one connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::domain::sender::Address;

use super::connection::{Broken, Capabilities, Connection};
use super::line::{Ended, Line, Point};
use super::message::{Cause, Forwarded, Message, Stage};
use super::reply::{Class, Reply, judge};

/// Size of the pieces in which lettre copies a body, so that memory stays bounded.
const CHUNK: usize = 32 * 1024;
/// Maximum number of RCPTs written before their replies are read: the replies must fit the socket buffers, or both
/// sides wait.
const RECIPIENTS_AT_ONCE: usize = 100;

/// The state of a connection after a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Between transactions, and clean.
    Keep,
    /// Between transactions, with a refused envelope to clear.
    Reset,
    /// A reply is outstanding or the upstream hung up.
    Discard,
}

pub(super) struct Ran {
    pub forwarded: Forwarded,
    pub fate: Fate,
    /// The upstream was gone before it replied to this message, which may be tried again on a fresh connection.
    pub stale: bool,
}

impl Ran {
    fn new(forwarded: Forwarded, fate: Fate) -> Self {
        Self { forwarded, fate, stale: false }
    }

    fn broken(broken: Broken) -> Self {
        Self::new(Forwarded::NotOffered { cause: broken.cause() }, Fate::Discard)
    }

    fn ended(reply: Reply, stage: Stage, fate: Fate) -> Self {
        let fate = if reply.code == 421 { Fate::Discard } else { fate };
        match reply.class() {
            Class::Later | Class::Never => Self::new(judge(stage, reply), fate),
            // Neither a go-ahead nor a refusal: the two sides do not speak the same protocol.
            Class::Done | Class::GoOn => Self::new(Forwarded::NotOffered { cause: Cause::Protocol }, Fate::Discard),
        }
    }
}

/// True if a body can be written as it is: CRLF line ends only, and complete.
pub(super) fn is_normalised(body: &[u8]) -> bool {
    let mut ends = memchr::memchr2_iter(b'\r', b'\n', body);
    let mut complete = 0;
    while let Some(at) = ends.next() {
        if !body[at..].starts_with(b"\r\n") || ends.next() != Some(at + 1) {
            return false;
        }
        complete = at + 2;
    }
    complete == body.len()
}

/// Returns the refusal of a message that the upstream does not take, by its announced capabilities.
pub(super) fn announced(message: &Message, can: Capabilities) -> Option<Forwarded> {
    let no = |code, enhanced: &str, text: &str| {
        let (enhanced, text) = (Some(enhanced.to_owned()), text.to_owned());
        Some(Forwarded::Refused { code, enhanced, text, recipient: None, stage: Stage::Announced })
    };
    if let Some(limit @ 1..) = can.size
        && message.body.len() > limit
    {
        return no(552, "5.3.4", "the message is larger than the upstream takes");
    }
    if needs_smtputf8(message) && !can.smtputf8 {
        // RFC 6531 §3.5: 5.6.9 after the message, X.6.7 if an address is the cause.
        return no(554, "5.6.9", "the upstream does not take addresses or headers outside ASCII");
    }
    if message.eight_bit && !can.eight_bit_mime {
        return no(554, "5.6.3", "the upstream takes 7-bit messages only");
    }
    None
}

fn needs_smtputf8(message: &Message) -> bool {
    let foreign = |address: &Address| !address.to_string().is_ascii();
    message.sender.as_ref().is_some_and(foreign)
        || message.recipients.iter().any(foreign)
        || (message.smtputf8 && message.eight_bit && !headers(&message.body).is_ascii())
}

fn headers(body: &[u8]) -> &[u8] {
    let end = body.windows(4).position(|window| window == b"\r\n\r\n");
    &body[..end.unwrap_or(body.len())]
}

fn mail_command(message: &Message, can: Capabilities) -> String {
    let mut command = match &message.sender {
        Some(sender) => format!("MAIL FROM:<{sender}>"),
        None => "MAIL FROM:<>".to_owned(),
    };
    if can.size.is_some() {
        command.push_str(&format!(" SIZE={}", message.body.len()));
    }
    if message.eight_bit && can.eight_bit_mime {
        command.push_str(" BODY=8BITMIME");
    }
    if needs_smtputf8(message) {
        command.push_str(" SMTPUTF8");
    }
    command.push_str("\r\n");
    command
}

/// Sends `message`. `point` decides whether its final dot may go out.
pub(super) async fn run(
    connection: &mut Connection,
    message: &Message,
    point: &Arc<Point>,
    final_reply: Duration,
) -> Ran {
    if let Some(refused) = announced(message, connection.capabilities) {
        return Ran::new(refused, Fate::Keep);
    }
    let envelope = match message.recipients.as_slice() {
        [recipient] if connection.capabilities.pipelining => all_at_once(connection, message, recipient).await,
        recipients => step_by_step(connection, message, recipients).await,
    };
    match envelope {
        // A reply that arrives before the body would be taken for the reply to it.
        Ok(()) if !connection.is_quiet() => Ran::broken(Broken(connection.line.ended())),
        Ok(()) => body(connection, &message.body, point, final_reply).await,
        Err(ran) => ran,
    }
}

/// Sends MAIL, RCPT and DATA for one recipient in one write. All three replies are due and read, whatever the first one
/// says.
async fn all_at_once(connection: &mut Connection, message: &Message, recipient: &Address) -> Result<(), Ran> {
    let commands = format!("{}RCPT TO:<{recipient}>\r\nDATA\r\n", mail_command(message, connection.capabilities));
    let mut refused = None;
    let (mut invited, mut is_owed) = (false, false);
    for stage in [Stage::Mail, Stage::Recipient, Stage::Data] {
        let reply = match (stage, &refused) {
            (Stage::Mail, _) => first_reply(connection.command(&commands).await)?,
            (_, None) => connection.next_reply().await.map_err(Ran::broken)?,
            (_, Some(_)) => match connection.next_reply().await {
                Ok(reply) => reply,
                Err(_) => {
                    is_owed = true;
                    break;
                }
            },
        };
        invited = stage == Stage::Data && reply.class() == Class::GoOn;
        if !invited && (stage == Stage::Data || reply.class() != Class::Done) && refused.is_none() {
            refused = Some((reply, stage));
        }
    }
    let Some((reply, stage)) = refused else { return Ok(()) };
    // A 354 after a refusal cannot be taken back: only hanging up keeps an empty message from being sent.
    let fate = if invited || is_owed { Fate::Discard } else { Fate::Reset };
    Err(about(Ran::ended(reply, stage, fate), recipient))
}

/// Sends the envelope for several recipients, or without pipelining: DATA only if all were accepted.
async fn step_by_step(connection: &mut Connection, message: &Message, recipients: &[Address]) -> Result<(), Ran> {
    let mail = mail_command(message, connection.capabilities);
    let mut refusal = None;
    if connection.capabilities.pipelining {
        let mut commands = mail;
        for (round, group) in recipients.chunks(RECIPIENTS_AT_ONCE).enumerate() {
            commands.extend(group.iter().map(|recipient| format!("RCPT TO:<{recipient}>\r\n")));
            let reply = connection.command(&commands).await;
            let mut first = if round == 0 {
                let mail = first_reply(reply)?;
                if mail.class() != Class::Done {
                    return Err(after_refused_mail(connection, mail, group.len()).await);
                }
                None
            } else {
                Some(reply.map_err(Ran::broken)?)
            };
            for recipient in group {
                let reply = match first.take() {
                    Some(reply) => reply,
                    None => connection.next_reply().await.map_err(Ran::broken)?,
                };
                note(&mut refusal, recipient, reply)?;
            }
            commands = String::new();
        }
    } else {
        let reply = first_reply(connection.command(&mail).await)?;
        if reply.class() != Class::Done {
            return Err(Ran::ended(reply, Stage::Mail, Fate::Reset));
        }
        for recipient in recipients {
            let reply = connection.command(&format!("RCPT TO:<{recipient}>\r\n")).await.map_err(Ran::broken)?;
            note(&mut refusal, recipient, reply)?;
        }
    }
    if let Some((recipient, reply)) = refusal {
        return Err(about(Ran::ended(whole(reply, recipients.len()), Stage::Recipient, Fate::Reset), recipient));
    }
    let data = connection.command("DATA\r\n").await.map_err(Ran::broken)?;
    if data.class() == Class::GoOn { Ok(()) } else { Err(Ran::ended(data, Stage::Data, Fate::Reset)) }
}

/// Reads the replies to the RCPTs that were written after a refused MAIL, which are due as well.
async fn after_refused_mail(connection: &mut Connection, mail: Reply, owed: usize) -> Ran {
    let mut fate = Fate::Reset;
    if mail.code == 421 {
        fate = Fate::Discard;
    }
    for _ in 0..owed {
        if fate == Fate::Reset && connection.next_reply().await.is_err() {
            fate = Fate::Discard;
        }
    }
    Ran::ended(mail, Stage::Mail, fate)
}

/// Keeps the refusal that counts: the first 5xx, else the first 4xx.
fn note<'a>(refusal: &mut Option<(&'a Address, Reply)>, recipient: &'a Address, reply: Reply) -> Result<(), Ran> {
    if reply.code == 421 {
        return Err(Ran::ended(reply, Stage::Recipient, Fate::Discard));
    }
    let weight = |class| match class {
        Class::Done => 0,
        Class::Later => 1,
        Class::Never | Class::GoOn => 2,
    };
    let known = refusal.as_ref().map_or(0, |(_, reply)| weight(reply.class()));
    if weight(reply.class()) > known {
        *refusal = Some((recipient, reply));
    }
    Ok(())
}

/// Generalises the code of a refused recipient: with several recipients it refuses all of them, so it says no more than
/// "not now" or "never".
fn whole(mut reply: Reply, recipients: usize) -> Reply {
    if recipients > 1 {
        match reply.class() {
            Class::Later if !matches!(reply.code, 432 | 454) => reply.code = 451,
            Class::Never if !matches!(reply.code, 530 | 534 | 535 | 538) => reply.code = 550,
            Class::Later | Class::Never | Class::Done | Class::GoOn => {}
        }
    }
    reply
}

/// Names the recipient of a refused RCPT.
fn about(mut ran: Ran, whom: &Address) -> Ran {
    if let Forwarded::Refused { recipient, stage: Stage::Recipient, .. } = &mut ran.forwarded {
        *recipient = Some(whom.clone());
    }
    ran
}

/// Checks the first reply of a transaction. No reply, or a 421, on a parked connection means that it was stale.
fn first_reply(reply: Result<Reply, Broken>) -> Result<Reply, Ran> {
    match reply {
        Ok(reply) if reply.code == 421 => Err(Ran { stale: true, ..Ran::ended(reply, Stage::Mail, Fate::Discard) }),
        Ok(reply) => Ok(reply),
        Err(broken) => {
            let stale = broken.0 == Some(Ended::Closed);
            Err(Ran { stale, ..Ran::broken(broken) })
        }
    }
}

/// The pieces of a body; when all are taken, the wire knows that the final dot is next.
struct Pieces<'a> {
    rest: &'a [u8],
    line: &'a Line,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            self.line.dot_is_next();
            return None;
        }
        let (piece, rest) = self.rest.split_at(self.rest.len().min(CHUNK));
        self.rest = rest;
        Some(piece)
    }
}

/// Sends the body and the final dot, and reads the reply that counts.
async fn body(connection: &mut Connection, body: &Bytes, point: &Arc<Point>, final_reply: Duration) -> Ran {
    connection.line.body(point.clone(), final_reply);
    let reply = if let Some(content) = body.strip_suffix(b"\r\n") {
        // lettre ends every body with CRLF before the dot, so ours would be one line too long.
        let line = connection.line.clone();
        connection.message(Pieces { rest: content, line: &line }).await
    } else {
        connection.line.dot_is_next();
        connection.command(".\r\n").await
    };
    match reply {
        Ok(reply) => match reply.class() {
            Class::Done => Ran::new(Forwarded::Relayed { reply: reply.line() }, Fate::Keep),
            Class::Later | Class::Never => Ran::ended(reply, Stage::Message, Fate::Reset),
            // It asks for more of a message that is complete.
            Class::GoOn => Ran::new(Forwarded::Unknown { cause: Cause::Protocol }, Fate::Discard),
        },
        Err(broken) if point.is_written() => Ran::new(Forwarded::Unknown { cause: broken.cause() }, Fate::Discard),
        // The upstream refused the message while it was being sent. The dot was held back, so the refusal is definite.
        Err(Broken(Some(Ended::Early))) => match connection.next_reply().await {
            Ok(reply) => Ran::ended(reply, Stage::Message, Fate::Discard),
            Err(broken) => Ran::broken(broken),
        },
        Err(broken) => Ran::broken(broken),
    }
}
