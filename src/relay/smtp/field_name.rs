//! The header fields that name a sender (RFC 5322 §3.6.2 and §3.6.6).

use std::fmt;

/// The fields that name a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldName {
    From,
    Sender,
    ResentFrom,
    ResentSender,
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::From => "From",
            Self::Sender => "Sender",
            Self::ResentFrom => "Resent-From",
            Self::ResentSender => "Resent-Sender",
        })
    }
}
