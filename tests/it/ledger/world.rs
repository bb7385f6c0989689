//! The fixture: a ledger with one policy, and accounts and keys as a test wants them.
//!
//! The engines' own tests in `src/ledger/` compile this file too, so it names the crate `franking` and has only what
//! both need.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use franking::domain::credential::Username;
use franking::domain::credit::{Limit, Lot, Outcome, Overage, Reservation, Verdict};
use franking::domain::directory::{AccountEntry, Entry, KeyEntry, Named, PolicyEntry};
use franking::domain::id::{AccountId, Holder, KeyId, MessageId, PolicyId};
use franking::domain::period::{Calendar, Period};
use franking::ledger::store::{Balance, Exhausted, LedgerSession, Role, Settlement, Store, short_of};
use franking::runtime::clock::{Clock, ManualClock};

/// The place where an engine keeps one ledger. It can be opened several times, also at once.
pub trait Place: Sync {
    fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Store>;
}

pub const START: &str = "2026-11-20T10:00:00Z";

pub struct World {
    pub clock: ManualClock,
    pub store: Arc<dyn Store>,
    pub session: LedgerSession,
    next_message: u128,
}

pub fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

pub fn calendar(period: Period) -> Calendar {
    Calendar::new(period, 1, "UTC").expect("a calendar")
}

pub fn limit(credits: Option<i64>, period: Period) -> Limit {
    Limit { credits, calendar: calendar(period) }
}

pub fn monthly(credits: Option<i64>) -> Limit {
    limit(credits, Period::Monthly)
}

pub fn policy_id(n: u128) -> PolicyId {
    PolicyId(Uuid::from_u128(0x100 + n))
}

pub fn account_id(n: u128) -> AccountId {
    AccountId(Uuid::from_u128(0x200 + n))
}

pub fn key_id(n: u128) -> KeyId {
    KeyId(Uuid::from_u128(0x300 + n))
}

pub fn policy(n: u128, pool: Limit) -> PolicyEntry {
    PolicyEntry {
        id: policy_id(n),
        name: format!("policy-{n}"),
        suspended: None,
        pool,
        overage: Overage::Deny,
        when_exhausted: Default::default(),
        prepaid: None,
        pricing: None,
        currency: None,
        sender_domains: vec![],
        upstream: None,
        settings: None,
        removed_at: None,
    }
}

pub fn account(n: u128, cap: Limit) -> AccountEntry {
    AccountEntry {
        id: account_id(n),
        policy: policy_id(1),
        namespace: "team".to_owned(),
        name: format!("account-{n}"),
        suspended: None,
        cap,
        prepaid: None,
        spend_limit_micro: None,
        rate: None,
        allowed_senders: None,
        departures: Vec::new(),
        settings: None,
        removed_at: None,
    }
}

/// Returns key `n`, which belongs to account `of`.
pub fn key(n: u128, of: u128, cap: Limit) -> KeyEntry {
    KeyEntry {
        id: key_id(n),
        account: account_id(of),
        namespace: "team".to_owned(),
        name: format!("key-{n}"),
        username: Username::try_from(format!("key-{n}")).expect("a user name"),
        credentials: vec![],
        allow_from: vec![],
        allowed_senders: vec![],
        plain_listener: false,
        cap,
        rate: None,
        expires_at: None,
        revoked: false,
        settings: None,
        removed_at: None,
    }
}

impl World {
    /// Makes key 1 of account 1 of policy 1, with these monthly limits.
    pub async fn with(place: &impl Place, key_cap: Option<i64>, account_cap: Option<i64>, pool: Option<i64>) -> Self {
        let mut world = Self::empty(place).await;
        world
            .put(&[
                Entry::Policy(policy(1, monthly(pool))),
                Entry::Account(account(1, monthly(account_cap))),
                Entry::Key(key(1, 1, monthly(key_cap))),
            ])
            .await;
        world
    }

    pub async fn empty(place: &impl Place) -> Self {
        let clock = ManualClock::new(at(START));
        let store = place.open(Arc::new(clock.clone()));
        let session = store.open_session(Role::Relay, "relay-0").await.expect("a session");
        Self { clock, store, session, next_message: 1 }
    }

    pub async fn put(&mut self, entries: &[Entry]) {
        self.store.put(&self.session, "test", entries).await.expect("written");
    }

    pub fn message(&mut self) -> MessageId {
        self.next_message += 1;
        MessageId(Uuid::from_u128(self.next_message))
    }

    /// Returns a new message of key 1.
    pub fn reservation(&mut self, credits: u32) -> Reservation {
        Reservation { message: self.message(), key: key_id(1), credits, fingerprint: None }
    }

    pub async fn ask(&self, reservation: &Reservation) -> Verdict {
        let verdicts = self.store.reserve(&self.session, std::slice::from_ref(reservation)).await.expect("answered");
        assert_eq!(verdicts.len(), 1);
        verdicts.into_iter().next().expect("one verdict")
    }

    /// Reserves a new message of key 1. If it is refused for lack of credits, the balances must agree: the relay
    /// refuses by them before an upload.
    pub async fn send(&mut self, credits: u32) -> (MessageId, Verdict) {
        let reservation = self.reservation(credits);
        let verdict = self.ask(&reservation).await;
        if let Verdict::Short { meter, granted, remaining, reopens_at, .. } = verdict {
            let found = self.short_of(credits).await;
            assert_eq!(found, Some(Exhausted { meter, granted, remaining, reopens_at }));
        }
        (reservation.message, verdict)
    }

    /// Returns what a message of `credits` of key 1 lacks, by the balances.
    async fn short_of(&self, credits: u32) -> Option<Exhausted> {
        let username = Username::try_from("key-1".to_owned()).expect("a user name");
        let sender = self.store.find_sender(&username).await.expect("found").and_then(Named::sender).expect("key 1");
        let balances = self.store.balances(&sender.chain().holders()).await.expect("balances");
        short_of(&balances, i64::from(credits))
    }

    pub async fn settle(&self, message: MessageId, outcome: Outcome) {
        self.store.settle(&self.session, &[Settlement::of(message, outcome)]).await.expect("settled");
    }

    pub async fn balance(&self, holder: Holder) -> Balance {
        let mut balances = self.store.balances(&[holder]).await.expect("balances");
        assert_eq!(balances.len(), 1, "{holder:?}");
        balances.remove(0)
    }

    pub async fn lot(&self, holder: Holder) -> Lot {
        self.balance(holder).await.lot
    }

    /// Returns what key 1, its account and its policy have consumed.
    pub async fn consumed(&self) -> [i64; 3] {
        let mut consumed = [0; 3];
        for (slot, holder) in consumed.iter_mut().zip(chain()) {
            *slot = self.lot(holder).await.consumed;
        }
        consumed
    }

    /// Checks that balances follow from their rows.
    pub async fn check(&self) {
        assert_eq!(self.store.check().await.expect("checked"), vec![]);
    }
}

pub fn chain() -> [Holder; 3] {
    [Holder::Key(key_id(1)), Holder::Account(account_id(1)), Holder::Policy(policy_id(1))]
}

impl World {
    /// Returns the policy's consumption: every charge of the world goes through it.
    pub async fn consumed_total(&self) -> i64 {
        self.lot(chain()[2]).await.consumed
    }
}
