//! The commands that the docs say to run inside a pod, compared with the pod that the chart makes.

use serde_json::Value;

use crate::support::chart::{object, objects, render};

const PAGE: &str = include_str!("../../docs/credits-and-billing.md");
const RUNBOOK: &str = include_str!("../../charts/franking/RUNBOOK.md");

/// What is run in the operator's container of a workload's pod, with the settings that it runs with itself.
fn inside(workload: &Value, command: &str) -> String {
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array().expect("containers");
    let operator =
        containers.iter().find(|container| container["name"] == "operator").expect("the operator's container");
    let args: Vec<&str> = operator["args"].as_array().expect("arguments").iter().filter_map(Value::as_str).collect();
    let [_, flag, path] = args.as_slice() else { panic!("{args:?}") };
    format!("/franking {command} {flag} {path}")
}

#[test]
fn the_command_that_prints_the_trail_finds_the_ledger_in_the_pods_of_either_engine() {
    let one = objects(&render("franking-system", &[]));
    let pod = object(&one, "StatefulSet", "franking");
    let command = inside(pod, "ledger events");
    let exec =
        format!("kubectl exec --namespace franking-system franking-0 --container operator -- \\\n      {command}\n");
    assert!(PAGE.contains(&exec), "{exec}");
    assert!(RUNBOOK.contains(&inside(pod, "ledger check")));

    let apart = ["--set", "ledger.engine=postgres,ledger.postgres.secretName=ledger"];
    let apart = objects(&render("franking-system", &apart));
    assert_eq!(inside(object(&apart, "Deployment", "franking-operator"), "ledger events"), command);
    assert!(PAGE.contains("`deployment/franking-operator` instead of `franking-0`"));
}
