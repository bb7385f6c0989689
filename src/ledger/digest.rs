//! The digest that is kept in place of a name: enough to find its id again, and nothing that can be read.

use ring::digest;
use uuid::Uuid;

use crate::domain::id::Kind;

/// Digests a name, salted with the installation, so that digests of two ledgers cannot be matched with each other.
pub fn of_name(installation: Uuid, kind: Kind, namespace_uid: &str, name: &str) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    // Each part goes in with its length: joined without it, two names could be one.
    for part in [&installation.as_bytes()[..], kind.as_str().as_bytes(), namespace_uid.as_bytes(), name.as_bytes()] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}
