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
