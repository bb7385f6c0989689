//! How mail leaves: one message to one smarthost, and the exact word on what became of it.
//!
//! It must never say `Relayed` without the upstream's 2yz reply to that very message, and never say that a message may be
//! refunded once the upstream could hold it complete. Everything else here serves these two sentences: a transaction
//! runs in its own task that no caller can cancel half-way, a connection goes back to the pool only when the last
//! reply that is owed was read, and the final dot is the one point of no return (`line::Point`).
//!
//! lettre speaks SMTP for us at its low level; its ready-made pool is not used, because a dropped send parks a
//! connection with a reply outstanding and the next message is told the reply of another.

mod breaker;
mod connection;
mod courier;
mod line;
mod measure;
mod message;
mod offers;
mod pool;
mod reply;
mod reply_lines;
mod senders;
mod settings;
mod slots;
mod tls;
mod transaction;
mod upstreams;
mod webhook;
mod wire;

pub use connection::Capabilities;
pub use courier::Post;
pub use message::{Cause, Forwarded, Message, Stage, Target, Tenant};
pub use offers::Common;
pub use settings::UpstreamSettings;
pub use upstreams::Upstreams;
