//! The header section: the senders that it names, how often the message was relayed, and which fields are missing.
//!
//! No field is rewritten. A Received field goes in front (RFC 5321 §4.4), and Date and Message-ID if a device left them
//! out (RFC 6409 §8.2, §8.3).

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use memchr::{memchr, memmem};

use super::field_name::FieldName;
use super::mailbox;
use super::reply::HeaderFault;
use crate::domain::fingerprint::TraceMark;
use crate::domain::id::MessageId;
use crate::domain::sender::Address;

/// Maximum size of a header section. DKIM, ARC and long reference lists stay far under it.
pub const HEADER_MAX: usize = 256 * 1024;

/// Maximum size of [`Added::fields`]: twice the longest host name (255), and the text around it.
pub const ADDED_MAX: usize = 1024;

/// The facts that the relay needs from a header section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Number of From fields. Exactly one is right.
    pub from_fields: usize,
    /// Every address that the message claims to be from, with the field that it stands in.
    pub senders: Vec<(FieldName, Address)>,
    pub received: usize,
    /// Number of Received fields with the sender's own mark ([`TraceMark`]): the message was here before, as one of the
    /// same key.
    pub own: usize,
    pub has_date: bool,
    pub has_message_id: bool,
}

/// Reads the header section of a body with CRLF line ends. `mark` is the key's mark in our Received fields.
pub fn read(body: &[u8], mark: &TraceMark) -> Result<Header, HeaderFault> {
    let mut header = Header::default();
    let mut next = 0;
    while let Some(end) = field_end(body, next)? {
        let field = &body[next..end];
        next = end;
        take(&mut header, field, mark)?;
    }
    Ok(header)
}

/// Returns the end of the field that starts at `start`, with its continuation lines; `None` at the end of the section.
fn field_end(body: &[u8], start: usize) -> Result<Option<usize>, HeaderFault> {
    if start >= body.len() || body[start..].starts_with(b"\r\n") {
        return Ok(None);
    }
    let mut end = start;
    loop {
        end = memchr(b'\n', &body[end..]).map_or(body.len(), |found| end + found + 1);
        if end > HEADER_MAX {
            return Err(HeaderFault::TooLarge);
        }
        match body.get(end) {
            Some(b' ' | b'\t') => {}
            Some(_) | None => return Ok(Some(end)),
        }
    }
}

fn take(header: &mut Header, field: &[u8], mark: &TraceMark) -> Result<(), HeaderFault> {
    let colon = memchr(b':', field).ok_or(HeaderFault::Malformed)?;
    // Some programs read "From :" as From, and so do we.
    let name = field[..colon].trim_ascii_end();
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return Err(HeaderFault::Malformed);
    }
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let sender = if is("From") {
        header.from_fields += 1;
        Some(FieldName::From)
    } else if is("Sender") {
        Some(FieldName::Sender)
    } else if is("Resent-From") {
        Some(FieldName::ResentFrom)
    } else if is("Resent-Sender") {
        Some(FieldName::ResentSender)
    } else {
        None
    };
    if let Some(sender) = sender {
        return take_sender(header, sender, &field[colon + 1..]);
    }
    if is("Received") {
        header.received += 1;
        header.own += usize::from(memmem::find(field, mark.as_str().as_bytes()).is_some());
    }
    header.has_date |= is("Date");
    header.has_message_id |= is("Message-ID");
    Ok(())
}

fn take_sender(header: &mut Header, name: FieldName, value: &[u8]) -> Result<(), HeaderFault> {
    let fault = HeaderFault::Sender(name);
    let found = mailbox::addresses(&unfolded(value)).ok_or(fault)?;
    if header.senders.len() + found.len() > mailbox::ADDRESSES_MAX {
        return Err(fault);
    }
    header.senders.extend(found.into_iter().map(|address| (name, address)));
    Ok(())
}

/// Unfolds the value onto one line: CRLF before white space is dropped (RFC 5322 §2.2.3).
fn unfolded(value: &[u8]) -> Cow<'_, [u8]> {
    let value = value.trim_ascii_end();
    if memmem::find(value, b"\r\n").is_none() {
        return Cow::Borrowed(value);
    }
    let mut line = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some(end) = memmem::find(rest, b"\r\n") {
        line.extend_from_slice(&rest[..end]);
        rest = &rest[end + 2..];
    }
    line.extend_from_slice(rest);
    Cow::Owned(line)
}

/// Returns the length of the line that begins a message in a mailbox file (`From a@b.c Mon Nov 30 10:00:00 2026`), if a
/// program left it in front of the header section; else 0. It is no field, and servers drop it. A `From` field with a
/// space before its colon is no such line.
pub fn mailbox_line(body: &[u8]) -> usize {
    let is_line = body.strip_prefix(b"From ").is_some_and(|rest| !rest.trim_ascii_start().starts_with(b":"));
    if is_line { memchr(b'\n', body).map_or(body.len(), |end| end + 1) } else { 0 }
}

/// The values of the fields that go in front of a message.
pub struct Added<'a> {
    pub id: MessageId,
    pub mark: &'a TraceMark,
    pub hostname: &'a str,
    pub received_at: Timestamp,
    pub encrypted: bool,
    pub utf8: bool,
}

impl Added<'_> {
    /// Returns the Received field, and Date and Message-ID if `header` has none. The client's address is left out:
    /// recipients have no need to know where a customer's printer stands.
    pub fn fields(&self, header: &Header) -> String {
        let date = self.received_at.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S +0000");
        let Self { id, mark, hostname, .. } = self;
        let mut text = format!(
            "Received: by {hostname} (Franking) with {} id {id} ({});\r\n\t{date}\r\n",
            self.protocol(),
            mark.as_str()
        );
        if !header.has_date {
            text.push_str(&format!("Date: {date}\r\n"));
        }
        if !header.has_message_id {
            text.push_str(&format!("Message-ID: <{id}@{hostname}>\r\n"));
        }
        text
    }

    /// Returns the protocol's name in Received (RFC 3848, RFC 6531 §4.3).
    fn protocol(&self) -> &'static str {
        match (self.utf8, self.encrypted) {
            (false, false) => "ESMTPA",
            (false, true) => "ESMTPSA",
            (true, false) => "UTF8SMTPA",
            (true, true) => "UTF8SMTPSA",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::KeyId;
    use uuid::Uuid;

    fn mark() -> TraceMark {
        TraceMark::of(Uuid::from_u128(1), KeyId(Uuid::from_u128(2)))
    }

    fn senders(text: &str) -> Result<Vec<String>, HeaderFault> {
        let header = read(text.as_bytes(), &mark())?;
        Ok(header.senders.iter().map(|(field, address)| format!("{field} {address}")).collect())
    }

    #[test]
    fn every_field_that_names_a_sender_is_read() {
        let text = "Subject: x\r\nFROM : \"Doe, A\"\r\n <a@b.c>\r\nsender: s@b.c\r\nResent-From: r@b.c,\r\n\tq@b.c\r\n\
                    Resent-Sender: t@b.c\r\nReply-To: x@evil.com\r\n\r\nFrom: body@evil.com\r\n";
        assert_eq!(
            senders(text),
            Ok(["From a@b.c", "Sender s@b.c", "Resent-From r@b.c", "Resent-From q@b.c", "Resent-Sender t@b.c"]
                .map(str::to_owned)
                .to_vec())
        );
    }

    #[test]
    fn a_header_section_that_hides_something_is_refused() {
        let cases: [(&str, HeaderFault); 9] = [
            ("From a@b.c\r\n\r\n", HeaderFault::Malformed),
            ("no header at all\r\n", HeaderFault::Malformed),
            (" folded: first\r\n\r\n", HeaderFault::Malformed),
            (": empty\r\n\r\n", HeaderFault::Malformed),
            ("Two words: x\r\n\r\n", HeaderFault::Malformed),
            ("Fröm: a@b.c\r\n\r\n", HeaderFault::Malformed),
            ("From:\r\n\r\n", HeaderFault::Sender(FieldName::From)),
            ("From: <a@b.c> <x@evil.com>\r\n\r\n", HeaderFault::Sender(FieldName::From)),
            ("Sender: undisclosed:;\r\n\r\n", HeaderFault::Sender(FieldName::Sender)),
        ];
        for (text, fault) in cases {
            assert_eq!(senders(text), Err(fault), "{text:?}");
        }
        assert_eq!(read(b"From: <\xff@b.c>\r\n\r\n", &mark()), Err(HeaderFault::Sender(FieldName::From)));
        let large = format!("From: a@b.c\r\nX: {}\r\n\r\n", "x".repeat(HEADER_MAX));
        assert_eq!(senders(&large), Err(HeaderFault::TooLarge));
    }

    #[test]
    fn only_the_first_line_of_a_mailbox_is_dropped() {
        for (body, dropped) in [
            ("From a@b.c Mon Nov 30 10:00:00 2026\r\nFrom: a@b.c\r\n", 37),
            ("From a@b.c\r\n", 12),
            ("From : a@b.c\r\n", 0),
            ("From\t: a@b.c\r\n", 0),
            ("From \t : a@b.c\r\n", 0),
            ("from a@b.c\r\n", 0),
            ("From: a@b.c\r\nFrom x\r\n", 0),
            ("", 0),
        ] {
            assert_eq!(mailbox_line(body.as_bytes()), dropped, "{body:?}");
        }
    }

    #[test]
    fn fields_are_counted_and_an_empty_body_has_none() {
        let header = read(
            b"Received: x\r\nreceived: y\r\nFrom: a@b.c\r\nfrom: a@b.c\r\nDATE: x\r\nMessage-Id: <x>\r\n\r\n",
            &mark(),
        );
        let header = header.expect("a header");
        assert_eq!((header.received, header.from_fields, header.has_date, header.has_message_id), (2, 2, true, true));
        assert_eq!(read(b"", &mark()), Ok(Header::default()));
        assert_eq!(read(b"\r\nFrom: a@b.c\r\n", &mark()), Ok(Header::default()));
        assert_eq!(read(b"From: a@b.c", &mark()).expect("a header").from_fields, 1);
    }

    #[test]
    fn what_is_added_is_never_more_than_is_kept_free_for_it() {
        let (mark, hostname) = (mark(), "h".repeat(255));
        let added = Added {
            id: MessageId(Uuid::max()),
            mark: &mark,
            hostname: &hostname,
            received_at: "2026-11-22T03:04:05Z".parse().expect("a time"),
            encrypted: true,
            utf8: true,
        };
        assert!((600..=ADDED_MAX).contains(&added.fields(&Header::default()).len()));
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let added = Added {
            id: MessageId(Uuid::nil()),
            mark: &mark(),
            hostname: "relay.example",
            received_at: "2026-11-22T03:04:05Z".parse().expect("a time"),
            encrypted: true,
            utf8: false,
        };
        assert_eq!(
            added.fields(&Header::default()),
            "Received: by relay.example (Franking) with ESMTPSA id 00000000-0000-0000-0000-000000000000 (MARK);\r\n\
             \tSun, 22 Nov 2026 03:04:05 +0000\r\n\
             Date: Sun, 22 Nov 2026 03:04:05 +0000\r\n\
             Message-ID: <00000000-0000-0000-0000-000000000000@relay.example>\r\n"
                .replace("MARK", mark().as_str())
        );
        let complete = Header { has_date: true, has_message_id: true, ..Header::default() };
        let fields = added.fields(&complete);
        assert_eq!(fields.matches("\r\n").count(), 2);
        let read = |mark| read(fields.as_bytes(), &mark).expect("a header");
        assert_eq!((read(mark()).received, read(mark()).own), (1, 1));
        let colleague = TraceMark::of(Uuid::from_u128(1), KeyId(Uuid::from_u128(3)));
        assert_eq!(read(colleague).own, 0, "a list server passes on what others sent through here");
    }
}
