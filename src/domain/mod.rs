//! The decisions that Franking makes, and nothing else.
//!
//! Everything here is a function of its arguments: no `async`, no clock, no randomness, no environment, no files. `now`
//! and `rng` are passed in. That is why a table can test every rule about money and identity, and why the two ledger
//! engines and the relay cannot disagree about a rule: they call the same function.
//!
//! Invariant: *domain never learns what day it is.*

pub mod address;
pub mod alert;
pub mod cost;
pub mod credential;
pub mod credit;
pub mod denied_sender;
pub mod departure;
pub mod directory;
pub mod fingerprint;
pub mod guarded;
pub mod id;
pub mod login_network;
pub mod money;
pub mod network;
pub mod period;
pub mod sender;
pub mod settings;
pub mod sharded;
pub mod trouble;
pub mod webhook;
