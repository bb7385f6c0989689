//! Signatures of webhooks: Standard Webhooks, symmetric (`v1`).
//!
//! The receiver computes HMAC-SHA-256 over `id.timestamp.body` with the shared secret. The id stays the same when a
//! delivery is repeated, so that the receiver can recognise duplicates; the timestamp is the delivery's, so that it can
//! refuse replays.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use ring::hmac;

use super::network;

/// Names of the headers.
pub const ID: &str = "webhook-id";
pub const TIMESTAMP: &str = "webhook-timestamp";
pub const SIGNATURE: &str = "webhook-signature";

/// The prefix of a secret that is written in base64, as the libraries for receivers expect it.
const PREFIX: &str = "whsec_";
/// Minimum and maximum octets of a secret that Standard Webhooks allows.
const SECRET_MIN: usize = 24;
const SECRET_MAX: usize = 64;

/// Maximum octets of a URL: more than any receiver's, less than servers refuse as a request line.
const URL_MAX: usize = 2048;
const HTTPS_PORT: u16 = 443;

/// The destination of a webhook: an https host with its port, and the path there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookUrl {
    /// A name in lower case or an address, IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query, from the first slash.
    pub target: String,
}

impl HookUrl {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || "write an address such as https://hooks.example.com/franking, without user or fragment".to_owned();
        let rest = text.strip_prefix("https://").ok_or_else(wrong)?;
        let printable = rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte));
        if text.len() > URL_MAX || !printable {
            return Err(wrong());
        }
        let (authority, target) = match rest.find(['/', '?']) {
            Some(at) if rest[at..].starts_with('/') => (&rest[..at], rest[at..].to_owned()),
            Some(at) => (&rest[..at], format!("/{}", &rest[at..])),
            None => (rest, "/".to_owned()),
        };
        let (host, port) = match authority.strip_prefix('[').map(|inner| inner.split_once(']')) {
            Some(Some((address, port))) if address.parse::<std::net::Ipv6Addr>().is_ok() => (address, port),
            Some(_) => return Err(wrong()),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
            None if port.is_empty() => HTTPS_PORT,
            None => return Err(wrong()),
        };
        let host_ok = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        if host.is_empty() || host.len() > 253 || !host.bytes().all(host_ok) {
            return Err(wrong());
        }
        if host.parse().is_ok_and(network::is_link_local_or_metadata) {
            return Err("name another host: webhooks do not go to link-local or cloud metadata addresses".to_owned());
        }
        Ok(Self { host: host.to_ascii_lowercase(), port, target })
    }

    /// Returns the value of the Host header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == HTTPS_PORT { host } else { format!("{host}:{}", self.port) }
    }
}

/// The secret that sender and receiver share. It never prints itself.
#[derive(Clone)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    /// Parses `whsec_` and base64, or any text of 24 to 64 octets.
    pub fn parse(text: &str) -> Result<Self, String> {
        let octets = match text.strip_prefix(PREFIX) {
            Some(coded) => BASE64.decode(coded).map_err(|_| format!("is not base64 after {PREFIX}"))?,
            None => text.as_bytes().to_vec(),
        };
        if !(SECRET_MIN..=SECRET_MAX).contains(&octets.len()) {
            return Err(format!("has {} octets; use {SECRET_MIN} to {SECRET_MAX}", octets.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &octets)))
    }

    /// Returns the value of the signature header.
    pub fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        for part in [id.as_bytes(), b".", at.as_second().to_string().as_bytes(), b".", body] {
            context.update(part);
        }
        format!("v1,{}", BASE64.encode(context.sign()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_standards_libraries_is_signed_alike() {
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let at = Timestamp::from_second(1_614_265_330).expect("a time");
        let signed = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_url_is_https_with_a_host_and_nothing_hidden_in_it() {
        let cases = [
            ("https://Hooks.example.com", ("hooks.example.com", 443, "/"), "hooks.example.com"),
            ("https://hooks.example.com/a/b?c=d", ("hooks.example.com", 443, "/a/b?c=d"), "hooks.example.com"),
            ("https://10.0.0.7:8443?x", ("10.0.0.7", 8443, "/?x"), "10.0.0.7:8443"),
            ("https://[2001:db8::1]:8443/", ("2001:db8::1", 8443, "/"), "[2001:db8::1]:8443"),
        ];
        for (text, (host, port, target), authority) in cases {
            let url = HookUrl::parse(text).expect(text);
            assert_eq!((url.host.as_str(), url.port, url.target.as_str()), (host, port, target));
            assert_eq!(url.authority(), authority);
        }
        let long = format!("https://example.com/{}", "a".repeat(URL_MAX));
        for bad in [
            "http://example.com/",
            "https://",
            "https:///path",
            "https://user@example.com/",
            "https://user:password@example.com/",
            "https://example.com:0/",
            "https://example.com:https/",
            "https://example.com:99999/",
            "https://example.com/#fragment",
            "https://example.com/a b",
            "https://example.com/\r\nX-Y: z",
            "https://[::1/",
            "https://[nonsense]/",
            "https://exämple.com/",
            "https://169.254.169.254/latest/meta-data/",
            "https://[fe80::1]:8443/",
            "https://[::ffff:169.254.169.254]/",
            &long,
        ] {
            assert!(HookUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_have_their_length() {
        for good in ["a".repeat(24), "a".repeat(64)] {
            assert!(SigningKey::parse(&good).is_ok());
        }
        for bad in ["", "short", "whsec_c2hvcnQ=", "whsec_***", &"a".repeat(65)] {
            assert!(SigningKey::parse(bad).is_err(), "{bad}");
        }
        let key = SigningKey::parse(&"a".repeat(32)).expect("a secret");
        assert!(!format!("{key:?}").contains("aaa"));
    }
}
