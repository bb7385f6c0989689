//! The directory, ids, usage and the audit trail.
