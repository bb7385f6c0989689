//! The chart: what it renders, what it refuses, and what a real API server and the process itself make of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use franking::runtime::cli::Flags;
use franking::runtime::config;
use franking::runtime::fleet::Certificates;
use franking::runtime::relay_config::ListenerMode;
use serde_json::Value;

use crate::support::chart::{CHART, file, object, objects, render, utf8};
use crate::support::control_plane::{ControlPlane, succeeded};
use crate::support::identity;

/// The controller manager aggregates within a second; a machine that compiles at the same time gets plenty.
const AGGREGATED: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Everything that can be switched on, at once.
const EVERYTHING: &str = "
    imagePullSecrets: [{name: registry}]
    commonLabels: {team: platform}
    podLabels: {tier: mail}
    podAnnotations: {example.com/note: hello}
    rbac: {namespaces: [default]}
    nodeSelector: {kubernetes.io/os: linux}
    tolerations: [{key: dedicated, operator: Exists, effect: NoSchedule}]
    affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}
    priorityClassName: system-cluster-critical
    image: {digest: 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'}
    relay:
      hostname: smtp.example.com
      budgetSeconds: 55
      lineEnds: Normalize
      plain: {enabled: true, lineEnds: Reject, networks: [10.20.0.0/16, 'fd00:20::/32']}
      tls: {secretName: relay-tls, rsaSecretName: relay-rsa, privateCa: true}
      proxyFrom: [10.0.0.0/24, 'fd00:1::/64']
      limits: {messageBytes: 1048576, drainSeconds: 60, bytesInFlightPerNamespace: 120000000,
        bytesInFlightPerAccount: 60000000, messageSeconds: 900, sessionSeconds: 60, authFailuresPerAddress: 9, tlsSeconds: 10,
        authFailuresPerName: 8, authDelaySeconds: 4, authForgetSeconds: 30, authCounters: 1000, proxySeconds: 3, replySeconds: 20, metricAccounts: 10}
      service: {type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8]}
    ledger: {volume: {storageClassName: fast, accessMode: ReadWriteOnce, retain: false}, backup: {enabled: true, mode: CronJob}}
    networkPolicy: {egress: true, relayFrom: [{ipBlock: {cidr: 10.0.0.0/8}}]}
    metrics: {service: {annotations: {example.com/scrape: 'true'}}}
    terminationGracePeriodSeconds: 90
    bindAddress: 0.0.0.0
";

/// The sets of values that must work, each as a name and a YAML text.
const GOOD: [(&str, &str); 5] = [
    ("backups", "{ledger: {backup: {enabled: true, every: 30m, keep: 3, existingClaim: attic}}}"),
    ("defaults", "{}"),
    ("everything", EVERYTHING),
    ("printers", include_str!("../../examples/printers/relay-values.yaml")),
    (
        "least",
        "{admission: {enabled: false}, rbac: {create: false, aggregateToNamespaceRoles: false, serviceBindingController: false}, crds: {install: false}, \
       serviceAccount: {create: false, name: mail}, metrics: {service: {enabled: false}}, \
       relay: {ports: {submissions: 0, alternative: 0}}}",
    ),
];

pub fn values(test: &str, name: &str, yaml: &str) -> String {
    file(&format!("chart-{test}-{name}.yaml"), yaml)
}

#[test]
fn lint_finds_nothing() {
    for (name, yaml) in GOOD {
        let values = values("lint", name, yaml);
        let output = succeeded(ControlPlane::shared().helm(&["lint", "--strict", CHART, "--values", &values]));
        assert!(!output.contains("[WARNING]") && !output.contains("[ERROR]"), "{name}: {output}");
    }
}

#[test]
fn the_same_values_give_the_same_objects() {
    for (name, yaml) in GOOD {
        let values = values("same", name, yaml);
        assert_eq!(render("mail", &["--values", &values]), render("mail", &["--values", &values]), "{name}");
    }
}

#[test]
fn a_real_api_server_takes_every_object_where_pods_are_restricted() {
    let plane = ControlPlane::shared();
    let namespace = "chart-restricted";
    restricted(plane, namespace);
    for (name, yaml) in GOOD {
        let manifests = render(namespace, &["--values", &values("server", name, yaml)]);
        // StatefulSets are only warned about, so the pod of the template stands beside them: that one would be refused.
        let pod = pod_of(&objects(&manifests));
        for text in [manifests, pod] {
            accepted_without_a_warning(plane, name, &text);
        }
    }
}

/// By the real API server, which keeps nothing of it.
pub fn accepted_without_a_warning(plane: &ControlPlane, name: &str, text: &str) {
    let output = plane.kubectl_stdin(
        &["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"],
        text,
    );
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!complaints.contains("Warning"), "{name}: {complaints}");
    succeeded(output);
}

/// Proves the test above: the same pod without one of its promises is refused.
#[test]
fn a_pod_that_promises_less_is_refused_there() {
    let plane = ControlPlane::shared();
    let namespace = "chart-unrestricted";
    restricted(plane, namespace);
    let pod = pod_of(&objects(&render(namespace, &[])));
    let loose = pod.replacen("\"allowPrivilegeEscalation\":false", "\"allowPrivilegeEscalation\":true", 1);
    assert_ne!(loose, pod, "the pod has no such line");
    let output = plane.kubectl_stdin(&["create", "--dry-run=server", "-f", "-"], &loose);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("violates PodSecurity"), "{said}");
}

pub fn restricted(plane: &ControlPlane, namespace: &str) {
    let manifest = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{\
         pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}}}}}}\n---\n\
         {{apiVersion: v1, kind: ServiceAccount, metadata: {{name: mail, namespace: {namespace}}}}}\n---\n\
         {{apiVersion: v1, kind: ServiceAccount, metadata: {{name: franking, namespace: {namespace}}}}}"
    );
    succeeded(plane.kubectl_stdin(&["apply", "--server-side", "-f", "-"], &manifest));
}

/// The pod that the StatefulSet makes, with its claim as the volume that the controller would add.
fn pod_of(objects: &[Value]) -> String {
    let set = object(objects, "StatefulSet", "franking");
    let mut pod = set["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "franking-0".into();
    pod["metadata"]["namespace"] = set["metadata"]["namespace"].clone();
    let claim = serde_json::json!({"name": "ledger", "persistentVolumeClaim": {"claimName": "ledger-franking-0"}});
    pod["spec"]["volumes"].as_array_mut().expect("the pod has volumes").push(claim);
    pod.to_string()
}

#[test]
fn only_prepare_and_operator_hold_a_token() {
    for (name, yaml) in GOOD {
        let objects = objects(&render("mail", &["--values", &values("token", name, yaml)]));
        let pod = &object(&objects, "StatefulSet", "franking")["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        let with_token: BTreeSet<&str> = pod["volumes"]
            .as_array()
            .expect("volumes")
            .iter()
            .filter(|volume| volume.to_string().contains("serviceAccountToken"))
            .map(|volume| volume["name"].as_str().expect("a name"))
            .collect();
        assert_eq!(with_token, BTreeSet::from(["token"]), "{name}");
        let containers =
            ["initContainers", "containers"].iter().flat_map(|part| pod[part].as_array().expect("containers"));
        let holders: Vec<&str> = containers
            .filter(|container| {
                let mounts = container["volumeMounts"].as_array().expect("mounts");
                mounts.iter().any(|mount| with_token.contains(mount["name"].as_str().expect("a name")))
            })
            .map(|container| container["name"].as_str().expect("a name"))
            .collect();
        assert_eq!(holders, ["prepare", "operator"], "{name}");
    }
}

#[test]
fn the_private_key_of_the_certificate_is_the_relays_alone() {
    let objects = objects(&render("mail", &["--values", &values("key", "everything", EVERYTHING)]));
    let pod = &object(&objects, "StatefulSet", "franking")["spec"]["template"]["spec"];
    let mounts = |part: &str, index: usize, volume: &str| {
        pod[part][index]["volumeMounts"].as_array().expect("mounts").iter().any(|mount| mount["name"] == volume)
    };
    assert!(mounts("containers", 1, "tls") && !mounts("containers", 0, "tls") && !mounts("initContainers", 0, "tls"));
    let ca = pod["volumes"].as_array().expect("volumes").iter().find(|volume| volume["name"] == "ca").expect("a CA");
    assert_eq!(ca["secret"]["items"], serde_json::json!([{"key": "ca.crt", "path": "ca.crt"}]));
}

/// A refused value: what is wrong, what helm is told, and what its complaint must name.
const REFUSED: [(&str, &str, &[&str]); 27] = [
    (
        "two relays on a file",
        "relay.replicas=2",
        &["relay.replicas is 2", "one SQLite file", "use ledger.engine postgres"],
    ),
    ("two operators on a file", "operator.replicas=2", &["operator.replicas is 2", "one SQLite file"]),
    ("no pod", "relay.replicas=0", &["/relay/replicas", "minimum"]),
    ("another engine", "ledger.engine=mysql", &["ledger.engine is \"mysql\"", "sqlite", "postgres"]),
    (
        "a job for a volume of one pod",
        "ledger.backup.enabled=true,ledger.backup.mode=CronJob",
        &["ReadWriteOncePod", "use the mode Sidecar"],
    ),
    ("copies at some time", "ledger.backup.every=often", &["every"]),
    (
        "files of a database",
        "ledger.engine=postgres,ledger.postgres.secretName=db,ledger.backup.enabled=true",
        &["ledger.backup.enabled", "RUNBOOK.md"],
    ),
    ("a database of nothing", "ledger.engine=postgres", &["ledger.postgres.secretName is empty", "<cluster>-app"]),
    (
        "a database and a file",
        "ledger.postgres.secretName=db-app",
        &["ledger.engine is sqlite, which would not use it"],
    ),
    ("plain for everybody", "relay.plain.enabled=true", &["relay.plain.networks is empty", "trusted"]),
    ("one port twice", "relay.ports.submissions=587", &["port 587 is used for submission and for submissions"]),
    (
        "no port",
        "relay.ports.submission=0,relay.ports.submissions=0,relay.ports.alternative=0",
        &["no mail could come in"],
    ),
    (
        "a grace that cuts off",
        "terminationGracePeriodSeconds=340",
        &["terminationGracePeriodSeconds is 340", "at least 350"],
    ),
    (
        "a message that outlives a stop",
        "relay.limits.drainSeconds=60",
        &["relay.budgetSeconds is 300 and relay.limits.drainSeconds is 60", "terminationGracePeriodSeconds"],
    ),
    (
        "a device's that does",
        "relay.plain.enabled=true,relay.plain.networks={10.0.0.0/8},relay.budgetSeconds=20,relay.limits.drainSeconds=20",
        &["relay.plain.budgetSeconds is 25 and relay.limits.drainSeconds is 20"],
    ),
    ("RSA alone", "relay.tls.rsaSecretName=old", &["relay.tls.rsaSecretName", "relay.tls.secretName"]),
    ("a CA of nothing", "relay.tls.privateCa=true", &["relay.tls.privateCa", "relay.tls.secretName"]),
    (
        "targets without a Service",
        "metrics.serviceMonitor.enabled=true,metrics.service.enabled=false",
        &["metrics.service.enabled"],
    ),
    ("a misspelt value", "replica=1", &["additional properties 'replica' not allowed"]),
    ("a misspelt value inside", "relay.limits.mesageBytes=5", &["/relay/limits", "'mesageBytes' not allowed"]),
    ("an impossible limit", "relay.limits.recipients=0", &["/relay/limits/recipients", "minimum"]),
    ("a word for a number", "relay.ports.submission=smtp", &["/relay/ports/submission", "integer"]),
    ("an unknown level", "log.level=loud", &["/log/level", "'debug'"]),
    ("half a digest", "image.digest=sha256:abc", &["/image/digest", "sha256:abc"]),
    (
        "an address for a network",
        "relay.plain.enabled=true,relay.plain.networks={10.1.2.3}",
        &["/relay/plain/networks/0", "10.1.2.3"],
    ),
    ("root", "runAsUser=0", &["/runAsUser", "minimum"]),
    ("a shared volume", "ledger.volume.accessMode=ReadWriteMany", &["/ledger/volume/accessMode", "'ReadWriteOncePod'"]),
];

#[test]
fn a_wrong_value_is_refused_with_words_that_name_it() {
    let plane = ControlPlane::shared();
    for (what, set, named) in REFUSED {
        let output = plane.helm(&["template", "franking", CHART, "--namespace", "mail", "--set", set]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{what} was accepted");
        for words in named {
            assert!(said.contains(words), "{what}: {said}");
        }
    }
}

/// The schema can be switched off by the user; what would lose credits cannot.
#[test]
fn two_pods_are_refused_without_the_schema_too() {
    let output = ControlPlane::shared().helm(&[
        "template",
        "franking",
        CHART,
        "--namespace",
        "mail",
        "--skip-schema-validation",
        "--set",
        "relay.replicas=2",
    ]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("one SQLite file"));
}

#[test]
fn the_process_takes_the_settings_that_the_chart_writes() {
    for (name, yaml) in GOOD {
        let objects = objects(&render("mail", &["--values", &values("settings", name, yaml)]));
        let data =
            |map: &str, key: &str| object(&objects, "ConfigMap", map)["data"][key].as_str().expect(key).to_owned();
        let relay = file(&format!("chart-{name}-relay-settings.yaml"), &data("franking-relay", "relay-settings.yaml"));
        let mounted = "/etc/franking/relay/relay-settings.yaml";
        let text = data("franking", "franking.yaml");
        assert!(text.contains(mounted), "{name}: franking.yaml does not name the mounted file");
        let settings = file(&format!("chart-{name}-franking.yaml"), &text.replace(mounted, &relay));
        let flags = Flags { config: Some(settings.into()), ..Flags::default() };
        let settings = config::load(&flags).unwrap_or_else(|refused| panic!("{name}: {refused}"));
        let fleet = settings.relay.fleet().unwrap_or_else(|refused| panic!("{name}: {refused}"));

        assert_eq!(settings.operator.namespace, "mail");
        assert_eq!(utf8(&settings.relay.config_file), "/run/franking/relay.yaml");
        let pod = &object(&objects, "StatefulSet", "franking")["spec"]["template"]["spec"];
        let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a grace period");
        assert!(grace > settings.stop_seconds, "{name}: killed before it has stopped");
        assert!(settings.stop_seconds > u64::from(fleet.limits.drain_seconds), "{name}: stopped before it has drained");
        let service = object(&objects, "Service", "franking-relay")["spec"]["ports"].as_array().expect("ports");
        let relay = &pod["containers"][1];
        assert_eq!(relay["name"], "relay");
        for port in service {
            let container =
                relay["ports"].as_array().expect("ports").iter().find(|own| own["name"] == port["targetPort"]);
            let number = container.expect("the Service leads to a named port")["containerPort"].as_u64();
            let listener = fleet.listeners.iter().find(|listener| Some(u64::from(listener.address.port())) == number);
            assert_eq!(listener.map(|listener| listener.name.as_str()), port["name"].as_str(), "{name}");
        }
        let advertised = service.iter().find(|port| port["port"] == fleet.advertise.port).expect("programs reach it");
        if name == "everything" {
            let Certificates::Files { files, .. } = &fleet.certificates else { panic!("no files") };
            assert_eq!(files.len(), 2, "one of the certificates is lost");
            assert!(fleet.listeners.iter().all(|listener| listener.proxy_from.len() == 2), "the balancers are lost");
            assert_eq!((fleet.limits.auth_delay_seconds, fleet.limits.metric_accounts), (4, 10));
        }
        let mode = if advertised["name"] == "submissions" { ListenerMode::Implicit } else { ListenerMode::StartTls };
        assert_eq!(fleet.advertise.mode, mode, "{name}");
        assert_eq!(matches!(fleet.certificates, Certificates::SelfSigned), name != "everything");
    }
}

/// Names that must meet, although no API server checks that they do.
#[test]
fn selectors_find_the_pod_and_ports_have_names_that_it_knows() {
    let text = format!("{EVERYTHING}\n    metrics: {{serviceMonitor: {{enabled: true}}}}\n");
    let text = text.replace("    metrics: {service: {annotations: {example.com/scrape: 'true'}}}\n", "");
    let objects = objects(&render("mail", &["--values", &values("names", "everything", &text)]));
    let set = &object(&objects, "StatefulSet", "franking")["spec"];
    let containers = set["template"]["spec"]["containers"].as_array().expect("containers");
    let ports: BTreeSet<&str> = containers
        .iter()
        .flat_map(|own| own["ports"].as_array().expect("ports"))
        .filter_map(|port| port["name"].as_str())
        .collect();
    let selected = |selector: &Value, labels: &Value| {
        selector.as_object().expect("a selector").iter().all(|(key, value)| &labels[key.as_str()] == value)
    };
    let pod = &set["template"]["metadata"]["labels"];
    assert!(selected(&set["selector"]["matchLabels"], pod));
    for name in ["franking-relay", "franking-metrics"] {
        let service = &object(&objects, "Service", name)["spec"];
        assert!(selected(&service["selector"], pod), "{name}");
        for port in service["ports"].as_array().expect("ports") {
            assert!(ports.contains(port["targetPort"].as_str().expect("a name")), "{name}: {port}");
        }
    }
    let policy = &object(&objects, "NetworkPolicy", "franking")["spec"];
    assert!(selected(&policy["podSelector"]["matchLabels"], pod));
    let let_in =
        policy["ingress"].as_array().expect("rules").iter().flat_map(|rule| rule["ports"].as_array().expect("ports"));
    // Nobody but the node has business with probes; see `chart_doors`.
    let others: BTreeSet<&str> = ports.iter().copied().filter(|port| !port.ends_with("-probes")).collect();
    assert_eq!(let_in.filter_map(|port| port["port"].as_str()).collect::<BTreeSet<_>>(), others);
    let monitor = &object(&objects, "ServiceMonitor", "franking")["spec"];
    let metrics = object(&objects, "Service", "franking-metrics");
    assert!(selected(&monitor["selector"]["matchLabels"], &metrics["metadata"]["labels"]));
    for endpoint in monitor["endpoints"].as_array().expect("endpoints") {
        let offered = metrics["spec"]["ports"].as_array().expect("ports");
        assert!(offered.iter().any(|port| port["name"] == endpoint["port"]), "{endpoint}");
    }
}

/// Who, what, and whether the chart's roles allow it in a namespace where they are bound.
const MATRIX: [(&str, &str, &str, bool); 38] = [
    // A tenant with the ordinary role edit.
    ("tenant", "create", "subaccountapikeys.franking.io", true),
    ("tenant", "delete", "subaccountapikeys.franking.io", true),
    ("tenant", "get", "subaccounts.franking.io", true),
    ("tenant", "create", "subaccounts.franking.io", false),
    ("tenant", "patch", "subaccounts.franking.io", false),
    ("tenant", "delete", "subaccounts.franking.io", false),
    ("tenant", "patch", "subaccountapikeys.franking.io/status", false),
    ("tenant", "patch", "subaccounts.franking.io/status", false),
    ("tenant", "get", "creditpolicies.franking.io", false),
    // A namespace's administrator is a tenant too.
    ("owner", "create", "subaccountapikeys.franking.io", true),
    ("owner", "patch", "subaccounts.franking.io", false),
    // A reader with the ordinary role view.
    ("reader", "list", "subaccountapikeys.franking.io", true),
    ("reader", "list", "subaccounts.franking.io", true),
    ("reader", "create", "subaccountapikeys.franking.io", false),
    ("reader", "get", "secrets", false),
    // The manager and the viewer of an account.
    ("manager", "create", "subaccountapikeys.franking.io", true),
    ("manager", "get", "subaccounts.franking.io", true),
    ("manager", "patch", "subaccounts.franking.io", false),
    ("manager", "get", "secrets", false),
    ("viewer", "get", "subaccountapikeys.franking.io", true),
    ("viewer", "patch", "subaccountapikeys.franking.io", false),
    ("viewer", "get", "secrets", false),
    // Nobody attaches an account to a plan or is generous with it but the platform team and whom it names.
    ("tenant", "use", "creditpolicies.franking.io", false),
    ("owner", "grant", "creditpolicies.franking.io", false),
    ("manager", "use", "creditpolicies.franking.io", false),
    // The platform team.
    ("platform", "use", "creditpolicies.franking.io", true),
    ("platform", "grant", "creditpolicies.franking.io", true),
    ("platform", "create", "creditpolicies.franking.io", true),
    ("platform", "patch", "subaccounts.franking.io", true),
    ("platform", "patch", "creditpolicies.franking.io/status", false),
    ("platform", "get", "secrets", false),
    // The operator: credentials everywhere, status, and no more.
    ("operator", "create", "secrets", true),
    ("operator", "patch", "subaccounts.franking.io/status", true),
    ("operator", "create", "creditpolicies.franking.io", false),
    ("operator", "delete", "subaccounts.franking.io", false),
    ("operator", "create", "configmaps", false),
    ("operator", "get", "pods", false),
    ("operator", "create", "rolebindings.rbac.authorization.k8s.io", false),
];

#[test]
fn everybody_may_write_what_the_design_says_and_nothing_else() {
    let plane = ControlPlane::shared();
    let (home, team) = ("chart-roles", "chart-roles-team");
    let namespaces = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {home}}}}}\n---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {team}}}}}"
    );
    let people = ["--set", "fullnameOverride=chart-roles", "--show-only", "templates/rbac-people.yaml"];
    let roles = identity::operator_rbac(home) + &render(home, &people);
    let bind = |user: &str, role: &str| {
        format!(
            "---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: {user}, namespace: {team}}}, \
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}, \
             subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {user}}}]}}\n"
        )
    };
    let bindings: String = [
        ("tenant", "edit"),
        ("owner", "admin"),
        ("reader", "view"),
        ("manager", "chart-roles-manager"),
        ("viewer", "chart-roles-viewer"),
    ]
    .map(|(user, role)| bind(user, role))
    .concat();
    let platform = format!(
        "---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {{name: {home}-team}}, \
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {home}-platform}}, \
         subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: platform}}]}}"
    );
    definitions(plane);
    for manifests in [namespaces, roles, bindings + &platform] {
        succeeded(plane.kubectl_stdin(&["apply", "--server-side", "-f", "-"], &manifests));
    }
    let operator = format!("system:serviceaccount:{home}:{home}");
    let may = |(who, verb, resource): (&str, &str, &str)| {
        let user = if who == "operator" { operator.as_str() } else { who };
        // To kubectl, resource/word is an object of that name.
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let part = format!("--subresource={part}");
        let output = plane.kubectl(&["auth", "can-i", verb, resource, &part, "--namespace", team, "--as", user]);
        match String::from_utf8_lossy(&output.stdout).trim() {
            "yes" => true,
            "no" => false,
            _ => panic!("kubectl said {output:?}"),
        }
    };
    // The controller manager aggregates roles a moment later, so what is allowed is waited for, and then what is not is judged.
    let deadline = Instant::now() + AGGREGATED;
    for (who, verb, resource, _) in MATRIX.into_iter().filter(|(.., allowed)| *allowed) {
        while !may((who, verb, resource)) {
            assert!(Instant::now() < deadline, "{who} may not {verb} {resource}");
            std::thread::sleep(POLL);
        }
    }
    for (who, verb, resource, _) in MATRIX.into_iter().filter(|(.., allowed)| !*allowed) {
        assert!(!may((who, verb, resource)), "{who} may {verb} {resource}");
    }
    // What prepare needs at home: the installation's keys and the ledger that it knows.
    for resource in ["configmaps", "secrets"] {
        succeeded(plane.kubectl(&["auth", "can-i", "create", resource, "--namespace", home, "--as", &operator]));
    }
}

#[tokio::test]
async fn the_operators_identity_may_do_its_work_and_is_nobody_else() {
    let plane = ControlPlane::shared();
    let (kubeconfig, client) = identity::operator(plane, "chart-identity").await;
    let secrets = kube::Api::<k8s_openapi::api::core::v1::Secret>::all(client);
    secrets.list(&Default::default()).await.expect("the operator watches its Secrets");
    let command = ["--kubeconfig", &utf8(&kubeconfig), "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
    assert_eq!(succeeded(plane.kubectl(&command)), "system:serviceaccount:chart-identity:chart-identity");
}

/// The definitions, which tests of one control plane share.
fn definitions(plane: &ControlPlane) {
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
    succeeded(plane.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", crds]));
    succeeded(plane.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]));
}
