//! The chart as helm renders it, for the tests of the chart and for all that run under its rules.

use std::path::Path;

use serde_json::Value;

use super::control_plane::{ControlPlane, succeeded};

/// Where the chart is.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/franking");

/// What the chart renders for release `franking` in `namespace`. `arguments` are helm's own, such as `--set` and its value.
#[track_caller]
pub fn render(namespace: &str, arguments: &[&str]) -> String {
    let command = ["template", "franking", CHART, "--namespace", namespace];
    succeeded(ControlPlane::shared().helm(&[&command, arguments].concat()))
}

/// Every object of a text with several YAML documents.
pub fn objects(manifests: &str) -> Vec<Value> {
    use serde::Deserialize as _;
    serde_yaml::Deserializer::from_str(manifests)
        .map(|document| Value::deserialize(document).expect("helm and examples write YAML"))
        .filter(|object| !object.is_null())
        .collect()
}

/// The one object of this kind and name.
#[track_caller]
pub fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let first = found.next().unwrap_or_else(|| panic!("no {kind} {name} is rendered"));
    assert!(found.next().is_none(), "{kind} {name} is rendered twice");
    first
}

/// Writes `text` under the control plane's folder, so that it goes with it, and gives the path.
pub fn file(name: &str, text: &str) -> String {
    let path = ControlPlane::shared().base_dir().join(name);
    std::fs::write(&path, text).expect("the control plane's folder can be written");
    utf8(&path)
}

pub fn utf8(path: &Path) -> String {
    path.to_str().expect("a temporary folder has a UTF-8 name").to_owned()
}
