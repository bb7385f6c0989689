//! Sends mail: one message to one smarthost, with an exact report of its outcome.
//!
//! It must never report `Relayed` without the upstream's 2yz reply to that very message, and never report that a
//! message may be refunded once the upstream could have all of it. Everything else here serves these two rules: a
//! transaction runs in its own task that no caller can cancel halfway, a connection returns to the pool only after the
//! last outstanding reply was read, and the final dot is the one point of no return (`line::Point`).
//!
//! SMTP is spoken by lettre's low-level client; its ready-made pool is not used, because a dropped send would park a
//! connection with a reply outstanding, and the next message would get the reply to another.

mod breaker;
mod capabilities;
mod connection;
mod line;
mod message;
mod metrics;
mod notifier;
mod pool;
mod reply;
mod reply_lines;
mod senders;
mod settings;
mod slots;
mod tls;
mod transaction;
mod upstream_stream;
mod upstreams;
mod webhook;

pub use capabilities::Common;
pub use connection::Capabilities;
pub use message::{Cause, Forwarded, Message, Stage, Target, Tenant};
pub use notifier::SmtpNotifier;
pub use settings::UpstreamSettings;
pub use upstreams::Upstreams;
