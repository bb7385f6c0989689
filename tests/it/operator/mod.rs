//! The operator on a real API server, under its own identity with exactly its rights.
//!
//! Most tests share one running operator and take their own namespace and policy. Those that stop it, take its ledger
//! away or count its writes have a control plane of their own, one after the other.

mod columns;
mod crash;
mod credits;
mod deposed;
mod existing;
mod fairness;
mod fuse;
mod handover;
mod harness;
mod ledger_time;
mod leftovers;
mod lifecycle;
mod notices;
mod orphans;
mod refusals;
mod relays;
mod secrets;
mod truths;
mod valve;
mod waits;
