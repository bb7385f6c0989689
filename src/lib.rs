//! Franking: one mail plan, shared by many senders.
//!
//! A pure centre with rooms around it. Every room does the same four things in order: read, decide, write, report.
//!
//! | room | what it is | may import |
//! | --- | --- | --- |
//! | [`domain`] | the decisions: credits, credentials, senders, periods, the directory | – |
//! | [`crd`] | the resources that users write: three kinds, and raw → checked | domain |
//! | [`ledger`] | the stored state: credits, the directory, usage | domain, runtime |
//! | [`operator`] | turns specs into Secrets, directory entries and status | domain, crd, ledger, runtime |
//! | [`upstream`] | outgoing mail: connections to smarthosts | domain, runtime |
//! | [`relay`] | incoming mail: SMTP, admission, forwarding | domain, ledger, upstream, runtime |
//! | [`runtime`] | the process: settings, clock, shutdown, logs, metrics, health | domain |
//!
//! Two invariants, checked by `tests/it/boundaries.rs`: *domain never learns what day it is; the relay never talks to
//! Kubernetes.* There is no console yet; one will do nothing that a curl cannot.

// Fixtures that unit tests share with `tests/it` name the crate as `tests/it` does.
#[cfg(test)]
extern crate self as franking;

pub mod crd;
pub mod domain;
pub mod ledger;
pub mod operator;
pub mod relay;
pub mod runtime;
pub mod upstream;
