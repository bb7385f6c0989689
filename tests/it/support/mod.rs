//! What tests start and build with.
