//! How mail leaves.
