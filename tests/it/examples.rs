//! The examples: what a user copies must work.
