//! What is said of the relays, on the status of the policies whose mail goes through them.

use std::time::Duration;

use franking::crd::CreditPolicy;
use franking::operator::{RelayState, Replicas};

use super::harness::alone;
use super::lifecycle::own;
use super::waits::{Conditioned, until};

fn said(policy: &CreditPolicy) -> (String, Option<i32>) {
    let programmed = policy.conditions().iter().find(|condition| condition.type_ == "Programmed").expect("Programmed");
    let relay = policy.status.as_ref().and_then(|status| status.relay.as_ref()).expect("the relay");
    (format!("{}: {}", programmed.reason, programmed.message), relay.ready_replicas)
}

#[tokio::test]
async fn a_policy_says_how_many_relays_are_ready_and_why_their_settings_are_not_in_force() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("relays", None).await;
    // Counts wait for two seconds of the operator's time, which stands still by itself here.
    let passing = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            clock.advance(1);
        }
    });
    let secret = world.ready_key().await;
    let replicas = |ready| Some(Replicas { ready, wanted: 3 });
    let refused = Some("replicas is 0; it must be 1 to 64".to_owned());
    for (state, sentence, ready) in [
        (RelayState { refused: None, replicas: replicas(3) }, "Programmed: the relay knows it", Some(3)),
        (RelayState { refused: None, replicas: replicas(2) }, "Programmed: the relay knows it", Some(2)),
        (RelayState { refused, replicas: replicas(3) }, "RelayInvalid: replicas is 0; it must be 1 to 64", Some(3)),
        (
            RelayState { refused: None, replicas: replicas(0) },
            "RelayNotReady: no relay is ready, of 3 that are wanted",
            Some(0),
        ),
        (RelayState::default(), "Programmed: the relay knows it", None),
    ] {
        running.relay.send_replace(state);
        until(world.policies(), &world.name, sentence, |policy: Option<&CreditPolicy>| {
            (said(policy?) == (sentence.to_owned(), ready)).then_some(())
        })
        .await;
        // What the relays lack is not the policy's fault.
        let policy = world.policies().get(&world.name).await.expect("the policy");
        assert!(policy.conditions().iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    }
    assert!(world.may_send(&secret).await);
    passing.abort();
    world.clear().await;
    running.stop().await;
}
