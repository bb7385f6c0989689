//! Fields of each spec whose changes the audit trail reports although no relay judges by them.
//!
//! Changes of what the directory holds anyway (caps, senders, networks, the upstream) are reported from there. Names
//! for people, notes and ids of other systems concern neither money, access nor senders.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{CreditPolicySpec, Rotation, SubAccountApiKeySpec, SubAccountSpec};
use crate::domain::settings::{Settings, digest_of};

impl CreditPolicySpec {
    /// Returns what the ledger keeps of the spec for the audit trail.
    pub fn settings(&self) -> Settings {
        let (each, alerts) = (self.per_account.as_ref(), self.alerts.as_ref());
        let email = alerts.and_then(|alerts| alerts.email.as_ref());
        let webhook = alerts.and_then(|alerts| alerts.webhook.as_ref());
        let namespaces = self.allowed_namespaces.as_ref();
        let (credentials, certificate) =
            (&self.upstream.credentials_secret_ref, &self.upstream.client_certificate_secret_ref);
        Settings::of([
            ("alerts.email.from", json!(email.map(|email| &email.from))),
            ("alerts.email.to", json!(email.map(|email| &email.to))),
            ("alerts.thresholdsPercent", thresholds(alerts.and_then(|alerts| alerts.thresholds_percent.as_deref()))),
            ("alerts.webhook.secretRef", json!(webhook.map(|webhook| &webhook.secret_ref.name))),
            ("alerts.webhook.url", json!(webhook.map(|webhook| without_path(&webhook.url)))),
            ("allowedNamespaces.from", json!(namespaces.map(|allowed| allowed.from))),
            ("allowedNamespaces.selector", json!(namespaces.map(|allowed| &allowed.selector))),
            ("perAccount.allowedSenders", json!(each.map(|each| each.allowed_senders))),
            ("perAccount.defaultCap", json!(each.map(|each| &each.default_cap))),
            ("perAccount.maxAccountsPerNamespace", json!(each.map(|each| each.max_accounts_per_namespace))),
            ("perAccount.maxCap", json!(each.map(|each| &each.max_cap))),
            ("perAccount.prepaid", json!(each.map(|each| each.prepaid))),
            ("perAccount.rateLimit", json!(each.map(|each| each.rate_limit))),
            ("perAccount.spendLimit", json!(each.map(|each| each.spend_limit))),
            ("upstream.clientCertificateSecretRef", json!(certificate.as_ref().map(|secret| &secret.name))),
            ("upstream.credentialsSecretRef", json!(credentials.as_ref().map(|secret| &secret.name))),
        ])
    }
}

impl SubAccountSpec {
    /// Returns what the ledger keeps of the spec for the audit trail.
    pub fn settings(&self) -> Settings {
        let email = self.alerts.as_ref().and_then(|alerts| alerts.email.as_ref());
        Settings::of([
            ("alerts.email.to", json!(email.map(|email| &email.to))),
            ("deletionPolicy", json!(self.deletion_policy)),
        ])
    }
}

impl SubAccountApiKeySpec {
    /// Returns what the ledger keeps of the spec for the audit trail.
    pub fn settings(&self) -> Settings {
        let rotation = self.rotation.as_ref();
        let force = rotation.is_some_and(|rotation: &Rotation| rotation.force);
        let secret = self.secret.as_ref();
        let metadata = secret.and_then(|secret| secret.metadata.as_ref());
        let existing = secret.and_then(|secret| secret.existing.as_ref());
        Settings::of([
            ("rotation.every", json!(rotation.map(|rotation| &rotation.every))),
            ("rotation.force", switch(force)),
            ("rotation.overlap", json!(rotation.map(|rotation| &rotation.overlap))),
            ("rotation.restartedAt", json!(rotation.map(|rotation| &rotation.restarted_at))),
            ("secret.adopt", switch(secret.is_some_and(|secret| secret.adopt))),
            ("secret.existing.key", json!(existing.map(|existing| &existing.key))),
            ("secret.existing.name", json!(existing.map(|existing| &existing.name))),
            ("secret.metadata.annotations", digests(metadata.map(|metadata| &metadata.annotations))),
            ("secret.metadata.labels", texts(metadata.map(|metadata| &metadata.labels))),
            ("secret.name", json!(secret.map(|secret| &secret.name))),
            ("secret.presets", json!(secret.map(|secret| &secret.presets))),
            ("secret.template", digests(secret.map(|secret| &secret.template))),
        ])
    }
}

/// Returns null for false, because an absent switch means the same.
fn switch(on: bool) -> Value {
    if on { json!(true) } else { Value::Null }
}

/// Returns the percentages. An empty list differs from an absent one, which means the usual ones.
fn thresholds(percents: Option<&[i32]>) -> Value {
    match percents {
        Some([]) => json!("none"),
        percents => json!(percents),
    }
}

fn texts(texts: Option<&BTreeMap<String, String>>) -> Value {
    texts.filter(|texts| !texts.is_empty()).map_or(Value::Null, |texts| json!(texts))
}

/// Returns the names, each with a digest of its text: tenants write what they like into the texts.
fn digests(texts: Option<&BTreeMap<String, String>>) -> Value {
    let shown = |texts: &BTreeMap<String, String>| -> Vec<String> {
        texts.iter().map(|(name, text)| format!("{name} {}", digest_of(text))).collect()
    };
    json!(texts.filter(|texts| !texts.is_empty()).map(shown))
}

/// Returns the URL without its path, because the hooks of chat systems carry their secret there.
fn without_path(url: &str) -> String {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest).split(['/', '?', '#']).next().unwrap_or_default();
    format!("https://{host}/… {}", digest_of(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: Value) -> Settings {
        let mut whole = json!({"upstream": {"host": "smtp.example.com"}});
        let fields = spec.as_object().expect("an object").clone();
        whole.as_object_mut().expect("an object").extend(fields);
        serde_json::from_value::<CreditPolicySpec>(whole).expect("a spec").settings()
    }

    #[test]
    fn a_webhook_shows_its_host_and_that_it_changed_and_nothing_of_its_path() {
        let hook = |url: &str| {
            let settings = policy(json!({"alerts": {"webhook": {"url": url, "secretRef": {"name": "hook"}}}}));
            settings.get("alerts.webhook.url").and_then(Value::as_str).expect("a text").to_owned()
        };
        let (one, two) = (hook("https://hooks.example.com/T0/SECRET-1"), hook("https://hooks.example.com/T0/SECRET-2"));
        assert!(one.starts_with("https://hooks.example.com/… (digest ") && !one.contains("SECRET"), "{one}");
        assert_ne!(one, two);
        assert!(hook("https://hooks.example.com?token=x").starts_with("https://hooks.example.com/… "));
    }

    #[test]
    fn what_a_key_writes_into_its_secret_is_told_by_its_keys_alone() {
        let spec = json!({
            "subAccountRef": {"name": "shop"},
            "rotation": {"every": "720h"},
            "secret": {"adopt": true, "template": {"DSN": "smtp://{{ .username }}:hunter2@x"}},
        });
        let settings = serde_json::from_value::<SubAccountApiKeySpec>(spec).expect("a spec").settings();
        let fields: Vec<&str> = settings.fields().collect();
        assert_eq!(fields, ["rotation.every", "secret.adopt", "secret.template"]);
        let template = settings.get("secret.template").expect("it").to_string();
        assert!(template.contains("DSN (digest ") && !template.contains("hunter2"), "{template}");
    }

    #[test]
    fn each_field_of_a_plan_that_is_worth_money_is_kept() {
        let settings = policy(json!({
            "perAccount": {"maxCap": {"credits": 5}, "prepaid": "Required", "maxAccountsPerNamespace": 2},
            "alerts": {"thresholdsPercent": [], "email": {"to": ["ops@example.com"]}},
            "allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"mail": "yes"}}},
        }));
        assert_eq!(settings.get("perAccount.prepaid"), Some(&json!("Required")));
        assert_eq!(settings.get("perAccount.maxAccountsPerNamespace"), Some(&json!(2)));
        assert_eq!(settings.get("alerts.thresholdsPercent"), Some(&json!("none")));
        assert_eq!(settings.get("alerts.email.to"), Some(&json!(["ops@example.com"])));
        assert_eq!(settings.get("allowedNamespaces.selector"), Some(&json!({"matchLabels": {"mail": "yes"}})));
        assert_eq!(policy(json!({})), Settings::default());
    }
}
