//! A SQLite ledger with a random history, and what can be asked of a ledger.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use franking::domain::credit::{Outcome, Reservation, Verdict};
use franking::domain::directory::{AccountEntry, Entry, KeyEntry, PolicyEntry};
use franking::domain::fingerprint::Fingerprint;
use franking::domain::id::{AccountId, Holder, KeyId, MessageId, PolicyId};
use franking::domain::period::Calendar;
use franking::ledger::Store;
use franking::ledger::sqlite::{self, SqliteStore};
use franking::ledger::store::{
    Balance, DedupUpdate, Event, FINGERPRINT_KEPT, Identity, Kept, LedgerSession, Role, Settlement,
};
use franking::runtime::clock::{Clock, ManualClock};
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use uuid::Uuid;

pub const INSTALLATION: Uuid = Uuid::from_u128(1);
const KEYS: u128 = 6;
const ACCOUNTS: u128 = 3;

fn policy_id() -> PolicyId {
    PolicyId(Uuid::from_u128(0x100))
}

fn account_id(n: u128) -> AccountId {
    AccountId(Uuid::from_u128(0x200 + n))
}

pub fn key_id(n: u128) -> KeyId {
    KeyId(Uuid::from_u128(0x300 + n))
}

fn monthly(credits: Option<i64>) -> Value {
    json!({"credits": credits, "calendar": Calendar::monthly_utc()})
}

fn merged(mut into: Value, more: Value) -> Value {
    let (Value::Object(fields), Value::Object(more)) = (&mut into, more) else { panic!("entries are objects") };
    fields.extend(more);
    into
}

fn policy(more: Value) -> Entry {
    let entry = json!({
        "id": policy_id(), "name": "plan", "pool": monthly(Some(100_000)), "currency": "EUR",
        "pricing": {"currency": "EUR", "basePriceMinor": 4900, "pricePerThousandMinor": 1500},
    });
    Entry::Policy(serde_json::from_value::<PolicyEntry>(merged(entry, more)).expect("a policy"))
}

fn account(n: u128, more: Value) -> Entry {
    let entry = json!({
        "id": account_id(n), "policy": policy_id(), "namespace": "team", "name": format!("account-{n}"),
        "cap": monthly(Some(5_000)),
    });
    Entry::Account(serde_json::from_value::<AccountEntry>(merged(entry, more)).expect("an account"))
}

fn key(n: u128, more: Value) -> Entry {
    let entry = json!({
        "id": key_id(n), "account": account_id(n % ACCOUNTS), "namespace": "team", "name": format!("key-{n}"),
        "username": format!("key-{n}"), "credentials": [], "cap": monthly(None),
    });
    Entry::Key(serde_json::from_value::<KeyEntry>(merged(entry, more)).expect("a key"))
}

/// A ledger in a file, and what was done to it.
pub struct Old {
    folder: tempfile::TempDir,
    pub clock: ManualClock,
    pub store: Arc<dyn Store>,
    session: LedgerSession,
    rng: StdRng,
    /// Messages that have no outcome that stays.
    open: Vec<(MessageId, Option<Fingerprint>)>,
    /// Messages that were charged lately.
    pub charged: Vec<Reservation>,
    /// Messages whose client was told to come again, and that are unknown.
    pub unknown: Vec<(MessageId, KeyId, Fingerprint)>,
}

impl Old {
    pub async fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = ManualClock::new("2026-09-03T10:00:00Z".parse().expect("a time"));
        let path = folder.path().join("ledger.db");
        sqlite::prepare(&path, INSTALLATION, "cluster", Uuid::from_u128(2), clock.now()).expect("a ledger");
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, Arc::new(clock.clone())).expect("a ledger"));
        let session = store.open_session(Role::Relay, "relay-0").await.expect("a session");
        let old = Self {
            folder,
            clock,
            store,
            session,
            rng: StdRng::seed_from_u64(seed),
            open: vec![],
            charged: vec![],
            unknown: vec![],
        };
        let mut entries = vec![policy(json!({}))];
        let prepaid = json!({"grants": [{"id": "first", "credits": 400, "expiresAt": "2027-01-01T00:00:00Z"}]});
        let terms = [json!({}), json!({"spendLimitMicro": 9_000_000}), json!({"prepaid": prepaid})];
        entries.extend((0..ACCOUNTS).zip(terms).map(|(n, more)| account(n, more)));
        entries.extend((0..KEYS).map(|n| key(n, json!({}))));
        old.store.put(&old.session, "tests", &entries).await.expect("written");
        for n in 0..KEYS {
            let name = format!("key-{n}");
            old.store.identify(&old.session, franking::domain::id::Kind::Key, "team", &name).await.expect("an id");
        }
        old
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Does `steps` random things to the ledger, as relays and operators do them.
    pub async fn live(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.rng.random_range(0..100) {
                0..45 => self.send().await,
                45..80 => self.settle().await,
                80..86 => self.clock.advance(self.rng.random_range(1..4_000)),
                86..88 => self.clock.advance(self.rng.random_range(1..4) * 86_400),
                88..93 => drop(self.store.rollup(&self.session).await.expect("rolled up")),
                93..96 => self.edit().await,
                96..98 => {
                    let until = self.clock.now() + SignedDuration::from_hours(24 * 20);
                    self.store.prepare_lots(&self.session, until).await.expect("lots");
                }
                _ => self.retire().await,
            }
        }
    }

    async fn send(&mut self) {
        let ms = u64::try_from(self.clock.now().as_millisecond()).expect("after 1970");
        let random: [u8; 10] = self.rng.random();
        let message = MessageId(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid());
        let key = key_id(self.rng.random_range(0..KEYS));
        let fingerprint = self.rng.random_bool(0.4).then(|| Fingerprint(self.rng.random()));
        let asked = Reservation { message, key, credits: self.rng.random_range(1..4), fingerprint };
        let verdicts = self.store.reserve(&self.session, std::slice::from_ref(&asked)).await.expect("answered");
        if verdicts == [Verdict::Reserved] {
            self.open.push((message, fingerprint));
            self.charged.push(asked);
        }
    }

    async fn settle(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let (message, fingerprint) = self.open.swap_remove(self.rng.random_range(0..self.open.len()));
        let outcomes = [Outcome::Relayed, Outcome::Relayed, Outcome::Refused, Outcome::NotOffered, Outcome::Unknown];
        let outcome = outcomes[self.rng.random_range(0..outcomes.len())];
        let kept = fingerprint.filter(|_| outcome == Outcome::Unknown);
        let dedup = kept.map(|fingerprint| DedupUpdate::Ended(Kept { fingerprint, within: FINGERPRINT_KEPT }));
        let settlement = Settlement { message, outcome, dedup };
        self.store.settle(&self.session, &[settlement]).await.expect("settled");
        if let Some(fingerprint) = kept {
            let key = self.charged.iter().find(|asked| asked.message == message).expect("it was charged").key;
            self.unknown.push((message, key, fingerprint));
        } else if outcome == Outcome::Unknown {
            // It may be corrected once.
            self.open.push((message, None));
        }
    }

    async fn edit(&mut self) {
        let credits = self.rng.random_range(50..5_000);
        let n = self.rng.random_range(0..ACCOUNTS);
        let entry = match self.rng.random_range(0..4) {
            0 => key(n, json!({"cap": monthly(Some(credits)), "rate": {"messages": 600, "perSeconds": 60}})),
            1 => policy(json!({"pool": monthly(Some(credits * 50))})),
            2 if n == 2 => {
                let prepaid = json!({"grants": [{"id": "first", "credits": 400}, {"id": "more", "credits": credits}]});
                account(n, json!({"prepaid": prepaid}))
            }
            _ => account(n, json!({"cap": monthly(Some(credits))})),
        };
        self.store.put(&self.session, "tests", &[entry]).await.expect("written");
    }

    async fn retire(&mut self) {
        let before = self.clock.now() - SignedDuration::from_hours(24 * 10);
        self.store.retire(&self.session, before).await.expect("retired");
        let forgotten = |message: MessageId| {
            let ms = message.0.get_timestamp().map_or(0, |at| at.to_unix().0 * 1_000);
            i64::try_from(ms).expect("a time") < (before + SignedDuration::from_hours(48)).as_millisecond()
        };
        self.open.retain(|(message, _)| !forgotten(*message));
        self.charged.retain(|asked| !forgotten(asked.message));
        self.unknown.retain(|(message, _, _)| !forgotten(*message));
    }
}

/// What a ledger answers to everything that is asked of it.
#[derive(Debug, PartialEq)]
pub struct Said {
    pub balances: Vec<Balance>,
    pub entries: BTreeMap<Uuid, Value>,
    pub epoch: i64,
    pub events: Vec<Event>,
    pub usage: Vec<String>,
    pub ids: Vec<Uuid>,
}

pub fn holders() -> Vec<Holder> {
    let keys = (0..KEYS).map(|n| Holder::Key(key_id(n)));
    let accounts = (0..ACCOUNTS).map(|n| Holder::Account(account_id(n)));
    keys.chain(accounts).chain([Holder::Policy(policy_id())]).collect()
}

/// Asks a ledger, after its rollup.
pub async fn asked(store: &dyn Store, session: &LedgerSession) -> Said {
    store.rollup(session).await.expect("rolled up");
    assert_eq!(store.check().await.expect("checked"), [], "it is in balance");
    let changes = store.changes(0).await.expect("the directory");
    let entries = changes.entries.iter().map(|entry| {
        let value = serde_json::to_value(entry).expect("json");
        (entry.holder().uuid(), value)
    });
    let (from, to) = (Timestamp::UNIX_EPOCH, "2100-01-01T00:00:00Z".parse().expect("a time"));
    let usage = store.usage(policy_id(), from, to, None, 10_000).await.expect("usage");
    let mut usage: Vec<String> = usage.iter().map(|row| format!("{row:?}")).collect();
    usage.sort();
    let mut ids = vec![];
    for n in 0..KEYS {
        let name = format!("key-{n}");
        let id = store.identify(session, franking::domain::id::Kind::Key, "team", &name).await;
        ids.push(id.expect("an id"));
    }
    Said {
        balances: store.balances(&holders()).await.expect("balances"),
        entries: entries.collect(),
        epoch: changes.epoch,
        events: store.events(0, 1_000_000).await.expect("the trail"),
        usage,
        ids,
    }
}

pub async fn identity(store: &dyn Store) -> Identity {
    store.identity().await.expect("an identity")
}
