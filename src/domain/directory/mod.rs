//! The directory: all that the relay needs to judge a message.
//!
//! The operator writes entries to the ledger, every relay follows them by epoch and keeps this copy in memory, and the
//! ledger reads its lots' limits from them: one source. Secrets are hashed, or sealed with a key that the ledger lacks.

mod copy;
mod entry;
mod upstream;

pub use copy::Directory;
pub use entry::{AccountEntry, Entry, HolderTerms, KeyEntry, Named, PolicyEntry, ResolvedKey, Suspension, is_expired};
pub use upstream::{ClientCertificate, Sealed, UpstreamEntry, UpstreamSecret, UpstreamTls};
