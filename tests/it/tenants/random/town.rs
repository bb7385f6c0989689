//! One history: two namespaces and two plans of its own, and what is known of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use franking::runtime::clock::{Clock as _, SystemClock};
use kube::Client;
use serde_json::{Value, json};

use super::api::{Answer, Found, Objects, ready, reason, until};
use super::mail::{Password, TenantMessage, log_in};
use super::model::{Arrival, Id, Model};
use super::plans::{CURRENCY, Plan, Terms, pricing};
use super::verbs::{FOREIGN, GRANTED, Kind, Who, account_of};
use crate::support::sink::Sink;

const SECONDS_A_DAY: i64 = 24 * 60 * 60;

/// Where histories are played: a cluster with Franking in it.
pub struct Place {
    pub relay: SocketAddr,
    pub admin: Client,
    /// By [`Who`].
    pub people: [Client; 3],
}

pub fn user(who: Who) -> &'static str {
    match who {
        Who::Tenant => "tenant",
        Who::Granter => "granter",
        Who::Manager => "manager",
    }
}

/// What happened, so that a run that tested nothing fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub accepted: u32,
    pub short: u32,
    pub moved: u32,
    pub removed: u32,
    pub forbidden: u32,
    pub adopted: u32,
    pub sender_refused: u32,
    pub dead_passwords: u32,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.short += other.short;
        self.moved += other.moved;
        self.removed += other.removed;
        self.forbidden += other.forbidden;
        self.adopted += other.adopted;
        self.sender_refused += other.sender_refused;
        self.dead_passwords += other.dead_passwords;
    }
}

/// A password that a key's Secret held, and which object of the key's name that was.
#[derive(Clone, Debug)]
pub struct Issued {
    pub key: Id,
    pub uid: String,
    pub password: Password,
}

pub struct Town<'a> {
    pub place: &'a Place,
    pub namespaces: [String; 2],
    pub policies: [String; 2],
    pub model: Model,
    pub issued: Vec<Issued>,
    pub tally: Tally,
    /// The key that each message was sent with.
    pub sent: BTreeMap<String, Id>,
    /// How often each message arrived.
    pub arrived: BTreeMap<String, u32>,
    pub(super) sinks: [Sink; 2],
    pub(super) seen: [usize; 2],
    pub(super) uids: BTreeMap<(Kind, Id), String>,
    pub(super) foreign: Vec<(usize, Value)>,
    pub(super) granted: [Value; 2],
    pub(super) first_day: i64,
}

pub fn today() -> i64 {
    SystemClock.now().as_second() / SECONDS_A_DAY
}

impl Town<'_> {
    pub fn objects(&self, who: Who, kind: Kind, namespace: usize) -> Objects {
        Objects::ours(&self.place.people[who as usize], kind, &self.namespaces[namespace])
    }

    pub fn seen_by_admin(&self, kind: Kind, namespace: usize) -> Objects {
        Objects::ours(&self.place.admin, kind, &self.namespaces[namespace])
    }

    /// Tells the model of an account or key as the API server has it now.
    pub fn written(&mut self, kind: Kind, id: &Id, object: &Value) {
        match kind {
            Kind::Account => self.model.account_written(id, Terms::read(&object["spec"], &self.policies)),
            Kind::Key => self.model.key_written(id, cap(object)),
        }
    }

    /// Looks at all there is: what went may not log in any more, and what must stand stands.
    pub async fn look(&mut self) -> Found {
        let mut standing = BTreeMap::new();
        for namespace in [0, 1] {
            for kind in [Kind::Account, Kind::Key] {
                for object in self.seen_by_admin(kind, namespace).list().await? {
                    let id = (namespace, text(&object, "/metadata/name"));
                    if ready(&object) == Some(true) {
                        match kind {
                            Kind::Account => {
                                self.model.account_ready(&id, Terms::read(&object["spec"], &self.policies));
                            }
                            Kind::Key => self.model.key_ready(&id, cap(&object)),
                        }
                    }
                    standing.insert((kind, id), object);
                }
            }
            self.look_at_secrets(namespace, &standing).await?;
            let granted = standing.get(&(Kind::Account, (namespace, GRANTED.to_owned())));
            let spec = granted.map(|granted| &granted["spec"]).unwrap_or(&Value::Null);
            let imposed = self.granted[namespace].as_object().expect("a map");
            if imposed.iter().any(|(field, value)| spec.get(field) != Some(value)) {
                return Err(format!("what the platform team imposed is gone: {imposed:?} is {spec}"));
            }
        }
        for policy in &self.policies {
            self.currency(policy).await?;
        }
        self.bury(&standing).await
    }

    async fn look_at_secrets(&mut self, namespace: usize, standing: &BTreeMap<(Kind, Id), Value>) -> Found {
        let secrets = Objects::secrets(&self.place.admin, &self.namespaces[namespace]).list().await?;
        for (_, before) in self.foreign.iter().filter(|(at, _)| *at == namespace) {
            let name = &before["metadata"]["name"];
            let now = secrets.iter().find(|secret| secret["metadata"]["name"] == *name);
            let now = now.ok_or_else(|| format!("the application's Secret {name} is gone"))?;
            for part in ["/data", "/metadata/labels", "/metadata/annotations"] {
                let entries = before.pointer(part).and_then(Value::as_object).into_iter().flatten();
                for (key, value) in entries {
                    if now.pointer(part).and_then(|now| now.get(key)) != Some(value) {
                        return Err(format!("the application's Secret {name} lost or changed {key} of {part}"));
                    }
                }
            }
        }
        for secret in &secrets {
            let data = |key: &str| decoded(&secret["data"][key]);
            let (Some(username), Some(password), Some(certificates)) =
                (data("username"), data("password"), data("certificates"))
            else {
                continue;
            };
            let of = standing.iter().find(|((kind, (at, _)), object)| {
                *kind == Kind::Key && *at == namespace && object["status"]["username"] == username
            });
            let Some(((_, key), object)) = of else { continue };
            let password = Password { username, password, certificates };
            let (key, uid) = (key.clone(), text(object, "/metadata/uid"));
            if !self.issued.iter().any(|issued| issued.uid == uid && issued.password == password) {
                let of_ours = text(secret, "/metadata/name");
                self.tally.adopted += u32::from(FOREIGN.contains(&of_ours.as_str()));
                self.issued.push(Issued { key, uid, password });
            }
        }
        Ok(())
    }

    /// The passwords of what is gone since the last look must be refused soon.
    async fn bury(&mut self, standing: &BTreeMap<(Kind, Id), Value>) -> Found {
        let now: BTreeMap<(Kind, Id), String> =
            standing.iter().map(|(of, object)| (of.clone(), text(object, "/metadata/uid"))).collect();
        let before = std::mem::replace(&mut self.uids, now);
        for (of, uid) in before {
            if self.uids.get(&of) == Some(&uid) {
                continue;
            }
            let (kind, id) = of;
            self.tally.removed += 1;
            // One that was made again meanwhile is another object, and the account's name may log in again.
            let is_of = |issued: &Issued| match kind {
                Kind::Key => issued.uid == uid,
                Kind::Account => issued.key.0 == id.0 && account_of(&issued.key.1) == id.1,
            };
            if kind == Kind::Account {
                if self.uids.contains_key(&(kind, id.clone())) {
                    continue;
                }
                self.model.account_gone(&id);
            }
            let dead: Vec<Issued> = self.issued.iter().filter(|issued| is_of(issued)).cloned().collect();
            for issued in dead {
                self.tally.dead_passwords += 1;
                self.stays_out(&issued, &format!("{kind:?} {id:?} is gone")).await?;
            }
        }
        Ok(())
    }

    /// Whether the object that this password was issued for is there.
    pub fn is_standing(&self, issued: &Issued) -> bool {
        self.uids.get(&(Kind::Key, issued.key.clone())) == Some(&issued.uid)
    }

    async fn stays_out(&self, issued: &Issued, why: &str) -> Found {
        until(&format!("{:?} to be refused, because {why}", issued.key), async || {
            let reply = log_in(self.place.relay, &issued.password).await.err();
            Ok(reply.filter(|reply| reply.code == 535))
        })
        .await
        .map(drop)
    }

    async fn currency(&self, policy: &str) -> Found {
        let policies = Objects::new(&self.place.admin, "franking.io/v1alpha1", "CreditPolicy", None);
        let standing = policies.get(policy).await?.ok_or_else(|| format!("{policy} is gone"))?;
        let shown = &standing["status"]["currency"];
        if shown.is_null() || *shown == CURRENCY { Ok(()) } else { Err(format!("{policy} is in {shown} now")) }
    }

    /// Takes the prices away, and writes them in another currency, which is refused. A plan that requires a limit of money
    /// cannot be without prices.
    pub async fn change_currency(&mut self, plan: Plan) -> Found {
        if self.model.limits[plan as usize].spend_limit_required {
            return Ok(());
        }
        let name = self.policies[plan as usize].clone();
        let policies = Objects::new(&self.place.admin, "franking.io/v1alpha1", "CreditPolicy", None);
        let none = || (Value::Null, "Ready");
        // The schema refuses a change of the currency in one edit.
        for (pricing, expected) in [none(), (pricing("JPY"), "CurrencyChanged"), none(), (pricing(CURRENCY), "Ready")] {
            let answer = policies.merge(&name, &json!({"spec": {"pricing": pricing}})).await?;
            if let Answer::Refused { code, words } = answer {
                return Err(format!("writing the prices {pricing}: {code} {words}"));
            }
            until(&format!("{name} to say {expected} of the prices {pricing}"), async || {
                self.currency(&name).await?;
                let policy = policies.get(&name).await?;
                Ok(policy.and_then(|policy| (reason(&policy)? == expected).then_some(())))
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until the operator has looked at an object, or it is gone where `gone` says so.
    pub async fn settles(&self, kind: Kind, (namespace, name): &Id, gone: Option<&str>) -> Found {
        let objects = self.seen_by_admin(kind, *namespace);
        until(&format!("{kind:?} {name} to be looked at"), async || {
            let object = objects.get(name).await?;
            Ok(match (&object, gone) {
                (None, _) => Some(()),
                (Some(object), Some(uid)) => (text(object, "/metadata/uid") != uid).then_some(()),
                (Some(object), None) => ready(object).map(drop),
            })
        })
        .await
    }

    /// Shows the model what arrived at the upstreams.
    pub fn collect(&mut self) -> Found {
        self.model.days = u32::try_from(today() - self.first_day).expect("time goes on") + 1;
        for plan in [0, 1] {
            let messages = self.sinks[plan].messages();
            for message in &messages[self.seen[plan]..] {
                let (token, header_from) = TenantMessage::read(&message.body);
                let key = self.sent.get(&token).ok_or_else(|| format!("{token} is none of ours"))?.clone();
                *self.arrived.entry(token.clone()).or_default() += 1;
                let account = (key.0, account_of(&key.1).to_owned());
                let recipients = u32::try_from(message.to.len()).expect("few");
                let senders = [message.from.as_str(), header_from.as_str()];
                self.model.arrived(&Arrival { account, key, token: &token, recipients, senders })?;
            }
            self.seen[plan] = messages.len();
        }
        Ok(())
    }

    /// Ends both namespaces: nobody logs in any more who ever could.
    pub async fn end(mut self) -> Found<Tally> {
        for plan in Plan::BOTH {
            self.change_currency(plan).await?;
        }
        self.look().await?;
        for namespace in &self.namespaces {
            Objects::new(&self.place.admin, "v1", "Namespace", None).delete(namespace).await?;
        }
        let all = self.issued.iter().map(|issued| self.stays_out(issued, "its namespace is gone"));
        futures::future::try_join_all(all).await?;
        self.tally.dead_passwords += u32::try_from(self.issued.len()).expect("few");
        self.tally.accepted = self.model.used();
        for policy in &self.policies {
            let policies = Objects::new(&self.place.admin, "franking.io/v1alpha1", "CreditPolicy", None);
            policies.delete(policy).await?;
        }
        Ok(self.tally)
    }
}

fn cap(key: &Value) -> Option<u32> {
    key["spec"]["cap"]["credits"].as_u64().and_then(|credits| u32::try_from(credits).ok())
}

fn text(object: &Value, path: &str) -> String {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn decoded(value: &Value) -> Option<String> {
    use base64::Engine as _;
    let octets = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).ok()?;
    String::from_utf8(octets).ok()
}
