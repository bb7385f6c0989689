//! The process around the rooms: settings, clock, stop, logs, metrics, health.
//!
//! It knows nothing of credits, mail or Kubernetes; every other room may use it.

pub mod clock;
pub mod health;
pub mod metrics;
