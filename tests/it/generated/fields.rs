//! A page for each kind: its fields, from the OpenAPI schema of its definition, as `kubectl explain` shows them.

use franking::crd::File;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value};

use super::markdown::{code, page, table};

pub fn file(crd: &CustomResourceDefinition) -> File {
    let names = &crd.spec.names;
    let value = serde_json::to_value(crd).expect("a definition is JSON");
    let schema = value.pointer("/spec/versions/0/schema/openAPIV3Schema").expect("a schema");
    let about = format!(
        "{} {}. `kubectl explain {}` says the same. Short name: {}.",
        text(schema, "description"),
        if crd.spec.scope == "Cluster" { "Cluster-scoped" } else { "Namespaced" },
        names.singular.as_deref().unwrap_or(&names.plural),
        names.short_names.iter().flatten().map(|name| code(name)).collect::<Vec<_>>().join(", "),
    );
    let section = |name: &str| {
        let part = &schema["properties"][name];
        let mut rows = vec![];
        collect(name, part, &mut rows);
        format!("## {name}\n\n{}\n\n{}", described(part), table(["field", "type", "meaning"], rows))
    };
    let title = names.kind.as_str();
    page(&format!("{}.md", names.plural), title, "src/crd/", &[about, section("spec"), section("status")])
}

/// A row for each field below `schema`, with its path from the object's root.
fn collect(path: &str, schema: &Value, rows: &mut Vec<[String; 3]>) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, field) in properties {
        let (path, item) = match field["items"].as_object() {
            Some(_) => (format!("{path}.{name}[]"), &field["items"]),
            None => (format!("{path}.{name}"), field),
        };
        let must = if required.contains(&name.as_str()) { ", required" } else { "" };
        let mut meaning = described(field);
        if name == "conditions" {
            meaning.push_str(" See [Conditions and reasons](conditions.md).");
        }
        rows.push([code(&path), format!("{}{must}", type_of(field)), meaning]);
        if name != "conditions" {
            collect(&path, item, rows);
        }
    }
}

/// The description, and what its rules say to write instead of what they refuse.
fn described(schema: &Value) -> String {
    let mut meaning = text(schema, "description").to_owned();
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    for rule in rules {
        meaning.push_str(&format!(" Rule: \u{201c}{}\u{201d}.", text(rule, "message")));
    }
    meaning
}

fn type_of(schema: &Value) -> String {
    let bounds = schema.as_object().map(bounds).unwrap_or_default();
    let plain = match text(schema, "type") {
        "array" => format!("list of {}", type_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("map of {}", type_of(&schema["additionalProperties"]))
        }
        other => other.to_owned(),
    };
    format!("{plain}{bounds}")
}

/// Bounds in the schema's own words.
fn bounds(schema: &Map<String, Value>) -> String {
    let choices = schema.get("enum").and_then(Value::as_array).map(|choices| {
        let choices: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
        format!(": {}", choices.join(", "))
    });
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let range = match (number("minimum"), number("maximum")) {
        (Some(least), Some(most)) => Some(format!(" from {least} to {most}")),
        (Some(least), None) => Some(format!(" of at least {least}")),
        (None, Some(most)) => Some(format!(" of at most {most}")),
        (None, None) => None,
    };
    let most = |name: &str, what: &str| number(name).map(|most| format!(", at most {most} {what}"));
    let sizes = [most("maxLength", "characters"), most("maxItems", "entries"), most("maxProperties", "entries")];
    [choices, range].into_iter().chain(sizes).flatten().collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}
