//! The process around the rooms: settings, clock, stop, logs, metrics, health.
//!
//! It knows nothing of credits, mail or Kubernetes; every other room may use it. The settings of a deployment are here:
//! [`config`] and [`fleet`] read what an administrator wrote, and [`relay_config`] is the file that the operator writes
//! and the relay reads. Only [`notifier`] looks into [`domain`](crate::domain), for the types that two rooms share which
//! do not know each other.

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
pub mod relay_config;
pub mod settings_file;
pub mod shutdown;
pub mod telemetry;
