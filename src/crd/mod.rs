//! What users write: the three kinds, their schemas, and raw → checked.
