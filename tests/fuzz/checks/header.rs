//! Header sections: nobody is named as a sender whom the relay does not see.

use franking::domain::fingerprint::TraceMark;
use franking::domain::id::{KeyId, MessageId};
use franking::domain::sender::Unlisted;
use franking::relay::smtp::field_name::FieldName;
use franking::relay::smtp::header::{Added, Header, read};
use franking::relay::smtp::reply::{DeniedSender, Reply, SenderPlace};
use jiff::Timestamp;
use uuid::Uuid;

use super::written;

/// The octets are a body, whose line ends are made what the body's reader leaves.
pub fn check(bytes: &[u8]) {
    let body = with_proper_line_ends(bytes);
    let header = match read(&body, &mark()) {
        Ok(header) => header,
        Err(fault) => {
            written(&Reply::Header(fault));
            return;
        }
    };
    for (field, address) in &header.senders {
        let (place, list, holder) = (SenderPlace::Header(*field), Unlisted::Policy, "team/account".to_owned());
        written(&Reply::SenderDenied(DeniedSender { place, address: address.clone(), list, holder }));
        let text = address.to_string();
        assert!(!text.contains(|c: char| c.is_whitespace() || c.is_control() || "<>\"(),;:".contains(c)), "{text:?}");
    }
    for (field, name) in [
        (FieldName::From, "from"),
        (FieldName::Sender, "sender"),
        (FieldName::ResentFrom, "resent-from"),
        (FieldName::ResentSender, "resent-sender"),
    ] {
        let values = values(&body, name);
        if field == FieldName::From {
            assert_eq!(header.from_fields, values.len(), "{}", body.escape_ascii());
        }
        let seen = header.senders.iter().filter(|(found, _)| *found == field).count();
        let signs: usize = values.iter().map(|value| at_signs(value)).sum();
        assert!(seen >= signs, "{name}: an address is hidden in {}", body.escape_ascii());
    }
    with_fields_it_is_complete(&header, &body);
}

fn mark() -> TraceMark {
    TraceMark::of(Uuid::nil(), KeyId(Uuid::nil()))
}

fn with_fields_it_is_complete(header: &Header, body: &[u8]) {
    let mark = mark();
    let added = Added {
        mark: &mark,
        id: MessageId(Uuid::nil()),
        hostname: "relay.example",
        received_at: Timestamp::UNIX_EPOCH,
        encrypted: body.len().is_multiple_of(2),
        utf8: body.len().is_multiple_of(3),
    };
    let complete = [added.fields(header).as_bytes(), body].concat();
    let again = read(&complete, &mark).expect("the fields in front are fields");
    let (received, own) = (header.received + 1, header.own + 1);
    let expected = Header { received, own, has_date: true, has_message_id: true, ..header.clone() };
    assert_eq!(again, expected, "{}", body.escape_ascii());
    let nothing = Header { received: 0, ..again };
    assert_eq!(added.fields(&nothing).matches("\r\n").count(), 2, "Date or Message-ID would be there twice");
}

/// CRLF for every spelling of a line's end.
fn with_proper_line_ends(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut octets = bytes.iter().peekable();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' => {
                octets.next_if(|next| **next == b'\n');
                out.extend(b"\r\n");
            }
            b'\n' => out.extend(b"\r\n"),
            octet => out.push(*octet),
        }
    }
    out
}

/// The values of the fields of a name, found line by line as a simple program would.
fn values(body: &[u8], name: &str) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    let mut open = false;
    for line in String::from_utf8_lossy(body).split("\r\n") {
        if line.is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) {
            if let (true, Some(value)) = (open, values.last_mut()) {
                value.push_str(line);
            }
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        open = field.trim_ascii_end().eq_ignore_ascii_case(name);
        if open {
            values.push(value.to_owned());
        }
    }
    values
}

/// The `@` that stand outside of quotes, and not alone between spaces: in comments too, which some programs do not know.
fn at_signs(value: &str) -> usize {
    let (mut signs, mut comments, mut quoted, mut escaped) = (0, 0_usize, false, false);
    for (at, c) in value.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted || comments > 0 => escaped = true,
            '"' if comments == 0 => quoted = !quoted,
            '(' if !quoted => comments += 1,
            ')' if !quoted => comments = comments.saturating_sub(1),
            '@' if !quoted => {
                let is_before = value[..at].ends_with(|c: char| !c.is_whitespace());
                let is_after = value[at + 1..].starts_with(|c: char| !c.is_whitespace());
                signs += usize::from(is_before || is_after);
            }
            _ => {}
        }
    }
    signs
}
