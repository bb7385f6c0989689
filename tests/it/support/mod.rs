//! What tests start and build with.

pub mod chart;
pub mod control_plane;
pub mod definitions;
pub mod sink;
pub mod identity;
pub mod franking;
pub mod mail;
pub mod identity;
