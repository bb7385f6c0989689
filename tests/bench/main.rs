//! Benchmarks: `cargo bench --bench bench -- NAME`, all of them without a name. Each prints its figure beside its floor
//! from the same run, because a figure alone says more about the machine than about us. `small` before the name makes them
//! small enough for every push, so that none stops working unseen.

mod books;
mod busy;
mod directory;
mod figures;
mod generator;
mod ledger;
mod many;
mod operator;
mod part;
mod peer;
mod relay;
mod relayed;
mod sessions;
mod shared_ledger;
mod size;
mod statuses;
#[expect(dead_code, unused_imports, reason = "the tests need more of what they share")]
#[path = "../it/support/mod.rs"]
mod support;

use size::sized;
use support::mail;

const USAGE: &str = "usage: bench [small] [NAME]
  small             only to see that they still run: a minute or two for all, figures that say nothing
  books             1,000,000 reservations in the books: rollup, a month's bill, check, seconds and memory
  relay [SECONDS [WAY]]
                    messages per second: straight to a sink (the floor), through a byte copier, Postfix's
                    before-queue proxy, and us; of all ways of sending, or of those with WAY in their names
  policies          the same for 100 policies with upstreams of their own, beside one
  accounts          the same while accounts grow from 1,000 to 100,000, with the relay's memory
  busy [COUNT]      memory of the relay for each of 1,000 TLS sessions that send all the time
  directory         a change of one key in a relay's copy of 1,000 to 100,000 accounts
  ledger            reserve and settle on one hot pool, up to 100,000 accounts, beside the disk's sync
  relays [SECONDS]  three relays that share one pool on PostgreSQL: messages per second, and how long each waits
  sessions [COUNT]  memory of the relay for each of 10,000 TLS sessions that are silent
  operator          2,000 accounts and keys from empty to Ready, edits and revocations, on the real API server
  statuses [COUNT]  how far statuses are behind after 10,000 accounts and keys were made (only by its name: ten minutes)";

fn main() {
    // cargo adds `--bench` for harnesses.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let words = match words.as_slice() {
        ["small", rest @ ..] => {
            size::shrink();
            rest
        }
        words => words,
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let seconds = sized(relay::SECONDS, 1);
    match words {
        [] => runtime.block_on(async {
            relay::run(seconds, "").await;
            many::policies(seconds).await;
            many::accounts(seconds).await;
            busy::run(sized(busy::SESSIONS, 20)).await;
            directory::run();
            ledger::run().await;
            shared_ledger::run(sized(shared_ledger::SECONDS, 1)).await;
            sessions::run(sized(sessions::SESSIONS, 20)).await;
            operator::run().await;
            books::run().await;
            // Of full size it takes ten minutes, and runs only by its name.
            if sized(false, true) {
                statuses::run(sized(statuses::OBJECTS, 20)).await;
            }
        }),
        ["relay"] => runtime.block_on(relay::run(seconds, "")),
        ["relay", seconds] => match seconds.parse() {
            Ok(seconds) => runtime.block_on(relay::run(seconds, "")),
            Err(_) => stop(USAGE),
        },
        ["relay", seconds, way] => match seconds.parse() {
            Ok(seconds) => runtime.block_on(relay::run(seconds, way)),
            Err(_) => stop(USAGE),
        },
        ["policies"] => runtime.block_on(many::policies(seconds)),
        ["accounts"] => runtime.block_on(many::accounts(seconds)),
        ["busy"] => runtime.block_on(busy::run(sized(busy::SESSIONS, 20))),
        ["busy", count] => match count.parse() {
            Ok(count) => runtime.block_on(busy::run(count)),
            Err(_) => stop(USAGE),
        },
        ["directory"] => directory::run(),
        ["ledger"] => runtime.block_on(ledger::run()),
        ["relays"] => runtime.block_on(shared_ledger::run(sized(shared_ledger::SECONDS, 1))),
        ["relays", seconds] => match seconds.parse() {
            Ok(seconds) => runtime.block_on(shared_ledger::run(seconds)),
            Err(_) => stop(USAGE),
        },
        ["sessions"] => runtime.block_on(sessions::run(sized(sessions::SESSIONS, 20))),
        ["sessions", count] => match count.parse() {
            Ok(count) => runtime.block_on(sessions::run(count)),
            Err(_) => stop(USAGE),
        },
        ["operator"] => runtime.block_on(operator::run()),
        ["statuses"] => runtime.block_on(statuses::run(sized(statuses::OBJECTS, 20))),
        ["statuses", count] => match count.parse() {
            Ok(count) => runtime.block_on(statuses::run(count)),
            Err(_) => stop(USAGE),
        },
        ["books"] => runtime.block_on(books::run()),
        [part::SINK] => runtime.block_on(part::sink(support::sink::SinkTls::None)),
        [part::TLS_SINK] => runtime.block_on(part::sink(support::sink::SinkTls::Implicit)),
        [part::IDLE, address, sessions] => runtime.block_on(sessions::idle(address, sessions)),
        [part::MANY_SINKS] => runtime.block_on(part::sinks()),
        [part::BUSY, address, sessions, seconds] => runtime.block_on(busy::clients(address, sessions, seconds)),
        [part::COPIER, to] => runtime.block_on(part::copier(to)),
        [part::RELAY, mode, folder, to, policies, accounts] => {
            let counts = (policies.parse().expect("a number"), accounts.parse().expect("a number"));
            runtime.block_on(relayed::serve(mode, folder.as_ref(), to, counts.0, counts.1));
        }
        _ => stop(USAGE),
    }
}

fn stop(why: &str) {
    eprintln!("{why}");
    std::process::exit(2);
}
