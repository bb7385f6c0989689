//! curl, which scripts send with.

use super::{Attempt, Heard, MESSAGE, Way, run, sends_and_hears_why_not};

async fn curl(attempt: Attempt) -> Heard {
    // It takes the file as it is.
    let message = attempt.file("message", MESSAGE);
    let (scheme, login) = match attempt.way {
        Way::StartTls => ("smtp", "AUTH=LOGIN"),
        Way::Implicit => ("smtps", "AUTH=PLAIN"),
    };
    let url = format!("{scheme}://localhost:{}/client.example", attempt.port);
    let user = format!("{}:{}", attempt.username, attempt.password);
    let [ca, message] = [&attempt.ca, &message].map(|path| path.to_str().expect("a path in UTF-8"));
    let arguments = [
        ["--disable", "--ipv4", "--silent", "--show-error", "--verbose"].as_slice(),
        &["--ssl-reqd", "--cacert", ca, "--url", &url, "--user", &user, "--login-options", login],
        &["--mail-from", &attempt.from, "--mail-rcpt", &attempt.to, "--upload-file", message],
    ]
    .concat();
    run("curl", arguments, "", "install the package curl").await
}

#[tokio::test]
async fn curl_sends_and_hears_why_not() {
    sends_and_hears_why_not(curl).await;
}
