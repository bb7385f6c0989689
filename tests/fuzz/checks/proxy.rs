//! PROXY headers: what is taken does not depend on how it came, and nothing behind a header is read.

use std::net::IpAddr;

use franking::relay::smtp::proxy::{Header, parse};

pub fn check(bytes: &[u8]) {
    let whole = parse(bytes);
    let mut decided = None;
    for length in 0..=bytes.len() {
        let part = parse(&bytes[..length]);
        match (&decided, &part) {
            (None, Ok(None)) => {}
            (None, Ok(Some((_, end)))) => {
                assert_eq!(*end, length, "it waited for octets that are not the header's");
                decided = Some(part);
            }
            (None, Err(_)) => decided = Some(part),
            (Some(before), _) => assert_eq!(part, *before, "it changed its mind after {length} octets"),
        }
    }
    assert_eq!(whole, decided.unwrap_or(Ok(None)));
    if let Ok(Some((Header::For(address), _))) = whole {
        let (family, other) = match address {
            IpAddr::V4(_) => ("TCP4", "192.0.2.2"),
            IpAddr::V6(_) => ("TCP6", "2001:db8::1"),
        };
        let line = format!("PROXY {family} {address} {other} 40000 587\r\n");
        assert_eq!(parse(line.as_bytes()), Ok(Some((Header::For(address), line.len()))), "{line}");
    }
}
