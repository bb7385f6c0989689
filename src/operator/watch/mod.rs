//! Watches of the API server, and the work queues that they fill.

pub mod feed;
pub mod follow;
pub mod marks;
pub mod password_pauses;
pub mod references;
pub mod secret_watches;
pub mod work_queue;
