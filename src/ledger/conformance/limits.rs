//! Limits, periods and time.
