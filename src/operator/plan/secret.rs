//! The Secret of a key: its owner, its password, and the content to write.
//!
//! The Secret alone holds the plaintext, so it is judged first: a password that the directory knows is kept whatever
//! else happened. Only a lost password (the Secret deleted, or edited by hand) or a requested rotation makes a new one.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::digest;
use serde_json::{Value, json};

use super::adoption::Adoption;
use super::secret_patch::{Content, finished, managed, set};
use super::{EventNote, meta};
use crate::crd::{CheckedRotation, CheckedSecret, CredentialStatus, Field, Preset, Reason};
use crate::domain::credential::{self, Credential, HashKey, Password, SecretHash, Stage, Username};
use crate::domain::id::AccountId;
use crate::operator::fleet::installation;
use crate::operator::plan::endpoint::Endpoint;

/// Minimum characters of an unknown password that is restored from its Secret: those we mint are longer.
const RESTORED_MIN: usize = 16;

/// The relation of a Secret to a key.
#[derive(Clone, Copy, Debug)]
pub enum SecretOwnership<'a> {
    Absent,
    /// We made it, and it is deleted with its key.
    Ours(&'a Secret),
    /// It is foreign, and this key shares it.
    Adopted(&'a Secret),
    /// It belonged to an earlier resource of the same name and is about to be garbage-collected.
    Leaving,
    Foreign(&'a Secret),
}

/// Judges a live Secret by its controller, or by its adoption mark.
pub fn ownership<'a>(secret: Option<&'a Secret>, owner: &OwnerReference) -> SecretOwnership<'a> {
    let Some(secret) = secret else { return SecretOwnership::Absent };
    match meta::controlling_key(&secret.metadata, &owner.kind) {
        Some(_) | None if meta::deleting(&secret.metadata) => SecretOwnership::Leaving,
        Some(found) if found.uid == owner.uid => SecretOwnership::Ours(secret),
        Some(found) if found.name == owner.name => SecretOwnership::Leaving,
        None if Adoption::of(&secret.metadata).is_some_and(|adoption| adoption.is_by(owner)) => {
            SecretOwnership::Adopted(secret)
        }
        Some(_) | None => SecretOwnership::Foreign(secret),
    }
}

/// The ledger's knowledge of a key's credential.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub username: &'a Username,
    pub credentials: &'a [Credential],
    pub hash_key: &'a HashKey,
    pub now: Timestamp,
}

impl Known<'_> {
    /// True if a Secret that lost its owner reference or adoption mark holds this key's credential. A password that is
    /// not known by its hash proves nothing, and neither does one of another user name.
    pub fn is_in(&self, secret: &Secret) -> bool {
        let text = |key: &str| secret.data.as_ref()?.get(key).map(|value| value.0.as_slice());
        let Some(password) = password_of(secret) else { return false };
        let hash = self.hash_key.hash(&password);
        let usable = |credential: &&Credential| credential.usable(self.now) && credential.hash == hash;
        text("username") == Some(self.username.as_str().as_bytes()) && self.credentials.iter().any(|c| usable(&c))
    }
}

/// True if a foreign Secret looks like one that we made: it has no controller, and it carries all of our labels.
pub fn is_made_here(secret: &Secret) -> bool {
    let owned = secret.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
    let empty = BTreeMap::new();
    let found = secret.metadata.labels.as_ref().unwrap_or(&empty);
    !owned
        && Adoption::of(&secret.metadata).is_none()
        && meta::labels().iter().all(|(key, value)| found.get(key) == Some(value))
}

/// Returns why a key named `key` cannot adopt a foreign Secret, if it cannot: another object controls or shares it, a
/// policy may refer to it, it is immutable, or it holds the keys of the installation itself, which a tenant in our own
/// namespace could name.
pub fn obstacle(secret: &Secret, key: &str) -> Option<String> {
    let controller = secret.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let adoption = Adoption::of(&secret.metadata).filter(|adoption| adoption.key != key);
    match (controller, adoption) {
        (Some(controller), _) => Some(format!("is controlled by a {}", controller.kind)),
        (None, Some(adoption)) => Some(format!("is adopted by the key \"{}\"", adoption.key)),
        (None, None) if meta::may_be_used(secret) => {
            Some(format!("is marked by the label {} for others", meta::USE_LABEL))
        }
        (None, None) if secret.metadata.name.as_deref() == Some(installation::NAME) => {
            Some("holds the keys of franking itself".to_owned())
        }
        (None, None) if secret.immutable == Some(true) => Some("is immutable".to_owned()),
        (None, None) => None,
    }
}

/// Formats a `rotation.restartedAt` for the mark on the Secret.
fn mark(restarted_at: Option<Timestamp>) -> String {
    restarted_at.map(|at| at.to_string()).unwrap_or_default()
}

/// The reason why a new password is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    First,
    /// The Secret is gone, and the plaintext with it.
    Deleted,
    /// The Secret holds a password that is not ours.
    Edited,
    Rotation,
}

impl Cause {
    /// Returns the Event for a new password, requested or not.
    pub fn event(self, secret: &str) -> Option<EventNote> {
        let (warning, reason, what) = match self {
            Self::First => return None,
            Self::Deleted => (true, Reason::CredentialReplaced, "was deleted"),
            Self::Edited => (true, Reason::CredentialReplaced, "holds a password that franking did not write"),
            Self::Rotation => (false, Reason::CredentialReplaced, "was rotated"),
        };
        let note = format!(
            "the Secret \"{secret}\" {what}: a new password was issued, the old one works until the overlap ends"
        );
        Some(EventNote { warning, reason, note })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// `promote` names a staged credential that the Secret turned out to hold.
    Keep {
        password: Password,
        promote: Option<SecretHash>,
        rotation_waits_until: Option<Timestamp>,
    },
    Issue(Cause),
}

/// Decides which password the Secret must hold. `named` is the Secret under its current name if it is ours; `others`
/// are our Secrets under earlier names.
pub fn judge(
    credentials: &[Credential],
    named: Option<&Secret>,
    others: &[Secret],
    rotation: &CheckedRotation,
    hash_key: &HashKey,
    now: Timestamp,
) -> Judgement {
    let stage_of = |password: &Password| {
        let hash = hash_key.hash(password);
        credentials.iter().find(|credential| credential.hash == hash).map(|credential| (hash, credential.stage))
    };
    let Some(secret) = named else {
        // Renamed Secret, same credential: the Secret under the old name still has it.
        let kept = others.iter().find_map(|other| {
            let password = password_of(other)?;
            matches!(stage_of(&password)?.1, Stage::Current { .. }).then_some((other, password))
        });
        let standing = credentials.iter().any(|credential| !matches!(credential.stage, Stage::Staged { .. }));
        return match kept {
            Some((other, password)) => keep_or_rotate(other, password, credentials, rotation, now),
            None if standing => Judgement::Issue(Cause::Deleted),
            None => Judgement::Issue(Cause::First),
        };
    };
    let Some(password) = password_of(secret) else { return Judgement::Issue(Cause::Edited) };
    match stage_of(&password) {
        Some((hash, Stage::Staged { .. })) => {
            Judgement::Keep { password, promote: Some(hash), rotation_waits_until: None }
        }
        Some((_, Stage::Current { .. })) => keep_or_rotate(secret, password, credentials, rotation, now),
        Some((_, Stage::Previous { .. })) | None => Judgement::Issue(Cause::Edited),
    }
}

/// Makes the Secret's password the current one, as its status says: the new ledger may know none, or an earlier one.
/// The one that is current in the ledger becomes the previous one, valid for as long as the status said.
pub fn restore(
    credentials: &mut Vec<Credential>,
    named: Option<&Secret>,
    others: &[Secret],
    shown: Option<&CredentialStatus>,
    hash_key: &HashKey,
    now: Timestamp,
) {
    // Not a short one that a user wrote by hand meanwhile and that could be guessed.
    let long = |password: &Password| password.expose().len() >= RESTORED_MIN;
    let Some(password) = named.into_iter().chain(others).find_map(password_of).filter(long) else { return };
    let hash = hash_key.hash(&password);
    let known = credentials.iter().find(|credential| credential.hash == hash).map(|credential| credential.stage);
    match known {
        Some(Stage::Current { .. } | Stage::Staged { .. }) => return,
        Some(Stage::Previous { .. }) | None => {}
    }
    let since = shown.map_or(now, |shown| shown.issued_at.0);
    let until = shown.and_then(|shown| shown.previous_valid_until.as_ref()).map_or(now, |until| until.0);
    credential::stage(credentials, hash, now);
    credential::promote(credentials, hash, since, until);
    credentials.retain(|credential| credential.usable(now));
}

/// Keeps the current password, which `secret` holds, unless a rotation is requested and may begin.
fn keep_or_rotate(
    secret: &Secret,
    password: Password,
    credentials: &[Credential],
    rotation: &CheckedRotation,
    now: Timestamp,
) -> Judgement {
    let is_due = due_at(credentials, rotation).is_some_and(|at| at <= now);
    if !is_due && !rotation_wanted(secret, rotation) {
        return Judgement::Keep { password, promote: None, rotation_waits_until: None };
    }
    match previous_until(credentials, now) {
        Some(until) if !rotation.force => {
            Judgement::Keep { password, promote: None, rotation_waits_until: Some(until) }
        }
        Some(_) | None => Judgement::Issue(Cause::Rotation),
    }
}

/// Returns when the current password is rotated automatically: when due, but not before the previous one ends.
pub fn rotates_at(credentials: &[Credential], rotation: &CheckedRotation, now: Timestamp) -> Option<Timestamp> {
    let due = due_at(credentials, rotation)?;
    let overlap_ends = previous_until(credentials, now).filter(|_| !rotation.force);
    Some(overlap_ends.map_or(due, |end| due.max(end)))
}

/// Returns when the current password reaches the age `every`.
fn due_at(credentials: &[Credential], rotation: &CheckedRotation) -> Option<Timestamp> {
    let since = credentials.iter().find_map(|credential| match credential.stage {
        Stage::Current { since } => Some(since),
        Stage::Staged { .. } | Stage::Previous { .. } => None,
    })?;
    since.checked_add(rotation.every?).ok()
}

/// Checks the mark for a requested rotation. A removed mark requests nothing; it is written again.
fn rotation_wanted(secret: &Secret, rotation: &CheckedRotation) -> bool {
    let recorded = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(meta::RESTARTED_AT));
    rotation.restarted_at.is_some() && recorded.is_some_and(|recorded| *recorded != mark(rotation.restarted_at))
}

/// Returns the `restartedAt` that the Secret's password was made for.
pub fn marked(secret: &Secret) -> Option<Timestamp> {
    secret.metadata.annotations.as_ref()?.get(meta::RESTARTED_AT)?.parse().ok()
}

/// Returns the end of the previous credential's validity, if it is still valid.
pub fn previous_until(credentials: &[Credential], now: Timestamp) -> Option<Timestamp> {
    credentials.iter().find_map(|credential| match credential.stage {
        Stage::Previous { until } if now < until => Some(until),
        Stage::Previous { .. } | Stage::Current { .. } | Stage::Staged { .. } => None,
    })
}

fn password_of(secret: &Secret) -> Option<Password> {
    let bytes = secret.data.as_ref()?.get("password")?;
    String::from_utf8(bytes.0.clone()).ok().map(Password::given)
}

/// True if a Secret that was read back holds this password.
pub fn carries(secret: &Secret, password: &Password) -> bool {
    password_of(secret).is_some_and(|found| found == *password)
}

/// Characters that a URI must percent-encode. Unreserved ones (RFC 3986 §2.3), of which minted user names and passwords
/// consist, stay as they are: Node's `new URL`, Python's `urlparse`, Ruby's `URI` and PHP's `parse_url` return
/// percent-encoded octets undecoded, and programs would log in with those.
const NOT_UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns the URI with which a program logs in.
pub fn uri(scheme: &str, username: &str, password: &Password, host: &str, port: u16) -> String {
    let [username, password] =
        [username, password.expose()].map(|text| utf8_percent_encode(text, NOT_UNRESERVED).to_string());
    format!("{scheme}://{username}:{password}@{host}:{port}")
}

/// The data that a pod needs to log in.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    pub endpoint: &'a Endpoint,
    pub username: &'a Username,
    pub account: AccountId,
    /// True if the key may log in without TLS.
    pub is_plain: bool,
}

/// Builds the Secret's content. `from` is the single address that the key may send as, if it has one.
pub fn content(
    shape: &CheckedSecret,
    access: Access<'_>,
    from: Option<&str>,
    password: &Password,
    restarted_at: Option<Timestamp>,
) -> Content {
    let (scheme, port) = access.endpoint.preferred();
    let (username, host) = (access.username.as_str(), access.endpoint.host.as_str());
    let uri = uri(scheme, username, password, host, port);
    let (port, account) = (port.to_string(), access.account.to_string());
    let ca = access.endpoint.ca_pem.as_deref().unwrap_or_default();
    let plain = access.endpoint.plain.as_ref().filter(|_| access.is_plain);
    let plain = plain.map(|plain| (plain.host.as_str(), plain.port.to_string()));
    let (plain_host, plain_port) = plain.as_ref().map_or(("", ""), |(host, port)| (*host, port.as_str()));
    let value = |field: Field| match field {
        Field::Host => host,
        Field::Port => port.as_str(),
        Field::Username => username,
        Field::Password => password.expose(),
        Field::Uri => uri.as_str(),
        Field::Certificates => ca,
        Field::AccountId => account.as_str(),
        Field::PlainHost => plain_host,
        Field::PlainPort => plain_port,
    };
    let mut text: BTreeMap<String, String> =
        shape.template.iter().map(|(key, template)| (key.clone(), template.render(value))).collect();
    for preset in &shape.presets {
        match preset {
            Preset::Env => {
                text.extend(ENV_PRESET.map(|(name, field)| (name.to_owned(), value(field).to_owned())));
                text.extend(from.map(|from| ("SMTP_FROM".to_owned(), from.to_owned())));
                // An empty variable would be an empty list of roots to some programs, and trust nothing.
                text.extend((!ca.is_empty()).then(|| ("SMTP_CA".to_owned(), ca.to_owned())));
            }
        }
    }
    // A template never overrides the keys of the Service Binding specification.
    text.extend(BINDING.map(|(key, field)| (key.to_owned(), value(field).to_owned())));
    text.extend([("type", "smtp"), ("provider", "franking")].map(|(key, value)| (key.to_owned(), value.to_owned())));
    if !ca.is_empty() {
        text.insert("certificates".to_owned(), ca.to_owned());
    }
    if plain.is_some() {
        text.extend(PLAIN.map(|(key, field)| (key.to_owned(), value(field).to_owned())));
    }
    let data: BTreeMap<String, Vec<u8>> = text.into_iter().map(|(key, value)| (key, value.into_bytes())).collect();

    let mut labels = shape.labels.clone();
    labels.extend(meta::labels());
    let mut annotations = shape.annotations.clone();
    annotations.insert(meta::CONTENT_HASH.to_owned(), content_hash(&data));
    annotations.insert(meta::RESTARTED_AT.to_owned(), mark(restarted_at));
    Content { data, labels, annotations }
}

/// The single-valued keys of the Service Binding specification, and the account's ID.
const BINDING: [(&str, Field); 6] = [
    ("host", Field::Host),
    ("port", Field::Port),
    ("username", Field::Username),
    ("password", Field::Password),
    ("uri", Field::Uri),
    ("account-id", Field::AccountId),
];

/// The keys of a Secret for a device without TLS.
const PLAIN: [(&str, Field); 2] = [("plain-host", Field::PlainHost), ("plain-port", Field::PlainPort)];

/// The preset `env`: the variables that programs read, and the fields behind them.
const ENV_PRESET: [(&str, Field); 5] = [
    ("SMTP_HOST", Field::Host),
    ("SMTP_PORT", Field::Port),
    ("SMTP_USERNAME", Field::Username),
    ("SMTP_PASSWORD", Field::Password),
    ("SMTP_URL", Field::Uri),
];

/// Hashes the content, lengths included, so that no two contents give the same input.
fn content_hash(data: &BTreeMap<String, Vec<u8>>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for (key, value) in data {
        context.update(&(key.len() as u64).to_be_bytes());
        context.update(key.as_bytes());
        context.update(&(value.len() as u64).to_be_bytes());
        context.update(value);
    }
    context.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Builds the Secret to create if there is none.
pub fn fresh(shape: &CheckedSecret, content: Content, namespace: &str, owner: &OwnerReference) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(shape.name.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some(content.labels),
            annotations: Some(content.annotations),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        type_: Some(shape.type_.clone()),
        data: Some(content.data.into_iter().map(|(key, value)| (key, ByteString(value))).collect()),
        ..Secret::default()
    }
}

/// Builds the merge patch that gives a Secret our content, or `None` if it already has it. The patch names the version
/// that was judged, so a Secret that changed hands in between is not written. Keys that others added stay; keys, labels
/// and annotations that we wrote (by `managedFields`) and no longer want are removed.
pub fn difference(secret: &Secret, content: &Content, owner: &OwnerReference) -> Option<Value> {
    let mut patch = json!({});
    let found: BTreeMap<String, Vec<u8>> =
        secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    let encode = |value: &Vec<u8>| json!(ByteString(value.clone()));
    set(&mut patch["data"], &found, &content.data, &managed(secret, "/f:data"), encode);
    let text = |value: &String| json!(value);
    let metadata = &secret.metadata;
    let labels = metadata.labels.clone().unwrap_or_default();
    set(&mut patch["metadata"]["labels"], &labels, &content.labels, &managed(secret, "/f:metadata/f:labels"), text);
    let annotations = metadata.annotations.clone().unwrap_or_default();
    let ours = managed(secret, "/f:metadata/f:annotations");
    set(&mut patch["metadata"]["annotations"], &annotations, &content.annotations, &ours, text);
    let owners = metadata.owner_references.clone().unwrap_or_default();
    if !owners.contains(owner) {
        let others = owners.into_iter().filter(|other| other.uid != owner.uid);
        patch["metadata"]["ownerReferences"] = json!(others.chain([owner.clone()]).collect::<Vec<_>>());
    }
    finished(patch, secret)
}
