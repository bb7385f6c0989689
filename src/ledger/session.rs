//! Sessions: the processes that write to the ledger.

/// A running process as the ledger knows it. Every write carries it, and a stale epoch is refused: a paused process
/// that wakes after its session was given up changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerSession {
    pub id: i64,
    pub epoch: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Operator,
    Relay,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Relay => "relay",
        }
    }
}
