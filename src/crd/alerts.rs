//! Alerts when credits run short.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::reference::LocalRef;
use crate::domain::alert::Thresholds;
use crate::domain::sender::Address;
use crate::domain::webhook::HookUrl;

/// Maximum addresses of one notice to the policy's people: each is a transaction with the smarthost.
const RECIPIENTS_MAX: usize = 10;
/// Maximum addresses of one notice to an account's people: the platform's smarthost sends to them.
const ACCOUNT_RECIPIENTS_MAX: usize = 5;
/// Admission's rule: a bare address has no characters that structure a header or a command (RFC 5322 §3.4). `check()`
/// tests the rest.
const ADDRESSES_RULE: &str =
    r#"self.all(address, address.matches('^[^@\\s<>,;:\\x00-\\x1f\\x7f]+@[^@\\s<>,;:\\x00-\\x1f\\x7f]+$'))"#;
const ADDRESSES_FIX: &str = "write bare mail addresses such as ops@example.com";
/// Maximum thresholds of one limit. Four are usual.
const THRESHOLDS_MAX: usize = 10;

/// Alerts when the pool, prepaid credits or an account's cap, prepaid credits or spend limit run short. Kubernetes
/// Events are written even if this is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alerts {
    /// Percentages of a limit at which an alert is sent, each once in a period; if several are passed at once, only for
    /// the highest. 50, 75, 90 and 100 if absent; an empty list sends no alerts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10), inner(range(min = 1, max = 100)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub thresholds_percent: Option<Vec<i32>>,
    /// Alerts by mail, sent through the policy's own upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<AlertEmail>,
    /// Alerts by a signed HTTP request (Standard Webhooks).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<AlertWebhook>,
}

/// Mail to the people who look after the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertEmail {
    /// Addresses of the recipients.
    #[schemars(length(min = 1, max = 10), inner(length(min = 3, max = 320)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(ADDRESSES_RULE).message(ADDRESSES_FIX)
    )]
    pub to: Vec<String>,
    /// Sender address; the smarthost must accept mail from it. If absent, franking@ and the first of senders.domains,
    /// or franking@ and the relay's host name if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 320))]
    #[x_kube(validation = Rule::new(r"self.matches('^[^@\\s<>]+@[^@\\s<>]+$')")
        .message("write a bare mail address such as franking@example.com"))]
    pub from: Option<String>,
}

/// Notices to the account's own people when its cap, its prepaid credits or its spend limit run short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountAlerts {
    /// Mail at 75, 90 and 100 % of a limit, and when it is used up, each once in a period; if several are passed at
    /// once, only for the highest. It is sent through the upstream of the account's policy, from the sender address of
    /// the policy's alerts, and costs no credits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<AccountAlertEmail>,
}

/// Mail to the people of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountAlertEmail {
    /// Addresses of the recipients, at most five.
    #[schemars(length(min = 1, max = 5), inner(length(min = 3, max = 320)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(ADDRESSES_RULE).message(ADDRESSES_FIX)
    )]
    pub to: Vec<String>,
}

/// Destination of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertWebhook {
    /// An https URL, such as https://hooks.example.com/franking. Redirects are not followed.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new(r"self.matches('^https://[^\\s/@?#]+([/?][^\\s#]*)?$')")
        .message("write an https address such as https://hooks.example.com/franking, without user or fragment"))]
    pub url: String,
    /// Secret in the operator's namespace with the key secret (whsec_ and base64, or 24 to 64 characters, shared with
    /// the receiver) and, for a private CA, ca.crt. It must carry the label franking.io/use: "true".
    pub secret_ref: LocalRef,
}

/// Alerts that passed the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedAlerts {
    pub thresholds: Thresholds,
    pub mail: Option<CheckedMail>,
    pub webhook: Option<CheckedWebhook>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedMail {
    pub to: Vec<Address>,
    pub from: Option<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedWebhook {
    pub url: HookUrl,
    /// Name of the Secret in the operator's namespace.
    pub secret: String,
}

impl Alerts {
    pub(super) fn check(&self, field: &str) -> Result<CheckedAlerts, Problem> {
        let thresholds = match &self.thresholds_percent {
            None => Thresholds::default(),
            Some(percents) => {
                let wrong = |fix: String| Problem::new(format!("{field}.thresholdsPercent"), fix);
                if percents.len() > THRESHOLDS_MAX {
                    return Err(wrong(format!("write at most {THRESHOLDS_MAX} percentages")));
                }
                Thresholds::new(percents.iter().copied()).map_err(wrong)?
            }
        };
        let mail = self.email.as_ref().map(|email| email.check(&format!("{field}.email"))).transpose()?;
        let webhook = self.webhook.as_ref().map(|webhook| webhook.check(&format!("{field}.webhook"))).transpose()?;
        Ok(CheckedAlerts { thresholds, mail, webhook })
    }
}

impl AlertEmail {
    fn check(&self, field: &str) -> Result<CheckedMail, Problem> {
        Ok(CheckedMail {
            to: addresses(&self.to, RECIPIENTS_MAX, &format!("{field}.to"))?,
            from: self.from.as_ref().map(|text| address(text, format!("{field}.from"))).transpose()?,
        })
    }
}

impl AccountAlerts {
    /// Checks the addresses and returns them; none without mail.
    pub(super) fn check(&self, field: &str) -> Result<Vec<Address>, Problem> {
        let Some(email) = &self.email else { return Ok(Vec::new()) };
        addresses(&email.to, ACCOUNT_RECIPIENTS_MAX, &format!("{field}.email.to"))
    }
}

fn addresses(to: &[String], max: usize, field: &str) -> Result<Vec<Address>, Problem> {
    if to.is_empty() || to.len() > max {
        return Err(Problem::new(field, format!("write 1 to {max} addresses")));
    }
    to.iter().enumerate().map(|(index, text)| address(text, format!("{field}[{index}]"))).collect()
}

/// Parses an address. The error does not repeat it, because it goes into conditions, Events and the log.
fn address(text: &str, field: String) -> Result<Address, Problem> {
    Address::parse(text).map_err(|_| Problem::new(field, "write a bare mail address such as ops@example.com"))
}

impl AlertWebhook {
    fn check(&self, field: &str) -> Result<CheckedWebhook, Problem> {
        let url = HookUrl::parse(&self.url).map_err(|fix| Problem::new(format!("{field}.url"), fix))?;
        Ok(CheckedWebhook { url, secret: self.secret_ref.check(&format!("{field}.secretRef"))? })
    }
}
