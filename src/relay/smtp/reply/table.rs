//! The reference page of replies: an example of each, from the replies themselves, and who has to act.

use std::collections::BTreeSet;

use jiff::Timestamp;
use uuid::Uuid;

use super::{BodyFault, Carries, DeniedSender, HeaderFault, Moment, Offer, RateExceeded, Reply, SenderPlace, Shortage};
use crate::domain::credit::{Blocked, Meter, Rate, RateScope, WhenExhausted};
use crate::domain::id::MessageId;
use crate::domain::sender::{Address, Unlisted};
use crate::relay::smtp::field_name::FieldName;

/// The person who has to act after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    /// All is well.
    Nobody,
    /// No person: the program or device sends the same again by itself.
    Retry,
    /// The person who writes the message, or who set the program up.
    Sender,
    /// The key's or account's owner.
    Tenant,
    /// The platform team; senders only wait.
    Platform,
    /// The upstream refused this message with its own words.
    Upstream,
}

impl Actor {
    fn words(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Retry => "the client sends it again",
            Self::Sender => "the sender corrects it",
            Self::Tenant => "the tenant: the key or its account",
            Self::Platform => "the platform team",
            Self::Upstream => "as the upstream's words say",
        }
    }
}

impl Reply {
    fn actor(&self) -> Actor {
        match self {
            Self::Greeting { .. }
            | Self::Helo { .. }
            | Self::Ehlo { .. }
            | Self::Ok
            | Self::SenderOk
            | Self::RecipientOk
            | Self::StartData
            | Self::Accepted(_)
            | Self::Bye
            | Self::Help
            | Self::CannotVerify
            | Self::ReadyForTls
            | Self::AuthOk
            | Self::Challenge(_) => Actor::Nobody,
            Self::UnknownCommand
            | Self::NotImplemented
            | Self::Syntax(_)
            | Self::NotText
            | Self::BareLineEnd
            | Self::CommandTooLong
            | Self::OutOfOrder(_)
            | Self::UnsupportedParameter
            | Self::BadSenderAddress
            | Self::BadRecipientAddress
            | Self::Utf8NotAsked
            | Self::BadUtf8Address
            | Self::Utf8NotCarried
            | Self::NoRecipients
            | Self::TooManyErrors
            | Self::AuthCancelled
            | Self::AuthMalformed
            | Self::AuthMechanism
            | Self::TlsFirst
            | Self::TlsFirstForAuth
            | Self::AuthFirst
            | Self::BadLogin
            | Self::TooManyLogins
            | Self::Guessing
            | Self::FromCount
            | Self::Header(_)
            | Self::Body(_)
            | Self::TooBig { .. }
            | Self::TooManyRecipients { .. }
            | Self::Loop => Actor::Sender,
            Self::WrongNetwork | Self::KeyNeedsTls | Self::KeyNotInUse | Self::TooFast(_) | Self::SenderPaused => {
                Actor::Tenant
            }
            Self::Blocked(blocked, _) => of_standing(blocked),
            Self::SenderDenied(denied) => of_list(denied.list),
            Self::Short(shortage, _) => of_meter(shortage.meter),
            Self::LoginUnavailable
            | Self::LedgerUnavailable
            | Self::DirectoryStale
            | Self::NoUpstream
            | Self::UpstreamRefusesUs
            | Self::NoService => Actor::Platform,
            Self::LoginOver(_)
            | Self::SessionOver
            | Self::Crowded
            | Self::NoMemory
            | Self::UpstreamDown
            | Self::UpstreamSlow
            | Self::OutcomeUnknown
            | Self::UnderWay
            | Self::TimedOut
            | Self::Draining => Actor::Retry,
            Self::Upstream { .. } => Actor::Upstream,
        }
    }

    /// Returns the table of all replies, by code: an example of each, and who has to act.
    pub fn table() -> String {
        let mut rows = BTreeSet::new();
        for reply in examples() {
            let (code, enhanced, text) = reply.parts();
            rows.insert((code, enhanced, text.into_owned(), reply.actor().words()));
        }
        let mut table = "| code | enhanced | text | who acts |\n| --- | --- | --- | --- |\n".to_owned();
        for (code, enhanced, text, actor) in rows {
            table.push_str(&format!("| {code} | {enhanced} | {text} | {actor} |\n"));
        }
        table
    }
}

/// Tells whose spec keeps the sender from sending.
fn of_standing(blocked: &Blocked) -> Actor {
    match blocked {
        Blocked::KeyRevoked | Blocked::KeyExpired | Blocked::AccountRemoved => Actor::Tenant,
        // To suspend an account takes `grant` on its policy.
        Blocked::AccountSuspended { .. } | Blocked::PolicySuspended { .. } | Blocked::PolicyRemoved => Actor::Platform,
    }
}

/// Tells who writes the list that an address is missing from. To write an account's takes `grant` on its policy.
fn of_list(list: Unlisted) -> Actor {
    match list {
        Unlisted::Key => Actor::Tenant,
        Unlisted::Account | Unlisted::Policy => Actor::Platform,
    }
}

/// Tells who raises the limit. What is worth money takes `grant` on the policy.
fn of_meter(meter: Meter) -> Actor {
    match meter {
        Meter::KeyCap | Meter::AccountCap => Actor::Tenant,
        Meter::AccountSpend | Meter::AccountPrepaid | Meter::PolicyPrepaid | Meter::PolicyPool => Actor::Platform,
    }
}

/// At least one of each reply. A test compares it with the variants of the enum.
fn examples() -> Vec<Reply> {
    let hostname = || "smtp.example.com".to_owned();
    let carries = Carries { eight_bit: true, utf8: true, size: 52_428_800 };
    let mut all = vec![
        Reply::Greeting { hostname: hostname() },
        Reply::Helo { hostname: hostname() },
        Reply::Ehlo { hostname: hostname(), offer: Offer { start_tls: true, auth: true, carries } },
        Reply::Ok,
        Reply::SenderOk,
        Reply::RecipientOk,
        Reply::StartData,
        Reply::Accepted(MessageId(Uuid::nil())),
        Reply::Bye,
        Reply::Help,
        Reply::CannotVerify,
        Reply::ReadyForTls,
        Reply::AuthOk,
        Reply::Challenge("VXNlcm5hbWU6"),
        Reply::UnknownCommand,
        Reply::NotImplemented,
        Reply::Syntax("EHLO name"),
        Reply::NotText,
        Reply::BareLineEnd,
        Reply::CommandTooLong,
        Reply::OutOfOrder("MAIL first"),
        Reply::UnsupportedParameter,
        Reply::BadSenderAddress,
        Reply::BadRecipientAddress,
        Reply::Utf8NotAsked,
        Reply::BadUtf8Address,
        Reply::Utf8NotCarried,
        Reply::NoRecipients,
        Reply::TooManyErrors,
        Reply::AuthCancelled,
        Reply::AuthMalformed,
        Reply::AuthMechanism,
        Reply::TlsFirst,
        Reply::TlsFirstForAuth,
        Reply::AuthFirst,
        Reply::BadLogin,
        Reply::WrongNetwork,
        Reply::KeyNeedsTls,
        Reply::KeyNotInUse,
        Reply::TooManyLogins,
        Reply::Guessing,
        Reply::LoginUnavailable,
        Reply::LoginOver("its password was replaced"),
        Reply::SessionOver,
        Reply::FromCount,
        Reply::TooBig { limit: carries.size },
        Reply::TooManyRecipients { limit: 100 },
        Reply::Loop,
        Reply::LedgerUnavailable,
        Reply::DirectoryStale,
        Reply::Crowded,
        Reply::NoMemory,
        Reply::NoUpstream,
        Reply::UpstreamDown,
        Reply::UpstreamSlow,
        Reply::OutcomeUnknown,
        Reply::UnderWay,
        Reply::UpstreamRefusesUs,
        Reply::SenderPaused,
        Reply::Upstream { code: 550, enhanced: Some("5.1.1".to_owned()), text: "no such user".to_owned() },
        Reply::NoService,
        Reply::TimedOut,
        Reply::Draining,
    ];
    all.extend(refusals());
    all.extend(credits());
    all
}

/// Replies with a fault or a standing in them.
fn refusals() -> Vec<Reply> {
    let reason = || Some("unpaid".to_owned());
    let blocked = [
        Blocked::KeyRevoked,
        Blocked::KeyExpired,
        Blocked::AccountSuspended { reason: reason() },
        Blocked::AccountRemoved,
        Blocked::PolicySuspended { reason: reason() },
        Blocked::PolicyRemoved,
    ];
    let mut all: Vec<Reply> = vec![];
    for moment in [Moment::Login, Moment::Transaction] {
        all.extend(blocked.iter().map(|blocked| Reply::Blocked(blocked.clone(), moment)));
    }
    let faults = [HeaderFault::Malformed, HeaderFault::TooLarge, HeaderFault::Sender(FieldName::From)];
    all.extend(faults.map(Reply::Header));
    all.extend([BodyFault::Nul, BodyFault::BareLineEnd, BodyFault::LineTooLong].map(Reply::Body));
    if let Ok(address) = Address::parse("news@example.org") {
        let denied = |list| DeniedSender {
            place: SenderPlace::Header(FieldName::From),
            address: address.clone(),
            list,
            holder: match list {
                Unlisted::Policy | Unlisted::Account => "newsroom/newsroom".to_owned(),
                Unlisted::Key => "newsroom/website".to_owned(),
            },
        };
        all.extend(Unlisted::ALL.map(|list| Reply::SenderDenied(denied(list))));
    }
    all
}

/// When a period of the examples ends: 2026-12-01T00:00:00Z.
const REOPENS_AT: Timestamp = Timestamp::constant(1_796_083_200, 0);

/// One for each meter and rate. Their other endings are on the page of replies and conditions.
fn credits() -> Vec<Reply> {
    let rate = Rate { messages: 10, per_seconds: 60 };
    let scopes = [RateScope::Key, RateScope::Account, RateScope::Refused];
    let fast = scopes.map(|scope| Reply::TooFast(RateExceeded { scope, rate, seconds: 6 }));
    let short = Meter::ALL.into_iter().flat_map(|meter| {
        let reopens_at = match meter {
            Meter::KeyCap | Meter::AccountCap | Meter::PolicyPool => Some(REOPENS_AT),
            Meter::AccountSpend | Meter::AccountPrepaid | Meter::PolicyPrepaid => None,
        };
        let shortage = Shortage { meter, granted: 100, remaining: 2, reopens_at };
        [WhenExhausted::Defer, WhenExhausted::Reject].map(|when| Reply::Short(shortage.clone(), when))
    });
    fast.into_iter().chain(short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variants of an enum, as its source lists them.
    fn variants(source: &str) -> BTreeSet<String> {
        let body = source.split_once("pub enum Reply {\n").and_then(|(_, rest)| rest.split_once("\n}\n"));
        let lines = body.expect("the enum").0.lines();
        let of_variant = |line: &&str| line.starts_with("    ") && line[4..].starts_with(char::is_uppercase);
        let name = |line: &str| line.trim().chars().take_while(|c| c.is_alphanumeric()).collect();
        lines.filter(of_variant).map(name).collect()
    }

    #[test]
    fn the_page_has_an_example_of_each_reply() {
        let name = |reply: Reply| format!("{reply:?}").chars().take_while(|c| c.is_alphanumeric()).collect();
        let shown: BTreeSet<String> = examples().into_iter().map(name).collect();
        assert_eq!(shown, variants(include_str!("mod.rs")));
    }

    #[test]
    fn who_acts_follows_from_the_class_of_the_code() {
        for reply in examples() {
            let (code, _, text) = reply.parts();
            assert_eq!(code < 400, reply.actor() == Actor::Nobody, "{code} {text}");
            assert!(code < 500 || reply.actor() != Actor::Retry, "no client comes again after {code} {text}");
        }
    }
}
