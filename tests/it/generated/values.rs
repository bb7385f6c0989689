//! The page of the chart's values, from `values.yaml` and its comments.

use franking::crd::File;
use serde_yaml::Value;

use super::markdown::{code, page, table};

/// A value of the chart, as its file has it.
struct Entry {
    /// Such as `relay.service.type`.
    path: String,
    /// As it is written; empty for a group of values.
    default: String,
    comment: String,
}

pub fn file() -> File {
    let text = include_str!("../../../charts/franking/values.yaml");
    let entries = entries(text);
    agrees(&entries, &serde_yaml::from_str(text).expect("values are YAML"));
    let told = |path: &str| entries.iter().any(|entry| entry.path == path && !entry.comment.is_empty());
    for Entry { path, .. } in &entries {
        let group = path.rsplit_once('.').map_or("", |(group, _)| group);
        let is_resource = group.ends_with("resources") && told(group);
        assert!(told(path) || is_resource, "{path} has no comment `# -- …` in values.yaml that says what it is");
    }
    let rows = entries.iter().map(|entry| [code(&entry.path), code(&entry.default), entry.comment.clone()]);
    let about = "Values of the chart `charts/franking`, with their defaults. Which value to set for what: [the \
                 chart](../../charts/franking/README.md). A value that is not here is refused.";
    let parts = [about.to_owned(), table(["value", "default", "meaning"], rows)];
    page("chart-values.md", "Chart values", "charts/franking/values.yaml", &parts)
}

/// Reads the file by its indentation. A comment that begins with `# --` is the next value's.
fn entries(text: &str) -> Vec<Entry> {
    let mut entries = vec![];
    let mut above: Vec<(usize, &str)> = vec![];
    let mut comment: Option<String> = None;
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(first) = content.strip_prefix("# -- ") {
            comment = Some(first.to_owned());
        } else if let Some(next) = content.strip_prefix("# ") {
            if let Some(comment) = &mut comment {
                comment.extend([" ", next]);
            }
        } else if let Some((name, default)) = content.split_once(':') {
            above.retain(|(outer, _)| *outer < indent);
            above.push((indent, name));
            let path = above.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(".");
            let (default, comment) = (default.trim().to_owned(), comment.take().unwrap_or_default());
            if !(default.is_empty() && comment.is_empty()) {
                entries.push(Entry { path, default, comment });
            }
        } else {
            comment = None;
        }
    }
    entries
}

/// Each value of the file is an entry with the default that YAML reads there, and no entry is anything else.
fn agrees(entries: &[Entry], values: &Value) {
    let at = |path: &str| path.split('.').try_fold(values, |value, name| value.get(name));
    for Entry { path, default, .. } in entries {
        let found = at(path).unwrap_or_else(|| panic!("{path} is no value"));
        if !default.is_empty() {
            assert_eq!(&serde_yaml::from_str::<Value>(default).expect(path), found, "{path}");
        }
    }
    let shown = |path: &str| entries.iter().any(|entry| entry.path == path && !entry.default.is_empty());
    let mut left = vec![(String::new(), values)];
    while let Some((path, value)) = left.pop() {
        if shown(&path) {
            continue;
        }
        let group = value.as_mapping().unwrap_or_else(|| panic!("{path} is not on the page"));
        left.extend(group.iter().map(|(name, value)| {
            let name = name.as_str().expect("a name");
            (if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }, value)
        }));
    }
}
