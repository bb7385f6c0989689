//! Our relay as a part: the real role over a real ledger on disk, with credits limited on every meter.

use std::path::Path;
use std::sync::Arc;

use franking::domain::credential::{Credential, HashKey, Password, Stage, Username};
use franking::domain::credit::{Limit, Overage};
use franking::domain::directory::{AccountEntry, Entry, KeyEntry, PolicyEntry, UpstreamEntry, UpstreamTls};
use franking::domain::id::{AccountId, KeyId, PolicyId};
use franking::domain::period::Calendar;
use franking::domain::sender::MailDomain;
use franking::ledger::sqlite;
use franking::ledger::store::{Role, Store as _};
use franking::relay::{Dependencies, Relay};
use franking::runtime::clock::{Clock as _, SystemClock};
use franking::runtime::health::Health;
use franking::runtime::metrics::Registry;
use franking::runtime::relay_config::{
    CertificateFiles, InstallationKeys, KeyBytes, LedgerAddress, Limits, LineEnds, Listener, ListenerMode, RelayConfig,
    Tls,
};
use jiff::Timestamp;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const PASSWORD: &str = "correct-horse-battery-staple";
pub const PLAIN: &str = "plain";
pub const IMPLICIT: &str = "implicit";
/// Entries of one call that fills the directory.
const ENTRIES: usize = 2_000;
const HASH_KEY: [u8; 32] = [7; 32];
/// More than any run can use, and yet counted to the last one.
const CREDITS: i64 = 1_000_000_000_000;

/// The user name of the n-th key, from 0.
pub fn username(n: usize) -> String {
    format!("load-{n}")
}

/// Serves until it is killed; `to` is the upstream. Each policy has its own, at a loopback address of its own; each
/// account has one key.
pub async fn serve(mode: &str, folder: &Path, to: &str, policies: usize, accounts: usize) {
    let upstream: std::net::SocketAddr = to.parse().expect("the upstream's address");
    let installation = Uuid::from_u128(1);
    let ledger = folder.join("ledger.db");
    let clock = Arc::new(SystemClock);
    sqlite::prepare(&ledger, installation, "cluster", Uuid::from_u128(2), clock.now()).expect("a ledger");
    let store = sqlite::SqliteStore::open(&ledger, clock.clone()).expect("the ledger");
    let session = store.open_session(Role::Operator, "operator").await.expect("a session");
    let directory: Vec<Entry> = directory(upstream.port(), policies, accounts).collect();
    for entries in directory.chunks(ENTRIES) {
        store.put(&session, "bench", entries).await.expect("the directory");
    }
    drop(directory);

    let config = config(mode, installation, folder);
    let config_file = folder.join("relay.yaml");
    std::fs::write(&config_file, serde_yaml::to_string(&config).expect("yaml")).expect("relay.yaml");
    let health = Health::default();
    let dependencies = Dependencies {
        config_file,
        clock,
        rng: StdRng::seed_from_u64(7),
        registry: Registry::new(),
        health: health.clone(),
        name: "relay-0".to_owned(),
    };
    let started = Relay::start(dependencies, &CancellationToken::new()).await.expect("starting the relay");
    let relay = started.expect("a relay that nobody stopped");
    while !health.closed().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    println!("listening on {}", relay.addresses()[mode]);
    std::future::pending::<()>().await;
}

/// The entries of so many policies and accounts, each account with one key.
pub fn directory(port: u16, policies: usize, accounts: usize) -> impl Iterator<Item = Entry> {
    let hash = HashKey::new(&HASH_KEY).hash(&Password::given(PASSWORD));
    let credentials = vec![Credential { hash, stage: Stage::Current { since: Timestamp::UNIX_EPOCH } }];
    let rows = (0..accounts)
        .flat_map(move |n| [Entry::Account(account(n, n % policies)), Entry::Key(key(n, credentials.clone()))]);
    (0..policies).map(move |n| Entry::Policy(policy(n, port))).chain(rows)
}

fn limit() -> Limit {
    Limit { credits: Some(CREDITS), calendar: Calendar::monthly_utc() }
}

/// Ids of a kind, each with its number.
fn id(kind: u128, n: usize) -> Uuid {
    Uuid::from_u128((kind << 64) + n as u128)
}

fn policy(n: usize, port: u16) -> PolicyEntry {
    // The first at 127.0.0.1, where every sink listens.
    let host = format!("127.0.{}.{}", n / 250, n % 250 + 1);
    PolicyEntry {
        id: PolicyId(id(1, n)),
        name: format!("plan-{n}"),
        suspended: None,
        pool: limit(),
        overage: Overage::Deny,
        when_exhausted: Default::default(),
        prepaid: None,
        pricing: None,
        currency: None,
        sender_domains: vec![MailDomain::parse("example.com").expect("a domain")],
        upstream: Some(UpstreamEntry { host, port, tls: UpstreamTls::None, secret: None, max_recipients: 100 }),
        settings: None,
        removed_at: None,
    }
}

fn account(n: usize, policy: usize) -> AccountEntry {
    AccountEntry {
        id: AccountId(id(2, n)),
        policy: PolicyId(id(1, policy)),
        namespace: "team".to_owned(),
        name: format!("account-{n}"),
        suspended: None,
        cap: limit(),
        prepaid: None,
        spend_limit_micro: None,
        rate: None,
        allowed_senders: None,
        departures: Vec::new(),
        settings: None,
        removed_at: None,
    }
}

fn key(n: usize, credentials: Vec<Credential>) -> KeyEntry {
    KeyEntry {
        id: KeyId(id(3, n)),
        account: AccountId(id(2, n)),
        namespace: "team".to_owned(),
        name: username(n),
        username: Username::try_from(username(n)).expect("a user name"),
        credentials,
        allow_from: vec![],
        allowed_senders: vec![],
        plain_listener: true,
        cap: limit(),
        rate: None,
        expires_at: None,
        revoked: false,
        settings: None,
        removed_at: None,
    }
}

fn config(mode: &str, installation: Uuid, folder: &Path) -> RelayConfig {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let files = CertificateFiles { certificate_file: folder.join("tls.crt"), key_file: folder.join("tls.key") };
    std::fs::write(&files.key_file, made.signing_key.serialize_pem()).expect("the key");
    std::fs::write(&files.certificate_file, made.cert.pem()).expect("the certificate");
    let (listener, networks) = if mode == PLAIN {
        (ListenerMode::Plain, vec!["127.0.0.0/8".parse().expect("a network")])
    } else {
        (ListenerMode::Implicit, vec![])
    };
    let listener = Listener {
        name: mode.to_owned(),
        address: ([127, 0, 0, 1], 0).into(),
        mode: listener,
        networks,
        proxy_from: vec![],
        budget_seconds: 300,
        line_ends: LineEnds::Normalize,
    };
    RelayConfig {
        installation,
        incarnation: None,
        hostname: "relay.example.com".to_owned(),
        listeners: vec![listener],
        tls: Tls { certificates: vec![files] },
        limits: many(),
        ledger: LedgerAddress::Sqlite { path: folder.join("ledger.db") },
        keys: InstallationKeys { hash: KeyBytes(HASH_KEY), seal: KeyBytes([8; 32]) },
    }
}

/// All clients come from one address, with one key.
fn many() -> Limits {
    let count = 50_000;
    Limits {
        connections: count,
        connections_per_address: count,
        connections_per_key: count,
        idle_seconds: 3_600,
        ..Limits::default()
    }
}
