//! One history: two namespaces and two plans of its own, and what is known of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use franking::runtime::clock::{Clock as _, SystemClock};
use k8s_openapi::api::authorization::v1::ResourceAttributes;
use kube::Client;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::api::{Answer, Found, Objects, apply, may, named, ready, reason, until};
use super::model::{Arrival, Id, Model};
use super::plans::{CURRENCY, GRANTED_SENDER, Limits, Plan, Terms, pricing};
use super::post::{Letter, Password, log_in};
use super::verbs::{DROPPED, FOREIGN, GRANTED, Kind, Who, account_of};
use crate::support::sink::{Act, At, Sink, SinkOptions};
use crate::tenants::{User, binding};

const SECONDS_A_DAY: i64 = 24 * 60 * 60;
const RBAC: &str = "rbac.authorization.k8s.io";

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
    sinks: [Sink; 2],
    seen: [usize; 2],
    uids: BTreeMap<(Kind, Id), String>,
    foreign: Vec<(usize, Value)>,
    granted: [Value; 2],
    first_day: i64,
}

fn today() -> i64 {
    SystemClock.now().as_second() / SECONDS_A_DAY
}

impl<'a> Town<'a> {
    /// Makes the namespaces, the plans, the people's rights and what else is there before the tenant comes.
    pub async fn found(place: &'a Place, seed: u64) -> Found<(Self, StdRng)> {
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = [Limits::strict(seed, &mut rng), Limits::lax(&mut rng)];
        let sinks = [Sink::start(SinkOptions::default()).await, Sink::start(SinkOptions::default()).await];
        let namespaces = ["north", "south"].map(|name| format!("tenant-{seed}-{name}"));
        let policies = ["strict", "lax"].map(|name| format!("tenant-{seed}-{name}"));
        for plan in Plan::BOTH {
            let (sink, index) = (&sinks[plan as usize], plan as usize);
            sink.always(At::FinalOf(DROPPED), Act::Drop);
            let spec = limits[index].spec(sink.address().port());
            let mut policy = named("CreditPolicy", "", &policies[index], &spec);
            policy["metadata"] = json!({"name": policies[index]});
            apply(&place.admin, &policy).await?;
        }
        let credits = rng.random_range(2..=4);
        let granted = json!({
            "policyRef": {"name": policies[0]}, "prepaid": {"grants": [{"id": "paid", "credits": credits}]},
            "spendLimitMinor": rng.random_range(2..=6), "allowedSenders": [GRANTED_SENDER],
        });
        let mut town = Self {
            place,
            namespaces,
            policies,
            model: Model::new(limits),
            issued: Vec::new(),
            tally: Tally::default(),
            sent: BTreeMap::new(),
            arrived: BTreeMap::new(),
            sinks,
            seen: [0; 2],
            uids: BTreeMap::new(),
            foreign: Vec::new(),
            granted: [granted.clone(), granted],
            first_day: today(),
        };
        for namespace in [0, 1] {
            town.furnish(namespace).await?;
        }
        town.give_grant(seed).await?;
        town.look().await?;
        Ok((town, rng))
    }

    async fn furnish(&mut self, index: usize) -> Found {
        let (admin, namespace) = (&self.place.admin, self.namespaces[index].clone());
        apply(admin, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await?;
        for (who, roles) in [
            (Who::Tenant, ["edit", "franking-self-service"].as_slice()),
            (Who::Granter, &["edit", "franking-self-service"]),
            (Who::Manager, &["franking-manager"]),
        ] {
            for role in roles {
                let name = format!("{}-{role}", user(who));
                let metadata = json!({"name": name, "namespace": namespace});
                apply(admin, &binding("RoleBinding", &metadata, role, &User::new(user(who)))).await?;
            }
        }
        let secret = |name: &str, labels: Value, data: Value| {
            json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": data,
                   "metadata": {"name": name, "namespace": namespace, "labels": labels,
                                "annotations": {"note": "the application's"}}})
        };
        for object in [
            secret(FOREIGN[0], json!({"team": "shop"}), json!({"password": "hunter2 hunter2 hunter2", "host": "db"})),
            secret(FOREIGN[1], json!({"team": "shop"}), json!({"colour": "blue"})),
            secret(FOREIGN[2], json!({"app.kubernetes.io/managed-by": "Helm"}), json!({"colour": "red"})),
        ] {
            apply(admin, &object).await?;
            let name = object["metadata"]["name"].as_str().expect("a name");
            let made = Objects::secrets(admin, &namespace).get(name).await?.ok_or("a Secret is not there")?;
            self.foreign.push((index, made));
        }
        let id = (index, GRANTED.to_owned());
        let spec = &self.granted[index];
        self.model.granted(&id);
        self.model.account_written(&id, Terms::read(spec, &self.policies));
        apply(admin, &named("SubAccount", &namespace, GRANTED, spec)).await?;
        let accounts = Objects::ours(admin, Kind::Account, &namespace);
        until("the platform team's account", async || {
            Ok(accounts.get(GRANTED).await?.filter(|account| ready(account) == Some(true)))
        })
        .await
        .map(drop)
    }

    /// Gives the granter `grant` on the lax plan, and waits until the API server knows of that and of the roles.
    async fn give_grant(&self, seed: u64) -> Found {
        let (admin, name) = (&self.place.admin, format!("tenant-{seed}-grant"));
        let rule = json!({"apiGroups": ["franking.io"], "resources": ["creditpolicies"],
                          "resourceNames": [self.policies[1]], "verbs": ["grant"]});
        let role = json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole",
                          "metadata": {"name": name}, "rules": [rule]});
        apply(admin, &role).await?;
        let metadata = json!({"name": name});
        apply(admin, &binding("ClusterRoleBinding", &metadata, &name, &User::new(user(Who::Granter)))).await?;
        let asked = |verb: &str, resource: &str, namespace: Option<&String>, name: Option<&String>| {
            let group = (resource != "secrets").then(|| "franking.io".to_owned());
            let (verb, resource) = (Some(verb.to_owned()), Some(resource.to_owned()));
            let (namespace, name) = (namespace.cloned(), name.cloned());
            ResourceAttributes { group, verb, resource, namespace, name, ..ResourceAttributes::default() }
        };
        let mut rights = vec![(Who::Granter, asked("grant", "creditpolicies", None, Some(&self.policies[1])))];
        for namespace in &self.namespaces {
            for who in [Who::Tenant, Who::Granter] {
                rights.push((who, asked("create", "subaccounts", Some(namespace), None)));
                rights.push((who, asked("update", "secrets", Some(namespace), None)));
            }
            rights.push((Who::Manager, asked("create", "subaccountapikeys", Some(namespace), None)));
        }
        for (who, right) in rights {
            until("the people's rights", async || Ok(may(admin, user(who), right.clone()).await?.then_some(())))
                .await?;
        }
        Ok(())
    }

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
                self.stays_out(&issued, &format!("{kind:?} {id:?} is gone")).await?;
            }
        }
        Ok(())
    }

    /// Whether the object that this password was issued for is there.
    pub fn is_standing(&self, issued: &Issued) -> bool {
        self.uids.get(&(Kind::Key, issued.key.clone())) == Some(&issued.uid)
    }

    async fn stays_out(&mut self, issued: &Issued, why: &str) -> Found {
        self.tally.dead_passwords += 1;
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
                let (token, header_from) = Letter::read(&message.body);
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
        let all: Vec<Issued> = self.issued.drain(..).collect();
        for issued in &all {
            self.stays_out(issued, "its namespace is gone").await?;
        }
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
