//! The process around the rooms: settings, clock, stop, logs, metrics, health.
//!
//! It knows nothing of credits, mail or Kubernetes; every other room may use it. Only [`config`] and [`fleet`] look
//! into [`domain`](crate::domain), for the types that a settings file names: listeners, limits, the ledger's address;
//! and [`notifier`], for the types that two rooms share which do not know each other.

pub mod cli;
pub mod clock;
pub mod config;
pub mod failure_streak;
pub mod fleet;
pub mod health;
pub mod http;
pub mod log;
pub mod metrics;
pub mod notifier;
pub mod process;
pub mod settings_file;
pub mod shutdown;
pub mod telemetry;
