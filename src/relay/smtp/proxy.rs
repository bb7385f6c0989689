//! The PROXY protocol, versions 1 and 2: a load balancer's header that names the client, before all other bytes.
//!
//! Follows HAProxy's proxy-protocol.txt (2020/03/05). A peer that may send a header can claim any address, so the
//! caller decides whether to trust the peer before these bytes are read. Extensions (TLVs) are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum length of a line of version 1 with its CRLF: two IPv6 addresses and two ports.
pub const LINE_MAX: usize = 107;
/// Maximum length of a header of version 2: its 16 octets, the addresses, and more extensions than any balancer adds (a
/// TLS certificate's subject among them).
pub const HEADER_MAX: usize = 4096;

/// Beginning of every header of version 2, and of no line of text.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = SIGNATURE.len() + 4;
const WORD: &[u8] = b"PROXY ";

/// The content of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The connection is this client's.
    For(IpAddr),
    /// The connection is the balancer's own, such as a health check, or the balancer does not know the client.
    Own,
}

/// The reason why it is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("no PROXY header")]
    Missing,
    #[error("a PROXY header of another version")]
    Version,
    #[error("a PROXY header that is too long")]
    TooLong,
    #[error("a PROXY header that cannot be understood")]
    Malformed,
}

/// Reads a header; returns it with its number of octets. `Ok(None)`: it is not whole yet, and all of `bytes` belong to
/// it.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let signed = bytes.len().min(SIGNATURE.len());
    if bytes[..signed] == SIGNATURE[..signed] {
        return binary(bytes);
    }
    let spelled = bytes.len().min(WORD.len());
    if bytes[..spelled] == WORD[..spelled] {
        return line(bytes);
    }
    Err(Fault::Missing)
}

/// True if a connection's first bytes look like a header, for listeners that accept none.
pub fn is_attempt(bytes: &[u8]) -> bool {
    bytes.starts_with(WORD) || bytes.starts_with(&SIGNATURE[..5])
}

/// Reads version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 40000 587`.
fn line(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let Some(end) = bytes.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE_MAX { Ok(None) } else { Err(Fault::TooLong) };
    };
    let text = bytes[..end].strip_suffix(b"\r").ok_or(Fault::Malformed)?;
    let text = std::str::from_utf8(text).map_err(|_| Fault::Malformed)?;
    let mut words = text.split(' ').skip(1);
    let header = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => Header::Own,
        Some("TCP4") => Header::For(IpAddr::V4(endpoints::<Ipv4Addr>(words)?)),
        Some("TCP6") => Header::For(IpAddr::V6(endpoints::<Ipv6Addr>(words)?)),
        Some(_) | None => return Err(Fault::Malformed),
    };
    Ok(Some((header, end + 1)))
}

/// Reads source, destination and their ports, and nothing more. Returns the source.
fn endpoints<'a, A: std::str::FromStr>(mut words: impl Iterator<Item = &'a str>) -> Result<A, Fault> {
    let mut address = || words.next().and_then(|word| word.parse::<A>().ok()).ok_or(Fault::Malformed);
    let (source, _) = (address()?, address()?);
    for _ in 0..2 {
        let port = words.next().ok_or(Fault::Malformed)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || port.parse::<u16>().is_err() {
            return Err(Fault::Malformed);
        }
    }
    if words.next().is_some() { Err(Fault::Malformed) } else { Ok(source) }
}

/// Reads version 2.
fn binary(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
    let [.., version_and_command, family, high, low] = *fixed;
    if version_and_command >> 4 != 2 {
        return Err(Fault::Version);
    }
    let whole = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if whole > HEADER_MAX {
        return Err(Fault::TooLong);
    }
    let Some(rest) = bytes.get(FIXED..whole) else { return Ok(None) };
    let header = match (version_and_command & 0x0f, family) {
        (0, _) => Header::Own,
        (1, 0x11) => {
            // Source and destination, then their ports.
            let addresses = rest.first_chunk::<12>().ok_or(Fault::Malformed)?;
            let [a, b, c, d, ..] = *addresses;
            Header::For(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        (1, 0x21) => {
            let addresses = rest.first_chunk::<36>().ok_or(Fault::Malformed)?;
            let mut source = [0; 16];
            source.copy_from_slice(&addresses[..16]);
            Header::For(IpAddr::V6(Ipv6Addr::from(source)))
        }
        // Unspecified, and Unix sockets: no client's address.
        (1, 0x00 | 0x31) => Header::Own,
        // Datagrams, and undefined values.
        (_, _) => return Err(Fault::Malformed),
    };
    Ok(Some((header, whole)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(text: &str) -> Header {
        Header::For(text.parse().expect("an address"))
    }

    /// A header of version 2.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(rest.len()).expect("short").to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x9c, 0x40, 2, 0x4b];

    #[test]
    fn each_way_of_saying_who_the_client_is_is_understood() {
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().expect("an address").octets());
        let extended = [&V4[..], &[4, 0, 3, 1, 2, 3]].concat();
        let cases: [(Vec<u8>, Header); 9] = [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 587\r\n".to_vec(), client("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 587\r\n".to_vec(), client("2001:db8::7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Own),
            (b"PROXY UNKNOWN ffff:f...f 65535 and so on\r\n".to_vec(), Header::Own),
            (binary(1, 0x11, &V4), client("192.0.2.1")),
            (binary(1, 0x11, &extended), client("192.0.2.1")),
            (binary(1, 0x21, &v6), client("2001:db8::7")),
            (binary(0, 0x11, &V4), Header::Own),
            (binary(1, 0x00, &[]), Header::Own),
        ];
        for (mut bytes, header) in cases {
            let length = bytes.len();
            for short in 0..length {
                assert_eq!(parse(&bytes[..short]), Ok(None), "{} of {length} octets", short);
            }
            bytes.extend(b"EHLO x\r\n");
            assert_eq!(parse(&bytes), Ok(Some((header, length))), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_MAX));
        let cases: [(&[u8], Fault); 15] = [
            (b"EHLO x\r\n", Fault::Missing),
            (b"\x16\x03\x01\x02\x00", Fault::Missing),
            (b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", Fault::Missing),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", Fault::Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", Fault::Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", Fault::Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", Fault::Malformed),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", Fault::Malformed),
            (b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n", Fault::Malformed),
            (b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n", Fault::Malformed),
            (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", Fault::Malformed),
            (long.as_bytes(), Fault::TooLong),
            (&binary(1, 0x12, &V4), Fault::Malformed),
            (&binary(1, 0x11, &V4[..11]), Fault::Malformed),
            (&binary(2, 0x11, &V4), Fault::Malformed),
        ];
        for (bytes, fault) in cases {
            assert_eq!(parse(bytes), Err(fault), "{}", bytes.escape_ascii());
        }
        let mut older = binary(1, 0x11, &V4);
        older[12] = 0x11;
        assert_eq!(parse(&older), Err(Fault::Version));
        let huge = binary(1, 0x11, &[0; HEADER_MAX]);
        assert_eq!(parse(&huge[..FIXED]), Err(Fault::TooLong), "nobody waits for what is not taken");
    }

    proptest! {
        /// The result does not depend on how the bytes came, and it never reads past the header.
        #[test]
        fn any_bytes_are_a_header_in_the_same_way_whole_and_in_pieces(
            start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", SIGNATURE]),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [start, &rest].concat();
            let whole = parse(&bytes);
            if let Ok(Some((_, length))) = whole {
                prop_assert!(length <= bytes.len());
                prop_assert_eq!(parse(&bytes[..length]), whole);
                prop_assert_eq!(parse(&bytes[..length - 1]), Ok(None));
            }
        }
    }
}
