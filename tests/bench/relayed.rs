//! Our relay as a part: the real role over a real ledger on disk, with credits limited on every meter.

use std::path::Path;
use std::sync::Arc;

use franking::domain::credential::{Credential, HashKey, Password, Stage, Username};
use franking::domain::credit::{Limit, Overage};
use franking::domain::directory::{AccountEntry, Entry, KeyEntry, PolicyEntry, UpstreamEntry, UpstreamTls};
use franking::domain::id::{AccountId, KeyId, PolicyId};
use franking::domain::period::Calendar;
use franking::domain::relay_config::{
    CertificateFiles, InstallationKeys, KeyBytes, LedgerAddress, Limits, LineEnds, Listener, ListenerMode, RelayConfig,
    Tls,
};
use franking::domain::sender::MailDomain;
use franking::ledger::sqlite;
use franking::ledger::store::{Role, Store as _};
use franking::relay::{Dependencies, Relay};
use franking::runtime::clock::{Clock as _, SystemClock};
use franking::runtime::health::Health;
use franking::runtime::metrics::Registry;
use jiff::Timestamp;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const USERNAME: &str = "load-1";
pub const PASSWORD: &str = "correct-horse-battery-staple";
pub const PLAIN: &str = "plain";
pub const IMPLICIT: &str = "implicit";
const HASH_KEY: [u8; 32] = [7; 32];
/// More than any run can use, and yet counted to the last one.
const CREDITS: i64 = 1_000_000_000_000;

/// Serves until it is killed; `to` is the upstream.
pub async fn serve(mode: &str, folder: &Path, to: &str) {
    let upstream: std::net::SocketAddr = to.parse().expect("the upstream's address");
    let installation = Uuid::from_u128(1);
    let ledger = folder.join("ledger.db");
    let clock = Arc::new(SystemClock);
    sqlite::prepare(&ledger, installation, "cluster", Uuid::from_u128(2), clock.now()).expect("a ledger");
    let store = sqlite::SqliteStore::open(&ledger, clock.clone()).expect("the ledger");
    let session = store.open_session(Role::Operator, "operator").await.expect("a session");
    store.put(&session, "bench", &directory(upstream.port())).await.expect("the directory");

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

fn directory(port: u16) -> [Entry; 3] {
    let limit = || Limit { credits: Some(CREDITS), calendar: Calendar::monthly_utc() };
    let (policy, account) = (PolicyId(Uuid::from_u128(0x100)), AccountId(Uuid::from_u128(0x200)));
    let hash = HashKey::new(&HASH_KEY).hash(&Password::given(PASSWORD));
    let upstream =
        UpstreamEntry { host: "127.0.0.1".to_owned(), port, tls: UpstreamTls::None, secret: None, max_recipients: 100 };
    let sender_domains = vec![MailDomain::parse("example.com").expect("a domain")];
    [
        Entry::Policy(PolicyEntry {
            id: policy,
            name: "plan".to_owned(),
            suspended: None,
            pool: limit(),
            overage: Overage::Deny,
            prepaid: None,
            pricing: None,
            sender_domains,
            upstream: Some(upstream),
            removed_at: None,
        }),
        Entry::Account(AccountEntry {
            id: account,
            policy,
            namespace: "team".to_owned(),
            name: "account".to_owned(),
            suspended: None,
            cap: limit(),
            prepaid: None,
            spend_limit_micro: None,
            rate: None,
            removed_at: None,
        }),
        Entry::Key(KeyEntry {
            id: KeyId(Uuid::from_u128(0x301)),
            account,
            namespace: "team".to_owned(),
            name: USERNAME.to_owned(),
            username: Username::try_from(USERNAME.to_owned()).expect("a user name"),
            credentials: vec![Credential { hash, stage: Stage::Current { since: Timestamp::UNIX_EPOCH } }],
            allow_from: vec![],
            allowed_senders: vec![],
            plain_listener: true,
            cap: limit(),
            rate: None,
            expires_at: None,
            revoked: false,
            removed_at: None,
        }),
    ]
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
