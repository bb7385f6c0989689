//! Names of other objects.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// A reference to another object by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("write the name of an object: lower-case letters, digits, - and ."))]
    pub name: String,
}

impl LocalRef {
    pub(super) fn check(&self, field: &str) -> Result<String, Problem> {
        if is_object_name(&self.name) {
            Ok(self.name.clone())
        } else {
            Err(Problem::new(
                format!("{field}.name"),
                "write the name of an object: lower-case letters, digits, - and .",
            ))
        }
    }
}

/// Checks whether `text` is a DNS label (RFC 1123) in lower case: at most 63 letters, digits and inner hyphens.
pub fn is_dns_label(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Checks whether `text` is a host name: dot-separated DNS labels of at most 253 characters together.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Checks whether `text` is a name that Kubernetes accepts for a Secret or a resource of ours ("DNS subdomain name"):
/// at most 253 characters; unlike in a host name, each part between the dots may have all of them.
pub fn is_object_name(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let part = |text: &str| {
        edge(text.bytes().next())
            && edge(text.bytes().last())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// Checks whether `text` may be the key of a label or an annotation: `name` or `prefix/name`.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, name)) if is_dns_subdomain(prefix) => name,
        Some(_) => return false,
        None => text,
    };
    is_label_text(name) && !name.is_empty()
}

/// Checks whether `text` may be a label's value: at most 63 characters, letters or digits at both ends.
pub(crate) fn is_label_text(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_none_or(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_kubernetes_takes() {
        for good in ["a", "printer-7", "a.b.c", "0"] {
            assert!(is_dns_subdomain(good), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", ".a", "a_b", "a b", &"a".repeat(64)] {
            assert!(!is_dns_subdomain(bad), "{bad}");
        }
        assert!(is_object_name(&"a".repeat(64)) && is_object_name(&"a".repeat(253)) && is_object_name("a.b-c.0"));
        for bad in ["", "A", "-a", "a-", "a..b", ".a", "a_b", "a b", &"a".repeat(254)] {
            assert!(!is_object_name(bad), "{bad}");
        }
    }

    #[test]
    fn label_keys_and_values_are_what_kubernetes_takes() {
        for good in ["app", "app.kubernetes.io/name", "Team_1"] {
            assert!(is_qualified_name(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A.b/c", "-a", "a b"] {
            assert!(!is_qualified_name(bad), "{bad}");
        }
        assert!(is_label_text("") && is_label_text("v1.2_3") && !is_label_text("-v") && !is_label_text("a b"));
    }
}
