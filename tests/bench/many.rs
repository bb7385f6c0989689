//! What a message costs where there are many: policies with upstreams of their own, and accounts.

use super::figures::{Contender, Meter, compare};
use super::generator::{self, Load};
use super::part::{MANY_SINKS, Part};
use super::relayed;
use super::size::sized;

const OCTETS: usize = 5 * 1024;
const SESSIONS: usize = 100;
const POLICIES: usize = 100;
/// From a department to a provider.
const ACCOUNTS: [usize; 3] = [1_000, 10_000, 100_000];
const FROM: &str = "load@example.com";

fn load(sink: &Part, seconds: u64, sessions: usize, reuse: bool, keys: usize) -> Load {
    Load {
        address: sink.address,
        sessions,
        seconds,
        reuse,
        tls: None,
        password: Some(relayed::PASSWORD.to_owned()),
        keys,
        from: FROM.into(),
        message: generator::message_of(OCTETS, FROM),
    }
}

/// A hundred policies, each with its own upstream, beside one with as many accounts.
pub async fn policies(seconds: u64) {
    let sink = Part::start(&[MANY_SINKS]).await;
    let (sessions, policies) = (sized(SESSIONS, 5), sized(POLICIES, 5));
    println!("{sessions} sessions, reused, each with another key:");
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let one = Part::relay(relayed::PLAIN, folders[0].path(), sink.address, 1, sessions).await;
    let many = Part::relay(relayed::PLAIN, folders[1].path(), sink.address, policies, sessions).await;
    let load = load(&sink, seconds, sessions, true, sessions);
    let name = format!("{policies} policies, {policies} upstreams");
    let mut contenders = [
        Contender::new("1 policy, 1 upstream", one.address, &load, Meter::Part(&one)),
        Contender::new(name, many.address, &load, Meter::Part(&many)),
    ];
    compare(&mut contenders, "one").await;
}

/// The same load while the directory grows, and what a relay's memory grows by.
pub async fn accounts(seconds: u64) {
    let sink = Part::start(&[MANY_SINKS]).await;
    let mut relays = Vec::new();
    for accounts in sized(ACCOUNTS, [20, 30, 50]) {
        let folder = tempfile::tempdir().expect("a folder for the ledger");
        let relay = Part::relay(relayed::PLAIN, folder.path(), sink.address, 1, accounts).await;
        relays.push((accounts, relay, folder));
    }
    for (name, reuse) in
        [("20 sessions, reused", true), ("20 sessions, a login as the next account for each message", false)]
    {
        println!("{name}:");
        let contender =
            |(accounts, relay, _): &'_ (usize, Part, _)| (format!("{accounts} accounts"), *accounts, relay.address);
        let mut contenders: Vec<Contender<'_>> = relays
            .iter()
            .map(|relay| {
                let (name, accounts, address) = contender(relay);
                Contender::new(name, address, &load(&sink, seconds, 20, reuse, accounts), Meter::Part(&relay.1))
            })
            .collect();
        compare(&mut contenders, "the fewest").await;
    }
    for (accounts, relay, _) in &relays {
        println!("  {accounts} accounts: {} MB of resident memory", relay.resident_kb() / 1024);
    }
}
