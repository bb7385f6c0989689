//! Judges the Secret found under a key's `spec.secret.name`: ours to write, to be shared, or in conflict.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::Readiness;
use super::adoption;
use super::secret::{self, Known, SecretOwnership};
use super::secret_patch::Content;
use crate::crd::{CheckedSecret, Reason};

/// The existing Secret to write to.
#[derive(Clone, Copy)]
pub enum Present<'a> {
    /// We made it.
    Ours(&'a Secret),
    /// It is foreign and is shared.
    Shared(&'a Secret),
}

impl<'a> Present<'a> {
    pub fn secret(self) -> &'a Secret {
        match self {
            Self::Ours(secret) | Self::Shared(secret) => secret,
        }
    }
}

/// Returns the existing Secret to write to, if there is one, or the refusal. `known` is the key's credential, `named`
/// the content that a shared one would get.
pub fn present<'a>(
    secret: Option<&'a Secret>,
    owner: &OwnerReference,
    shape: &CheckedSecret,
    known: Known<'_>,
    named: impl FnOnce() -> Content,
) -> Result<Option<Present<'a>>, Readiness> {
    let name = &shape.name;
    let found = match secret::ownership(secret, owner) {
        SecretOwnership::Absent => return Ok(None),
        SecretOwnership::Ours(secret) => Present::Ours(secret),
        SecretOwnership::Adopted(secret) => Present::Shared(secret),
        SecretOwnership::Leaving => {
            let message = format!("waiting until the Secret \"{name}\" of an earlier key is gone");
            return Err(Readiness::waiting(Reason::Progressing, message));
        }
        // It lost its owner reference: taking it back keeps the password that pods use.
        SecretOwnership::Foreign(secret) if secret::is_made_here(secret) && known.is_in(secret) => {
            Present::Ours(secret)
        }
        SecretOwnership::Foreign(secret) if shape.adopt => match secret::obstacle(secret, &owner.name) {
            None => Present::Shared(secret),
            Some(obstacle) => {
                let fix =
                    format!("spec.secret.name: the Secret \"{name}\" {obstacle} and cannot be adopted; name another");
                return Err(Readiness::refused(Reason::SecretConflict, fix));
            }
        },
        SecretOwnership::Foreign(_) => {
            let fix = format!(
                "spec.secret.name: a Secret \"{name}\" exists that is not this key's; remove it, name another, or set \
                 spec.secret.adopt to share it"
            );
            return Err(Readiness::refused(Reason::SecretConflict, fix));
        }
    };
    if found.secret().type_.as_deref() != Some(shape.type_.as_str()) {
        let fix = format!(
            "spec.secret.type: the Secret \"{name}\" has the type {}, which Kubernetes does not allow to change; name another \
             Secret, or remove this one",
            found.secret().type_.as_deref().unwrap_or("Opaque")
        );
        return Err(Readiness::refused(Reason::SecretConflict, fix));
    }
    match found {
        Present::Ours(_) => {}
        Present::Shared(secret) => without_clash(secret, owner, name, &named())?,
    }
    Ok(Some(found))
}

/// Refuses if the key would overwrite what another writer put into a shared Secret.
fn without_clash(secret: &Secret, owner: &OwnerReference, name: &str, wanted: &Content) -> Result<(), Readiness> {
    let clashes = adoption::clashes(secret, wanted, owner);
    if clashes.is_empty() {
        return Ok(());
    }
    let fix = format!(
        "spec.secret.adopt: the Secret \"{name}\" has {} already, and franking never overwrites them; name another Secret \
         in spec.secret.name, and give it the keys that your program reads with spec.secret.template",
        clashes.join(", ")
    );
    Err(Readiness::refused(Reason::SecretConflict, fix))
}
