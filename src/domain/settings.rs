//! Fields of a spec that no relay judges by, kept so that the audit trail can report their old and new values.
//!
//! They are configuration, never a secret: a text that could hold one is only kept as a digest.

use std::collections::BTreeMap;

use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Maximum characters of one text. A longer one keeps its beginning and a digest of the whole, so that a change beyond
/// the cut still counts.
const TEXT_CHARS: usize = 512;

/// The fields that are set, by their path below `spec`. The resource's schema bounds their number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(BTreeMap<String, Value>);

impl Settings {
    /// Keeps those of `fields` that are set: neither null nor an empty list.
    pub fn of<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        let set = fields
            .into_iter()
            .filter(|(_, value)| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
        Self(set.map(|(field, value)| (field.to_owned(), bounded(value))).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns empty settings in place of those of a holder that is out of service: addresses are personal data.
    pub fn erased(settings: Option<&Self>) -> Option<Self> {
        settings.map(|_| Self::default())
    }

    /// Returns the settings that an entry keeps. `standing` is those of the present entry: `Some(None)` if a version of
    /// Franking without settings wrote it. Such an entry is not rewritten only to say that nothing is set.
    pub fn kept(self, standing: Option<&Option<Self>>) -> Option<Self> {
        match standing {
            Some(None) if self.is_empty() => None,
            Some(_) | None => Some(self),
        }
    }
}

/// Octets of the SHA-256 that tell two values of a field apart: too many for two values with the same ones to be found.
const DIGEST_OCTETS: usize = 16;

/// The beginning of a digest.
pub const DIGEST: &str = "(digest ";

/// Returns a digest that stands for a text that must not be shown. A reader who guesses the text can confirm the guess.
pub fn digest_of(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let hex: String = digest.as_ref().iter().take(DIGEST_OCTETS).map(|octet| format!("{octet:02x}")).collect();
    format!("{DIGEST}{hex})")
}

/// Cuts long texts. A long object, such as labels, becomes one text.
fn bounded(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(cut(text)),
        object @ Value::Object(_) => {
            let text = object.to_string();
            if text.chars().count() <= TEXT_CHARS { object } else { Value::String(cut(text)) }
        }
        Value::Array(items) => Value::Array(items.into_iter().map(bounded).collect()),
        value @ (Value::Null | Value::Bool(_) | Value::Number(_)) => value,
    }
}

fn cut(text: String) -> String {
    if text.chars().count() <= TEXT_CHARS {
        return text;
    }
    let beginning: String = text.chars().take(TEXT_CHARS).collect();
    format!("{beginning}… {}", digest_of(&text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_set_is_left_out_and_a_long_text_is_told_apart_beyond_its_cut() {
        let long = |end: &str| Settings::of([("selector", json!({"a": "x".repeat(600), "b": end}))]);
        assert_eq!(long("1"), long("1"));
        assert_ne!(long("1"), long("2"));
        assert!(long("1").get("selector").and_then(Value::as_str).is_some_and(|text| text.chars().count() < 560));
        let few = Settings::of([("a", json!(null)), ("b", json!([])), ("c", json!(false)), ("d", json!(["x"]))]);
        assert_eq!(few.fields().collect::<Vec<_>>(), ["c", "d"]);
    }

    #[test]
    fn an_entry_of_an_older_version_is_not_written_again_to_say_that_nothing_is_set() {
        assert_eq!(Settings::default().kept(Some(&None)), None);
        assert_eq!(Settings::default().kept(None), Some(Settings::default()));
        assert_eq!(Settings::default().kept(Some(&Some(Settings::default()))), Some(Settings::default()));
        let some = Settings::of([("a", json!(1))]);
        assert_eq!(some.clone().kept(Some(&None)), Some(some));
    }
}
