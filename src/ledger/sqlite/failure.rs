//! The failures inside a transaction, before it is known which call they belong to.

use std::sync::Arc;

use rusqlite::ErrorCode;
use uuid::Uuid;

use crate::ledger::store::{Error, State, Undone};

/// A failure. It is cloned to every call of a transaction that failed as a whole.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    #[error("the database failed")]
    Sql(#[source] Arc<rusqlite::Error>),
    #[error("a stored row cannot be read: {0}")]
    Row(String),
    #[error("the session was given up")]
    Fenced,
    #[error("the ledger is held")]
    Held(State),
    #[error("the file belongs to another installation")]
    Foreign { found: Uuid, expected: Uuid },
    #[error("the ledger is another incarnation")]
    Replaced { found: Uuid, expected: Uuid },
    /// The file at the path cannot be used: nothing was written.
    #[error("the ledger cannot be used: {0}")]
    Gone(String),
    #[error("the operation panicked")]
    Panicked,
    #[error("too many calls are waiting")]
    Crowded,
    #[error("the ledger's thread ended")]
    Stopped,
}

pub type Op<T> = Result<T, Failure>;

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(Arc::new(error))
    }
}

impl Failure {
    /// Converts it to the error that the caller gets.
    pub fn of(self, doing: &'static str) -> Error {
        match &self {
            Self::Fenced => Error::Fenced,
            Self::Held(state) => Error::Held(*state),
            Self::Foreign { found, expected } => Error::Foreign { found: *found, expected: *expected },
            Self::Replaced { found, expected } => Error::Replaced { found: *found, expected: *expected },
            Self::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Error::Full,
            Self::Row(_) | Self::Panicked | Self::Gone(_) => {
                Error::Unavailable { doing, source: Box::new(Undone(Box::new(self))) }
            }
            Self::Sql(_) if !self.spoils_transaction() => {
                Error::Unavailable { doing, source: Box::new(Undone(Box::new(self))) }
            }
            Self::Sql(_) | Self::Crowded | Self::Stopped => Error::Unavailable { doing, source: Box::new(self) },
        }
    }

    /// Returns true if the transaction around the operation cannot be trusted any more. A constraint or a row that
    /// cannot be read concerns one operation only.
    pub fn spoils_transaction(&self) -> bool {
        match self {
            Self::Sql(error) => !matches!(
                error.sqlite_error_code(),
                // None: a conversion, a missing row, a wrong number of parameters.
                None | Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
            ),
            Self::Gone(_) => true,
            Self::Row(_)
            | Self::Fenced
            | Self::Held(_)
            | Self::Foreign { .. }
            | Self::Replaced { .. }
            | Self::Panicked
            | Self::Crowded
            | Self::Stopped => false,
        }
    }
}
