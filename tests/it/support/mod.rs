//! What tests start and build with.

pub mod control_plane;
pub mod definitions;
pub mod sink;
