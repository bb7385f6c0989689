//! Maintains the ConfigMap `<release>-relay-effective`: the relays' settings and the three kinds as now in force.
//!
//! The relays follow the ledger's directory and `relay.yaml`, which only programs read. The ConfigMap shows the same to
//! people: listeners and limits, and for each policy its upstream, senders, suspension, accounts and keys. It is never
//! read back. It must never hold a password, a hash, a key, an address of a person, or the reason of a suspension:
//! readers of ConfigMaps in this namespace need not know why a customer does not pay.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use ring::digest;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::directory::{Entry, PolicyEntry, UpstreamTls, is_expired};
use crate::domain::id::{AccountId, Holder, KeyId, PolicyId};
use crate::operator::error::{Error, Result};
use crate::operator::plan::meta;
use crate::operator::plan::relay_state::{RelayInForce, RelayState};
use crate::operator::state::config_hash::ConfigHash;
use crate::operator::state::guard::Guard;
use crate::operator::state::ledger_client::LedgerClient;
use crate::operator::watch::references::References;
use crate::runtime::clock::Clock;

/// Interval at which the directory is read for changes: an edit should show within a second.
const EVERY: Duration = Duration::from_millis(500);
/// Interval at which the ConfigMap is written without a change, which reverts manual edits.
const AGAIN: Duration = Duration::from_secs(60);
/// The key in the ConfigMap.
const FILE: &str = "effective.yaml";
/// Annotation on the ConfigMap, equal to every policy's `status.relay.configHash`.
const HASH: &str = "franking.io/config-hash";
/// Maximum number of policies shown, and of domains of each; the number left out is shown. Together they stay far below
/// the 1 MiB that a ConfigMap may have.
const POLICIES_MAX: usize = 500;
const DOMAINS_MAX: usize = 20;

/// The part of the directory that is shown.
#[derive(Default)]
struct Followed {
    epoch: i64,
    policies: HashMap<PolicyId, PolicyEntry>,
    /// Accounts that are accepted, and keys that are not revoked.
    accounts: HashMap<AccountId, FollowedAccount>,
    keys: HashMap<KeyId, FollowedKey>,
}

struct FollowedAccount {
    policy: PolicyId,
    suspended: bool,
}

struct FollowedKey {
    account: AccountId,
    expires_at: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Effective<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<RelayInForce>,
    policies: BTreeMap<&'a str, Policy<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    policies_left_out: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Upstream<'a>>,
    senders: Vec<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    senders_left_out: usize,
    suspended: bool,
    /// Absent in the hashed text.
    #[serde(skip_serializing_if = "Option::is_none")]
    accounts: Option<Counts>,
    /// Keys that are neither revoked nor expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Counts>,
}

/// Accounts, or keys, of a policy. Suspended: blocked by their own suspension, or by one up the chain.
#[derive(Clone, Copy, Default, Serialize)]
struct Counts {
    active: usize,
    suspended: usize,
}

impl Counts {
    fn add(&mut self, suspended: bool) {
        *(if suspended { &mut self.suspended } else { &mut self.active }) += 1;
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Upstream<'a> {
    host: &'a str,
    port: u16,
    tls: UpstreamTls,
    max_recipients: u16,
    /// True if the relays have a login, a CA or a certificate for it; never which.
    secret: bool,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The task, with what it uses of the operator.
pub struct EffectiveConfig<'a> {
    pub client: &'a Client,
    /// The namespace and the name of the ConfigMap.
    pub config_map: (&'a str, &'a str),
    pub ledger_guard: &'a Guard,
    pub ledger: &'a LedgerClient,
    pub relay: &'a watch::Receiver<RelayState>,
    pub config_hash: &'a ConfigHash,
    pub references: &'a References,
    pub clock: &'a dyn Clock,
}

impl EffectiveConfig<'_> {
    /// Runs until the future is dropped.
    pub async fn run(&self) {
        let mut incarnation = self.ledger_guard.incarnation();
        let (mut followed, mut written, mut due) = (Followed::default(), None, Instant::now());
        loop {
            self.ledger_guard.opened().await;
            if incarnation != self.ledger_guard.incarnation() {
                (followed, incarnation) = (Followed::default(), self.ledger_guard.incarnation());
            }
            match followed.follow(self.ledger).await {
                Ok(()) => {
                    // Not before the settings are known: a partial text would put another hash into every status at each
                    // start.
                    let now = self.clock.now();
                    let rendered =
                        self.relay.borrow().in_force.as_deref().map(|relay| followed.render(Some(relay), now));
                    if let Some(rendered) = rendered
                        && (written.as_ref() != Some(&rendered) || Instant::now() >= due)
                    {
                        match self.write(&rendered).await {
                            Ok(()) => {
                                due = Instant::now() + AGAIN;
                                self.tell(&rendered.hash);
                                written = Some(rendered);
                            }
                            Err(error) => {
                                tracing::warn!(
                                    error = &error as &dyn std::error::Error,
                                    "writing the effective settings"
                                );
                                tokio::time::sleep(AGAIN / 12).await;
                            }
                        }
                    }
                }
                Err(error) => tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "following the directory for the effective settings"
                ),
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn write(&self, rendered: &Rendered) -> Result<()> {
        let (namespace, name) = self.config_map;
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "annotations": {HASH: rendered.hash}},
            "data": {FILE: rendered.text},
        });
        let parameters = PatchParams::apply(meta::MANAGER).force();
        let written = api.patch(name, &parameters, &Patch::Apply(&object)).await;
        written.map(drop).map_err(Error::cluster("writing the relays' effective settings"))
    }

    /// Passes a changed hash on to every policy's status, within the write budget of figures.
    fn tell(&self, hash: &str) {
        if self.config_hash.replace(hash) {
            self.references.recount_policies();
        }
    }
}

/// The text, and the hash of all of it except the counts, which change with every account and key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rendered {
    text: String,
    hash: String,
}

impl Followed {
    async fn follow(&mut self, ledger: &LedgerClient) -> Result<()> {
        let changes = ledger.store().changes(self.epoch).await;
        let changes = changes.map_err(Error::ledger("reading the directory"))?;
        self.epoch = changes.epoch;
        changes.entries.into_iter().for_each(|entry| self.take(entry));
        Ok(())
    }

    fn take(&mut self, entry: Entry) {
        let serves = entry.removed_at().is_none();
        match entry {
            Entry::Policy(policy) if serves => {
                self.policies.insert(policy.id, policy);
            }
            Entry::Account(account) if serves => {
                let suspended = account.suspended.is_some();
                self.accounts.insert(account.id, FollowedAccount { policy: account.policy, suspended });
            }
            Entry::Key(key) if serves && !key.revoked => {
                self.keys.insert(key.id, FollowedKey { account: key.account, expires_at: key.expires_at });
            }
            entry @ (Entry::Policy(_) | Entry::Account(_) | Entry::Key(_)) => match entry.holder() {
                Holder::Policy(id) => drop(self.policies.remove(&id)),
                Holder::Account(id) => drop(self.accounts.remove(&id)),
                Holder::Key(id) => drop(self.keys.remove(&id)),
            },
        }
    }

    /// Counts the accounts and keys of each policy.
    fn count(&self, now: Timestamp) -> HashMap<PolicyId, (Counts, Counts)> {
        let mut counts = HashMap::<PolicyId, (Counts, Counts)>::new();
        let suspended = |account: &FollowedAccount| {
            account.suspended || self.policies.get(&account.policy).is_some_and(|policy| policy.suspended.is_some())
        };
        for account in self.accounts.values() {
            counts.entry(account.policy).or_default().0.add(suspended(account));
        }
        for key in self.keys.values().filter(|key| !is_expired(key.expires_at, now)) {
            if let Some(account) = self.accounts.get(&key.account) {
                counts.entry(account.policy).or_default().1.add(suspended(account));
            }
        }
        counts
    }

    fn render(&self, relay: Option<&RelayInForce>, now: Timestamp) -> Rendered {
        let counts = self.count(now);
        let mut sorted: Vec<&PolicyEntry> = self.policies.values().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let shown: Vec<&PolicyEntry> = sorted.iter().copied().take(POLICIES_MAX).collect();
        let mut effective = Effective {
            relay: relay.map(|relay| RelayInForce { limits: relay.limits.with_shares(), ..relay.clone() }),
            policies: shown.iter().map(|policy| (policy.name.as_str(), settings_of(policy))).collect(),
            policies_left_out: sorted.len() - shown.len(),
        };
        let settings = serde_yaml::to_string(&effective).unwrap_or_default();
        for policy in shown {
            if let Some(entry) = effective.policies.get_mut(policy.name.as_str()) {
                let (accounts, keys) = counts.get(&policy.id).copied().unwrap_or_default();
                (entry.accounts, entry.keys) = (Some(accounts), Some(keys));
            }
        }
        let hash = digest::digest(&digest::SHA256, settings.as_bytes());
        let hash = hash.as_ref()[..8].iter().map(|octet| format!("{octet:02x}")).collect();
        Rendered { text: serde_yaml::to_string(&effective).unwrap_or_default(), hash }
    }
}

fn settings_of(policy: &PolicyEntry) -> Policy<'_> {
    let mut senders: Vec<&str> = policy.sender_domains.iter().map(|domain| domain.as_str()).collect();
    senders.sort_unstable();
    let senders_left_out = senders.len().saturating_sub(DOMAINS_MAX);
    senders.truncate(DOMAINS_MAX);
    let upstream = policy.upstream.as_ref().map(|upstream| Upstream {
        host: &upstream.host,
        port: upstream.port,
        tls: upstream.tls,
        max_recipients: upstream.max_recipients,
        secret: upstream.secret.is_some(),
    });
    let suspended = policy.suspended.is_some();
    Policy { upstream, senders, senders_left_out, suspended, accounts: None, keys: None }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::credit::Limit;
    use crate::domain::directory::{Sealed, Suspension, UpstreamEntry};
    use crate::domain::period::Calendar;
    use crate::domain::sender::MailDomain;
    use crate::runtime::relay_config::Limits;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn policy(number: u128) -> PolicyEntry {
        let domain = |index| MailDomain::parse(&format!("d{index:03}.example")).expect("a domain");
        PolicyEntry {
            id: PolicyId(Uuid::from_u128(number)),
            name: format!("plan-{number:04}"),
            suspended: None,
            pool: Limit { credits: Some(1), calendar: Calendar::monthly_utc() },
            overage: Default::default(),
            when_exhausted: Default::default(),
            prepaid: None,
            pricing: None,
            currency: None,
            sender_domains: (0..256).rev().map(domain).collect(),
            upstream: Some(UpstreamEntry {
                host: "smtp.example".to_owned(),
                port: 465,
                tls: UpstreamTls::Implicit,
                secret: Some(Sealed("c2VhbGVk".to_owned())),
                max_recipients: 100,
            }),
            settings: None,
            removed_at: None,
        }
    }

    #[test]
    fn it_is_sorted_bounded_and_holds_nothing_sealed() {
        let mut followed = Followed::default();
        (0..600).rev().for_each(|number| followed.take(Entry::Policy(policy(number))));
        let rendered = followed.render(None, NOW);
        assert!(rendered.text.len() < 1_000_000, "{} octets", rendered.text.len());
        assert!(rendered.text.contains("policiesLeftOut: 100") && rendered.text.contains("sendersLeftOut: 236"));
        assert!(rendered.text.contains("secret: true") && !rendered.text.contains("c2VhbGVk"));
        let at = |text: &str| rendered.text.find(text).expect(text);
        assert!(at("plan-0000") < at("plan-0001") && at("plan-0001") < at("plan-0499"));
    }

    /// Builds an account of policy 1.
    fn account(suspended: bool) -> FollowedAccount {
        FollowedAccount { policy: PolicyId(Uuid::from_u128(1)), suspended }
    }

    #[test]
    fn counts_change_the_text_and_an_edit_the_hash_too() {
        let mut followed = Followed::default();
        followed.take(Entry::Policy(policy(1)));
        let first = followed.render(None, NOW);
        assert_eq!(followed.render(None, NOW), first);
        followed.accounts.insert(AccountId(Uuid::from_u128(2)), account(false));
        let counted = followed.render(None, NOW);
        assert!(counted.text.contains("accounts:\n      active: 1") && counted.hash == first.hash, "{}", counted.text);
        let suspended = |reason: &str| {
            let suspended = Some(Suspension { reason: Some(reason.to_owned()) });
            Entry::Policy(PolicyEntry { suspended, ..policy(1) })
        };
        followed.take(suspended("unpaid"));
        let edited = followed.render(None, NOW);
        assert!(edited.text.contains("suspended: true") && edited.hash != first.hash);
        followed.take(suspended("fraud"));
        assert_eq!(followed.render(None, NOW), edited, "why it is suspended is shown to nobody");
        followed.take(Entry::Policy(policy(1).removed(NOW)));
        assert!(!followed.render(None, NOW).text.contains("plan-0001"));
    }

    #[test]
    fn keys_that_can_log_in_are_counted_apart_from_those_that_are_suspended_and_expired_ones_not_at_all() {
        let mut followed = Followed::default();
        followed.take(Entry::Policy(policy(1)));
        let ids = [2, 3].map(|id| AccountId(Uuid::from_u128(id)));
        followed.accounts.insert(ids[0], account(false));
        followed.accounts.insert(ids[1], account(true));
        let second = |seconds| Some(Timestamp::constant(seconds, 0));
        let keys =
            [(ids[0], None), (ids[0], second(1)), (ids[0], second(0)), (ids[1], None), (ids[1], second(0))].into_iter();
        for (id, (account, expires_at)) in keys.enumerate() {
            followed.keys.insert(KeyId(Uuid::from_u128(id as u128)), FollowedKey { account, expires_at });
        }
        let shows = |followed: &Followed, accounts: [usize; 2], keys: [usize; 2]| {
            let counts =
                |[active, suspended]: [usize; 2]| format!("      active: {active}\n      suspended: {suspended}\n");
            let text = followed.render(None, NOW).text;
            let expected = format!("    accounts:\n{}    keys:\n{}", counts(accounts), counts(keys));
            assert!(text.contains(&expected), "{expected} is not in\n{text}");
        };
        shows(&followed, [1, 1], [2, 1]);
        let suspended = Some(Suspension { reason: None });
        followed.take(Entry::Policy(PolicyEntry { suspended, ..policy(1) }));
        shows(&followed, [0, 2], [0, 3]);
    }

    #[test]
    fn the_memory_of_an_account_and_of_a_namespace_is_shown_where_no_setting_names_it() {
        let relay = RelayInForce {
            hostname: "relay.example".to_owned(),
            listeners: Vec::new(),
            limits: Limits { message_bytes: 10, bytes_in_flight: 100, ..Limits::default() },
        };
        let text = Followed::default().render(Some(&relay), NOW).text;
        for line in ["bytesInFlightPerAccount: 40\n", "bytesInFlightPerNamespace: 50\n"] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
