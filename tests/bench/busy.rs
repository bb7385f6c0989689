//! What a session costs that is busy: the relay's memory while a thousand of them send as fast as they are answered.

use std::process::Stdio;
use std::time::Duration;

use tokio::time::interval;

use super::generator::{self, ClientTls, Load};
use super::part::{BUSY, Part, SINK, roomy};
use super::relayed;
use super::size::sized;

pub const SESSIONS: usize = 1_000;
/// Sessions before the first reading, so that code and tables are not counted.
const BEFORE: usize = 10;
const SECONDS: u64 = 10;
const OCTETS: usize = 5 * 1024;
const FROM: &str = "load@example.com";

pub async fn run(sessions: usize) {
    let sink = Part::start(&[SINK]).await;
    let folder = tempfile::tempdir().expect("a folder for the ledger");
    let relay = Part::relay(relayed::IMPLICIT, folder.path(), sink.address, 1, 1).await;
    let (before, _) = peak(&relay, BEFORE).await;
    let (after, said) = peak(&relay, sessions).await;
    let each = (after as f64 - before as f64) / sessions as f64;
    println!("{sessions} TLS sessions that send all the time, {}:", said.trim());
    println!("  relay's resident memory, at most: {before} kB with {BEFORE} of them, {after} kB with all");
    println!("  {each:.1} kB per session");
}

/// The relay's most memory while clients in a process of their own are busy, and their word at the end.
async fn peak(relay: &Part, sessions: usize) -> (u64, String) {
    let [address, sessions] = [relay.address.to_string(), sessions.to_string()];
    let mut command = roomy(&[BUSY, &address, &sessions, &sized(SECONDS, 1).to_string()]);
    let clients = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("starting the clients");
    let mut clients = Box::pin(clients.wait_with_output());
    let mut look = interval(Duration::from_millis(100));
    let mut most = 0;
    loop {
        tokio::select! {
            output = &mut clients => {
                let output = output.expect("the clients' output");
                assert!(output.status.success(), "the clients failed");
                return (most, String::from_utf8_lossy(&output.stdout).into_owned());
            }
            _ = look.tick() => most = most.max(relay.resident_kb()),
        }
    }
}

/// The clients.
pub async fn clients(address: &str, sessions: &str, seconds: &str) {
    let load = Load {
        address: address.parse().expect("the relay's address"),
        sessions: sessions.parse().expect("a number of sessions"),
        seconds: seconds.parse().expect("a number of seconds"),
        reuse: true,
        tls: Some(ClientTls::new(false)),
        password: Some(relayed::PASSWORD.to_owned()),
        keys: 1,
        from: FROM.into(),
        message: generator::message_of(OCTETS, FROM),
    };
    let report = generator::run(&load).await;
    println!("{:.0} messages/s", report.rate());
}
