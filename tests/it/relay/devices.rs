//! Printers, scanners and other small machines, as dialogues that are played against the plain listener. How they are
//! written down: `tests/devices/README.md`.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use franking::domain::credential::{Credential, HashKey, Password, Stage, Username};
use jiff::Timestamp;

use super::scene::{SOON, Scene};
use crate::support::client::{Client, plain};
use crate::support::sink::Received;

/// As long as the operator makes them, which is as long as old firmware takes.
const DEVICE_USERNAME: &str = "team-scanner-2nd-flo-k3v9x0w1ze";
const DEVICE_PASSWORD: &str = "q7VYw2mKd0TzR4bNf8XhLs1GcA";

const NO_CONNECTION: &str = "franking_relay_connections{listener=\"plain\"} 0";

/// A step of a dialogue.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// In one write.
    Says(Vec<u8>),
    /// One reply, of these lines.
    Hears(Vec<String>),
    HangsUp,
    RelayHangsUp,
}

/// A message that must arrive.
#[derive(Debug)]
struct Arrival {
    from: String,
    to: Vec<String>,
    lines: Vec<String>,
}

#[derive(Debug, Default)]
struct Dialogue {
    steps: Vec<Step>,
    arrivals: Vec<Arrival>,
}

impl Dialogue {
    fn read(text: &str) -> Self {
        let mut dialogue = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (sign, rest) = line.split_once(' ').unwrap_or((line, ""));
            let words = filled(rest);
            match sign {
                ">" => dialogue.says(words + "\r\n"),
                ">~" => dialogue.says(words + "\n"),
                ">|" => dialogue.says(words),
                "<" => dialogue.hears(words),
                "!" if rest == "hangs up" => dialogue.steps.push(Step::HangsUp),
                "!" if rest == "relay hangs up" => dialogue.steps.push(Step::RelayHangsUp),
                "*" => {
                    let (from, to) = rest.split_once(" -> ").expect("FROM -> TO");
                    let to = to.split(", ").map(str::to_owned).collect();
                    dialogue.arrivals.push(Arrival { from: from.to_owned(), to, lines: vec![] });
                }
                "=" => dialogue.arrivals.last_mut().expect("an envelope before it").lines.push(words),
                _ => panic!("a line of no kind: {line}"),
            }
        }
        assert!(matches!(dialogue.steps.last(), Some(Step::HangsUp | Step::RelayHangsUp)), "it has no end");
        dialogue
    }

    fn says(&mut self, words: String) {
        match self.steps.last_mut() {
            Some(Step::Says(said)) => said.extend(words.into_bytes()),
            _ => self.steps.push(Step::Says(words.into_bytes())),
        }
    }

    fn hears(&mut self, words: String) {
        match self.steps.last_mut() {
            Some(Step::Hears(heard)) if heard.last().is_some_and(|line| line.as_bytes()[3] == b'-') => {
                heard.push(words);
            }
            _ => self.steps.push(Step::Hears(vec![words])),
        }
    }
}

/// With its placeholders filled in.
fn filled(words: &str) -> String {
    let mut text = words
        .replace("{user64}", &BASE64.encode(DEVICE_USERNAME))
        .replace("{password64}", &BASE64.encode(DEVICE_PASSWORD))
        .replace("{user64nul}", &BASE64.encode(format!("{DEVICE_USERNAME}\0")))
        .replace("{password64nul}", &BASE64.encode(format!("{DEVICE_PASSWORD}\0")))
        .replace("{plain64}", &plain(DEVICE_USERNAME, DEVICE_PASSWORD));
    if let Some((before, (what, times), after)) = repeated(&text) {
        text = format!("{before}{}{after}", what.repeat(times));
    }
    text
}

/// `{x*9}` and what stands around it.
fn repeated(text: &str) -> Option<(&str, (&str, usize), &str)> {
    let (before, rest) = text.split_once('{')?;
    let (inside, after) = rest.split_once('}')?;
    let (what, times) = inside.split_once('*')?;
    Some((before, (what, times.parse().ok()?), after))
}

/// Whether a line is the expected one; `*` at its end stands for anything.
fn fits(line: &str, expected: &str) -> bool {
    expected.strip_suffix('*').map_or(line == expected, |start| line.starts_with(start))
}

async fn plays(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/devices").join(name).with_extension("dialogue");
    let dialogue = Dialogue::read(&std::fs::read_to_string(&path).expect("a dialogue"));
    let scene = Scene::with(
        |_| {},
        |rows| {
            let hash = HashKey::new(&[7; 32]).hash(&Password::given(DEVICE_PASSWORD));
            rows.keys[0].plain_listener = true;
            rows.keys[0].username = Username::try_from(DEVICE_USERNAME.to_owned()).expect("a user name");
            rows.keys[0].credentials =
                vec![Credential { hash, stage: Stage::Current { since: Timestamp::UNIX_EPOCH } }];
        },
    )
    .await;
    let mut client = Client::open(scene.address("plain")).await;
    for step in dialogue.steps {
        match step {
            Step::Says(words) => client.send(words).await,
            Step::Hears(expected) => {
                let reply = client.reply().await;
                let texts: Vec<&str> = reply.text.split('\n').collect();
                let sign = |index| if index + 1 < texts.len() { '-' } else { ' ' };
                let lines =
                    texts.iter().enumerate().map(|(index, text)| format!("{}{}{text}", reply.code, sign(index)));
                let lines: Vec<String> = lines.collect();
                let same = lines.len() == expected.len() && lines.iter().zip(&expected).all(|(line, e)| fits(line, e));
                assert!(same, "{name}: expected {expected:?}, heard {lines:?}");
            }
            Step::RelayHangsUp => client.closed().await,
            Step::HangsUp => break,
        }
    }
    drop(client);
    let received = scene.sink.wait_for(dialogue.arrivals.len() as u64, SOON).await;
    let credits = dialogue.arrivals.iter().map(|arrival| arrival.to.len() as i64).sum();
    scene.until("the session is over", async |scene| scene.metrics().contains(NO_CONNECTION)).await;
    scene.until_usage([credits, credits, 0, 0, 0]).await;
    assert_eq!(received.len(), dialogue.arrivals.len(), "{name}: {received:?}");
    for (received, expected) in received.iter().zip(&dialogue.arrivals) {
        arrived(received, expected);
    }
}

fn arrived(received: &Received, expected: &Arrival) {
    assert_eq!((&received.from, &received.to), (&expected.from, &expected.to));
    let text = String::from_utf8(received.body.clone()).expect("text");
    let mut lines = text.strip_suffix("\r\n").expect("a line end").split("\r\n");
    let ours =
        lines.next().is_some_and(|line| line.starts_with("Received: by relay.example.com (Franking) with ESMTPA id "));
    assert!(ours && lines.next() == Some("\tFri, 20 Nov 2026 10:00:00 +0000"), "{text}");
    let lines: Vec<&str> = lines.collect();
    let same = lines.len() == expected.lines.len() && lines.iter().zip(&expected.lines).all(|(line, e)| fits(line, e));
    assert!(same, "expected {:?}, found {lines:?}", expected.lines);
}

#[tokio::test]
async fn a_xerox_hears_the_prompts_that_it_knows() {
    plays("xerox").await;
}

#[tokio::test]
async fn a_konica_minolta_names_its_user_at_once_and_does_not_wait_for_the_end() {
    plays("konica-minolta").await;
}

#[tokio::test]
async fn an_hp_tries_what_was_not_offered_and_goes_on() {
    plays("hp").await;
}

#[tokio::test]
async fn a_ricoh_forgets_names_brackets_and_half_of_its_line_ends() {
    plays("ricoh").await;
}

#[tokio::test]
async fn a_dell_logs_in_after_helo() {
    plays("dell").await;
}

#[tokio::test]
async fn a_scanner_sends_a_page_as_one_line() {
    plays("scanner-long-lines").await;
}

#[tokio::test]
async fn a_ups_ends_all_its_lines_with_lf_and_its_strings_with_nul() {
    plays("ups-card").await;
}

#[tokio::test]
async fn a_copier_that_is_switched_off_sends_and_costs_nothing() {
    plays("switched-off").await;
}

#[tokio::test]
async fn a_copier_with_wrong_settings_hears_which() {
    plays("wrong-settings").await;
}

#[test]
fn every_dialogue_is_played() {
    let this = include_str!("devices.rs");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/devices");
    for file in std::fs::read_dir(folder).expect("dialogues") {
        let path = file.expect("a file").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let played = this.contains(&format!("plays(\"{name}\")"));
        assert!(played || path.extension().is_none_or(|extension| extension != "dialogue"), "nobody plays {name}");
    }
}
