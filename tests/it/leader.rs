//! Which of several operators works: the lease on a real API server, under the rules of the chart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use franking::operator::state::lease::{Candidate, DURATION, Leadership, RETRY};
use franking::runtime::clock::SystemClock;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::control_plane::ControlPlane;
use crate::support::identity;

/// Everything but the running out of a lease takes milliseconds on a quiet machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// What candidates of one namespace share.
struct Race {
    client: Client,
    namespace: String,
    stop: CancellationToken,
}

impl Race {
    async fn new(namespace: &str) -> Self {
        let (_, client) = identity::operator_apart(ControlPlane::shared(), namespace).await;
        Self { client, namespace: namespace.to_owned(), stop: CancellationToken::new() }
    }

    fn candidate(&self, identity: &str) -> Candidate {
        let name = format!("{}-operator", self.namespace);
        Candidate::new(self.client.clone(), &self.namespace, name, identity.to_owned(), Arc::new(SystemClock))
    }

    async fn win(&self, identity: &str) -> Leadership {
        let won = tokio::time::timeout(DEADLINE, self.candidate(identity).win(&self.stop, |_| {})).await;
        won.unwrap_or_else(|_| panic!("{identity} does not lead")).expect("nobody stopped it")
    }

    async fn holder(&self) -> (Option<String>, i32) {
        let api = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let lease = api.get(&format!("{}-operator", self.namespace)).await.expect("the lease");
        let spec = lease.spec.expect("a spec");
        (spec.holder_identity, spec.lease_transitions.unwrap_or_default())
    }
}

#[tokio::test]
async fn one_leads_and_the_next_follows_at_once_when_it_resigns() {
    let race = Race::new("leader-resigns").await;
    let first = race.win("first").await;
    assert_eq!(race.holder().await, (Some("first".to_owned()), 1));
    let second = race.candidate("second");
    let mut waiting = std::pin::pin!(second.win(&race.stop, |_| {}));
    assert!(tokio::time::timeout(RETRY * 2, &mut waiting).await.is_err(), "two lead");
    assert!(first.leader().confirm().await);
    let resigned = Instant::now();
    first.resign().await;
    let second = tokio::time::timeout(DEADLINE, waiting).await.expect("in time").expect("nobody stopped it");
    assert!(resigned.elapsed() < DURATION, "it waited for the lease to run out");
    assert_eq!(race.holder().await, (Some("second".to_owned()), 2));
    second.resign().await;
    // One that is told to stop while it stands by stops.
    let third = race.win("third").await;
    race.stop.cancel();
    assert!(race.candidate("fourth").win(&race.stop, |_| {}).await.is_none());
    drop(third);
}

#[tokio::test]
async fn a_leader_that_falls_silent_is_followed_when_its_lease_has_run_out_and_not_before() {
    let race = Race::new("leader-silent").await;
    let first = race.win("first").await;
    let silent = Instant::now();
    drop(first);
    race.win("second").await.resign().await;
    let took = silent.elapsed();
    assert!(took >= DURATION && took < DURATION + DEADLINE / 2, "it took {took:?}");
}

#[tokio::test]
async fn a_leader_whose_lease_was_taken_finds_out_by_itself_and_when_it_asks() {
    let race = Race::new("leader-robbed").await;
    let api = Api::<Lease>::namespaced(ControlPlane::shared().admin_client().await, "leader-robbed");
    let first = race.win("first").await;
    // An annotation is no loss.
    let note = json!({"metadata": {"annotations": {"example.com/note": "hello"}}});
    api.patch("leader-robbed-operator", &PatchParams::default(), &Patch::Merge(note)).await.expect("it is taken");
    assert!(first.leader().confirm().await);
    let thief = json!({"spec": {"holderIdentity": "thief"}});
    api.patch("leader-robbed-operator", &PatchParams::default(), &Patch::Merge(&thief)).await.expect("it is taken");
    assert!(!first.leader().confirm().await);
    tokio::time::timeout(DEADLINE, first.leader().lost()).await.expect("it is told");

    let free = json!({"spec": {"holderIdentity": null}});
    api.patch("leader-robbed-operator", &PatchParams::default(), &Patch::Merge(free)).await.expect("it is taken");
    let second = race.win("second").await;
    api.patch("leader-robbed-operator", &PatchParams::default(), &Patch::Merge(thief)).await.expect("it is taken");
    tokio::time::timeout(DEADLINE, second.leader().lost()).await.expect("it finds out by itself");
    // Who lost it leaves it alone.
    drop(second);
    assert_eq!(race.holder().await.0.as_deref(), Some("thief"));
}
