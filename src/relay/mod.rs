//! The relay takes mail in: SMTP, admission, forwarding.
//!
//! A synchronous, stateless submission server: the client gets its 250 only after the upstream's 250. There is no
//! queue, so there is nothing to lose. All it knows comes from `relay.yaml` and the directory; it never talks to
//! Kubernetes, never keeps a message after its reply, and never refuses permanently on its own memory alone.
//!
//! `listen` accepts connections, `connection` turns bytes into commands and decisions into replies, `smtp` is the
//! protocol without a socket, `judge` decides which clients may log in and send, `admit` charges, forwards and settles.

mod account_counters;
mod admit;
mod auth;
mod auth_throttle;
mod body_memory;
mod client_stream;
mod connection;
mod connection_limits;
mod denied_senders;
mod directory;
mod disposition;
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
mod unauthenticated;
mod upstream_outages;

mod role;

pub use metrics::Metrics;
pub use role::{Dependencies, Error, Relay, run};
