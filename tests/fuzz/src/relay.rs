//! The room as far as it is pure.

#[path = "../../../src/relay/smtp/mod.rs"]
pub mod smtp;
