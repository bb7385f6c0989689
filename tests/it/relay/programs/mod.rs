//! Real programs send through the relay, unchanged, as their users start them.
//!
//! Each one logs in over STARTTLS and implicit TLS where it can, verifies the certificate, sends a message that
//! arrives byte for byte, and reports what it is refused. They come from Debian's packages, npm and PyPI (`.ci/run`,
//! `make clients`); one that is missing fails its tests with the sentence that says how to install it.

mod curl;
mod lettre;
mod msmtp;
mod nodemailer;
mod python;
mod satellite;
mod sink_example;
mod smarthost;
mod snippets;
mod swaks;
mod uris;

use std::ffi::OsStr;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::scene::{FROM, PASSWORD, SOON, Scene, TO, certificate, monthly, username};

/// A program that takes so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What goes wrong in the hands of careless programs: dots at the start of lines, trailing space, more than ASCII,
/// white space alone, and empty lines at the end. Date and Message-ID are there, so nothing but Received is added.
const MESSAGE: &str = "From: Alerts <alerts@example.com>\r\n\
    To: somebody@elsewhere.example\r\n\
    Subject: from a real program\r\n\
    Date: Sun, 22 Nov 2026 08:00:00 +0000\r\n\
    Message-ID: <1@alerts.example.com>\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Transfer-Encoding: 8bit\r\n\
    \r\n\
    .one dot\r\n\
    ..two\r\n\
    .\r\n\
    Grüße, 你好 \r\n\
    \t\r\n\
    From the start of a line\r\n\
    \r\n\
    end\r\n\
    \r\n\
    \r\n";

/// The same as files on Unix have it.
fn unix_message() -> String {
    MESSAGE.replace("\r\n", "\n")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    StartTls,
    Implicit,
}

/// What a program is asked to do.
#[derive(Clone)]
struct Attempt {
    way: Way,
    port: u16,
    /// For its files; gone with the scene.
    folder: PathBuf,
    /// The certificate to trust.
    ca: PathBuf,
    username: String,
    password: String,
    from: String,
    to: String,
}

impl Attempt {
    fn new(scene: &Scene, way: Way) -> Self {
        let listener = match way {
            Way::StartTls => "submission",
            Way::Implicit => "implicit",
        };
        Self {
            way,
            port: scene.address(listener).port(),
            folder: scene.folder.path().to_owned(),
            ca: scene.folder.path().join("tls.crt"),
            username: username(1),
            password: PASSWORD.to_owned(),
            from: FROM.to_owned(),
            to: TO.to_owned(),
        }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, content).expect("a file");
        path
    }
}

/// What the program made of it.
struct Heard {
    accepted: bool,
    /// All that it printed.
    said: String,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.accepted { "accepted" } else { "not accepted" }, self.said)
    }
}

impl Heard {
    /// The program was refused, and names the reply's codes.
    #[track_caller]
    fn was_told(&self, code: &str, enhanced: &str) {
        let told = !self.accepted && self.said.contains(code) && self.said.contains(enhanced);
        assert!(told, "expected {code} {enhanced}; {self}");
    }
}

/// Runs a program to its end with something on its standard input.
async fn run(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    input: impl AsRef<[u8]>,
    install: &str,
) -> Heard {
    let name = program.as_ref().to_string_lossy().into_owned();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|error| match error.kind() {
        ErrorKind::NotFound => panic!("there is no {name} on this machine; {install}"),
        _ => panic!("{name}: {error}"),
    });
    let mut stdin = child.stdin.take().expect("its input");
    // One that is refused early does not read on.
    let _ = stdin.write_all(input.as_ref()).await;
    drop(stdin);
    let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap_or_else(|_| panic!("{name} hangs"));
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    Heard { accepted: output.status.success(), said: String::from_utf8_lossy(&said).into_owned() }
}

/// The whole story of a program: it sends in each way, and then hears each refusal.
async fn sends_and_hears_why_not(program: impl AsyncFn(Attempt) -> Heard) {
    let ways = [Way::StartTls, Way::Implicit];
    let scene = Scene::with(|_| {}, |rows| rows.keys[0].cap = monthly(Some(ways.len() as i64))).await;
    let other = tempfile::tempdir().expect("a folder");
    certificate(other.path());
    for (sent, way) in ways.into_iter().enumerate() {
        let honest = Attempt::new(&scene, way);
        let distrustful = Attempt { ca: other.path().join("tls.crt"), ..honest.clone() };
        let heard = program(distrustful).await;
        assert!(!heard.accepted, "{way:?} with a certificate that is not trusted; {heard}");
        let wrong = Attempt { password: "wrong".to_owned(), ..honest.clone() };
        program(wrong).await.was_told("535", "5.7.8");
        let forged = Attempt { from: "alerts@evil.example".to_owned(), ..honest.clone() };
        program(forged).await.was_told("550", "5.7.1");
        assert_eq!(scene.sink.count(), sent as u64, "{way:?}");

        let heard = program(honest).await;
        assert!(heard.accepted, "{way:?}; {heard}");
        let received = scene.sink.wait_for(sent as u64 + 1, SOON).await.pop().expect("a message");
        assert_eq!((received.from.as_str(), &received.to[..]), (FROM, &[TO.to_owned()][..]));
        arrived(&received.body, "ESMTPSA");
    }
    for way in ways {
        program(Attempt::new(&scene, way)).await.was_told("452", "4.7.1");
    }
    scene.until_usage([2, 2, 0, 0, 0]).await;
    assert_eq!(scene.sink.count(), ways.len() as u64);
}

/// [`MESSAGE`] with our Received field in front of it, and nothing else.
#[track_caller]
fn arrived(body: &[u8], protocol: &str) {
    let added = body.strip_suffix(MESSAGE.as_bytes());
    let added = added.unwrap_or_else(|| panic!("it is not what was sent: {}", body.escape_ascii()));
    let added = String::from_utf8(added.to_vec()).expect("text");
    let received = format!("Received: by relay.example.com (Franking) with {protocol} id ");
    assert!(added.starts_with(&received) && added.matches("\r\n").count() == 2, "{added}");
}

/// Where this repository keeps what these programs run, such as scripts.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

#[tokio::test]
#[should_panic(expected = "there is no franking-nobody-has-this on this machine; install the package nothing")]
async fn a_missing_program_fails_with_the_sentence_that_helps() {
    run("franking-nobody-has-this", [""; 0], "", "install the package nothing").await;
}
