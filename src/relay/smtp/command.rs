//! Parses one line into one command.
//!
//! The caller splits the input; only whole lines come here. The path of MAIL and RCPT is read here and kept as it was
//! written, because `smtp-proto` strips quotes from a local part (`<"a b"@c.d>` would reach the upstream's command line
//! as `a b@c.d`) and takes `<postmaster>` for the empty path. The crate parses the parameters, except SIZE, whose
//! digits it does not limit; a parameter that EHLO did not offer, or that comes twice, is refused. Control characters
//! and broken UTF-8 are refused first. Common mistakes of devices are tolerated: a missing bracket, an empty EHLO name.

use std::borrow::Cow;

use smtp_proto::{Error as ProtoError, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_SMTPUTF8, MailFrom, RcptTo, Request};

use super::reply::Reply;
use super::sasl::Mechanism;
use crate::domain::sender::{Address, MailDomain};

/// Maximum length of a command line: RFC 4954 §4 wants 12,288 octets for AUTH, and no other command needs as many.
pub const LINE_MAX: usize = 12_288;
/// Maximum number of parameters of one command. EHLO offers four (SIZE, BODY, SMTPUTF8, AUTH), each once.
const PARAMETERS_MAX: usize = 16;
/// RFC 1870 §3: `size-value = 1*20DIGIT`.
const SIZE_DIGITS_MAX: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Helo,
    Ehlo,
    StartTls,
    Auth { mechanism: Mechanism, initial: Option<String> },
    Mail(Mail),
    Rcpt(Recipient),
    Data,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Help,
}

/// The path of RCPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    Mailbox(Address),
    /// `<postmaster>` without a domain (RFC 5321 §4.5.1). Its domain depends on the policy.
    Postmaster,
}

impl Recipient {
    /// True if it is all ASCII, and does not need SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Mailbox(address) => address.is_ascii(),
            Self::Postmaster => true,
        }
    }
}

/// A MAIL command with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// `None` is the empty path `<>`.
    pub from: Option<Address>,
    /// Announced octets; 0 = not announced.
    pub size: usize,
    pub eight_bit: bool,
    pub utf8: bool,
}

/// Parses a line into a command, or the reply that refuses it.
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
    // The commands of a transaction first: they are the most frequent.
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

/// Recognises EHLO or HELO with any name. Windows programs send the computer's name in their code page, devices send
/// addresses and nothing at all; nothing depends on the name, and it is neither logged nor passed on.
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

/// Returns the line without its end, as text. Refuses control characters.
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
    let mailbox = path.mailbox();
    let parameters = Parameters::read(path.parameters)?;
    let line = format!("MAIL FROM:<> {}\r\n", parameters.others);
    let request = Request::parse(&mut line.as_bytes().iter()).map_err(refusal)?;
    let Request::Mail { from } = request else { return Err(Reply::Syntax(MAIL_SYNTAX)) };
    if asks_for_more(&from) {
        return Err(Reply::UnsupportedParameter);
    }
    let utf8 = from.flags & MAIL_SMTPUTF8 != 0;
    let address = match mailbox {
        "" => None,
        text if !utf8 && !text.is_ascii() => return Err(Reply::Utf8NotAsked),
        text => Some(address(text, Reply::BadSenderAddress)?),
    };
    // Some servers read a quoted `@` as part of another address, which was never checked.
    if address.as_ref().is_some_and(|address| address.mailbox().contains('@')) {
        return Err(Reply::BadSenderAddress);
    }
    let eight_bit = from.flags & MAIL_BODY_8BITMIME != 0;
    Ok(Command::Mail(Mail { from: address, size: parameters.size, eight_bit, utf8 }))
}

/// Parses the address of a path, or returns the refusal of an invalid one.
fn address(text: &str, refusal: Reply) -> Result<Address, Reply> {
    Address::from_path(text).map_err(|_| if text.is_ascii() { refusal } else { Reply::BadUtf8Address })
}

/// The parameters of MAIL or RCPT, with SIZE taken out.
struct Parameters {
    /// Announced octets; 0 = not announced.
    size: usize,
    others: String,
}

impl Parameters {
    /// Reads the parameters. `Err` if one comes twice, or SIZE is not a number by RFC 1870.
    fn read(text: &str) -> Result<Self, Reply> {
        let mut read = Self { size: 0, others: String::new() };
        let mut seen: Vec<&str> = Vec::new();
        for parameter in text.split([' ', '\t']).filter(|parameter| !parameter.is_empty()) {
            let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if seen.iter().any(|known| known.eq_ignore_ascii_case(keyword)) {
                return Err(Reply::Syntax("each parameter once"));
            }
            if seen.len() == PARAMETERS_MAX {
                return Err(Reply::UnsupportedParameter);
            }
            seen.push(keyword);
            if keyword.eq_ignore_ascii_case("SIZE") {
                let is_number =
                    (1..=SIZE_DIGITS_MAX).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
                if !is_number {
                    return Err(Reply::Syntax("SIZE=octets"));
                }
                // Twenty digits may overflow; a number above any limit is enough.
                read.size = value.parse().unwrap_or(usize::MAX);
            } else {
                read.others.push_str(parameter);
                read.others.push(' ');
            }
        }
        Ok(read)
    }
}

/// True if a parameter was given that EHLO does not offer. `AUTH=` is offered with AUTH (RFC 4954 §5) and ignored: the
/// relay does not trust a client's claim about another sender's identity.
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
    let mailbox = path.mailbox();
    let recipient = if mailbox.eq_ignore_ascii_case("postmaster") {
        Recipient::Postmaster
    } else {
        Recipient::Mailbox(address(mailbox, Reply::BadRecipientAddress)?)
    };
    let parameters = Parameters::read(path.parameters)?;
    let line = format!("RCPT TO:<a@example.com> {}\r\n", parameters.others);
    let request = Request::parse(&mut line.as_bytes().iter()).map_err(refusal)?;
    let Request::Rcpt { to: RcptTo { orcpt, rrvs, flags, .. } } = request else {
        return Err(Reply::Syntax(RCPT_SYNTAX));
    };
    if orcpt.is_some() || rrvs != 0 || flags != 0 || parameters.size != 0 {
        return Err(Reply::UnsupportedParameter);
    }
    Ok(Command::Rcpt(recipient))
}

/// Translates the parser's error about parameters into a reply.
fn refusal(error: ProtoError) -> Reply {
    match error {
        ProtoError::InvalidParameter { param: "BODY" } => Reply::Syntax("BODY=7BIT or BODY=8BITMIME"),
        ProtoError::InvalidParameter { .. }
        | ProtoError::UnsupportedParameter { .. }
        | ProtoError::SyntaxError { .. }
        | ProtoError::NeedsMoreData { .. } => Reply::UnsupportedParameter,
        ProtoError::InvalidSenderAddress
        | ProtoError::InvalidRecipientAddress
        | ProtoError::UnknownCommand
        | ProtoError::ResponseTooLong
        | ProtoError::InvalidResponse { .. } => Reply::UnknownCommand,
    }
}

/// The path of MAIL or RCPT, cut out of a line that may lack its brackets.
struct Path<'a> {
    inside: &'a str,
    parameters: &'a str,
}

impl<'a> Path<'a> {
    /// Finds the path in `VERB WORD : <path> parameters`, with spaces where devices put them.
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
        // Without brackets an empty path is a missing one, not the empty sender.
        if inside.is_empty() && !after.starts_with('<') {
            return None;
        }
        Some(Self { inside, parameters })
    }

    /// Returns the mailbox without a source route, which RFC 5321 §4.1.1.3 wants ignored.
    fn mailbox(&self) -> &'a str {
        let inside = self.inside.trim();
        match inside.split_once(':') {
            Some((route, mailbox)) if is_route(route) => mailbox,
            Some(_) | None => inside,
        }
    }
}

/// True for a route such as `@relay.example,@other.example`.
fn is_route(text: &str) -> bool {
    text.split(',').all(|hop| hop.strip_prefix('@').is_some_and(|host| MailDomain::parse(host).is_ok()))
}

/// Returns the position of the first `>` outside of quotes.
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
        Address::from_path(text).expect("an address")
    }

    fn to(text: &str) -> Command {
        Command::Rcpt(Recipient::Mailbox(address(text)))
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
            (b"MAIL FROM:<\"a\"@b.c>\r\n", from("\"a\"@b.c")),
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
            (b"RCPT TO:<x@y.z>\r\n", to("x@y.z")),
            (b"RCPT TO:x@y.z\r\n", to("x@y.z")),
            (b"RCPT TO:<@relay.example:x@y.z>\r\n", to("x@y.z")),
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
            (b"MAIL FROM:<\"x@evil.com\"@c.d>\r\n", Reply::BadSenderAddress),
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

    /// The forms of a recipient, with the forwarded address or the reply.
    #[test]
    fn a_recipient_is_kept_octet_for_octet_or_refused() {
        for form in [
            "x@y.z",
            "X.y+z@Y.Z",
            "\"x\"@y.z",
            "\"john doe\"@y.z",
            "\"a@b\"@y.z",
            "\"a\\\"b\"@y.z",
            "user..name@docomo.example",
            "user.@docomo.example",
            "x@[192.0.2.1]",
            "x@[IPv6:2001:db8::1]",
            "gr\u{fc}\u{df}e@b\u{fc}cher.example",
            "x@xn--bcher-kva.example",
        ] {
            for line in [format!("RCPT TO:<{form}>\r\n"), format!("RCPT TO: <@relay.example,@b.example:{form}>\r\n")] {
                let Ok(Command::Rcpt(Recipient::Mailbox(kept))) = parse(line.as_bytes()) else { panic!("{line}") };
                assert_eq!(kept.to_string(), form);
            }
        }
        for postmaster in ["<postmaster>", "<Postmaster>", "POSTMASTER"] {
            let line = format!("RCPT TO:{postmaster}\r\n");
            assert_eq!(parse(line.as_bytes()), Ok(Command::Rcpt(Recipient::Postmaster)), "{line}");
        }
        for (form, code) in [
            ("<x>", 501),
            ("<>", 501),
            ("<a b@y.z>", 501),
            ("<\"a>\"@y.z>", 501),
            ("<\"a<\"@y.z>", 501),
            ("<x@y.z>RCPT TO:<b@y.z>", 555),
            ("<\"a\"b\"@y.z>", 501),
            ("<\"a@y.z>", 501),
            ("<x@[192.0.2]>", 501),
            ("<x@[192.0.2.1>", 501),
            ("<x@[IPv6:zz]>", 501),
            ("<@evil:x@y.z,b@y.z>", 501),
            ("<x:y@y.z>", 501),
            ("<\"a\rRCPT TO:<b@y.z>\"@y.z>", 500),
            ("<\"a\nRCPT TO:<b@y.z>\"@y.z>", 500),
            ("<\"a\0\"@y.z>", 500),
            ("<a@\u{212a}.example>", 553),
            ("<a@y.z> SIZE=1", 555),
        ] {
            let line = format!("RCPT TO:{form}\r\n");
            let reply = parse(line.as_bytes()).expect_err(form);
            assert_eq!(reply.code(), code, "{form:?}: {reply:?}");
        }
    }

    #[test]
    fn a_size_is_one_number_of_twenty_digits_at_most() {
        let size = |size: &str| match parse(format!("MAIL FROM:<a@b.c> {size}\r\n").as_bytes()) {
            Ok(Command::Mail(mail)) => Ok(mail.size),
            other => Err(other.expect_err("no MAIL").code()),
        };
        assert_eq!(size("SIZE=77"), Ok(77));
        assert_eq!(size("SIZE=18446744073709551615"), Ok(usize::MAX));
        assert_eq!(size("SIZE=99999999999999999999"), Ok(usize::MAX), "more than a machine counts is too much");
        for wrong in
            ["SIZE=1000000000000000000000", "SIZE=77 SIZE=77", "size=77 BODY=7BIT SIZE=1", "SIZE=", "SIZE", "SIZE=+1"]
        {
            assert_eq!(size(wrong), Err(501), "{wrong}");
        }
        assert_eq!(size("BODY=7BIT body=8BITMIME"), Err(501));
        let flood = (0..=PARAMETERS_MAX).map(|n| format!("X{n}=1 ")).collect::<String>();
        assert_eq!(size(&flood), Err(555));
    }
}
