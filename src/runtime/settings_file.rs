//! Reading of settings files.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

/// Maximum octets of a settings file: it is a page, and 1 MiB is also all that a ConfigMap can hold.
pub(super) const FILE_MAX: u64 = 1024 * 1024;

/// The reason why a start was refused: one sentence that names the setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl Refused {
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into().replace('\n', " "))
    }
}

/// Reads one YAML file of bounded size; its type refuses unknown keys.
pub(super) fn parse_file<T: for<'de> Deserialize<'de> + Default>(path: &Path) -> Result<T, Refused> {
    let refused = |what: &dyn fmt::Display| Refused::new(format!("settings file {}: {what}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| refused(&error))?.len();
    if length > FILE_MAX {
        return Err(refused(&format_args!("{length} octets are more than the {FILE_MAX} that are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| refused(&error))?;
    // An empty file is a file without keys, not an error.
    serde_yaml::from_str::<Option<T>>(&text).map(Option::unwrap_or_default).map_err(|error| refused(&error))
}
