//! Benchmarks: `cargo bench --bench bench -- NAME`, all of them without a name. Each prints its figure beside its floor
//! from the same run, because a figure alone says more about the machine than about us.

mod books;
mod generator;
mod ledger;
mod operator;

mod part;
mod relay;
mod relayed;
#[expect(dead_code, unused_imports, reason = "the tests need more of what they share")]
#[path = "../it/support/mod.rs"]
mod support;

use support::mail;

const USAGE: &str = "usage: bench [NAME]
  books             1,000,000 reservations in the books: rollup, a month's bill, check, seconds and memory
  relay [SECONDS]   messages per second: straight to a sink (the floor), through a byte copier, through us
  ledger [SECONDS]  charges and outcomes per second on both engines, in batches and one by one; three relays' latency
  operator          2,000 accounts and keys from empty to Ready, edits and revocations, on the real API server";

fn main() {
    // cargo adds `--bench` for harnesses.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match words.as_slice() {
        [] => runtime.block_on(async {
            relay::run(relay::SECONDS).await;
            operator::run().await;
            books::run().await;
            ledger::run(ledger::SECONDS).await;
        }),
        ["ledger"] => runtime.block_on(ledger::run(ledger::SECONDS)),
        ["ledger", seconds] => match seconds.parse() {
            Ok(seconds) => runtime.block_on(ledger::run(seconds)),
            Err(_) => stop(USAGE),
        },
        ["relay"] => runtime.block_on(relay::run(relay::SECONDS)),
        ["relay", seconds] => match seconds.parse() {
            Ok(seconds) => runtime.block_on(relay::run(seconds)),
            Err(_) => stop(USAGE),
        },
        ["operator"] => runtime.block_on(operator::run()),
        ["books"] => runtime.block_on(books::run()),
        [part::SINK] => runtime.block_on(part::sink(support::sink::SinkTls::None)),
        [part::TLS_SINK] => runtime.block_on(part::sink(support::sink::SinkTls::Implicit)),
        [part::COPIER, to] => runtime.block_on(part::copier(to)),
        [part::RELAY, mode, folder, to] => runtime.block_on(relayed::serve(mode, folder.as_ref(), to)),
        _ => stop(USAGE),
    }
}

fn stop(why: &str) {
    eprintln!("{why}");
    std::process::exit(2);
}
