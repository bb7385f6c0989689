//! How a webhook is signed: Standard Webhooks, symmetric (`v1`).
//!
//! The receiver computes HMAC-SHA-256 over `id.timestamp.body` with the secret that both hold. The id stays the same
//! when a delivery is repeated, so that what came twice can be told from two things; the timestamp is the delivery's,
//! so that what was recorded long ago can be refused.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use ring::hmac;

/// Names of the headers.
pub const ID: &str = "webhook-id";
pub const TIMESTAMP: &str = "webhook-timestamp";
pub const SIGNATURE: &str = "webhook-signature";

/// The prefix of a secret that is written in base64, as the libraries for receivers expect it.
const PREFIX: &str = "whsec_";
/// Octets of a secret: the least and the most that Standard Webhooks allows.
const SECRET_MIN: usize = 24;
const SECRET_MAX: usize = 64;

/// What sender and receiver share. It never prints itself.
#[derive(Clone)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    /// `whsec_` and base64, or any text of 24 to 64 octets.
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

    /// The value of the signature header.
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
