//! The types of conditions.

/// The types of conditions, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// The summary: a login works, and no setting or suspension, here or up the chain, keeps mail from being sent.
    /// Used-up credits and an unavailable upstream do not change it.
    Ready,
    /// The spec is valid and what it refers to permits it.
    Accepted,
    /// The ledger's directory matches the spec; for a policy, the relays also run with their settings.
    Programmed,
    /// No relay finds a policy's upstream unavailable.
    UpstreamAvailable,
    /// A warning about a policy: some of its accounts have limits that another account could do without. Only present
    /// while true.
    SelfServiceUnbounded,
    /// Entries of a policy's accounts and keys have no resource, and are too many to be revoked without a check. Only
    /// present while true.
    SweepStopped,
    /// The ledger's time is ahead of the clock. Only present while true.
    LedgerAhead,
    /// Work is under way. Only present while true.
    Reconciling,
    /// Nothing will change until a user edits something. Only present while true.
    Stalled,
}

impl ConditionType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Accepted => "Accepted",
            Self::Programmed => "Programmed",
            Self::UpstreamAvailable => "UpstreamAvailable",
            Self::SelfServiceUnbounded => "SelfServiceUnbounded",
            Self::SweepStopped => "SweepStopped",
            Self::LedgerAhead => "LedgerAhead",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }

    /// Every type, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Ready,
        Self::Accepted,
        Self::Programmed,
        Self::UpstreamAvailable,
        Self::SelfServiceUnbounded,
        Self::SweepStopped,
        Self::LedgerAhead,
        Self::Reconciling,
        Self::Stalled,
    ];

    /// Returns what the documentation says of the type: which kinds have it, and what it means when it is `True`.
    fn documented(self) -> (&'static str, &'static str) {
        match self {
            Self::Ready => (
                "all",
                "a login works, and neither a setting nor a suspension, here or up the chain, keeps mail from being sent. \
                 Used-up credits and an upstream that is away do not change it",
            ),
            Self::Accepted => ("all", "the spec is valid, and everything that it refers to exists and permits it"),
            Self::Programmed => {
                ("all", "the relays know it as the spec says; of a policy also that they run with the present settings")
            }
            Self::UpstreamAvailable => ("policy", "no relay finds the policy's upstream unavailable"),
            Self::SelfServiceUnbounded => (
                "policy",
                "a warning: accounts of the policy have limits that another account, which does not mention them, would not have",
            ),
            Self::SweepStopped => (
                "policy",
                "a warning: accounts or keys in the ledger have no resource any more, too many to be revoked unseen",
            ),
            Self::LedgerAhead => ("policy", "a warning: the ledger's time is ahead of the clock"),
            Self::Reconciling => ("all", "work is under way, or something else must happen first"),
            Self::Stalled => ("all", "nothing will change until a person edits something"),
        }
    }

    /// Writes the documentation's table of the types.
    pub fn table() -> String {
        let mut table =
            "| condition | on | means, where it is True | present |\n| --- | --- | --- | --- |\n".to_owned();
        for kind in Self::ALL {
            let (on, means) = kind.documented();
            let present = if kind.abnormal() { "only while True" } else { "always" };
            table.push_str(&format!("| `{}` | {on} | {means} | {present} |\n", kind.as_str()));
        }
        table
    }

    /// True if the condition is only present while true.
    pub(super) fn abnormal(self) -> bool {
        match self {
            Self::SelfServiceUnbounded | Self::SweepStopped | Self::LedgerAhead | Self::Reconciling | Self::Stalled => {
                true
            }
            Self::Ready | Self::Accepted | Self::Programmed | Self::UpstreamAvailable => false,
        }
    }
}
