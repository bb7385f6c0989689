//! Bodies: whatever the pieces, what comes out is what the plain rules make of the octets.

use franking::relay::smtp::data::{BodyReader, LINE_MAX, Progress, Refusal};
use franking::relay::smtp::reply::BodyFault;
use franking::runtime::relay_config::LineEnds;

/// A body as far as it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    pub body: Result<Vec<u8>, Refusal>,
    /// Octets of the wire, the final dot's included.
    pub length: usize,
}

/// Two octets choose the length of the pieces, the limit and the listener's way with line ends; then the wire.
pub fn check(bytes: &[u8]) {
    let [piece, choice, wire @ ..] = bytes else { return };
    let line_ends = if choice & 1 == 0 { LineEnds::Normalize } else { LineEnds::Reject };
    // Small enough to be met, or far away.
    let limit = if choice & 2 == 0 { 1 << 20 } else { usize::from(choice >> 2) * 8 };
    let read = read(wire, usize::from(*piece).max(1), limit, line_ends);
    let plain = plain_rules(wire, limit, line_ends);
    // Where a message has two faults, a small limit and the pieces may decide which is met first.
    let same = |read: &Read| Read { body: read.body.clone().map_err(|_| Refusal::TooBig), length: read.length };
    if choice & 2 == 0 {
        assert_eq!(read, plain, "{}", wire.escape_ascii());
    } else {
        assert_eq!(read.as_ref().map(same), plain.as_ref().map(same), "{}", wire.escape_ascii());
    }
    if let Some(Read { body: Ok(body), length }) = &read {
        assert!(body.is_empty() || body.ends_with(b"\r\n"));
        let whole = body.split(|byte| *byte == b'\n').rev().skip(1).all(|line| line.ends_with(b"\r"));
        let ends = body.iter().filter(|byte| **byte == b'\r').count();
        assert!(whole && ends == body.iter().filter(|byte| **byte == b'\n').count(), "a bare line end came through");
        assert!(wire[..*length].ends_with(b".\r\n"));
    }
}

/// What the relay's reader makes of a wire that comes in pieces. `None` = it wants more.
pub fn read(wire: &[u8], piece: usize, limit: usize, line_ends: LineEnds) -> Option<Read> {
    let mut reader = BodyReader::new(limit, 0, line_ends);
    let mut length = 0;
    for piece in wire.chunks(piece) {
        match reader.feed(piece) {
            Progress::More => length += piece.len(),
            Progress::End(end) => {
                let body = reader.finish().map(|body| body.content().to_vec());
                return Some(Read { body, length: length + end });
            }
        }
        assert!(reader.held() <= limit.saturating_add(4096), "more is held than a message may have");
    }
    None
}

/// The rules again, octet by octet, as slowly as they are easy to believe: only CRLF.CRLF ends a message, a dot after
/// CRLF is the protocol's, a CR or LF alone is CRLF or refused, CRs before CRLF are
/// nothing or refused, what is refused first is what is said.
pub fn plain_rules(wire: &[u8], limit: usize, line_ends: LineEnds) -> Option<Read> {
    let (mut out, mut next, mut start, mut line) = (Vec::new(), 0, true, 0);
    let mut refusal = None;
    loop {
        let rest = &wire[next..];
        if start && rest.starts_with(b".\r\n") {
            let body = refusal.map_or(Ok(out), Err);
            return Some(Read { body, length: next + 3 });
        }
        if start && rest.starts_with(b".") {
            next += 1;
        }
        start = false;
        let refuse = |fault: BodyFault, refusal: &mut Option<Refusal>| {
            refusal.get_or_insert(Refusal::Fault(fault));
        };
        let rest = wire.get(next..)?;
        let crs = rest.iter().take_while(|octet| **octet == b'\r').count();
        match &rest[crs.saturating_sub(1)..] {
            [b'\r', b'\n', ..] => {
                if crs > 1 && line_ends == LineEnds::Reject {
                    refuse(BodyFault::BareLineEnd, &mut refusal);
                }
                out.extend(b"\r\n");
                (start, line) = (true, 0);
                next += crs + 1;
            }
            // What follows may make a line end of it.
            [] | [b'\r'] => return None,
            [b'\r' | b'\n', ..] => {
                if line_ends == LineEnds::Reject {
                    refuse(BodyFault::BareLineEnd, &mut refusal);
                }
                out.extend(b"\r\n");
                line = 0;
                next += 1;
            }
            [octet, ..] => {
                if *octet == 0 {
                    refuse(BodyFault::Nul, &mut refusal);
                } else {
                    line += 1;
                    if line > LINE_MAX {
                        refuse(BodyFault::LineTooLong, &mut refusal);
                    }
                }
                out.push(*octet);
                next += 1;
            }
        }
        if out.len() > limit {
            refusal.get_or_insert(Refusal::TooBig);
        }
    }
}
