//! `spec.secret` of a key: the layout of the Secret that a pod mounts.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checks::is_false;
use super::problem::Problem;
use super::reference::{is_label_text, is_object_name, is_qualified_name};
use super::template::Template;

/// Default type of a Secret: the Service Binding specification's word for an SMTP binding.
pub const SECRET_TYPE: &str = "servicebinding.io/smtp";

/// Keys of the Secret that belong to Franking, written today or in the next releases. A template may not redefine them,
/// because the operator reads them back.
pub const SECRET_KEYS: [&str; 13] = [
    "type",
    "provider",
    "host",
    "port",
    "username",
    "password",
    "uri",
    "certificates",
    "account-id",
    "api-key",
    "api-url",
    "plain-host",
    "plain-port",
];

/// Keys that the preset `env` adds.
pub const ENV_KEYS: [&str; 7] =
    ["SMTP_HOST", "SMTP_PORT", "SMTP_USERNAME", "SMTP_PASSWORD", "SMTP_URL", "SMTP_CA", "SMTP_FROM"];

/// Layout of the Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.existing) || !has(self.name) || self.existing.name != self.name")
    .message("existing names a Secret of your own, which this key reads: name another one than the one that it writes"))]
#[x_kube(validation = Rule::new(
    "!has(self.presets) || !('env' in self.presets) || !has(self.template) || !self.template.exists(key, \
     key in ['SMTP_HOST', 'SMTP_PORT', 'SMTP_USERNAME', 'SMTP_PASSWORD', 'SMTP_URL', 'SMTP_CA', 'SMTP_FROM'])"
).message("the preset env writes the SMTP_ keys: leave them out of template, or leave out the preset"))]
pub struct SecretSpec {
    /// Name of the Secret. The name of this object if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("write the name of a Secret: lower-case letters, digits, - and ."))]
    pub name: Option<String>,
    /// Type of the Secret; it cannot be changed later. servicebinding.io/smtp if absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$')")
        .message("write the type of a Secret with letters, digits, -, _, . and /"))]
    #[x_kube(validation = Rule::new("self == 'kubernetes.io/basic-auth' || !self.contains('kubernetes.io/')")
        .message("Kubernetes gives Secrets of this type a meaning of their own: use servicebinding.io/smtp, Opaque, \
                  kubernetes.io/basic-auth or a type of your own"))]
    pub type_: Option<String>,
    /// True shares a Secret of this name that this key did not create: Franking adds its keys to those that are there.
    /// It never overwrites one: if the Secret already has one of Franking's keys, it is left alone, as any such Secret
    /// is if adopt is false, and the key waits with the reason SecretConflict. When this key is deleted, the added keys
    /// go and the Secret stays. Setting this requires the verbs create, update and delete on that Secret, because a
    /// missing one is created.
    #[serde(default, skip_serializing_if = "is_false")]
    pub adopt: bool,
    /// Labels and annotations of the Secret. Those of this object are not copied to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<SecretMetadata>,
    /// Presets of further keys: env adds SMTP_HOST, SMTP_PORT, SMTP_USERNAME, SMTP_PASSWORD and SMTP_URL, for envFrom,
    /// SMTP_CA (what `certificates` holds) if the relay's certificate is signed by a private CA, and SMTP_FROM if
    /// allowedSenders is one address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub presets: Vec<Preset>,
    /// Keys of your own, at most 32: the name of each key, and a text in which {{ .host }}, {{ .port }}, {{ .username
    /// }}, {{ .password }}, {{ .uri }}, {{ .certificates }}, {{ .accountId }}, {{ .plainHost }} and {{ .plainPort }} are
    /// replaced. Setting this requires the verbs create and update on the Secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = json!({"type": "string", "maxLength": 4096})))]
    #[x_kube(validation = Rule::new("self.all(key, key.matches('^[-._a-zA-Z0-9]{1,253}$'))")
        .message("name the keys of template with letters, digits, -, _ and ."))]
    #[x_kube(validation = Rule::new(
        r"self.all(key, self[key].matches('^(\\{?[^{]|\\{\\{\\s*\\.(host|port|username|password|uri|certificates|accountId|plainHost|plainPort)\\s*\\}\\})*\\{?$'))"
    ).message(
        "write only these fields into the texts of template: {{ .host }}, {{ .port }}, {{ .username }}, {{ .password }}, \
         {{ .uri }}, {{ .certificates }}, {{ .accountId }}, {{ .plainHost }}, {{ .plainPort }}"
    ))]
    #[x_kube(validation = Rule::new(
        "!self.exists(key, key in ['type', 'provider', 'host', 'port', 'username', 'password', 'uri', 'certificates', \
         'account-id', 'api-key', 'api-url', 'plain-host', 'plain-port'])"
    ).message(
        "type, provider, host, port, username, password, uri, certificates, account-id, api-key, api-url, plain-host \
         and plain-port are franking's own: choose other names for the keys of template"
    ))]
    pub template: BTreeMap<String, String>,
    /// A Secret of your own that brings the password, for a device whose password cannot be changed, or for a secrets
    /// manager. It is never written to; its changes are followed, and the password before works for
    /// rotation.overlap. Setting this requires the verb get on that Secret. If it is removed, the password stays until
    /// the next rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<ExistingSecret>,
}

/// A Secret that brings a password. It is in the namespace of the key and has the label franking.io/use: "true".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExistingSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("write the name of your Secret: lower-case letters, digits, - and ."))]
    pub name: String,
    /// Key of the password in it; password if absent. The password has 16 to 128 printable ASCII characters, without
    /// spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')")
        .message("write the key of a Secret: letters, digits, -, _ and ."))]
    pub key: Option<String>,
}

/// Labels and annotations of the Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretMetadata {
    /// Labels, at most 32. Those that Franking sets itself take precedence.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new("!self.exists(key, key.startsWith('franking.io/'))")
        .message("labels that begin with franking.io/ are franking's own"))]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = json!({"type": "string", "maxLength": 63})))]
    pub labels: BTreeMap<String, String>,
    /// Annotations, at most 32. Those that Franking sets itself take precedence.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new("!self.exists(key, key.startsWith('franking.io/'))")
        .message("annotations that begin with franking.io/ are franking's own"))]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = json!({"type": "string", "maxLength": 4096})))]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Preset {
    #[serde(rename = "env")]
    Env,
}

/// A layout of the Secret that passed the checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedSecret {
    pub name: String,
    pub type_: String,
    pub adopt: bool,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub presets: Vec<Preset>,
    pub template: BTreeMap<String, Template>,
    pub existing: Option<CheckedExisting>,
}

/// The place of a password of the user's own, in the key's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedExisting {
    pub name: String,
    pub key: String,
}

impl ExistingSecret {
    /// Checks the place. `own` is the name of the Secret that the key writes.
    fn check(&self, own: &str) -> Result<CheckedExisting, Problem> {
        let wrong = |fix| Problem::new("spec.secret.existing.name", fix);
        if !is_object_name(&self.name) {
            return Err(wrong("write the name of a Secret: lower-case letters, digits, - and ."));
        }
        if self.name == own {
            return Err(wrong("name another Secret; the key writes this one itself"));
        }
        let key = self.key.as_deref().unwrap_or("password");
        let is_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if key.is_empty() || key.len() > 253 || !key.bytes().all(is_key) {
            let fix = "write the key of a Secret: letters, digits, -, _ and .";
            return Err(Problem::new("spec.secret.existing.key", fix));
        }
        Ok(CheckedExisting { name: self.name.clone(), key: key.to_owned() })
    }
}

impl SecretSpec {
    /// Checks the layout. `key_name` is the name of the key's object, which is the Secret's default name.
    pub(super) fn check(&self, key_name: &str) -> Result<CheckedSecret, Problem> {
        let name = self.name.as_deref().unwrap_or(key_name);
        if !is_object_name(name) {
            return Err(Problem::new(
                "spec.secret.name",
                "write the name of a Secret: lower-case letters, digits, - and .",
            ));
        }
        let type_ = self.type_.as_deref().unwrap_or(SECRET_TYPE);
        if type_ != "kubernetes.io/basic-auth" && type_.contains("kubernetes.io/") {
            return Err(Problem::new(
                "spec.secret.type",
                "Kubernetes gives Secrets of this type a meaning of their own; use servicebinding.io/smtp, Opaque, \
                 kubernetes.io/basic-auth or a type of your own",
            ));
        }
        let metadata = self.metadata.clone().unwrap_or_default();
        check_metadata(&metadata)?;
        let mut presets = self.presets.clone();
        presets.sort_unstable();
        presets.dedup();
        Ok(CheckedSecret {
            name: name.to_owned(),
            type_: type_.to_owned(),
            adopt: self.adopt,
            labels: metadata.labels,
            annotations: metadata.annotations,
            presets,
            template: self.check_template()?,
            existing: self.existing.as_ref().map(|existing| existing.check(name)).transpose()?,
        })
    }

    fn check_template(&self) -> Result<BTreeMap<String, Template>, Problem> {
        self.template
            .iter()
            .map(|(key, text)| {
                let field = format!("spec.secret.template[{key}]");
                let well_formed = !key.is_empty()
                    && key.len() <= 253
                    && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
                if !well_formed {
                    return Err(Problem::new(field, "name the key with letters, digits, -, _ and ."));
                }
                if SECRET_KEYS.contains(&key.as_str()) {
                    return Err(Problem::new(field, "this key is franking's own; choose another name"));
                }
                if self.presets.contains(&Preset::Env) && ENV_KEYS.contains(&key.as_str()) {
                    return Err(Problem::new(field, "the preset env writes this key; leave out one of the two"));
                }
                let template = Template::parse(text).map_err(|fix| Problem::new(field, fix))?;
                Ok((key.clone(), template))
            })
            .collect()
    }
}

fn check_metadata(metadata: &SecretMetadata) -> Result<(), Problem> {
    let of = |part: &str, key: &str| format!("spec.secret.metadata.{part}[{key}]");
    for (part, map) in [("labels", &metadata.labels), ("annotations", &metadata.annotations)] {
        for key in map.keys() {
            if !is_qualified_name(key) {
                return Err(Problem::new(of(part, key), "write a key such as team or example.com/team"));
            }
            if key.starts_with("franking.io/") {
                return Err(Problem::new(of(part, key), "choose another prefix; this one is franking's own"));
            }
        }
    }
    for (key, value) in &metadata.labels {
        if !is_label_text(value) {
            let fix = "write a value of at most 63 letters, digits, -, _ and ., with a letter or digit at both ends";
            return Err(Problem::new(of("labels", key), fix));
        }
    }
    Ok(())
}
