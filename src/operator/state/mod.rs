//! State that passes and tasks share, one type per file. No file here starts a task.

pub mod awaiting_policy;
pub mod costs;
pub mod deletions;
pub mod denied_senders;
pub mod edits;
pub mod expectations;
pub mod guard;
pub mod in_service;
pub mod index;
pub mod lease;
pub mod ledger_client;
pub mod ledger_clock;
pub mod notices;
pub mod shown;
pub mod status_queue;
pub mod upstreams;
