//! What tests start and build with.

pub mod client;
pub mod sink;
