//! Does what the tenant wants, with the tenant's rights, and judges the answer where there is only one right one.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::api::{Answer, Found, Objects, named};
use super::mail::{TenantMessage, deliver, log_in};
use super::model::Id;
use super::town::Town;
use super::verbs::{DROPPED, Kind, Step, Verb, Who};

const FINALIZER: &str = "franking.io/ledger";

impl Town<'_> {
    /// Does one step, and looks at all there is. Returns a line about it.
    pub async fn act(&mut self, step: &Step, rng: &mut StdRng) -> Found<String> {
        let said = self.done(step, rng).await?;
        self.collect()?;
        self.look().await?;
        Ok(said)
    }

    async fn done(&mut self, step: &Step, rng: &mut StdRng) -> Found<String> {
        let (by, at) = (step.by, step.namespace);
        match &step.verb {
            Verb::Make { kind, name, spec } => self.make(step, *kind, name, spec).await,
            Verb::Edit { kind, name, spec } => self.edit(step, *kind, name, spec).await,
            Verb::Move { name, to, more } => {
                let mut spec = more.clone();
                spec["policyRef"] = json!({"name": self.policies[*to as usize]});
                self.edit(step, Kind::Account, name, &spec).await
            }
            Verb::Annotate { kind, name, metadata } => {
                let answer = self.objects(by, *kind, at).merge(name, &json!({"metadata": metadata})).await?;
                Ok(self.said(&answer))
            }
            Verb::ForceDelete { kind, name } => {
                let forced = json!({"metadata": {"annotations": {"franking.io/force-delete": "true"}}});
                let answer = self.objects(by, *kind, at).merge(name, &forced).await?;
                if matches!(answer, Answer::Done(_)) {
                    return Err(format!("{name} may be let go without the ledger's note"));
                }
                Ok(self.said(&answer))
            }
            Verb::Delete { kind, name } => self.delete(step, *kind, name).await,
            Verb::DeleteAll { kind } => {
                let answer = self.objects(by, *kind, at).delete_all().await?;
                Ok(self.said(&answer))
            }
            Verb::Strip { kind, name, by_update } => self.strip(step, *kind, name, *by_update).await,
            Verb::TamperSecret { key, patch } => {
                let secrets = Objects::secrets(&self.place.people[by as usize], &self.namespaces[at]);
                let answer = match patch {
                    Some(patch) => secrets.merge(key, patch).await?,
                    None => secrets.delete(key).await?,
                };
                Ok(self.said(&answer))
            }
            Verb::Send { key, from, header_from, recipients, at_most } => {
                let message = |token| TenantMessage { token, from, header_from, recipients: *recipients };
                self.send(&(at, key.clone()), message, *at_most, rng).await
            }
            Verb::SendCopies { key, times } => self.send_copies(&(at, key.clone()), *times).await,
            Verb::ChangeCurrency { plan } => self.change_currency(*plan).await.map(|()| "refused".to_owned()),
        }
    }

    async fn make(&mut self, step: &Step, kind: Kind, name: &str, spec: &Value) -> Found<String> {
        let kind_name = match kind {
            Kind::Account => "SubAccount",
            Kind::Key => "SubAccountApiKey",
        };
        let object = named(kind_name, &self.namespaces[step.namespace], name, spec);
        let answer = self.objects(step.by, kind, step.namespace).create(&object).await?;
        if step.by == Who::Manager && spec["secret"]["adopt"] == true {
            self.must_be_forbidden(&answer, "adopting a Secret without rights on it")?;
        }
        self.changed(step, kind, name, answer).await
    }

    async fn edit(&mut self, step: &Step, kind: Kind, name: &str, spec: &Value) -> Found<String> {
        let before = self.seen_by_admin(kind, step.namespace).get(name).await?.unwrap_or_default();
        let answer = self.objects(step.by, kind, step.namespace).merge(name, &json!({"spec": spec})).await?;
        let (was, wanted) = (&before["spec"]["secret"], &spec["secret"]);
        // One that somebody with the rights let it share is shared already.
        let is_shared = was["adopt"] == true && was["name"] == wanted["name"];
        if step.by == Who::Manager && wanted["adopt"] == true && !is_shared {
            self.must_be_forbidden(&answer, "adopting a Secret by an edit without rights on it")?;
        }
        let moves = spec.get("policyRef").is_some_and(|policy| *policy != before["spec"]["policyRef"]);
        self.tally.moved += u32::from(moves && matches!(answer, Answer::Done(_)));
        self.changed(step, kind, name, answer).await
    }

    fn said(&mut self, answer: &Answer) -> String {
        match answer {
            Answer::Done(_) => "done".to_owned(),
            Answer::Refused { code, words } => {
                self.tally.forbidden += u32::from(*code == 403);
                format!("{code} {}", words.chars().take(160).collect::<String>())
            }
        }
    }

    fn must_be_forbidden(&self, answer: &Answer, what: &str) -> Found {
        match answer {
            Answer::Refused { .. } => Ok(()),
            Answer::Done(_) => Err(format!("{what} is allowed")),
        }
    }

    /// Tells the model of a change that was taken, and waits for the operator where the tenant does.
    async fn changed(&mut self, step: &Step, kind: Kind, name: &str, answer: Answer) -> Found<String> {
        if let Answer::Done(object) = &answer {
            let id = (step.namespace, name.to_owned());
            self.written(kind, &id, object);
            if step.waits {
                self.settles(kind, &id, None).await?;
            }
        }
        Ok(self.said(&answer))
    }

    async fn delete(&mut self, step: &Step, kind: Kind, name: &str) -> Found<String> {
        let id = (step.namespace, name.to_owned());
        let Some(standing) = self.seen_by_admin(kind, step.namespace).get(name).await? else {
            return Ok("not there".to_owned());
        };
        let answer = self.objects(step.by, kind, step.namespace).delete(name).await?;
        if step.waits && matches!(answer, Answer::Done(_)) {
            self.settles(kind, &id, standing["metadata"]["uid"].as_str()).await?;
        }
        Ok(self.said(&answer))
    }

    /// Only the operator takes the finalizer off, whoever asks and how.
    async fn strip(&mut self, step: &Step, kind: Kind, name: &str, by_update: bool) -> Found<String> {
        let objects = self.objects(step.by, kind, step.namespace);
        let Some(mut standing) = objects.get(name).await.unwrap_or_default() else {
            return Ok("not there".to_owned());
        };
        let finalizers = standing["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let is_held = finalizers.contains(&Value::from(FINALIZER));
        let answer = if by_update {
            standing["metadata"]["finalizers"] = json!([]);
            objects.replace(name, &standing).await?
        } else {
            objects.merge(name, &json!({"metadata": {"finalizers": []}})).await?
        };
        if is_held {
            self.must_be_forbidden(&answer, &format!("taking the finalizer off {name}"))?;
        }
        let stripped = self.said(&answer);
        Ok(format!("{stripped}; {}", self.delete(step, kind, name).await?))
    }

    /// The password that a client of the key has: nearly always the newest of its Secret.
    fn chosen(&self, key: &Id, rng: &mut StdRng) -> Option<super::town::Issued> {
        if rng.random_bool(0.1) {
            return self.issued.choose(rng).cloned();
        }
        self.issued.iter().rev().find(|issued| issued.key == *key).cloned()
    }

    fn token(&mut self, key: &Id) -> String {
        let token = format!("{}-{}", self.namespaces[key.0], self.sent.len());
        self.sent.insert(token.clone(), key.clone());
        token
    }

    async fn send(
        &mut self,
        key: &Id,
        message: impl Fn(String) -> TenantMessage,
        at_most: usize,
        rng: &mut StdRng,
    ) -> Found<String> {
        let Some(issued) = self.chosen(key, rng) else { return Ok("no password".to_owned()) };
        let mut session = match log_in(self.place.relay, &issued.password).await {
            Ok(session) => session,
            Err(reply) => return Ok(format!("{} {}", reply.code, reply.text)),
        };
        if !self.is_standing(&issued) {
            return Err(format!("a password of {:?} lets in after its object is gone", issued.key));
        }
        for number in 0..at_most {
            let message = message(self.token(&issued.key));
            let Some(reply) = deliver(&mut session, &message).await else { return Ok(format!("{number}, hung up")) };
            self.collect()?;
            if reply.code != 250 {
                self.tally.short += u32::from(reply.text.contains("credits"));
                self.tally.sender_refused += u32::from(reply.text.contains("may not send"));
                return Ok(format!("{number}, then {} {}", reply.code, reply.text));
            }
            if !self.arrived.contains_key(&message.token) {
                return Err(format!("{} was accepted and did not arrive", message.token));
            }
        }
        Ok(format!("{at_most} and no refusal"))
    }

    /// Each copy is followed by another message, which keeps the upstream from being given up.
    async fn send_copies(&mut self, key: &Id, times: usize) -> Found<String> {
        let found = self.issued.iter().rev().find(|issued| issued.key == *key).cloned();
        let Some(issued) = found else { return Ok("no password".to_owned()) };
        let mut session = match log_in(self.place.relay, &issued.password).await {
            Ok(session) => session,
            Err(reply) => return Ok(format!("{} {}", reply.code, reply.text)),
        };
        let copy = TenantMessage { token: self.token(key), from: DROPPED, header_from: DROPPED, recipients: 1 };
        let mut last = String::new();
        for _ in 0..times {
            let other = TenantMessage {
                token: self.token(key),
                from: "a@example.com",
                header_from: "a@example.com",
                recipients: 1,
            };
            for message in [&copy, &other] {
                let Some(reply) = deliver(&mut session, message).await else { return Ok("hung up".to_owned()) };
                self.collect()?;
                last = format!("{} {}", reply.code, reply.text);
            }
        }
        let copies = self.arrived.get(&copy.token).copied().unwrap_or_default();
        Ok(format!("{copies} copies, then {last}"))
    }
}
