//! How fast mail goes through, beside the floor (straight to the sink), a hop that only copies, and Postfix's
//! before-queue proxy, all from the same run.

use super::figures::{Contender, Meter, compare};
use super::generator::{self, ClientTls, Load};
use super::part::{COPIER, Part, SINK, TLS_SINK};
use super::peer::Peer;
use super::relayed;

/// Per figure and round.
pub const SECONDS: u64 = 5;
/// As in the measurements of the peers (research, §5).
const OCTETS: usize = 5 * 1024;
const LARGE: usize = 1024 * 1024;
const SESSIONS: usize = 20;
const FROM: &str = "load@example.com";

/// What a client does about encryption.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tls {
    None,
    /// Comes back with the ticket of its last visit.
    Resumed,
    /// Has no ticket.
    First,
}

/// One way of sending.
struct Way {
    name: &'static str,
    sessions: usize,
    reuse: bool,
    tls: Tls,
    octets: usize,
}

const REUSED: Way =
    Way { name: "20 sessions, reused", sessions: SESSIONS, reuse: true, tls: Tls::None, octets: OCTETS };

const WAYS: [Way; 7] = [
    REUSED,
    Way { name: "1 session, reused", sessions: 1, ..REUSED },
    Way { name: "20 sessions, a new connection for each message", reuse: false, ..REUSED },
    Way { name: "20 sessions, reused, TLS", tls: Tls::Resumed, ..REUSED },
    Way { name: "20 sessions, TLS and login for each message", reuse: false, tls: Tls::First, ..REUSED },
    Way { name: "20 sessions, TLS resumed and login for each message", reuse: false, tls: Tls::Resumed, ..REUSED },
    Way { name: "4 sessions, reused, 1 MB", sessions: 4, octets: LARGE, ..REUSED },
];

/// All ways of sending, or those whose name has `only` in it.
pub async fn run(seconds: u64, only: &str) {
    let plain = Part::start(&[SINK]).await;
    let encrypted = Part::start(&[TLS_SINK]).await;
    for way in WAYS.iter().filter(|way| way.name.contains(only)) {
        println!("{}:", way.name);
        compare_way(way, seconds, &plain, &encrypted).await;
    }
}

async fn compare_way(way: &Way, seconds: u64, plain: &Part, encrypted: &Part) {
    let (sink, mode, tls) = match way.tls {
        Tls::None => (plain, relayed::PLAIN, None),
        Tls::Resumed => (encrypted, relayed::IMPLICIT, Some(ClientTls::new(false))),
        Tls::First => (encrypted, relayed::IMPLICIT, Some(ClientTls::without_tickets(false))),
    };
    let copier = Part::start(&[COPIER, &sink.address.to_string()]).await;
    // Behind us there is no TLS in any of the ways: what is compared is what clients see.
    let peer = Peer::start(tls.is_some(), plain.address).await;
    let folder = tempfile::tempdir().expect("a folder for the ledger");
    let relay = Part::relay(mode, folder.path(), plain.address, 1, 1).await;
    let load = Load {
        address: sink.address,
        sessions: way.sessions,
        seconds,
        reuse: way.reuse,
        tls,
        password: None,
        keys: 1,
        from: FROM.into(),
        message: generator::message_of(way.octets, FROM),
    };
    let with_login = Load { password: Some(relayed::PASSWORD.to_owned()), ..load.clone() };
    let mut contenders = vec![
        Contender::new("straight to the sink", sink.address, &load, Meter::None),
        Contender::new("through a byte copier", copier.address, &load, Meter::Part(&copier)),
    ];
    match &peer {
        Some(peer) => {
            contenders.push(Contender::new(
                "through Postfix's before-queue proxy",
                peer.address(),
                &load,
                Meter::Peer(peer),
            ));
        }
        None => println!("  (Postfix is not installed, so it is missing here)"),
    }
    contenders.push(Contender::new("through us, with credits", relay.address, &with_login, Meter::Part(&relay)));
    compare(&mut contenders, "the floor").await;
}
