//! Threshold notices: detected in the figures, stored and queued in the ledger, sent as Events, mail and webhooks.
//!
//! The ledger records the notices, so that a restart or another leader announces none twice. Sending is at least once:
//! a process that dies between sending and recording sends again, under the same name (of the Event, the mail's
//! Message-ID, the `webhook-id`), which keeps the Event single and lets receivers recognise duplicates. Tries are
//! limited.
//!
//! It must never delay figures or mail: unsent notices wait in the ledger, separately by channel.

mod deliver;
mod detect;
mod dispatch;

pub use deliver::NoticeDelivery;
pub use detect::Watch;
