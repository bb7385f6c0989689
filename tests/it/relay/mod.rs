//! The relay on the wire: real sockets, the real ledger, and an upstream that does as it is told.

mod replies;
mod scene;
