//! The entries of the directory, and the sender that a key's, an account's and a policy's make together.

use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::upstream::UpstreamEntry;
use crate::domain::credential::{Credential, Username};
use crate::domain::credit::{Blocked, Chain, Limit, Overage, Prepaid, Rate, WhenExhausted};
use crate::domain::departure::{Departure, departed};
use crate::domain::id::{AccountId, Holder, KeyId, PolicyId};
use crate::domain::money::Pricing;
use crate::domain::sender::{MailDomain, SenderPattern};
use crate::domain::settings::Settings;

/// The suspension of a policy or an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspension {
    /// Reason that the user wrote; shown to the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A policy as the relay and the ledger see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyEntry {
    pub id: PolicyId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspension>,
    pub pool: Limit,
    /// Rule for sending beyond the pool; what goes beyond is counted apart.
    #[serde(default, skip_serializing_if = "Overage::is_deny")]
    pub overage: Overage,
    /// Reply to its senders when credits are used up.
    #[serde(default, skip_serializing_if = "WhenExhausted::is_defer")]
    pub when_exhausted: WhenExhausted,
    /// A balance that its accounts share, beside the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepaid: Option<Prepaid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing: Option<Pricing>,
    /// Currency that is, or ever was, in its pricing: spending is counted in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sender_domains: Vec<MailDomain>,
    /// `None` while it cannot be used, for example because its credentials are missing: mail is deferred with 451.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamEntry>,
    /// Other fields that are set, for the audit trail; `None` if an older version wrote the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<Timestamp>,
}

/// An account as the relay and the ledger see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountEntry {
    pub id: AccountId,
    pub policy: PolicyId,
    /// UID of the namespace if personal data was purged.
    pub namespace: String,
    /// Empty if personal data was purged.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspension>,
    pub cap: Limit,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepaid: Option<Prepaid>,
    /// Maximum that it may ever spend, in micro-units: all that it was charged under policies with prices counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend_limit_micro: Option<i64>,
    /// Its own rate, or the policy's for each account; the slower of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Senders that its keys may name, within the policy's domains. `None` = all of them, an empty list = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_senders: Option<Vec<SenderPattern>>,
    /// Policies that it left for another in this period, or in the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub departures: Vec<Departure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// Deleted, or no longer accepted by its policy: nothing is sent, used credits stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<Timestamp>,
}

/// A key as the relay and the ledger see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyEntry {
    pub id: KeyId,
    pub account: AccountId,
    pub namespace: String,
    pub name: String,
    pub username: Username,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// Empty = from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<IpNet>,
    /// Empty = all that the account may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_senders: Vec<SenderPattern>,
    #[serde(default)]
    pub plain_listener: bool,
    pub cap: Limit,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default)]
    pub revoked: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<Timestamp>,
}

/// True if a key that expires at `expires_at` (`None` = never) has expired at `now`.
pub fn is_expired(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_some_and(|expiry| expiry <= now)
}

impl KeyEntry {
    /// Checks whether the key itself may be used, regardless of its account.
    pub fn standing(&self, now: Timestamp) -> Result<(), Blocked> {
        if self.revoked || self.removed_at.is_some() {
            return Err(Blocked::KeyRevoked);
        }
        if is_expired(self.expires_at, now) {
            return Err(Blocked::KeyExpired);
        }
        Ok(())
    }

    /// Returns the key out of service from `at` on, unless it was before, without personal data: senders and networks.
    pub fn out_of_service(&self, at: Timestamp) -> Self {
        Self {
            removed_at: self.removed_at.or(Some(at)),
            allow_from: Vec::new(),
            allowed_senders: Vec::new(),
            settings: Settings::erased(self.settings.as_ref()),
            ..self.clone()
        }
    }

    /// Returns the key out of service for good: no login with it will ever succeed again.
    pub fn removed(&self, at: Timestamp) -> Self {
        Self { credentials: Vec::new(), ..self.out_of_service(at) }
    }

    /// True if the key was removed for good before `before`.
    pub fn is_gone_before(&self, before: Timestamp) -> bool {
        self.credentials.is_empty() && self.removed_at.is_some_and(|at| at < before)
    }
}

/// The part of an entry that the ledger reads.
#[derive(Clone, Debug)]
pub struct HolderTerms<'a> {
    pub holder: Holder,
    pub limit: &'a Limit,
    pub prepaid: Option<&'a Prepaid>,
    /// Limit in micro-units.
    pub spend_limit: Option<i64>,
    /// For accounts: true if their messages cost money at present. The account's entry alone does not tell.
    pub priced: bool,
    pub rate: Option<Rate>,
    pub overage: Overage,
}

impl HolderTerms<'_> {
    /// True if the holder has lots besides its period's.
    pub fn has_more(&self) -> bool {
        self.prepaid.is_some() || self.spend_limit.is_some() || self.priced
    }
}

impl PolicyEntry {
    /// Returns the policy out of service from `at` on, unless it was before. The upstream's login goes with it.
    pub fn removed(&self, at: Timestamp) -> Self {
        let settings = Settings::erased(self.settings.as_ref());
        Self { removed_at: self.removed_at.or(Some(at)), upstream: None, settings, ..self.clone() }
    }

    pub fn terms(&self) -> HolderTerms<'_> {
        HolderTerms {
            holder: Holder::Policy(self.id),
            limit: &self.pool,
            prepaid: self.prepaid.as_ref(),
            spend_limit: None,
            priced: false,
            rate: None,
            overage: self.overage,
        }
    }

    /// Returns the currency that its money is counted in.
    pub fn counted_in(&self) -> Option<&str> {
        self.currency.as_deref().or(self.pricing.as_ref().map(|pricing| pricing.currency.as_str()))
    }

    /// Returns the price of a credit at present, in micro-units; 0 without pricing.
    pub fn unit_price(&self) -> i64 {
        self.pricing.as_ref().map_or(0, Pricing::credit_micro)
    }
}

impl AccountEntry {
    /// Returns the policies left once it belongs to `policy` at `now`. If out of service, it left when it was removed.
    pub fn departures_for(&self, policy: PolicyId, now: Timestamp) -> Vec<Departure> {
        if self.policy == policy {
            return self.departures.clone();
        }
        departed(&self.departures, self.policy, self.removed_at.unwrap_or(now))
    }

    /// Returns the account out of service since `at` or before. Its use stays with its id; senders, personal data, go.
    pub fn removed(&self, at: Timestamp) -> Self {
        let settings = Settings::erased(self.settings.as_ref());
        Self { removed_at: self.removed_at.or(Some(at)), allowed_senders: None, settings, ..self.clone() }
    }

    /// Returns the account removed and without its names. Its place in its namespace stays taken until the period ends,
    /// however it was removed; the namespace's UID tells whose place that is and is not personal data.
    pub fn purged(&self, at: Timestamp, namespace_uid: String) -> Self {
        Self { namespace: namespace_uid, name: String::new(), ..self.removed(at) }
    }

    pub fn terms(&self) -> HolderTerms<'_> {
        HolderTerms {
            holder: Holder::Account(self.id),
            limit: &self.cap,
            prepaid: self.prepaid.as_ref(),
            spend_limit: self.spend_limit_micro,
            priced: false,
            rate: self.rate,
            overage: Overage::Deny,
        }
    }
}

impl KeyEntry {
    pub fn terms(&self) -> HolderTerms<'_> {
        HolderTerms {
            holder: Holder::Key(self.id),
            limit: &self.cap,
            prepaid: None,
            spend_limit: None,
            priced: false,
            rate: self.rate,
            overage: Overage::Deny,
        }
    }
}

/// One row of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    Policy(PolicyEntry),
    Account(AccountEntry),
    Key(KeyEntry),
}

impl Entry {
    pub fn holder(&self) -> Holder {
        match self {
            Self::Policy(policy) => Holder::Policy(policy.id),
            Self::Account(account) => Holder::Account(account.id),
            Self::Key(key) => Holder::Key(key.id),
        }
    }

    /// Returns the holder to whose limits its messages are charged as well.
    pub fn parent(&self) -> Option<Holder> {
        match self {
            Self::Policy(_) => None,
            Self::Account(account) => Some(Holder::Policy(account.policy)),
            Self::Key(key) => Some(Holder::Account(key.account)),
        }
    }

    /// Returns the limits that its holder's messages are judged by.
    pub fn terms(&self) -> HolderTerms<'_> {
        match self {
            Self::Policy(policy) => policy.terms(),
            Self::Account(account) => account.terms(),
            Self::Key(key) => key.terms(),
        }
    }

    /// Returns the limit of the holder's period lots.
    pub fn limit(&self) -> &Limit {
        self.terms().limit
    }

    pub fn prepaid(&self) -> Option<&Prepaid> {
        self.terms().prepaid
    }

    pub fn spend_limit_micro(&self) -> Option<i64> {
        self.terms().spend_limit
    }

    pub fn rate(&self) -> Option<Rate> {
        self.terms().rate
    }

    pub fn overage(&self) -> Overage {
        self.terms().overage
    }

    pub fn removed_at(&self) -> Option<Timestamp> {
        match self {
            Self::Policy(policy) => policy.removed_at,
            Self::Account(account) => account.removed_at,
            Self::Key(key) => key.removed_at,
        }
    }
}

/// A key with its account and policy, by which one message is judged.
#[derive(Clone, Debug)]
pub struct ResolvedKey {
    pub key: Arc<KeyEntry>,
    pub account: Arc<AccountEntry>,
    pub policy: Arc<PolicyEntry>,
}

impl ResolvedKey {
    pub fn chain(&self) -> Chain {
        Chain { key: self.key.id, account: self.account.id, policy: self.policy.id }
    }

    /// Returns the limits that its messages are judged by: those of key, account, policy.
    pub fn terms(&self) -> [HolderTerms<'_>; 3] {
        let priced = self.policy.unit_price() > 0;
        [self.key.terms(), HolderTerms { priced, ..self.account.terms() }, self.policy.terms()]
    }

    /// Checks whether this sender may send at all. The relay asks at AUTH, MAIL and RCPT and after the final dot; the
    /// ledger asks again when it charges, on fresh rows, and its answer is final.
    pub fn standing(&self, now: Timestamp) -> Result<(), Blocked> {
        let reason = |suspension: &Suspension| suspension.reason.clone();
        if self.key.revoked {
            return Err(Blocked::KeyRevoked);
        }
        // A key is taken out of service with its account: the sender is told what happened to the account.
        if self.account.removed_at.is_some() {
            return Err(Blocked::AccountRemoved);
        }
        if self.policy.removed_at.is_some() {
            return Err(Blocked::PolicyRemoved);
        }
        self.key.standing(now)?;
        if let Some(suspension) = &self.account.suspended {
            return Err(Blocked::AccountSuspended { reason: reason(suspension) });
        }
        if let Some(suspension) = &self.policy.suspended {
            return Err(Blocked::PolicySuspended { reason: reason(suspension) });
        }
        Ok(())
    }
}

/// A key that was found by its user name.
#[derive(Clone, Debug)]
pub enum Named {
    Sender(ResolvedKey),
    /// Its account is not accepted: that or its policy is not in the directory. Nothing can be sent with the key yet.
    Waiting(Arc<KeyEntry>),
}

impl Named {
    pub fn key(&self) -> &KeyEntry {
        match self {
            Self::Sender(sender) => &sender.key,
            Self::Waiting(key) => key,
        }
    }

    pub fn sender(self) -> Option<ResolvedKey> {
        match self {
            Self::Sender(sender) => Some(sender),
            Self::Waiting(_) => None,
        }
    }
}
