//! What tests start and build with.

pub mod chart;
pub mod client;
pub mod control_plane;
pub mod definitions;
#[expect(dead_code, reason = "the benchmarks ask for more")]
pub mod franking;
pub mod identity;
#[expect(dead_code, reason = "the demo prints its dialogue with it")]
pub mod mail;
#[expect(dead_code, reason = "the benchmarks ask for more")]
pub mod postfix;
#[expect(dead_code, reason = "the engine's own tests fill its disk")]
pub mod postgres;
pub mod receiver;
pub mod sink;
