//! Passes on changes of the relays that objects show: their address and their state.

use tokio::sync::watch;

use crate::operator::plan;
use crate::operator::plan::endpoint::Endpoint;
use crate::operator::plan::relay_state::RelayState;
use crate::operator::watch::references::References;
use crate::operator::watch::work_queue::WorkQueues;

/// Wakes everything when the relay's address changes, because every Secret holds it.
pub async fn of_endpoint(mut endpoint: watch::Receiver<Endpoint>, references: &References, queues: &WorkQueues) {
    endpoint.mark_unchanged();
    while endpoint.changed().await.is_ok() {
        references.wake_all(queues);
    }
    std::future::pending::<()>().await;
}

/// Passes the relays' state on to every policy's status: at once if a problem begins or ends, and within the budget of
/// the counts if only the number of relays changed.
pub async fn of_relay(mut relay: watch::Receiver<RelayState>, references: &References, queues: &WorkQueues) {
    let mut shown = relay.borrow_and_update().clone();
    while relay.changed().await.is_ok() {
        let next = relay.borrow_and_update().clone();
        let urgent = plan::credit_policy::lacks(&shown) != plan::credit_policy::lacks(&next);
        if urgent {
            references.wake_policies(queues)
        } else {
            references.recount_policies()
        }
        shown = next;
    }
    std::future::pending::<()>().await;
}
