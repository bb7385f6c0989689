//! The room as far as it is pure.

#[path = "../../../src/runtime/relay_config/mod.rs"]
pub mod relay_config;
