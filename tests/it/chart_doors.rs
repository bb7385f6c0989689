//! Which ports of the pods are open to whom, with the values as they are.

use serde_json::Value;

use crate::support::chart::{object, objects, render};

const APART: [&str; 4] = ["--set", "ledger.engine=postgres", "--set", "ledger.postgres.secretName=ledger-app"];

/// Each kind of pod that the chart or the operator makes, with its NetworkPolicy: of the single pod, and apart of the
/// operator's. The fleet's container is the operator's to make, and tested with it.
fn pods() -> Vec<(&'static str, Value, Value)> {
    let single = objects(&render("mail", &[]));
    let apart = objects(&render("mail", &APART));
    let pod =
        |objects: &[Value], kind: &str, name: &str| object(objects, kind, name)["spec"]["template"]["spec"].clone();
    let policy = |objects: &[Value], name: &str| object(objects, "NetworkPolicy", name)["spec"].clone();
    vec![
        ("the single pod", pod(&single, "StatefulSet", "franking"), policy(&single, "franking")),
        ("the operator", pod(&apart, "Deployment", "franking-operator"), policy(&apart, "franking-operator")),
    ]
}

#[test]
fn probes_have_a_port_of_their_own_that_no_policy_opens() {
    for (what, pod, policy) in pods() {
        for container in pod["containers"].as_array().expect("containers") {
            let own = format!("{}-probes", container["name"].as_str().expect("a name"));
            let probes = ["startupProbe", "readinessProbe", "livenessProbe"].map(|probe| &container[probe]["httpGet"]);
            let probes: Vec<&Value> = probes.into_iter().filter(|probe| !probe.is_null()).collect();
            assert_eq!(probes.len(), 2, "{what}: {container}");
            assert!(probes.iter().all(|probe| probe["port"] == own.as_str()), "{what}: {probes:?}");
            let port = container["ports"].as_array().expect("ports").iter().find(|port| port["name"] == own.as_str());
            let number = port.expect("its port")["containerPort"].to_string();
            let address = container["env"].as_array().expect("env").iter();
            let address = address.clone().find(|variable| variable["name"] == "FRANKING_PROBES_ADDRESS");
            let address = address.expect("where it listens")["value"].as_str().expect("an address");
            assert!(address.ends_with(&format!(":{number}")), "{what}: {address} and {number}");
        }
        assert!(!policy.to_string().contains("-probes"), "{what}: {policy}");
    }
}

#[test]
fn ingress_is_closed_by_default_but_for_mail_and_metrics() {
    let apart = objects(&render("mail", &APART));
    let fleet = object(&apart, "NetworkPolicy", "franking-relay")["spec"].clone();
    let policies = pods().into_iter().map(|(what, _, policy)| (what, policy)).chain([("the fleet", fleet)]);
    for (what, policy) in policies {
        assert_eq!(policy["policyTypes"], serde_json::json!(["Ingress"]), "{what}");
        assert!(policy["egress"].is_null(), "{what}");
        for rule in policy["ingress"].as_array().expect("rules") {
            let ports = rule["ports"].as_array().expect("ports");
            assert!(!ports.is_empty(), "{what}: a rule without ports opens all of them");
            let metrics = ports.iter().all(|port| port["port"].as_str().is_some_and(|port| port.ends_with("-http")));
            assert!(!metrics || rule["from"].is_array(), "{what}: metrics are open to the world");
        }
    }
    let closed = objects(&render("mail", &["--set", "networkPolicy.enabled=false"]));
    assert!(closed.iter().all(|object| object["kind"] != "NetworkPolicy"));
    let egress = objects(&render("mail", &["--set", "networkPolicy.egress=true"]));
    let policy = &object(&egress, "NetworkPolicy", "franking")["spec"];
    assert_eq!(policy["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    assert!(policy["egress"].is_array());
}
