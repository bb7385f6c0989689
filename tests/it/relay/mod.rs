//! The relay on the wire: real sockets, the real ledger, and an upstream that does as it is told.

mod changes;
mod fuzzed;
mod hostile;
mod money;
mod programs;
mod replies;
mod scene;
mod upstream;
