//! Observes the state: reads the stores, the ledger and, where a stale reply could do damage, the API server.

pub mod above;
pub mod secrets;
pub mod upstream_secret;

use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt as _};

use super::error::{Error, Result};
use super::plan::cost::Cost;
use super::plan::gauge::Gauge;
use super::plan::{api_key, credit_policy, is_true, meta, places, sub_account};
use crate::crd::{
    AccountCounts, ConditionType, CreditPolicy, SubAccount, SubAccountApiKey, account_terms, find_condition,
};
use crate::domain::directory::Entry;
use crate::domain::id::{AccountId, Holder, Kind, PolicyId};
use crate::operator::context::Context;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::observe::secrets::KeySecrets;
use crate::operator::plan::key_observed;
use crate::operator::state::guard::LedgerState;
use crate::operator::state::ledger_client::{LedgerClient, Removed};
use crate::operator::watch::references::References;

impl Context {
    async fn entry(&self, holder: Holder) -> Result<Option<Entry>> {
        self.ledger.entry(holder).await.map_err(Error::ledger("reading the directory"))
    }

    pub async fn observe_policy(&self, policy: &CreditPolicy) -> Result<credit_policy::Observed> {
        let endpoint = self.endpoint.borrow().clone();
        let (name, what) = (policy.name_any(), Ref::Policy(Name::of(policy)));
        let figures_permitted = self.may_write_figures(&what);
        let holder = self.ids.holder(&self.ledger, &self.references, what, "").await?;
        let entry = match self.entry(holder).await? {
            Some(Entry::Policy(entry)) => Some(entry),
            Some(Entry::Account(_) | Entry::Key(_)) | None => None,
        };
        let id = PolicyId(holder.uuid());
        let count = self.references.index(|index| index.count(&name));
        if figures_permitted {
            self.references.departures_counted(&name);
        }
        let since =
            policy.spec.check().map_or(self.clock.now(), |spec| spec.pool.calendar.window(self.clock.now()).from);
        let removed =
            self.ledger.removed_accounts(id, None, since).await.map_err(Error::ledger("counting accounts"))?;
        Ok(credit_policy::Observed {
            id,
            login: self.login(policy, id, entry.as_ref()).await?,
            entry,
            namespace: self.settings.namespace.clone(),
            gauge: gauge(&self.ledger, holder, &[]).await?,
            cost: self.costs.of_policy(id, credit_policy::valid_pricing(policy), self.clock.now()),
            accounts: AccountCounts {
                total: count.total,
                active: count.active,
                suspended: count.suspended,
                removed: removed.iter().filter(|(_, removed)| !self.lives(&name, removed)).count() as i64,
            },
            limited: credit_policy::LimitedAccounts::of(&count),
            users: if meta::deleting(&policy.metadata) {
                self.references.index(|index| index.accounts_of_policy(&name).cloned().collect())
            } else {
                Vec::new()
            },
            endpoint,
            relay: self.relay.borrow().clone(),
            config_hash: self.config_hash.get(),
            sightings: self.upstreams.latest(),
            orphans: self.orphans.of(id),
            ledger_ahead: self.ledger_clock.sentence(),
            figures_permitted,
        })
    }

    /// True if the account still exists and names this policy: a refused account is out of service, not removed.
    fn lives(&self, policy: &str, removed: &Removed) -> bool {
        let account = self.references.account(&Name::new(&removed.namespace, &removed.name));
        account.is_some_and(|account| account.spec.policy_ref.name == policy)
    }

    pub async fn observe_account(&self, account: &SubAccount) -> Result<sub_account::Observed> {
        let (name, what) = (Name::of(account), Ref::Account(Name::of(account)));
        let figures_permitted = self.may_write_figures(&what);
        let namespace = namespace(&self.client, &self.references, &name.namespace).await?;
        let holder = self.ids.holder(&self.ledger, &self.references, what, &namespace.uid).await?;
        let entry = match self.entry(holder).await? {
            Some(Entry::Account(entry)) => Some(entry),
            Some(Entry::Policy(_) | Entry::Key(_)) | None => None,
        };
        let policy_name = &account.spec.policy_ref.name;
        let policy = match self.references.policy(policy_name) {
            Some(object) => {
                let id = PolicyId(self.ids.id(&self.ledger, &Ref::Policy(Name::new("", policy_name)), "").await?);
                // A rebuild has its own order, and must not wait for objects that cannot be put back. A policy without
                // a status may have no upstream; its first status wakes this account.
                let stands = self.ledger_guard.state() == LedgerState::Rebuilding
                    || (self.awaiting_policy.is_policy_present(&self.ledger, policy_name, id, &name).await?
                        && object.status.is_some());
                let currency = self.currency_of(id, &object).await?;
                Some(sub_account::Policy { id, object, stands, currency })
            }
            None => None,
        };
        let had = match &policy {
            Some(policy) => self.places(policy, [&name.namespace, &namespace.uid]).await?,
            None => Vec::new(),
        };
        let (places, claimant, keys) = self.references.index(|index| {
            let accounts = index.in_namespace(policy_name, &name.namespace);
            let id = account.spec.external_id.as_ref();
            let claimant = id.and_then(|id| index.claimant(policy_name, id));
            (places::count(holder.uuid().into(), &name, &accounts, &had), claimant, index.count_keys(&name))
        });
        let cost = policy.as_ref().map_or(Cost::None, |policy| {
            let pricing = credit_policy::valid_pricing(&policy.object);
            self.costs.of_account(policy.id, holder.uuid().into(), pricing, self.clock.now())
        });
        Ok(sub_account::Observed {
            id: holder.uuid().into(),
            entry,
            cost,
            namespace,
            policy,
            claimant,
            places,
            gauge: gauge(&self.ledger, holder, &[]).await?,
            keys,
            figures_permitted,
        })
    }

    /// Returns the currency of a policy's money. It never changes, so it is read once.
    async fn currency_of(&self, id: PolicyId, policy: &CreditPolicy) -> Result<Option<String>> {
        if policy.spec.pricing.is_none() {
            return Ok(None);
        }
        if let Some(known) = self.currencies.of(id) {
            return Ok(Some(known));
        }
        let entry = match self.entry(Holder::Policy(id)).await? {
            Some(Entry::Policy(entry)) => Some(entry),
            Some(Entry::Account(_) | Entry::Key(_)) | None => None,
        };
        let known = credit_policy::known_currency(policy, entry.as_ref());
        if let Some(known) = &known {
            self.currencies.remember(id, known.clone());
        }
        Ok(known)
    }

    /// Returns the accounts that have or had a place under the policy in this namespace and period, if places are
    /// limited.
    async fn places(&self, policy: &sub_account::Policy, namespace: [&str; 2]) -> Result<Vec<(AccountId, Name)>> {
        let Ok(spec) = policy.object.spec.check() else { return Ok(Vec::new()) };
        if spec.max_accounts_per_namespace.is_none() {
            return Ok(Vec::new());
        }
        let since = spec.pool.calendar.window(self.clock.now()).from;
        let had = self.ledger.removed_accounts(policy.id, Some(namespace), since);
        let had = had.await.map_err(Error::ledger("counting accounts"))?;
        Ok(had.into_iter().map(|(id, place)| (id, Name::new(place.namespace, place.name))).collect())
    }

    pub async fn observe_key(&self, key: &SubAccountApiKey) -> Result<key_observed::Observed> {
        let endpoint = self.endpoint.borrow().clone();
        let (name, what) = (Name::of(key), Ref::Key(Name::of(key)));
        let figures_permitted = self.may_write_figures(&what);
        let namespace = namespace(&self.client, &self.references, &name.namespace).await?;
        let above = above::holders_above(&self.references, &self.ids, &what);
        let holder = self.ids.holder(&self.ledger, &self.references, what, &namespace.uid).await?;
        let entry = match self.entry(holder).await? {
            Some(Entry::Key(entry)) => Some(entry),
            Some(Entry::Policy(_) | Entry::Account(_)) | None => None,
        };
        let leaving = meta::deleting(&key.metadata) || namespace.terminating;
        let revoked = entry.as_ref().is_some_and(|entry| api_key::is_to_be_revoked(key, entry));
        let secrets = if namespace.terminating || (revoked && !leaving) {
            KeySecrets::default()
        } else {
            match KeySecrets::read(&self.client, &self.references, key, &name, leaving).await {
                // Narrowing a key, or removing it, does not wait for the right to read its Secrets.
                Err(error) if error.is_forbidden() && (leaving || entry.is_some()) => KeySecrets::forbidden(&error),
                read => read?,
            }
        };
        Ok(key_observed::Observed {
            id: holder.uuid().into(),
            entry,
            account: if leaving || revoked { None } else { self.account_of(key, &name, &namespace.uid).await? },
            namespace,
            existing: secrets.existing,
            is_existing_a_login: secrets.is_existing_a_login,
            forbidden: secrets.forbidden,
            secret: secrets.secret,
            others: secrets.others,
            endpoint,
            hash_key: self.hash_key.clone(),
            rebuilding: self.ledger_guard.state() == LedgerState::Rebuilding,
            gauge: gauge(&self.ledger, holder, &above).await?,
            denied: self.denied.of(holder.uuid().into()),
            figures_permitted,
        })
    }

    async fn account_of(
        &self,
        key: &SubAccountApiKey,
        name: &Name,
        uid: &str,
    ) -> Result<Option<key_observed::Account>> {
        let account_name = Name::new(&name.namespace, &key.spec.sub_account_ref.name);
        let found = self.references.account(&account_name);
        let Some(account) = found.filter(|account| !meta::deleting(&account.metadata)) else { return Ok(None) };
        let id = self.ids.id(&self.ledger, &Ref::Account(account_name), uid).await?;
        let programmed = match self.entry(Holder::new(Kind::Account, id)).await? {
            // An account without a status may be suspended; its first status wakes this key.
            Some(Entry::Account(entry)) => entry.removed_at.is_none() && account.status.is_some(),
            Some(Entry::Policy(_) | Entry::Key(_)) | None => false,
        };
        let conditions = account.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let refusal = find_condition(conditions, ConditionType::Ready).map(|condition| condition.message.clone());
        let refusal = refusal.filter(|_| !is_true(conditions, ConditionType::Ready));
        let policy = self.references.policy(&account.spec.policy_ref.name).and_then(|policy| policy.spec.check().ok());
        // From the specs: the directory may be behind them, and nothing would wake this key when it catches up.
        let terms = policy.as_ref().zip(account.spec.check().ok());
        let terms = terms.and_then(|(policy, spec)| account_terms(policy, &spec).ok());
        let (calendar, domains) = policy.map(|spec| (spec.pool.calendar, spec.sender_domains)).unzip();
        Ok(Some(key_observed::Account {
            id: id.into(),
            policy: account.spec.policy_ref.name.clone(),
            programmed,
            refusal,
            stalled: is_true(conditions, ConditionType::Stalled),
            obstacle: sub_account::obstacle(&account),
            sending: account.status.as_ref().and_then(|status| status.sending.clone()),
            calendar,
            senders: domains.zip(terms.map(|terms| terms.allowed_senders)),
        }))
    }
}

/// Returns the figures of a holder under its own limits and under those of `above`.
async fn gauge(ledger: &LedgerClient, holder: Holder, above: &[Holder]) -> Result<Option<Gauge>> {
    let holders: Vec<Holder> = [&[holder], above].concat();
    let balances = ledger.balances(&holders).await.map_err(Error::ledger("reading a balance"))?;
    let Some((own, above)) = balances.split_first().filter(|(own, _)| own.lot.holder == holder) else {
        return Ok(None);
    };
    Ok(Some(Gauge::of(own).under(above.iter())))
}

/// Returns the namespace from its watch, or live if the watch has not shown it yet.
async fn namespace(client: &Client, references: &References, name: &str) -> Result<sub_account::Namespace> {
    let found = match references.namespace(name) {
        Some(namespace) => Some(namespace.metadata.clone()),
        None => {
            let api: Api<Namespace> = Api::all(client.clone());
            let live = api.get_metadata_opt(name).await.map_err(Error::cluster("reading a namespace"))?;
            live.map(|namespace: PartialObjectMeta<Namespace>| namespace.metadata)
        }
    };
    Ok(found.map_or_else(
        || sub_account::Namespace { terminating: true, ..sub_account::Namespace::default() },
        |metadata| sub_account::Namespace {
            terminating: meta::deleting(&metadata),
            uid: metadata.uid.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
        },
    ))
}
