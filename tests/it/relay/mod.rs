//! The relay on the wire: real sockets, the real ledger, and an upstream that does as it is told.

mod changes;
mod hostile;
mod money;
mod operations;
mod proxy;
mod replies;
mod scene;
mod siege;
mod tls;
mod upstream;
