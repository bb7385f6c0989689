//! msmtp, which stands in for sendmail on small machines.

use std::os::unix::fs::PermissionsExt as _;

use super::{Attempt, Heard, Way, run, sends_and_hears_why_not, unix_message};

async fn msmtp(attempt: Attempt) -> Heard {
    let (start_tls, mechanism) = match attempt.way {
        Way::StartTls => ("on", "plain"),
        Way::Implicit => ("off", "login"),
    };
    let settings = format!(
        "account default\nhost localhost\nport {}\ntls on\ntls_starttls {start_tls}\ntls_trust_file {}\nauth {mechanism}\n\
         user {}\npassword {}\nfrom {}\n",
        attempt.port,
        attempt.ca.display(),
        attempt.username,
        attempt.password,
        attempt.from
    );
    let settings = attempt.file("msmtprc", settings);
    // It reads no password that others could read.
    std::fs::set_permissions(&settings, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let settings = settings.to_str().expect("a path in UTF-8");
    let arguments = ["--file", settings, "--account", "default", "--", &attempt.to];
    run("msmtp", arguments, unix_message(), "install the package msmtp").await
}

#[tokio::test]
async fn msmtp_sends_and_hears_why_not() {
    sends_and_hears_why_not(msmtp).await;
}
