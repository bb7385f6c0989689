//! What a tenant may try.

use serde_json::Value;

use super::plans::Plan;

/// The people of a namespace. All may use both plans where they may write accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// `edit` and `franking-self-service`.
    Tenant,
    /// The same, with `grant` on the lax plan.
    Granter,
    /// `franking-manager`: writes keys, and has no right on Secrets or accounts.
    Manager,
}

impl Who {
    pub const ALL: [Self; 3] = [Self::Tenant, Self::Granter, Self::Manager];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Account,
    Key,
}

/// Secrets of the application that are in each namespace.
pub const FOREIGN: [&str; 3] = ["database", "settings", "chart"];
/// The platform team's account, and those that the tenant makes.
pub const GRANTED: &str = "granted";
pub const OWN: [&str; 3] = ["own-0", "own-1", "own-2"];
/// The upstreams drop the connection after the final dot of a message from this address.
pub const DROPPED: &str = "drops@example.com";

#[derive(Clone, Debug)]
pub enum Verb {
    Make {
        kind: Kind,
        name: String,
        spec: Value,
    },
    Edit {
        kind: Kind,
        name: String,
        spec: Value,
    },
    /// Moves an account, with other changes in the same edit.
    Move {
        name: String,
        to: Plan,
        more: Value,
    },
    Annotate {
        kind: Kind,
        name: String,
        metadata: Value,
    },
    Delete {
        kind: Kind,
        name: String,
    },
    DeleteAll {
        kind: Kind,
    },
    /// Takes the finalizers away, by a patch or by an update, and deletes.
    Strip {
        kind: Kind,
        name: String,
        by_update: bool,
    },
    ForceDelete {
        kind: Kind,
        name: String,
    },
    /// Edits or deletes the Secret of a key.
    TamperSecret {
        key: String,
        patch: Option<Value>,
    },
    /// Sends until something is refused, or so many.
    Send {
        key: String,
        from: &'static str,
        header_from: &'static str,
        recipients: u32,
        at_most: usize,
    },
    /// Sends the same message again and again, with others between them.
    SendCopies {
        key: String,
        times: usize,
    },
    /// The platform team takes the prices of a plan away and writes them in another currency.
    ChangeCurrency {
        plan: Plan,
    },
}

#[derive(Clone, Debug)]
pub struct Step {
    pub by: Who,
    pub namespace: usize,
    pub verb: Verb,
    /// Whether the tenant waits until the operator has looked at it.
    pub waits: bool,
}

/// The key of an account: each has two, told apart by a letter.
pub fn key_of(account: &str, letter: char) -> String {
    format!("{account}-{letter}")
}

/// The account that a key is of.
pub fn account_of(key: &str) -> &str {
    key.rsplit_once('-').expect("made by `key_of`").0
}
