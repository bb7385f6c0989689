//! The relations by which a change of one object wakes others.
//!
//! Watches resolve references, without polling: a policy wakes its accounts and their keys, an account its keys and
//! those it competes with, a namespace its accounts, a Secret of ours its key, an upstream's Secret the policies that
//! name it. Changes of counts (accounts of a policy, keys of an account) wait for the budget. A deleted object gets one
//! more pass, which finds nothing and forgets what was remembered of it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;

use crate::crd::{CreditPolicy, DeletionPolicy, SubAccount, SubAccountApiKey};
use crate::operator::dependencies::OperatorSettings;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::plan::adoption::Adoption;
use crate::operator::plan::meta;
use crate::operator::state::own_statuses::status_mark;
use crate::operator::watch::follow::{Change, Listed, Told, follow};
use crate::operator::watch::marks::{
    account_facts, account_marks, key_facts, key_marks, login_marks, namespace_marks, own_mark, policy_marks,
    secret_marks,
};
use crate::operator::watch::password_pauses::PasswordPauses;
use crate::operator::watch::references::{References, Writers, is_adopted};
use crate::operator::watch::work_queue::{Cause, WorkQueues};

/// Follows all kinds until the future is dropped.
pub async fn watch(
    references: &References,
    client: &Client,
    settings: &OperatorSettings,
    writers: Writers,
    queues: &WorkQueues,
) {
    let all = watcher::Config::default;
    let ours = all().labels(&format!("{}={}", meta::MANAGED_BY, meta::MANAGER));
    let usable = all().labels(&format!("{}=true", meta::USE_LABEL));
    let api = client.clone();
    let feed = &Feed { references, queues };
    let pauses = &PasswordPauses::default();
    tokio::join!(
        follow("CreditPolicy", Api::all(api.clone()), all(), Some(writers.policies), policy_marks, feed),
        follow("SubAccount", Api::all(api.clone()), all(), Some(writers.accounts), account_marks, feed),
        follow("SubAccountApiKey", Api::all(api.clone()), all(), Some(writers.keys), key_marks, feed),
        follow("Namespace", Api::all(api.clone()), all(), Some(writers.namespaces), namespace_marks, feed),
        watch_secrets("Secret", client, settings, ours, |namespace| SecretFeed {
            feed: Feed { references, queues },
            namespace
        }),
        watch_secrets("password", client, settings, usable.clone(), |namespace| PasswordFeed {
            feed: Feed { references, queues },
            namespace,
            pauses
        }),
        pauses.run(|secret| feed.wake_users(secret)),
        follow("login", Api::namespaced(api, &settings.namespace), usable, Some(writers.logins), login_marks, feed),
    );
}

/// Follows Secrets everywhere, or in each namespace that may be watched. `feed` gets that namespace.
async fn watch_secrets<'a, F: Told<PartialObjectMeta<Secret>>>(
    kind: &'static str,
    client: &'a Client,
    settings: &'a OperatorSettings,
    config: watcher::Config,
    feed: impl Fn(Option<&'a str>) -> F,
) {
    let watches = secret_apis(client, settings).map(|(namespace, api)| {
        let (config, feed) = (config.clone(), feed(namespace));
        async move { follow(kind, api, config, None, secret_marks, &feed).await }
    });
    futures::future::join_all(watches).await;
}

/// Returns the API of all Secrets, or of those of each namespace that may be watched, with its name.
fn secret_apis<'a>(
    client: &'a Client,
    settings: &'a OperatorSettings,
) -> impl Iterator<Item = (Option<&'a str>, Api<PartialObjectMeta<Secret>>)> {
    let namespaces = settings.secret_namespaces.iter().map(|namespace| Some(namespace.as_str()));
    let everywhere = settings.secret_namespaces.is_empty().then_some(None);
    everywhere.into_iter().chain(namespaces).map(|namespace| {
        let api = match namespace {
            None => Api::all(client.clone()),
            Some(namespace) => Api::namespaced(client.clone(), namespace),
        };
        (namespace, api)
    })
}

/// The relations by which a change wakes other objects.
struct Feed<'a> {
    references: &'a References,
    queues: &'a WorkQueues,
}

impl Feed<'_> {
    /// Returns why an object needs a pass, if the parts that its reconcile depends on changed, and not by our own
    /// write. `stops`: its spec stops sending.
    fn news<K: Resource>(&self, object: &K, own: bool, stops: bool) -> Option<Cause> {
        let news = own && !self.references.expectations.is_own_mark(object.meta(), own_mark(object));
        let cause = if stops || meta::deleting(object.meta()) { Cause::Stop } else { Cause::Change };
        news.then_some(cause)
    }

    /// Returns the same for a status that another writer changed.
    fn tampered<K: Resource, S: Serialize>(&self, what: &Ref, object: &K, status: Option<&S>) -> Option<Cause> {
        self.references.own_statuses.is_foreign(what, object.meta(), status_mark(status)).then_some(Cause::Change)
    }
}

impl<'a> Feed<'a> {
    /// Returns the keys whose password this Secret brings.
    fn users(&self, secret: &Name) -> impl Iterator<Item = Name> + use<'a> {
        let (references, secret) = (self.references, secret.clone());
        let names = references.index(|index| index.keys_in_namespace(&secret.namespace));
        names.into_iter().filter(move |name| {
            let key = references.key(name);
            let existing = key.as_ref().and_then(|key| key.spec.secret.as_ref()?.existing.as_ref());
            existing.is_some_and(|existing| existing.name == secret.name)
        })
    }

    fn wake_users(&self, secret: &Name) {
        self.queues.wake_all(self.users(secret).map(Ref::Key));
    }
}

impl Listed for Feed<'_> {
    fn listed(&self) {
        self.references.listed();
    }

    fn stored(&self, meta: &ObjectMeta, in_turn: bool) {
        self.references.expectations.seen(meta);
        self.references.edits.seen(meta, in_turn);
    }
}

impl Told<CreditPolicy> for Feed<'_> {
    async fn changed(&self, change: Change<'_, CreditPolicy>) {
        let Self { references, queues } = self;
        let (name, cause, outward) = match change {
            Change::Seen { object, own, outward, shown } => {
                let (name, news) = (Name::of(object), self.news(object, own, object.spec.suspended));
                let tampered = || self.tampered(&Ref::Policy(name.clone()), object, object.status.as_ref());
                let cause = news.or_else(|| shown.then(tampered).flatten());
                if shown {
                    references.recount_behind_policy(&name.name);
                }
                (name, cause, outward)
            }
            Change::Gone(name) => (name, Some(Cause::Change), true),
        };
        if outward {
            let accounts: Vec<Name> = references.index(|index| index.accounts_of_policy(&name.name).cloned().collect());
            let keys: Vec<Name> =
                references.index(|index| accounts.iter().flat_map(|a| index.keys_of_account(a)).collect());
            queues.wake_all(accounts.into_iter().map(Ref::Account));
            queues.wake_all(keys.into_iter().map(Ref::Key));
        }
        if let Some(cause) = cause {
            queues.wake_for(&Ref::Policy(name), cause);
        }
    }

    fn deleted(&self, policy: &CreditPolicy) {
        self.references.edits.forget(&policy.metadata);
        self.references.deletions.resource(Ref::Policy(Name::of(policy)), false);
    }

    fn missing(&self, _: &Name) {
        self.references.deletions.notify_missing();
    }
}

impl Told<SubAccount> for Feed<'_> {
    async fn changed(&self, change: Change<'_, SubAccount>) {
        let Self { references, queues } = self;
        let (name, facts, cause, outward) = match change {
            Change::Seen { object, own, outward, shown } => {
                let (name, news) = (Name::of(object), self.news(object, own, object.spec.suspended));
                let tampered = || self.tampered(&Ref::Account(name.clone()), object, object.status.as_ref());
                let cause = news.or_else(|| shown.then(tampered).flatten());
                if shown {
                    references.recount_behind_account(object);
                }
                // A write of figures does not change the counts of the policy.
                if !own && !outward {
                    cause.into_iter().for_each(|cause| queues.wake_for(&Ref::Account(name.clone()), cause));
                    return;
                }
                (name, Some(account_facts(object)), cause, outward)
            }
            Change::Gone(name) => (name, None, Some(Cause::Change), true),
        };
        let old_policy = references.index(|index| index.policy_of(&name));
        let policies = BTreeSet::from_iter(old_policy.into_iter().chain(facts.as_ref().map(|f| f.policy.clone())));
        let neighbours = references.change_index(|index| index.set_account(&name, facts));
        for policy in policies {
            // A policy that waits for its last account must not wait for the budget too.
            if references.policy(&policy).is_some_and(|policy| meta::deleting(&policy.metadata)) {
                queues.wake(&Ref::Policy(Name::new("", &policy)));
            }
            references.recount(Ref::Policy(Name::new("", policy)));
        }
        if let Some(cause) = cause {
            queues.wake_for(&Ref::Account(name.clone()), cause);
        }
        // Our finalizer on an account does not affect its thousand keys.
        if outward {
            queues.wake_all(references.index(|index| index.keys_of_account(&name)).into_iter().map(Ref::Key));
        }
        queues.wake_all(neighbours.into_iter().map(Ref::Account));
    }

    fn deleted(&self, account: &SubAccount) {
        self.references.edits.forget(&account.metadata);
        let purge = account.spec.deletion_policy == Some(DeletionPolicy::Purge);
        self.references.deletions.resource(Ref::Account(Name::of(account)), purge);
    }

    fn missing(&self, _: &Name) {
        self.references.deletions.notify_missing();
    }
}

impl Told<SubAccountApiKey> for Feed<'_> {
    async fn changed(&self, change: Change<'_, SubAccountApiKey>) {
        let Self { references, queues } = self;
        let (name, facts, cause) = match change {
            Change::Seen { object, own, shown, .. } => {
                let (name, news) = (Name::of(object), self.news(object, own, object.spec.revoked));
                let tampered = || self.tampered(&Ref::Key(name.clone()), object, object.status.as_ref());
                let cause = news.or_else(|| shown.then(tampered).flatten());
                (name, Some(key_facts(object)), cause)
            }
            Change::Gone(name) => (name, None, Some(Cause::Change)),
        };
        if let Some(account) = references.change_index(|index| index.set_key(&name, facts)) {
            references.recount(Ref::Account(account));
        }
        if let Some(cause) = cause {
            queues.wake_for(&Ref::Key(name), cause);
        }
    }

    fn deleted(&self, key: &SubAccountApiKey) {
        self.references.edits.forget(&key.metadata);
        self.references.deletions.resource(Ref::Key(Name::of(key)), false);
    }

    fn missing(&self, _: &Name) {
        self.references.deletions.notify_missing();
    }
}

impl Told<PartialObjectMeta<Namespace>> for Feed<'_> {
    async fn changed(&self, change: Change<'_, PartialObjectMeta<Namespace>>) {
        let Self { references, queues } = self;
        let name = match change {
            Change::Seen { object, .. } => object.name_any(),
            Change::Gone(name) => name.name,
        };
        queues.wake_all(references.index(|index| index.accounts_in_namespace(&name)).into_iter().map(Ref::Account));
        queues.wake_all(references.index(|index| index.keys_in_namespace(&name)).into_iter().map(Ref::Key));
    }

    fn deleted(&self, namespace: &PartialObjectMeta<Namespace>) {
        self.references.deletions.namespace(namespace.name_any());
    }

    fn missing(&self, name: &Name) {
        self.references.deletions.namespace(name.name.clone());
    }
}

/// Our Secrets, as far as one watch shows them.
struct SecretFeed<'a> {
    feed: Feed<'a>,
    /// The namespace that is watched. `None`: all.
    namespace: Option<&'a str>,
}

impl Listed for SecretFeed<'_> {
    fn listed(&self) {
        self.feed.listed();
    }

    fn stored(&self, meta: &ObjectMeta, in_turn: bool) {
        self.feed.stored(meta, in_turn);
    }

    fn may_be_refused(&self) -> bool {
        self.namespace.is_some()
    }
}

impl Told<PartialObjectMeta<Secret>> for SecretFeed<'_> {
    async fn changed(&self, change: Change<'_, PartialObjectMeta<Secret>>) {
        let Feed { references, queues } = self.feed;
        let kind = SubAccountApiKey::kind(&());
        let (name, key, echo) = match change {
            Change::Seen { object, .. } => {
                let owner = meta::controlling_key(&object.metadata, &kind).map(|owner| owner.name.clone());
                let adopted = Adoption::of(&object.metadata).map(|adoption| adoption.key);
                let name = Name::of(object);
                references.change_index(|index| index.set_adopted(&name, is_adopted(&object.metadata)));
                let echo = references.expectations.is_own_secret(&name, &object.metadata);
                (name, owner.or(adopted), echo)
            }
            Change::Gone(name) => {
                references.expectations.forget_secret(&name);
                references.change_index(|index| index.set_adopted(&name, false));
                (name, None, false)
            }
        };
        let before = references.change_index(|index| index.set_secret(&name, key.clone()));
        if echo {
            return;
        }
        let now = key.map(|key| Name::new(&name.namespace, key));
        queues.wake_all(BTreeSet::from_iter(before.into_iter().chain(now)).into_iter().map(Ref::Key));
    }

    fn unseen(&self) -> Vec<Name> {
        let unseen = self.feed.references.expectations.unseen_secrets().into_iter();
        // The list of one namespace proves nothing about another.
        unseen.filter(|name| self.namespace.is_none_or(|namespace| name.namespace == namespace)).collect()
    }
}

/// The Secrets that users labelled for use, as far as one watch shows them: those that bring a key's password wake it.
struct PasswordFeed<'a> {
    feed: Feed<'a>,
    /// The namespace that is watched. `None`: all.
    namespace: Option<&'a str>,
    pauses: &'a PasswordPauses,
}

impl Listed for PasswordFeed<'_> {
    fn listed(&self) {
        self.feed.listed();
    }

    fn stored(&self, _: &ObjectMeta, _: bool) {}

    fn may_be_refused(&self) -> bool {
        self.namespace.is_some()
    }
}

impl Told<PartialObjectMeta<Secret>> for PasswordFeed<'_> {
    async fn changed(&self, change: Change<'_, PartialObjectMeta<Secret>>) {
        let secret = match change {
            Change::Seen { object, .. } => Name::of(object),
            Change::Gone(name) => name,
        };
        if self.feed.users(&secret).next().is_some() && self.pauses.changed(&secret) {
            self.feed.wake_users(&secret);
        }
    }
}

impl Told<Secret> for Feed<'_> {
    async fn changed(&self, change: Change<'_, Secret>) {
        let Self { references, queues } = self;
        let name = match change {
            Change::Seen { object, .. } => object.name_any(),
            Change::Gone(name) => name.name,
        };
        let users = references.policies_with_login(&name);
        queues.wake_all(users.iter().map(|policy| Ref::Policy(Name::of(policy.as_ref()))));
    }
}
