//! The words of the audit trail: what a change of the directory did to credits, and which senders it stopped.
//!
//! A note never repeats a name, a login or a hash of a password: the trail outlives them. (A network is a /24 or a
//! /64.) The addresses in it are those in `allowedSenders` and `alerts`, which are configuration. Callers of
//! [`Store::record`](super::store::Store::record) bring words of their own beside these.
//!
//! | kind | when | detail |
//! | --- | --- | --- |
//! | directory.added, .changed, .removed | an entry was written | limit, stopped |
//! | setting.changed | a field of the spec was edited that has no kind of its own | field, from, to; of long lists added, removed, fromCount, toCount |
//! | directory.forgotten | rows of keys that were removed long ago were deleted (by `ledger`) | keys |
//! | limit.changed | a cap or a pool was edited | from, to |
//! | lot.regranted | a limit was applied to the running lot | lot, period, from, to, consumed |
//! | lot.cut | a lot ended for a limit of another calendar | lot, period, consumed, next, carried |
//! | grant.given | a grant's id was seen for the first time | grant, credits, expiresAt |
//! | grant.adjusted | a grant's credits or expiry were edited, or it came back | grant, from, to, consumed, expiresAt |
//! | grant.taken_back | a grant was removed; what was used stays used | grant, from, consumed |
//! | topup.begun, topup.changed | a recurring top-up was written or edited | credits, every, start, end |
//! | topup.added | credits of one or more periods were added (by `ledger`) | periods, credits, total |
//! | topup.taken_back | a recurring top-up was removed, with all that it had added | from, consumed |
//! | spend.limited | a spend limit was written, edited or removed | fromMicro, toMicro, usedMicro |
//! | overage.changed, rate.changed, pricing.changed | as the names say | from, to |
//! | hold.placed, hold.lifted | an account or a policy was suspended, or resumed | reasonGiven |
//! | key.revoked, key.reinstated | as the names say | |
//! | ledger.restored | a backup was put in place (by the command) | from, to: incarnations |
//! | ledger.accepted, ledger.opened | an administrator accepted a replaced ledger; it was rebuilt | was, installation, incarnation |
//! | ledger.moved | it came from another engine (by the command) | from, move |
//! | lot.raised | a replaced ledger was raised to what is known to be used | lot, source, period, from, to, granted |
//! | ledger.sealed | the messages of an old day became sums (by `ledger`, PostgreSQL) | day, messages |
//! | session.given_up | a session was silent for too long (by `ledger`) | role, name |
//! | key.network | a key logged in from a network that is not known for it (by `relay`); at most 64 a day per key | network, number, forgotten: the network whose place it takes |
//! | key.issued, key.rotated | a first, another credential became the current one | staged, previous |

use serde::Serialize;
use serde_json::{Value, json};

use crate::domain::credential::{Credential, Stage};
use crate::domain::credit::{Added, Lot, TopUp};
use crate::domain::directory::{Entry, KeyEntry};
use crate::ledger::changes::changed_settings;
use crate::ledger::identity::Tag;
use crate::ledger::incarnation::Acceptance;

/// One row of the trail, without actor and time.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub kind: &'static str,
    pub detail: Value,
}

pub const DIRECTORY_ADDED: &str = "directory.added";
pub const DIRECTORY_CHANGED: &str = "directory.changed";
pub const DIRECTORY_REMOVED: &str = "directory.removed";
pub const DIRECTORY_FORGOTTEN: &str = "directory.forgotten";
pub const SETTING_CHANGED: &str = "setting.changed";
pub const LIMIT_CHANGED: &str = "limit.changed";
pub const LOT_REGRANTED: &str = "lot.regranted";
pub const LOT_CUT: &str = "lot.cut";
pub const GRANT_GIVEN: &str = "grant.given";
pub const GRANT_ADJUSTED: &str = "grant.adjusted";
pub const GRANT_TAKEN_BACK: &str = "grant.taken_back";
pub const TOPUP_BEGUN: &str = "topup.begun";
pub const TOPUP_CHANGED: &str = "topup.changed";
pub const TOPUP_ADDED: &str = "topup.added";
pub const TOPUP_TAKEN_BACK: &str = "topup.taken_back";
pub const SPEND_LIMITED: &str = "spend.limited";
pub const OVERAGE_CHANGED: &str = "overage.changed";
pub const RATE_CHANGED: &str = "rate.changed";
pub const PRICING_CHANGED: &str = "pricing.changed";
pub const HOLD_PLACED: &str = "hold.placed";
pub const HOLD_LIFTED: &str = "hold.lifted";
pub const KEY_REVOKED: &str = "key.revoked";
pub const KEY_REINSTATED: &str = "key.reinstated";
pub const KEY_ISSUED: &str = "key.issued";
pub const KEY_ROTATED: &str = "key.rotated";
pub const KEY_NETWORK: &str = "key.network";
pub const SESSION_GIVEN_UP: &str = "session.given_up";
pub const LOT_RAISED: &str = "lot.raised";
pub const LEDGER_RESTORED: &str = "ledger.restored";
pub const LEDGER_ACCEPTED: &str = "ledger.accepted";
pub const LEDGER_OPENED: &str = "ledger.opened";
pub const LEDGER_SEALED: &str = "ledger.sealed";
pub const LEDGER_MOVED: &str = "ledger.moved";

/// The actor for top-ups and for sessions that are given up: no user asked for it at that moment.
pub const LEDGER: &str = "ledger";
/// The actor for changes that no user asked for at that moment, or whose author no object names.
pub const OPERATOR: &str = "operator";
/// The actor for logins.
pub const RELAY: &str = "relay";

impl Note {
    pub fn new(kind: &'static str, detail: Value) -> Self {
        Self { kind, detail }
    }

    fn from_to(kind: &'static str, from: &impl Serialize, to: &impl Serialize) -> Self {
        Self::new(kind, json!({ "from": from, "to": to }))
    }

    pub fn forgotten(keys: usize) -> Self {
        Self::new(DIRECTORY_FORGOTTEN, json!({ "keys": keys }))
    }

    pub fn given_up(role: &str, name: &str) -> Self {
        Self::new(SESSION_GIVEN_UP, json!({ "role": role, "name": name }))
    }

    pub fn sealed(day: i32, messages: i64) -> Self {
        Self::new(LEDGER_SEALED, json!({ "day": day, "messages": messages }))
    }

    pub fn accepted(found: &Tag, acceptance: &Acceptance) -> Self {
        let detail = json!({
            "was": found.state.as_str(),
            "installation": { "from": found.installation, "to": acceptance.installation },
            "incarnation": { "from": found.incarnation, "to": acceptance.incarnation },
        });
        Self::new(LEDGER_ACCEPTED, detail)
    }

    pub fn opened() -> Self {
        Self::new(LEDGER_OPENED, json!({}))
    }

    pub fn granted(id: &str, lot: &Lot) -> Self {
        Self::new(GRANT_GIVEN, json!({ "grant": id, "credits": lot.granted, "expiresAt": lot.expires_at() }))
    }

    pub fn adjusted(id: &str, from: Option<i64>, lot: &Lot) -> Self {
        let detail = json!({
            "grant": id, "from": from, "to": lot.granted, "consumed": lot.consumed, "expiresAt": lot.expires_at(),
        });
        Self::new(GRANT_ADJUSTED, detail)
    }

    pub fn taken_back(id: &str, from: Option<i64>, lot: &Lot) -> Self {
        Self::new(GRANT_TAKEN_BACK, json!({ "grant": id, "from": from, "consumed": lot.consumed }))
    }

    pub fn top_up_rule(kind: &'static str, rule: &TopUp) -> Self {
        Self::new(kind, json!(rule))
    }

    pub fn topped_up(added: Added, lot: &Lot) -> Self {
        let total = lot.topped.map(|topped| topped.total);
        Self::new(TOPUP_ADDED, json!({ "periods": added.periods, "credits": added.credits, "total": total }))
    }

    pub fn top_up_taken_back(from: Option<i64>, lot: &Lot) -> Self {
        Self::new(TOPUP_TAKEN_BACK, json!({ "from": from, "consumed": lot.consumed }))
    }

    pub fn spend_limited(from: Option<i64>, to: Option<i64>, used: i64) -> Self {
        Self::new(SPEND_LIMITED, json!({ "fromMicro": from, "toMicro": to, "usedMicro": used }))
    }

    pub fn regranted(from: Option<i64>, lot: &Lot) -> Self {
        let detail = json!({
            "lot": lot.id, "period": lot.window.key, "from": from, "to": lot.granted, "consumed": lot.consumed,
        });
        Self::new(LOT_REGRANTED, detail)
    }

    pub fn raised(lot: &Lot, by: i64) -> Self {
        let (source, used) = (lot.source.word(), lot.used());
        let detail = json!({
            "lot": lot.id, "source": source, "period": lot.window.key, "from": used - by, "to": used,
            "granted": lot.granted,
        });
        Self::new(LOT_RAISED, detail)
    }

    /// `next` is the period in which the holder had already used `carried`.
    pub fn cut(lot: &Lot, next: &str, carried: i64) -> Self {
        let detail = json!({
            "lot": lot.id, "period": lot.window.key, "consumed": lot.consumed, "next": next, "carried": carried,
        });
        Self::new(LOT_CUT, detail)
    }
}

/// Returns the notes of an entry's change by itself, without looking at any lot; the entry's own row comes first. There
/// are none if a password that was being issued is issued once more: a Secret that cannot be written is one cause,
/// however often it is tried.
pub fn of_change(before: Option<&Entry>, entry: &Entry) -> Vec<Note> {
    if before.is_some_and(|before| is_staged_anew(before, entry)) {
        return vec![];
    }
    let kind = match (before, entry.removed_at()) {
        (_, Some(_)) => DIRECTORY_REMOVED,
        (None, None) => DIRECTORY_ADDED,
        (Some(_), None) => DIRECTORY_CHANGED,
    };
    let mut notes = vec![Note::new(kind, json!({ "limit": entry.terms().limit, "stopped": stopped(entry) }))];
    let (old, new) = (before.map(Entry::terms), entry.terms());
    if let Some(old) = &old {
        if old.limit != new.limit {
            notes.push(Note::from_to(LIMIT_CHANGED, old.limit, new.limit));
        }
        if old.overage != new.overage {
            notes.push(Note::from_to(OVERAGE_CHANGED, &old.overage, &new.overage));
        }
    }
    let old_rate = old.as_ref().and_then(|old| old.rate);
    if old_rate != new.rate {
        notes.push(Note::from_to(RATE_CHANGED, &old_rate, &new.rate));
    }
    if pricing(before) != pricing(Some(entry)) {
        notes.push(Note::from_to(PRICING_CHANGED, &pricing(before), &pricing(Some(entry))));
    }
    if let Some(before) = before {
        notes.extend(changed_settings(before, entry).into_iter().map(|detail| Note::new(SETTING_CHANGED, detail)));
    }
    notes.extend(holds(before, entry));
    if let (Entry::Key(key), before) = (entry, before.and_then(as_key)) {
        notes.extend(credentials(before, key));
    }
    notes
}

fn as_key(entry: &Entry) -> Option<&KeyEntry> {
    match entry {
        Entry::Key(key) => Some(key),
        Entry::Account(_) | Entry::Policy(_) => None,
    }
}

/// True if only the passwords that are being issued changed.
fn is_staged_anew(before: &Entry, entry: &Entry) -> bool {
    let (Some(before), Some(key)) = (as_key(before), as_key(entry)) else { return false };
    let is_staged = |credential: &Credential| matches!(credential.stage, Stage::Staged { .. });
    let others = |key: &KeyEntry| -> Vec<Credential> {
        key.credentials.iter().filter(|credential| !is_staged(credential)).cloned().collect()
    };
    let waits = |key: &KeyEntry| key.credentials.iter().any(is_staged);
    let but_credentials = KeyEntry { credentials: before.credentials.clone(), ..key.clone() };
    waits(before) && waits(key) && others(before) == others(key) && but_credentials == *before
}

fn pricing(entry: Option<&Entry>) -> Option<&crate::domain::money::Pricing> {
    match entry? {
        Entry::Policy(policy) => policy.pricing.as_ref(),
        Entry::Account(_) | Entry::Key(_) => None,
    }
}

fn stopped(entry: &Entry) -> bool {
    match entry {
        Entry::Policy(policy) => policy.suspended.is_some(),
        Entry::Account(account) => account.suspended.is_some(),
        Entry::Key(key) => key.revoked,
    }
}

fn holds(before: Option<&Entry>, entry: &Entry) -> Option<Note> {
    let was = before.is_some_and(stopped);
    let (placed, lifted, reason) = match entry {
        Entry::Policy(policy) => (HOLD_PLACED, HOLD_LIFTED, policy.suspended.as_ref()),
        Entry::Account(account) => (HOLD_PLACED, HOLD_LIFTED, account.suspended.as_ref()),
        Entry::Key(_) => (KEY_REVOKED, KEY_REINSTATED, None),
    };
    match (was, stopped(entry)) {
        (false, true) => {
            let given = reason.map(|suspension| suspension.reason.is_some());
            Some(Note::new(placed, given.map_or(json!({}), |given| json!({ "reasonGiven": given }))))
        }
        (true, false) => Some(Note::new(lifted, json!({}))),
        (true, true) | (false, false) => None,
    }
}

/// Notes that another password is the current one, never anything of the password.
fn credentials(before: Option<&KeyEntry>, key: &KeyEntry) -> Option<Note> {
    let current = |key: &KeyEntry| {
        key.credentials.iter().find(|credential| matches!(credential.stage, Stage::Current { .. })).map(|one| one.hash)
    };
    let (was, is) = (before.and_then(current), current(key)?);
    let count = |wanted: fn(&Stage) -> bool| key.credentials.iter().filter(|one| wanted(&one.stage)).count();
    let detail = json!({
        "staged": count(|stage| matches!(stage, Stage::Staged { .. })),
        "previous": count(|stage| matches!(stage, Stage::Previous { .. })),
    });
    match was {
        None => Some(Note::new(KEY_ISSUED, detail)),
        Some(was) if was != is => Some(Note::new(KEY_ROTATED, detail)),
        Some(_) => None,
    }
}
