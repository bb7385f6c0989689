//! One line in, one command out.
//!
//! The caller cuts lines; only whole ones come here. `smtp-proto` parses the path and the parameters of MAIL and
//! RCPT. It lets some things through that must not pass, so around it: control characters and broken UTF-8 are
//! refused first, an address is checked again (it strips quotes, so `<"a b"@c.d>` would reach the upstream's command
//! line as `a b@c.d`), `<postmaster>` is not taken for the empty path, and a parameter that EHLO did not offer is
//! refused. What devices get wrong is mended before: a missing bracket, an empty EHLO name.

use std::borrow::Cow;

use smtp_proto::{Error as ProtoError, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_SMTPUTF8, MailFrom, RcptTo, Request};

use super::reply::Reply;
use super::sasl::Mechanism;
use crate::domain::sender::Address;

/// The longest command line: RFC 4954 §4 wants 12,288 octets for AUTH, and no other command needs as many.
pub const LINE_MAX: usize = 12_288;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Helo,
    Ehlo,
    StartTls,
    Auth { mechanism: Mechanism, initial: Option<String> },
    Mail(Mail),
    Rcpt(Address),
    Data,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Help,
}

/// MAIL with what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// `None` is the empty path `<>`.
    pub from: Option<Address>,
    /// Announced octets; 0 = not announced.
    pub size: usize,
    pub eight_bit: bool,
    pub utf8: bool,
}

/// A command, or the reply that refuses it.
pub fn parse(line: &[u8]) -> Result<Command, Reply> {
    if let Some(greeting) = greeting(line) {
        return Ok(greeting);
    }
    let text = text_of(line)?;
    let (verb, rest) = match text.split_once([' ', '\t']) {
        Some((verb, rest)) => (verb, rest.trim_matches([' ', '\t'])),
        None => (text, ""),
    };
    let is = |name: &str| verb.eq_ignore_ascii_case(name);
    // The commands of a transaction first: they are the many.
    if is("RCPT") {
        recipient(text)
    } else if is("MAIL") {
        mail(text)
    } else if is("DATA") {
        bare(rest, Command::Data, "DATA")
    } else if is("AUTH") {
        auth(rest)
    } else if is("STARTTLS") {
        bare(rest, Command::StartTls, "STARTTLS")
    } else if is("RSET") {
        bare(rest, Command::Rset, "RSET")
    } else if is("QUIT") {
        Ok(Command::Quit)
    } else if is("NOOP") {
        Ok(Command::Noop)
    } else if is("HELP") {
        Ok(Command::Help)
    } else if is("VRFY") {
        Ok(Command::Vrfy)
    } else if ["EXPN", "BDAT", "ETRN", "ATRN", "BURL", "LHLO", "TURN", "SEND", "SOML", "SAML"].iter().any(|&v| is(v)) {
        Err(Reply::NotImplemented)
    } else {
        Err(Reply::UnknownCommand)
    }
}

/// EHLO or HELO with whatever name. Windows programs send the computer's name in their code page, devices send addresses
/// and nothing at all; nothing depends on the name, and it is neither logged nor passed on.
fn greeting(line: &[u8]) -> Option<Command> {
    let verb = line.split(|byte| byte.is_ascii_whitespace()).next()?;
    if verb.eq_ignore_ascii_case(b"EHLO") {
        Some(Command::Ehlo)
    } else if verb.eq_ignore_ascii_case(b"HELO") {
        Some(Command::Helo)
    } else {
        None
    }
}

/// The line without its end, as text without control characters.
pub fn text_of(line: &[u8]) -> Result<&str, Reply> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| Reply::NotText)?;
    if text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(Reply::NotText);
    }
    Ok(text)
}

fn bare(rest: &str, command: Command, syntax: &'static str) -> Result<Command, Reply> {
    if rest.is_empty() { Ok(command) } else { Err(Reply::Syntax(syntax)) }
}

fn auth(rest: &str) -> Result<Command, Reply> {
    let (name, initial) = match rest.split_once([' ', '\t']) {
        Some((name, initial)) => (name, Some(initial.trim_matches([' ', '\t']))),
        None => (rest, None),
    };
    if name.is_empty() {
        return Err(Reply::Syntax("AUTH mechanism [initial response]"));
    }
    let mechanism = Mechanism::named(name).ok_or(Reply::AuthMechanism)?;
    let initial = initial.filter(|initial| !initial.is_empty()).map(str::to_owned);
    Ok(Command::Auth { mechanism, initial })
}

const MAIL_SYNTAX: &str = "MAIL FROM:<address> [SIZE=octets] [BODY=8BITMIME] [SMTPUTF8]";
const RCPT_SYNTAX: &str = "RCPT TO:<address>";

fn mail(text: &str) -> Result<Command, Reply> {
    let path = Path::find(text, "FROM").ok_or(Reply::Syntax(MAIL_SYNTAX))?;
    let line = path.line("MAIL FROM");
    let request =
        Request::parse(&mut line.as_bytes().iter()).map_err(|error| refusal(error, Reply::BadSenderAddress))?;
    let Request::Mail { from } = request else { return Err(Reply::Syntax(MAIL_SYNTAX)) };
    if asks_for_more(&from) {
        return Err(Reply::UnsupportedParameter);
    }
    let utf8 = from.flags & MAIL_SMTPUTF8 != 0;
    let address = if path.inside.trim().is_empty() {
        None
    } else {
        let address = Address::parse(&from.address).map_err(|_| Reply::BadSenderAddress)?;
        if !utf8 && !address.is_ascii() {
            return Err(Reply::Utf8NotAsked);
        }
        Some(address)
    };
    Ok(Command::Mail(Mail { from: address, size: from.size, eight_bit: from.flags & MAIL_BODY_8BITMIME != 0, utf8 }))
}

/// Whether a parameter was given that EHLO does not offer. `AUTH=` is offered with AUTH (RFC 4954 §5) and ignored:
/// the relay trusts nobody's word about who somebody else is.
fn asks_for_more(from: &MailFrom<Cow<'_, str>>) -> bool {
    let MailFrom { flags, trans_id, by, env_id, solicit, mtrk, hold_for, hold_until, mt_priority, .. } = from;
    let offered = MAIL_BODY_7BIT | MAIL_BODY_8BITMIME | MAIL_SMTPUTF8;
    flags & !offered != 0
        || trans_id.is_some()
        || *by != 0
        || env_id.is_some()
        || solicit.is_some()
        || mtrk.is_some()
        || *hold_for != 0
        || *hold_until != 0
        || *mt_priority != 0
}

fn recipient(text: &str) -> Result<Command, Reply> {
    let path = Path::find(text, "TO").ok_or(Reply::Syntax(RCPT_SYNTAX))?;
    let line = path.line("RCPT TO");
    let request =
        Request::parse(&mut line.as_bytes().iter()).map_err(|error| refusal(error, Reply::BadRecipientAddress))?;
    let Request::Rcpt { to } = request else { return Err(Reply::Syntax(RCPT_SYNTAX)) };
    let RcptTo { address, orcpt, rrvs, flags } = to;
    if orcpt.is_some() || rrvs != 0 || flags != 0 {
        return Err(Reply::UnsupportedParameter);
    }
    Address::parse(&address).map(Command::Rcpt).map_err(|_| Reply::BadRecipientAddress)
}

fn refusal(error: ProtoError, address: Reply) -> Reply {
    match error {
        ProtoError::InvalidSenderAddress | ProtoError::InvalidRecipientAddress => address,
        ProtoError::UnsupportedParameter { .. } => Reply::UnsupportedParameter,
        ProtoError::InvalidParameter { param } => Reply::Syntax(match param {
            "SIZE" => "SIZE=octets",
            "BODY" => "BODY=7BIT or BODY=8BITMIME",
            _ => return Reply::UnsupportedParameter,
        }),
        // The parser asks for more when a quote is open at the line's end.
        ProtoError::SyntaxError { .. } | ProtoError::NeedsMoreData { .. } => address,
        ProtoError::UnknownCommand | ProtoError::ResponseTooLong | ProtoError::InvalidResponse { .. } => {
            Reply::UnknownCommand
        }
    }
}

/// The path of MAIL or RCPT, cut out of a line that may miss its brackets.
struct Path<'a> {
    inside: &'a str,
    parameters: &'a str,
}

impl<'a> Path<'a> {
    /// `VERB  WORD : <path> parameters`, with spaces where devices put them.
    fn find(text: &'a str, word: &str) -> Option<Self> {
        let rest = text.get(4..)?.trim_start_matches([' ', '\t']);
        let after =
            rest.get(..word.len()).filter(|found| found.eq_ignore_ascii_case(word)).map(|_| &rest[word.len()..])?;
        let after = after.trim_start().strip_prefix(':')?.trim_start();
        let (inside, parameters) = if let Some(open) = after.strip_prefix('<') {
            open.split_at(closing_bracket(open)?)
        } else {
            let end = after.find([' ', '\t']).unwrap_or(after.len());
            after.split_at(end)
        };
        let parameters = parameters.strip_prefix('>').unwrap_or(parameters);
        // Without brackets an empty path is a forgotten one, not the empty sender.
        if inside.is_empty() && !after.starts_with('<') {
            return None;
        }
        Some(Self { inside, parameters })
    }

    fn line(&self, verb: &str) -> String {
        format!("{verb}:<{}> {}\r\n", self.inside.trim(), self.parameters.trim())
    }
}

/// Where `>` stands outside of quotes.
fn closing_bracket(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(index),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
    }

    fn from(text: &str) -> Command {
        Command::Mail(Mail { from: Some(address(text)), size: 0, eight_bit: false, utf8: false })
    }

    #[test]
    fn what_clients_and_devices_send_is_understood() {
        let cases: [(&[u8], Command); 25] = [
            (b"MAIL FROM:<a@b.c>\r\n", from("a@b.c")),
            (b"mail from:<a@b.c>\r\n", from("a@b.c")),
            (b"MAIL FROM: <a@b.c>\r\n", from("a@b.c")),
            (b"MAIL FROM :<a@b.c>\r\n", from("a@b.c")),
            (b"MAIL FROM:< a@b.c >  \r\n", from("a@b.c")),
            (b"MAIL FROM:a@b.c\r\n", from("a@b.c")),
            (b"MAIL FROM:<\"a\"@b.c>\r\n", from("a@b.c")),
            (b"MAIL FROM:<a@b.c> BODY=7BIT AUTH=<>\n", from("a@b.c")),
            (
                b"MAIL FROM:<a@b.c> SIZE=77 BODY=8BITMIME\r\n",
                Command::Mail(Mail { from: Some(address("a@b.c")), size: 77, eight_bit: true, utf8: false }),
            ),
            (
                "MAIL FROM:<grüße@b.c> SMTPUTF8\r\n".as_bytes(),
                Command::Mail(Mail { from: Some(address("grüße@b.c")), size: 0, eight_bit: false, utf8: true }),
            ),
            (b"MAIL FROM:<>\r\n", Command::Mail(Mail { from: None, size: 0, eight_bit: false, utf8: false })),
            (b"RCPT TO:<x@y.z>\r\n", Command::Rcpt(address("x@y.z"))),
            (b"RCPT TO:x@y.z\r\n", Command::Rcpt(address("x@y.z"))),
            (b"RCPT TO:<@relay.example:x@y.z>\r\n", Command::Rcpt(address("x@y.z"))),
            (b"EHLO\r\n", Command::Ehlo),
            (b"EHLO my_printer [1.2.3.4]\r\n", Command::Ehlo),
            (b"HELO \r\n", Command::Helo),
            (b"EHLO M\xdcLLER-PC\r\n", Command::Ehlo),
            (b"ehlo\t\x00\x1b[2J\r\n", Command::Ehlo),
            (b"helo \xff\n", Command::Helo),
            (b"DATA  \r\n", Command::Data),
            (
                b"auth plain AGEAYg==\r\n",
                Command::Auth { mechanism: Mechanism::Plain, initial: Some("AGEAYg==".into()) },
            ),
            (b"AUTH LOGIN\r\n", Command::Auth { mechanism: Mechanism::Login, initial: None }),
            (b"NOOP x y\r\n", Command::Noop),
            (b"VRFY x\r\n", Command::Vrfy),
        ];
        for (line, command) in cases {
            assert_eq!(parse(line), Ok(command), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        let cases: [(&[u8], Reply); 22] = [
            (b"\r\n", Reply::UnknownCommand),
            (b"FOO\r\n", Reply::UnknownCommand),
            (b"EXPN list\r\n", Reply::NotImplemented),
            (b"BDAT 10 LAST\r\n", Reply::NotImplemented),
            (b"DATA now\r\n", Reply::Syntax("DATA")),
            (b"NO\x00OP\r\n", Reply::NotText),
            (b"NOOP \xff\xfe\r\n", Reply::NotText),
            (b"RCPT TO:<a@b.c>\rRCPT TO:<d@e.f>\r\n", Reply::NotText),
            (b"MAIL\r\n", Reply::Syntax(MAIL_SYNTAX)),
            (b"MAIL FROM:\r\n", Reply::Syntax(MAIL_SYNTAX)),
            (b"MAIL FROM:<a@b.c\r\n", Reply::Syntax(MAIL_SYNTAX)),
            (b"MAIL FROM:<postmaster>\r\n", Reply::BadSenderAddress),
            (b"MAIL FROM:<\"a b\"@c.d>\r\n", Reply::BadSenderAddress),
            (b"MAIL FROM:<\"a>\"@c.d>\r\n", Reply::BadSenderAddress),
            (b"MAIL FROM:<a b@c.d>\r\n", Reply::BadSenderAddress),
            ("MAIL FROM:<grüße@b.c>\r\n".as_bytes(), Reply::Utf8NotAsked),
            (b"MAIL FROM:<a@b.c> RET=HDRS\r\n", Reply::UnsupportedParameter),
            (b"MAIL FROM:<a@b.c> XYZ=1\r\n", Reply::UnsupportedParameter),
            (b"MAIL FROM:<a@b.c> SIZE=x\r\n", Reply::Syntax("SIZE=octets")),
            (b"RCPT TO:<>\r\n", Reply::BadRecipientAddress),
            (b"RCPT TO:<x@y.z> NOTIFY=NEVER\r\n", Reply::UnsupportedParameter),
            (b"AUTH CRAM-MD5\r\n", Reply::AuthMechanism),
        ];
        for (line, reply) in cases {
            assert_eq!(parse(line), Err(reply), "{}", line.escape_ascii());
        }
    }
}
