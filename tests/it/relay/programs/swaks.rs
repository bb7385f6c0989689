//! swaks, which mail engineers try a server with.

use super::{Attempt, Heard, Way, run, sends_and_hears_why_not, unix_message};

const INSTALL: &str = "install the packages swaks and libnet-ssleay-perl";

async fn swaks(attempt: Attempt) -> Heard {
    // It ends every message with a line end of its own.
    let message = attempt.file("message", unix_message().strip_suffix('\n').expect("a line end"));
    let (tls, mechanism) = match attempt.way {
        Way::StartTls => ("--tls", "PLAIN"),
        Way::Implicit => ("--tls-on-connect", "LOGIN"),
    };
    let port = attempt.port.to_string();
    let data = format!("@{}", message.display());
    let ca = attempt.ca.to_str().expect("a path in UTF-8");
    let arguments = [
        ["--server", "127.0.0.1", "--ehlo", "client.example", "--suppress-data"].as_slice(),
        &["--port", &port, tls, "--tls-verify", "--tls-ca-path", ca],
        &["--auth", mechanism, "--auth-user", &attempt.username, "--auth-password", &attempt.password],
        &["--from", &attempt.from, "--to", &attempt.to, "--data", &data],
    ]
    .concat();
    run("swaks", arguments, "", INSTALL).await
}

#[tokio::test]
async fn swaks_sends_and_hears_why_not() {
    sends_and_hears_why_not(swaks).await;
}
