//! Benchmarks: `cargo bench --bench bench -- NAME`. Each prints its figure beside its floor from the same run,
//! because a figure alone says more about the machine than about us.

mod generator;
mod part;
mod relay;
#[expect(dead_code, reason = "a sink that only listens needs no misbehaviour")]
#[path = "../it/support/sink/mod.rs"]
mod sink;

const USAGE: &str = "usage: bench relay [SECONDS]   messages per second: straight to a sink (the floor), through a byte copier, through us";

fn main() {
    // cargo adds `--bench` for harnesses.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match words.as_slice() {
        ["relay"] | [] => runtime.block_on(relay::run(relay::SECONDS)),
        ["relay", seconds] => match seconds.parse() {
            Ok(seconds) => runtime.block_on(relay::run(seconds)),
            Err(_) => stop(USAGE),
        },
        [part::SINK] => runtime.block_on(part::sink(sink::SinkTls::None)),
        [part::TLS_SINK] => runtime.block_on(part::sink(sink::SinkTls::Implicit)),
        [part::COPIER, to] => runtime.block_on(part::copier(to)),
        _ => stop(USAGE),
    }
}

fn stop(why: &str) {
    eprintln!("{why}");
    std::process::exit(2);
}
