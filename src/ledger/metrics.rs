//! The ledger's metrics in one process.

use std::time::Duration;

use crate::domain::credit::{Blocked, Outcome, Verdict};
use crate::domain::id::MessageId;
use crate::ledger::store::{Error, Role};
use crate::runtime::metrics::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, register,
};

/// Half a millisecond (a commit on a good disk) to 30 s (the shortest time a device waits for its answer).
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 30.0];
const SIZES: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

pub struct Figures {
    batch_messages: HistogramVec,
    queue_seconds: Histogram,
    reserve_seconds: Histogram,
    verdicts: IntCounterVec,
    settlements: IntCounterVec,
    errors: IntCounterVec,
    /// Outcomes that wait to be written.
    pub settlements_open: IntGauge,
}

impl Figures {
    /// The role is a constant label, because one process may run several.
    pub fn new(registry: &Registry, role: Role) -> Self {
        let options = |name: &str, help: &str| {
            Opts::new(format!("franking_ledger_{name}"), help).const_label("role", role.as_str())
        };
        let histogram =
            |name, help, buckets: &[f64]| HistogramOpts::from(options(name, help)).buckets(buckets.to_vec());
        let counter = |name, help, label| {
            let made = IntCounterVec::new(options(name, help), &[label]);
            register(registry, made.expect("a constant name and one label are valid"))
        };
        let timing = |name, help| {
            let made = Histogram::with_opts(histogram(name, help, &SECONDS));
            register(registry, made.expect("constant buckets are valid"))
        };
        let batch_messages =
            HistogramVec::new(histogram("batch_messages", "Messages of one ledger call.", &SIZES), &["call"]);
        let open = IntGauge::with_opts(options("settlements_open", "Outcomes that wait to be written."));
        Self {
            batch_messages: register(registry, batch_messages.expect("constant buckets are valid")),
            queue_seconds: timing("queue_seconds", "From a question to the call that carries it."),
            reserve_seconds: timing("reserve_seconds", "From a question to its answer."),
            verdicts: counter("verdicts_total", "Answers to reservations.", "verdict"),
            settlements: counter("settlements_total", "Outcomes written.", "outcome"),
            errors: counter("errors_total", "Ledger calls that failed.", "error"),
            settlements_open: register(registry, open.expect("a constant name is valid")),
        }
    }

    pub fn queued(&self, waited: Duration) {
        self.queue_seconds.observe(waited.as_secs_f64());
    }

    pub fn answered(&self, verdict: &Verdict, since: Duration) {
        self.reserve_seconds.observe(since.as_secs_f64());
        self.verdicts.with_label_values(&[label(verdict)]).inc();
    }

    pub fn asked(&self, messages: usize) {
        self.batch_messages.with_label_values(&["reserve"]).observe(messages as f64);
    }

    pub fn settled(&self, outcomes: impl ExactSizeIterator<Item = Outcome>) {
        self.batch_messages.with_label_values(&["settle"]).observe(outcomes.len() as f64);
        for outcome in outcomes {
            self.settlements.with_label_values(&[outcome.as_str()]).inc();
        }
    }

    pub fn failed(&self, error: &Error) {
        let word = match error {
            Error::Unavailable { .. } => "unavailable",
            Error::Full => "full",
            Error::Fenced => "fenced",
            Error::Foreign { .. } => "foreign",
            Error::Replaced { .. } => "replaced",
            Error::Held(_) => "held",
            Error::Schema { .. } => "schema",
            Error::Unfit { .. } => "unfit",
        };
        self.errors.with_label_values(&[word]).inc();
    }
}

/// Logs a verdict, within its message's span.
pub fn judged(message: MessageId, verdict: Verdict) -> Verdict {
    tracing::debug!(message.id = %message, verdict = label(&verdict), "judged and charged");
    verdict
}

/// Returns the metric label of a verdict. A shortage is counted by the meter that was short.
fn label(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Reserved => "reserved",
        Verdict::Relayed(_) => "relayed_before",
        Verdict::UnderWay(_) => "under_way",
        Verdict::Resumed(_) => "resumed",
        Verdict::Short { meter, .. } => meter.as_str(),
        Verdict::TooFast { scope, .. } => scope.as_str(),
        Verdict::Blocked(Blocked::KeyRevoked) => "key_revoked",
        Verdict::Blocked(Blocked::KeyExpired) => "key_expired",
        Verdict::Blocked(Blocked::AccountSuspended { .. }) => "account_suspended",
        Verdict::Blocked(Blocked::AccountRemoved) => "account_removed",
        Verdict::Blocked(Blocked::PolicySuspended { .. }) => "policy_suspended",
        Verdict::Blocked(Blocked::PolicyRemoved) => "policy_removed",
    }
}
