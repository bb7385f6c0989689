//! The reports of relays about their upstreams.

use jiff::SignedDuration;

use super::world::{Place, World, at, policy_id};
use franking::domain::trouble::{Fault, Sightings, Trouble};
use franking::ledger::store::{Error, Role};

fn trouble(policy: u128, fault: Fault, since: &str) -> Trouble {
    let (upstream, why) = ("smtp.example.com:465".to_owned(), "it refuses our login (535)".to_owned());
    Trouble { policy: policy_id(policy), upstream, fault, why, since: at(since) }
}

pub async fn what_relays_say_of_upstreams_counts_while_they_live(place: &impl Place) {
    let world = World::with(place, None, None, None).await;
    let store = &world.store;
    let seen = async || store.sightings().await.expect("read");
    let mut relays = Vec::new();
    let before = seen().await.relays;
    for name in ["relay-a", "relay-b", "relay-c"] {
        relays.push(store.open_session(Role::Relay, name).await.expect("a session"));
    }
    let living = |gone: u32| before + 3 - gone;
    assert_eq!(seen().await, Sightings { relays: living(0), troubles: vec![] });

    let early = trouble(1, Fault::Unreachable, "2026-11-20T10:00:00Z");
    let late = trouble(1, Fault::RefusesUs, "2026-11-20T10:00:05Z");
    let other = trouble(2, Fault::RefusesUs, "2026-11-20T10:00:01Z");
    store.put_troubles(&relays[0], &[late.clone(), other.clone()]).await.expect("told");
    store.put_troubles(&relays[1], std::slice::from_ref(&early)).await.expect("told");
    let all = vec![early.clone(), late.clone(), other.clone()];
    assert_eq!(seen().await, Sightings { relays: living(0), troubles: all });
    store.put_troubles(&relays[0], std::slice::from_ref(&other)).await.expect("told");
    assert_eq!(seen().await.troubles, [early.clone(), other.clone()], "what is not said any more is gone");

    // A relay that restarts under its name has reported nothing yet, and the previous one's report is gone.
    let anew = store.open_session(Role::Relay, "relay-b").await.expect("a session");
    assert_eq!(seen().await, Sightings { relays: living(0), troubles: vec![other.clone()] });
    let fenced = store.put_troubles(&relays[1], std::slice::from_ref(&early)).await;
    assert!(matches!(fenced, Err(Error::Fenced)), "{fenced:?}");
    store.put_troubles(&anew, std::slice::from_ref(&early)).await.expect("told");
    // Closed, and given up.
    store.close_session(&anew).await.expect("closed");
    assert_eq!(seen().await, Sightings { relays: living(1), troubles: vec![other.clone()] });
    world.clock.advance(120);
    store.heartbeat(&relays[2]).await.expect("alive");
    let operator = store.open_session(Role::Operator, "leader").await.expect("a session");
    store.sweep_sessions(&operator, SignedDuration::from_secs(60)).await.expect("swept");
    assert_eq!(seen().await, Sightings { relays: 1, troubles: vec![] });
    store.put_troubles(&relays[2], std::slice::from_ref(&late)).await.expect("told");
    assert_eq!(seen().await.troubles, [late]);
    store.put_troubles(&relays[2], &[]).await.expect("told");
    assert_eq!(seen().await, Sightings { relays: 1, troubles: vec![] });
}
