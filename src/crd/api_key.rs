//! `SubAccountApiKey`: one program or device, and the Secret with its login.

#![expect(clippy::duplicated_attributes, reason = "each printer column has a type and a path of its own")]

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::{SENDERS_FIX, SENDERS_RULE, check_time, is_false, sender_patterns};
use super::limit::{Cap, CheckedCap, CreditStatus, UsageStatus};
use super::problem::Problem;
use super::rate::RateLimit;
use super::reference::LocalRef;
use super::secret::{CheckedSecret, SecretSpec};
use crate::domain::credit::Rate;
use crate::domain::network;
use crate::domain::sender::SenderPattern;

/// One program or device that sends mail for an account. It becomes a Secret with SMTP credentials that a pod mounts.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "franking.io",
    version = "v1alpha1",
    kind = "SubAccountApiKey",
    doc = "One program or device that sends for a SubAccount: it becomes a Secret with SMTP credentials that a pod mounts.",
    plural = "subaccountapikeys",
    shortname = "sak",
    category = "franking",
    namespaced,
    status = "SubAccountApiKeyStatus",
    derive = "PartialEq",
    label("servicebinding.io/provisioned-service", "true"),
    selectable = ".spec.subAccountRef.name",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Sending", type_ = "string", json_path = ".status.sending"),
    printcolumn(name = "Account", type_ = "string", json_path = ".spec.subAccountRef.name"),
    printcolumn(name = "Username", type_ = "string", json_path = ".status.username"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.credits.used"),
    printcolumn(name = "Remaining", type_ = "integer", json_path = ".status.credits.remaining"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.binding.name", priority = 1),
    printcolumn(name = "Policy", type_ = "string", json_path = ".status.policy", priority = 1),
    printcolumn(name = "Networks", type_ = "integer", json_path = ".status.networks", priority = 1),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt", priority = 1),
    printcolumn(name = "Last used", type_ = "date", json_path = ".status.lastUsedAt", priority = 1)
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.plainListener) || !self.plainListener || (has(self.allowFrom) && self.allowFrom.size() > 0)"
).message("plainListener sends the password in clear text: name the networks that may use it in allowFrom"))]
#[x_kube(validation = Rule::new(
    "!has(self.secret) || !has(self.secret.existing) || !has(self.rotation) \
     || (!has(self.rotation.every) && !has(self.rotation.restartedAt))"
).message("secret.existing brings the password: leave rotation.every and rotation.restartedAt out, and change that Secret"))]
#[x_kube(validation = Rule::new(
    "(has(self.secret) && has(self.secret.type) ? self.secret.type : 'servicebinding.io/smtp') == \
     (has(oldSelf.secret) && has(oldSelf.secret.type) ? oldSelf.secret.type : 'servicebinding.io/smtp')"
).message("secret.type cannot be changed, because Kubernetes does not change the type of a Secret: make a new key"))]
pub struct SubAccountApiKeySpec {
    /// Account in this namespace that this key sends for. It cannot be changed; for another account, create a new key.
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("subAccountRef cannot be changed: make a new key for another account"))]
    pub sub_account_ref: LocalRef,
    /// Name for people, such as "printer on the seventh floor".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub label: Option<String>,
    /// Networks from which this key may be used, such as 10.1.2.0/24 or 2001:db8::1. Empty means from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 2, max = 43)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(net, isIP(net) || (isCIDR(net) && cidr(net) == cidr(net).masked()))")
            .message("write addresses and networks such as 10.1.2.3, 10.1.2.0/24 or 2001:db8::/32, with no bits set after the prefix")
    )]
    pub allow_from: Vec<String>,
    /// Senders that this key may use, such as alerts@example.com or *@example.com. They narrow what the account may use
    /// and never widen it. Empty means all that the account may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 320)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(SENDERS_RULE).message(SENDERS_FIX)
    )]
    pub allowed_senders: Vec<String>,
    /// True allows this key to log in without TLS on the relay's plain listener, for old devices. Requires allowFrom. The
    /// Secret then has the listener's plain-host and plain-port.
    #[serde(default, skip_serializing_if = "is_false")]
    pub plain_listener: bool,
    /// Limit on what this key may send in a period, within the limits of its account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<Cap>,
    /// Limit on how fast this key may send, within the limits of its account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Time at which this key stops working, in RFC 3339, such as 2027-01-01T00:00:00Z. Absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("format" = "date-time"))]
    pub expires_at: Option<String>,
    /// True stops this key within a second. The Secret stays, and false makes the same password work again: if a
    /// password has leaked, create a new key.
    #[serde(default, skip_serializing_if = "is_false")]
    pub revoked: bool,
    /// Rotation of the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Layout of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretSpec>,
}

/// Rotation of the password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.every) || !self.every.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') || \
     (has(self.overlap) && !self.overlap.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$')) || \
     duration(self.every) > duration(has(self.overlap) ? self.overlap : '24h')"
).message("every is longer than overlap, which is 24h where absent: at most two passwords are valid at a time"))]
pub struct Rotation {
    /// Interval at which the password is changed automatically, from 1h to 8784h (a year), such as 720h. The old
    /// password keeps working for overlap, which must be shorter. Absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new(
        "self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && duration(self) >= duration('1h') \
         && duration(self) <= duration('8784h')"
    ).message("every is from 1h to 8784h, in hours, minutes and seconds, such as 720h"))]
    pub every: Option<String>,
    /// A time other than the last one changes the password now; use the present time in RFC 3339, for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("format" = "date-time"))]
    pub restarted_at: Option<String>,
    /// Time for which the old password keeps working, from 10m to 720h, such as 24h or 1h30m. 24h if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(validation = Rule::new(
        "self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && duration(self) >= duration('10m') \
         && duration(self) <= duration('720h')"
    ).message("overlap is from 10m to 720h, in hours, minutes and seconds, such as 24h or 1h30m"))]
    pub overlap: Option<String>,
    /// True lets a rotation start while the old password of the previous rotation still works. That old password then
    /// stops at once, because at most two are valid.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
}

/// Last observed state of the key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubAccountApiKeyStatus {
    /// Id in the ledger; it outlives this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36))]
    pub key_id: Option<String>,
    /// User name for SMTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 31))]
    pub username: Option<String>,
    /// Policy of the account, whose plan this key sends by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub policy: Option<String>,
    /// Number of networks in allowFrom. 0 means that the key may be used from anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub networks: Option<i64>,
    /// Current state of sending, for people: yes; no (the condition Ready gives the reason); no credits, and until
    /// when; no relay; upstream away. It is updated with a delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub sending: Option<String>,
    /// The metadata.generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Conditions: Ready, Accepted, Programmed; Reconciling and Stalled only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crd::condition::schema")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The Secret, where the Service Binding specification looks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<LocalRef>,
    /// Dates of the password; never the password itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialStatus>,
    /// Mail sent in the current period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageStatus>,
    /// Credits in the current period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits: Option<CreditStatus>,
    /// Messages that Franking refused because the key may not use their sender, or because their sender cannot be read.
    /// `usage.refused` counts what the upstream refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied_senders: Option<DeniedSendersStatus>,
    /// Time at which the key was last used, to the hour. If the password that was used was made within that hour, the
    /// time at which it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Time>,
    /// Time at which the figures were read. They are updated with a delay; the metrics have exact ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
}

/// Messages that were refused for their sender. Updated at most once an hour for each reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeniedSendersStatus {
    /// Messages since the key was created.
    #[schemars(range(min = 0))]
    pub messages: i64,
    /// Time of the last one.
    pub last_at: Time,
    /// Domain of its sender; absent if none could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub last_domain: Option<String>,
}

/// Dates of the password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// Time at which the password in the Secret was made.
    pub issued_at: Time,
    /// Time of the next change: when the password is rotation.every old, or when another rotation that waits for the
    /// end of the previous password may begin. Absent if no change is due, or if the key ends before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotates_at: Option<Time>,
    /// Time until which the previous password works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_valid_until: Option<Time>,
    /// The last rotation.restartedAt that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub restarted_at: Option<String>,
}

/// Default time for which the old password works after a rotation: a day covers a nightly deployment.
const OVERLAP_DEFAULT: SignedDuration = SignedDuration::from_hours(24);
/// Minimum overlap: pods read a changed Secret after up to two minutes, and a rolling restart takes a few more.
const OVERLAP_MIN: SignedDuration = SignedDuration::from_mins(10);
/// Maximum overlap, thirty days: a longer one is not a rotation any more but two passwords.
const OVERLAP_MAX: SignedDuration = SignedDuration::from_hours(720);
/// Minimum interval: with a shorter one, pods would do little else than read their Secrets again.
const EVERY_MIN: SignedDuration = SignedDuration::from_hours(1);
/// Maximum interval, a leap year.
const EVERY_MAX: SignedDuration = SignedDuration::from_hours(8784);

/// A key that passed the checks of its own fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedKey {
    /// Name of the account, in the key's namespace.
    pub account: String,
    pub allow_from: Vec<IpNet>,
    pub allowed_senders: Vec<SenderPattern>,
    pub plain_listener: bool,
    pub cap: Option<CheckedCap>,
    pub rate: Option<Rate>,
    pub expires_at: Option<Timestamp>,
    pub revoked: bool,
    pub rotation: CheckedRotation,
    pub secret: CheckedSecret,
}

/// Rotation of the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRotation {
    pub every: Option<SignedDuration>,
    pub restarted_at: Option<Timestamp>,
    pub overlap: SignedDuration,
    pub force: bool,
}

impl SubAccountApiKeySpec {
    /// Converts what a user wrote into what the rest of Franking works with; there is no other way. `name` is the
    /// object's.
    pub fn check(&self, name: &str) -> Result<CheckedKey, Problem> {
        let allow_from: Vec<IpNet> = self
            .allow_from
            .iter()
            .enumerate()
            .map(|(index, text)| {
                network::parse(text).map_err(|fix| Problem::new(format!("spec.allowFrom[{index}]"), fix))
            })
            .collect::<Result<_, _>>()?;
        if self.plain_listener && allow_from.is_empty() {
            return Err(Problem::new(
                "spec.allowFrom",
                "plainListener sends the password in clear text; name the networks that may use it",
            ));
        }
        let secret = self.secret.clone().unwrap_or_default().check(name)?;
        let rotation = self.rotation.clone().unwrap_or_default().check()?;
        if secret.existing.is_some() && (rotation.every.is_some() || rotation.restarted_at.is_some()) {
            let fix =
                "leave every and restartedAt out; the password is that of spec.secret.existing, so change that Secret";
            return Err(Problem::new("spec.rotation", fix));
        }
        Ok(CheckedKey {
            account: self.sub_account_ref.check("spec.subAccountRef")?,
            allow_from,
            allowed_senders: sender_patterns(&self.allowed_senders)?,
            plain_listener: self.plain_listener,
            cap: self.cap.as_ref().map(|cap| cap.check("spec.cap")).transpose()?,
            rate: self.rate_limit.map(|rate| rate.check("spec.rateLimit")).transpose()?,
            expires_at: self.expires_at.as_deref().map(|text| check_time(text, "spec.expiresAt")).transpose()?,
            revoked: self.revoked,
            rotation,
            secret,
        })
    }
}

impl Rotation {
    fn check(&self) -> Result<CheckedRotation, Problem> {
        let wrong = || Problem::new("spec.rotation.overlap", "write a duration from 10m to 720h, such as 24h");
        let overlap = match &self.overlap {
            Some(text) => parse_duration(text).ok_or_else(wrong)?,
            None => OVERLAP_DEFAULT,
        };
        if !(OVERLAP_MIN..=OVERLAP_MAX).contains(&overlap) {
            return Err(wrong());
        }
        let every = self.every.as_deref().map(|text| check_every(text, overlap)).transpose()?;
        let restarted_at = self.restarted_at.as_deref();
        Ok(CheckedRotation {
            every,
            restarted_at: restarted_at.map(|text| check_time(text, "spec.rotation.restartedAt")).transpose()?,
            overlap,
            force: self.force,
        })
    }
}

fn check_every(text: &str, overlap: SignedDuration) -> Result<SignedDuration, Problem> {
    let wrong = |fix| Problem::new("spec.rotation.every", fix);
    let every = parse_duration(text).filter(|every| (EVERY_MIN..=EVERY_MAX).contains(every));
    let every = every.ok_or_else(|| wrong("write a duration from 1h to 8784h, such as 720h"))?;
    if every <= overlap {
        return Err(wrong(
            "write a longer time than overlap (24h where absent): at most two passwords are valid at a time",
        ));
    }
    Ok(every)
}

/// Parses a Kubernetes duration of hours, minutes and seconds in this order: 24h, 1h30m, 600s.
fn parse_duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut total = SignedDuration::ZERO;
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((count, after)) = rest.split_once(unit) {
            // The number parser would accept a sign.
            let digits = count.bytes().all(|b| b.is_ascii_digit());
            let count: u32 = count.parse().ok().filter(|_| digits)?;
            total = total.checked_add(SignedDuration::from_secs(i64::from(count) * seconds))?;
            rest = after;
        }
    }
    (rest.is_empty() && !text.is_empty()).then_some(total)
}
