//! The directory: all that the relay must know to judge a message.
//!
//! The operator writes entries to the ledger; every relay follows them by epoch and keeps this copy in memory. The
//! ledger also reads the limits of its lots from them, so there is one truth about what a policy, an account or a
//! key may do. Secrets in it are hashes, or sealed with a key that the database does not hold.

mod copy;
mod entry;
mod upstream;

pub use copy::Directory;
pub use entry::{AccountEntry, Entry, KeyEntry, Named, PolicyEntry, Sender, Suspension, Terms, is_expired};
pub use upstream::{ClientCertificate, Sealed, UpstreamEntry, UpstreamSecret, UpstreamTls};
