//! The body of a message: from DATA to the final dot.
//!
//! Only CRLF.CRLF ends it. Every other spelling (LF.LF, LF.CRLF, CR.CR, CRLF.LF) is content, so no client can hide a
//! second message in a first one ("SMTP smuggling", CVE-2023-51764 and its kin). The result has CRLF line ends only,
//! because the upstream's client stuffs dots after CRLF and nowhere else.
//!
//! A refused body is read to its end all the same: only there can the client be told. Bytes are moved in runs between
//! line ends, never one by one.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memchr3;

use super::reply::BodyFault;
use crate::runtime::relay_config::LineEnds;

/// Maximum length of a line. Devices send lines far over RFC 5321's 1,000 octets; more than this is no text.
pub const LINE_MAX: usize = 64 * 1024;

/// Room in front of a body for the fields that the relay adds, so that the body is never copied for them: Received
/// and Message-ID name the host (at most 255 octets) and the message's id, Date is 40 octets.
pub const HEADROOM: usize = 1024;

/// Initial room for a body. A client's announcement is not trusted: the room grows as octets come.
const INITIAL: usize = 16 * 1024;

/// The progress after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All bytes were taken; the body goes on.
    More,
    /// The final dot was read after this many of the bytes; what follows them is the next command.
    End(usize),
}

/// The reason why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    TooBig,
    /// No memory is left for it.
    NoMemory,
    Fault(BodyFault),
}

/// The position of the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// After CRLF (or at the start): a dot here is the protocol's.
    LineStart,
    /// A dot at the start of a line was read and held back.
    Dot,
    /// That dot and a CR.
    DotCr,
    /// Inside a line.
    Text,
    /// Inside a line, after one or more CRs that were held back.
    Cr,
}

/// Reads one body.
pub struct BodyReader {
    at: At,
    line_ends: LineEnds,
    limit: usize,
    /// Octets of the current line.
    line: usize,
    /// CRs that were held back beyond the first.
    extra_crs: usize,
    /// Octets as RFC 1870 counts them: with line ends, without stuffed dots. Also counted while refused.
    size: usize,
    refusal: Option<Refusal>,
    /// Size that the client announced; 0 = none.
    expected: usize,
    /// [`HEADROOM`], then the body.
    body: BytesMut,
}

/// A complete body: CRLF line ends only, ending in one (or empty), dots unstuffed.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    /// [`HEADROOM`] or more, then the content.
    octets: BytesMut,
    /// Start of the content.
    start: usize,
}

impl Body {
    pub fn content(&self) -> &[u8] {
        &self.octets[self.start..]
    }

    /// Leaves out the first `octets` of the content.
    pub fn skip(&mut self, octets: usize) {
        self.start = self.octets.len().min(self.start + octets);
    }

    /// Returns the message with `fields` in front of it.
    pub fn with(mut self, fields: &str) -> Bytes {
        if let Some(start) = self.start.checked_sub(fields.len()) {
            self.octets[start..self.start].copy_from_slice(fields.as_bytes());
            self.octets.advance(start);
            return self.octets.freeze();
        }
        // Longer than a valid host name allows, but right all the same.
        let mut message = BytesMut::with_capacity(fields.len() + self.content().len());
        message.extend_from_slice(fields.as_bytes());
        message.extend_from_slice(self.content());
        message.freeze()
    }
}

impl BodyReader {
    /// Creates a reader. `expected` is the size that the client announced; 0 = none.
    pub fn new(limit: usize, expected: usize, line_ends: LineEnds) -> Self {
        let room = if expected == 0 { INITIAL } else { expected.min(INITIAL) };
        let mut body = BytesMut::with_capacity(HEADROOM + room);
        body.resize(HEADROOM, 0);
        Self { at: At::LineStart, line_ends, limit, line: 0, extra_crs: 0, size: 0, refusal: None, expected, body }
    }

    /// Returns the number of octets held in memory.
    pub fn held(&self) -> usize {
        self.body.len()
    }

    /// Returns the number of octets read so far, kept or not.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// Refuses the body because there is no memory for it.
    pub fn discard(&mut self) {
        self.refuse(Refusal::NoMemory);
    }

    /// Returns the whole body, or the reason for its refusal.
    pub fn finish(self) -> Result<Body, Refusal> {
        match self.refusal {
            None => Ok(Body { octets: self.body, start: HEADROOM }),
            Some(refusal) => Err(refusal),
        }
    }

    /// Takes bytes until the final dot.
    pub fn feed(&mut self, bytes: &[u8]) -> Progress {
        let mut next = 0;
        while next < bytes.len() {
            next += match self.at {
                At::LineStart if bytes[next] == b'.' => {
                    self.at = At::Dot;
                    1
                }
                At::LineStart | At::Text => self.text(&bytes[next..]),
                At::Dot if bytes[next] == b'\r' => {
                    self.at = At::DotCr;
                    1
                }
                // The dot was stuffed: it is dropped, whatever follows it.
                At::Dot => {
                    self.at = At::Text;
                    0
                }
                At::DotCr if bytes[next] == b'\n' => return Progress::End(next + 1),
                // A dot, then a CR that ends no line as the protocol sees it.
                At::DotCr => {
                    self.at = At::Cr;
                    0
                }
                At::Cr if bytes[next] == b'\n' => {
                    self.end_line_after_crs();
                    1
                }
                At::Cr if bytes[next] == b'\r' => {
                    self.hold_cr();
                    1
                }
                At::Cr => {
                    self.end_lines_at_crs();
                    0
                }
            };
        }
        Progress::More
    }

    /// Takes a run of whole lines and text that needs no change, and the byte that ended it. Returns the number of
    /// bytes taken.
    fn text(&mut self, bytes: &[u8]) -> usize {
        // Where the current line started, so that lines need no counter of their own inside a run.
        let mut line_start = 0;
        let mut next = 0;
        self.at = At::Text;
        loop {
            let Some(found) = memchr3(b'\r', b'\n', 0, &bytes[next..]) else {
                self.count_line(bytes.len() - line_start);
                self.keep(bytes);
                return bytes.len();
            };
            let end = next + found;
            match (bytes[end], bytes.get(end + 1), bytes.get(end + 2)) {
                // A proper line end, and the next line starts with no dot: the run goes on.
                (b'\r', Some(b'\n'), Some(first)) if *first != b'.' => {
                    self.count_line(end - line_start);
                    self.line = 0;
                    next = end + 2;
                    line_start = next;
                }
                (stop, _, _) => {
                    self.count_line(end - line_start);
                    self.keep(&bytes[..end]);
                    self.stop(stop);
                    return end + 1;
                }
            }
        }
    }

    /// Handles the byte that interrupted a run.
    fn stop(&mut self, byte: u8) {
        match byte {
            b'\r' => self.at = At::Cr,
            b'\n' => self.end_line(false),
            _ => {
                self.refuse(Refusal::Fault(BodyFault::Nul));
                // It is counted all the same: a flood of them is cut off like any other.
                self.keep(&[byte]);
            }
        }
    }

    /// Holds one more CR back: the next octet decides whether it ends a line.
    fn hold_cr(&mut self) {
        self.extra_crs += 1;
        // It is counted, kept or not: a flood of them is cut off like any other.
        self.size = self.size.saturating_add(1);
    }

    /// Ends a line by CRLF. Some programs write CRLF for the LF of a CRLF, which makes CR CR LF: the extra CR is no
    /// line end of its own, because an empty line would end the header section there.
    fn end_line_after_crs(&mut self) {
        let extra = std::mem::take(&mut self.extra_crs);
        self.size -= extra;
        if extra > 0 {
            self.tolerate_bare_line_end();
        }
        self.end_line(true);
    }

    /// Ends a line at each of the CRs that were held back.
    fn end_lines_at_crs(&mut self) {
        let extra = std::mem::take(&mut self.extra_crs);
        self.size -= extra;
        for _ in 0..=extra {
            self.end_line(false);
        }
    }

    /// Takes a CR or LF that is not part of CRLF, or refuses the body for it.
    fn tolerate_bare_line_end(&mut self) {
        match self.line_ends {
            LineEnds::Normalize => {}
            LineEnds::Reject => self.refuse(Refusal::Fault(BodyFault::BareLineEnd)),
        }
    }

    /// Ends a line: by CRLF, or by a CR or LF alone, after which a dot is not the protocol's.
    fn end_line(&mut self, proper: bool) {
        if !proper {
            self.tolerate_bare_line_end();
        }
        self.keep(b"\r\n");
        self.line = 0;
        self.at = if proper { At::LineStart } else { At::Text };
    }

    fn count_line(&mut self, octets: usize) {
        self.line += octets;
        if self.line > LINE_MAX {
            self.refuse(Refusal::Fault(BodyFault::LineTooLong));
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.size = self.size.saturating_add(bytes.len());
        if self.size > self.limit {
            self.refuse(Refusal::TooBig);
        }
        if self.refusal.is_none() {
            self.make_room(bytes.len());
            self.body.extend_from_slice(bytes);
        }
    }

    /// Doubles the room when it is used up, as a vector does, but goes no further than the announced end.
    fn make_room(&mut self, more: usize) {
        let room = self.body.capacity();
        let needed = self.body.len() + more;
        if needed > room {
            let announced = HEADROOM + self.expected;
            let wanted = if needed <= announced { announced.min(2 * room) } else { 2 * room };
            self.body.reserve(wanted.max(needed) - self.body.len());
        }
    }

    /// Refuses the body and releases its memory. The first reason stays.
    fn refuse(&mut self, refusal: Refusal) {
        if self.refusal.is_none() {
            self.refusal = Some(refusal);
            self.body = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 10_000_000;

    /// Reads `wire` in pieces of `step` bytes; returns the body (or the refusal) and the number of bytes that were the
    /// message's.
    fn read(wire: &[u8], step: usize, line_ends: LineEnds) -> (Option<Result<Vec<u8>, Refusal>>, usize) {
        let mut reader = BodyReader::new(LIMIT, 0, line_ends);
        let mut used = 0;
        for piece in wire.chunks(step) {
            match reader.feed(piece) {
                Progress::More => used += piece.len(),
                Progress::End(end) => return (Some(reader.finish().map(|body| body.content().to_vec())), used + end),
            }
        }
        (None, used)
    }

    fn body(wire: &[u8]) -> Vec<u8> {
        let (body, used) = read(wire, wire.len(), LineEnds::Normalize);
        assert_eq!(used, wire.len(), "the end was seen early in {}", wire.escape_ascii());
        body.expect("an end").expect("a body")
    }

    #[test]
    fn dots_and_line_ends_come_out_as_they_were_meant() {
        let cases: [(&[u8], &[u8]); 16] = [
            (b".\r\n", b""),
            (b"a\r\n.\r\n", b"a\r\n"),
            (b"\r\n.\r\n", b"\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b"..a\r\nb.\r\n...c\r\n.\r\n", b".a\r\nb.\r\n..c\r\n"),
            (b".a\r\n.\r\n", b"a\r\n"),
            (b"a\nb\rc\r\n.\r\n", b"a\r\nb\r\nc\r\n"),
            // CR CR LF is one line end; CRs alone are one each.
            (b"a\r\r\n.\r\n", b"a\r\n"),
            (b"X: a\r\r\r\nY: b\r\r\n.\r\n", b"X: a\r\nY: b\r\n"),
            (b"a\r\n\r\r\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
            (b"a\r\rb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
            (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
            // A dot is the protocol's only after CRLF.
            (b"a\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (b"a\n..b\r\n.\r\n", b"a\r\n..b\r\n"),
            (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
            (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        ];
        for (wire, expected) in cases {
            assert_eq!(body(wire).escape_ascii().to_string(), expected.escape_ascii().to_string());
        }
    }

    #[test]
    fn nothing_but_crlf_dot_crlf_ends_a_message() {
        for trick in
            ["\n.\n", "\n.\r\n", "\r.\r", "\r.\r\n", "\r\n.\n", "\r\n.\r", "\r\n.\r\r\n", "\r\n.\0\r\n", "\r\n\0.\r\n"]
        {
            let wire = format!("a{trick}MAIL FROM:<x@y.z>\r\n.\r\nQUIT\r\n");
            let (body, used) = read(wire.as_bytes(), wire.len(), LineEnds::Normalize);
            assert!(body.is_some(), "{trick:?}");
            assert_eq!(&wire[used..], "QUIT\r\n", "{trick:?}");
        }
    }

    #[test]
    fn bare_line_ends_and_nul_are_refused_after_the_final_dot() {
        type Case = (&'static [u8], LineEnds, Refusal);
        let cases: [Case; 6] = [
            (b"a\nb\r\n.\r\n", LineEnds::Reject, Refusal::Fault(BodyFault::BareLineEnd)),
            (b"X: a\r\r\n\r\nb\r\n.\r\n", LineEnds::Reject, Refusal::Fault(BodyFault::BareLineEnd)),
            (b"a\rb\r\n.\r\n", LineEnds::Reject, Refusal::Fault(BodyFault::BareLineEnd)),
            (b"a\r\n.\nb\r\n.\r\n", LineEnds::Reject, Refusal::Fault(BodyFault::BareLineEnd)),
            (b"a\0b\r\n.\r\n", LineEnds::Normalize, Refusal::Fault(BodyFault::Nul)),
            (b"a\0b\nc\r\n.\r\n", LineEnds::Reject, Refusal::Fault(BodyFault::Nul)),
        ];
        for (wire, line_ends, refusal) in cases {
            let (result, used) = read(wire, wire.len(), line_ends);
            assert_eq!((result, used), (Some(Err(refusal)), wire.len()), "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn a_long_line_and_a_large_body_are_refused_and_not_kept() {
        let mut reader = BodyReader::new(LIMIT, 0, LineEnds::Normalize);
        reader.feed(&[b'x'; LINE_MAX]);
        assert!(!reader.refused());
        reader.feed(b"x");
        assert_eq!((reader.refused(), reader.held()), (true, 0));
        assert_eq!(reader.finish(), Err(Refusal::Fault(BodyFault::LineTooLong)));

        let mut reader = BodyReader::new(10, 0, LineEnds::Normalize);
        reader.feed(b"12345678\r\n");
        assert!(!reader.refused());
        assert_eq!(reader.feed(b"9\r\n.\r\n"), Progress::End(6));
        assert_eq!(reader.finish(), Err(Refusal::TooBig));
    }

    #[test]
    fn every_octet_that_comes_is_counted_whatever_it_is() {
        let mut reader = BodyReader::new(10, 0, LineEnds::Normalize);
        reader.feed(&[0; 100]);
        assert_eq!((reader.refused(), reader.size()), (true, 100));
        let mut reader = BodyReader::new(10, 0, LineEnds::Normalize);
        reader.feed(&[b'\r'; 100]);
        assert!(reader.size() >= 99);
    }

    #[test]
    fn fields_go_in_front_without_moving_the_body() {
        let read = || {
            let mut reader = BodyReader::new(LIMIT, 0, LineEnds::Normalize);
            assert_eq!(reader.feed(b"a\r\n.\r\n"), Progress::End(6));
            reader.finish().expect("a body")
        };
        assert_eq!(&read().with("X: y\r\n")[..], b"X: y\r\na\r\n");
        let mut shorter = read();
        shorter.skip(1);
        assert_eq!(shorter.with("X: y")[..], b"X: y\r\n"[..]);
        let mut nothing = read();
        nothing.skip(9);
        assert_eq!(nothing.content(), b"");
        let long = "x".repeat(HEADROOM + 1);
        assert_eq!(read().with(&long), format!("{long}a\r\n"));
    }

    /// Implements the rules again, byte by byte, slow but easy to verify.
    fn model(wire: &[u8]) -> (Vec<u8>, usize) {
        let (mut out, mut next, mut start) = (Vec::new(), 0, true);
        loop {
            let rest = &wire[next..];
            if start && rest.starts_with(b".\r\n") {
                return (out, next + 3);
            }
            if start && rest.starts_with(b".") {
                next += 1;
            }
            start = false;
            let rest = &wire[next..];
            let crs = rest.iter().take_while(|byte| **byte == b'\r').count();
            if crs > 0 && rest.get(crs) == Some(&b'\n') {
                out.extend(b"\r\n");
                next += crs + 1;
                start = true;
            } else if rest[0] == b'\r' || rest[0] == b'\n' {
                out.extend(b"\r\n");
                next += 1;
            } else {
                out.push(rest[0]);
                next += 1;
            }
        }
    }

    proptest! {
        #[test]
        fn any_pieces_give_what_the_plain_rules_give(
            content in prop::collection::vec(prop::sample::select(b"\r\n..ab".to_vec()), 0..60),
            step in 1_usize..9,
        ) {
            let mut wire = content;
            wire.extend(b"\r\n.\r\nRSET\r\n");
            let (body, used) = read(&wire, step, LineEnds::Normalize);
            let (expected, end) = model(&wire);
            prop_assert_eq!(body, Some(Ok(expected)));
            prop_assert_eq!(used, end);
        }
    }
}
