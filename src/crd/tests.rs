//! The rules of the schemas and of `check()`, by the table in `tests/it/refusals.yaml`, and what the schemas promise.

use std::collections::BTreeMap;

use kube::core::cel::ValidationErrors;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;
use crate::domain::period::Calendar;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    fixtures: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    kind: String,
    change: Value,
    #[serde(default)]
    update: bool,
    cel: Option<String>,
    /// Part of the message that only a real API server gives.
    bound: Option<String>,
    check: Option<String>,
}

fn table() -> Table {
    serde_yaml::from_str(include_str!("../../tests/it/refusals.yaml")).expect("the table of refusals")
}

fn object(kind: &str, spec: &Value) -> Value {
    serde_json::json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind, "metadata": {"name": "x"}, "spec": spec
    })
}

/// Applies a merge patch (RFC 7386).
fn merge(target: &mut Value, change: &Value) {
    let (Value::Object(target), Value::Object(change)) = (&mut *target, change) else {
        *target = change.clone();
        return;
    };
    for (key, value) in change {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

fn read<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("an object of the kind")
}

/// Returns what the schema's rules say about an object that is new or changed from `old`.
fn rules(kind: &str, new: Value, old: Option<Value>) -> Result<(), ValidationErrors> {
    macro_rules! validate {
        ($kind:ty) => {
            match old {
                Some(old) => read::<$kind>(new).validate_cel_update(&read(old)),
                None => read::<$kind>(new).validate_cel(),
            }
        };
    }
    match kind {
        "CreditPolicy" => validate!(CreditPolicy),
        "SubAccount" => validate!(SubAccount),
        "SubAccountApiKey" => validate!(SubAccountApiKey),
        other => panic!("{other} is not a kind"),
    }
}

fn check(kind: &str, object: Value) -> Result<(), Problem> {
    match kind {
        "CreditPolicy" => read::<CreditPolicy>(object).spec.check().map(drop),
        "SubAccount" => read::<SubAccount>(object).spec.check().map(drop),
        "SubAccountApiKey" => read::<SubAccountApiKey>(object).spec.check("x").map(drop),
        other => panic!("{other} is not a kind"),
    }
}

#[test]
fn the_fixtures_are_valid_alone_and_as_an_update_of_themselves() {
    for (kind, spec) in table().fixtures {
        let object = object(&kind, &spec);
        rules(&kind, object.clone(), None).expect("the rules take it");
        rules(&kind, object.clone(), Some(object.clone())).expect("the rules take it unchanged");
        check(&kind, object).expect("it makes sense");
    }
}

#[test]
fn each_change_is_refused_by_its_rule() {
    let table = table();
    for case in &table.cases {
        let Some(message) = &case.cel else { continue };
        let fixture = &table.fixtures[&case.kind];
        let mut spec = fixture.clone();
        merge(&mut spec, &case.change);
        let old = case.update.then(|| object(&case.kind, fixture));
        let errors = rules(&case.kind, object(&case.kind, &spec), old).expect_err(&format!("{:?}", case.change));
        let text = format!("{errors:?}");
        assert!(text.contains(message.as_str()), "{} {:?}: {text}", case.kind, case.change);
    }
}

#[test]
fn each_change_is_refused_by_check_naming_its_field() {
    let table = table();
    for case in &table.cases {
        let Some(field) = &case.check else { continue };
        let mut spec = table.fixtures[&case.kind].clone();
        merge(&mut spec, &case.change);
        let problem = check(&case.kind, object(&case.kind, &spec)).expect_err(field);
        assert_eq!(&problem.field, field, "{} {:?}: {problem}", case.kind, case.change);
        assert!(problem.fix.len() > 20, "{problem} says too little");
    }
}

#[test]
fn no_rule_is_without_a_case() {
    let cases = table().cases;
    let mut rules = 0;
    for crd in all() {
        walk(&serde_json::to_value(&crd).expect("json"), &mut |_, schema| {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                let message = rule["message"].as_str().expect("each rule has a message");
                // The crate `cel` ignores the time zone and accepts every one.
                let by_server_alone = message.starts_with("name a time zone that exists");
                let tried = cases.iter().any(|case| {
                    let words = if by_server_alone { &case.bound } else { &case.cel };
                    case.kind == crd.spec.names.kind && words.as_ref().is_some_and(|text| message.contains(text))
                });
                assert!(tried, "{}: no case for \"{message}\"", crd.spec.names.kind);
                rules += 1;
            }
        });
    }
    assert!(rules >= 15, "found {rules} rules: the walk has lost its way");
}

#[test]
fn the_schema_and_check_know_the_same_keys_of_a_secret() {
    for key in SECRET_KEYS.iter().chain(&ENV_KEYS) {
        let mut spec = table().fixtures["SubAccountApiKey"].clone();
        merge(&mut spec, &serde_json::json!({"secret": {"template": {*key: "x"}}}));
        let object = object("SubAccountApiKey", &spec);
        assert!(rules("SubAccountApiKey", object.clone(), None).is_err(), "the schema takes {key}");
        assert_eq!(check("SubAccountApiKey", object).expect_err(key).field, format!("spec.secret.template[{key}]"));
    }
}

/// Visits the schema of every field, with its path.
fn walk(crd: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    fn fields(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
        visit(path, schema);
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            fields(&format!("{path}.{name}"), child, visit);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                fields(&format!("{path}[]"), &schema[inner], visit);
            }
        }
    }
    for version in crd["spec"]["versions"].as_array().expect("versions") {
        fields("", &version["schema"]["openAPIV3Schema"], visit);
    }
}

#[test]
fn every_field_is_explained_and_bounded_and_none_has_a_default() {
    let mut seen = 0;
    for crd in all() {
        let kind = crd.spec.names.kind.clone();
        walk(&serde_json::to_value(&crd).expect("json"), &mut |path, schema| {
            seen += 1;
            let has = |bound: &str| !schema[bound].is_null();
            let explained = schema["description"].as_str().is_some_and(|text| !text.is_empty());
            assert!(explained || path.ends_with("[]"), "{kind}{path} is not explained");
            assert!(!has("default") && !has("nullable"), "{kind}{path} has a default or takes null");
            let bounded = match schema["type"].as_str().expect("a type") {
                "string" => has("maxLength") || has("enum") || schema["format"] == "date-time",
                "array" => has("maxItems"),
                "object" => !has("additionalProperties") || has("maxProperties"),
                "integer" => has("minimum") && (schema["format"] == "int64" || schema["format"] == "int32"),
                "boolean" => true,
                other => panic!("{kind}{path} is a {other}"),
            };
            assert!(bounded, "{kind}{path} has no bound");
        });
    }
    assert!(seen > 100, "saw {seen} fields: the walk has lost its way");
}

#[test]
fn what_is_left_out_has_the_meaning_that_the_description_says() {
    let policy: CreditPolicy =
        read(object("CreditPolicy", &serde_json::json!({"upstream": {"host": "Smtp.Example.com"}})));
    let policy = policy.spec.check().expect("a policy");
    assert_eq!(policy.pool.credits, None);
    assert_eq!(policy.pool.calendar, Calendar::monthly_utc());
    assert!(policy.namespaces.allows(&BTreeMap::new()) && policy.sender_domains.is_empty());
    assert_eq!((policy.upstream.host.as_str(), policy.upstream.port), ("smtp.example.com", 465));
    assert_eq!(policy.upstream.max_recipients, 100);

    let account: SubAccount = read(object("SubAccount", &serde_json::json!({"policyRef": {"name": "a"}})));
    let account = account.spec.check().expect("an account");
    assert_eq!((account.cap, account.suspended, account.deletion), (None, None, DeletionPolicy::Retain));

    let key: SubAccountApiKey = read(object("SubAccountApiKey", &serde_json::json!({"subAccountRef": {"name": "a"}})));
    let key = key.spec.check("printer").expect("a key");
    assert_eq!(key.rotation.overlap, jiff::SignedDuration::from_hours(24));
    assert_eq!((key.secret.name.as_str(), key.secret.type_.as_str()), ("printer", SECRET_TYPE));
    assert!(key.allow_from.is_empty() && !key.plain_listener && !key.revoked);
}

#[test]
fn a_selector_admits_only_namespaces_with_its_labels() {
    let policy: CreditPolicy = read(object("CreditPolicy", &table().fixtures["CreditPolicy"]));
    let rule = policy.spec.check().expect("a policy").namespaces;
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    assert!(rule.allows(&labels(&[("mail", "shared"), ("example.com/tier", "paid")])));
    assert!(rule.allows(&labels(&[("mail", "shared")])), "NotIn matches where the label is absent");
    assert!(!rule.allows(&labels(&[])));
    assert!(!rule.allows(&labels(&[("mail", "shared"), ("example.com/tier", "free")])));
    assert!(!rule.allows(&labels(&[("mail", "shared"), ("retired", "")])));
}

#[test]
fn durations_are_hours_minutes_and_seconds_in_this_order() {
    let key = |overlap: &str| {
        let spec = serde_json::json!({"subAccountRef": {"name": "a"}, "rotation": {"overlap": overlap}});
        read::<SubAccountApiKey>(object("SubAccountApiKey", &spec))
            .spec
            .check("x")
            .map(|key| key.rotation.overlap.as_secs())
    };
    for (text, seconds) in [("10m", 600), ("600s", 600), ("1h30m", 5400), ("1h30m15s", 5415), ("720h", 2_592_000)] {
        assert_eq!(key(text), Ok(seconds), "{text}");
    }
    for text in ["", "m", "30m1h", "1d", "-1h", "+1h", "1h1h", "1.5h", "99999999999h", "60 m"] {
        assert!(key(text).is_err(), "{text:?} was taken");
    }
}

#[test]
fn an_accounts_cap_never_passes_the_policys_ceiling() {
    let monthly = |credits| Some(CheckedCap { credits, period: crate::domain::period::Period::Monthly });
    let daily = |credits| Some(CheckedCap { credits, period: crate::domain::period::Period::Daily });
    let policy = |default_cap, max_cap| {
        let spec = &table().fixtures["CreditPolicy"];
        let checked = read::<CreditPolicy>(object("CreditPolicy", spec)).spec.check().expect("a policy");
        CheckedPolicy { default_cap, max_cap, ..checked }
    };
    // (default, ceiling, requested) → credits, or the reason why not.
    let cases = [
        (None, None, None, Ok(None)),
        (None, None, monthly(5), Ok(Some(5))),
        (monthly(7), None, None, Ok(Some(7))),
        (monthly(7), monthly(9), None, Ok(Some(7))),
        (None, monthly(9), None, Ok(Some(9))),
        (monthly(7), monthly(9), monthly(9), Ok(Some(9))),
        (monthly(7), monthly(9), monthly(0), Ok(Some(0))),
        (monthly(7), monthly(9), monthly(10), Err("CapAboveCeiling")),
        (None, monthly(9), daily(1), Err("CapPeriodMismatch")),
    ];
    for (default, ceiling, cap, expected) in cases {
        let found = account_limit(&policy(default, ceiling), cap);
        let found = found.map(|limit| limit.credits).map_err(|refusal| refusal.reason().as_str());
        assert_eq!(found, expected, "{default:?} {ceiling:?} {cap:?}");
    }
    let limit = account_limit(&policy(None, None), daily(3)).expect("a limit");
    assert_eq!(
        (limit.calendar.period(), limit.calendar.time_zone()),
        (crate::domain::period::Period::Daily, "Europe/Berlin")
    );
}

#[test]
fn what_a_plan_imposes_on_each_account_it_imposes_on_one_that_does_not_mention_it() {
    use crate::domain::credit::{Prepaid, Rate};
    let json = |value: &str| serde_yaml::from_str::<Value>(value).expect("yaml");
    let policy = |per_account: &str, price: i64| {
        let mut spec = json("{upstream: {host: smtp.example.com}}");
        spec["perAccount"] = json(per_account);
        spec["pricing"] = serde_json::json!({"currency": "EUR", "pricePerThousandMinor": price});
        read::<CreditPolicy>(object("CreditPolicy", &spec)).spec.check().expect("a policy")
    };
    let account = |more: &str| {
        let mut spec = json(more);
        spec["policyRef"] = json("{name: acme}");
        read::<SubAccount>(object("SubAccount", &spec)).spec.check().expect("an account")
    };
    let granted = account("{prepaid: {grants: [{id: a, credits: 3}]}}").prepaid;
    let (nothing, all) = (Some(Prepaid::default()), "{prepaid: Required, spendLimit: Required}");
    let per_minute = |messages| Some(Rate { messages, per_seconds: 60 });
    // The policy's perAccount and price, the account → prepaid, spend limit, cap, rate, number of missing fields.
    let cases = [
        ("{}", 80, "{}", (None, None, None, None), 0),
        ("{prepaid: Optional, spendLimit: Optional}", 80, "{}", (None, None, None, None), 0),
        ("{prepaid: Required}", 80, "{}", (nothing.clone(), None, None, None), 1),
        ("{spendLimit: Required}", 80, "{}", (None, Some(0), None, None), 1),
        ("{allowedSenders: Required}", 80, "{}", (None, None, None, None), 1),
        ("{allowedSenders: Required}", 80, "{allowedSenders: [a@example.com]}", (None, None, None, None), 0),
        (all, 80, "{}", (nothing.clone(), Some(0), None, None), 2),
        // Without a price, mail can be sent with nothing to spend.
        ("{spendLimit: Required}", 0, "{}", (None, Some(0), None, None), 0),
        (all, 80, "{prepaid: {}, spendLimitMinor: 0}", (nothing, Some(0), None, None), 0),
        (
            all,
            80,
            "{prepaid: {grants: [{id: a, credits: 3}]}, spendLimitMinor: 7}",
            (granted, Some(7_000_000), None, None),
            0,
        ),
        ("{defaultCap: {credits: 5}}", 80, "{}", (None, None, Some(5), None), 0),
        ("{maxCap: {credits: 9}}", 80, "{}", (None, None, Some(9), None), 0),
        ("{rateLimit: {messages: 4, per: Minute}}", 80, "{}", (None, None, None, per_minute(4)), 0),
        (
            "{rateLimit: {messages: 4, per: Minute}}",
            80,
            "{rateLimit: {messages: 9, per: Minute}}",
            (None, None, None, per_minute(4)),
            0,
        ),
    ];
    for (per_account, price, spec, expected, missing) in cases {
        let terms = account_terms(&policy(per_account, price), &account(spec)).expect("terms");
        assert_eq!(terms.missing.len(), missing, "{per_account} {spec}");
        let found = (terms.prepaid, terms.spend_limit_micro, terms.limit.credits, terms.rate);
        assert_eq!(found, expected, "{per_account} {spec}");
    }
}

#[test]
fn the_chart_gets_the_same_definition_behind_its_switches() {
    for crd in all() {
        let template = chart_template(&crd);
        assert!(template.starts_with("# generated by"), "{template}");
        // The output of Helm: its actions evaluated for install and keep.
        let printed: String = template
            .replace("{{ \"{{\" }}", "\u{1}")
            .replace("{{ \"}}\" }}", "\u{2}")
            .lines()
            .filter(|line| !line.trim_start().starts_with("{{-"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(!printed.contains("{{") && !printed.contains("}}"), "an action is left: {printed}");
        let printed = printed.replace('\u{1}', "{{").replace('\u{2}', "}}");
        let mut found: Value = serde_yaml::from_str(&printed).expect("yaml");
        assert_eq!(found["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        found["metadata"].as_object_mut().expect("metadata").remove("annotations");
        let expected: Value = serde_yaml::from_str(&yaml(&crd)).expect("yaml");
        assert_eq!(found, expected);
    }
}

#[test]
fn what_is_worth_money_keeps_its_worth_on_the_way_to_the_ledger() {
    let at = |text: &str| Some(text.parse::<jiff::Timestamp>().expect("a time"));
    let account: SubAccount = read(object("SubAccount", &table().fixtures["SubAccount"]));
    let account = account.spec.check().expect("an account");
    let prepaid = account.prepaid.expect("prepaid credits");
    let grants: Vec<_> = prepaid.grants.iter().map(|g| (g.id.as_str(), g.credits, g.expires_at)).collect();
    assert_eq!(grants, [("order-4711", 500, at("2026-12-31T23:00:00Z")), ("2026:goodwill", 0, None)]);
    let top_up = prepaid.recurring.expect("a top-up");
    assert_eq!((top_up.credits, top_up.every), (50, crate::domain::period::Period::Monthly));
    assert_eq!((top_up.start, top_up.end), (at("2026-12-01T00:00:00Z"), at("2027-12-01T00:00:00Z")));
    assert_eq!(account.spend_limit_micro, Some(2_500_000_000));
    assert_eq!(account.rate.map(|rate| (rate.messages, rate.per_seconds)), Some((5, 1)));

    let policy: CreditPolicy = read(object("CreditPolicy", &table().fixtures["CreditPolicy"]));
    let policy = policy.spec.check().expect("a policy");
    assert_eq!(policy.overage, crate::domain::credit::Overage::Allow);
    assert_eq!(policy.account_rate.map(|rate| (rate.messages, rate.per_seconds)), Some((100, 60)));
    assert_eq!(policy.pricing.map(|pricing| pricing.price_per_thousand_minor), Some(80));
}

#[test]
fn prepaid_with_nothing_in_it_is_prepaid_and_left_out_is_not() {
    let check = |spec: Value| read::<SubAccount>(object("SubAccount", &spec)).spec.check().expect("an account").prepaid;
    let reference = serde_json::json!({"name": "a"});
    assert_eq!(check(serde_json::json!({"policyRef": reference})), None);
    assert_eq!(check(serde_json::json!({"policyRef": reference, "prepaid": {}})), Some(Default::default()));
    let spec =
        read::<SubAccount>(object("SubAccount", &serde_json::json!({"policyRef": reference, "prepaid": {}}))).spec;
    assert_eq!(serde_json::to_value(spec).expect("json")["prepaid"], serde_json::json!({}));
}

#[test]
fn no_more_grants_are_taken_than_a_message_can_look_at() {
    let grants = |count: usize| -> Vec<Value> {
        (0..count).map(|index| serde_json::json!({"id": format!("g{index}"), "credits": 1})).collect()
    };
    let check = |count| {
        let spec = serde_json::json!({"policyRef": {"name": "a"}, "prepaid": {"grants": grants(count)}});
        read::<SubAccount>(object("SubAccount", &spec)).spec.check().map(drop)
    };
    assert_eq!(check(64), Ok(()));
    assert_eq!(check(65).expect_err("too many").field, "spec.prepaid.grants");
    let accounts = all().into_iter().find(|crd| crd.spec.names.kind == "SubAccount").expect("the kind");
    let mut most = None;
    walk(&serde_json::to_value(&accounts).expect("json"), &mut |path, schema| {
        if path == ".spec.prepaid.grants" {
            most = schema["maxItems"].as_u64();
        }
    });
    assert_eq!(most, Some(64), "the schema and check() know the same bound");
}
