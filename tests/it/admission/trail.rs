//! What `franking ledger events` says to an auditor: who, which field, from what to what, and of which object.

use franking::runtime::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::{Gate, SYSTEM, TEAM, account, held, spec};
use crate::support::franking::{DEADLINE, Home, eventually};

/// The rows of the trail after this one.
fn rows(home: &Home, after: i64) -> Vec<Value> {
    let after = after.to_string();
    let output = home.command(&["ledger", "events", "--output", "json", "--after", &after]).output();
    let text = String::from_utf8(output.expect("the binary starts").stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The trail of one test, read from where it was read last.
struct Reader<'a> {
    home: &'a Home,
    after: i64,
}

impl Reader<'_> {
    /// Waits for a row of this kind with this field (empty for any), and goes on behind all that are there.
    fn row(&mut self, kind: &str, field: &str) -> Value {
        let found = |row: &Value| row["kind"] == kind && (field.is_empty() || row["detail"]["field"] == field);
        let (row, last) = eventually(&format!("{kind} {field} in the trail"), DEADLINE, || {
            let rows = rows(self.home, self.after);
            let row = rows.iter().find(|row| found(row))?.clone();
            Some((row, rows.last().and_then(|row| row["seq"].as_i64())?))
        });
        self.after = last;
        row
    }
}

impl Gate {
    fn patch(&self, who: &str, manager: &str, kind: &str, name: &str, spec: Value) {
        let patch = json!({"spec": spec}).to_string();
        let manager = format!("--field-manager={manager}");
        let patched = self.run(who, &["patch", kind, name, &manager, "--type=merge", "-p", &patch], "");
        patched.unwrap_or_else(|error| panic!("{who} {kind}: {error}"));
    }

    /// Waits until the operator has judged the object as it is.
    fn judged(&self, kind: &str, name: &str) {
        eventually(&format!("{kind} {name} to be judged"), DEADLINE, || {
            let path = "-o=jsonpath={.metadata.generation} {.status.observedGeneration}";
            let generations = self.run("admin", &["get", kind, name, path], "").ok()?;
            let (spec, status) = generations.split_once(' ')?;
            (spec == status).then_some(())
        });
    }
}

/// Waits until the clock shows another second.
fn next_second() {
    let second = || SystemClock.now().as_second();
    let before = second();
    eventually("the next second", DEADLINE, || (second() > before).then_some(()));
}

/// A gate with the plan `acme`, and the account `shop` and the key `till` in it, all taken up.
async fn shop(home: impl FnOnce(&Gate) -> Home) -> (Gate, Home) {
    let gate = Gate::set().await;
    let home = home(&gate);
    let [(_, mut policy), ..] = held();
    policy["metadata"] = json!({"name": "acme"});
    policy["spec"]["senders"] = json!({"domains": ["first.example"]});
    let key = json!({"apiVersion": "franking.io/v1alpha1", "kind": "SubAccountApiKey",
                     "metadata": {"name": "till", "namespace": TEAM}, "spec": {"subAccountRef": {"name": "shop"}}});
    let shop = account("shop", &spec(&json!({"cap": {"credits": 10}})));
    let running = home.start();
    for object in [policy, shop, key] {
        gate.run("platform", &["create", "--field-manager=setup", "-f", "-"], &object.to_string()).expect("made");
    }
    for (kind, name) in [("creditpolicy", "acme"), ("subaccount", "shop"), ("subaccountapikey", "till")] {
        gate.judged(kind, name);
    }
    assert_eq!(running.stop(), 0);
    (gate, home)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_stamp_no_manager_is_named_that_did_not_make_the_edit() {
    let (gate, home) = shop(|gate| Home::new(gate.plane.admin_kubeconfig(), SYSTEM)).await;
    let made = rows(&home, 0);
    let added = made.iter().find(|row| row["kind"] == "directory.added" && row["holder"]["kind"] == "account");
    assert_eq!(added.expect("it was added")["actor"], "manager:setup");

    let _running = home.start();
    eventually("the operator to work", DEADLINE, || home.get("/readyz").filter(|(status, _)| *status == 200));
    let mut trail = Reader { home: &home, after: made.last().and_then(|row| row["seq"].as_i64()).expect("rows") };
    // What is edited before the watch has begun is nobody's. Managed fields have times of whole seconds.
    gate.patch("admin", "setup", "subaccount", "shop", json!({"displayName": "Shop"}));
    gate.judged("subaccount", "shop");
    next_second();
    gate.patch("manager", "editor", "subaccount", "shop", json!({"cap": {"credits": 5}}));
    let row = trail.row("limit.changed", "");
    assert_eq!((&row["actor"], &row["detail"]["to"]["credits"]), (&json!("manager:editor"), &json!(5)));
    gate.judged("subaccount", "shop");

    // Another client takes the field out, which is nobody's then: `editor` and `setup` are all that is left.
    next_second();
    gate.patch("tenant", "remover", "subaccount", "shop", json!({"cap": null}));
    let row = trail.row("limit.changed", "");
    assert_eq!((&row["actor"], &row["detail"]["to"]["credits"]), (&json!("unknown"), &json!(null)), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_says_what_changed_of_which_object_and_not_that_the_last_editor_did_it_all() {
    let (gate, home) = shop(|gate| {
        let home = Home::new(gate.plane.admin_kubeconfig(), SYSTEM);
        home.tune("changedByStamped: true");
        home
    })
    .await;
    let last = rows(&home, 0).last().and_then(|row| row["seq"].as_i64()).expect("rows");
    let mut trail = Reader { home: &home, after: last };

    // Two people edit while nobody looks.
    gate.patch("manager", "a", "subaccount", "shop", json!({"cap": {"credits": 5}}));
    gate.patch("granter", "b", "subaccount", "shop", json!({"alerts": {"email": {"to": ["till@example.com"]}}}));
    let running = home.start();
    let row = trail.row("setting.changed", "alerts.email.to");
    assert_eq!(row["actor"], "generations 2 to 3, the last by user:granter", "{row}");
    assert_eq!((&row["detail"]["from"], &row["detail"]["to"]), (&json!(null), &json!(["till@example.com"])), "{row}");
    let holder = &row["holder"];
    assert_eq!(
        (&holder["resource"], &holder["namespace"], &holder["name"]),
        (&json!("SubAccount"), &json!(TEAM), &json!("shop"))
    );

    for (who, kind, name, spec, field, from, to) in [
        (
            "granter",
            "subaccount",
            "shop",
            json!({"allowedSenders": ["a@example.com"]}),
            "allowedSenders",
            json!(null),
            json!(["a@example.com"]),
        ),
        (
            "platform",
            "creditpolicy",
            "acme",
            json!({"senders": {"domains": ["example.com"]}}),
            "senders.domains",
            json!(["first.example"]),
            json!(["example.com"]),
        ),
        (
            "platform",
            "creditpolicy",
            "acme",
            json!({"alerts": {"thresholdsPercent": [80]}}),
            "alerts.thresholdsPercent",
            json!(null),
            json!([80]),
        ),
        (
            "platform",
            "creditpolicy",
            "acme",
            json!({"perAccount": {"prepaid": "Optional"}}),
            "perAccount.prepaid",
            json!(null),
            json!("Optional"),
        ),
        (
            "manager",
            "subaccountapikey",
            "till",
            json!({"rotation": {"every": "720h"}}),
            "rotation.every",
            json!(null),
            json!("720h"),
        ),
        (
            "manager",
            "subaccountapikey",
            "till",
            json!({"rotation": {"every": "48h"}}),
            "rotation.every",
            json!("720h"),
            json!("48h"),
        ),
    ] {
        gate.judged(kind, name);
        gate.patch(who, "x", kind, name, spec);
        let row = trail.row("setting.changed", field);
        assert_eq!((&row["detail"]["from"], &row["detail"]["to"]), (&from, &to), "{row}");
        assert_eq!(row["actor"], format!("user:{who}"), "{row}");
    }

    gate.run("manager", &["delete", "subaccountapikey", "till", "--wait=false"], "").expect("deleted");
    let row = trail.row("directory.removed", "");
    assert_eq!((&row["actor"], &row["holder"]["name"]), (&json!("operator"), &json!("till")), "{row}");
    assert_eq!(running.stop(), 0);
    let text =
        String::from_utf8(home.command(&["ledger", "events"]).output().expect("it starts").stdout).expect("UTF-8");
    for whom in
        [format!("SubAccount {TEAM}/shop "), format!("SubAccountApiKey {TEAM}/till "), "CreditPolicy acme ".to_owned()]
    {
        assert!(text.lines().any(|line| line.contains(&whom)), "{whom}: {text}");
    }
}
