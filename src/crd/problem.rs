//! A field of a spec that cannot be used, and what to write instead.

use std::fmt;

/// A mistake in a spec, and what to write instead. It becomes the message of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path from the object's root, such as `spec.allowFrom[2]`.
    pub field: String,
    /// A sentence that says how to correct it.
    pub fix: String,
}

impl Problem {
    pub(crate) fn new(field: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { field: field.into(), fix: fix.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.fix)
    }
}
