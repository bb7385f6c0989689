//! Keeps the ConfigMap `<release>-relay-effective`: what the settings and the three kinds come to for the relays.
//!
//! The relays follow the ledger's directory and `relay.yaml`, which only programs read. This is the same for people:
//! listeners and limits, and for each policy its upstream, senders, suspension, accounts and keys. Nothing reads it back.
//! What it must never hold: a password, a hash, a key, or an address of a person.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use ring::digest;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use super::RelayInForce;
use super::error::{Error, Result};
use super::observe::Context;
use super::plan::meta;
use super::references::Ref;
use super::watch::Name;
use crate::domain::directory::{Entry, PolicyEntry, Suspension, UpstreamTls};
use crate::domain::id::{AccountId, Holder, KeyId, PolicyId};

/// How often the directory is asked for changes: an edit is to be read within a second.
const EVERY: Duration = Duration::from_millis(500);
/// Without a change, what somebody edited by hand is put right.
const AGAIN: Duration = Duration::from_secs(60);
/// The key in the ConfigMap.
const FILE: &str = "effective.yaml";
/// On the ConfigMap, and in every policy's `status.relay.configHash`.
const HASH: &str = "franking.io/config-hash";
/// Policies in it, and domains of each; how many more there are is said. Together they stay far below the 1 MiB that a
/// ConfigMap may have.
const POLICIES_MAX: usize = 500;
const DOMAINS_MAX: usize = 20;

/// What the directory holds, as far as it is shown.
#[derive(Default)]
struct Followed {
    epoch: i64,
    policies: HashMap<PolicyId, PolicyEntry>,
    /// Accounts and keys in service.
    accounts: HashMap<AccountId, PolicyId>,
    keys: HashMap<KeyId, AccountId>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Effective<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<&'a RelayInForce>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    suspended: Option<&'a Suspension>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accounts: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<usize>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Upstream<'a> {
    host: &'a str,
    port: u16,
    tls: UpstreamTls,
    max_recipients: u16,
    /// Whether the relays have a login, a CA or a certificate for it; never which.
    secret: bool,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    let mut incarnation = context.guard.incarnation();
    let (mut followed, mut written, mut due) = (Followed::default(), None, Instant::now());
    loop {
        context.guard.opened().await;
        if incarnation != context.guard.incarnation() {
            (followed, incarnation) = (Followed::default(), context.guard.incarnation());
        }
        match followed.follow(context).await {
            Ok(()) => {
                // Not before the settings are known: half of it would be another hash in every status at each start.
                let rendered = context.relay.borrow().in_force.as_deref().map(|relay| followed.render(Some(relay)));
                if let Some(rendered) = rendered
                    && (written.as_ref() != Some(&rendered) || Instant::now() >= due)
                {
                    match write(context, &rendered).await {
                        Ok(()) => {
                            due = Instant::now() + AGAIN;
                            tell(context, &rendered.hash);
                            written = Some(rendered);
                        }
                        Err(error) => {
                            tracing::warn!(error = &error as &dyn std::error::Error, "writing what is in force");
                            tokio::time::sleep(AGAIN / 12).await;
                        }
                    }
                }
            }
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "following what is in force"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The text, and the hash of all in it but the counts: those move with every account and key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rendered {
    text: String,
    hash: String,
}

impl Followed {
    async fn follow(&mut self, context: &Context) -> Result<()> {
        let changes = context.books.store().changes(self.epoch).await;
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
                self.accounts.insert(account.id, account.policy);
            }
            Entry::Key(key) if serves && !key.revoked => {
                self.keys.insert(key.id, key.account);
            }
            entry @ (Entry::Policy(_) | Entry::Account(_) | Entry::Key(_)) => match entry.holder() {
                Holder::Policy(id) => drop(self.policies.remove(&id)),
                Holder::Account(id) => drop(self.accounts.remove(&id)),
                Holder::Key(id) => drop(self.keys.remove(&id)),
            },
        }
    }

    fn render(&self, relay: Option<&RelayInForce>) -> Rendered {
        let (mut accounts, mut keys) = (HashMap::<PolicyId, usize>::new(), HashMap::<PolicyId, usize>::new());
        self.accounts.values().for_each(|policy| *accounts.entry(*policy).or_default() += 1);
        let policies = self.keys.values().filter_map(|account| self.accounts.get(account));
        policies.for_each(|policy| *keys.entry(*policy).or_default() += 1);
        let count = |counts: &HashMap<PolicyId, usize>, id| counts.get(&id).copied().unwrap_or(0);
        let mut sorted: Vec<&PolicyEntry> = self.policies.values().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let shown: Vec<&PolicyEntry> = sorted.iter().copied().take(POLICIES_MAX).collect();
        let mut effective = Effective {
            relay,
            policies: shown.iter().map(|policy| (policy.name.as_str(), settings_of(policy))).collect(),
            policies_left_out: sorted.len() - shown.len(),
        };
        let settings = serde_yaml::to_string(&effective).unwrap_or_default();
        for policy in shown {
            if let Some(entry) = effective.policies.get_mut(policy.name.as_str()) {
                entry.accounts = Some(count(&accounts, policy.id));
                entry.keys = Some(count(&keys, policy.id));
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
    Policy { upstream, senders, senders_left_out, suspended: policy.suspended.as_ref(), accounts: None, keys: None }
}

async fn write(context: &Context, rendered: &Rendered) -> Result<()> {
    let settings = &context.settings;
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &settings.namespace);
    let name = &settings.effective_config_map;
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "annotations": {HASH: rendered.hash}},
        "data": {FILE: rendered.text},
    });
    let parameters = PatchParams::apply(meta::MANAGER).force();
    let written = api.patch(name, &parameters, &Patch::Apply(&object)).await;
    written.map(drop).map_err(Error::cluster("writing what is in force for the relays"))
}

/// Another hash goes into every policy's status, in the budget of the figures.
fn tell(context: &Context, hash: &str) {
    if context.replace_config_hash(hash) {
        for policy in context.references.policies.state() {
            context.references.recount(Ref::Policy(Name::of(policy.as_ref())));
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::credit::Limit;
    use crate::domain::directory::{Sealed, UpstreamEntry};
    use crate::domain::period::Calendar;
    use crate::domain::sender::MailDomain;

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
        let rendered = followed.render(None);
        assert!(rendered.text.len() < 1_000_000, "{} octets", rendered.text.len());
        assert!(rendered.text.contains("policiesLeftOut: 100") && rendered.text.contains("sendersLeftOut: 236"));
        assert!(rendered.text.contains("secret: true") && !rendered.text.contains("c2VhbGVk"));
        let at = |text: &str| rendered.text.find(text).expect(text);
        assert!(at("plan-0000") < at("plan-0001") && at("plan-0001") < at("plan-0499"));
    }

    #[test]
    fn counts_change_the_text_and_an_edit_the_hash_too() {
        let mut followed = Followed::default();
        followed.take(Entry::Policy(policy(1)));
        let first = followed.render(None);
        assert_eq!(followed.render(None), first);
        followed.accounts.insert(AccountId(Uuid::from_u128(2)), PolicyId(Uuid::from_u128(1)));
        let counted = followed.render(None);
        assert!(counted.text.contains("accounts: 1") && counted.hash == first.hash && counted.text != first.text);
        let suspended = Some(Suspension { reason: Some("unpaid".to_owned()) });
        followed.take(Entry::Policy(PolicyEntry { suspended, ..policy(1) }));
        let edited = followed.render(None);
        assert!(edited.text.contains("unpaid") && edited.hash != first.hash);
        followed.take(Entry::Policy(policy(1).removed(jiff::Timestamp::UNIX_EPOCH)));
        assert!(!followed.render(None).text.contains("plan-0001"));
    }
}
