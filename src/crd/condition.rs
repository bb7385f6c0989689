//! Conditions: their types, reasons and changes.
//!
//! `Ready` sums up. `Accepted` is true if the resource may be used as it is written. `Reconciling` and `Stalled` are
//! abnormal-true (kstatus): they exist only while they are true, so that no client waits for a condition that is fine.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{Schema, SchemaGenerator, json_schema};

use super::condition_type::ConditionType;
use super::reason::Reason;

/// Maximum characters of a message; the API conventions' own bound.
const MESSAGE_MAX: usize = 32_768;

/// Builds the next conditions from the present ones.
#[derive(Clone, Debug)]
pub struct Conditions<'a> {
    standing: &'a [Condition],
    generation: Option<i64>,
    now: Timestamp,
    next: Vec<(ConditionType, Condition)>,
}

impl<'a> Conditions<'a> {
    /// Starts from the present conditions. `generation` is the `metadata.generation` that was observed.
    pub fn new(standing: &'a [Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self { standing, generation, now, next: Vec::new() }
    }

    /// Sets a condition. `lastTransitionTime` changes only when the status does. An abnormal-true condition that is
    /// false is left out.
    #[must_use]
    pub fn set(self, kind: ConditionType, holds: bool, reason: Reason, message: impl Into<String>) -> Self {
        if !holds && kind.abnormal() {
            return self.without(kind);
        }
        self.put(kind, if holds { "True" } else { "False" }, reason, message.into())
    }

    /// Sets a condition to Unknown.
    #[must_use]
    pub fn unknown(self, kind: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        self.put(kind, "Unknown", reason, message.into())
    }

    /// Keeps a condition as it is, if it exists.
    #[must_use]
    pub fn keep(self, kind: ConditionType) -> Self {
        let mut this = self.without(kind);
        this.next.extend(find_condition(this.standing, kind).map(|standing| (kind, standing.clone())));
        this
    }

    fn without(mut self, kind: ConditionType) -> Self {
        self.next.retain(|(other, _)| *other != kind);
        self
    }

    fn put(self, kind: ConditionType, status: &str, reason: Reason, message: String) -> Self {
        let mut this = self.without(kind);
        let since = find_condition(this.standing, kind)
            .filter(|standing| standing.status == status)
            .map_or_else(|| Time(whole_seconds(this.now)), |standing| standing.last_transition_time.clone());
        this.next.push((
            kind,
            Condition {
                type_: kind.as_str().to_owned(),
                status: status.to_owned(),
                reason: reason.as_str().to_owned(),
                message: printable(&message).chars().take(MESSAGE_MAX).collect(),
                observed_generation: this.generation,
                last_transition_time: since,
            },
        ));
        this
    }

    /// Returns the conditions in the order of [`ConditionType`], so that equal ones compare equal. Those that were not
    /// set are dropped.
    pub fn build(mut self) -> Vec<Condition> {
        self.next.sort_by_key(|(kind, _)| *kind);
        self.next.into_iter().map(|(_, condition)| condition).collect()
    }
}

/// Returns the text with escapes for characters that a terminal obeys: control characters, and those that change the
/// direction of text (Unicode UAX #9). Conditions and Events contain tenants' own words, and administrators read both
/// in terminals.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}' => shown.extend(c.escape_unicode()),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => shown.extend(c.escape_unicode()),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Returns the condition of a type.
pub fn find_condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == kind.as_str())
}

/// Truncates a time to whole seconds, as Kubernetes sends times; a finer one would differ from what is read back.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Returns the schema of `status.conditions`, with the bounds of the API conventions.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": {
            "description": "One aspect of the current state.",
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": {
                    "description": "The aspect: Ready, Accepted, Programmed, Reconciling or Stalled; on a policy also UpstreamAvailable, SelfServiceUnbounded, SweepStopped and LedgerAhead.",
                    "type": "string", "maxLength": 316
                },
                "status": {
                    "description": "True, False or Unknown.",
                    "type": "string", "enum": ["True", "False", "Unknown"]
                },
                "reason": {
                    "description": "The reason in one word, for programs.",
                    "type": "string", "minLength": 1, "maxLength": 1024
                },
                "message": {
                    "description": "The reason and the remedy in a sentence, for people.",
                    "type": "string", "maxLength": MESSAGE_MAX
                },
                "observedGeneration": {
                    "description": "The metadata.generation that this condition was set for.",
                    "type": "integer", "format": "int64", "minimum": 0
                },
                "lastTransitionTime": {
                    "description": "Time of the last change of status.",
                    "type": "string", "format": "date-time"
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::new(second, 500_000_000).expect("a time")
    }

    fn ready(standing: &[Condition], holds: bool, message: &str, now: Timestamp) -> Vec<Condition> {
        Conditions::new(standing, Some(3), now).set(ConditionType::Ready, holds, Reason::Ready, message).build()
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let first = ready(&[], true, "a", at(100));
        let reworded = ready(&first, true, "b", at(200));
        let flipped = ready(&reworded, false, "c", at(300));
        let since = |conditions: &[Condition]| conditions[0].last_transition_time.0.as_second();
        assert_eq!((since(&first), since(&reworded), since(&flipped)), (100, 100, 300));
        assert_eq!(reworded[0].message, "b");
        assert_eq!(reworded[0].observed_generation, Some(3));
    }

    #[test]
    fn a_tenants_control_characters_reach_no_terminal() {
        let told = "\u{1b}[2J\"x\"\r\n\u{9b}31m\u{7f} gr\u{fc}n \u{202e}evil\u{2069}\u{2028}";
        let shown = ready(&[], false, told, at(100));
        let message = &shown[0].message;
        assert_eq!(message, "\\u{1b}[2J\"x\"\\r\\n\\u{9b}31m\\u{7f} gr\u{fc}n \\u{202e}evil\\u{2069}\\u{2028}");
        assert_eq!(ready(&shown, false, message, at(200)), shown, "what is printable stays as it is");
    }

    #[test]
    fn the_same_again_compares_equal_also_after_the_wire() {
        let first = ready(&[], true, "a", at(100));
        let wire = serde_json::to_value(&first).expect("json");
        let back: Vec<Condition> = serde_json::from_value(wire).expect("conditions");
        assert_eq!(ready(&back, true, "a", at(200)), first);
    }

    #[test]
    fn abnormal_conditions_exist_only_while_true_and_order_is_fixed() {
        let types = |conditions: Vec<Condition>| -> Vec<String> { conditions.into_iter().map(|c| c.type_).collect() };
        let stalled = Conditions::new(&[], None, at(1))
            .set(ConditionType::Stalled, true, Reason::Invalid, "")
            .set(ConditionType::Reconciling, false, Reason::Progressing, "")
            .set(ConditionType::Ready, false, Reason::Invalid, "")
            .build();
        assert_eq!(types(stalled), ["Ready", "Stalled"]);
        let healed = Conditions::new(&[], None, at(1))
            .set(ConditionType::Stalled, true, Reason::Invalid, "")
            .set(ConditionType::Stalled, false, Reason::Ready, "")
            .build();
        assert!(healed.is_empty());
    }
}
