//! The relay on the wire: real sockets, the real ledger, and an upstream that does as it is told.

mod bystander;
mod changes;
// What the fuzzer checks.
#[path = "../../fuzz/checks/mod.rs"]
mod checks;
mod devices;
mod foreseen;
mod fuzzed;
mod hostile;
mod killed;
mod logins;
mod money;
mod operations;
mod programs;
mod property;
mod proxy;
mod readiness;
mod refused;
mod replies;
mod scene;
mod senders;
mod sessions;
mod siege;
mod starvation;
mod tls;
mod twice;
mod upstream;
