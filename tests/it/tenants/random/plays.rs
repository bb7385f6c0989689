//! Draws what a tenant does next: single verbs, and the plays that attackers would try with them.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::plans::Plan;
use super::verbs::{FOREIGN, GRANTED, Kind, OWN, Step, Verb, Who, key_of};

const SENDERS: [&str; 5] =
    ["a@example.com", "a@example.com", "b@example.com", "ceo@example.com", "a@elsewhere.example"];

/// Ends before a limit does not: more than any cap of the strict plan.
const MANY: usize = 14;

/// Draws steps that belong together.
pub struct Draw<'a> {
    pub rng: &'a mut StdRng,
    /// The names of the policies, by plan.
    pub policies: &'a [String; 2],
}

impl Draw<'_> {
    /// What each history begins with: keys of the platform team's accounts, and an account of the tenant's.
    pub fn opening(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for namespace in [0, 1] {
            let key = self.new_key(GRANTED, 'a', json!({}));
            steps.push(Step { by: Who::Manager, namespace, verb: key, waits: true });
        }
        let account = self.new_account(OWN[0], Plan::Strict, json!({}));
        let key = self.new_key(OWN[0], 'a', json!({}));
        steps.extend([account, key].map(|verb| Step { by: Who::Tenant, namespace: 0, verb, waits: true }));
        let shared = self.sharing(GRANTED, FOREIGN[1]);
        steps.push(Step { by: Who::Tenant, namespace: 1, verb: shared, waits: true });
        steps
    }

    pub fn play(&mut self) -> Vec<Step> {
        let namespace = self.rng.random_range(0..2);
        let own = self.one(&OWN);
        let mut by = self.one(&[Who::Tenant, Who::Tenant, Who::Granter]);
        let verbs = match self.rng.random_range(0..22) {
            0..4 => self.refill(own),
            4..8 => self.crowd(),
            8..10 => {
                by = Who::Granter;
                self.shed()
            }
            10 => self.copies(own),
            11..13 => {
                by = self.one(&Who::ALL);
                self.adopt()
            }
            13..15 => self.widen(),
            15 => self.ghost(),
            16 => vec![Verb::ChangeCurrency { plan: self.one(&Plan::BOTH) }],
            _ => {
                by = self.one(&Who::ALL);
                vec![self.any()]
            }
        };
        verbs.into_iter().map(|verb| Step { by, namespace, verb, waits: self.rng.random_bool(0.8) }).collect()
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(self.rng).expect("there are some")
    }

    fn new_account(&mut self, name: &str, plan: Plan, more: Value) -> Verb {
        let mut spec = json!({"policyRef": {"name": self.policies[plan as usize]}});
        extend(&mut spec, more);
        Verb::Make { kind: Kind::Account, name: name.to_owned(), spec }
    }

    fn new_key(&mut self, account: &str, letter: char, more: Value) -> Verb {
        let mut spec = json!({"subAccountRef": {"name": account}});
        extend(&mut spec, more);
        Verb::Make { kind: Kind::Key, name: key_of(account, letter), spec }
    }

    fn use_up(&mut self, account: &str) -> Verb {
        let (key, from) = (key_of(account, 'a'), SENDERS[0]);
        Verb::Send { key, from, header_from: from, recipients: self.rng.random_range(1..=2), at_most: MANY }
    }

    /// Uses a limit up, and has it again by edits.
    fn refill(&mut self, own: &str) -> Vec<Verb> {
        let plan = self.one(&Plan::BOTH);
        let mut verbs = vec![
            self.new_account(own, Plan::Strict, json!({})),
            self.new_key(own, 'a', json!({})),
            self.go(own, plan),
            self.use_up(own),
        ];
        for _ in 0..self.rng.random_range(1..=4) {
            verbs.extend(match self.rng.random_range(0..10) {
                0..2 => vec![self.go(own, Plan::Lax)],
                2 => vec![self.go(own, Plan::Strict)],
                3..5 => vec![self.cap(Kind::Account, own.to_owned())],
                5..7 => vec![self.cap(Kind::Key, key_of(own, 'a'))],
                7..9 => vec![Verb::Edit { kind: Kind::Account, name: own.to_owned(), spec: self.spend_limit() }],
                _ => {
                    let plan = self.one(&Plan::BOTH);
                    let account = Verb::Delete { kind: Kind::Account, name: own.to_owned() };
                    let key = Verb::Delete { kind: Kind::Key, name: key_of(own, 'a') };
                    let again = [self.new_account(own, plan, json!({})), self.new_key(own, 'a', json!({}))];
                    [key, account].into_iter().chain(again).collect()
                }
            });
        }
        let plan = self.one(&[Plan::Strict, Plan::Strict, Plan::Lax]);
        verbs.extend([self.go(own, plan), self.use_up(own)]);
        verbs
    }

    /// Has more accounts under the strict plan than there are places, one after the other.
    fn crowd(&mut self) -> Vec<Verb> {
        let mut verbs = Vec::new();
        for own in OWN {
            verbs.extend([
                self.new_account(own, Plan::Strict, json!({})),
                self.new_key(own, 'a', json!({})),
                self.go(own, Plan::Strict),
                self.use_up(own),
                match self.rng.random_bool(0.5) {
                    true => self.go(own, Plan::Lax),
                    false => Verb::Delete { kind: Kind::Account, name: own.to_owned() },
                },
            ]);
        }
        verbs
    }

    /// Takes what the platform team imposed on its account off, where `grant` on the other plan may do so.
    fn shed(&mut self) -> Vec<Verb> {
        let none = json!({"prepaid": null, "spendLimitMinor": null, "allowedSenders": null, "suspended": null});
        let at_once = self.rng.random_bool(0.5);
        let more = if at_once { none.clone() } else { json!({}) };
        let mut verbs = vec![Verb::Move { name: GRANTED.to_owned(), to: Plan::Lax, more }];
        if !at_once {
            verbs.push(Verb::Edit { kind: Kind::Account, name: GRANTED.to_owned(), spec: none });
        }
        verbs.extend([self.go(GRANTED, Plan::Strict), self.use_up(GRANTED)]);
        verbs
    }

    fn copies(&mut self, own: &str) -> Vec<Verb> {
        let plan = self.one(&Plan::BOTH);
        vec![
            self.new_account(own, plan, json!({})),
            self.new_key(own, 'a', json!({})),
            Verb::SendCopies { key: key_of(own, 'a'), times: MANY },
        ]
    }

    /// Shares a Secret of the application, and ends that.
    fn adopt(&mut self) -> Vec<Verb> {
        let (foreign, account) = (self.one(&FOREIGN), self.one(&[OWN[0], OWN[1], GRANTED]));
        let name = key_of(account, 'b');
        let mut verbs = if self.rng.random_bool(0.3) {
            let spec = json!({"secret": {"adopt": true, "name": foreign}});
            vec![self.new_key(account, 'b', json!({})), Verb::Edit { kind: Kind::Key, name: name.clone(), spec }]
        } else {
            vec![self.sharing(account, foreign)]
        };
        if self.rng.random_bool(0.3) {
            let more = json!({"secret": {"template": {"colour": "mine", "extra": "{{ .host }}"}}});
            verbs.push(Verb::Edit { kind: Kind::Key, name: name.clone(), spec: more });
        }
        if self.rng.random_bool(0.7) {
            verbs.push(match self.rng.random_bool(0.7) {
                true => Verb::Delete { kind: Kind::Key, name },
                false => Verb::Strip { kind: Kind::Key, name, by_update: false },
            });
        }
        verbs
    }

    fn sharing(&mut self, account: &str, foreign: &str) -> Verb {
        let secret = json!({"adopt": true, "name": foreign, "type": "Opaque"});
        self.new_key(account, 'b', json!({"secret": secret}))
    }

    /// Sends as others with a key that says it may.
    fn widen(&mut self) -> Vec<Verb> {
        let account = self.one(&[GRANTED, GRANTED, OWN[0], OWN[1]]);
        let senders = json!({"allowedSenders": ["*@example.com", "*@elsewhere.example"]});
        let mut verbs = vec![self.new_key(account, 'a', senders)];
        for _ in 0..3 {
            let (from, header_from) = (self.one(&SENDERS), self.one(&SENDERS));
            verbs.push(Verb::Send { key: key_of(account, 'a'), from, header_from, recipients: 1, at_most: 1 });
        }
        verbs
    }

    fn ghost(&mut self) -> Vec<Verb> {
        let account = self.one(&[OWN[0], OWN[1], GRANTED]);
        let (kind, name) = match self.rng.random_bool(0.5) {
            true => (Kind::Account, account.to_owned()),
            false => (Kind::Key, key_of(account, 'a')),
        };
        let made = self.new_key(account, 'a', json!({}));
        let strip = Verb::Strip { kind, name, by_update: self.rng.random_bool(0.5) };
        vec![made, strip, self.use_up(account)]
    }

    fn any(&mut self) -> Verb {
        let account = self.one(&[OWN[0], OWN[1], OWN[2], GRANTED]);
        let kind = self.one(&[Kind::Account, Kind::Key]);
        let letter = self.one(&['a', 'a', 'b']);
        let name = match kind {
            Kind::Account => account.to_owned(),
            Kind::Key => key_of(account, letter),
        };
        match self.rng.random_range(0..15) {
            0 => self.new_account(account, Plan::Lax, json!({"allowedSenders": ["a@example.com", "b@example.com"]})),
            1..3 => self.new_key(account, letter, json!({"cap": {"credits": 2}})),
            3 => self.go(account, Plan::Lax),
            4 => Verb::Edit { kind: Kind::Account, name: account.to_owned(), spec: self.guarded() },
            5 => {
                Verb::Annotate { kind, name, metadata: json!({"labels": {"team": "shop"}, "annotations": {"n": "1"}}) }
            }
            6 => Verb::ForceDelete { kind, name },
            7 => Verb::Delete { kind, name },
            8 => Verb::DeleteAll { kind },
            9 => Verb::Strip { kind, name, by_update: true },
            10 => {
                let patches = [
                    json!({"stringData": {"password": "chosen by the tenant himself"}}),
                    json!({"metadata": {"labels": null, "annotations": null, "ownerReferences": null}}),
                ];
                let patch = self.rng.random_bool(0.6).then(|| patches.choose(self.rng).expect("two").clone());
                Verb::TamperSecret { key: key_of(account, 'a'), patch }
            }
            11 => Verb::Edit { kind: Kind::Key, name: key_of(account, 'a'), spec: self.key_edit() },
            12 => Verb::Send {
                key: key_of(account, letter),
                from: SENDERS[0],
                header_from: SENDERS[0],
                recipients: self.rng.random_range(1..=3),
                at_most: 3,
            },
            _ => self.cap(kind, name),
        }
    }

    fn go(&mut self, name: &str, to: Plan) -> Verb {
        Verb::Move { name: name.to_owned(), to, more: json!({}) }
    }

    fn cap(&mut self, kind: Kind, name: String) -> Verb {
        let period = self.one(&["Monthly", "Monthly", "Daily", "Weekly"]);
        let cap = match self.rng.random_bool(0.6) {
            true => json!({"credits": self.rng.random_range(0..=9), "period": period}),
            false => Value::Null,
        };
        Verb::Edit { kind, name, spec: json!({"cap": cap}) }
    }

    fn spend_limit(&mut self) -> Value {
        json!({"spendLimitMinor": self.rng.random_bool(0.7).then(|| self.rng.random_range(1..=9))})
    }

    /// A field that takes `grant`.
    fn guarded(&mut self) -> Value {
        let grant = format!("gift-{}", self.rng.random_range(0..1000));
        let fields = [
            json!({"prepaid": {"grants": [{"id": grant, "credits": 50}]}}),
            json!({"prepaid": null}),
            self.spend_limit(),
            json!({"rateLimit": {"messages": 1000, "per": "Second"}}),
            json!({"suspended": self.rng.random_bool(0.5)}),
            json!({"allowedSenders": ["*@example.com"]}),
            json!({"deletionPolicy": "Purge"}),
        ];
        fields.choose(self.rng).expect("several").clone()
    }

    fn key_edit(&mut self) -> Value {
        let at = format!("2026-11-01T00:00:{:02}Z", self.rng.random_range(0..60));
        let edits = [
            json!({"revoked": self.rng.random_bool(0.5)}),
            json!({"rotation": {"restartedAt": at, "force": true}}),
            json!({"label": "the shop"}),
            json!({"allowedSenders": null}),
        ];
        edits.choose(self.rng).expect("several").clone()
    }
}

fn extend(into: &mut Value, more: Value) {
    let (Value::Object(into), Value::Object(more)) = (into, more) else { panic!("specs are objects") };
    into.extend(more);
}
