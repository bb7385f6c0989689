//! smtplib of Python's standard library.

use super::{Attempt, Heard, MESSAGE, Way, run, scripts, sends_and_hears_why_not};

async fn smtplib(attempt: Attempt) -> Heard {
    let way = match attempt.way {
        Way::StartTls => "starttls",
        Way::Implicit => "implicit",
    };
    let script = scripts().join("smtplib_send.py");
    let [script, ca] = [&script, &attempt.ca].map(|path| path.to_str().expect("a path in UTF-8"));
    let port = attempt.port.to_string();
    let arguments = ["-I", script, way, &port, ca, &attempt.username, &attempt.password, &attempt.from, &attempt.to];
    // Octets are sent as they are, so their line ends are the sender's to make right (`email.policy.SMTP` does).
    run("python3", arguments, MESSAGE, "install the package python3").await
}

#[tokio::test]
async fn smtplib_sends_and_hears_why_not() {
    sends_and_hears_why_not(smtplib).await;
}
