//! The relay's figures. Labels are names of listeners and policies and our own words, never anything a client said.

use std::time::Duration;

use super::smtp::reply::Reply;
use crate::domain::credit::Outcome;
use crate::runtime::metrics::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, register,
};

/// How an arriving connection was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Served,
    /// Some cap on connections was reached.
    Crowded,
    /// Its network is not one of the listener's.
    Foreign,
}

impl Arrival {
    fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Crowded => "crowded",
            Self::Foreign => "foreign_network",
        }
    }
}

/// How a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginResult {
    Ok,
    BadLogin,
    WrongNetwork,
    NeedsTls,
    Blocked,
    Unavailable,
    Crowded,
}

impl LoginResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BadLogin => "bad_login",
            Self::WrongNetwork => "wrong_network",
            Self::NeedsTls => "needs_tls",
            Self::Blocked => "blocked",
            Self::Unavailable => "unavailable",
            Self::Crowded => "crowded",
        }
    }
}

/// How a message that was read to its final dot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageResult {
    Relayed,
    RefusedByUpstream,
    UpstreamRefusesUs,
    UpstreamUnavailable,
    OutcomeUnknown,
    /// It came again, and had been relayed.
    RelayedBefore,
    /// It came again, and was still on its way.
    UnderWay,
    Short,
    TooFast,
    Blocked,
    LedgerUnavailable,
    DirectoryStale,
    NoUpstream,
    SenderDenied,
    Malformed,
    TooBig,
    NoMemory,
    Loop,
}

impl MessageResult {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::RefusedByUpstream => "refused_by_upstream",
            Self::UpstreamRefusesUs => "upstream_refuses_us",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::RelayedBefore => "relayed_before",
            Self::UnderWay => "under_way",
            Self::Short => "short",
            Self::TooFast => "too_fast",
            Self::Blocked => "blocked",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::DirectoryStale => "directory_stale",
            Self::NoUpstream => "no_upstream",
            Self::SenderDenied => "sender_denied",
            Self::Malformed => "malformed",
            Self::TooBig => "too_big",
            Self::NoMemory => "no_memory",
            Self::Loop => "loop",
        }
    }
}

#[derive(Clone)]
pub struct Metrics {
    arrivals: IntCounterVec,
    open: IntGaugeVec,
    logins: IntCounterVec,
    replies: IntCounterVec,
    messages: IntCounterVec,
    credits: IntCounterVec,
    octets: IntCounterVec,
    forwarding: Histogram,
    in_flight: IntGauge,
    tls_failures: IntCounter,
    settings_refused: IntGauge,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(registry, known(IntCounterVec::new(Opts::new(format!("franking_relay_{name}"), help), labels)))
        };
        let forwarding = HistogramOpts::new(
            "franking_relay_message_seconds",
            "From the client's final dot to the answer, for messages that asked for credits.",
        );
        // From a local upstream with SSD (1 ms) to the longest default budget (5 min).
        let buckets = vec![0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];
        Self {
            arrivals: counters("connections_total", "Connections, by how they were met.", &["listener", "result"]),
            open: register(
                registry,
                known(IntGaugeVec::new(
                    Opts::new("franking_relay_connections", "Open connections by listener."),
                    &["listener"],
                )),
            ),
            logins: counters("logins_total", "Logins by result.", &["result"]),
            replies: counters("replies_total", "Replies to clients by code.", &["code"]),
            messages: counters("messages_total", "Messages read to their end, by result.", &["policy", "result"]),
            credits: counters(
                "credits_total",
                "Recipients of messages that were charged, by outcome.",
                &["policy", "outcome"],
            ),
            octets: counters("message_bytes_total", "Octets of relayed messages.", &["policy"]),
            forwarding: register(registry, known(Histogram::with_opts(forwarding.buckets(buckets)))),
            in_flight: register(
                registry,
                known(IntGauge::new("franking_relay_bytes_in_flight", "Octets of bodies in memory.")),
            ),
            settings_refused: register(
                registry,
                known(IntGauge::new(
                    "franking_relay_settings_refused",
                    "1 while relay.yaml or a certificate file cannot be taken over and the older ones are used.",
                )),
            ),
            tls_failures: register(
                registry,
                known(IntCounter::new("franking_relay_tls_failures_total", "TLS handshakes that failed.")),
            ),
        }
    }

    pub fn arrived(&self, listener: &str, arrival: Arrival) {
        self.arrivals.with_label_values(&[listener, arrival.as_str()]).inc();
    }

    /// The gauge of a listener's open connections.
    pub fn open(&self, listener: &str) -> IntGauge {
        self.open.with_label_values(&[listener])
    }

    pub fn login(&self, result: LoginResult) {
        self.logins.with_label_values(&[result.as_str()]).inc();
    }

    pub fn reply(&self, reply: &Reply) {
        let mut code = [0; 3];
        for (place, digit) in code.iter_mut().zip([100, 10, 1]) {
            *place = b'0' + u8::try_from(reply.code() / digit % 10).unwrap_or(0);
        }
        self.replies.with_label_values(&[std::str::from_utf8(&code).unwrap_or("")]).inc();
    }

    pub fn message(&self, policy: &str, result: MessageResult) {
        self.messages.with_label_values(&[policy, result.as_str()]).inc();
    }

    pub fn settled(&self, policy: &str, outcome: Outcome, credits: u32) {
        self.credits.with_label_values(&[policy, outcome.as_str()]).inc_by(u64::from(credits));
    }

    pub fn relayed(&self, policy: &str, octets: usize) {
        self.octets.with_label_values(&[policy]).inc_by(u64::try_from(octets).unwrap_or(u64::MAX));
    }

    pub fn took(&self, duration: Duration) {
        self.forwarding.observe(duration.as_secs_f64());
    }

    pub fn in_flight(&self, octets: usize) {
        self.in_flight.set(i64::try_from(octets).unwrap_or(i64::MAX));
    }

    pub fn settings_refused(&self, refused: bool) {
        self.settings_refused.set(i64::from(refused));
    }

    pub fn tls_failed(&self) {
        self.tls_failures.inc();
    }
}

/// A metric's name and labels are constants of ours.
fn known<T, E: std::fmt::Display>(made: Result<T, E>) -> T {
    made.unwrap_or_else(|error| panic!("making a metric: {error}"))
}
