//! Every kind of credit as a user meets it: written into a resource, sent with over SMTP, used up, and open again.

use std::cell::RefCell;

use serde_json::{Value, json};

use crate::story::{SOON, Stage, send};
use crate::support::franking::{DEADLINE, Franking, eventually};
use crate::support::mail::Session;

/// A plan, its account and a session of the account's key.
struct Scene {
    stage: Stage,
    session: RefCell<Option<Session>>,
}

impl Scene {
    async fn set(plan: Value, account: Value) -> Self {
        let scene = Self { stage: Stage::set().await, session: RefCell::default() };
        scene.policy(plan);
        scene.account(account);
        scene.stage.key("website", "label: Website");
        scene
    }

    /// Starts the binary and logs in.
    fn start(&self) -> Franking<'_> {
        let franking = self.stage.home.start();
        self.stage.wait_ready();
        let (session, reply) = Session::open_quietly(&self.stage.credentials("website")).expect("a login");
        assert!(reply.starts_with("235"), "{reply}");
        *self.session.borrow_mut() = Some(session);
        franking
    }

    fn policy(&self, more: Value) {
        let port = self.stage.sink.address().port();
        let mut spec = json!({
            "senders": {"domains": ["example.com"]}, "upstream": {"host": "127.0.0.1", "port": port, "tls": "None"}
        });
        spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        self.apply("CreditPolicy", json!({"name": "plan"}), spec);
    }

    fn account(&self, more: Value) {
        let mut spec = json!({"policyRef": {"name": "plan"}});
        spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        self.apply("SubAccount", json!({"name": "shop", "namespace": "team"}), spec);
    }

    fn apply(&self, kind: &str, metadata: Value, spec: Value) {
        let object = json!({"apiVersion": "franking.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
        self.stage.apply(&object.to_string());
    }

    fn send(&self) -> String {
        send(self.session.borrow_mut().as_mut().expect("it is logged in"), "a message")
    }

    /// Sends so many, which must all pass.
    #[track_caller]
    fn sends(&self, messages: usize) {
        for number in 1..=messages {
            let reply = self.send();
            assert!(reply.starts_with("250"), "message {number} of {messages}: {reply}");
        }
    }

    /// The next one must be refused with these words.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let reply = self.send();
        for words in words {
            assert!(reply.contains(words), "{reply}");
        }
    }

    /// One passes within a moment, as it must when a limit was raised.
    #[track_caller]
    fn opens(&self) {
        eventually("a message to pass", SOON, || self.send().starts_with("250").then_some(()));
    }

    /// Nothing passes any more within a moment, as it must when something was taken back. What went through until then.
    #[track_caller]
    fn closes(&self, words: &str) -> usize {
        let mut passed = 0;
        eventually(words, SOON, || {
            let reply = self.send();
            passed += usize::from(reply.starts_with("250"));
            reply.contains(words).then_some(())
        });
        passed
    }

    fn arrived(&self) -> usize {
        self.stage.sink.messages().len()
    }

    /// Waits for a figure of the account's status.
    #[track_caller]
    fn shows(&self, path: &str, expected: &str) {
        let mut seen = String::new();
        eventually(&format!("{path} to be {expected:?}"), DEADLINE, || {
            seen = self.stage.account_field(path);
            (seen == expected).then_some(())
        });
    }

    fn policy_field(&self, path: &str) -> String {
        self.stage.kubectl(&["get", "creditpolicy", "plan", "-o", &format!("jsonpath={{{path}}}")])
    }

    #[track_caller]
    fn policy_shows(&self, path: &str, expected: &str) {
        let field = || (self.policy_field(path) == expected).then_some(());
        eventually(&format!("the policy's {path} to be {expected:?}"), DEADLINE, field);
    }

    /// Waits for an Event with this reason.
    #[track_caller]
    fn told(&self, reason: &str) {
        let path = "jsonpath={range .items[*]}{.reason} {end}";
        eventually(reason, DEADLINE, || {
            let reasons = self.stage.kubectl(&["get", "events.events.k8s.io", "-A", "-o", path]);
            reasons.split(' ').any(|found| found == reason).then_some(())
        });
    }

    /// Waits for a line among the metrics, which are exact within a moment.
    #[track_caller]
    fn measures(&self, line: &str) {
        eventually(line, DEADLINE, || {
            let (_, metrics) = self.stage.home.get("/metrics")?;
            metrics.lines().any(|found| found == line).then_some(())
        });
    }

    /// The end: books that balance.
    fn balanced(&self, franking: Franking<'_>) {
        assert_eq!(franking.stop(), 0);
        let (balanced, said) = self.stage.home.check();
        assert!(balanced, "{said}");
    }
}

fn grants(list: &[(&str, i64)]) -> Value {
    let list: Vec<Value> = list.iter().map(|(id, credits)| json!({"id": id, "credits": credits})).collect();
    json!({"prepaid": {"grants": list}})
}

#[tokio::test(flavor = "multi_thread")]
async fn prepaid_credits_are_used_up_once_however_their_grants_are_edited() {
    let scene = Scene::set(json!({}), grants(&[("first", 3)])).await;
    let franking = scene.start();
    scene.sends(3);
    scene.refused(&["452 4.7.1", "prepaid", "add credits"]);
    scene.shows(".status.credits.prepaid", "0");
    assert_eq!(scene.stage.account_field(".status.credits.remaining"), "0");
    assert_eq!(scene.stage.account_field(".status.credits.reopensAt"), "", "it does not open by itself");
    scene.told("CreditsExhausted");
    scene.measures("franking_account_credits{account=\"shop\",namespace=\"team\",what=\"prepaid\"} 0");

    // A new grant opens it within a moment, and people are told.
    scene.account(grants(&[("first", 3), ("second", 2)]));
    scene.opens();
    scene.sends(1);
    scene.refused(&["452 4.7.1"]);
    scene.told("CreditsAvailable");
    assert_eq!(scene.arrived(), 5);

    // What is taken back stops it; written again, what was used of it stays used.
    scene.account(grants(&[("third", 10)]));
    scene.opens();
    scene.account(json!({"prepaid": {}}));
    let passed = scene.closes("452 4.7.1");
    scene.account(grants(&[("first", 3), ("second", 2), ("third", 10)]));
    scene.opens();
    scene.sends(8 - passed);
    scene.refused(&["452 4.7.1", "prepaid"]);
    assert_eq!(scene.arrived(), 15, "3 + 2 + 10, whatever was edited");

    // A grant that has expired is none.
    let over = json!({"id": "over", "credits": 5, "expiresAt": "2020-01-01T00:00:00Z"});
    scene.account(json!({"prepaid": {"grants": [over]}}));
    scene.stage.wait_ready();
    scene.refused(&["452 4.7.1"]);
    // A top-up comes at once, and then with the next period.
    scene.account(json!({"prepaid": {"recurring": {"credits": 2, "every": "Month"}}}));
    scene.opens();
    scene.sends(1);
    scene.refused(&["452 4.7.1", "the next top-up comes at"]);
    scene.shows(".status.credits.prepaid", "0");
    assert!(scene.stage.account_field(".status.credits.reopensAt").ends_with("-01T00:00:00Z"));
    // An account that is deleted and made again has used what it has used.
    scene.stage.kubectl(&["delete", "subaccount", "shop", "-n", "team", "--timeout=60s"]);
    scene.account(
        json!({"prepaid": {"grants": [{"id": "third", "credits": 10}], "recurring": {"credits": 2, "every": "Month"}}}),
    );
    scene.stage.wait_ready();
    eventually("the key to be let in", SOON, || scene.send().starts_with("452 4.7.1").then_some(()));
    assert_eq!(scene.arrived(), 17);
    scene.balanced(franking);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_of_the_plan_is_shared_and_a_pool_may_be_exceeded_where_the_plan_says_so() {
    let scene = Scene::set(grants(&[("order", 2)]), json!({})).await;
    let franking = scene.start();
    scene.sends(2);
    scene.refused(&["452 4.7.1", "the policy's prepaid"]);
    scene.policy_shows(".status.credits.prepaid", "0");
    // The pool instead, and beyond it.
    scene.policy(json!({"pool": {"credits": 4}, "overage": "Allow"}));
    scene.opens();
    eventually("the metric of what is prepaid no more to go", DEADLINE, || {
        let (_, metrics) = scene.stage.home.get("/metrics")?;
        (!metrics.contains("what=\"prepaid\"")).then_some(())
    });
    scene.sends(4);
    scene.measures("franking_policy_credits{policy=\"plan\",what=\"overage\"} 3");
    // Within a phase status follows with a delay; an edit shows the figures of the moment.
    scene.policy(json!({"pool": {"credits": 4}, "overage": "Allow", "displayName": "look"}));
    scene.policy_shows(".status.credits.overage", "3");
    assert_eq!(scene.policy_field(".status.credits.used"), "7");
    assert_eq!(scene.policy_field(".status.credits.remaining"), "0");
    // Counted apart, it is no debt of the pool: denied again, the pool is used up and no more.
    scene.policy(json!({"pool": {"credits": 4}}));
    scene.closes("452 4.7.1");
    scene.balanced(franking);
}

#[tokio::test(flavor = "multi_thread")]
async fn money_and_speed_are_limited_too() {
    let priced = json!({"pricing": {"currency": "EUR", "pricePerThousandMinor": 1000}});
    let scene = Scene::set(priced.clone(), json!({"spendLimitMinor": 2})).await;
    let franking = scene.start();
    // A cent each.
    scene.sends(2);
    scene.refused(&["452 4.7.1", "spend limit"]);
    scene.shows(".status.spend.usedMinor", "2");
    assert_eq!(scene.stage.account_field(".status.credits.remaining"), "0");
    scene.account(json!({"spendLimitMinor": 3}));
    scene.opens();
    scene.refused(&["452 4.7.1"]);
    scene.shows(".status.credits.remaining", "0");
    // A price that falls lets more through from the next message on; what was spent stays spent.
    scene.policy(json!({"pricing": {"currency": "EUR", "pricePerThousandMinor": 0}}));
    scene.opens();
    scene.shows(".status.credits.remaining", "");
    assert_eq!(scene.stage.account_field(".status.spend.usedMinor"), "3");
    scene.policy(priced.clone());
    scene.closes("452 4.7.1");
    // Nobody knows what a message costs without a price: the account is refused, and says so.
    scene.policy(json!({}));
    scene.shows(".status.conditions[?(@.type==\"Ready\")].reason", "PricingMissing");
    scene.closes("550 5.7.13");
    scene.policy(priced);

    // The plan's rate holds for who names none, and the slower of two for who does.
    scene.account(json!({}));
    scene.opens();
    scene.policy(json!({"perAccount": {"rateLimit": {"messages": 3, "per": "Hour"}}}));
    scene.closes("452 4.4.5");
    scene.account(json!({"rateLimit": {"messages": 1000, "per": "Second"}}));
    scene.refused(&["452 4.4.5", "the account may send 3 messages in 3600 s"]);
    scene.policy(json!({}));
    scene.opens();
    scene.stage.key("website", "rateLimit: {messages: 2, per: Day}");
    scene.closes("452 4.4.5");
    scene.refused(&["the key may send 2 messages in 86400 s"]);
    scene.balanced(franking);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_edit_of_a_calendar_refills() {
    let pool = |more: Value| {
        let mut pool = json!({"credits": 3});
        pool.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        json!({"pool": pool})
    };
    let scene = Scene::set(pool(json!({})), json!({"cap": {"credits": 3}})).await;
    let franking = scene.start();
    scene.sends(3);
    scene.refused(&["452 4.7.1"]);
    scene.policy_shows(".status.credits.used", "3");
    let edits = [
        json!({"anchor": 15}),
        json!({"anchor": 22, "timeZone": "Pacific/Auckland"}),
        json!({"period": "Weekly", "anchor": 7}),
        json!({"period": "Daily", "timeZone": "Pacific/Honolulu"}),
        json!({}),
    ];
    for (index, edit) in edits.into_iter().enumerate() {
        // The account's cap changes its period too, so that neither meter hides what the other would let through.
        let period = ["Daily", "Weekly", "Monthly"][index % 3];
        scene.account(json!({"cap": {"credits": 3, "period": period}}));
        scene.policy(pool(edit.clone()));
        scene.stage.wait_ready();
        let generation = scene.policy_field(".metadata.generation");
        scene.policy_shows(".status.observedGeneration", &generation);
        scene.refused(&["452 4.7.1"]);
        assert_eq!(scene.policy_field(".status.credits.used"), "3", "{edit}");
        assert_eq!(scene.policy_field(".status.credits.remaining"), "0", "{edit}");
    }
    // The running period goes on with what it has: a raised limit holds at once, and what was used stays used.
    scene.account(json!({}));
    scene.policy(json!({"pool": {"credits": 5}}));
    scene.opens();
    scene.sends(1);
    scene.refused(&["452 4.7.1", "pool of 5"]);
    scene.balanced(franking);
}
