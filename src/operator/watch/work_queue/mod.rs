//! The work queue of one kind: decides which object has its next pass, and when.
//!
//! kube's `applier` takes waiting objects in no particular order, so a tenant with a thousand new keys is ahead of
//! another's revocation nine hundred and ninety-nine times out of a thousand. Here work is taken in turn by namespace,
//! and changes that stop a sender go first. It must never run two passes over one object at once, lose a wake, or retry
//! a failed object before its back-off ends, unless a change may have fixed it.

mod queue;
mod queues;
mod schedule;
#[cfg(test)]
mod tests;
mod turns;

pub use queue::WorkQueue;
pub use queues::WorkQueues;
pub use schedule::{Cause, Places};
pub use turns::Turns;
