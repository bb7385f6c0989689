//! SMTP user names and passwords: how they are generated, stored and compared.
//!
//! Only the Secret holds a plaintext. The directory holds an HMAC-SHA-256 of it under a key that the database does not
//! hold, so a stolen database opens nothing. A keyed hash is enough (and 100,000 times cheaper than Argon2) because
//! passwords are machine-made with ≥ 130 bits. One that a user brings is as strong as its maker made it: short ones and patterns
//! are refused, and its keyed hash is of no use without the key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use rand::{Rng, RngExt as _};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::id::KeyId;

/// Maximum characters of a user name: old printers have fields of 31 (Dell 2335dn manual).
pub const USERNAME_MAX: usize = 31;
/// Characters of a generated password: 26 of 62 symbols are 154 bits.
pub const PASSWORD_LENGTH: usize = 26;
/// Minimum characters of a password that a user supplies.
pub const PASSWORD_MIN: usize = 16;

/// Maximum staged credentials of one key. Each belongs to a Secret that was about to be written and perhaps still is:
/// one from the leading operator, and one from each leader that was cut off before it had written. Three handovers
/// during one change of a password are more than have been seen.
pub const STAGED_MAX: usize = 4;
/// Time for which a Secret that was about to be written may still appear. A request to the API server ends after a
/// minute, and an operator that no longer leads begins none.
pub const STAGED_FOR: SignedDuration = SignedDuration::from_mins(10);

const PASSWORD_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Crockford's base 32 in lower case: no i, l, o, u, so it can be read out on the telephone.
const USERNAME_ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of the id in a user name: 50 bits, so two keys of one installation do not collide.
const USERNAME_SUFFIX: usize = 10;

/// A user name for SMTP AUTH: `[a-z][a-z0-9-]*`, at most 31 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Username(String);

impl Username {
    /// Returns the user name of a key: as much as fits of its resource's name, then a part of its id. It is derived
    /// from the two, so it never has to be stored to stay the same.
    pub fn of(name: &str, id: KeyId) -> Self {
        let mut slug: String = name
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .skip_while(|c| !c.is_ascii_lowercase())
            .take(USERNAME_MAX - USERNAME_SUFFIX - 1)
            .collect();
        slug.truncate(slug.trim_end_matches('-').len());
        if slug.is_empty() {
            slug.push_str("key");
        }
        let bits = id.0.as_u128();
        slug.push('-');
        for position in 0..USERNAME_SUFFIX {
            // The top bits of a random UUID up to its version nibble are 48 random bits; the low 62 are random too.
            let index = (bits >> (5 * position)) & 31;
            slug.push(char::from(USERNAME_ALPHABET[index as usize]));
        }
        Self(slug)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns an entered user name in the form that we issue. Some mail programs want an address and append the host
    /// that they connect to, some people type a blank, and some telephones begin with a capital. The result need not be
    /// a valid user name.
    pub fn normalised(entered: &str, host: &str) -> String {
        let entered = entered.trim();
        let name = match entered.rsplit_once('@') {
            Some((name, at)) if at.eq_ignore_ascii_case(host) => name.trim_end(),
            Some(_) | None => entered,
        };
        name.to_ascii_lowercase()
    }
}

impl TryFrom<String> for Username {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let well_formed = text.len() <= USERNAME_MAX
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if well_formed {
            Ok(Self(text))
        } else {
            Err(format!("a user name is [a-z][a-z0-9-]* of at most {USERNAME_MAX} characters"))
        }
    }
}

impl From<Username> for String {
    fn from(username: Username) -> Self {
        username.0
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A plaintext password. It never prints itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Generates a password of [`PASSWORD_LENGTH`] alphanumerics.
    pub fn mint(rng: &mut impl Rng) -> Self {
        Self(
            (0..PASSWORD_LENGTH)
                .map(|_| char::from(PASSWORD_ALPHABET[rng.random_range(0..PASSWORD_ALPHABET.len())]))
                .collect(),
        )
    }

    /// Wraps a password that a user typed or a Secret holds.
    pub fn given(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the plaintext, under a name that makes every use easy to find.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// The installation's key for hashing passwords, 32 bytes. It lives in the relay config, never in the database.
#[derive(Clone)]
pub struct HashKey(hmac::Key);

impl HashKey {
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    pub fn hash(&self, password: &Password) -> SecretHash {
        let tag = hmac::sign(&self.0, password.expose().as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        SecretHash(bytes)
    }

    /// Compares a password with a stored hash in constant time.
    pub fn verify(&self, password: &Password, hash: &SecretHash) -> bool {
        hmac::verify(&self.0, password.expose().as_bytes(), &hash.0).is_ok()
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(…)")
    }
}

/// HMAC-SHA-256 of a password. Base64 when serialized.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

impl TryFrom<String> for SecretHash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = BASE64.decode(&text).map_err(|_| "a secret hash is not base64".to_owned())?;
        bytes.try_into().map(Self).map_err(|_| "a secret hash is not 32 bytes".to_owned())
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> Self {
        BASE64.encode(hash.0)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

/// The stage of a credential's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "stage")]
pub enum Stage {
    /// Its Secret may or may not have been written yet. It already opens the relay, because a pod may read the Secret
    /// before the operator comes back to promote it; the overlap of the old credential has not started.
    #[serde(rename_all = "camelCase")]
    Staged { at: Timestamp },
    /// The Secret holds this one.
    #[serde(rename_all = "camelCase")]
    Current { since: Timestamp },
    /// The previous one, valid until the overlap ends.
    #[serde(rename_all = "camelCase")]
    Previous { until: Timestamp },
}

/// One password of a key, as a hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    pub hash: SecretHash,
    #[serde(flatten)]
    pub stage: Stage,
}

impl Credential {
    pub fn usable(&self, now: Timestamp) -> bool {
        match self.stage {
            Stage::Staged { .. } | Stage::Current { .. } => true,
            Stage::Previous { until } => now < until,
        }
    }

    /// Returns the time at which a staged credential is given up, because no operator can write its Secret any more.
    pub fn given_up_at(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Staged { at } => Some(at.saturating_add(STAGED_FOR).unwrap_or(Timestamp::MAX)),
            Stage::Current { .. } | Stage::Previous { .. } => None,
        }
    }
}

/// Checks whether `password` opens one of `credentials` now.
pub fn opens(key: &HashKey, credentials: &[Credential], password: &Password, now: Timestamp) -> bool {
    opened_by(key, credentials, password, now).is_some()
}

/// Returns the hash of the credential that `password` opens now. Compares every credential, so that the time taken does
/// not reveal which one matched.
pub fn opened_by(key: &HashKey, credentials: &[Credential], password: &Password, now: Timestamp) -> Option<SecretHash> {
    credentials.iter().fold(None, |open, credential| {
        (key.verify(password, &credential.hash) && credential.usable(now)).then_some(credential.hash).or(open)
    })
}

/// Checks whether the credential with this hash is still one of `credentials`, and usable now.
pub fn is_usable(credentials: &[Credential], hash: &SecretHash, now: Timestamp) -> bool {
    credentials.iter().any(|credential| credential.hash == *hash && credential.usable(now))
}

/// Adds a staged credential. Those that were staged before stay valid: the operator that staged one may be about to
/// write its Secret, and no Secret may ever hold a password that does not work. Beyond [`STAGED_MAX`] the oldest is
/// dropped.
pub fn stage(credentials: &mut Vec<Credential>, hash: SecretHash, now: Timestamp) {
    credentials.push(Credential { hash, stage: Stage::Staged { at: now } });
    let staged = credentials.iter().filter(|credential| matches!(credential.stage, Stage::Staged { .. })).count();
    let mut surplus = staged.saturating_sub(STAGED_MAX);
    credentials.retain(|credential| match credential.stage {
        Stage::Staged { .. } if surplus > 0 => {
            surplus -= 1;
            false
        }
        Stage::Staged { .. } | Stage::Current { .. } | Stage::Previous { .. } => true,
    });
}

/// Makes `hash`, which was seen in the Secret, the current credential, and starts the overlap of the one before
/// (`until`). Drops anything older, and other staged ones too: their Secrets can only be written over an earlier
/// version than the one seen. A previous one is dropped too where `force` allows a rotation inside an overlap; callers
/// check that first.
pub fn promote(credentials: &mut Vec<Credential>, hash: SecretHash, now: Timestamp, until: Timestamp) {
    credentials.retain_mut(|credential| {
        if credential.hash == hash {
            credential.stage = Stage::Current { since: now };
            return true;
        }
        match credential.stage {
            Stage::Current { .. } => {
                credential.stage = Stage::Previous { until };
                true
            }
            Stage::Staged { .. } | Stage::Previous { .. } => false,
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use uuid::Uuid;

    fn key() -> HashKey {
        HashKey::new(&[7; 32])
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn user_names_fit_old_printers_and_follow_from_name_and_id() {
        let id = KeyId(Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef));
        for name in ["printer", "7th-floor.printer", "9", "a-very-long-name-of-a-printer-on-the-seventh-floor", "x.-"] {
            let username = Username::of(name, id);
            assert_eq!(username, Username::of(name, id));
            Username::try_from(username.as_str().to_owned()).expect("well formed");
        }
        assert_ne!(Username::of("a", id), Username::of("a", KeyId(Uuid::from_u128(1 << 3))));
    }

    #[test]
    fn passwords_are_alphanumeric_and_never_print() {
        let password = Password::mint(&mut StdRng::seed_from_u64(1));
        assert_eq!(password.expose().len(), PASSWORD_LENGTH);
        assert!(password.expose().bytes().all(|b| b.is_ascii_alphanumeric()));
        assert!(!format!("{password:?}").contains(password.expose()));
    }

    #[test]
    fn old_and_new_work_until_the_overlap_ends() {
        let (old, new) = (Password::given("old"), Password::given("new"));
        let mut credentials = vec![Credential { hash: key().hash(&old), stage: Stage::Current { since: at(0) } }];
        stage(&mut credentials, key().hash(&new), at(10));
        assert!(opens(&key(), &credentials, &old, at(10)) && opens(&key(), &credentials, &new, at(10)));
        promote(&mut credentials, key().hash(&new), at(20), at(100));
        assert!(opens(&key(), &credentials, &old, at(99)) && opens(&key(), &credentials, &new, at(99)));
        assert!(!opens(&key(), &credentials, &old, at(100)) && opens(&key(), &credentials, &new, at(100)));
    }

    #[test]
    fn what_may_still_be_written_works_until_something_else_was() {
        let mut credentials = vec![Credential { hash: key().hash(&Password::given("old")), stage: current(0) }];
        let passwords: Vec<Password> = (0..=STAGED_MAX).map(|n| Password::given(format!("staged {n}"))).collect();
        for (second, password) in (1..).zip(&passwords) {
            stage(&mut credentials, key().hash(password), at(second));
        }
        let open = |credentials: &[Credential]| -> Vec<bool> {
            passwords.iter().map(|password| opens(&key(), credentials, password, at(9))).collect()
        };
        assert_eq!(open(&credentials), [false, true, true, true, true], "the oldest of too many goes");
        let given_up: Vec<_> = credentials.iter().filter_map(Credential::given_up_at).collect();
        assert_eq!((given_up.len(), given_up[0]), (STAGED_MAX, at(2 + 600)));
        promote(&mut credentials, key().hash(&passwords[2]), at(10), at(100));
        assert_eq!(open(&credentials), [false, false, true, false, false]);
        assert!(opens(&key(), &credentials, &Password::given("old"), at(99)));
    }

    fn current(second: i64) -> Stage {
        Stage::Current { since: at(second) }
    }
}
