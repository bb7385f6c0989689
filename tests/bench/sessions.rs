//! What a session costs that does nothing: memory of the relay with ten thousand TLS sessions, each of which has logged
//! in, sent one message and fallen silent.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::generator::{self, ClientTls, Load};
use super::part::{IDLE, Part, SINK, roomy};
use super::relayed;

pub const SESSIONS: usize = 10_000;
/// The goal of the relay's design.
const GOAL_KB: f64 = 40.0;
/// Sessions that are there before the first reading, so that code and tables are not counted.
const BEFORE: usize = 100;
/// Longer than the relay takes to notice that a session is silent.
const SILENCE: Duration = Duration::from_secs(5);
/// Handshakes at a time.
const AT_ONCE: usize = 20;
/// How often a session is tried, and the pause before the next try.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
const FROM: &str = "load@example.com";

pub async fn run(sessions: usize) {
    let sink = Part::start(&[SINK]).await;
    let folder = tempfile::tempdir().expect("a folder for the ledger");
    let relay = Part::relay(relayed::IMPLICIT, folder.path(), sink.address, 1, 1).await;
    let address = relay.address.to_string();
    let first = Idle::start(&address, BEFORE).await;
    let before = relay.resident_kb();
    let all = Idle::start(&address, sessions).await;
    let after = relay.resident_kb();
    let each = (after as f64 - before as f64) / sessions as f64;
    println!("{sessions} idle TLS sessions, each after its login and one message of 5 kB:");
    println!("  relay's resident memory: {before} kB with {BEFORE} of them, {after} kB with all");
    println!("  {each:.1} kB per session, {:.2} of the goal of {GOAL_KB} kB", each / GOAL_KB);
    drop((first, all));
}

/// Silent clients in a process of their own. They go with this value.
struct Idle {
    _child: tokio::process::Child,
}

impl Idle {
    async fn start(address: &str, sessions: usize) -> Self {
        let mut command = roomy(&[IDLE, address, &sessions.to_string()]);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("starting the clients");
        let stdout = child.stdout.take().expect("the clients' output");
        let word = BufReader::new(stdout).lines().next_line().await.expect("the clients' word");
        assert_eq!(word.as_deref(), Some("silent"), "the clients failed; their word is on the left");
        Self { _child: child }
    }
}

/// A session after its login and its message. On a crowded machine one or another of ten thousand is too late.
async fn opened(load: &Load) -> io::Result<generator::Client> {
    let mut tries = 0;
    loop {
        let session = async {
            let mut client = generator::Client::open(load, 0).await?;
            client.send(load).await?;
            Ok(client)
        };
        tries += 1;
        match session.await {
            Err(error) if tries < TRIES => {
                eprintln!("a session failed and is tried again: {error}");
                tokio::time::sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}

/// The clients: opens their sessions, sends a message on each, says so, and keeps quiet.
pub async fn idle(address: &str, sessions: &str) {
    let load = Load {
        address: address.parse().expect("the relay's address"),
        sessions: 1,
        seconds: 0,
        reuse: true,
        tls: Some(ClientTls::new(false)),
        password: Some(relayed::PASSWORD.to_owned()),
        keys: 1,
        from: FROM.into(),
        message: generator::message_of(5 * 1024, FROM),
    };
    let gate = std::sync::Arc::new(Semaphore::new(AT_ONCE));
    let mut opening = JoinSet::new();
    for _ in 0..sessions.parse().expect("a number of sessions") {
        let (load, gate) = (load.clone(), gate.clone());
        opening.spawn(async move {
            let _turn = gate.acquire().await.expect("nobody closes it");
            opened(&load).await
        });
    }
    let opened: io::Result<Vec<generator::Client>> = opening.join_all().await.into_iter().collect();
    let clients = match opened {
        Ok(clients) => clients,
        Err(error) => {
            println!("a session failed {TRIES} times, at last with: {error}");
            return;
        }
    };
    tokio::time::sleep(SILENCE).await;
    println!("silent");
    std::future::pending::<()>().await;
    drop(clients);
}
