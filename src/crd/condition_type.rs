//! The types of conditions.

/// The types of conditions, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// The sum: a login works, and neither a setting nor a suspension, here or up the chain, keeps mail from being sent.
    /// Used-up credits and an upstream that is away do not turn it.
    Ready,
    /// The spec is valid and what it refers to lets it.
    Accepted,
    /// The ledger's directory says what the spec says; of a policy also that the relays run as they are set.
    Programmed,
    /// No relay finds a policy's upstream unavailable.
    UpstreamAvailable,
    /// A warning about a policy: what some of its accounts are limited by, another account could do without. Only present
    /// while true.
    SelfServiceUnbounded,
    /// Entries of a policy's accounts and keys have no resource, and too many to be revoked unseen. Only present while
    /// true.
    SweepStopped,
    /// The ledger's time is ahead of the clock. Only present while true.
    LedgerAhead,
    /// Work is under way. Only present while true.
    Reconciling,
    /// Nothing will change until somebody edits something. Only present while true.
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

    /// Whether the condition is only present while true.
    pub(super) fn abnormal(self) -> bool {
        match self {
            Self::SelfServiceUnbounded | Self::SweepStopped | Self::LedgerAhead | Self::Reconciling | Self::Stalled => {
                true
            }
            Self::Ready | Self::Accepted | Self::Programmed | Self::UpstreamAvailable => false,
        }
    }
}
