//! What tests start and build with.

pub mod chart;
pub mod client;
pub mod control_plane;
pub mod definitions;
pub mod franking;
pub mod identity;
pub mod mail;
pub mod sink;
