//! What the people of `examples/company/` and `examples/prepaid/` may do and may not, as these users on a real API server.

use serde_json::json;

use crate::examples::folder;
use crate::support::chart::utf8;
use crate::support::franking::eventually;
use crate::tenants::{Cluster, User, refused, resource};

const SOON: std::time::Duration = std::time::Duration::from_secs(60);

/// Tries a merge patch of the spec as this user, as a dry run at the server.
fn patch(cluster: &Cluster, user: &User, what: [&str; 3], spec: &serde_json::Value) -> Result<String, String> {
    let [kind, namespace, name] = what;
    let spec = json!({"spec": spec}).to_string();
    cluster.run(user, &["patch", kind, name, "-n", namespace, "--type=merge", "-p", &spec, "--dry-run=server"], "")
}

fn create(cluster: &Cluster, user: &User, object: &serde_json::Value) -> Result<String, String> {
    cluster.run(user, &["create", "--dry-run=server", "-f", "-"], &object.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_of_the_company_does_what_the_page_says_and_no_more() {
    let cluster = Cluster::install().await;
    cluster.applied_as_admin(&["--filename", &utf8(&folder().join("company"))]);
    let key = |namespace: &str| {
        resource("SubAccountApiKey", namespace, "more", &json!({"subAccountRef": {"name": namespace}}))
    };
    let account =
        |namespace: &str| resource("SubAccount", namespace, "second", &json!({"policyRef": {"name": "company"}}));
    let may_not_read_secrets = |user: &User| {
        refused(cluster.run(user, &["get", "secrets", "-n", "sales"], ""), &["secrets"]);
        refused(cluster.run(user, &["get", "secrets", "-n", "support"], ""), &["secrets"]);
    };

    let platform = User::in_groups("pat", &["platform-team"]);
    patch(&cluster, &platform, ["creditpolicy", "", "company"], &json!({"pool": {"credits": 20000}})).expect("plans");
    create(&cluster, &platform, &account("sales")).expect("accounts");
    patch(&cluster, &platform, ["subaccount", "sales", "sales"], &json!({"suspended": true})).expect("suspension");
    may_not_read_secrets(&platform);

    let seller = User::new("seller");
    cluster.bind("sales", "edit", &seller);
    let sales = utf8(&folder().join("company/3-sales.yaml"));
    eventually("the role edit to have its keys", SOON, || {
        cluster.run(&seller, &["apply", "--dry-run=server", "-f", &sales], "").ok()
    });
    refused(patch(&cluster, &seller, ["subaccount", "sales", "sales"], &json!({"displayName": "X"})), &["subaccounts"]);

    let ada = User::new("ada@example.com");
    create(&cluster, &ada, &key("sales")).expect("the manager's keys");
    cluster.run(&ada, &["delete", "subaccountapikey", "agency", "-n", "sales", "--dry-run=server"], "").expect("hers");
    let named = json!({"subAccountRef": {"name": "sales"}, "secret": {"name": "other"}});
    refused(create(&cluster, &ada, &resource("SubAccountApiKey", "sales", "more", &named)), &["spec.secret.name"]);
    refused(create(&cluster, &ada, &key("support")), &["subaccountapikeys"]);
    refused(patch(&cluster, &ada, ["subaccount", "sales", "sales"], &json!({"displayName": "X"})), &["subaccounts"]);
    may_not_read_secrets(&ada);

    let lin = User::new("lin@agency.example");
    let of =
        |account: &str| resource("SubAccountApiKey", "sales", "campaign", &json!({"subAccountRef": {"name": account}}));
    create(&cluster, &lin, &of("newsletter")).expect("the keys of its account");
    refused(create(&cluster, &lin, &of("sales")), &["create on subaccounts/keys (franking.io) named \"sales\""]);
    let agency = ["subaccountapikey", "sales", "agency"];
    refused(patch(&cluster, &lin, agency, &json!({"revoked": true})), &["update on subaccounts/keys", "\"sales\""]);
    let delete = ["delete", "subaccountapikey", "agency", "-n", "sales", "--dry-run=server"];
    refused(cluster.run(&lin, &delete, ""), &["delete on subaccounts/keys", "\"sales\""]);
    cluster.run(&lin, &["get", "subaccounts,subaccountapikeys", "-n", "sales"], "").expect("to look");
    for account in ["newsletter", "sales"] {
        let spec = json!({"displayName": "X"});
        refused(patch(&cluster, &lin, ["subaccount", "sales", account], &spec), &["subaccounts"]);
    }
    refused(create(&cluster, &lin, &key("support")), &["subaccountapikeys"]);
    may_not_read_secrets(&lin);

    let grace = User::new("grace@example.com");
    let support = ["subaccount", "support", "support"];
    create(&cluster, &grace, &key("support")).expect("the administrator's keys");
    patch(&cluster, &grace, support, &json!({"displayName": "Help", "cap": {"credits": 7000}})).expect("name and cap");
    for (field, value) in [
        ("allowedSenders", json!(["sales@example.com"])),
        ("suspended", json!(true)),
        ("alerts", json!({"email": {"to": ["grace@example.com"]}})),
    ] {
        refused(patch(&cluster, &grace, support, &json!({field: value})), &[&format!("spec.{field}"), "grant"]);
    }
    refused(create(&cluster, &grace, &account("support")), &["the verb use"]);
    let delete = ["delete", "subaccount", "support", "-n", "support", "--dry-run=server"];
    refused(cluster.run(&grace, &delete, ""), &["you may not delete"]);
    refused(create(&cluster, &grace, &key("sales")), &["subaccountapikeys"]);
    may_not_read_secrets(&grace);

    let controlling = User::in_groups("carl", &["controlling"]);
    cluster.run(&controlling, &["get", "subaccounts,subaccountapikeys", "-n", "sales"], "").expect("to look");
    refused(create(&cluster, &controlling, &key("sales")), &["subaccountapikeys"]);
    refused(cluster.run(&controlling, &["get", "subaccounts", "-n", "support"], ""), &["subaccounts"]);
    may_not_read_secrets(&controlling);

    let finance = User::in_groups("fay", &["finance"]);
    let costs = "custom-columns=ACCOUNT:.metadata.name,COST:.status.cost";
    let costs = cluster.run(&finance, &["get", "subaccounts", "--all-namespaces", "--output", costs], "");
    assert!(costs.as_ref().is_ok_and(|costs| costs.contains("sales") && costs.contains("office")), "{costs:?}");
    cluster.run(&finance, &["get", "creditpolicy", "company"], "").expect("the plan");
    refused(cluster.run(&finance, &["get", "subaccountapikeys", "-n", "sales"], ""), &["subaccountapikeys"]);
    refused(
        patch(&cluster, &finance, ["subaccount", "sales", "sales"], &json!({"displayName": "X"})),
        &["subaccounts"],
    );
    refused(create(&cluster, &finance, &key("sales")), &["subaccountapikeys"]);
    may_not_read_secrets(&finance);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_system_sells_to_a_new_customer_and_customers_give_themselves_nothing() {
    let cluster = Cluster::install().await;
    cluster.applied_as_admin(&["--filename", &utf8(&folder().join("prepaid"))]);
    let shop = User::new("system:serviceaccount:billing:shop-system");
    let customers = std::fs::read_to_string(folder().join("prepaid/2-customers.yaml")).expect("the customers");
    let new = customers.replace("bakery", "florist").replace("theatre", "cinema");
    for _ in 0..2 {
        cluster.run(&shop, &["apply", "-f", "-"], &new).expect("the shop system makes customers");
    }
    let order = |account: &str| {
        let patch = r#"[{"op": "add", "path": "/spec/prepaid/grants/-", "value": {"id": "order-9", "credits": 1000}}]"#;
        ["patch", "subaccount", account, "-n", account, "--type=json", "-p", patch].map(str::to_owned)
    };
    let ordered = |user: &User, account: &str| {
        let arguments = order(account);
        cluster.run(user, &arguments.each_ref().map(String::as_str), "")
    };
    ordered(&shop, "florist").expect("an order");
    let cancelled = r#"[{"op": "remove", "path": "/spec/prepaid/grants/2"}]"#;
    let cancel = ["patch", "subaccount", "florist", "-n", "florist", "--type=json", "-p", cancelled];
    cluster.run(&shop, &cancel, "").expect("a cancelled order");
    patch(&cluster, &shop, ["subaccount", "cinema", "cinema"], &json!({"spendLimitMinor": 5000})).expect("a limit");

    refused(cluster.run(&shop, &["get", "secrets", "-n", "florist"], ""), &["secrets"]);
    refused(patch(&cluster, &shop, ["creditpolicy", "", "hosting"], &json!({"overage": "Deny"})), &["creditpolicies"]);
    refused(cluster.run(&shop, &["delete", "namespace", "florist", "--dry-run=server"], ""), &["namespaces"]);
    refused(cluster.run(&shop, &["label", "namespace", "florist", "a=b"], ""), &["namespaces"]);
    let other = resource("SubAccount", "florist", "other", &json!({"policyRef": {"name": "other"}}));
    refused(create(&cluster, &shop, &other), &["creditpolicies/other"]);

    for (customer, other) in [("bakery", "theatre"), ("theatre", "bakery")] {
        let user = User::in_groups(&format!("people-of-the-{customer}"), &[customer, "customers"]);
        let account = ["subaccount", customer, customer];
        patch(&cluster, &user, account, &json!({"displayName": "Another"})).expect("its own name");
        let key = resource("SubAccountApiKey", customer, "till", &json!({"subAccountRef": {"name": customer}}));
        create(&cluster, &user, &key).expect("its own keys");
        refused(ordered(&user, other), &["subaccounts"]);
        for (field, value) in [
            ("prepaid", json!({"recurring": {"credits": 90_000, "every": "Month"}})),
            ("spendLimitMinor", json!(9_000_000)),
            ("allowedSenders", json!(["another@hosted.example.com"])),
            ("rateLimit", json!({"messages": 9, "per": "Minute"})),
        ] {
            refused(patch(&cluster, &user, account, &json!({field: value})), &[&format!("spec.{field}"), "grant"]);
        }
        let delete = ["delete", "subaccount", customer, "-n", customer, "--dry-run=server"];
        refused(cluster.run(&user, &delete, ""), &["you may not delete"]);
    }
}
