//! The settings that an edit changed, with the old and the new value, for the audit trail. Pure.
//!
//! Limits, rates, prices, grants and suspensions have rows of their own ([`audit`](super::audit)). Senders and networks are
//! configuration, and shown; a suspension's reason and a key's name may name people, and are not.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::domain::directory::{AccountEntry, Entry, KeyEntry, PolicyEntry};
use crate::domain::settings::{DIGEST, Settings};

/// Items of a list that a row shows; for a longer list it shows those added and removed, and counts.
const LIST_SHOWN: usize = 10;
/// Characters of one text in a row. A mail address has 320 at most.
const TEXT_SHOWN: usize = 320;

/// Returns the details of the rows, one for each field. There are none for a holder that leaves service. For one that
/// comes back there is a row for each field that is set, without an earlier value: it was erased when the holder left.
pub fn changed_settings(before: &Entry, entry: &Entry) -> Vec<Value> {
    if entry.removed_at().is_some() {
        return Vec::new();
    }
    let mut changes = Changes { returns: before.removed_at().is_some(), rows: Vec::new() };
    match (before, entry) {
        (Entry::Policy(before), Entry::Policy(after)) => changes.policy(before, after),
        (Entry::Account(before), Entry::Account(after)) => changes.account(before, after),
        (Entry::Key(before), Entry::Key(after)) => changes.key(before, after),
        // A holder's kind is part of its name.
        (Entry::Policy(_) | Entry::Account(_) | Entry::Key(_), _) => {}
    }
    changes.rows
}

struct Changes {
    /// The holder comes back to service.
    returns: bool,
    rows: Vec<Value>,
}

impl Changes {
    fn policy(&mut self, before: &PolicyEntry, after: &PolicyEntry) {
        self.field("senders.domains", &before.sender_domains, &after.sender_domains);
        self.field("whenExhausted", &before.when_exhausted, &after.when_exhausted);
        let host = |entry: &PolicyEntry| entry.upstream.as_ref().map(|upstream| upstream.host.clone());
        let port = |entry: &PolicyEntry| entry.upstream.as_ref().map(|upstream| upstream.port);
        self.field("upstream.host", &host(before), &host(after));
        self.field("upstream.port", &port(before), &port(after));
        if let (Some(before), Some(after)) = (&before.upstream, &after.upstream) {
            self.field("upstream.tls", &Some(&before.tls), &Some(&after.tls));
            self.field("upstream.maxRecipients", &before.max_recipients, &after.max_recipients);
            if before.secret != after.secret {
                // Sealed credentials are never shown; the row says only that they changed.
                self.rows.push(json!({ "field": "upstream.credentials" }));
            }
        }
        self.settings(before.settings.as_ref(), after.settings.as_ref());
    }

    fn account(&mut self, before: &AccountEntry, after: &AccountEntry) {
        // It has one always.
        if before.policy != after.policy {
            self.change("policyRef", true, &json!(before.policy), &json!(after.policy));
        }
        self.field("allowedSenders", &before.allowed_senders, &after.allowed_senders);
        self.settings(before.settings.as_ref(), after.settings.as_ref());
    }

    fn key(&mut self, before: &KeyEntry, after: &KeyEntry) {
        self.field("allowFrom", &before.allow_from, &after.allow_from);
        self.field("allowedSenders", &before.allowed_senders, &after.allowed_senders);
        self.field("plainListener", &before.plain_listener, &after.plain_listener);
        self.field("expiresAt", &before.expires_at, &after.expires_at);
        self.settings(before.settings.as_ref(), after.settings.as_ref());
    }

    fn settings(&mut self, before: Option<&Settings>, after: Option<&Settings>) {
        let empty = Settings::default();
        let (was, is) = (before.unwrap_or(&empty), after.unwrap_or(&empty));
        // A version that kept no settings wrote the entry: the earlier ones are unknown.
        let known = before.is_some() && !self.returns;
        let was = if self.returns { &empty } else { was };
        let fields: BTreeSet<&str> = was.fields().chain(is.fields()).collect();
        for field in fields {
            let (from, to) = (was.get(field).unwrap_or(&Value::Null), is.get(field).unwrap_or(&Value::Null));
            self.change(field, known, from, to);
        }
    }

    fn field<T: Serialize + PartialEq + Default>(&mut self, field: &str, before: &T, after: &T) {
        if self.returns && *after != T::default() {
            self.change(field, false, &Value::Null, &json!(after));
        } else if !self.returns && before != after {
            self.change(field, true, &json!(before), &json!(after));
        }
    }

    fn change(&mut self, field: &str, known: bool, from: &Value, to: &Value) {
        if from == to {
            return;
        }
        let mut row = Map::new();
        row.insert("field".to_owned(), json!(field));
        match (from.as_array(), to.as_array()) {
            (Some(from), Some(to)) if known && from.len().max(to.len()) > LIST_SHOWN => lists(&mut row, from, to),
            _ => {
                if known {
                    row.insert("from".to_owned(), shown(from));
                }
                row.insert("to".to_owned(), shown(to));
            }
        }
        self.rows.push(Value::Object(row));
    }
}

/// Adds to the row what was added to a long list and what was removed from it.
fn lists(row: &mut Map<String, Value>, from: &[Value], to: &[Value]) {
    let without = |items: &[Value], others: &[Value]| -> Vec<Value> {
        items.iter().filter(|item| !others.contains(item)).cloned().collect()
    };
    row.insert("added".to_owned(), shown(&json!(without(to, from))));
    row.insert("removed".to_owned(), shown(&json!(without(from, to))));
    row.insert("fromCount".to_owned(), json!(from.len()));
    row.insert("toCount".to_owned(), json!(to.len()));
}

/// Shortens a value to what a row shows.
fn shown(value: &Value) -> Value {
    match value {
        Value::String(text) if text.chars().count() > TEXT_SHOWN => {
            let beginning: String = text.chars().take(TEXT_SHOWN).collect();
            // The digest at the end of a text that was cut before tells two of them apart.
            let digest = text.rfind(DIGEST).map(|at| format!(" {}", &text[at..])).unwrap_or_default();
            json!(format!("{beginning}… ({} characters){digest}", text.chars().count()))
        }
        Value::Array(items) => {
            let mut some: Vec<Value> = items.iter().take(LIST_SHOWN).map(shown).collect();
            if items.len() > LIST_SHOWN {
                some.push(json!(format!("… and {} more", items.len() - LIST_SHOWN)));
            }
            Value::Array(some)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => value.clone(),
    }
}
