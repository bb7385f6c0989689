//! The work queue of one kind: which object has its next pass, and when.
//!
//! kube's `applier` takes the objects that wait in no order at all, so a tenant with a thousand new keys is before
//! another's revocation nine hundred and ninety-nine times of a thousand. Here work is taken in turn by namespace, and what stops a
//! sender goes first. What it must never do: run two passes over one object at once, lose a wake, or try an object that
//! fails sooner than its back-off says, unless something changed that may mend it.

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
