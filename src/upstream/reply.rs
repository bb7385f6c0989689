//! An upstream's reply as a value, and the verdict on what it refuses: the message, or us. Pure.

use super::message::{Forwarded, Stage};

/// One reply, its lines joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub code: u16,
    /// The text without the enhanced code.
    pub text: String,
    pub enhanced: Option<String>,
}

/// Maximum number of characters of an upstream's text that are passed on: one reply line of ours (RFC 5321 §4.5.3.1.5
/// allows 512 octets) with room for our own words.
const TEXT_MAX: usize = 350;

impl Reply {
    pub fn new<'a>(code: u16, lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut enhanced: Option<&str> = None;
        let mut text = String::new();
        for line in lines {
            let line = line.trim();
            let rest = match split_enhanced(code, line) {
                Some((status, rest)) => {
                    enhanced.get_or_insert(status);
                    rest
                }
                None => line,
            };
            if !text.is_empty() && !rest.is_empty() {
                text.push(' ');
            }
            text.extend(rest.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
        if let Some((cut, _)) = text.char_indices().nth(TEXT_MAX) {
            text.truncate(cut);
        }
        Self { code, text, enhanced: enhanced.map(str::to_owned) }
    }

    pub fn class(&self) -> Class {
        match self.code {
            200..=299 => Class::Done,
            300..=399 => Class::GoOn,
            400..=499 => Class::Later,
            _ => Class::Never,
        }
    }

    /// Returns the reply as one line, as the upstream sent it.
    pub fn line(&self) -> String {
        match &self.enhanced {
            Some(status) => format!("{} {status} {}", self.code, self.text),
            None => format!("{} {}", self.code, self.text),
        }
    }
}

/// The class of a reply, by the first digit of its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Done,
    GoOn,
    Later,
    Never,
}

/// Splits off an enhanced status code at the front whose class agrees with the reply code (RFC 2034 §4).
fn split_enhanced(code: u16, line: &str) -> Option<(&str, &str)> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut parts = word.split('.');
    let class = parts.next()?;
    let well_formed = class.parse() == Ok(code / 100)
        && matches!(class, "2" | "4" | "5")
        && parts.clone().count() == 2
        && parts.all(|part| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()));
    well_formed.then_some((word, rest.trim_start()))
}

/// Interprets a negative reply at `stage`: 4xx and 5xx only.
pub(super) fn judge(stage: Stage, reply: Reply) -> Forwarded {
    if refuses_us(stage, &reply) {
        return Forwarded::RefusesUs { text: reply.line() };
    }
    Forwarded::Refused { code: reply.code, enhanced: reply.enhanced, text: reply.text, recipient: None, stage }
}

/// True if a refusal is about our standing with the upstream rather than about the message.
fn refuses_us(stage: Stage, reply: &Reply) -> bool {
    match reply.code {
        // 421: it closes the connection; 432 (Exchange Online), 454 (SES): throttled; 53x: login wanted or wrong.
        421 | 432 | 454 | 530 | 534 | 535 | 538 => return true,
        _ => {}
    }
    let enhanced = reply.enhanced.as_deref().unwrap_or("");
    // X.2.2 is the recipient's own full mailbox.
    if !enhanced.ends_with(".2.2") && speaks_of_our_quota(&reply.text) {
        return true;
    }
    if status_is_about_us(enhanced) {
        return true;
    }
    match stage {
        // A refusal there may be about the sender's address, which concerns that sender only, or about us as a client.
        Stage::Mail => reply.class() == Class::Never && speaks_of_client_or_login(reply),
        Stage::Recipient | Stage::Data | Stage::Message | Stage::Announced => false,
    }
}

/// True for enhanced codes about the client and its login: RFC 5248's X.7.8 (credentials), X.7.9 and X.7.11
/// (mechanism), X.7.14 (trust), X.7.25 (its address has no name), and those of Exchange Online for clients that it does
/// not know (57, 64) or has banned (606 to 649, 705, 708).
fn status_is_about_us(enhanced: &str) -> bool {
    let mut parts = enhanced.split('.').skip(1);
    let (Some("7"), Some(detail)) = (parts.next(), parts.next()) else { return false };
    matches!(detail.parse(), Ok(8 | 9 | 11 | 14 | 25 | 57 | 64 | 606..=649 | 705 | 708))
}

/// True if a refusal for a security reason (X.7.x) or without a status mentions the client or its login. Words of an
/// address that it repeats do not count: they are the sender's.
fn speaks_of_client_or_login(reply: &Reply) -> bool {
    if reply.enhanced.as_deref().is_some_and(|status| status.split('.').nth(1) != Some("7")) {
        return false;
    }
    let text = without_addresses(&reply.text).to_ascii_lowercase();
    let ours =
        ["relay", "authenticat", "login", "log in", "client host", "your ip", "ip address", "block list", "blocklist"];
    !text.contains("sender") && ours.iter().any(|words| text.contains(words))
}

/// Returns the text without anything in angle brackets, and without words that have an `@`.
fn without_addresses(text: &str) -> String {
    let mut outside = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        outside.push_str(before);
        // Quoted local parts may hold brackets, so the last one ends it.
        rest = after.rsplit_once('>').map_or("", |(_, after)| after);
    }
    outside.push_str(rest);
    outside.split_whitespace().filter(|word| !word.contains('@')).collect::<Vec<_>>().join(" ")
}

/// True if the text mentions our quota. Providers have no code of their own for it: SES "Daily message quota exceeded",
/// Google "Daily user sending quota exceeded", SendGrid "Maximum credits exceeded", Mailgun "sending limit".
fn speaks_of_our_quota(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["message quota", "sending quota", "credits exceeded", "sending limit", "sending rate"]
        .iter()
        .any(|words| text.contains(words))
}

/// Returns what makes two refusals "the same" when different senders get them: the code and the text without digits and
/// addresses. `None` if the refusal is clearly about a recipient or the content, which says nothing about us.
pub(super) fn likeness(forwarded: &Forwarded) -> Option<String> {
    let Forwarded::Refused { code: code @ 500..=599, enhanced, text, stage, .. } = forwarded else { return None };
    let subject = enhanced.as_deref().and_then(|status| status.split('.').nth(1));
    let about_us = match (stage, subject) {
        // All senders of a policy may be refused; the size concerns one message only.
        (Stage::Mail, _) => *code != 552,
        // X.1 addresses, X.2 mailboxes, X.6 content.
        (Stage::Recipient | Stage::Data | Stage::Message, Some("1" | "2" | "6")) => false,
        (Stage::Recipient, subject) => subject.is_some(),
        (Stage::Data | Stage::Message, _) => true,
        (Stage::Announced, _) => false,
    };
    about_us.then(|| {
        let plain = without_addresses(text).replace(|c: char| c.is_ascii_digit(), "");
        format!("{code} {plain}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(stage: Stage, code: u16, text: &str) -> Forwarded {
        judge(stage, Reply::new(code, [text]))
    }

    #[test]
    fn the_enhanced_code_is_taken_off_every_line() {
        let reply = Reply::new(550, ["5.7.25 no PTR", "5.7.25 record"]);
        assert_eq!(reply, Reply { code: 550, text: "no PTR record".into(), enhanced: Some("5.7.25".into()) });
        assert_eq!(Reply::new(550, ["4.7.1 disagrees"]).enhanced, None);
        assert_eq!(Reply::new(250, ["2.0.0 Ok"]).line(), "250 2.0.0 Ok");
        assert_eq!(Reply::new(250, ["1.2.3.4 said ok"]).enhanced, None);
    }

    #[test]
    fn a_refusal_of_us_is_told_from_a_refusal_of_the_message() {
        let ours = [
            (Stage::Mail, 550, "5.7.1 relaying denied"),
            (Stage::Mail, 554, "5.7.1 Client host rejected: Access denied"),
            (Stage::Mail, 550, "5.7.57 SMTP; Client was not authenticated to send anonymous mail"),
            (Stage::Message, 550, "5.7.606 Access denied, banned sending IP"),
            (Stage::Mail, 553, "login first"),
            (Stage::Mail, 530, "5.7.0 Authentication required"),
            (Stage::Mail, 421, "4.3.2 shutting down"),
            (Stage::Message, 421, "closing"),
            (Stage::Message, 454, "Throttling failure: Daily message quota exceeded."),
            (Stage::Message, 550, "5.4.5 Daily user sending quota exceeded"),
            (Stage::Recipient, 451, "Maximum credits exceeded"),
            (Stage::Data, 535, "no"),
        ];
        for (stage, code, text) in ours {
            assert!(matches!(judged(stage, code, text), Forwarded::RefusesUs { .. }), "{stage:?} {code} {text}");
        }
        let theirs = [
            (Stage::Mail, 552, "5.3.4 too big"),
            (Stage::Mail, 553, "5.1.8 sender's domain does not exist"),
            (Stage::Mail, 550, "5.7.1 this sender is not verified"),
            (Stage::Mail, 550, "5.7.60 SMTP; Client does not have permissions to send as this sender"),
            (Stage::Mail, 553, "5.7.1 <\"relay login client host\"@b.c>: not owned by us"),
            (Stage::Mail, 553, "5.7.1 \"your ip\"@b.c> no"),
            (Stage::Mail, 451, "4.3.0 try later"),
            (Stage::Recipient, 550, "5.1.1 no such user"),
            (Stage::Recipient, 552, "5.2.2 mailbox over its message quota"),
            (Stage::Message, 554, "5.7.1 spam"),
        ];
        for (stage, code, text) in theirs {
            assert!(matches!(judged(stage, code, text), Forwarded::Refused { .. }), "{stage:?} {code} {text}");
        }
    }

    #[test]
    fn refusals_are_alike_without_their_numbers_and_addresses() {
        let one = likeness(&judged(Stage::Message, 554, "5.7.1 blocked id 123 for <a@b.c>"));
        assert!(one.is_some());
        assert_eq!(one, likeness(&judged(Stage::Message, 554, "5.7.1 blocked id 9 for <x@y.z>")));
        assert_eq!(likeness(&judged(Stage::Recipient, 550, "5.1.1 no such user")), None);
        assert_eq!(likeness(&judged(Stage::Recipient, 550, "no such user")), None);
        assert_eq!(likeness(&judged(Stage::Message, 451, "4.7.1 later")), None);
    }
}
