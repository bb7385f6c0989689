//! Reports of relays about upstreams that they do not use for a while.

use jiff::Timestamp;

use super::id::PolicyId;

/// Maximum upstreams that one relay reports at a time; if more are in trouble, the cause is nearer than they are.
pub const TROUBLES_MAX: usize = 1_000;

/// The fault of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The upstream answers, but refuses us: a login, a quota.
    RefusesUs,
    /// The upstream cannot be used: no connection, no answer, no TLS.
    Unreachable,
}

impl Fault {
    pub const ALL: [Self; 2] = [Self::RefusesUs, Self::Unreachable];

    /// Returns the word that is stored.
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

/// The trouble of one upstream, as one relay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub policy: PolicyId,
    /// Host and port.
    pub upstream: String,
    pub fault: Fault,
    /// Our own words, and a reply code at most: the upstream's words may name people.
    pub why: String,
    pub since: Timestamp,
}

/// The troubles that all living relays see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// Number of living relays, including those with nothing to report.
    pub relays: u32,
    /// One for each relay and upstream, grouped by policy.
    pub troubles: Vec<Trouble>,
}

impl Sightings {
    /// Returns the troubles of one policy's upstream at `upstream`; reports of relays that still use an earlier one do
    /// not count.
    pub fn of<'a>(&'a self, policy: PolicyId, upstream: &'a str) -> impl Iterator<Item = &'a Trouble> {
        self.troubles.iter().filter(move |trouble| trouble.policy == policy && trouble.upstream == upstream)
    }
}
