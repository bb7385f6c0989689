//! The identity and the state of a ledger.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Minted with the ledger.
    pub installation: Uuid,
    /// UID of the cluster's `kube-system` namespace, or of its substitute.
    pub cluster: String,
    /// Changes when an administrator accepts a restored ledger.
    pub incarnation: Uuid,
    pub schema_version: i64,
    pub state: State,
    pub progress: Progress,
}

impl Identity {
    pub fn tag(&self) -> Tag {
        Tag { installation: self.installation, incarnation: self.incarnation, state: self.state }
    }
}

/// The state of a ledger, which decides whether mail may be charged to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Open,
    /// No message is charged or judged by it until an administrator accepts it.
    Held(Because),
    /// Accepted: the directory and the used credits are being restored into it.
    Rebuilding,
}

/// The reason why a ledger is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It was made where one was lost.
    Empty,
    /// `franking ledger restore` put it there.
    Restored,
    /// Another file was put in its place while it was in use.
    Swapped,
    /// It is older than the state in which it was last seen.
    WentBack,
}

impl State {
    pub const ALL: [Self; 6] = [
        Self::Open,
        Self::Rebuilding,
        Self::Held(Because::Empty),
        Self::Held(Because::Restored),
        Self::Held(Because::Swapped),
        Self::Held(Because::WentBack),
    ];

    /// Returns the word that the ledger stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Rebuilding => "rebuilding",
            Self::Held(Because::Empty) => "empty",
            Self::Held(Because::Restored) => "restored",
            Self::Held(Because::Swapped) => "swapped",
            Self::Held(Because::WentBack) => "went_back",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Rebuilding => "it was accepted and is being rebuilt",
            Self::Held(Because::Empty) => "it is empty where there was one",
            Self::Held(Because::Restored) => "it was restored from a backup",
            Self::Held(Because::Swapped) => "another one was put in its place while it was in use",
            Self::Held(Because::WentBack) => "it is older than what was seen of it",
        })
    }
}

/// The progress of a ledger: three of its numbers that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Epoch of the directory.
    pub config_epoch: i64,
    /// Number of the last event in the audit trail.
    pub event: i64,
    /// Count of the figures' changes: it grows with what is sent.
    pub moved: i64,
}

impl Progress {
    /// Returns true if a ledger with this progress may once have been at `earlier`.
    pub fn reaches(self, earlier: Self) -> bool {
        self.config_epoch >= earlier.config_epoch && self.event >= earlier.event && self.moved >= earlier.moved
    }
}

/// The ledger that answered a request, and whether mail may be judged by the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    pub installation: Uuid,
    pub incarnation: Uuid,
    pub state: State,
}
