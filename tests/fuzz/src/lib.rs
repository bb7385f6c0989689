//! The pure rooms of Franking, and what must hold in them whatever comes in. See `Cargo.toml` for why by path.

// The checks name the crate as the tests do, which run them over the seeds.
extern crate self as franking;

#[path = "../checks/mod.rs"]
pub mod checks;
#[path = "../../../src/domain/mod.rs"]
pub mod domain;
pub mod relay;
pub mod runtime;
