//! Namespaces that may attach accounts to a policy, by their labels.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};
use schemars::{Schema, SchemaGenerator, json_schema};

use super::problem::Problem;
use super::reference::{is_label_text, is_qualified_name};

/// The namespaces that may attach accounts.
#[derive(Clone, Debug)]
pub enum NamespaceRule {
    All,
    Matching(Selector),
}

impl NamespaceRule {
    /// Checks whether a namespace with these labels may attach accounts.
    pub fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All => true,
            Self::Matching(selector) => selector.matches(labels),
        }
    }

    pub(super) fn matching(selector: &LabelSelector, field: &str) -> Result<Self, Problem> {
        let expressions = selector.match_expressions.iter().flatten();
        let labels = selector.match_labels.iter().flatten();
        for key in labels.clone().map(|(key, _)| key).chain(expressions.clone().map(|expression| &expression.key)) {
            if !is_qualified_name(key) {
                return Err(Problem::new(field, format!("\"{key}\" is not a label such as team or example.com/team")));
            }
        }
        let listed = expressions.clone().flat_map(|expression| expression.values.iter().flatten());
        if let Some(value) = labels.map(|(_, value)| value).chain(listed).find(|value| !is_label_text(value)) {
            return Err(Problem::new(field, format!("\"{value}\" is not the value of a label")));
        }
        for expression in expressions {
            let values = expression.values.as_ref().map_or(0, Vec::len);
            // In or NotIn without values, or Exists with some, is a mistake that would select the wrong namespaces.
            let fits = match expression.operator.as_str() {
                "In" | "NotIn" => values > 0,
                "Exists" | "DoesNotExist" => values == 0,
                _ => false,
            };
            if !fits {
                return Err(Problem::new(
                    field,
                    format!("\"{}\": write In or NotIn with values, or Exists or DoesNotExist without", expression.key),
                ));
            }
        }
        let selector = Selector::try_from(selector.clone())
            .map_err(|error| Problem::new(field, format!("write a label selector that Kubernetes takes: {error}")))?;
        Ok(Self::Matching(selector))
    }
}

/// Returns the schema of a label selector with bounds, which that of Kubernetes lacks.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels that a namespace must have, with these values.",
                "type": "object", "maxProperties": 16,
                "additionalProperties": { "type": "string", "maxLength": 63 }
            },
            "matchExpressions": {
                "description": "Conditions on labels; all must hold.",
                "type": "array", "maxItems": 16, "x-kubernetes-list-type": "atomic",
                "items": {
                    "description": "A condition on one label.",
                    "type": "object", "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "Name of the label.",
                            "type": "string", "minLength": 1, "maxLength": 317
                        },
                        "operator": {
                            "description": "In or NotIn, with values; Exists or DoesNotExist, without.",
                            "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]
                        },
                        "values": {
                            "description": "Values that the label is compared with.",
                            "type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic",
                            "items": { "type": "string", "maxLength": 63 }
                        }
                    }
                }
            }
        }
    })
}
