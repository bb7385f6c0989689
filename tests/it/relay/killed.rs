//! Kill -9 of a relay while the upstream has its messages: two relays as the processes that they are, over one ledger.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use franking::ledger::sqlite::SqliteStore;
use franking::ledger::store::{Role, Store};
use franking::runtime::clock::{Clock as _, SystemClock};
use franking::runtime::relay_config::ListenerMode;
use jiff::SignedDuration;
use tokio::time::{Instant, sleep};

use super::scene::{FROM, MAIL, PASSWORD, SOON, Scene, TO, listener, username};
use crate::support::client::Client;
use crate::support::franking::{DEADLINE, eventually, free_ports, get};
use crate::support::sink::{Act, At};

/// Longer than a relay that lives is ever silent: it beats every five seconds. The operator waits for a minute.
const SILENCE: SignedDuration = SignedDuration::from_secs(12);

/// `franking relay` with a folder of its own, as a pod has.
struct Process {
    child: Child,
    /// Answers after 1 s at the latest, and after 300 s.
    hasty: SocketAddr,
    patient: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Process {
    fn start(scene: &Scene, name: &str) -> Self {
        let [hasty, patient, telemetry] = free_ports().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut config = scene.config.clone();
        config.listeners = [("hasty", hasty, 1), ("patient", patient, 20)]
            .into_iter()
            .map(|(name, address, budget_seconds)| {
                let mut listener = listener(name, ListenerMode::Implicit);
                (listener.address, listener.budget_seconds) = (address, budget_seconds);
                listener
            })
            .collect();
        let folder = scene.folder.path().join(name);
        std::fs::create_dir(&folder).expect("ours");
        std::fs::write(folder.join("relay.yaml"), serde_yaml::to_string(&config).expect("YAML")).expect("ours");
        let log = std::fs::File::create(folder.join("log")).expect("ours");
        let mut command = Command::new(env!("CARGO_BIN_EXE_franking"));
        command.arg("relay").env_clear().env("FRANKING_DATA", &folder).env("FRANKING_NAME", name);
        command.env("FRANKING_TELEMETRY_ADDRESS", telemetry.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(log).spawn().expect("the binary starts");
        eventually("the relay to be ready", DEADLINE, || {
            let said = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(child.try_wait().expect("our own child").is_none(), "it ended:\n{}", said());
            (get(telemetry, "/readyz")?.0 == 200).then_some(())
        });
        Self { child, hasty, patient }
    }

    fn stop(mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(asked.expect("kill is there").success());
        let ended = eventually("the relay to stop", DEADLINE, || self.child.try_wait().expect("our own child"));
        assert_eq!(ended.code(), Some(0));
    }
}

async fn client(address: SocketAddr, scene: &Scene) -> Client {
    let mut client = Client::connect_tls(address, &scene.ca_pem).await;
    client.ask("EHLO client.example").await.is("250 ");
    client.login(&username(1), PASSWORD).await.is("235 2.7.0");
    client
}

async fn deliver(address: SocketAddr, scene: &Scene, message: &str) -> crate::support::client::Reply {
    client(address, scene).await.deliver(FROM, &[TO], message).await
}

fn checked(data: &Path) -> bool {
    let mut check = Command::new(env!("CARGO_BIN_EXE_franking"));
    check.args(["ledger", "check", "--data"]).arg(data).env_clear();
    check.output().expect("the binary starts").status.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_relay_had_at_the_upstream_stays_charged_and_what_was_told_is_known_elsewhere() {
    let mut scene = Scene::new().await;
    scene.relay.take().expect("a relay").drain().await;
    scene.clock.set(SystemClock.now());
    let (doomed, other) = (Process::start(&scene, "relay-0"), Process::start(&scene, "relay-1"));
    let ledger = scene.folder.path().join("ledger.db");
    let leader = SqliteStore::open(&ledger, Arc::new(SystemClock)).expect("the ledger");

    scene.sink.always(At::Final, Act::Stall);
    let told = format!("{MAIL}, and its client was told to come again");
    deliver(doomed.hasty, &scene, &told).await.is("451 4.4.2 the upstream received the message");
    let untold = |n: u32| format!("{MAIL} {n}, and its client waits for the answer");
    let mut waiting = Vec::new();
    for n in 0..3 {
        let mut client = client(doomed.patient, &scene).await;
        for line in [format!("MAIL FROM:<{FROM}>"), format!("RCPT TO:<{TO}>")] {
            client.ask(&line).await.is("250");
        }
        client.ask("DATA").await.is("354");
        client.send(format!("{}\r\n.\r\n", untold(n))).await;
        waiting.push(client);
    }
    scene.sink.wait_for_stalled(4, SOON).await;
    drop(doomed);
    for client in &mut waiting {
        client.closed().await;
    }
    scene.sink.behave();
    // Nobody knows yet that it died.
    deliver(other.patient, &scene, &told).await.is("451 4.4.2 this message is still being sent");

    let session = leader.open_session(Role::Operator, "leader").await.expect("a session");
    let (mut lost, deadline) = (0, Instant::now() + 2 * SOON);
    while lost < 3 {
        assert!(Instant::now() < deadline, "{lost} messages were given up");
        lost += leader.sweep_sessions(&session, SILENCE).await.expect("swept").len();
        sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(lost, 3, "those of which no outcome is written");
    scene.until_usage([4, 0, 0, 0, 4]).await;

    deliver(other.patient, &scene, &told).await.is("250 2.0.0");
    scene.until_usage([4, 1, 0, 0, 3]).await;
    assert_eq!(scene.sink.count(), 1, "sent again, and not charged again");
    // The limit that docs/credits-and-billing.md names: of what was at the upstream and not told, no fingerprint was kept.
    deliver(other.patient, &scene, &untold(0)).await.is("250 2.0.0");
    scene.until_usage([5, 2, 0, 0, 3]).await;
    other.stop();
    assert!(checked(scene.folder.path()));
}
