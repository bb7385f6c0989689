//! Messages that relays refused because the key may not use their sender: counted, so that the key's owner is told.

use jiff::{SignedDuration, Timestamp};

use super::id::KeyId;
use super::sender::{MailDomain, SenderFault};

/// Maximum keys and reasons that one relay counts at a time, and that are read at once.
pub const DENIED_MAX: usize = 1_000;
/// Minimum time between two Events about the same key and reason.
pub const TELL_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// The recent count of one relay for one key and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedSenders {
    pub key: KeyId,
    pub fault: SenderFault,
    pub messages: u32,
    /// Domain of the last sender. The address itself is not kept.
    pub domain: Option<MailDomain>,
}

/// The count of all relays, when a report to the key's owner is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedReport {
    pub key: KeyId,
    pub fault: SenderFault,
    /// Messages since the last report of this key and reason.
    pub messages: i64,
    /// Messages for all reasons, since the key was made.
    pub total: i64,
    pub domain: Option<MailDomain>,
    pub last_at: Timestamp,
}
