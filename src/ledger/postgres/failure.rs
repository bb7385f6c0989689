//! The failures of a call to the server.

use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::ledger::store::{Error, State, Undone};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the database failed")]
    Sql(#[from] tokio_postgres::Error),
    #[error("a stored row cannot be read: {0}")]
    Row(String),
    #[error("the session was given up")]
    Fenced,
    #[error("the ledger is held")]
    Held(State),
    #[error("the ledger is another incarnation")]
    Replaced { found: Uuid, expected: Uuid },
    /// Another process wrote the same rows first: a retry of the call will find them.
    #[error("somebody else was faster")]
    Overtaken,
    #[error("there was no answer in time")]
    Late,
    #[error("no connection was free in time")]
    Crowded,
    /// Found while connecting.
    #[error(transparent)]
    Connect(Box<Error>),
}

pub type Op<T> = Result<T, Failure>;

/// The error codes that the functions of the schema raise.
pub mod code {
    pub const FENCED: &str = "FR001";
    pub const DIRECTORY: &str = "FR002";
    pub const SHORT: &str = "FR003";
    pub const HELD: &str = "FR004";
}

impl Failure {
    /// Converts it to the error that the caller gets.
    pub fn of(self, doing: &'static str) -> Error {
        match self {
            Self::Fenced => Error::Fenced,
            Self::Held(state) => Error::Held(state),
            Self::Replaced { found, expected } => Error::Replaced { found, expected },
            Self::Connect(error) => *error,
            Self::Sql(ref error) if error.code() == Some(&SqlState::DISK_FULL) => Error::Full,
            Self::Row(_) => Error::Unavailable { doing, source: Box::new(Undone(Box::new(self))) },
            Self::Sql(ref error) if is_its_own_fault(error) => {
                Error::Unavailable { doing, source: Box::new(Undone(Box::new(self))) }
            }
            Self::Sql(_) | Self::Overtaken | Self::Late | Self::Crowded => {
                Error::Unavailable { doing, source: Box::new(self) }
            }
        }
    }

    /// Returns true if the transaction was rolled back only because of what others did meanwhile.
    pub fn passes(&self) -> bool {
        match self {
            Self::Overtaken => true,
            Self::Sql(error) => error.code().is_some_and(|code| {
                [
                    SqlState::UNIQUE_VIOLATION,
                    SqlState::T_R_SERIALIZATION_FAILURE,
                    SqlState::T_R_DEADLOCK_DETECTED,
                    SqlState::LOCK_NOT_AVAILABLE,
                ]
                .contains(code)
            }),
            Self::Row(_)
            | Self::Fenced
            | Self::Held(_)
            | Self::Replaced { .. }
            | Self::Late
            | Self::Crowded
            | Self::Connect(_) => false,
        }
    }

    /// Returns true if a batch was not what the caller expected: it has to be decided on fresh rows.
    pub fn wants_care(&self) -> bool {
        let raised = |error: &tokio_postgres::Error| {
            error.code().is_some_and(|code| [code::DIRECTORY, code::SHORT, code::HELD].contains(&code.code()))
        };
        self.passes() || matches!(self, Self::Sql(error) if raised(error))
    }

    pub fn is_fence(&self) -> bool {
        matches!(self, Self::Sql(error) if error.code().is_some_and(|code| code.code() == code::FENCED))
    }
}

/// Checks for a value or a statement that the server will refuse again, classes 22 (data), 23 (constraint) and 42
/// (statement); nothing of the call is written.
fn is_its_own_fault(error: &tokio_postgres::Error) -> bool {
    let class = error.code().map(|code| &code.code()[..2]);
    matches!(class, Some("22" | "23" | "42")) || error.code().is_none() && !error.is_closed() && is_conversion(error)
}

/// Checks for a value that could not be converted to the server's type, or back: no byte of it was sent, or all was
/// read.
fn is_conversion(error: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;
    error.source().is_some_and(|source| source.is::<tokio_postgres::types::WrongType>())
}
