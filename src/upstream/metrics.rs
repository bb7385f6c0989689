//! The metrics of this module, by policy. A policy's metrics are removed with its pool, so the number of series is
//! bounded.

use crate::domain::id::PolicyId;
use crate::runtime::metrics::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, register,
};

use super::breaker::State;
use super::message::Forwarded;

/// Buckets from a sink on the same host (1 ms) to the longest budget (5 min).
const SECONDS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 5.0, 25.0, 60.0, 300.0];

#[derive(Clone)]
pub(super) struct Figures {
    transactions: IntCounterVec,
    seconds: HistogramVec,
    connections: IntGaugeVec,
    breaker: IntGaugeVec,
    share_waits: IntCounterVec,
}

impl Figures {
    pub fn new(registry: &Registry) -> Self {
        let described = "the names and labels of these metrics are constants of ours";
        let transactions =
            Opts::new("franking_upstream_transactions_total", "Transactions with upstreams, by how they ended.");
        let seconds =
            HistogramOpts::new("franking_upstream_seconds", "From the hand-over of a message to the word on it.")
                .buckets(SECONDS.to_vec());
        let connections =
            Opts::new("franking_upstream_connections", "Open connections to upstreams, in use and parked.");
        let share_waits = Opts::new(
            "franking_upstream_share_waits_total",
            "Messages that waited because their namespace uses its share of the connections.",
        );
        let breaker = Opts::new(
            "franking_upstream_breaker",
            "0 = mail flows, 1 = probing, 2 = it keeps failing and is asked only now and then.",
        );
        Self {
            transactions: register(
                registry,
                IntCounterVec::new(transactions, &["policy", "outcome"]).expect(described),
            ),
            seconds: register(registry, HistogramVec::new(seconds, &["policy"]).expect(described)),
            connections: register(registry, IntGaugeVec::new(connections, &["policy"]).expect(described)),
            breaker: register(registry, IntGaugeVec::new(breaker, &["policy"]).expect(described)),
            share_waits: register(registry, IntCounterVec::new(share_waits, &["policy"]).expect(described)),
        }
    }

    pub fn of(&self, policy: PolicyId) -> PolicyFigures {
        let policy = policy.to_string();
        let policy = policy.as_str();
        PolicyFigures {
            transactions: OUTCOMES.map(|outcome| self.transactions.with_label_values(&[policy, outcome])),
            seconds: self.seconds.with_label_values(&[policy]),
            connections: self.connections.with_label_values(&[policy]),
            breaker: self.breaker.with_label_values(&[policy]),
            share_waits: self.share_waits.with_label_values(&[policy]),
        }
    }

    pub fn forget(&self, policy: PolicyId) {
        let policy = policy.to_string();
        for outcome in OUTCOMES {
            // An outcome that never happened has no series to remove.
            let _ = self.transactions.remove_label_values(&[policy.as_str(), outcome]);
        }
        let _ = self.seconds.remove_label_values(&[policy.as_str()]);
        let _ = self.connections.remove_label_values(&[policy.as_str()]);
        let _ = self.breaker.remove_label_values(&[policy.as_str()]);
        let _ = self.share_waits.remove_label_values(&[policy.as_str()]);
    }
}

/// The metrics of one policy. They are looked up once, so that a connection which ends after its policy was forgotten
/// brings no series back.
pub(super) struct PolicyFigures {
    transactions: [IntCounter; OUTCOMES.len()],
    seconds: Histogram,
    connections: IntGauge,
    breaker: IntGauge,
    share_waits: IntCounter,
}

/// A guard that counts one open connection for as long as it lives, however it ends.
pub(super) struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl PolicyFigures {
    pub fn ended(&self, forwarded: &Forwarded, seconds: f64) {
        self.transactions[outcome(forwarded)].inc();
        self.seconds.observe(seconds);
    }

    pub fn open(&self) -> Open {
        self.connections.inc();
        Open(self.connections.clone())
    }

    pub fn waits_for_its_share(&self) {
        self.share_waits.inc();
    }

    pub fn open_connections(&self) -> i64 {
        self.connections.get()
    }

    pub fn breaker(&self, state: State) {
        self.breaker.set(match state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        });
    }
}

/// The values of the label `outcome`.
const OUTCOMES: [&str; 5] = ["relayed", "refused", "refuses_us", "not_offered", "unknown"];

/// Returns the index into [`OUTCOMES`].
fn outcome(forwarded: &Forwarded) -> usize {
    match forwarded {
        Forwarded::Relayed { .. } => 0,
        Forwarded::Refused { .. } => 1,
        Forwarded::RefusesUs { .. } => 2,
        Forwarded::NotOffered { .. } => 3,
        Forwarded::Unknown { .. } | Forwarded::Open { .. } => 4,
    }
}
