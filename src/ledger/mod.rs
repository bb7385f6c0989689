//! The ledger: what is remembered.
//!
//! One model, engines behind [`Store`], one conformance suite that every engine passes, one pure
//! [`decide`](crate::domain::credit::decide) that every engine calls. Charged before it is sent, never overspent by
//! one: a reservation charges at once, a settlement gives back what was definitely not accepted, and nothing expires
//! by itself.
//!
//! What it must never do: give credits from a cache, answer "charged" without a durable write, or refuse for good
//! while it cannot be reached.

pub mod store;

pub use store::{Error, Store};
