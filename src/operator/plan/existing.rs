//! The Secret of the user's own that brings a key's password (`spec.secret.existing`).
//!
//! It is read and never written. The label is its owner's word that it may be used: to name a Secret is no way to read
//! it. No message repeats anything of the password.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;

use super::adoption::Adoption;
use super::secret::{Cause, Judgement};
use super::{EventNote, Readiness, meta};
use crate::crd::{CheckedExisting, Reason};
use crate::domain::credential::{Credential, HashKey, Password, Stage};
use crate::operator::fleet::installation;

/// Limits of a password's characters. At random, the shortest one cannot be guessed at the rate at which logins are
/// judged; the longest is what devices store.
const CHARACTERS: std::ops::RangeInclusive<usize> = 16..=128;
/// Different characters that a password must have: fewer are a word repeated.
const DISTINCT_MIN: usize = 8;

/// Refuses a Secret that holds what Franking itself works with, whatever label it has: a key in the operator's namespace
/// could name it.
pub fn refuse_our_own(place: &CheckedExisting, is_upstream_login: bool) -> Result<(), Readiness> {
    let holds = match place.name.as_str() {
        installation::NAME => "the keys of franking itself",
        _ if is_upstream_login => "the login of an upstream, which a CreditPolicy names",
        _ => return Ok(()),
    };
    let fix =
        format!("spec.secret.existing.name: the Secret \"{}\" holds {holds}; name a Secret of your own", place.name);
    Err(Readiness::refused(Reason::SecretInvalid, fix))
}

/// Returns the password of the Secret found under that name, or the refusal.
pub fn password(place: &CheckedExisting, found: Option<&Secret>, kind: &str) -> Result<Password, Readiness> {
    let CheckedExisting { name, key } = place;
    let Some(secret) = found else {
        let fix = format!(
            "spec.secret.existing.name: there is no Secret \"{name}\" in this namespace; create it with the label {}: \
             \"true\" and the password under \"{key}\"",
            meta::USE_LABEL
        );
        return Err(Readiness::refused(Reason::SecretNotFound, fix));
    };
    if !meta::may_be_used(secret) {
        let fix = format!(
            "spec.secret.existing.name: the Secret \"{name}\" may not be used; give it the label {}: \"true\"",
            meta::USE_LABEL
        );
        return Err(Readiness::refused(Reason::SecretNotLabelled, fix));
    }
    let invalid = |what: String| {
        Err(Readiness::refused(Reason::SecretInvalid, format!("spec.secret.existing: the Secret \"{name}\" {what}")))
    };
    if meta::controlling_key(&secret.metadata, kind).is_some() || Adoption::of(&secret.metadata).is_some() {
        return invalid("holds the password of a key; name a Secret of your own".to_owned());
    }
    let Some(value) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return invalid(format!("lacks {key}; write the password there, or name its key in existing.key"));
    };
    match judged(&value.0) {
        Ok(password) => Ok(password),
        Err(what) => invalid(format!("has something under {key} that {what}")),
    }
}

/// Judges a password. The error ends "has something that".
fn judged(value: &[u8]) -> Result<Password, String> {
    let (least, most) = (CHARACTERS.start(), CHARACTERS.end());
    if value.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
        return Err(
            "ends with a line break; write it without (kubectl: --from-literal, or printf instead of echo)".into()
        );
    }
    if !value.iter().all(u8::is_ascii_graphic) {
        return Err("has a space or a character that is not printable ASCII; use letters, digits and signs".into());
    }
    match std::str::from_utf8(value) {
        Ok(text) if CHARACTERS.contains(&text.len()) && is_pattern(value) => {
            Err(format!("is easy to guess; use a random password of at least {DISTINCT_MIN} different characters"))
        }
        Ok(text) if CHARACTERS.contains(&text.len()) => Ok(Password::given(text)),
        Ok(_) | Err(_) => Err(format!("has not {least} to {most} characters; use a password of that length")),
    }
}

/// True for few different characters, and for runs such as `1234567890…` or `aaaabbbb…`.
fn is_pattern(value: &[u8]) -> bool {
    let distinct: BTreeSet<u8> = value.iter().copied().collect();
    let steps = value.windows(2).filter(|pair| matches!(pair, [a, b] if a.abs_diff(*b) <= 1)).count();
    distinct.len() < DISTINCT_MIN || steps * 2 > value.len()
}

/// Decides which password holds: the user's, whatever the key's own Secret has.
pub fn judge(credentials: &[Credential], password: &Password, hash_key: &HashKey) -> Judgement {
    let hash = hash_key.hash(password);
    let known = credentials.iter().find(|credential| credential.hash == hash).map(|credential| credential.stage);
    let keep = |promote| Judgement::Keep { password: password.clone(), promote, rotation_waits_until: None };
    match known {
        Some(Stage::Current { .. }) => keep(None),
        // It may be the one before, which its owner took up again.
        Some(Stage::Staged { .. } | Stage::Previous { .. }) => keep(Some(hash)),
        None if credentials.is_empty() => Judgement::Issue(Cause::First),
        None => Judgement::Issue(Cause::Rotation),
    }
}

/// Returns the Event for a password that was taken over in place of another.
pub fn event(cause: Cause, place: &CheckedExisting) -> Option<EventNote> {
    match cause {
        Cause::First => None,
        Cause::Deleted | Cause::Edited | Cause::Rotation => Some(EventNote {
            warning: false,
            reason: Reason::CredentialReplaced,
            note: format!(
                "the password of the Secret \"{}\" was taken over; the one before works until the overlap ends",
                place.name
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    use super::*;

    const GOOD: &str = "correct-horse-battery";

    fn place() -> CheckedExisting {
        CheckedExisting { name: "printer".into(), key: "password".into() }
    }

    fn secret(password: &[u8]) -> Secret {
        let labels = BTreeMap::from([(meta::USE_LABEL.to_owned(), "true".to_owned())]);
        Secret {
            metadata: ObjectMeta { labels: Some(labels), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([("password".to_owned(), ByteString(password.to_vec()))])),
            ..Secret::default()
        }
    }

    #[test]
    fn each_secret_that_cannot_be_used_is_refused_with_what_to_do_and_without_its_content() {
        type Edit = fn(&mut Secret);
        let nothing: Edit = |_| ();
        let owned: Edit = |secret| {
            secret.metadata.owner_references = Some(vec![OwnerReference {
                api_version: "franking.io/v1alpha1".into(),
                kind: "SubAccountApiKey".into(),
                controller: Some(true),
                ..OwnerReference::default()
            }]);
        };
        let cases: [(&[u8], Edit, Reason, &str); 13] = [
            (GOOD.as_bytes(), |secret| secret.metadata.labels = None, Reason::SecretNotLabelled, "franking.io/use"),
            (
                GOOD.as_bytes(),
                |secret| {
                    drop(
                        secret
                            .metadata
                            .labels
                            .as_mut()
                            .map(|labels| labels.insert(meta::USE_LABEL.into(), "yes".into())),
                    )
                },
                Reason::SecretNotLabelled,
                "\"true\"",
            ),
            (GOOD.as_bytes(), owned, Reason::SecretInvalid, "password of a key"),
            (
                GOOD.as_bytes(),
                |secret| {
                    let mark = (meta::ADOPTED.to_owned(), "{\"key\": \"a\", \"uid\": \"u\"}".to_owned());
                    secret.metadata.annotations = Some(BTreeMap::from([mark]));
                },
                Reason::SecretInvalid,
                "password of a key",
            ),
            (GOOD.as_bytes(), |secret| secret.data = None, Reason::SecretInvalid, "lacks password"),
            (b"hunter2-hunter2", nothing, Reason::SecretInvalid, "16 to 128 characters"),
            (&[b'x'; 129], nothing, Reason::SecretInvalid, "16 to 128 characters"),
            (b"passwordpassword", nothing, Reason::SecretInvalid, "easy to guess"),
            (b"1234567890123456", nothing, Reason::SecretInvalid, "easy to guess"),
            (b"aaabbbcccdddeeefffggghhh", nothing, Reason::SecretInvalid, "easy to guess"),
            (b"hunter2-hunter2-hunter2\n", nothing, Reason::SecretInvalid, "line break"),
            (b"hunter2 hunter2 hunter2", nothing, Reason::SecretInvalid, "a space"),
            ("hünter2-hunter2-hunter2".as_bytes(), nothing, Reason::SecretInvalid, "printable ASCII"),
        ];
        for (text, edit, expected, named) in cases {
            let mut found = secret(text);
            edit(&mut found);
            let refused = password(&place(), Some(&found), "SubAccountApiKey").map(drop).expect_err(named);
            let Readiness::Refused { reason, message } = refused else { panic!("{named}: not refused") };
            assert_eq!(reason, expected, "{message}");
            assert!(message.contains(named) && message.contains("\"printer\""), "{message}");
            assert!(!message.contains("hunter2") && !message.contains("horse"), "{message}");
        }
        let missing = password(&place(), None, "SubAccountApiKey").map(drop);
        assert!(matches!(missing, Err(Readiness::Refused { reason: Reason::SecretNotFound, .. })));
        let found = password(&place(), Some(&secret(GOOD.as_bytes())), "SubAccountApiKey");
        assert_eq!(found.map(|password| password.expose().to_owned()).ok().as_deref(), Some(GOOD));
    }
}
