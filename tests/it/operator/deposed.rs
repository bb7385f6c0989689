//! What an operator says that was paused in the middle of its work and goes on after another one leads: nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use franking::crd::CreditPolicy;
use franking::ledger::store::Store;
use franking::operator::Error;
use franking::operator::state::lease::Candidate;
use franking::runtime::clock::{Clock, ManualClock, SystemClock};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::fuse::Fuse;
use super::harness::{DEADLINE, Running, SYSTEM, World, alone, plane, store};
use super::waits::ready;

/// An operator that leads, once the lease is free.
async fn leads(identity: &str, ledger: Arc<dyn Store>, clock: ManualClock) -> Running {
    let client = plane().control.admin_client().await;
    let (name, identity) = ("deposed".to_owned(), identity.to_owned());
    let candidate = Candidate::new(client, SYSTEM, name, identity, Arc::new(SystemClock));
    let stop = CancellationToken::new();
    let won = tokio::time::timeout(DEADLINE, candidate.win(&stop, |_| {})).await;
    let leadership = won.expect("it leads in time").expect("nobody stopped it");
    Running::start_as(Some(leadership), Fuse::after(None), plane().kubeconfig(), ledger, Arc::new(clock)).await
}

/// The same on a thread of its own, that stands still from when it takes what is sent until that is dropped: as a process
/// does between SIGSTOP and SIGCONT.
async fn leads_apart(
    ledger: Arc<dyn Store>,
    clock: ManualClock,
) -> (Running, mpsc::UnboundedSender<std::sync::mpsc::Receiver<()>>) {
    let (started, running) = oneshot::channel();
    let (pause, mut pauses) = mpsc::unbounded_channel::<std::sync::mpsc::Receiver<()>>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let running = leads("old", ledger, clock).await;
            assert!(started.send(running).is_ok(), "the test waits for it");
            while let Some(resumed) = pauses.recv().await {
                // The other end is dropped.
                let _ = resumed.recv();
            }
        });
    });
    (running.await.expect("it starts"), pause)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_lost_its_lease_while_it_was_paused_writes_no_status() {
    let _turn = alone().await;
    let control = tokio::task::spawn_blocking(|| &plane().control).await.expect("a control plane");
    let folder = tempfile::tempdir().expect("a folder");
    let clock = ManualClock::new(SystemClock.now());
    let ledger: Arc<dyn Store> = store(folder.path(), Arc::new(clock.clone()));
    let client = control.admin_client().await;
    let world = World::new(client, ledger.clone(), Arc::new(clock.clone()), "deposed").await;
    let (mut old, pause) = leads_apart(ledger.clone(), clock.clone()).await;
    world.ready_key().await;

    // It is paused in the middle of a pass over an edit, and another one leads.
    old.ledger.policies.shut();
    world.plain_policy("deposed", json!({"pool": {"credits": 9}})).await;
    old.ledger.policies.reached().await;
    let (resume, resumed) = std::sync::mpsc::channel();
    pause.send(resumed).expect("it runs");
    let next = leads("next", ledger, clock).await;
    let standing = ready(world.policies(), "deposed").await;

    // It goes on, and its pass fails: by what it knows the ledger does not answer.
    let begun = old.fuse.statuses_begun();
    old.ledger.down.store(true, Ordering::SeqCst);
    old.ledger.policies.open();
    drop(resume);
    assert!(matches!(old.ended().await, Err(Error::Deposed(_))), "another one leads");
    assert_eq!(old.fuse.statuses_begun(), begun, "it wrote a status although another one leads");
    let after = world.policies().get("deposed").await.expect("the policy");
    let conditions = |policy: CreditPolicy| policy.status.map(|status| status.conditions);
    assert_eq!(conditions(after), conditions(standing));
    world.clear_quickly().await;
    next.stop().await;
}
