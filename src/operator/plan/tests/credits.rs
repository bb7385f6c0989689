//! Credits and money: how they reach the directory, what status shows of them, and which Events report them.

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::crd::{CreditPolicyStatus, Reason, SubAccountStatus};
use crate::domain::credit::{Limit, Lot, Overage, Rate};
use crate::domain::directory::PolicyEntry;
use crate::domain::id::Holder;
use crate::ledger::store::{Balance, PrepaidBalance, SpendBalance, Usage};
use crate::operator::plan::gauge::Gauge;

pub(super) fn balance(holder: Holder, granted: Option<i64>, used: i64) -> Balance {
    let limit = Limit { credits: granted, calendar: Calendar::monthly_utc() };
    let window = limit.calendar.window(now());
    let mut lot = Lot::of_period(holder, window, granted);
    lot.charge(used);
    Balance { lot, usage: Usage::default(), overage: Overage::Deny, prepaid: None, spend: None }
}

pub(super) fn of_account(granted: Option<i64>, used: i64) -> Balance {
    balance(Holder::Account(AccountId(Uuid::from_u128(2))), granted, used)
}

fn prepaid(granted: i64, remaining: i64, next_top_up: Option<&str>) -> Option<PrepaidBalance> {
    let next_top_up = next_top_up.map(|at| at.parse().expect("a time"));
    Some(PrepaidBalance { granted, remaining, next_top_up, next_expiry: None })
}

fn put_account(account: &SubAccount, seen: &sub_account::Observed) -> AccountEntry {
    let plan = sub_account::plan(account, seen, now());
    let Some(Entry::Account(entry)) = entries(&plan).first().copied().cloned() else { panic!("an account is put") };
    entry
}

/// Returns the status of an accepted account with these specs and this balance, and its notices.
fn shown(
    account: &mut SubAccount,
    policy_spec: &Value,
    balance: &Balance,
) -> (SubAccountStatus, Vec<(Reason, String)>) {
    let mut seen = seen_account(Some(policy(policy_spec.clone())));
    seen.entry = Some(put_account(account, &seen));
    seen.gauge = Some(Gauge::of(balance));
    let plan = sub_account::plan(account, &seen, now());
    assert!(!plan.repeat_pass && plan.steps.is_empty(), "{:?}", plan.steps);
    account.status = plan.status.clone();
    let notices = plan.events.into_iter().map(|notice| (notice.reason, notice.note)).collect();
    (plan.status.expect("a status"), notices)
}

#[test]
fn what_an_account_has_of_money_is_in_the_directory() {
    let pricing = json!({"currency": "EUR", "pricePerThousandMinor": 80});
    let ceiling = json!({"messages": 60, "per": "Minute"});
    let plan = json!({"pricing": pricing, "perAccount": {"rateLimit": ceiling}});
    let spec = json!({
        "prepaid": {"grants": [{"id": "one", "credits": 5}]}, "spendLimitMinor": 3,
        "rateLimit": {"messages": 2, "per": "Second"}
    });
    let entry = put_account(&account(spec), &seen_account(Some(policy(plan.clone()))));
    assert_eq!(entry.prepaid.expect("prepaid").grants[0].credits, 5);
    assert_eq!(entry.spend_limit_micro, Some(3_000_000));
    assert_eq!(entry.rate, Some(Rate { messages: 60, per_seconds: 60 }), "the slower of the two");
    let entry = put_account(&account(json!({})), &seen_account(Some(policy(plan))));
    assert_eq!((entry.prepaid, entry.spend_limit_micro), (None, None));
    assert_eq!(entry.rate, Some(Rate { messages: 60, per_seconds: 60 }), "the policy's holds for who names none");
}

#[test]
fn a_key_has_its_own_rate_and_the_policy_its_credits_and_prices() {
    let mut scene = Scene::new(json!({"rateLimit": {"messages": 3, "per": "Hour"}}));
    let plan = scene.plan();
    let Entry::Key(key) = entries(&plan)[0] else { panic!("a key is put") };
    assert_eq!(key.rate, Some(Rate { messages: 3, per_seconds: 3_600 }));

    let spec = json!({"overage": "Allow", "pricing": {"currency": "EUR"}, "prepaid": {}});
    let entry = put_policy(&policy(spec));
    assert_eq!((entry.overage, entry.prepaid), (Overage::Allow, Some(Default::default())));
    assert_eq!(entry.pricing.map(|pricing| (pricing.base_price_minor, pricing.currency)), Some((0, "EUR".into())));
}

pub(super) fn seen_policy(entry: Option<PolicyEntry>, balance: Option<&Balance>) -> credit_policy::Observed {
    credit_policy::Observed {
        config_hash: None,
        cost: Default::default(),
        id: PolicyId(Uuid::from_u128(1)),
        entry,
        login: Login::None,
        namespace: "franking".into(),
        gauge: balance.map(Gauge::of),
        accounts: AccountCounts::default(),
        limited: Default::default(),
        users: Vec::new(),
        endpoint: endpoint(),
        relay: Default::default(),
        sightings: None,
        orphans: None,
        ledger_ahead: None,
        figures_permitted: false,
    }
}

fn put_policy(policy: &CreditPolicy) -> PolicyEntry {
    let plan = credit_policy::plan(policy, &seen_policy(None, None), now());
    let Some(Entry::Policy(entry)) = entries(&plan).first().copied().cloned() else { panic!("a policy is put") };
    entry
}

#[test]
fn overage_is_shown_whichever_way_a_policy_came_to_it() {
    let overage = |plan: Plan<CreditPolicyStatus>| plan.status.expect("a status").credits.expect("credits").overage;
    let capped = |more: Value| {
        let mut spec = json!({"pool": {"credits": 10}});
        spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        policy(spec)
    };
    let (denies, allows) = (capped(json!({})), capped(json!({"overage": "Allow"})));
    let balance = |overage| Balance { overage, ..balance(Holder::Policy(PolicyId(Uuid::from_u128(1))), Some(10), 4) };
    assert_eq!(overage(credit_policy::plan(&allows, &seen_policy(None, None), now())), Some(0), "a new one");
    for (before, after, then, expected) in
        [(&denies, &allows, Overage::Allow, Some(0)), (&allows, &denies, Overage::Deny, None)]
    {
        let was = if then == Overage::Allow { Overage::Deny } else { Overage::Allow };
        let seen = seen_policy(Some(put_policy(before)), Some(&balance(was)));
        let mut edited = after.clone();
        edited.status = credit_policy::plan(before, &seen, now()).status;
        let seen = seen_policy(Some(put_policy(after)), Some(&balance(then)));
        assert_eq!(overage(credit_policy::plan(&edited, &seen, now())), expected, "an edited one");
    }
}

#[test]
fn a_changed_limit_is_looked_at_again_when_it_is_written_and_nothing_else_is() {
    let cases = [
        (json!({}), json!({"displayName": "x"}), false),
        (json!({}), json!({"suspended": true}), false),
        (json!({}), json!({"rateLimit": {"messages": 1, "per": "Day"}}), false),
        (json!({}), json!({"cap": {"credits": 5}}), true),
        (json!({"cap": {"credits": 5}}), json!({"cap": {"credits": 5, "period": "Daily"}}), true),
        (json!({}), json!({"prepaid": {}}), true),
        (json!({"prepaid": {}}), json!({"prepaid": {"grants": [{"id": "a", "credits": 1}]}}), true),
    ];
    for (before, after, again) in cases {
        let mut seen = seen_account(Some(policy(json!({}))));
        seen.entry = Some(put_account(&account(before), &seen));
        seen.gauge = Some(Gauge::of(&of_account(None, 0)));
        assert_eq!(sub_account::plan(&account(after.clone()), &seen, now()).repeat_pass, again, "{after}");
    }
    // For new accounts with nothing but a cap the figures are known; those of prepaid credits come from the ledger.
    let first = |spec| sub_account::plan(&account(spec), &seen_account(Some(policy(json!({})))), now()).repeat_pass;
    assert!(!first(json!({"cap": {"credits": 5}})) && first(json!({"prepaid": {}})));
}

#[test]
fn status_shows_the_least_of_all_limits_and_when_they_open() {
    let period_end = "2026-12-01T00:00:00Z";
    let pricing = json!({"pricing": {"currency": "EUR", "pricePerThousandMinor": 100}});
    let spend = |used_micro| Some(SpendBalance { limit_micro: 1_000_000, used_micro, unit_price: 100_000 });
    // The account's balance, and remaining, prepaid, reopensAt and spend of its status.
    type Expected<'a> = (Option<i64>, Option<i64>, Option<&'a str>, Option<(i64, i64)>);
    let cases: [(Balance, Expected<'_>); 6] = [
        (of_account(None, 7), (None, None, None, None)),
        (of_account(Some(10), 7), (Some(3), None, Some(period_end), None)),
        (
            Balance { prepaid: prepaid(9, 2, None), ..of_account(Some(10), 7) },
            (Some(2), Some(2), Some(period_end), None),
        ),
        (Balance { prepaid: prepaid(7, 0, None), ..of_account(Some(10), 7) }, (Some(0), Some(0), None, None)),
        (
            Balance { prepaid: prepaid(7, 0, Some("2026-11-23T00:00:00Z")), ..of_account(None, 7) },
            (Some(0), Some(0), Some("2026-11-23T00:00:00Z"), None),
        ),
        // 7 credits at 0.1 cent: fractions of a cent count as a whole.
        (Balance { spend: spend(700_000), ..of_account(None, 7) }, (Some(3), None, None, Some((1, 1)))),
    ];
    for (balance, expected) in cases {
        let (status, _) = shown(&mut account(json!({})), &pricing, &balance);
        let credits = status.credits.expect("credits");
        let reopens_at = credits.reopens_at.map(|at| at.0.to_string());
        let spend = status.spend.map(|spend| (spend.limit_minor, spend.used_minor));
        assert_eq!((credits.remaining, credits.prepaid, reopens_at.as_deref(), spend), expected, "{balance:?}");
    }
}

#[test]
fn the_end_of_credits_and_their_return_are_told_once_each() {
    let paid = |used, remaining| Balance { prepaid: prepaid(5, remaining, None), ..of_account(None, used) };
    let mut account = account(json!({"prepaid": {"grants": [{"id": "a", "credits": 5}]}}));
    let plan = json!({});
    // A first observation causes no notice, and neither does use.
    assert_eq!(shown(&mut account, &plan, &paid(0, 5)).1, []);
    assert_eq!(shown(&mut account, &plan, &paid(4, 1)).1, []);
    let (status, told) = shown(&mut account, &plan, &paid(5, 0));
    assert_eq!(status.credits.and_then(|credits| credits.remaining), Some(0), "written at once");
    assert!(
        matches!(&told[..], [(Reason::CreditsExhausted, note)] if note.contains("spec.prepaid.grants")),
        "{told:?}"
    );
    assert_eq!(shown(&mut account, &plan, &paid(5, 0)).1, []);
    let (status, told) = shown(&mut account, &plan, &paid(5, 3));
    assert_eq!(status.credits.and_then(|credits| credits.prepaid), Some(3), "written at once");
    assert!(matches!(&told[..], [(Reason::CreditsAvailable, note)] if note.ends_with('3')), "{told:?}");
}

#[test]
fn a_pool_that_is_exceeded_is_told_and_shown_as_overage() {
    let mut object = policy(json!({"pool": {"credits": 10}, "overage": "Allow"}));
    let entry = put_policy(&object);
    let mut look = |used: i64, over: i64| -> (CreditPolicyStatus, Vec<Reason>) {
        let mut seen = balance(Holder::Policy(PolicyId(Uuid::from_u128(1))), Some(10), used);
        (seen.lot.overage, seen.overage) = (over, Overage::Allow);
        let plan = credit_policy::plan(&object, &seen_policy(Some(entry.clone()), Some(&seen)), now());
        object.status = plan.status.clone();
        (plan.status.expect("a status"), plan.events.iter().map(|notice| notice.reason).collect())
    };
    assert_eq!(look(9, 0).1, []);
    let (status, told) = look(10, 3);
    let credits = status.credits.expect("credits");
    assert_eq!((credits.granted, credits.used, credits.remaining), (Some(10), 13, Some(0)));
    assert_eq!((credits.overage, told), (Some(3), vec![Reason::CreditsExhausted]));
    assert_eq!(look(10, 4).1, []);
    assert_eq!(look(2, 0).1, [Reason::CreditsAvailable]);
}

#[test]
fn an_account_that_lacks_what_its_policy_requires_is_strictest_and_says_so() {
    let pricing = json!({"currency": "EUR", "pricePerThousandMinor": 80});
    let required = json!({"pricing": pricing, "perAccount": {"prepaid": "Required", "spendLimit": "Required"}});
    let seen = seen_account(Some(policy(required)));
    let entry = put_account(&account(json!({})), &seen);
    assert_eq!((entry.prepaid, entry.spend_limit_micro), (Some(Default::default()), Some(0)));
    let sentence = |spec| {
        let status = sub_account::plan(&account(spec), &seen, now()).status.expect("a status");
        let ready = find_condition(&status.conditions, ConditionType::Ready).expect("Ready");
        (ready.status.clone(), ready.reason.clone(), ready.message.clone())
    };
    let (status, reason, message) = sentence(json!({}));
    assert_eq!((status.as_str(), reason.as_str()), ("False", "RequiredByPolicy"));
    assert!(message.contains("spec.prepaid") && message.contains("spec.spendLimitMinor"), "{message}");
    let (_, _, message) = sentence(json!({"prepaid": {}}));
    assert!(!message.contains("spec.prepaid") && message.contains("spec.spendLimitMinor"), "{message}");
    assert_eq!(sentence(json!({"prepaid": {}, "spendLimitMinor": 0})).2, "its settings permit sending");
    // Nor may it send as any sender if the policy requires it to list them.
    let seen = seen_account(Some(policy(json!({"perAccount": {"allowedSenders": "Required"}}))));
    assert_eq!(put_account(&account(json!({})), &seen).allowed_senders, Some(vec![]));
    let listed = put_account(&account(json!({"allowedSenders": ["a@example.com"]})), &seen);
    assert_eq!(listed.allowed_senders.map(|listed| listed.len()), Some(1));
    assert_eq!(put_account(&account(json!({})), &seen_account(Some(policy(json!({}))))).allowed_senders, None);
    // A requested suspension is reported first.
    assert_eq!(sentence(json!({"suspended": true})).1, "Suspended");
}

#[test]
fn a_policy_whose_accounts_are_limited_warns_until_somebody_decides_for_the_others() {
    let warning = |per_account: Value, prepaid, spend_limited| {
        let limited = credit_policy::LimitedAccounts { prepaid, spend_limited, narrowed: spend_limited };
        let seen = credit_policy::Observed { limited, ..seen_policy(None, None) };
        let spec = json!({"pricing": {"currency": "EUR"}, "perAccount": per_account});
        let status = credit_policy::plan(&policy(spec), &seen, now()).status.expect("a status");
        assert!(is_true(&status.conditions, ConditionType::Ready), "a warning turns nothing");
        let found = find_condition(&status.conditions, ConditionType::SelfServiceUnbounded)?;
        assert_eq!((found.status.as_str(), found.reason.as_str()), ("True", "SelfServiceUnbounded"));
        Some(found.message.clone())
    };
    assert_eq!(warning(json!({}), 0, 0), None);
    let both = warning(json!({}), 1, 1).expect("a warning");
    let fields = "set spec.perAccount.prepaid, spec.perAccount.spendLimit, spec.perAccount.allowedSenders to Required";
    assert!(both.contains(fields), "{both}");
    let one = warning(json!({"prepaid": "Required", "allowedSenders": "Optional"}), 1, 1).expect("a warning");
    assert!(one.contains("limited by spec.spendLimitMinor,") && !one.contains("spec.perAccount.prepaid"), "{one}");
    for decided in ["Required", "Optional"] {
        let all = json!({"prepaid": decided, "spendLimit": decided, "allowedSenders": decided});
        assert_eq!(warning(all, 3, 3), None);
    }
}

#[test]
fn a_currency_that_was_there_stays_whoever_forgot_it() {
    let priced = |currency: &str| policy(json!({"pricing": {"currency": currency}}));
    let entry = put_policy(&priced("EUR"));
    assert_eq!(entry.currency.as_deref(), Some("EUR"));
    let plan = |object: &CreditPolicy, entry: Option<PolicyEntry>| {
        credit_policy::plan(object, &seen_policy(entry, None), now())
    };
    // A removed currency is remembered, also for entries that were written before the field existed.
    let removed = plan(&policy(json!({})), Some(entry.clone()));
    let Entry::Policy(unpriced) = entries(&removed)[0].clone() else { panic!("a policy") };
    assert_eq!((unpriced.pricing.is_none(), unpriced.currency.as_deref()), (true, Some("EUR")));
    let older = PolicyEntry { currency: None, ..entry.clone() };
    for standing in [unpriced.clone(), older] {
        let refused = plan(&priced("JPY"), Some(standing));
        let status = refused.status.as_ref().expect("a status");
        assert_eq!((verdict(&status.conditions).as_str(), letters(&refused).as_str()), ("CurrencyChanged!", ""));
        assert_eq!(status.currency.as_deref(), Some("EUR"));
    }
    // A replaced ledger does not know it; the status does.
    let mut shown = priced("JPY");
    shown.status = removed.status.clone();
    assert_eq!(verdict(&plan(&shown, None).status.expect("a status").conditions), "CurrencyChanged!");
    assert!(credit_policy::valid_pricing(&shown).is_none());
    assert_eq!(letters(&plan(&priced("EUR"), Some(unpriced))), "P");
    // Its accounts wait, with their old entries.
    let mut seen = seen_account(Some(priced("JPY")));
    seen.policy.as_mut().expect("a policy").currency = Some("EUR".into());
    seen.entry = Some(put_account(&account(json!({})), &seen_account(Some(policy(json!({}))))));
    let waits = sub_account::plan(&account(json!({"spendLimitMinor": 5})), &seen, now());
    assert_eq!(verdict(&waits.status.as_ref().expect("a status").conditions), "PolicyNotReady");
    assert_eq!(letters(&waits), "");
}
