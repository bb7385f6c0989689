//! How much the benchmarks do: as much as figures take, or as little as shows that each still runs.

use std::sync::atomic::{AtomicBool, Ordering};

static SMALL: AtomicBool = AtomicBool::new(false);

/// From now on every benchmark is small. Its figures then say nothing.
pub fn shrink() {
    SMALL.store(true, Ordering::Relaxed);
}

/// The amount for figures, or the one that is enough to run.
pub fn sized<T>(full: T, small: T) -> T {
    if SMALL.load(Ordering::Relaxed) { small } else { full }
}
