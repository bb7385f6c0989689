//! Passes on changes of the relays that objects show: their address and their state.

use crate::operator::context::Context;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::plan;

/// Wakes everything when the relay's address changes, because every Secret holds it.
pub async fn of_endpoint(context: &Context) {
    let mut endpoint = context.endpoint.clone();
    endpoint.mark_unchanged();
    while endpoint.changed().await.is_ok() {
        context.wake_everything();
    }
    std::future::pending::<()>().await;
}

/// Passes the relays' state on to every policy's status: at once if a problem begins or ends, and within the budget of
/// the counts if only the number of relays changed.
pub async fn of_relay(context: &Context) {
    let mut relay = context.relay.clone();
    let mut shown = relay.borrow_and_update().clone();
    while relay.changed().await.is_ok() {
        let next = relay.borrow_and_update().clone();
        let urgent = plan::credit_policy::lacks(&shown) != plan::credit_policy::lacks(&next);
        for policy in context.references.policies.state() {
            let what = Ref::Policy(Name::of(policy.as_ref()));
            if urgent { context.queues.wake(&what) } else { context.references.recount(what) }
        }
        shown = next;
    }
    std::future::pending::<()>().await;
}
