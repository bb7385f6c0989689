//! A valid ConfigMap and one mutation per refusal; and what the objects must and must never contain.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{FleetIdentity, FleetSettings, Wanted, check, is_ours, plan, stands};
use crate::crd::{ConditionType, Reason, find_condition};
use crate::ledger::identity::Progress;
use crate::operator::fleet::certificate::{Authority, Leaf};
use crate::operator::fleet::installation::{Installation, Serving};
use crate::operator::plan::relay_state::{RelayState, Replicas};
use crate::operator::plan::{Readiness, credit_policy::lacks, is_true};
use crate::runtime::cli::Flags;
use crate::runtime::config;
use crate::runtime::relay_config::{InstallationKeys, KeyBytes, LedgerAddress, RelayConfig};

const RELAY: &str = "\
hostname: smtp.example.com
advertise: {host: smtp.example.com, port: 465}
listeners:
  - {name: submissions, address: '[::]:4465', mode: Implicit, budgetSeconds: 50}
  - {name: submission, address: '[::]:4587', mode: StartTls, budgetSeconds: 60}
limits: {drainSeconds: 60}
";

const PODS: &str = "\
replicas: 3
image: registry.example.com/franking:1
selector: {app.kubernetes.io/name: franking, app.kubernetes.io/component: relay}
labels: {team: platform}
podLabels: {tier: mail, app.kubernetes.io/component: nothing}
podAnnotations: {example.com/note: hello}
resources: {limits: {memory: 1Gi}}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: dedicated, operator: Exists}]
runAsUser: 65532
terminationGracePeriodSeconds: 90
log: {level: info, format: json}
telemetry: {address: '[::]:9092', probesAddress: '[::]:9082'}
disruptionBudget: {maxUnavailable: 1}
";

fn settings(relay: &str, pods: &str) -> Result<FleetSettings, String> {
    let relay_settings = config::load(&Flags::default()).expect("defaults").relay;
    check([relay, pods], |text| relay_settings.fleet_of(text))
}

fn owner(uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        name: "franking-relay".into(),
        uid: uid.into(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

fn planned(relay: &str, pods: &str) -> Wanted {
    let installation = Installation {
        namespace: "mail".into(),
        id: Uuid::from_u128(1),
        incarnation: Uuid::from_u128(2),
        serving: Serving::new(Uuid::from_u128(2)),
        progress: Progress::default(),
        cluster: "c".into(),
        ledger_made: true,
        keys: InstallationKeys { hash: KeyBytes([1; 32]), seal: KeyBytes([2; 32]) },
        authority: Authority::mint(Uuid::from_u128(1), Timestamp::UNIX_EPOCH).expect("a CA"),
    };
    let ledger = LedgerAddress::Postgres { url: "postgres://franking:s3cret@db/franking".into(), single_node: false };
    let owner = owner("uid-1");
    let identity = FleetIdentity { namespace: "mail", owner: &owner, installation: &installation, ledger: &ledger };
    let leaf = Leaf { certificate: "a certificate".into(), key: "its key".into() };
    let settings = settings(relay, pods).expect("valid settings");
    let leaf = settings.pods.certificate_secret.is_none().then_some(&leaf);
    plan(&settings, &identity, leaf).expect("a plan")
}

fn decoded(secret: &Value, key: &str) -> String {
    use base64::Engine as _;
    let text = secret["data"][key].as_str().unwrap_or_else(|| panic!("no {key}"));
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).expect("base64")).expect("text")
}

#[test]
fn each_setting_that_cannot_be_is_refused_by_name() {
    assert!(settings(RELAY, PODS).is_ok());
    for (right, wrong, named) in [
        ("hostname: smtp", "hostnames: smtp", "relay-settings.yaml: unknown field `hostnames`"),
        ("port: 465", "port: 0", "relay.advertise.port"),
        ("'[::]:4587'", "'[::]:4465'", "has an address that another one has"),
        (
            "drainSeconds: 60",
            "drainSeconds: 59",
            "budgetSeconds of \"submission\" (60) is above limits.drainSeconds (59)",
        ),
        ("replicas: 3", "replicas: 0", "pods.yaml: replicas is 0"),
        ("replicas: 3", "replicas: 65", "replicas is 65"),
        ("replicas: 3", "replica: 3", "pods.yaml: unknown field `replica`"),
        ("franking:1", "franking 1", "is not the name of an image"),
        (
            "selector: {app.kubernetes.io/name: franking, app.kubernetes.io/component: relay}",
            "selector: {}",
            "selector is empty",
        ),
        (
            "Seconds: 90",
            "Seconds: 79",
            "terminationGracePeriodSeconds is 79, and limits.drainSeconds wants at least 80",
        ),
        ("'[::]:9092'", "'[::]:4465'", "telemetry.address [::]:4465 has the port of a listener"),
        ("'[::]:9082'", "'[::]:4465'", "telemetry.probesAddress [::]:4465 has the port of a listener"),
        ("'[::]:9082'", "'[::]:9092'", "telemetry.probesAddress [::]:9092 has the port of telemetry.address"),
        ("runAsUser", "rsaCertificateSecret: old\nrunAsUser", "rsaCertificateSecret \"old\" is set without"),
        ("runAsUser", "certificateSecret: relay-tls\nrunAsUser", "certificateSecret \"relay-tls\" is set without"),
        (
            "limits: {d",
            "tls: {certificates: [{certificateFile: /etc/franking/tls/tls.crt, keyFile: /etc/franking/tls/tls.key}]}\nlimits: {d",
            "certificateSecret is missing",
        ),
    ] {
        assert!(RELAY.contains(right) || PODS.contains(right), "{right} is not in the fixture");
        let refused = settings(&RELAY.replace(right, wrong), &PODS.replace(right, wrong)).expect_err(wrong);
        assert!(refused.contains(named) && !refused.contains('\n'), "{wrong}: {refused}");
    }
}

#[test]
fn a_certificate_of_the_users_own_is_where_the_pods_have_it() {
    let own = "runAsUser: 65532\ncertificateSecret: relay-tls";
    let pods = PODS.replace("runAsUser: 65532", own);
    let files = |folder: &str| {
        format!("{RELAY}tls: {{certificates: [{{certificateFile: {folder}/tls.crt, keyFile: {folder}/tls.key}}]}}\n")
    };
    assert!(settings(&files("/tmp"), &pods).expect_err("elsewhere").contains("is not in /etc/franking/tls"));
    let wanted = planned(&files("/etc/franking/tls"), &pods);
    assert!(wanted.certificate.is_none());
    let sources = |wanted: &Wanted| -> Vec<(String, String)> {
        let volumes = wanted.deployment["spec"]["template"]["spec"]["volumes"].as_array().expect("volumes");
        let tls = volumes.iter().find(|volume| volume["name"] == "tls").expect("the certificates");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let sources = tls["projected"]["sources"].as_array().expect("sources").iter();
        sources.map(|source| (text(&source["secret"]["name"]), text(&source["secret"]["items"][0]["path"]))).collect()
    };
    assert_eq!(sources(&wanted), [("relay-tls".to_owned(), "tls.crt".to_owned())]);
    let both = pods.replace(own, &format!("{own}\nrsaCertificateSecret: relay-rsa"));
    let [first, second] = sources(&planned(&files("/etc/franking/tls"), &both)).try_into().expect("two");
    assert_eq!(first.0, "relay-tls");
    assert_eq!(second, ("relay-rsa".to_owned(), "rsa.crt".to_owned()));
}

#[test]
fn the_config_is_what_a_relay_reads_and_only_the_secret_holds_it() {
    let wanted = planned(RELAY, PODS);
    let config: RelayConfig = serde_yaml::from_str(&decoded(&wanted.config, "relay.yaml")).expect("a relay config");
    config.validate().expect("valid");
    assert_eq!(
        (config.hostname.as_str(), config.listeners.len(), config.limits.drain_seconds),
        ("smtp.example.com", 2, 60)
    );
    let LedgerAddress::Postgres { url, .. } = &config.ledger else { panic!("another engine") };
    assert!(url.contains("s3cret"));
    assert_eq!(decoded(&wanted.config, "relay-settings.yaml"), RELAY);
    assert_eq!(decoded(&wanted.config, "pods.yaml"), PODS);
    for object in [&wanted.deployment, &wanted.disruption_budget] {
        assert!(!object.to_string().contains("s3cret") && !object.to_string().contains("AQEB"), "{object}");
    }
}

#[test]
fn a_pod_has_no_token_and_mounts_its_config_and_its_certificate_alone() {
    let wanted = planned(RELAY, PODS);
    let template = &wanted.deployment["spec"]["template"];
    let pod = &template["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    let volumes: Vec<(&str, &str)> = pod["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .map(|volume| {
            let whole = &volume["secret"]["secretName"];
            let source = whole.as_str().or(volume["projected"]["sources"][0]["secret"]["name"].as_str());
            (volume["name"].as_str().expect("a name"), source.expect("a Secret"))
        })
        .collect();
    assert_eq!(volumes, [("run", "franking-relay"), ("tls", "franking-relay-tls")]);
    assert_eq!(pod["volumes"][0]["secret"]["items"], json!([{"key": "relay.yaml", "path": "relay.yaml"}]));
    let container = &pod["containers"][0];
    for probe in ["readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "relay-probes", "{probe}");
    }
    assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
    assert!(container["env"].to_string().contains(r#"{"name":"FRANKING_STOP_SECONDS","value":"75"}"#));
    // A user's label never detaches a pod from its Deployment.
    assert_eq!(template["metadata"]["labels"]["app.kubernetes.io/component"], "relay");
    assert_eq!(template["metadata"]["labels"]["tier"], "mail");
    let strategy = &wanted.deployment["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(strategy, &json!({"maxUnavailable": 0, "maxSurge": 1}));
}

#[test]
fn what_changes_relay_yaml_rolls_the_fleet_and_nothing_else_does() {
    let template = |relay: &str, pods: &str| planned(relay, pods).deployment["spec"]["template"].clone();
    let standing = template(RELAY, PODS);
    assert_eq!(standing, template(RELAY, PODS));
    assert_ne!(standing, template(&RELAY.replace("drainSeconds: 60", "drainSeconds: 60, recipients: 7"), PODS));
    assert_ne!(standing, template(RELAY, &PODS.replace("franking:1", "franking:2")));
    for pods in [PODS.replace("replicas: 3", "replicas: 4"), PODS.replace("maxUnavailable: 1", "maxUnavailable: 25%")] {
        assert_eq!(standing, template(RELAY, &pods));
    }
    // Only the address shown to programs changes; the relays are not rolled.
    assert_eq!(standing, template(&RELAY.replace("port: 465", "port: 587"), PODS));
}

#[test]
fn an_object_stands_when_the_server_only_added_to_it_and_not_when_somebody_changed_it() {
    let wanted = planned(RELAY, PODS).deployment;
    const PORTS: &str = "/spec/template/spec/containers/0/ports";
    let mut live = wanted.clone();
    live["spec"]["revisionHistoryLimit"] = 10.into();
    let ports = live.pointer_mut(PORTS).and_then(Value::as_array_mut).expect("ports");
    ports[0]["hostIP"] = "10.0.0.1".into();
    ports.reverse();
    live["metadata"]["annotations"]["example.com/theirs"] = "kept".into();
    assert!(stands(&wanted, &live));
    type Edit = fn(&mut Value);
    let edits: [(Edit, &str); 5] = [
        (|live| live["spec"]["replicas"] = 7.into(), "a field"),
        (|live| live.pointer_mut(PORTS).expect("ports")[0]["containerPort"] = 25.into(), "an element"),
        (|live| *live.pointer_mut(PORTS).expect("ports") = json!([]), "a list"),
        (|live| live["metadata"]["ownerReferences"] = Value::Null, "the owner"),
        (|live| live["metadata"]["annotations"] = json!({}), "the hash, and so what we want no longer"),
    ];
    for (edit, what) in edits {
        let mut changed = live.clone();
        edit(&mut changed);
        assert!(!stands(&wanted, &changed), "{what}");
    }
    // A setting that is removed changes the hash.
    let before = planned(RELAY, PODS).deployment["metadata"]["annotations"].clone();
    assert_ne!(
        before,
        planned(RELAY, &PODS.replace("nodeSelector: {kubernetes.io/os: linux}\n", "")).deployment["metadata"]["annotations"]
    );
}

#[test]
fn only_what_our_config_map_controls_is_ours() {
    let meta = |owners: Vec<OwnerReference>| ObjectMeta { owner_references: Some(owners), ..ObjectMeta::default() };
    let beside = OwnerReference { controller: None, ..owner("uid-1") };
    assert!(is_ours(&meta(vec![owner("uid-1")]), &owner("uid-1")));
    for theirs in [meta(vec![]), meta(vec![owner("uid-0")]), meta(vec![beside])] {
        assert!(!is_ours(&theirs, &owner("uid-1")));
    }
}

#[test]
fn a_policy_is_programmed_when_the_relays_run_as_they_are_set() {
    let replicas = |ready| Some(Replicas { ready, wanted: 3 });
    let refused = Some("replicas is 0".to_owned());
    for (state, reason) in [
        (RelayState::default(), None),
        (RelayState { refused: None, replicas: replicas(1), in_force: None }, None),
        (RelayState { refused: None, replicas: replicas(0), in_force: None }, Some(Reason::RelayNotReady)),
        (RelayState { refused: refused.clone(), replicas: replicas(3), in_force: None }, Some(Reason::RelayInvalid)),
        (RelayState { refused, replicas: None, in_force: None }, Some(Reason::RelayInvalid)),
    ] {
        let conditions =
            Readiness::ready("").stated(&[], Some(1), Timestamp::UNIX_EPOCH, (true, true), lacks(&state)).build();
        let programmed = find_condition(&conditions, ConditionType::Programmed).expect("it is always said");
        let expected = ("False", reason.unwrap_or(Reason::Programmed).as_str());
        let expected = if reason.is_none() { ("True", expected.1) } else { expected };
        assert_eq!((programmed.status.as_str(), programmed.reason.as_str()), expected);
        // Accepted policies stay ready: a mistake in the relays' settings stops no mail.
        assert!(is_true(&conditions, ConditionType::Ready));
    }
}
