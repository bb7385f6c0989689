//! What tests start and build with.

pub mod chart;
pub mod control_plane;
pub mod definitions;
pub mod identity;
