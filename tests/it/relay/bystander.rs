//! A client of another namespace that does nothing wrong, while somebody attacks the relay. It logged in within the
//! hour, comes with a new connection for each message, and must not notice.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;
use std::time::{Duration, Instant};

use franking::domain::directory::{AccountEntry, Entry};
use franking::domain::id::AccountId;
use franking::runtime::process;
use franking::runtime::relay_config::{Limits, RelayConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use uuid::Uuid;

use super::scene::{FROM, MAIL, PASSWORD, Rows, Scene, TO, account, key, username};
use crate::support::client::{Client, Reply, plain};

/// The bystander's key.
pub const KEY: u128 = 3;
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
const MESSAGES: usize = 100;
/// At least so many of [`MESSAGES`] hear 250 in time.
const ENOUGH: usize = 99;
const IN_TIME: Duration = Duration::from_secs(1);
/// Messages before the attack. Where the machine is so busy that one of them takes more than a quarter of [`IN_TIME`], four
/// times as long is in time.
const QUIET_MESSAGES: usize = 20;
/// Other tests may take the processors for a moment; an attack that works takes them from every series.
const SERIES: usize = 3;

/// One attack at a time: they are on the relay, not on the machine.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A relay that is about to be attacked.
pub struct Attacked {
    scene: Scene,
    in_time: Duration,
    _alone: MutexGuard<'static, ()>,
}

impl Deref for Attacked {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

/// Adds the bystander's key and account, of another namespace than all others.
pub fn elsewhere(rows: &mut Rows) {
    let other = AccountId(Uuid::from_u128(0x201));
    let entry = AccountEntry { id: other, namespace: "elsewhere".to_owned(), name: "other".to_owned(), ..account() };
    rows.others.push(Entry::Account(entry));
    let mut key = key(KEY);
    (key.account, key.namespace) = (other, "elsewhere".to_owned());
    rows.others.push(Entry::Key(key));
}

/// A relay with its built-in limits. Key 3 is of another namespace than keys 1 and 2, and has logged in and sent.
pub async fn scene(rows: impl FnOnce(&mut Rows)) -> Attacked {
    let alone = ALONE.lock().await;
    // Both ends of all connections are this process's.
    let files = process::raise_file_limit();
    assert!(
        files.is_none_or(|files| files >= 8_192),
        "{files:?} open files are too few; raise the hard limit (ulimit -Hn)"
    );
    let limits = |config: &mut RelayConfig| config.limits = Limits::default();
    let mut scene = Scene::with(limits, |changed| {
        elsewhere(changed);
        rows(changed);
    })
    .await;
    scene.serve_telemetry().await;
    let mut in_time = IN_TIME;
    for _ in 0..QUIET_MESSAGES {
        let started = Instant::now();
        sends(&scene).await.expect("before the attack");
        in_time = in_time.max(4 * started.elapsed());
    }
    Attacked { scene, in_time, _alone: alone }
}

/// Fails unless the bystander sends as ever and probes are answered, whatever is under way.
pub async fn is_undisturbed(scene: &Attacked) {
    let mut series = Vec::new();
    while series.len() < SERIES {
        let mut troubles = Vec::new();
        for _ in 0..MESSAGES {
            match timeout(scene.in_time, sends(scene)).await {
                Ok(Ok(())) => {}
                Ok(Err(reply)) => troubles.push(reply),
                Err(_) => troubles.push("nothing in time".to_owned()),
            }
            for path in ["/healthz", "/readyz"] {
                if !matches!(timeout(scene.in_time, probe(scene, path)).await, Ok(Ok(()))) {
                    troubles.push(format!("{path} is not answered in time"));
                }
            }
        }
        if troubles.len() <= MESSAGES - ENOUGH {
            return;
        }
        troubles.truncate(5);
        series.push(troubles);
    }
    panic!("the bystander is disturbed: {series:?}");
}

/// A kubelet's probe.
async fn probe(scene: &Scene, path: &str) -> std::io::Result<()> {
    let [probes, _] = scene.telemetry.expect("the port of probes");
    let mut stream = TcpStream::connect(probes).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: relay\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other(answer)) }
}

/// One message over a connection of its own. `Err` is what it heard instead of 250.
async fn sends(scene: &Scene) -> Result<(), String> {
    let client = Client::open_from(ADDRESS, scene.address("implicit")).await;
    let mut client = client.try_encrypt(&scene.ca_pem).await.map_err(|error| error.to_string())?;
    let expected = |reply: Option<Reply>, code: u16| match reply {
        Some(reply) if reply.code == code => Ok(()),
        Some(reply) => Err(format!("{} {}", reply.code, reply.text)),
        None => Err("hung up".to_owned()),
    };
    expected(client.try_reply().await, 220)?;
    expected(client.try_ask("EHLO bystander.example").await, 250)?;
    let login = format!("AUTH PLAIN {}", plain(&username(KEY), PASSWORD));
    expected(client.try_ask(&login).await, 235)?;
    expected(client.try_ask(&format!("MAIL FROM:<{FROM}>")).await, 250)?;
    expected(client.try_ask(&format!("RCPT TO:<{TO}>")).await, 250)?;
    expected(client.try_ask("DATA").await, 354)?;
    expected(client.try_ask(&format!("{MAIL}\r\n.")).await, 250)
}
