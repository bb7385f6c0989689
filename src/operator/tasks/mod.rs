//! Tasks that run beside the reconcile loops as long as the operator does. Each ends with the future that runs it.

pub mod chain;
pub mod changes;
pub mod costs;
pub mod denied_senders;
pub mod effective;
pub mod housekeeping;
pub mod incarnation;
pub mod ledger_time;
pub mod notices;
pub mod rebuild;
pub mod sweep;
pub mod upstreams;
pub mod usage;
pub mod write_off;
