//! The operator killed after its i-th write, for every i, and started again: the end is always the same.

use std::sync::Arc;

use franking::runtime::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use super::harness::{Plane, Running, World, alone, plane, store};
use super::waits::{delete, gone, merge_patch, ready, shape, text, until};

/// What is done to the cluster, and how its end is waited for.
#[derive(Clone, Copy, Debug)]
enum Scenario {
    /// A policy, an account and a key from nothing.
    Made,
    /// A rotation of a key that stands.
    Rotated,
    /// A password that somebody edited.
    Edited,
    /// A Secret of another name.
    Renamed,
    /// The key and its account deleted.
    Deleted,
}

impl Scenario {
    /// What stands before, undisturbed.
    async fn prepare(self, world: &World) {
        match self {
            Self::Made => {}
            Self::Rotated | Self::Edited | Self::Renamed | Self::Deleted => drop(world.ready_key().await),
        }
    }

    async fn act(self, world: &World) {
        match self {
            Self::Made => {
                world.plain_policy(&world.name, json!({})).await;
                world.account("account", json!({})).await;
                world.key("key", "account", json!({})).await;
            }
            Self::Rotated => {
                let rotation = json!({"rotation": {"restartedAt": "2026-01-01T00:00:00Z"}});
                world.key("key", "account", rotation).await;
            }
            Self::Edited => {
                merge_patch(&world.secrets(), "key", json!({"stringData": {"password": "chosen by hand"}})).await;
            }
            Self::Renamed => world.key("key", "account", json!({"secret": {"name": "smtp"}})).await,
            Self::Deleted => {
                delete(&world.keys(), "key").await;
                delete(&world.accounts(), "account").await;
            }
        }
    }

    /// Waits for the end and describes it, without what differs between any two runs.
    async fn end(self, world: &World) -> Value {
        let secret = match self {
            Self::Made => "key",
            Self::Rotated => {
                until(world.keys(), "key", "rotated", |key| {
                    let credential = key?.status.as_ref()?.credential.clone()?;
                    (credential.restarted_at.is_some() && credential.previous_valid_until.is_some()).then_some(())
                })
                .await;
                "key"
            }
            Self::Edited => {
                until(world.secrets(), "key", "another password", |secret| {
                    secret.filter(|secret| text(secret)["password"] != "chosen by hand").map(drop)
                })
                .await;
                until(world.keys(), "key", "an overlap", |key| {
                    key?.status.as_ref()?.credential.as_ref()?.previous_valid_until.clone()
                })
                .await;
                "key"
            }
            Self::Renamed => {
                until(world.secrets(), "smtp", "made", |secret| secret.map(drop)).await;
                gone(world.secrets(), "key").await;
                "smtp"
            }
            Self::Deleted => {
                gone(world.keys(), "key").await;
                gone(world.accounts(), "account").await;
                gone(world.secrets(), "key").await;
                return shape(world).await;
            }
        };
        ready(world.keys(), "key").await;
        ready(world.accounts(), "account").await;
        ready(world.policies(), &world.name).await;
        let live = world.secrets().get(secret).await.expect("the secret");
        assert!(world.may_send(&live).await, "{self:?}: the pods' password does not work");
        shape(world).await
    }
}

struct Run {
    end: Value,
    /// Whether the operator came to its i-th write at all.
    killed: bool,
}

/// One run of a scenario with the operator killed after `stop_after` writes.
async fn run(plane: &'static Plane, scenario: Scenario, name: &str, stop_after: Option<i64>) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ledger = store(folder.path(), clock.clone());
    let world = World::new(plane.control.admin_client().await, ledger.clone(), clock.clone(), name).await;
    let start = |after| Running::start(plane.kubeconfig(), ledger.clone(), clock.clone(), after);
    let undisturbed = start(None).await;
    scenario.prepare(&world).await;
    undisturbed.stop().await;

    let operator = start(stop_after).await;
    scenario.act(&world).await;
    let killed = tokio::select! {
        biased;
        () = operator.fuse.blows() => true,
        _ = scenario.end(&world) => false,
    };
    operator.fuse.disarm();
    let survivor = if killed {
        operator.kill().await;
        start(None).await
    } else {
        operator
    };
    let end = scenario.end(&world).await;
    let check = ledger.check().await.expect("the ledger answers");
    assert!(check.is_empty(), "{check:?}");
    world.clear_quickly().await;
    survivor.stop().await;
    Run { end, killed }
}

async fn every_write(scenario: Scenario, name: &str) {
    let _turn = alone().await;
    let plane = plane();
    let whole = run(plane, scenario, &format!("{name}-whole"), None).await;
    let mut kills = 0;
    for write in 1.. {
        assert!(write < 40, "a scenario of so many writes is a loop");
        let interrupted = run(plane, scenario, &format!("{name}-{write}"), Some(write)).await;
        assert_eq!(interrupted.end, whole.end, "{scenario:?} killed after write {write}");
        if !interrupted.killed {
            break;
        }
        kills += 1;
    }
    assert!(kills >= 3, "{scenario:?} was killed only {kills} times");
}

#[tokio::test]
async fn making_survives_a_kill_after_every_write() {
    every_write(Scenario::Made, "kill-made").await;
}

#[tokio::test]
async fn rotating_survives_a_kill_after_every_write() {
    every_write(Scenario::Rotated, "kill-rotated").await;
}

#[tokio::test]
async fn an_edited_password_survives_a_kill_after_every_write() {
    every_write(Scenario::Edited, "kill-edited").await;
}

#[tokio::test]
async fn renaming_survives_a_kill_after_every_write() {
    every_write(Scenario::Renamed, "kill-renamed").await;
}

#[tokio::test]
async fn deleting_survives_a_kill_after_every_write() {
    every_write(Scenario::Deleted, "kill-deleted").await;
}
