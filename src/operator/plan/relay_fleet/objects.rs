//! Builds the objects of the fleet, each with only the fields that we set.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use ring::digest;
use serde_json::{Map, Value, json};

use super::names::{PODS, PRE_STOP_SECONDS, RELAY_SETTINGS, TLS_FOLDER};
use super::settings::{FleetSettings, Pods};
use crate::operator::fleet::certificate::Leaf;
use crate::operator::fleet::installation::Installation;
use crate::operator::fleet::relay_config;
use crate::operator::plan::meta;
use crate::runtime::relay_config::LedgerAddress;

/// Folder of `relay.yaml` in a relay's pod: the relay's default.
const RUN_FOLDER: &str = "/run/franking";
/// Time until a rollout counts as stuck. A relay is ready within seconds; pulling an image takes longer.
const PROGRESS_SECONDS: u32 = 300;
/// Mode 0440 as JSON writes it: the process's group may read, no one may write.
const READ_ONLY: u32 = 0o440;
/// Annotation on the pod that changes with `relay.yaml`, and so rolls the fleet.
const CONFIG_HASH: &str = "franking.io/relay-config";

/// The names of the fleet's objects, derived from the ConfigMap's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The ConfigMap, the Secret with `relay.yaml`, the Deployment and the PodDisruptionBudget. The chart's Service,
    /// which selects the pods, has this name too.
    pub fleet: String,
    /// The Secret with our own certificate.
    pub certificate: String,
}

impl Names {
    pub fn of(config_map: &str) -> Self {
        Self { fleet: config_map.to_owned(), certificate: format!("{config_map}-tls") }
    }
}

/// The objects, in the order in which they are written: a pod's mounts exist before the pod.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub config: Value,
    /// `None` if the user provides a certificate.
    pub certificate: Option<Value>,
    pub deployment: Value,
    pub disruption_budget: Value,
}

/// The fleet's namespace, owner, installation and ledger.
pub struct FleetIdentity<'a> {
    pub namespace: &'a str,
    pub owner: &'a OwnerReference,
    pub installation: &'a Installation,
    pub ledger: &'a LedgerAddress,
}

/// Builds the objects for these settings. `leaf` is our own certificate, if there is no other.
pub fn plan(settings: &FleetSettings, identity: &FleetIdentity<'_>, leaf: Option<&Leaf>) -> Result<Wanted, String> {
    let names = Names::of(&identity.owner.name);
    // Our own certificate lies next to that file, as in the single pod.
    let beside = Path::new(TLS_FOLDER).join("relay.yaml");
    let mut config = relay_config::render(&settings.fleet, &beside, identity.ledger, identity.installation);
    // Accepting a ledger must not roll the fleet. A replaced ledger is detected by itself, which stops the relay as
    // well.
    config.incarnation = None;
    config.validate()?;
    let text = serde_yaml::to_string(&config).map_err(|error| error.to_string())?;
    let maker = Maker { settings, identity };
    let secret = |name: &str, kind: &str, entries: [(&str, &str); 3]| {
        let entries = entries.into_iter().filter(|(key, _)| !key.is_empty());
        let data: Map<String, Value> =
            entries.map(|(key, text)| (key.to_owned(), BASE64.encode(text).into())).collect();
        maker.object("v1", "Secret", name, BTreeMap::new(), json!({"type": kind, "data": data}))
    };
    // Kept as text, so that a mistake in the ConfigMap leaves the last good settings to use.
    let [relay_settings, pods] = &settings.texts;
    let entries = [("relay.yaml", text.as_str()), (RELAY_SETTINGS, relay_settings), (PODS, pods)];
    let certificate = leaf.map(|leaf| {
        let pair = [("tls.crt", leaf.certificate.as_str()), ("tls.key", leaf.key.as_str()), ("", "")];
        secret(&names.certificate, "kubernetes.io/tls", pair)
    });
    let certificate_secret = settings.pods.certificate_secret.as_deref().unwrap_or(&names.certificate);
    Ok(Wanted {
        config: secret(&names.fleet, "Opaque", entries),
        certificate,
        deployment: maker.deployment(&names, certificate_secret, &hash(&text)),
        disruption_budget: maker.disruption_budget(&names),
    })
}

struct Maker<'a> {
    settings: &'a FleetSettings,
    identity: &'a FleetIdentity<'a>,
}

impl Maker<'_> {
    fn pods(&self) -> &Pods {
        &self.settings.pods
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.pods().labels.clone();
        labels.extend(self.pods().selector.clone());
        labels.insert(meta::MANAGED_BY.to_owned(), meta::MANAGER.to_owned());
        labels
    }

    /// Builds an object with our metadata. The hash covers all that we set, so that a field that we drop is noticed
    /// too.
    fn object(
        &self,
        version: &str,
        kind: &str,
        name: &str,
        mut annotations: BTreeMap<String, String>,
        body: Value,
    ) -> Value {
        let owner = json!([{
            "apiVersion": self.identity.owner.api_version, "kind": self.identity.owner.kind, "name": self.identity.owner.name,
            "uid": self.identity.owner.uid, "controller": true,
        }]);
        let labels = self.labels();
        annotations.insert(meta::CONTENT_HASH.to_owned(), hash(&json!([labels, annotations, body]).to_string()));
        let mut object = json!({
            "apiVersion": version, "kind": kind,
            "metadata": {"name": name, "namespace": self.identity.namespace, "labels": labels, "annotations": annotations,
                         "ownerReferences": owner},
        });
        if let (Value::Object(object), Value::Object(body)) = (&mut object, body) {
            object.extend(body);
        }
        object
    }

    fn deployment(&self, names: &Names, certificate: &str, config_hash: &str) -> Value {
        let pods = self.pods();
        let mut labels = self.labels();
        labels.extend(pods.pod_labels.clone());
        // User labels must not change what the selector matches.
        labels.extend(pods.selector.clone());
        let mut annotations = pods.pod_annotations.clone();
        annotations.insert(CONFIG_HASH.to_owned(), config_hash.to_owned());
        let spec = json!({
            "replicas": pods.replicas,
            "selector": {"matchLabels": pods.selector},
            "progressDeadlineSeconds": PROGRESS_SECONDS,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": self.pod(names, certificate),
            },
        });
        self.object("apps/v1", "Deployment", &names.fleet, BTreeMap::new(), json!({"spec": spec}))
    }

    fn pod(&self, names: &Names, certificate: &str) -> Value {
        let pods = self.pods();
        let source = |secret: &str, name: &str| {
            let items = ["crt", "key"].map(|end| json!({"key": format!("tls.{end}"), "path": format!("{name}.{end}")}));
            json!({"secret": {"name": secret, "items": items}})
        };
        let rsa = pods.rsa_certificate_secret.iter().map(|secret| source(secret, "rsa"));
        let certificates: Vec<Value> = std::iter::once(source(certificate, "tls")).chain(rsa).collect();
        let mut pod = json!({
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": pods.termination_grace_period_seconds,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": pods.run_as_user, "runAsGroup": pods.run_as_user,
                "fsGroup": pods.run_as_user, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [self.container()],
            "volumes": [
                {"name": "run", "secret": {"secretName": names.fleet, "defaultMode": READ_ONLY,
                    "items": [{"key": "relay.yaml", "path": "relay.yaml"}]}},
                {"name": "tls", "projected": {"defaultMode": READ_ONLY, "sources": certificates}},
            ],
        });
        let mut set = |key: &str, value: Value, is_empty: bool| {
            if !is_empty {
                pod[key] = value;
            }
        };
        set("imagePullSecrets", json!(pods.image_pull_secrets), pods.image_pull_secrets.is_empty());
        set("nodeSelector", json!(pods.node_selector), pods.node_selector.is_empty());
        set("tolerations", json!(pods.tolerations), pods.tolerations.is_empty());
        set("affinity", json!(pods.affinity), pods.affinity.is_empty());
        let spread = &pods.topology_spread_constraints;
        set("topologySpreadConstraints", json!(spread), spread.is_empty());
        set("priorityClassName", json!(pods.priority_class_name), pods.priority_class_name.is_empty());
        pod
    }

    fn container(&self) -> Value {
        let pods = self.pods();
        let variable = |name: &str, value: String| json!({"name": name, "value": value});
        // Separate elements, because the API server identifies ports by number and protocol.
        let telemetry = [("relay-http", pods.telemetry.address), ("relay-probes", pods.telemetry.probes_address)];
        let port = |(name, address): (&str, SocketAddr)| json!({"name": name, "containerPort": address.port(), "protocol": "TCP"});
        let mut ports: Vec<Value> = telemetry.into_iter().map(port).collect();
        ports.extend(
            self.settings.fleet.listeners.iter().map(|listener| port((listener.name.as_str(), listener.address))),
        );
        let probe = |path: &str, period: u32, timeout: u32, failures: u32| {
            json!({"httpGet": {"path": path, "port": "relay-probes"}, "periodSeconds": period, "timeoutSeconds": timeout,
                   "failureThreshold": failures})
        };
        let mut container = json!({
            "name": "relay",
            "image": pods.image,
            "imagePullPolicy": pods.image_pull_policy,
            "args": ["relay"],
            "env": [
                // Each pod has a session in the ledger; a restarted pod takes over its old one.
                {"name": "FRANKING_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                variable("FRANKING_TELEMETRY_ADDRESS", pods.telemetry.address.to_string()),
                variable("FRANKING_PROBES_ADDRESS", pods.telemetry.probes_address.to_string()),
                variable("FRANKING_LOG_LEVEL", pods.log.level.clone()),
                variable("FRANKING_LOG_FORMAT", pods.log.format.clone()),
                variable("FRANKING_STOP_SECONDS", pods.stop_seconds(&self.settings.fleet).to_string()),
            ],
            "ports": ports,
            "readinessProbe": probe("/readyz", 2, 2, 2),
            "livenessProbe": probe("/healthz", 10, 5, 6),
            "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
            "securityContext": {
                "allowPrivilegeEscalation": false, "privileged": false, "readOnlyRootFilesystem": true,
                "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [
                {"name": "run", "mountPath": RUN_FOLDER, "readOnly": true},
                {"name": "tls", "mountPath": TLS_FOLDER, "readOnly": true},
            ],
        });
        if !pods.resources.is_empty() {
            container["resources"] = json!(pods.resources);
        }
        container
    }

    fn disruption_budget(&self, names: &Names) -> Value {
        let pods = self.pods();
        let spec = json!({
            "maxUnavailable": pods.disruption_budget.max_unavailable,
            "selector": {"matchLabels": pods.selector},
            // A relay that is not ready serves no clients, so a node need not wait for it.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        });
        self.object("policy/v1", "PodDisruptionBudget", &names.fleet, BTreeMap::new(), json!({"spec": spec}))
    }
}

/// Returns a hash in hexadecimal for an annotation, so that a person can compare two.
fn hash(content: &str) -> String {
    digest::digest(&digest::SHA256, content.as_bytes()).as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}
