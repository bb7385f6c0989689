//! The alerts that are ready to paste: every metric and label that they name is one that a process serves.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::chart::objects;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The labels of each metric, as the reference has them, which another test holds equal to the code.
fn reference() -> BTreeMap<String, BTreeSet<String>> {
    let page = read("docs/reference/metrics.md");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let labels = cells.nth(1)?.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        Some((name, labels.filter(|label| !label.is_empty()).collect()))
    });
    rows.collect()
}

/// The words of an expression, each with the character behind it.
fn words(expression: &str) -> Vec<(&str, char)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = vec![];
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let end = rest[start..].find(|c| !is_word(c)).map_or(rest.len(), |length| start + length);
        let behind = rest[end..].trim_start().chars().next().unwrap_or(' ');
        found.push((&rest[start..end], behind));
        rest = &rest[end..];
    }
    found
}

/// What is wrong with an expression.
fn wrong(expression: &str, known: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let words = words(expression);
    let metrics: BTreeSet<&str> =
        words.iter().map(|(word, _)| *word).filter(|word| word.starts_with("franking_")).collect();
    let mut said: Vec<String> =
        metrics.iter().filter(|name| !known.contains_key(**name)).map(|name| format!("there is no {name}")).collect();
    if metrics.is_empty() {
        said.push("it names no metric of Franking's".to_owned());
    }
    let labels: BTreeSet<&str> =
        metrics.iter().filter_map(|name| known.get(*name)).flatten().map(String::as_str).collect();
    let grouped = ["by (", "ignoring (", "on ("].into_iter().flat_map(|opening| expression.split(opening).skip(1));
    let grouped = grouped.filter_map(|rest| rest.split(')').next()).flat_map(|list| list.split(','));
    let matched = words.iter().filter(|(_, behind)| *behind == '=').map(|(word, _)| *word);
    let matched =
        matched.filter(|word| !word.chars().all(|c| c.is_ascii_digit()) && expression.contains(&format!("{word}=\"")));
    for label in grouped.map(str::trim).chain(matched) {
        if !labels.contains(label) {
            said.push(format!("none of its metrics has the label {label}"));
        }
    }
    said
}

#[test]
fn every_alert_names_metrics_and_labels_that_are_served() {
    let rules = objects(&read("examples/alerts/rules.yaml"));
    let rules = rules[0]["spec"]["groups"][0]["rules"].as_array().expect("rules");
    let known = reference();
    assert!(known.len() > 40, "the reference was not understood");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for rule in rules {
        let (name, expression) = (text(&rule["alert"]), text(&rule["expr"]));
        assert_eq!(wrong(&expression, &known), Vec::<String>::new(), "{name}: {expression}");
        assert!(
            !text(&rule["annotations"]["summary"]).is_empty() && !text(&rule["labels"]["severity"]).is_empty(),
            "{name}"
        );
    }
    // And so do the rows of the page, each of which has its alert.
    let page = read("docs/operating.md");
    let rows: Vec<&str> = page
        .lines()
        .skip_while(|line| *line != "| expression | means | see |")
        .skip(2)
        .map_while(|line| line.strip_prefix("| "))
        .collect();
    assert!(rows.len() >= 6, "{rows:?}");
    let alerted: String = rules.iter().map(|rule| text(&rule["expr"])).collect();
    for row in rows {
        let expressions = row.split(" | ").next().unwrap_or_default().split('`').skip(1).step_by(2);
        for expression in expressions {
            assert_eq!(wrong(expression, &known), Vec::<String>::new(), "{expression}");
            let (metric, _) =
                words(expression).into_iter().find(|(word, _)| word.starts_with("franking_")).expect("a metric");
            assert!(alerted.contains(metric), "no alert of examples/alerts/ has {metric}");
        }
    }
}

#[test]
fn a_metric_or_a_label_that_is_not_served_is_found() {
    let known = reference();
    for (expression, complaint) in [
        ("franking_ledger_lost == 1", "there is no franking_ledger_lost"),
        ("max by (tenant) (franking_upstream_breaker) == 2", "none of its metrics has the label tenant"),
        ("franking_policy_credits{kind=\"remaining\"} == 0", "none of its metrics has the label kind"),
        ("up == 0", "it names no metric of Franking's"),
    ] {
        assert_eq!(wrong(expression, &known), [complaint], "{expression}");
    }
}
