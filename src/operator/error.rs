//! Errors between the operator and the systems it talks to, and the delay before the next try.

use std::borrow::Cow;
use std::time::Duration;

use rand::{Rng, RngExt as _};

use crate::ledger;

/// Delay after the first failure.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Longest delay: after a long outage, recovery is noticed within five minutes.
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// Longest delay for a fault of the ledger, which serves all objects and recovers for all of them at once.
const LEDGER_DELAY: Duration = Duration::from_secs(10);
/// Octets of the API server's message that are repeated in a condition.
const WORDS_MAX: usize = 500;
/// Fraction by which delays are jittered, so that objects that failed together are not retried together.
const JITTER: f64 = 0.2;

/// This process no longer leads and must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another operator leads, or the lease could not be renewed in time")]
pub struct Deposed;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}")]
    Cluster {
        doing: Cow<'static, str>,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{doing}")]
    Ledger {
        doing: &'static str,
        #[source]
        source: ledger::Error,
    },
    #[error("looking after the installation")]
    Installation(#[source] Box<crate::operator::fleet::installation::Error>),
    #[error("opening a sealed secret of the directory: {problem}")]
    Seal { problem: String },
    #[error("reconciling took longer than {} seconds", limit.as_secs())]
    Timeout { limit: Duration },
    #[error("another writer kept changing the object")]
    Contended,
    #[error("the secret that was written is not the one that was read back")]
    ReadBack,
    #[error("a watch ended before it was complete")]
    Watch,
    #[error("a reconcile loop broke")]
    Loop,
    #[error("this operator stops")]
    Deposed(#[source] Deposed),
}

pub type Result<T> = std::result::Result<T, Error>;

/// The system at fault, for a condition's reason and a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Cluster,
    Conflict,
    Ledger,
    Internal,
}

impl Fault {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Cluster => "ApiServerUnavailable",
            Self::Conflict => "Contended",
            Self::Ledger => "LedgerUnavailable",
            Self::Internal => "InternalError",
        }
    }
}

impl Error {
    /// Wraps an error of the Kubernetes API. `doing` names the object if it is not the reconciled one: the text appears
    /// in a condition.
    pub fn cluster(doing: impl Into<Cow<'static, str>>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Cluster { doing, source: Box::new(source) }
    }

    pub fn ledger(doing: &'static str) -> impl FnOnce(ledger::Error) -> Self {
        move |source| Self::Ledger { doing, source }
    }

    pub fn installation(source: crate::operator::fleet::installation::Error) -> Self {
        Self::Installation(Box::new(source))
    }

    pub fn fault(&self) -> Fault {
        match self {
            Self::Cluster { source, .. } if status_code(source) == Some(409) => Fault::Conflict,
            Self::Cluster { .. } | Self::Timeout { .. } | Self::Installation(_) => Fault::Cluster,
            Self::Ledger { .. } => Fault::Ledger,
            Self::Contended | Self::ReadBack => Fault::Conflict,
            Self::Seal { .. } | Self::Watch | Self::Loop | Self::Deposed(_) => Fault::Internal,
        }
    }

    /// True if the API server refused the request for want of a right.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Cluster { source, .. } if status_code(source) == Some(403))
    }

    /// Returns the action with the API server's own message, if it refused the request. For a condition.
    pub fn refused(&self) -> Option<String> {
        self.refusal().map(|words| format!("{self}: the Kubernetes API refused it: {words}"))
    }

    /// Returns the API server's own message, if it refused the request.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Cluster { source, .. } => match source.as_ref() {
                // A conflict with a faster writer or a busy server is not a refusal of the request.
                kube::Error::Api(status) if (400..500).contains(&status.code) && !matches!(status.code, 409 | 429) => {
                    Some(&status.message[..status.message.floor_char_boundary(WORDS_MAX)])
                }
                _ => None,
            },
            Self::Ledger { .. }
            | Self::Installation(_)
            | Self::Seal { .. }
            | Self::Timeout { .. }
            | Self::Contended
            | Self::ReadBack
            | Self::Watch
            | Self::Loop
            | Self::Deposed(_) => None,
        }
    }

    /// True if the ledger or the lease says that another operator leads: this one must not write any more.
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::Ledger { source, .. } => matches!(source, ledger::Error::Fenced),
            Self::Deposed(_) => true,
            Self::Cluster { .. }
            | Self::Installation(_)
            | Self::Seal { .. }
            | Self::Timeout { .. }
            | Self::Contended
            | Self::ReadBack
            | Self::Watch
            | Self::Loop => false,
        }
    }

    /// Returns the delay after the `failures`-th failure in a row.
    pub fn delay(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let doubled = FIRST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.longest_delay()).mul_f64(1.0 + rng.random_range(-JITTER..JITTER))
    }

    fn longest_delay(&self) -> Duration {
        match self.fault() {
            Fault::Ledger => LEDGER_DELAY,
            Fault::Cluster | Fault::Conflict | Fault::Internal => LONGEST_DELAY,
        }
    }

    /// Returns the longest time until the next try, jitter included.
    pub fn tried_again_within(&self) -> Duration {
        self.longest_delay().mul_f64(1.0 + JITTER)
    }
}

/// Returns the HTTP status of an error reply of the API server.
pub fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    #[test]
    fn delays_double_are_spread_and_end_at_five_minutes() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut delay = |failures| Error::Contended.delay(failures, &mut rng).as_secs_f64();
        assert!((0.8..1.2).contains(&delay(1)));
        assert!((3.2..4.8).contains(&delay(3)));
        assert!((240.0..360.0).contains(&delay(30)));
        let ledger = Error::Ledger { doing: "writing", source: ledger::Error::Full };
        assert!(ledger.delay(30, &mut rng) <= ledger.tried_again_within());
        assert_eq!([&ledger, &Error::Contended].map(|error| error.tried_again_within().as_secs()), [12, 360]);
    }
}
