//! Franking: one mail plan, shared by many senders.
//!
//! Rooms around a pure centre. Flow in every room: read → decide → write → say.
//!
//! | room | what it is | may import |
//! | --- | --- | --- |
//! | [`domain`] | what is decided: credits, credentials, senders, periods, the directory | – |
//! | [`crd`] | what users write: the three kinds, and raw → checked | domain |
//! | [`ledger`] | what is remembered: credits, the directory, usage | domain, runtime |
//! | [`operator`] | specs become Secrets, directory entries and status | domain, crd, ledger, runtime |
//! | [`upstream`] | how mail leaves | domain, runtime |
//! | [`relay`] | how mail comes in: SMTP, admission, forwarding | domain, ledger, upstream, runtime |
//! | [`runtime`] | the process: settings, clock, stop, logs, metrics, health | domain |
//!
//! Three invariants, checked by `tests/it/boundaries.rs`: *domain never learns what day it is; the relay never talks
//! to Kubernetes; the console can do nothing a curl cannot.*

pub mod crd;
pub mod domain;
pub mod ledger;
pub mod operator;
pub mod relay;
pub mod runtime;
pub mod upstream;
