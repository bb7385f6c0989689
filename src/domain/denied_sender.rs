//! Messages that relays refused because their key may not send as somebody: counted, so that the key's owner hears of it.

use jiff::{SignedDuration, Timestamp};

use super::id::KeyId;
use super::sender::{MailDomain, SenderFault};

/// Keys and reasons that one relay counts at a time, and that are handed out at once.
pub const DENIED_MAX: usize = 1_000;
/// The least time between two Events about the same key and reason.
pub const TELL_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// What one relay counted lately for one key and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedSenders {
    pub key: KeyId,
    pub fault: SenderFault,
    pub messages: u32,
    /// Of the last one. The address itself is not kept.
    pub domain: Option<MailDomain>,
}

/// What all relays counted, when its owner is due to hear of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedReport {
    pub key: KeyId,
    pub fault: SenderFault,
    /// Since the last report of this key and reason.
    pub messages: i64,
    /// For all reasons, since the key was made.
    pub total: i64,
    pub domain: Option<MailDomain>,
    pub last_at: Timestamp,
}
