//! What the operator runs and writes for the relays: their fleet, their settings, their certificate, the installation.

pub mod certificate;
pub mod installation;
pub mod prepare;
pub mod relay_config;
pub mod relays;
