//! `make demo`: the main job on real parts, told step by step.
//!
//! A real etcd and kube-apiserver, Franking under the identity that the chart gives it, a sink for the upstream, the
//! quickstart example, and mail sent with the credential of a generated Secret until the account's cap refuses.
//!
//! `KEEP=1` leaves it all running until Enter is pressed, or without a terminal until a signal comes, and prints the
//! KUBECONFIG; `CLUSTER=current` uses the current kubeconfig instead of starting a cluster. SIGTERM and SIGINT stop all
//! that was started.

mod cluster;
mod interrupt;
#[path = "../it/support/mail.rs"]
#[expect(dead_code, reason = "shared with the tests and the benchmarks, which log in without a word")]
mod mail;
mod steps;

use std::process::ExitCode;

fn main() -> ExitCode {
    let ended = interrupt::listen().and_then(|()| steps::run());
    match (ended, interrupt::received()) {
        (_, Some(signal)) => {
            eprintln!("\n{} stopped the demo, and with it all that it had started", signal.name);
            // As shells expect.
            ExitCode::from(128 + signal.number)
        }
        (Ok(()), None) => ExitCode::SUCCESS,
        (Err(error), None) => {
            eprintln!("\nthe demo stopped: {error}");
            ExitCode::FAILURE
        }
    }
}
