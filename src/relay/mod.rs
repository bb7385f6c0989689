//! Mail comes in: SMTP, admission, forwarding.
//!
//! A synchronous, stateless submission server: 250 to the client only after the upstream's 250. There is no queue,
//! so nothing of ours to lose. It is told all it knows by `relay.yaml` and the directory; it never talks to
//! Kubernetes, never keeps a message after its answer, and never refuses for good on its own memory.
//!
//! `listen` accepts, `connection` turns bytes into commands and decisions into replies, `smtp` is the protocol
//! without a socket, `judge` says who may, `admit` charges, forwards and settles.

mod account_counters;
mod admit;
mod auth_throttle;
mod body_memory;
mod connection;
mod connection_limits;
mod denied_senders;
mod directory;
mod disposition;
mod judge;
mod labels;
mod listen;
mod login_networks;
mod metrics;
mod recent;
mod settings;
mod shortage;
pub mod smtp;
mod targets;
mod telling;
mod tickets;
mod tls;
mod troubles;
mod unauthenticated;
mod wire;

mod role;

pub use metrics::Metrics;
pub use role::{Dependencies, Error, Relay, run};
