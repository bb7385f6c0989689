//! SMTP as values: bytes in, commands out; decisions in, reply bytes out.
//!
//! Nothing here knows a socket, a task, a clock or the ledger, so every rule of the protocol is tested with a table and
//! a fuzzer can reach all of it. `smtp-proto` parses the parameters of MAIL and RCPT; what it is known to let through
//! is refused around it (see [`command`]).

pub mod command;
pub mod data;
pub mod field_name;
pub mod header;
pub mod mailbox;
pub mod proxy;
pub mod reply;
pub mod sasl;
pub mod session;
