//! Seals what the directory must keep but the database must not be able to read.
//!
//! ChaCha20-Poly1305 with the installation's key. The context (whose secret it is) is authenticated with it, so a
//! sealed secret that is copied to another row does not open there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::domain::directory::Sealed;
use crate::domain::id::PolicyId;
use crate::runtime::relay_config::KeyBytes;

/// Seals and opens with one installation's key.
#[derive(Clone)]
pub struct Sealer(LessSafeKey);

impl Sealer {
    pub fn new(key: &KeyBytes) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key.0).expect("this algorithm's keys are any 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Seals a text. `nonce` must be new for each call with the same key: take it from the rng that was handed in.
    pub fn seal(&self, context: &str, plaintext: &[u8], nonce: [u8; NONCE_LEN]) -> Sealed {
        let mut bytes = nonce.to_vec();
        let mut text = plaintext.to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut text)
            .expect("only a plaintext of 256 GiB is too long to seal");
        bytes.extend_from_slice(&text);
        Sealed(BASE64.encode(bytes))
    }

    /// Opens a sealed text. `None` if it was sealed with another key or for another context, or was changed since.
    pub fn open(&self, context: &str, sealed: &Sealed) -> Option<Vec<u8>> {
        let bytes = BASE64.decode(&sealed.0).ok()?;
        let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let plaintext =
            self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context), &mut text).ok()?;
        Some(plaintext.to_vec())
    }
}

/// Returns the context of an upstream's secret: the policy that it belongs to.
pub fn upstream_context(policy: PolicyId) -> String {
    format!("upstream/{policy}")
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&KeyBytes([byte; 32]))
    }

    #[test]
    fn what_is_sealed_opens_only_with_its_key_in_its_context_unchanged() {
        let sealed = sealer(1).seal("policy/a", b"secret", [9; NONCE_LEN]);
        assert_eq!(sealer(1).open("policy/a", &sealed).as_deref(), Some(&b"secret"[..]));
        assert_eq!(sealer(2).open("policy/a", &sealed), None);
        assert_eq!(sealer(1).open("policy/b", &sealed), None);
        for index in 0..BASE64.decode(&sealed.0).expect("base64").len() {
            let mut bytes = BASE64.decode(&sealed.0).expect("base64");
            bytes[index] ^= 1;
            assert_eq!(sealer(1).open("policy/a", &Sealed(BASE64.encode(bytes))), None, "byte {index}");
        }
        for nonsense in ["", "AAAA", "not base64"] {
            assert_eq!(sealer(1).open("policy/a", &Sealed(nonsense.to_owned())), None);
        }
    }

    #[test]
    fn a_sealed_secret_does_not_contain_its_plaintext() {
        let sealed = sealer(1).seal("c", b"a-secret-of-some-length", [0; NONCE_LEN]);
        let bytes = BASE64.decode(&sealed.0).expect("base64");
        assert!(!bytes.windows(8).any(|window| window == b"a-secret"));
        assert_eq!(format!("{:?}", sealer(1)), "Sealer(…)");
    }
}
