//! The chart with a database as the ledger: operators and relays run apart, and the relays are the operator's to make.

use franking::operator::plan::relay_fleet;
use franking::runtime::cli::Flags;
use franking::runtime::config;
use franking::runtime::relay_config::LedgerAddress;
use serde_json::Value;

use crate::chart::{accepted_without_a_warning, restricted, values};
use crate::support::chart::{CHART, file, object, objects, render};
use crate::support::control_plane::{ControlPlane, succeeded};
use crate::support::identity;

/// What is the least, and everything that can be switched on.
const GOOD: [(&str, &str); 2] = [
    ("least", "ledger: {engine: postgres, postgres: {secretName: ledger-app}}"),
    (
        "everything",
        "
    imagePullSecrets: [{name: registry}]
    commonLabels: {team: platform}
    podLabels: {tier: mail}
    podAnnotations: {example.com/note: hello}
    nodeSelector: {kubernetes.io/os: linux}
    tolerations: [{key: dedicated, operator: Exists, effect: NoSchedule}]
    affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}
    priorityClassName: system-cluster-critical
    image: {digest: 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'}
    ledger: {engine: postgres, postgres: {secretName: db, key: url, singleNode: true}}
    operator: {replicas: 3}
    relay:
      replicas: 5
      hostname: smtp.example.com
      budgetSeconds: 55
      plain: {enabled: true, networks: [10.20.0.0/16, 'fd00:20::/32']}
      tls: {secretName: relay-tls, privateCa: true}
      limits: {messageBytes: 1048576, drainSeconds: 60}
      service: {type: LoadBalancer, annotations: {example.com/lb: internal}, loadBalancerSourceRanges: [10.0.0.0/8]}
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}]
      podDisruptionBudget: {maxUnavailable: 25%}
    networkPolicy: {egress: true, relayFrom: [{ipBlock: {cidr: 10.0.0.0/8}}], databasePorts: [6432]}
    terminationGracePeriodSeconds: 90
    bindAddress: 0.0.0.0
",
    ),
];

fn rendered(test: &str, name: &str, yaml: &str, namespace: &str) -> Vec<Value> {
    objects(&render(namespace, &["--values", &values(test, name, yaml)]))
}

#[test]
fn lint_finds_nothing_where_they_run_apart() {
    for (name, yaml) in GOOD {
        let values = values("apart-lint", name, yaml);
        let output = succeeded(ControlPlane::shared().helm(&["lint", "--strict", CHART, "--values", &values]));
        assert!(!output.contains("[WARNING]") && !output.contains("[ERROR]"), "{name}: {output}");
    }
}

#[test]
fn a_real_api_server_takes_every_object_of_the_spread_installation() {
    let plane = ControlPlane::shared();
    let namespace = "chart-apart";
    restricted(plane, namespace);
    for (name, yaml) in GOOD {
        let manifests = render(namespace, &["--values", &values("apart-server", name, yaml)]);
        let deployment = object(&objects(&manifests), "Deployment", "franking-operator").clone();
        let mut pod = deployment["spec"]["template"].clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = "franking-operator-0".into();
        pod["metadata"]["namespace"] = namespace.into();
        for text in [manifests, pod.to_string()] {
            accepted_without_a_warning(plane, name, &text);
        }
    }
}

#[test]
fn neither_file_nor_volume_nor_relay_is_the_charts_where_they_run_apart() {
    for (name, yaml) in GOOD {
        let objects = rendered("apart-kinds", name, yaml, "mail");
        for kind in ["StatefulSet", "PersistentVolumeClaim", "PodDisruptionBudget"] {
            assert!(objects.iter().all(|object| object["kind"] != kind), "{name}: {kind}");
        }
        let of = |kind: &str| -> Vec<&str> {
            let found = objects.iter().filter(|object| object["kind"] == kind);
            found.map(|object| object["metadata"]["name"].as_str().expect("a name")).collect()
        };
        assert_eq!(of("Deployment"), ["franking-operator"], "{name}");
        assert_eq!(of("Service"), ["franking-relay", "franking-metrics"], "{name}");
        let operator = object(&objects, "Deployment", "franking-operator");
        assert_eq!(operator["spec"]["replicas"], if name == "least" { 2 } else { 3 });
        let pod = operator["spec"]["template"]["spec"].to_string();
        for word in ["emptyDir", "ledger.db", "/run/franking", "relay-settings"] {
            assert!(!pod.contains(word), "{name}: the operator's pod says {word}");
        }
        // The certificate's private key is the relays'; the operator hands out the CA at most.
        assert!(!pod.contains("tls.key"), "{name}");
    }
}

/// The settings for the processes, and the ConfigMap for the fleet, as the operator itself reads them.
#[test]
fn the_operator_takes_the_settings_and_the_fleet_that_the_chart_writes() {
    for (name, yaml) in GOOD {
        let objects = rendered("apart-settings", name, yaml, "mail");
        let data =
            |map: &str, key: &str| object(&objects, "ConfigMap", map)["data"][key].as_str().expect(key).to_owned();
        let uri = file(&format!("chart-apart-{name}-uri"), "postgresql://franking:secret@db/franking\n");
        let text = data("franking", "franking.yaml");
        assert!(text.contains("/etc/franking/database/uri") && !text.contains("secret"), "{name}: {text}");
        let text = text.replace("/etc/franking/database/uri", &uri);
        let flags = Flags { config: Some(file(&format!("chart-apart-{name}.yaml"), &text).into()), ..Flags::default() };
        let settings = config::load(&flags).unwrap_or_else(|refused| panic!("{name}: {refused}"));
        assert!(settings.operator.leader_election);
        assert_eq!(settings.relay.config_map.as_deref(), Some("franking-relay"));
        let LedgerAddress::Postgres { single_node, .. } = settings.ledger else { panic!("{name}: a file") };
        assert_eq!(single_node, name == "everything");

        let texts = [data("franking-relay", "relay-settings.yaml"), data("franking-relay", "pods.yaml")];
        let fleet = relay_fleet::check([&texts[0], &texts[1]], |text| settings.relay.fleet_of(text));
        let fleet = fleet.unwrap_or_else(|refused| panic!("{name}: {refused}"));
        assert_eq!(fleet.pods.replicas, if name == "least" { 2 } else { 5 });
        assert_eq!(fleet.pods.certificate_secret.is_some(), name == "everything");
        // Programs are told a port that the Service has.
        let relay = &object(&objects, "Service", "franking-relay")["spec"];
        let ports = relay["ports"].as_array().expect("ports");
        assert!(ports.iter().any(|port| port["port"] == fleet.fleet.advertise.port), "{name}");
        // Each leads to a listener of the pods that the operator makes, and to nothing else that the chart selects.
        for port in ports {
            let listener = port["targetPort"].as_str().expect("a listener's name");
            assert!(fleet.fleet.listeners.iter().any(|other| other.name == listener), "{name}: {listener}");
        }
        let selector = relay["selector"].as_object().expect("a selector");
        assert_eq!(selector.len(), fleet.pods.selector.len(), "{name}");
        assert!(selector.iter().all(|(key, value)| fleet.pods.selector[key] == value.as_str().unwrap_or_default()));
        let stops = fleet.pods.stop_seconds(&fleet.fleet);
        assert!(u64::from(fleet.pods.termination_grace_period_seconds) > stops, "{name}: killed before it has stopped");

        // The pods of the fleet are found by what the chart selects by.
        let metrics = object(&objects, "Service", "franking-metrics");
        let selector = metrics["spec"]["selector"].as_object().expect("a selector");
        assert!(selector.iter().all(|(key, value)| fleet.pods.selector.get(key).map(String::as_str) == value.as_str()));
        let operator = &object(&objects, "Deployment", "franking-operator")["spec"]["selector"]["matchLabels"];
        assert_ne!(
            operator["app.kubernetes.io/component"],
            fleet.pods.selector["app.kubernetes.io/component"].as_str()
        );
        if name == "everything" {
            let policy = &object(&objects, "NetworkPolicy", "franking-relay")["spec"];
            let selected = policy["podSelector"]["matchLabels"].as_object().expect("labels");
            assert!(selected.iter().all(|(key, value)| fleet.pods.selector[key] == value.as_str().unwrap_or_default()));
            // Nothing leads from a relay to the API server.
            let out = policy["egress"].to_string();
            assert!(out.contains("6432") && !out.contains("443,") && !out.contains("6443"), "{out}");
        }
    }
}

#[test]
fn the_rules_for_the_fleet_are_of_its_names_and_its_namespace_only() {
    let apart = rendered("apart-rules", GOOD[0].0, GOOD[0].1, "mail");
    let single = objects(&render("mail", &[]));
    let rules = |objects: &[Value], kind: &str| object(objects, kind, "franking-operator")["rules"].clone();
    assert_eq!(rules(&apart, "ClusterRole"), rules(&single, "ClusterRole"), "nothing more in the cluster");
    let more = rules(&apart, "Role");
    for rule in more.as_array().expect("rules") {
        let names = rule["resourceNames"].as_array();
        assert!(
            names.is_some_and(|names| !names.is_empty()) || rule["verbs"] == serde_json::json!(["create"]),
            "{rule}"
        );
        assert!(!rule.to_string().contains('*') && !rule.to_string().contains("delete"), "{rule}");
    }
    let single = rules(&single, "Role").to_string();
    for kind in ["deployments", "leases", "poddisruptionbudgets"] {
        assert!(more.to_string().contains(kind) && !single.contains(kind), "{kind}");
    }
    // The address that clients have is the chart's alone.
    assert!(!more.to_string().contains("services"), "{more}");
}

/// Clients keep the ClusterIP and the load balancer's address: nothing of the Service depends on the engine, and its
/// selector finds the pods of either.
#[test]
fn the_service_is_the_same_with_either_engine() {
    const SERVICES: [&str; 2] = [
        "{}",
        "relay: {plain: {enabled: true, networks: [10.20.0.0/16]}, service: {type: LoadBalancer, \
         annotations: {example.com/lb: internal}, loadBalancerClass: example.com/lb, \
         loadBalancerSourceRanges: [10.0.0.0/8]}}",
    ];
    for (number, yaml) in SERVICES.into_iter().enumerate() {
        let values = values("apart-service", &number.to_string(), yaml);
        let single = objects(&render("mail", &["--values", &values]));
        let apart = objects(&render("mail", &[&["--values", &values], identity::APART.as_slice()].concat()));
        let service = object(&single, "Service", "franking-relay");
        assert_eq!(service, object(&apart, "Service", "franking-relay"));
        let pod = &object(&single, "StatefulSet", "franking")["spec"]["template"]["metadata"]["labels"];
        let selector = service["spec"]["selector"].as_object().expect("a selector");
        assert!(selector.iter().all(|(key, value)| pod[key] == *value), "{selector:?} finds no {pod}");
        let operator = &object(&apart, "Deployment", "franking-operator")["spec"]["template"]["metadata"]["labels"];
        assert!(selector.iter().any(|(key, value)| operator[key] != *value), "mail would be sent to the operator");
        if number == 1 {
            assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
            assert_eq!(service["spec"]["loadBalancerClass"], "example.com/lb");
            assert_eq!(service["spec"]["loadBalancerSourceRanges"][0], "10.0.0.0/8");
        }
    }
}

/// The Job that moves a SQLite ledger into the database: beside the fleet, as narrow as every pod, and a new one where
/// what it runs has changed, because a Job cannot be.
#[test]
fn a_ledger_is_moved_by_a_job_that_has_the_claim_the_database_and_no_token() {
    let plane = ControlPlane::shared();
    let namespace = "chart-move";
    restricted(plane, namespace);
    let manifests = |more: &str| {
        let yaml = format!(
            "{{ledger: {{engine: postgres, moveFrom: ledger-franking-0, postgres: {{secretName: db}}}}, \
             networkPolicy: {{egress: true}}, {more}}}"
        );
        render(namespace, &["--values", &values("apart-move", "values", &yaml)])
    };
    let job = |more: &str| {
        let objects = objects(&manifests(more));
        objects.into_iter().find(|object| object["kind"] == "Job").expect("a Job")
    };
    let text = manifests("");
    accepted_without_a_warning(plane, "move", &text);
    let standing = job("");
    let mut pod = standing["spec"]["template"].clone();
    (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
    (pod["metadata"]["name"], pod["metadata"]["namespace"]) = ("franking-move-0".into(), namespace.into());
    accepted_without_a_warning(plane, "move", &pod.to_string());

    let spec = &standing["spec"]["template"]["spec"];
    assert_eq!(spec["automountServiceAccountToken"], false);
    let volumes = spec["volumes"].as_array().expect("volumes");
    let names: Vec<&str> = volumes.iter().map(|volume| volume["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["settings", "database", "ledger", "tmp"]);
    assert_eq!(volumes[2]["persistentVolumeClaim"]["claimName"], "ledger-franking-0");
    let arguments = spec["containers"][0]["args"].as_array().expect("arguments");
    assert_eq!(arguments[..4], ["ledger", "move", "--from", "/var/lib/franking/ledger.db"]);
    let variables = spec["containers"][0]["env"].as_array().expect("variables");
    let whose = variables.iter().find(|variable| variable["name"] == "FRANKING_INSTALLATION").expect("whose it is");
    let known = serde_json::json!({"name": "franking-installation", "key": "installation", "optional": true});
    assert_eq!(whose["valueFrom"]["configMapKeyRef"], known);
    // Mail must not be sent to it, and nothing reaches it.
    let objects = objects(&text);
    let labels = &standing["spec"]["template"]["metadata"]["labels"];
    for service in objects.iter().filter(|object| object["kind"] == "Service") {
        let selector = service["spec"]["selector"].as_object().expect("a selector");
        assert!(selector.iter().any(|(key, value)| labels[key] != *value), "{selector:?}");
    }
    let policy = &object(&objects, "NetworkPolicy", "franking-move")["spec"];
    let selected = policy["podSelector"]["matchLabels"].as_object().expect("labels");
    assert!(selected.iter().all(|(key, value)| labels[key] == *value), "{selected:?}");
    assert!(policy.get("ingress").is_none(), "{policy}");

    assert_eq!(job(""), standing);
    let another = job("image: {tag: '2'}");
    assert_ne!(another["metadata"]["name"], standing["metadata"]["name"]);
    assert!(rendered("apart-move", "none", GOOD[0].1, "mail").iter().all(|object| object["kind"] != "Job"));
}

#[test]
fn a_move_that_cannot_be_is_refused_with_what_to_do() {
    for (wrong, named) in [
        ("ledger.moveFrom=ledger-franking-0", "there is no way back"),
        (
            "ledger.engine=postgres,ledger.postgres.secretName=db,ledger.moveFrom=ledger-franking-0,\
             ledger.volume.retain=false",
            "the claim would be deleted",
        ),
        ("ledger.engine=postgres,ledger.postgres.secretName=db,ledger.moveFrom=Ledger_0", "/ledger/moveFrom"),
    ] {
        let output = ControlPlane::shared().helm(&["template", "franking", CHART, "--set", wrong]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(named), "{wrong}: {said}");
    }
}
