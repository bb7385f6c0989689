//! Every reply of the relay. No other file writes reply text.
//!
//! Every 2xx, 4xx and 5xx has an enhanced code (RFC 3463, RFC 5248), except the greeting and HELO. Text from a user or
//! an upstream passes through [`printable`] first, so that it cannot add a second reply to ours.

mod credits;
mod sender;
mod table;
mod text;

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};

use super::field_name::FieldName;
use crate::domain::credit::{Blocked, WhenExhausted};
use crate::domain::id::MessageId;
use crate::domain::sender::{MailDomain, SenderFault};

pub use credits::{RateExceeded, Shortage};
pub use sender::{DeniedSender, SenderPlace};

use text::printable;

/// The extensions that EHLO offers at this point of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub start_tls: bool,
    pub auth: bool,
    pub carries: Carries,
}

/// The capabilities common to all upstreams; EHLO comes before AUTH, so it can promise no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carries {
    pub eight_bit: bool,
    pub utf8: bool,
    /// Maximum size of a message, in octets.
    pub size: usize,
}

/// The moment of a refusal: a transaction is refused at another time than a login, with another code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Login,
    Transaction,
}

/// The fault of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    Nul,
    BareLineEnd,
    LineTooLong,
}

/// The fault of a header section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// A line that is neither a field nor the continuation of one.
    Malformed,
    TooLarge,
    /// A field that names a sender could not be understood for certain.
    Sender(FieldName),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Greeting {
        hostname: String,
    },
    Helo {
        hostname: String,
    },
    Ehlo {
        hostname: String,
        offer: Offer,
    },
    Ok,
    SenderOk,
    RecipientOk,
    StartData,
    Accepted(MessageId),
    Bye,
    Help,
    CannotVerify,
    ReadyForTls,
    AuthOk,
    /// A base64 prompt of AUTH.
    Challenge(&'static str),

    UnknownCommand,
    NotImplemented,
    Syntax(&'static str),
    NotText,
    BareLineEnd,
    CommandTooLong,
    /// The text says what must come first, or cannot be repeated.
    OutOfOrder(&'static str),
    UnsupportedParameter,
    BadSenderAddress,
    BadRecipientAddress,
    Utf8NotAsked,
    BadUtf8Address,
    Utf8NotCarried,
    NoRecipients,
    TooManyErrors,

    AuthCancelled,
    AuthMalformed,
    AuthMechanism,
    TlsFirst,
    TlsFirstForAuth,
    AuthFirst,
    BadLogin,
    WrongNetwork,
    KeyNeedsTls,
    KeyNotInUse,
    TooManyLogins,
    Guessing,
    LoginUnavailable,
    Blocked(Blocked, Moment),
    /// The session outlived its login. The text says what changed.
    LoginOver(&'static str),
    /// The session reached its maximum age.
    SessionOver,

    SenderDenied(DeniedSender),
    FromCount,
    Header(HeaderFault),
    Body(BodyFault),
    TooBig {
        limit: usize,
    },
    TooManyRecipients {
        limit: u16,
    },
    Loop,

    Short(Shortage, WhenExhausted),
    TooFast(RateExceeded),
    LedgerUnavailable,
    DirectoryStale,
    Crowded,
    NoMemory,
    NoUpstream,
    UpstreamDown,
    UpstreamSlow,
    OutcomeUnknown,
    /// The same message is already on its way.
    UnderWay,
    UpstreamRefusesUs,
    /// The upstream is not tried, because the sender's own messages kept failing there.
    SenderPaused,
    /// The upstream's own reply to this message.
    Upstream {
        code: u16,
        enhanced: Option<String>,
        text: String,
    },

    NoService,
    TimedOut,
    Draining,
}

impl Reply {
    /// Returns code, enhanced code and text: the table of all replies.
    fn parts(&self) -> (u16, &'static str, Cow<'_, str>) {
        let fixed = |code, enhanced, text| (code, enhanced, Cow::Borrowed(text));
        let written = |code, enhanced, text| (code, enhanced, Cow::Owned(text));
        match self {
            Self::Greeting { hostname } => written(220, "", format!("{hostname} ESMTP Franking")),
            Self::Helo { hostname } | Self::Ehlo { hostname, .. } => (250, "", Cow::Borrowed(hostname.as_str())),
            Self::Accepted(id) => written(250, "2.0.0", format!("relayed, id {id}")),
            Self::Challenge(prompt) => fixed(334, "", *prompt),
            Self::Syntax(syntax) => written(501, "5.5.4", format!("syntax: {syntax}")),
            Self::OutOfOrder(why) => fixed(503, "5.5.1", *why),
            Self::Blocked(blocked, moment) => blocked_parts(blocked, *moment),
            Self::LoginOver(why) => {
                written(421, "4.7.0", format!("this login is over: {why}; connect and log in again"))
            }
            Self::SessionOver => fixed(421, "4.3.2", "this session is old, connect and log in again"),
            Self::SenderDenied(denied) => written(550, "5.7.1", denied.sentence()),
            Self::Header(fault) => header_parts(*fault),
            Self::Body(fault) => fixed(554, "5.6.0", body_text(*fault)),
            Self::TooBig { limit } => written(552, "5.3.4", format!("a message may have {limit} octets")),
            Self::TooManyRecipients { limit } => {
                written(452, "4.5.3", format!("a message may have {limit} recipients; send the others in another"))
            }
            Self::Short(shortage, when) => shortage.parts(*when),
            Self::TooFast(exceeded) => exceeded.parts(),
            Self::Upstream { code, enhanced, text } => written(*code, "", passed(*code, enhanced, text)),
            Self::Ok => fixed(250, "2.0.0", "ok"),
            Self::SenderOk => fixed(250, "2.1.0", "sender ok"),
            Self::RecipientOk => fixed(250, "2.1.5", "recipient ok"),
            Self::StartData => fixed(354, "", "end the message with a dot on its own line"),
            Self::Bye => fixed(221, "2.0.0", "bye"),
            Self::CannotVerify => {
                fixed(252, "2.5.0", "addresses are not verified here; send, and the upstream will judge")
            }
            Self::ReadyForTls => fixed(220, "2.0.0", "ready to start TLS"),
            Self::AuthOk => fixed(235, "2.7.0", "logged in"),
            Self::UnknownCommand => fixed(500, "5.5.2", "unknown command"),
            Self::NotImplemented => fixed(502, "5.5.1", "this command is not offered here"),
            Self::NotText => fixed(500, "5.5.2", "a command is one line of text without control characters"),
            Self::BareLineEnd => fixed(500, "5.5.2", "a command ends in CR LF here, and this one in LF alone; closing"),
            Self::CommandTooLong => fixed(500, "5.5.2", "the command line is too long"),
            Self::UnsupportedParameter => fixed(555, "5.5.4", "a parameter of this command is not offered here"),
            Self::BadSenderAddress => fixed(501, "5.1.7", "the sender is not a mail address such as name@example.com"),
            Self::BadRecipientAddress => {
                fixed(501, "5.1.3", "the recipient is not a mail address such as name@example.com")
            }
            Self::Utf8NotAsked => fixed(553, "5.6.7", "a non-ASCII address needs SMTPUTF8 in the MAIL command"),
            Self::BadUtf8Address => fixed(
                553,
                "5.6.7",
                "the non-ASCII address is not valid; write its domain in letters of one script, or as xn--",
            ),
            Self::Utf8NotCarried => fixed(553, "5.6.7", "the upstream does not take non-ASCII addresses"),
            Self::NoRecipients => fixed(554, "5.5.1", "no valid recipients"),
            Self::TooManyErrors => fixed(421, "4.7.0", "too many refused commands, closing"),
            Self::AuthCancelled => fixed(501, "5.7.0", "login cancelled"),
            Self::AuthMalformed => fixed(501, "5.5.2", "the login is not the base64 that its mechanism wants"),
            Self::AuthMechanism => fixed(504, "5.5.4", "use AUTH PLAIN or AUTH LOGIN"),
            Self::TlsFirst => fixed(530, "5.7.0", "STARTTLS first"),
            Self::TlsFirstForAuth => fixed(538, "5.7.11", "STARTTLS first; passwords are not taken in the clear"),
            Self::AuthFirst => fixed(530, "5.7.0", "log in first"),
            Self::BadLogin => fixed(535, "5.7.8", "user name or password is wrong"),
            Self::WrongNetwork => fixed(535, "5.7.8", "this key may not be used from this network (allowFrom)"),
            Self::KeyNeedsTls => fixed(538, "5.7.11", "this key may only be used with TLS (plainListener is not set)"),
            Self::TooManyLogins => fixed(421, "4.7.0", "too many failed logins, closing"),
            Self::Guessing => fixed(454, "4.7.0", "too many failed logins from this address, try again later"),
            Self::KeyNotInUse => fixed(454, "4.7.0", "this key is not in use yet; see its condition Ready"),
            Self::LoginUnavailable => fixed(454, "4.7.0", "temporarily unable to check logins; try again later"),
            Self::FromCount => fixed(550, "5.7.1", "a message needs exactly one From header"),
            Self::Loop => fixed(554, "5.4.6", "the message passed too many servers; it is going in circles"),
            Self::LedgerUnavailable => fixed(451, "4.3.2", "temporarily unable to count credits; try again later"),
            Self::DirectoryStale => fixed(451, "4.3.2", "temporarily unable to check senders; try again later"),
            Self::Crowded => fixed(421, "4.3.2", "too many connections, try again later"),
            Self::NoMemory => fixed(452, "4.3.1", "too many messages at this moment, try again"),
            Self::NoUpstream => fixed(451, "4.3.5", "the policy's upstream cannot be used at present, try again later"),
            Self::UpstreamDown => fixed(451, "4.4.1", "the upstream cannot be reached, try again later"),
            Self::UpstreamSlow => fixed(451, "4.4.2", "the upstream did not answer in time, try again later"),
            Self::OutcomeUnknown => {
                fixed(451, "4.4.2", "the upstream received the message but did not confirm that it accepted it")
            }
            Self::UnderWay => fixed(451, "4.4.2", "this message is still being sent to the upstream; try again later"),
            Self::UpstreamRefusesUs => fixed(451, "4.3.5", "the upstream does not accept mail from here at present"),
            Self::SenderPaused => {
                fixed(451, "4.4.2", "the last messages of this account failed at the upstream, try again in a minute")
            }
            Self::NoService => fixed(554, "5.7.1", "no service for this network"),
            Self::TimedOut => fixed(421, "4.4.2", "waited too long, closing"),
            Self::Draining => fixed(421, "4.3.2", "shutting down, connect again"),
            Self::Help => {
                fixed(214, "2.0.0", "this is a submission server; log in with the user name and password of a key")
            }
        }
    }

    pub fn code(&self) -> u16 {
        self.parts().0
    }

    /// Returns the sender's fault, if that is why the message is refused.
    pub fn sender_fault(&self) -> Option<SenderFault> {
        if let Self::SenderDenied(denied) = self {
            Some(SenderFault::Unlisted(denied.list))
        } else if matches!(self, Self::Header(HeaderFault::Sender(_))) {
            Some(SenderFault::Unreadable)
        } else if matches!(self, Self::FromCount) {
            Some(SenderFault::FromCount)
        } else {
            None
        }
    }

    /// Returns the domain that the key may not send as, for logs; never the address.
    pub fn denied_domain(&self) -> Option<&MailDomain> {
        if let Self::SenderDenied(denied) = self { denied.address.domain() } else { None }
    }

    /// Appends the reply, CRLF included.
    pub fn write(&self, out: &mut BytesMut) {
        let (code, enhanced, text) = self.parts();
        if let Self::Ehlo { offer, .. } = self {
            return write_ehlo(&text, offer, out);
        }
        let mut line = Lines(out);
        // Writing into memory cannot fail.
        let _ = if enhanced.is_empty() {
            write!(line, "{code} {text}\r\n")
        } else {
            write!(line, "{code} {enhanced} {text}\r\n")
        };
    }
}

/// `fmt::Write` for a buffer, so a reply is formatted in place.
struct Lines<'a>(&'a mut BytesMut);

impl std::fmt::Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.put_slice(text.as_bytes());
        Ok(())
    }
}

fn write_ehlo(hostname: &str, offer: &Offer, out: &mut BytesMut) {
    let mut lines = Lines(out);
    let _ = write!(lines, "250-{hostname}\r\n250-PIPELINING\r\n250-SIZE {}\r\n", offer.carries.size);
    if offer.carries.eight_bit {
        out.put_slice(b"250-8BITMIME\r\n");
    }
    if offer.carries.utf8 {
        out.put_slice(b"250-SMTPUTF8\r\n");
    }
    if offer.start_tls {
        out.put_slice(b"250-STARTTLS\r\n");
    }
    if offer.auth {
        out.put_slice(b"250-AUTH PLAIN LOGIN\r\n");
    }
    out.put_slice(b"250 ENHANCEDSTATUSCODES\r\n");
}

/// Returns the reply to a blocked sender. After the right password it says that the password is not the trouble
/// (5.7.13, "user account disabled").
fn blocked_parts(blocked: &Blocked, moment: Moment) -> (u16, &'static str, Cow<'static, str>) {
    let code = match moment {
        Moment::Login => 535,
        Moment::Transaction => 550,
    };
    let suspended = |who: &str, reason: &Option<String>| match reason {
        Some(reason) => Cow::Owned(printable(&format!("the {who} is suspended: {reason}"))),
        None => Cow::Owned(format!("the {who} is suspended")),
    };
    let text = match blocked {
        Blocked::KeyRevoked => Cow::Borrowed("the key is revoked"),
        Blocked::KeyExpired => Cow::Borrowed("the key has expired"),
        Blocked::AccountSuspended { reason } => suspended("account", reason),
        Blocked::AccountRemoved => Cow::Borrowed("the account was removed or is refused; see its condition Ready"),
        Blocked::PolicySuspended { reason } => suspended("parent policy", reason),
        Blocked::PolicyRemoved => Cow::Borrowed("the parent policy was removed"),
    };
    (code, "5.7.13", text)
}

fn header_parts(fault: HeaderFault) -> (u16, &'static str, Cow<'static, str>) {
    match fault {
        HeaderFault::Malformed => {
            (554, "5.6.0", Cow::Borrowed("the header section has a line that is not a header field"))
        }
        HeaderFault::TooLarge => (554, "5.6.0", Cow::Borrowed("the header section is too large")),
        HeaderFault::Sender(field) => {
            (550, "5.7.1", Cow::Owned(format!("the addresses in the {field} header cannot be understood")))
        }
    }
}

fn body_text(fault: BodyFault) -> &'static str {
    match fault {
        BodyFault::Nul => "the message holds a NUL",
        BodyFault::BareLineEnd => "the message holds a CR or LF that is not part of CRLF",
        BodyFault::LineTooLong => "the message holds a line that is too long",
    }
}

/// Returns the upstream's text, with its enhanced code if that is of the reply's class.
fn passed(code: u16, enhanced: &Option<String>, text: &str) -> String {
    let class = code / 100;
    let own = enhanced.as_deref().filter(|enhanced| enhanced.starts_with(&format!("{class}.")));
    printable(&format!("{} {text}", own.unwrap_or(if class == 4 { "4.0.0" } else { "5.0.0" })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credit::Meter;

    fn text(reply: &Reply) -> String {
        let mut out = BytesMut::new();
        reply.write(&mut out);
        String::from_utf8(out.to_vec()).expect("ASCII")
    }

    #[test]
    fn ehlo_offers_auth_and_starttls_only_where_they_work() {
        let carries = Carries { eight_bit: true, utf8: true, size: 10 };
        let offer = Offer { start_tls: true, auth: false, carries };
        let reply = Reply::Ehlo { hostname: "relay.example".into(), offer };
        assert_eq!(
            text(&reply),
            "250-relay.example\r\n250-PIPELINING\r\n250-SIZE 10\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-STARTTLS\r\n\
             250 ENHANCEDSTATUSCODES\r\n"
        );
        let carries = Carries { eight_bit: true, utf8: false, size: 10 };
        let offer = Offer { start_tls: false, auth: true, carries };
        let inside = text(&Reply::Ehlo { hostname: "relay.example".into(), offer });
        assert!(inside.contains("250-AUTH PLAIN LOGIN\r\n") && !inside.contains("STARTTLS"), "{inside}");
        assert!(inside.contains("250-8BITMIME\r\n") && !inside.contains("SMTPUTF8"), "{inside}");
    }

    #[test]
    fn a_shortage_names_the_limit_and_when_it_opens_again() {
        let shortage = Shortage {
            meter: Meter::AccountCap,
            granted: 100,
            remaining: 2,
            reopens_at: Some("2026-12-01T00:00:00.5Z".parse().expect("a time")),
        };
        assert_eq!(
            text(&Reply::Short(shortage.clone(), WhenExhausted::Defer)),
            "452 4.7.1 credits: the account's cap of 100 has 2 left; it opens again at 2026-12-01T00:00:00Z\r\n"
        );
        let rejected = text(&Reply::Short(shortage, WhenExhausted::Reject));
        assert!(
            rejected.starts_with("550 5.7.1 credits: the account's cap of 100 has 2 left; it opens "),
            "{rejected}"
        );
    }

    #[test]
    fn the_words_of_others_cannot_end_our_line() {
        let blocked = Blocked::AccountSuspended { reason: Some("unpaid\r\n250 ok €".into()) };
        assert_eq!(
            text(&Reply::Blocked(blocked, Moment::Login)),
            "535 5.7.13 the account is suspended: unpaid??250 ok ?\r\n"
        );
        let long = text(&Reply::Upstream { code: 550, enhanced: None, text: "x".repeat(5000) });
        assert!(long.len() <= 512 && long.ends_with("\r\n"), "{}", long.len());
    }

    #[test]
    fn every_refusal_carries_an_enhanced_code_of_its_class() {
        let replies = [
            Reply::UnknownCommand,
            Reply::NotImplemented,
            Reply::Syntax("EHLO name"),
            Reply::OutOfOrder("MAIL first"),
            Reply::BadLogin,
            Reply::KeyNotInUse,
            Reply::LoginUnavailable,
            Reply::BareLineEnd,
            Reply::BadUtf8Address,
            Reply::FromCount,
            Reply::TooBig { limit: 1 },
            Reply::TooManyRecipients { limit: 1 },
            Reply::LedgerUnavailable,
            Reply::OutcomeUnknown,
            Reply::UnderWay,
            Reply::Draining,
            Reply::TimedOut,
            Reply::Blocked(Blocked::KeyRevoked, Moment::Transaction),
            Reply::Header(HeaderFault::Malformed),
            Reply::Body(BodyFault::Nul),
        ];
        for reply in replies {
            let text = text(&reply);
            let (code, rest) = text.split_once(' ').expect("a code");
            assert!(rest.starts_with(&format!("{}.", &code[..1])), "{text}");
        }
    }
}
