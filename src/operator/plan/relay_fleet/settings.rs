//! Checks the ConfigMap's two entries. The settings that clients see are the relay's own ([`Fleet`]); this file defines
//! those of the pods.
//!
//! Kubernetes' own parts of a pod (affinity, tolerations and the like) are passed on unchanged: the API server
//! validates them strictly before anything is written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::names::{PODS, PRE_STOP_SECONDS, RELAY_SETTINGS, TLS_FOLDER};
use crate::runtime::fleet::{Certificates, Fleet};
use crate::runtime::settings_file::Refused;

/// Upper limit on relays for one ledger: fewer, larger ones make larger batches.
const REPLICAS_MAX: u16 = 64;
/// Seconds between the end of the drain and the end of the process, for its final ledger writes.
const BOOKS_SECONDS: u64 = 15;
/// Maximum octets read from one entry of the ConfigMap.
const TEXT_MAX: usize = 256 * 1024;

/// The settings that a fleet is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetSettings {
    pub fleet: Fleet,
    pub pods: Pods,
    /// The original texts, so that the last good ones can be kept.
    pub texts: [String; 2],
}

/// The settings of the pods and the disruption budget besides `relay.yaml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pods {
    pub replicas: u16,
    pub image: String,
    #[serde(default = "if_not_present")]
    pub image_pull_policy: String,
    #[serde(default)]
    pub image_pull_secrets: Vec<Value>,
    /// The selector of the Deployment, and of the chart's Service. It can never change.
    pub selector: BTreeMap<String, String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub pod_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub pod_annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub resources: Map<String, Value>,
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default)]
    pub tolerations: Vec<Value>,
    #[serde(default)]
    pub affinity: Map<String, Value>,
    #[serde(default)]
    pub topology_spread_constraints: Vec<Value>,
    #[serde(default)]
    pub priority_class_name: String,
    pub run_as_user: u32,
    pub termination_grace_period_seconds: u32,
    /// The user's own certificate, of type kubernetes.io/tls.
    #[serde(default)]
    pub certificate_secret: Option<String>,
    /// The same with an RSA key, for clients that support nothing else.
    #[serde(default)]
    pub rsa_certificate_secret: Option<String>,
    pub log: Log,
    pub telemetry: Telemetry,
    pub disruption_budget: DisruptionBudget,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Log {
    pub level: String,
    pub format: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Telemetry {
    pub address: std::net::SocketAddr,
    pub probes_address: std::net::SocketAddr,
}

impl Telemetry {
    /// Returns each address with the name of its setting.
    fn addresses(&self) -> [(&'static str, std::net::SocketAddr); 2] {
        [("telemetry.address", self.address), ("telemetry.probesAddress", self.probes_address)]
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DisruptionBudget {
    /// Relays that may be evicted at a time with their nodes: a number, or a share in per cent.
    pub max_unavailable: Value,
}

fn if_not_present() -> String {
    "IfNotPresent".to_owned()
}

/// Parses and checks the two texts. `fleet_of` reads the first as the relay does.
pub fn check(texts: [&str; 2], fleet_of: impl FnOnce(&str) -> Result<Fleet, Refused>) -> Result<FleetSettings, String> {
    if let Some(long) = texts.iter().map(|text| text.len()).find(|length| *length > TEXT_MAX) {
        return Err(format!("{long} octets are more than the {TEXT_MAX} that are read"));
    }
    let fleet = fleet_of(texts[0]).map_err(|Refused(sentence)| format!("{}: {sentence}", RELAY_SETTINGS))?;
    let pods: Pods = serde_yaml::from_str(texts[1])
        .map_err(|error| format!("{}: {}", PODS, error.to_string().replace('\n', " ")))?;
    judge(&fleet, &pods).map_err(|sentence| format!("{}: {sentence}", PODS))?;
    Ok(FleetSettings { fleet, pods, texts: texts.map(str::to_owned) })
}

/// Checks what types cannot express, for the pods and for both entries together.
fn judge(fleet: &Fleet, pods: &Pods) -> Result<(), String> {
    if pods.replicas == 0 || pods.replicas > REPLICAS_MAX {
        return Err(format!("replicas is {}; it must be 1 to {REPLICAS_MAX}", pods.replicas));
    }
    if pods.image.is_empty() || pods.image.contains(char::is_whitespace) {
        return Err(format!("image \"{}\" is not the name of an image", pods.image));
    }
    if pods.selector.is_empty() {
        return Err("selector is empty; every pod of the namespace would be a relay".to_owned());
    }
    let least = u64::from(fleet.limits.drain_seconds) + BOOKS_SECONDS + u64::from(PRE_STOP_SECONDS);
    if u64::from(pods.termination_grace_period_seconds) < least {
        return Err(format!(
            "terminationGracePeriodSeconds is {}, and limits.drainSeconds wants at least {least}: messages in flight \
             would be cut off",
            pods.termination_grace_period_seconds
        ));
    }
    for (setting, address) in pods.telemetry.addresses() {
        if fleet.listeners.iter().any(|listener| listener.address.port() == address.port()) {
            return Err(format!("{setting} {address} has the port of a listener"));
        }
    }
    if pods.telemetry.address.port() == pods.telemetry.probes_address.port() {
        return Err(format!(
            "telemetry.probesAddress {} has the port of telemetry.address; probes need one of their own",
            pods.telemetry.probes_address
        ));
    }
    certificate(fleet, pods)
}

fn certificate(fleet: &Fleet, pods: &Pods) -> Result<(), String> {
    if let (None, Some(secret)) = (&pods.certificate_secret, &pods.rsa_certificate_secret) {
        return Err(format!("rsaCertificateSecret \"{secret}\" is set without certificateSecret, for everybody else"));
    }
    match (&fleet.certificates, &pods.certificate_secret) {
        (Certificates::SelfSigned, None) => Ok(()),
        (Certificates::SelfSigned, Some(secret)) => {
            Err(format!("certificateSecret \"{secret}\" is set without tls.certificates, which name its files"))
        }
        (Certificates::Files { .. }, None) => {
            Err("certificateSecret is missing; tls.certificates name files that no pod would have".to_owned())
        }
        (Certificates::Files { files, .. }, Some(_)) => {
            let mut paths = files.iter().flat_map(|files| [&files.certificate_file, &files.key_file]);
            match paths.find(|path| path.parent() != Some(std::path::Path::new(TLS_FOLDER))) {
                Some(path) => Err(format!("tls.certificates: {} is not in {TLS_FOLDER}", path.display())),
                None => Ok(()),
            }
        }
    }
}

impl Pods {
    /// Returns the maximum seconds that the process takes to stop.
    pub fn stop_seconds(&self, fleet: &Fleet) -> u64 {
        u64::from(fleet.limits.drain_seconds) + BOOKS_SECONDS
    }
}
