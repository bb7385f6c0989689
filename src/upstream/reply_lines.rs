//! Turns an upstream's output into reply lines that lettre can parse. Pure.
//!
//! RFC 5321 §4.2 has a client act on the first digit of a reply, and §4.5.3.1.5 limits a line to 512 octets; real
//! servers send codes that no RFC lists, longer lines, bare LF, no text, and texts in code pages. If a reply to the
//! final dot were not understood, the message would stay charged and be sent twice, so all of these are understood.

use std::mem;

/// Maximum number of octets kept of one line (RFC 5321 §4.5.3.1.5); the rest of a longer line is cut off.
const LINE_KEPT_MAX: usize = 512;
/// Maximum length of a line that is read to its end. Longer output without a line end is not a reply.
const LINE_MAX: usize = 64 * 1024;
/// A line that lettre refuses, so that the connection is given up.
const UNREADABLE: &[u8] = b"?\r\n";

type Code = [u8; 3];

/// The line that is being received.
#[derive(Debug, Default)]
pub(super) struct ReplyLines {
    kept: Vec<u8>,
    /// Number of its octets so far, kept or not.
    length: usize,
    /// Code of a reply that continues; its further lines have the same code (RFC 5321 §4.2.1).
    continued: Option<Code>,
}

impl ReplyLines {
    /// Takes octets as they arrived and appends every line that they complete to `lines`, ended by CRLF.
    pub fn take(&mut self, mut fresh: &[u8], lines: &mut Vec<u8>) {
        while let Some(end) = memchr::memchr(b'\n', fresh) {
            self.keep(&fresh[..end]);
            fresh = &fresh[end + 1..];
            let line = mem::take(&mut self.kept);
            self.length = 0;
            self.finish(&line, lines);
        }
        self.keep(fresh);
        if self.length > LINE_MAX {
            *self = Self::default();
            lines.extend_from_slice(UNREADABLE);
        }
    }

    /// True if the last octet taken ended a line.
    pub fn is_at_line_start(&self) -> bool {
        self.length == 0
    }

    fn keep(&mut self, part: &[u8]) {
        self.length += part.len();
        let room = LINE_KEPT_MAX - self.kept.len();
        self.kept.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn finish(&mut self, line: &[u8], lines: &mut Vec<u8>) {
        let line = line.trim_ascii_end();
        let text = match split_code(line) {
            Some((code, separator, text)) => {
                let code = self.continued.filter(|first| first[0] == code[0]).unwrap_or(code);
                self.continued = (separator == b'-').then_some(code);
                lines.extend_from_slice(&code);
                lines.push(separator);
                text
            }
            None => {
                self.continued = None;
                line
            }
        };
        // A text in a code page is no reason to lose the code before it.
        lines.extend(text.iter().map(|byte| if byte.is_ascii() { *byte } else { b'?' }));
        lines.extend_from_slice(b"\r\n");
    }
}

/// Splits a line into the code, the octet after it (`-` if the reply continues, else a space) and the text. `None` if
/// it is not a reply line.
fn split_code(line: &[u8]) -> Option<(Code, u8, &[u8])> {
    let [class @ b'2'..=b'5', subject @ b'0'..=b'9', detail @ b'0'..=b'9', rest @ ..] = line else { return None };
    let (separator, text) = match rest {
        [] => (b' ', rest),
        [b' ' | b'\t', text @ ..] => (b' ', text),
        [b'-', text @ ..] => (b'-', text),
        _ => return None,
    };
    // lettre knows no second digit above 5: such a code is the plain one of its class.
    let code = if *subject <= b'5' { [*class, *subject, *detail] } else { [*class, b'5', b'0'] };
    Some((code, separator, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(octets: &[u8]) -> String {
        let mut lines = Vec::new();
        ReplyLines::default().take(octets, &mut lines);
        String::from_utf8(lines).expect("ASCII")
    }

    #[test]
    fn what_servers_say_becomes_what_lettre_reads() {
        let cases: [(&[u8], &str); 16] = [
            (b"250 2.0.0 Ok\r\n", "250 2.0.0 Ok\r\n"),
            (b"250-a\r\n250 b\r\n", "250-a\r\n250 b\r\n"),
            (b"250\r\n", "250 \r\n"),
            (b"250-a\r\n250\r\n", "250-a\r\n250 \r\n"),
            (b"250 bare\n", "250 bare\r\n"),
            (b"250 two\r\r\n", "250 two\r\n"),
            (b"250\ttab\r\n", "250 tab\r\n"),
            (b"250 \xfcml\xe4ut\r\n", "250 ?ml?ut\r\n"),
            (b"299 x\r\n", "250 x\r\n"),
            (b"571 x\r\n", "550 x\r\n"),
            (b"471-x\r\n471 y\r\n", "450-x\r\n450 y\r\n"),
            (b"250-a\r\n251 b\r\n", "250-a\r\n250 b\r\n"),
            (b"250-a\r\n550 b\r\n", "250-a\r\n550 b\r\n"),
            (b"2\r\nyes\r\n199 x\r\n2500\r\n", "2\r\nyes\r\n199 x\r\n2500\r\n"),
            (b"\r\n", "\r\n"),
            (b"250 half", ""),
        ];
        for (octets, expected) in cases {
            assert_eq!(lines(octets), expected, "{}", octets.escape_ascii());
            // In single octets, too.
            let (mut reply, mut single) = (ReplyLines::default(), Vec::new());
            octets.iter().for_each(|octet| reply.take(&[*octet], &mut single));
            assert_eq!(single, expected.as_bytes(), "{}", octets.escape_ascii());
            assert_eq!(reply.is_at_line_start(), octets.ends_with(b"\n"));
        }
    }

    #[test]
    fn a_long_line_is_cut_and_an_endless_one_is_no_reply() {
        let long = lines(format!("250 {}\r\n250 next\r\n", "x".repeat(LINE_MAX / 2)).as_bytes());
        let (first, rest) = long.split_once("\r\n").expect("two lines");
        assert_eq!((first.len(), rest), (LINE_KEPT_MAX, "250 next\r\n"));
        let (mut endless, mut lines) = (ReplyLines::default(), Vec::new());
        endless.take(b"250 ", &mut lines);
        for _ in 0..=LINE_MAX / 1024 {
            endless.take(&[b'x'; 1024], &mut lines);
        }
        assert_eq!(lines, UNREADABLE);
        assert!(endless.kept.len() <= LINE_KEPT_MAX);
    }
}
