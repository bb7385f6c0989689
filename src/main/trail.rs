//! `franking ledger events`: prints the audit trail.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use franking::domain::directory::Entry;
use franking::domain::id::{Holder, Kind, PolicyId};
use franking::ledger::store::Event;
use franking::ledger::{self, Store};
use franking::runtime::cli::{Events, Trail};
use franking::runtime::clock::SystemClock;
use franking::runtime::config::Settings;
use franking::runtime::shutdown::RoleError;
use serde_json::{Value, json};
use uuid::Uuid;

use super::say;

/// Rows of the trail in one read.
const PAGE: usize = 500;
/// Interval between reads of the trail while following it.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

pub async fn show(settings: &Settings, asked: &Events) -> Result<ExitCode, RoleError> {
    let store = ledger::open(&settings.ledger, Arc::new(SystemClock))?;
    let mut after = asked.after;
    loop {
        after = show_page(store.as_ref(), asked.output, after).await?;
        if !asked.follow {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

/// Prints the events after number `after`, and returns the number of the last one read.
async fn show_page(store: &dyn Store, output: Trail, mut after: i64) -> Result<i64, RoleError> {
    loop {
        let page = store.events(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(after) };
        after = last.seq;
        let names = names_in(store, &page).await?;
        let mut text = String::new();
        for event in &page {
            match output {
                Trail::Text => text.push_str(&as_text(event, &names)),
                Trail::Json => text.push_str(&as_json(event, &names)),
            }
            text.push('\n');
        }
        say(&text);
    }
}

/// Namespace (`None` for a policy) and name of each holder whose directory entry still has them. Entries of purged
/// accounts do not, and keys that were deleted long ago have no entry. An id belongs to one name for ever, so the name
/// is the one that the object had.
type Names = HashMap<Holder, (Option<String>, String)>;

async fn names_in(store: &dyn Store, page: &[Event]) -> Result<Names, RoleError> {
    let (mut names, mut looked_up) = (Names::new(), HashSet::new());
    let holders = page.iter().flat_map(|event| event.holder.into_iter().chain(policies_of(event)));
    for holder in holders {
        if !looked_up.insert(holder) {
            continue;
        }
        let name = match store.find(holder).await? {
            Some(Entry::Policy(policy)) => Some((None, policy.name)),
            Some(Entry::Account(account)) => Some((Some(account.namespace), account.name)),
            Some(Entry::Key(key)) => Some((Some(key.namespace), key.name)),
            None => None,
        };
        names.extend(name.filter(|(_, name)| !name.is_empty()).map(|name| (holder, name)));
    }
    Ok(names)
}

/// Returns the policies that an account moved from and to.
fn policies_of(event: &Event) -> impl Iterator<Item = Holder> {
    let moved = event.detail["field"] == "policyRef";
    let ids = ["from", "to"].map(|side| event.detail[side].as_str().and_then(|id| Uuid::parse_str(id).ok()));
    ids.into_iter().flatten().filter(move |_| moved).map(|id| Holder::Policy(PolicyId(id)))
}

/// Returns the kind of the Kubernetes resource.
fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::Key => "SubAccountApiKey",
        Kind::Account => "SubAccount",
        Kind::Policy => "CreditPolicy",
    }
}

/// Returns the detail, with the names of the policies that an account moved from and to.
fn detail(event: &Event, names: &Names) -> Value {
    let mut detail = event.detail.clone();
    let policies: Vec<Holder> = policies_of(event).collect();
    for side in ["from", "to"] {
        let found = policies.iter().find(|policy| event.detail[side] == json!(policy.uuid()));
        if let Some((_, name)) = found.and_then(|policy| names.get(policy)) {
            detail[side] = json!(name);
        }
    }
    detail
}

fn as_text(event: &Event, names: &Names) -> String {
    let whom = event.holder.map_or_else(|| "-".to_owned(), |holder| whom(holder, names));
    let detail = detail(event, names);
    format!("{:>6} {} {:<24} {:<20} {whom} {detail}", event.seq, event.at, event.actor, event.kind)
}

/// Formats the kind, the name as far as it is known, and the id.
fn whom(holder: Holder, names: &Names) -> String {
    let (kind, id) = (resource(holder.kind()), holder.uuid());
    match names.get(&holder) {
        Some((Some(namespace), name)) => format!("{kind} {namespace}/{name} {id}"),
        Some((None, name)) => format!("{kind} {name} {id}"),
        None => format!("{kind} {id}"),
    }
}

fn as_json(event: &Event, names: &Names) -> String {
    let holder = event.holder.map(|holder| {
        let mut object =
            json!({ "kind": holder.kind().as_str(), "id": holder.uuid(), "resource": resource(holder.kind()) });
        if let Some((namespace, name)) = names.get(&holder) {
            object["name"] = json!(name);
            if let Some(namespace) = namespace {
                object["namespace"] = json!(namespace);
            }
        }
        object
    });
    let row = json!({
        "seq": event.seq, "at": event.at.to_string(), "actor": event.actor, "kind": event.kind, "holder": holder,
        "detail": detail(event, names),
    });
    row.to_string()
}
