//! Delivers the notices of one policy over one channel.

use jiff::Timestamp;
use tokio::sync::watch;

use crate::crd::{CheckedPolicy, CheckedWebhook, Reason, SubAccount};
use crate::domain::directory::{Entry, PolicyEntry};
use crate::domain::id::{Holder, PolicyId};
use crate::domain::sender::Address;
use crate::domain::webhook::SigningKey;
use crate::ledger::Sealer;
use crate::ledger::report::Queued;
use crate::operator::object_ref::Name;
use crate::operator::observe::secrets::opened;
use crate::operator::plan::alert::{Whose, Words, alert_mail};
use crate::operator::plan::endpoint::Endpoint;
use crate::operator::plan::{EventNote, meta};
use crate::operator::report::Report;
use crate::operator::state::ledger_client::LedgerClient;
use crate::operator::state::notices::Notices;
use crate::operator::tasks::notices::detect::spec_of;
use crate::operator::watch::references::References;
use crate::runtime::clock::Clock;
use crate::runtime::notifier::{AlertMail, Call, Delivery, Hook, OnBehalfOf, Via};

/// Local part of the sender if the policy names none.
const SENDER: &str = "franking";

/// The outcome for one notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Went {
    Sent,
    /// Not sent; it is tried again later.
    Failed(String),
    /// It has no recipient any more, or its subject is gone.
    Unwanted,
}

impl From<Delivery> for Went {
    fn from(delivery: Delivery) -> Self {
        match delivery {
            Delivery::Sent => Self::Sent,
            Delivery::Failed(problem) => Self::Failed(problem),
            Delivery::Unwanted => Self::Unwanted,
        }
    }
}

/// The task, with what it uses of the operator.
pub struct NoticeDelivery<'a> {
    pub ledger: &'a LedgerClient,
    pub notices: &'a Notices,
    pub references: &'a References,
    pub report: &'a Report,
    pub endpoint: &'a watch::Receiver<Endpoint>,
    /// Opens the upstreams' logins.
    pub sealer: &'a Sealer,
    /// The operator's own namespace, which holds the webhooks' Secrets.
    pub namespace: &'a str,
    pub clock: &'a dyn Clock,
}

/// Notices of one policy.
pub struct Group<'a> {
    pub with: &'a NoticeDelivery<'a>,
    pub policy: PolicyId,
    pub queued: &'a [Queued],
}

/// The policy in its current state.
struct Plan {
    entry: PolicyEntry,
    spec: CheckedPolicy,
}

impl Group<'_> {
    /// Returns the same outcome for all notices.
    fn all(&self, went: Went) -> Vec<Went> {
        vec![went; self.queued.len()]
    }

    /// Returns the policy; `Err` is the outcome for its notices if there is no valid one. Names come from the ledger,
    /// which knows them before the first reconcile of a new process does.
    async fn plan(&self) -> Result<Plan, Went> {
        let entry = match self.with.ledger.entry(Holder::Policy(self.policy)).await {
            Ok(Some(Entry::Policy(entry))) => entry,
            Ok(Some(Entry::Account(_) | Entry::Key(_)) | None) => return Err(Went::Unwanted),
            Err(error) => return Err(Went::Failed(error.to_string())),
        };
        if self.with.references.policy(&entry.name).is_none() {
            return Err(Went::Unwanted);
        }
        match spec_of(self.with.references, &entry.name) {
            Some(spec) => Ok(Plan { entry, spec }),
            None => Err(Went::Failed("its policy is not valid".to_owned())),
        }
    }

    /// Returns the owner of the limit; `Err` if it is gone.
    async fn whose(&self, queued: &Queued) -> Result<Whose, Went> {
        let holder = queued.notice.topic.holder;
        let account = match holder {
            Holder::Policy(_) => return Ok(Whose::Policy),
            Holder::Account(_) => self.with.ledger.entry(holder).await,
            Holder::Key(_) => return Err(Went::Unwanted),
        };
        match account {
            Ok(Some(Entry::Account(account))) if !account.name.is_empty() => {
                Ok(Whose::Account { namespace: account.namespace, name: account.name })
            }
            Ok(_) => Err(Went::Unwanted),
            Err(error) => Err(Went::Failed(error.to_string())),
        }
    }

    async fn words<'p>(&self, plan: &'p Plan, queued: &Queued) -> Result<Words<'p>, Went> {
        let currency = plan.spec.pricing.as_ref().map(|pricing| pricing.currency.as_str());
        Ok(Words { policy: &plan.entry.name, whose: self.whose(queued).await?, currency })
    }

    pub async fn events(&self) -> Vec<Went> {
        let plan = match self.plan().await {
            Ok(plan) => plan,
            Err(went) => return self.all(went),
        };
        let mut all = Vec::with_capacity(self.queued.len());
        for queued in self.queued {
            all.push(match self.words(&plan, queued).await {
                Ok(words) => self.event(&words, queued).await,
                Err(went) => went,
            });
        }
        all
    }

    async fn event(&self, words: &Words<'_>, queued: &Queued) -> Went {
        let NoticeDelivery { references, report, .. } = self.with;
        let note = words.sentence(&queued.notice);
        let event_note = EventNote { warning: true, reason: Reason::ThresholdReached, note };
        let (name, at) = (queued.notice.to_string(), queued.at);
        let written = match &words.whose {
            Whose::Policy => match references.policy(words.policy) {
                Some(policy) => report.publish_once(policy.as_ref(), &name, &event_note, at).await,
                None => return Went::Unwanted,
            },
            Whose::Account { namespace, name: account } => {
                match references.account(&Name::new(namespace.as_str(), account.as_str())) {
                    Some(account) if is_anothers(&account, queued.notice.topic.holder) => return Went::Unwanted,
                    Some(account) => report.publish_once(account.as_ref(), &name, &event_note, at).await,
                    None => return Went::Unwanted,
                }
            }
        };
        match written {
            Ok(true) => Went::Sent,
            Ok(false) => Went::Unwanted,
            Err(error) => Went::Failed(error.to_string()),
        }
    }

    /// Fails all untried, because others of the policy took too long.
    pub fn put_off(&self) -> Vec<Went> {
        self.all(Went::Failed("not tried: the upstream is slow with other accounts' notices".to_owned()))
    }

    /// Sends one mail for all of them to the policy's recipients.
    pub async fn mail(&self) -> Vec<Went> {
        let plan = match self.plan().await {
            Ok(plan) => plan,
            Err(went) => return self.all(went),
        };
        let Some(mail) = &plan.spec.alerts.mail else { return self.all(Went::Unwanted) };
        let place = Whose::Policy.named(&plan.entry.name);
        self.one_mail(&plan, mail.to.clone(), OnBehalfOf::Platform, &place).await
    }

    /// Sends one mail for all of them, which are of one account, to that account's recipients.
    pub async fn account_mail(&self) -> Vec<Went> {
        let plan = match self.plan().await {
            Ok(plan) => plan,
            Err(went) => return self.all(went),
        };
        let Some(first) = self.queued.first() else { return Vec::new() };
        let holder = first.notice.topic.holder;
        let (account, namespace, name) = match (holder, self.whose(first).await) {
            (Holder::Account(id), Ok(Whose::Account { namespace, name })) => (id, namespace, name),
            (_, Ok(_)) => return self.all(Went::Unwanted),
            (_, Err(went)) => return self.all(went),
        };
        let to = match self.people_of(holder, &Name::new(namespace.as_str(), name.as_str())) {
            Ok(to) => to,
            Err(went) => return self.all(went),
        };
        let place = Whose::Account { namespace: namespace.clone(), name }.named(&plan.entry.name);
        let on_behalf_of = OnBehalfOf::Account { account, namespace: namespace.into() };
        self.one_mail(&plan, to, on_behalf_of, &place).await
    }

    /// Returns the addresses that the account names now.
    fn people_of(&self, holder: Holder, name: &Name) -> Result<Vec<Address>, Went> {
        let account = self.with.references.account(name).ok_or(Went::Unwanted)?;
        if account.status.is_none() {
            return Err(Went::Failed("its account has no status yet".to_owned()));
        }
        if is_anothers(&account, holder) {
            return Err(Went::Unwanted);
        }
        let spec = account.spec.check().map_err(|_| Went::Failed("its account is not valid".to_owned()))?;
        if spec.alert_recipients.is_empty() { Err(Went::Unwanted) } else { Ok(spec.alert_recipients) }
    }

    async fn one_mail(&self, plan: &Plan, to: Vec<Address>, on_behalf_of: OnBehalfOf, place: &str) -> Vec<Went> {
        let (mut sentences, mut said) = (Vec::new(), Vec::with_capacity(self.queued.len()));
        for queued in self.queued {
            said.push(match self.words(plan, queued).await {
                Ok(words) => {
                    sentences.push(words.sentence(&queued.notice));
                    None
                }
                Err(went) => Some(went),
            });
        }
        if sentences.is_empty() {
            return said.into_iter().flatten().collect();
        }
        let (subject, text) = alert_mail(place, &sentences);
        let went = self.post(plan, to, on_behalf_of, subject, text).await.unwrap_or_else(Went::Failed);
        said.into_iter().map(|unsaid| unsaid.unwrap_or_else(|| went.clone())).collect()
    }

    async fn post(
        &self,
        plan: &Plan,
        to: Vec<Address>,
        on_behalf_of: OnBehalfOf,
        subject: String,
        text: String,
    ) -> Result<Went, String> {
        let first = self.queued.first().ok_or("there is nothing to say")?;
        // Two mails may report one notice; a recipient of both must not lose one as a duplicate of the other.
        let id = match &on_behalf_of {
            OnBehalfOf::Platform => first.notice.to_string(),
            OnBehalfOf::Account { .. } => format!("{}-own", first.notice),
        };
        let mail = AlertMail { from: self.sender(plan)?, to, on_behalf_of, subject, text, id, at: first.at };
        Ok(self.with.notices.notifier.mail(self.via(&plan.entry)?, &mail).await.into())
    }

    fn sender(&self, plan: &Plan) -> Result<Address, String> {
        if let Some(from) = plan.spec.alerts.mail.as_ref().and_then(|mail| mail.from.as_ref()) {
            return Ok(from.clone());
        }
        let host = || self.with.endpoint.borrow().host.clone();
        let domain = plan.spec.sender_domains.first().map_or_else(host, ToString::to_string);
        Address::parse(&format!("{SENDER}@{domain}")).map_err(|_| {
            "no sender follows from senders.domains or the relay's host name; write alerts.email.from".to_owned()
        })
    }

    fn via(&self, policy: &PolicyEntry) -> Result<Via, String> {
        let entry = policy.upstream.clone().ok_or("its upstream cannot be used at present")?;
        let secret = match &entry.secret {
            None => None,
            Some(sealed) => {
                Some(opened(self.with.sealer, policy.id, sealed).ok_or("its upstream's login does not open")?)
            }
        };
        Ok(Via { policy: policy.id, entry, secret })
    }

    /// Calls the webhook for one notice after the other. If the receiver fails, the others wait for their next turn
    /// untried: a receiver that does not answer must not delay those of other policies for minutes.
    pub async fn webhooks(&self) -> Vec<Went> {
        let plan = match self.plan().await {
            Ok(plan) => plan,
            Err(went) => return self.all(went),
        };
        let Some(webhook) = &plan.spec.alerts.webhook else { return self.all(Went::Unwanted) };
        let hook = match self.hook(webhook) {
            Ok(hook) => hook,
            Err(problem) => return self.all(Went::Failed(problem)),
        };
        let (mut all, mut down) = (Vec::with_capacity(self.queued.len()), None);
        for queued in self.queued {
            let went = match (&down, self.words(&plan, queued).await) {
                (Some(problem), _) => Went::Failed(format!("not tried after another: {problem}")),
                (None, Err(went)) => went,
                (None, Ok(words)) => {
                    let went = self.call(&hook, &words, queued).await;
                    if let Went::Failed(problem) = &went {
                        down = Some(problem.clone());
                    }
                    went
                }
            };
            all.push(went);
        }
        all
    }

    async fn call(&self, hook: &Hook, words: &Words<'_>, queued: &Queued) -> Went {
        let at: Timestamp = self.with.clock.now();
        let call = Call { id: queued.notice.to_string(), at, body: words.body(queued) };
        self.with.notices.notifier.call(hook, &call).await.into()
    }

    fn hook(&self, webhook: &CheckedWebhook) -> Result<Hook, String> {
        let (namespace, name) = (self.with.namespace, &webhook.secret);
        let secret = self.with.references.login(namespace, name);
        let secret = secret.ok_or_else(|| {
            format!("there is no Secret \"{name}\" with the label {}: \"true\" in {namespace}", meta::USE_LABEL)
        })?;
        let text = |key: &str| {
            let octets = &secret.data.as_ref()?.get(key)?.0;
            String::from_utf8(octets.clone()).ok().filter(|text| !text.is_empty())
        };
        let key = text("secret").ok_or_else(|| format!("the Secret \"{name}\" lacks secret"))?;
        let key = SigningKey::parse(&key).map_err(|problem| format!("secret in the Secret \"{name}\" {problem}"))?;
        Ok(Hook { url: webhook.url.clone(), key, ca_pem: text("ca.crt") })
    }
}

/// True if the object is another account than the one in the notice: a namespace that was deleted and made again is a
/// new tenant, who must not be told about the old one.
fn is_anothers(account: &SubAccount, noticed: Holder) -> bool {
    let id = account.status.as_ref().and_then(|status| status.account_id.as_deref());
    id.is_some_and(|id| id != noticed.uuid().to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::AccountId;

    #[test]
    fn an_account_of_the_same_name_in_a_namespace_that_was_made_again_is_another() {
        let account = |status| {
            let object = json!({
                "apiVersion": "franking.io/v1alpha1", "kind": "SubAccount", "metadata": {"name": "shop", "namespace": "team"},
                "spec": {"policyRef": {"name": "plan"}}, "status": status
            });
            serde_json::from_value::<SubAccount>(object).expect("an account")
        };
        let (old, new) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let noticed = Holder::Account(AccountId(old));
        assert!(!is_anothers(&account(json!({"accountId": old.to_string()})), noticed));
        assert!(is_anothers(&account(json!({"accountId": new.to_string()})), noticed));
        assert!(!is_anothers(&account(json!(null)), noticed), "nothing was seen of it yet");
    }
}
