//! How fast mail goes through, 5 kB a message: connections reused by 20 sessions, one session alone, and a new
//! connection for each message.

use super::generator::{self, ClientTls, Load, Report};
use super::part::{COPIER, Part, RELAY, SINK, TLS_SINK};
use super::relayed;

/// Per figure.
pub const SECONDS: u64 = 5;
/// As in the measurements of the peers (research, §5).
const OCTETS: usize = 5 * 1024;
const SESSIONS: usize = 20;
const FROM: &str = "load@example.com";

/// One way of sending.
struct Way {
    name: &'static str,
    sessions: usize,
    reuse: bool,
    tls: bool,
}

const WAYS: [Way; 4] = [
    Way { name: "20 sessions, reused", sessions: SESSIONS, reuse: true, tls: false },
    Way { name: "1 session, reused", sessions: 1, reuse: true, tls: false },
    Way { name: "20 sessions, a new connection for each message", sessions: SESSIONS, reuse: false, tls: false },
    Way { name: "20 sessions, reused, TLS", sessions: SESSIONS, reuse: true, tls: true },
];

pub async fn run(seconds: u64) {
    let plain = Part::start(&[SINK]).await;
    let encrypted = Part::start(&[TLS_SINK]).await;
    for way in WAYS {
        println!("{}:", way.name);
        let sink = if way.tls { &encrypted } else { &plain };
        let load = Load {
            address: sink.address,
            sessions: way.sessions,
            seconds,
            reuse: way.reuse,
            tls: way.tls.then(|| ClientTls::new(false)),
            login: None,
            from: FROM.into(),
            message: generator::message_of(OCTETS, FROM),
        };
        let floor = generator::run(&load).await;
        say("straight to the sink", &floor, &floor, None);
        let copier = Part::start(&[COPIER, &sink.address.to_string()]).await;
        let copied = generator::run(&Load { address: copier.address, ..load.clone() }).await;
        say("through a byte copier", &copied, &floor, Some(copier.cpu_seconds()));
        drop(copier);
        let folder = tempfile::tempdir().expect("a folder for the ledger");
        let path = folder.path().to_str().expect("a path in UTF-8");
        let mode = if way.tls { relayed::IMPLICIT } else { relayed::PLAIN };
        // Behind us there is no TLS in any of the ways: what is compared is what clients see.
        let relay = Part::start(&[RELAY, mode, path, &plain.address.to_string()]).await;
        let login = Some((relayed::USERNAME.to_owned(), relayed::PASSWORD.to_owned()));
        let before = relay.cpu_seconds();
        let ours = generator::run(&Load { address: relay.address, login, ..load }).await;
        say("through us, with credits", &ours, &floor, Some(relay.cpu_seconds() - before));
    }
}

fn say(name: &str, report: &Report, floor: &Report, cpu: Option<f64>) {
    let cpu = cpu.map_or(String::new(), |seconds| {
        // The warm-up second burns CPU too, at the same rate.
        let share = report.seconds / (report.seconds + 1.0);
        format!(", {:.2} CPU s per 1,000", seconds * share * 1000.0 / report.messages as f64)
    });
    println!(
        "  {name:24} {:8.0} messages/s, {:.3} of the floor, p50 {:.2} ms, p99 {:.2} ms{cpu}",
        report.rate(),
        report.rate() / floor.rate(),
        report.percentile(0.5),
        report.percentile(0.99),
    );
}
