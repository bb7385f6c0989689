//! The relay on the wire: real sockets, the real ledger, and an upstream that does as it is told.

mod changes;
mod hostile;
mod money;
mod refused;
mod replies;
mod scene;
mod twice;
mod upstream;
