//! Threshold notices: seen in the figures, remembered and queued in the ledger, sent as Events, mail and webhooks.
//!
//! The ledger remembers what was told, so that a restart or another leader tells nothing twice. Sending is at least
//! once: a process that dies between sending and noting it sends again, under the same name (of the Event, the mail's
//! Message-ID, the `webhook-id`), which makes the Event one and lets receivers tell. Trying is bounded.
//!
//! It must never hold up figures or mail: what cannot be sent waits in the ledger, each way by itself.

mod deliver;
mod detect;
mod dispatch;

pub use detect::Watch;
pub use dispatch::run;
