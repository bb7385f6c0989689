//! What must hold in the relay's protocol whatever bytes come in. Each check panics where it does not.
//!
//! The fuzzer looks for bytes that break one (`tests/fuzz/targets`); the tests run them over the seeds, and over what
//! proptest makes of their rules.

pub mod body;
pub mod command;
pub mod dialogue;
pub mod header;
pub mod proxy;
pub mod sasl;

use bytes::BytesMut;
use franking::relay::smtp::reply::Reply;

/// RFC 5321 §4.5.3.1.5.
const REPLY_LINE_MAX: usize = 512;

/// The reply as it goes out, which is one reply and no more: every line has its code, only the last ends it.
pub fn written(reply: &Reply) -> Vec<u8> {
    let mut out = BytesMut::new();
    reply.write(&mut out);
    let text = out.strip_suffix(b"\r\n").unwrap_or_else(|| panic!("{reply:?} does not end its line"));
    let code = reply.code().to_string();
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    for (index, line) in lines.iter().enumerate() {
        let line = if index + 1 < lines.len() { line.strip_suffix(b"\r").expect("a CR before LF") } else { line };
        let sign = if index + 1 < lines.len() { b'-' } else { b' ' };
        assert!(line.starts_with(code.as_bytes()) && line.get(3) == Some(&sign), "{}", out.escape_ascii());
        assert!(line.len() + 2 <= REPLY_LINE_MAX, "{}", out.escape_ascii());
        assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)), "{}", out.escape_ascii());
    }
    out.to_vec()
}
