//! nodemailer, which programs for Node.js send with.

use std::path::Path;

use super::{Attempt, Heard, MESSAGE, Way, run, scripts, sends_and_hears_why_not};

async fn nodemailer(attempt: Attempt) -> Heard {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/node_modules/nodemailer");
    assert!(library.is_dir(), "there is no nodemailer below target/clients; install it with `make clients`");
    let way = match attempt.way {
        Way::StartTls => "starttls",
        Way::Implicit => "implicit",
    };
    let script = scripts().join("nodemailer_send.js");
    let [script, library, ca] = [&script, &library, &attempt.ca].map(|path| path.to_str().expect("a path in UTF-8"));
    let port = attempt.port.to_string();
    let arguments = [script, library, way, &port, ca, &attempt.username, &attempt.password, &attempt.from, &attempt.to];
    run("node", arguments, MESSAGE, "install the package nodejs").await
}

#[tokio::test]
async fn nodemailer_sends_and_hears_why_not() {
    sends_and_hears_why_not(nodemailer).await;
}
