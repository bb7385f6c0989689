//! `examples/sink/`: its two programs on both sides of a relay, as their pods run them.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Attempt, Way, run};
use crate::relay::scene::{SOON, Scene};
use crate::support::chart::{object, objects};

/// A program of the example's ConfigMap, written to a file.
fn program(folder: &Path, name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sink/1-sink.yaml");
    let objects = objects(&std::fs::read_to_string(path).expect("the example"));
    let text = object(&objects, "ConfigMap", "programs")["data"][name].as_str().expect("a program").to_owned();
    let file = folder.join(name);
    std::fs::write(&file, text).expect("our own folder");
    file.to_str().expect("a path in UTF-8").to_owned()
}

#[tokio::test]
async fn the_sink_shows_the_mail_that_the_job_sends_through_a_relay() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut sink = Command::new("python3");
    sink.arg(program(folder.path(), "sink.py")).env("PORT", "0").stdout(Stdio::piped()).kill_on_drop(true);
    let mut sink = sink.spawn().expect("there is no python3 on this machine; install the package python3");
    let mut said = BufReader::new(sink.stdout.take().expect("its output")).lines();
    let mut next = async || timeout(SOON, said.next_line()).await.expect("in time").expect("text").expect("a line");
    let line = next().await;
    let port = line.rsplit(' ').next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{line}"));

    let upstream = |port| {
        move |rows: &mut crate::relay::scene::Rows| {
            rows.policy.upstream.as_mut().expect("an upstream").port = port;
        }
    };
    let scene = Scene::with(|_| {}, upstream(port)).await;
    let attempt = Attempt::new(&scene, Way::Implicit);
    let ca = std::fs::read_to_string(&attempt.ca).expect("the certificate");
    let arguments = [
        "SMTP_HOST=localhost".to_owned(),
        format!("SMTP_PORT={}", attempt.port),
        format!("SMTP_USERNAME={}", attempt.username),
        format!("SMTP_PASSWORD={}", attempt.password),
        format!("SMTP_CA={ca}"),
        "python3".to_owned(),
        program(folder.path(), "send.py"),
    ];
    let heard = run("env", arguments, "", "install the package python3").await;
    assert!(heard.accepted, "{heard}");
    let mut shown = Vec::new();
    while shown.last().is_none_or(|line: &String| line != "Hello!") {
        shown.push(next().await);
    }
    for line in ["MAIL FROM:<hello@example.com>", "RCPT TO:<reader@example.net>", "Subject: A first mail"] {
        assert!(shown.iter().any(|shown| shown.starts_with(line)), "{line:?} is not in {shown:?}");
    }
    scene.until_usage([1, 1, 0, 0, 0]).await;
}
