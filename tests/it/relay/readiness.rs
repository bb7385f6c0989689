//! `/readyz`: each reason for which a relay is not ready is in its body, in words; and so is what is wrong with one that
//! is ready all the same.

use franking::relay::run;
use franking::runtime::health::Health;
use franking::runtime::http::{Port, Telemetry};
use franking::runtime::metrics::Registry;
use franking::runtime::relay_config::LedgerAddress;
use rusqlite::Connection;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::scene::{FROM, MAIL, SOON, Scene, TO};
use crate::support::franking::get;

/// What a probe hears.
struct Probe {
    address: std::net::SocketAddr,
    serving: JoinHandle<std::convert::Infallible>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Probe {
    async fn of(health: &Health) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        Self {
            address,
            serving: tokio::spawn(Telemetry::new(Registry::new(), health.clone()).serve(listener, Port::Metrics)),
        }
    }

    async fn readyz(&self) -> (u16, String) {
        let address = self.address;
        tokio::task::spawn_blocking(move || get(address, "/readyz")).await.expect("no panic").expect("an answer")
    }

    /// Waits until the status is `status` and one line of the body has all of `words`.
    async fn says(&self, status: u16, words: &[&str]) {
        let deadline = Instant::now() + SOON;
        loop {
            let (found, body) = self.readyz().await;
            let is_said = body.lines().any(|line| words.iter().all(|word| line.contains(word)));
            if found == status && is_said {
                return;
            }
            assert!(Instant::now() < deadline, "{found}, and not {words:?} in:\n{body}");
            sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// A relay that starts over the scene's folder, as a process would.
struct Role {
    probe: Probe,
    stop: CancellationToken,
    task: JoinHandle<Result<(), franking::relay::Error>>,
}

impl Role {
    /// The scene's own relay makes room for it.
    async fn of(scene: &mut Scene) -> Self {
        if let Some(relay) = scene.relay.take() {
            relay.drain().await;
        }
        let mut dependencies = scene.dependencies();
        (dependencies.registry, dependencies.health) = (Registry::new(), Health::default());
        let (probe, stop) = (Probe::of(&dependencies.health).await, CancellationToken::new());
        Self { probe, stop: stop.clone(), task: tokio::spawn(run(dependencies, stop)) }
    }

    async fn ends_well(self) {
        self.stop.cancel();
        timeout(SOON, self.task).await.expect("in time").expect("no panic").expect("a stop in good order");
    }
}

fn ledger_of(scene: &Scene) -> Connection {
    Connection::open(scene.folder.path().join("ledger.db")).expect("the ledger's file")
}

#[tokio::test]
async fn a_relay_without_settings_or_with_wrong_ones_names_the_file_and_the_field() {
    let mut scene = Scene::new().await;
    std::fs::remove_file(scene.config_file()).expect("removed");
    let role = Role::of(&mut scene).await;
    role.probe.says(503, &["relay: ", "waiting for ", "relay.yaml to be written"]).await;
    let good = scene.config.clone();
    scene.config.limits.drain_seconds = 19;
    scene.write_config();
    role.probe.says(503, &["relay: ", "relay.yaml: listeners: budgetSeconds of", "limits.drainSeconds (19)"]).await;
    scene.config = good;
    scene.write_config();
    role.probe.says(200, &["ok"]).await;
    role.ends_well().await;
}

#[tokio::test]
async fn a_relay_without_its_certificate_names_the_file() {
    let mut scene = Scene::new().await;
    let (here, away) = (scene.folder.path().join("tls.crt"), scene.folder.path().join("away"));
    std::fs::rename(&here, &away).expect("renamed");
    let role = Role::of(&mut scene).await;
    role.probe.says(503, &["relay: loading the certificates of ", "tls.crt"]).await;
    std::fs::rename(&away, &here).expect("renamed");
    role.probe.says(200, &["ok"]).await;
    role.ends_well().await;
}

#[tokio::test]
async fn what_is_refused_while_it_runs_is_noted_and_the_relay_stays_ready() {
    let mut scene = Scene::new().await;
    let probe = Probe::of(&scene.health).await;
    let good = scene.config.clone();
    scene.config.listeners.clear();
    scene.write_config();
    probe.says(200, &["relay: keeping the running settings: ", "listeners is empty"]).await;
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("250");
    scene.config = good;
    scene.write_config();
    scene.until("nothing is noted", async |scene| scene.health.notes().is_empty()).await;
    assert_eq!(probe.readyz().await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn a_ledger_that_does_not_answer_at_the_start_is_waited_for_and_said() {
    let mut scene = Scene::new().await;
    // Nobody listens on the discard port of this machine.
    let url = "postgresql://franking:s3cret@127.0.0.1:9/franking".to_owned();
    scene.config.ledger = LedgerAddress::Postgres { url, single_node: true };
    scene.write_config();
    let role = Role::of(&mut scene).await;
    role.probe.says(503, &["relay: the ledger does not answer: "]).await;
    assert!(!role.probe.readyz().await.1.contains("s3cret"));
    role.ends_well().await;
}

#[tokio::test]
async fn a_directory_that_is_older_than_two_seconds_is_said_with_what_keeps_it() {
    let scene = Scene::new().await;
    let probe = Probe::of(&scene.health).await;
    let thief = ledger_of(&scene);
    // The epoch moves, so that the relay looks for what is new.
    thief
        .execute_batch("ALTER TABLE directory RENAME TO stolen; UPDATE meta SET config_epoch = config_epoch + 1")
        .expect("no directory");
    probe.says(503, &["relay directory: ", "not read from the ledger for more than 2 s", ": reading "]).await;
    thief.execute_batch("ALTER TABLE stolen RENAME TO directory").expect("the directory");
    probe.says(200, &["ok"]).await;
}

#[tokio::test]
async fn a_ledger_that_is_held_or_not_ours_is_noted_because_no_other_relay_could_do_better() {
    let mut scene = Scene::new().await;
    let probe = Probe::of(&scene.health).await;
    ledger_of(&scene).execute_batch("UPDATE meta SET state = 'restored'").expect("held");
    probe.says(200, &["relay directory: the ledger may not be used", "it was restored from a backup"]).await;
    ledger_of(&scene).execute_batch("UPDATE meta SET state = 'open'").expect("accepted");
    scene.until("nothing is noted", async |scene| scene.health.notes().is_empty()).await;
    scene.client().await.deliver(FROM, &[TO], MAIL).await.is("250");

    scene.config.installation = Uuid::from_u128(99);
    scene.write_config();
    let role = Role::of(&mut scene).await;
    let ours = Uuid::from_u128(99).to_string();
    role.probe.says(200, &["relay directory: the ledger may not be used", "belongs to installation", &ours]).await;
    role.ends_well().await;
}

#[tokio::test]
async fn a_relay_that_stops_says_so_to_the_last() {
    let mut scene = Scene::new().await;
    let probe = Probe::of(&scene.health).await;
    let mut sending = scene.stalled().await;
    let drain = tokio::spawn(scene.relay.take().expect("a relay").drain());
    probe.says(503, &["relay: draining"]).await;
    scene.sink.release();
    sending.reply().await.is("250");
    timeout(SOON, drain).await.expect("drained in time").expect("no panic");
    assert_eq!(probe.readyz().await.0, 503, "the endpoint goes when the process does");
}
