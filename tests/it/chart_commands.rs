//! The commands that the docs say to run inside a pod, compared with the pod that the chart makes.

use franking::runtime::cli;
use serde_json::Value;

use crate::support::chart::{object, objects, render};

const PAGE: &str = include_str!("../../docs/credits-and-billing.md");
const RUNBOOK: &str = include_str!("../../charts/franking/RUNBOOK.md");

/// Of the pod of a workload, the container of this name.
fn container<'a>(workload: &'a Value, name: &str) -> &'a Value {
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array().expect("containers");
    containers.iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no container {name}"))
}

/// What is run in the operator's container of a workload's pod, with the settings that it runs with itself.
fn inside(workload: &Value, command: &str) -> String {
    let operator = container(workload, "operator");
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

    let command = inside(pod, "ledger costs --policy company --period 2026-11");
    for pod in ["franking-0", "deployment/franking-operator"] {
        let exec =
            format!("kubectl exec --namespace franking-system {pod} --container operator -- \\\n      {command}\n");
        assert!(PAGE.contains(&exec), "{exec}");
    }
}

/// `kubectl exec` commands of a page: the container, and what is run in it.
fn commands(page: &str) -> Vec<(&str, Vec<&str>)> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("    kubectl exec -n franking-system franking-0 -c "));
    lines
        .filter_map(|line| line.split_once(" -- "))
        .map(|(container, run)| (container, run.split_whitespace().collect()))
        .collect()
}

#[test]
fn the_runbooks_commands_for_backups_find_their_files_in_the_containers_that_they_name() {
    let objects = objects(&render("mail", &["--set", "ledger.backup.enabled=true"]));
    let pod = object(&objects, "StatefulSet", "franking");
    let found = commands(RUNBOOK);
    let backups = |run: &[&str]| {
        run.starts_with(&["/franking", "ledger", "backups"]) || run.starts_with(&["/franking", "ledger", "backup"])
    };
    let found: Vec<_> = found.into_iter().filter(|(_, run)| backups(run)).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    for (name, run) in found {
        let mounts = container(pod, name)["volumeMounts"].as_array().expect("mounts").clone();
        let writable = |path: &str| {
            let mut mounts = mounts.iter().filter(|mount| mount["readOnly"] != true);
            mounts.any(|mount| mount["mountPath"].as_str().is_some_and(|at| std::path::Path::new(path).starts_with(at)))
        };
        assert!(writable(run[3]), "{name} has no {}", run[3]);
        // The ledger's path is in the settings.
        let needs_settings = !run.contains(&"--list");
        let settings = ["--config", "/etc/franking/settings/franking.yaml"];
        assert_eq!(run.ends_with(&settings), needs_settings, "{run:?}");
        let parsed = cli::parse(run.iter().map(Into::into)).unwrap_or_else(|refused| panic!("{run:?}: {refused}"));
        assert!(matches!(parsed, cli::Asked::Run(_)), "{run:?}");
    }
}
