//! What tests start and build with.

pub mod sink;
