//! The errors of the ledger.

use uuid::Uuid;

use super::identity::State;

/// The reason why the ledger did not answer. Every variant is temporary for a sender (4xx), and exhaustive matches say
/// so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine could not be reached or failed; nothing is known about the call.
    #[error("{doing}")]
    Unavailable {
        doing: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk is full. Nothing was written; it clears when there is room.
    #[error("the ledger's disk is full")]
    Full,
    /// This session was given up or replaced: the process must open a new one before it writes again.
    #[error("the ledger gave this session up")]
    Fenced,
    /// Not the ledger that this installation knows.
    #[error("the ledger belongs to installation {found}, expected {expected}")]
    Foreign { found: Uuid, expected: Uuid },
    /// Ours, but not the one to work with: lost and made anew, restored, or accepted since.
    #[error("the ledger is of incarnation {found}, expected {expected}")]
    Replaced { found: Uuid, expected: Uuid },
    /// No message is charged or judged until an administrator accepts the ledger. Nothing was written.
    #[error("the ledger is held: {0}")]
    Held(State),
    /// Its schema belongs to a release that this binary does not know.
    #[error("the ledger has schema version {found}, this release reads {oldest} to {newest}")]
    Schema { found: i64, oldest: i64, newest: i64 },
    /// It cannot be used where it is or as it is: an administrator has to act.
    #[error("the ledger {path} cannot be used: {why}")]
    Unfit { path: String, why: String },
}

/// The source of an [`Error::Unavailable`] whose call failed because of itself and was rolled back: nothing of it is
/// written, and other calls go on. A retry would fail in the same way.
#[derive(Debug, thiserror::Error)]
#[error("the call was undone")]
pub struct Undone(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl Error {
    /// Returns true if the call failed because of itself, so that nothing is left open.
    pub fn is_undone(&self) -> bool {
        match self {
            Self::Unavailable { source, .. } => source.is::<Undone>(),
            Self::Full
            | Self::Fenced
            | Self::Foreign { .. }
            | Self::Replaced { .. }
            | Self::Held(_)
            | Self::Schema { .. }
            | Self::Unfit { .. } => false,
        }
    }
}

impl Error {
    /// Returns the error for each message of a batch that certainly wrote nothing.
    pub fn of_each(&self) -> Self {
        match self {
            Self::Held(state) => Self::Held(*state),
            Self::Foreign { found, expected } => Self::Foreign { found: *found, expected: *expected },
            Self::Replaced { found, expected } => Self::Replaced { found: *found, expected: *expected },
            // Calls with the other errors are retried until there is an answer, so only a full disk is left here.
            Self::Full | Self::Fenced | Self::Unavailable { .. } | Self::Schema { .. } | Self::Unfit { .. } => {
                Self::Full
            }
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;
