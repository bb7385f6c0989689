//! The relays' fleet, settings and certificate, and the installation, as run and written by the operator.

pub mod certificate;
pub mod installation;
pub mod prepare;
pub mod relay_config;
pub mod relays;
