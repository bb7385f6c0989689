//! The life of an installation: helm installs, upgrades and uninstalls the chart on a control plane of its own.

use crate::support::chart::CHART;
use crate::support::control_plane::{ControlPlane, Options, succeeded};

const NAMESPACE: &str = "franking-system";
const KINDS: [&str; 3] = ["creditpolicies.franking.io", "subaccounts.franking.io", "subaccountapikeys.franking.io"];

fn helm(plane: &ControlPlane, verb: &str, arguments: &[&str]) -> String {
    let chart = if verb == "uninstall" { [].as_slice() } else { &[CHART] };
    succeeded(plane.helm(&[&[verb, "franking", "--namespace", NAMESPACE], chart, arguments].concat()))
}

fn read(plane: &ControlPlane, what: &[&str], path: &str) -> String {
    let output = format!("--output=jsonpath={path}");
    succeeded(plane.kubectl(&[&["get"], what, &["--namespace", NAMESPACE, &output]].concat()))
}

#[test]
fn accounts_outlive_every_upgrade_and_the_chart_itself() {
    let plane = ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let namespace = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}, \
         labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
    );
    succeeded(plane.kubectl_stdin(&["apply", "-f", "-"], &namespace));

    let notes = helm(&plane, "install", &[]);
    assert!(notes.contains("ServiceUnavailable") && notes.contains("Apply again."), "{notes}");
    for words in ["is installed into namespace", "kubectl apply --filename examples/sink/", "no default StorageClass"] {
        assert!(notes.contains(words), "{notes}");
    }
    for kind in KINDS {
        succeeded(plane.kubectl(&["wait", "--for=condition=Established", "crd", kind, "--timeout=60s"]));
    }
    // The StatefulSet's own controller makes the pod, and admission lets it in: nothing schedules it here.
    succeeded(plane.kubectl(&["wait", "--for=create", "pod/franking-0", "--namespace", NAMESPACE, "--timeout=60s"]));
    assert_eq!(read(&plane, &["pod", "franking-0"], "{.spec.serviceAccountName}"), "franking");
    // A token that the service account's admission would add by itself has its own volume name.
    assert!(!read(&plane, &["pod", "franking-0"], "{.spec.volumes[*].name}").contains("kube-api-access"));
    assert_eq!(read(&plane, &["pvc", "ledger-franking-0"], "{.spec.accessModes[0]}"), "ReadWriteOncePod");
    let quickstart = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart.yaml");
    succeeded(plane.kubectl_after_install(&["apply", "--filename", quickstart]));

    // Settings make a new pod; what the relay follows live does not.
    let template = || read(&plane, &["statefulset", "franking"], "{.spec.template.metadata.annotations}");
    let first = template();
    let notes = helm(&plane, "upgrade", &["--set", "relay.limits.recipients=50"]);
    assert!(notes.contains("is upgraded in namespace") && !notes.contains("examples/sink/"), "{notes}");
    assert_eq!(template(), first);
    helm(&plane, "upgrade", &["--set", "log.level=debug"]);
    assert_ne!(template(), first);
    kept(&plane);

    // Another engine, and back: clients find the relay where it was.
    let address = || read(&plane, &["service", "franking-relay"], "{.metadata.uid} {.spec.clusterIP}");
    let before = address();
    assert!(before.contains(' ') && !before.ends_with(' '), "{before}");
    helm(&plane, "upgrade", &["--set", "ledger.engine=postgres,ledger.postgres.secretName=ledger-app"]);
    assert!(read(&plane, &["statefulset"], "{.items}").trim() == "[]", "the one pod stays beside the others");
    assert_eq!(address(), before);
    helm(&plane, "upgrade", &[]);
    assert_eq!(address(), before);
    kept(&plane);

    // Neither a change of mind about the definitions nor the end of the release takes accounts away.
    helm(&plane, "upgrade", &["--set", "crds.install=false"]);
    kept(&plane);
    helm(&plane, "uninstall", &[]);
    kept(&plane);
    // Who installs again finds them, and the ledger's volume.
    helm(&plane, "install", &[]);
    kept(&plane);
    assert_eq!(read(&plane, &["pvc", "ledger-franking-0"], "{.metadata.name}"), "ledger-franking-0");
}

/// The definitions are there with their annotation, and so is every key of the quick start.
fn kept(plane: &ControlPlane) {
    for kind in KINDS {
        let policy = read(plane, &["crd", kind], "{.metadata.annotations.helm\\.sh/resource-policy}");
        assert_eq!(policy, "keep", "{kind}");
    }
    let keys = succeeded(plane.kubectl(&["get", "subaccountapikeys", "--all-namespaces", "--output", "name"]));
    assert_eq!(keys.lines().count(), 3, "{keys}");
}
