//! Specs become Secrets, directory entries and status: observe, plan (pure), apply, report.
