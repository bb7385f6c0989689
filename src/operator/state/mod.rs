//! State that passes and tasks share, one type per file. No file here starts a task.

pub mod awaiting_policy;
pub mod config_hash;
pub mod costs;
pub mod currencies;
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
pub mod orphan_messages;
pub mod own_statuses;
pub mod registered_ids;
pub mod seeds;
pub mod status_permits;
pub mod status_queue;
pub mod upstreams;
