//! What relays say of an upstream that they do not ask for a while.

use jiff::Timestamp;

use super::id::PolicyId;

/// Upstreams that one relay tells of at a time; where more are in trouble, the cause is nearer than they are.
pub const TROUBLES_MAX: usize = 1_000;

/// What is wrong with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It answers, and does not want us: a login, a quota.
    RefusesUs,
    /// It cannot be used: no connection, no answer, no TLS.
    Unreachable,
}

impl Fault {
    pub const ALL: [Self; 2] = [Self::RefusesUs, Self::Unreachable];

    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RefusesUs => "refuses_us",
            Self::Unreachable => "unreachable",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == word)
    }
}

/// One upstream, as one relay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub policy: PolicyId,
    /// Host and port.
    pub upstream: String,
    pub fault: Fault,
    /// Words of ours, and a reply code at most: what an upstream says may name people.
    pub why: String,
    pub since: Timestamp,
}

/// What all living relays see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// Living relays, also those without anything to tell.
    pub relays: u32,
    /// One for each relay and upstream, those of a policy together.
    pub troubles: Vec<Trouble>,
}

impl Sightings {
    /// Those of one policy's upstream at `upstream`; what relays say that still ask an earlier one does not count.
    pub fn of<'a>(&'a self, policy: PolicyId, upstream: &'a str) -> impl Iterator<Item = &'a Trouble> {
        self.troubles.iter().filter(move |trouble| trouble.policy == policy && trouble.upstream == upstream)
    }
}
