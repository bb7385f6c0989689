//! The relay's metrics. Labels are names of listeners, policies and accounts and our own words, never anything a client
//! sent.

use std::time::Duration;

use super::account_counters::AccountCounters;
use super::labels::Labels;
use super::smtp::reply::Reply;
use super::tls::Agreed;
use crate::domain::credit::Outcome;
use crate::domain::id::AccountId;
use crate::domain::sender::SenderFault;
use crate::runtime::metrics::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, register,
};

/// The outcome of an arriving connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Served,
    /// The maximum of all connections is reached,
    CrowdedAll,
    /// or of those that have not logged in,
    CrowdedUnauthenticated,
    /// or of those from its address.
    CrowdedAddress,
    /// Its network is not one of the listener's.
    Foreign,
    /// It came from none of the listener's load balancers, or the balancer's header was not valid.
    Unproxied,
}

impl Arrival {
    fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::CrowdedAll => "crowded_all",
            Self::CrowdedUnauthenticated => "crowded_unauthenticated",
            Self::CrowdedAddress => "crowded_address",
            Self::Foreign => "foreign_network",
            Self::Unproxied => "proxy_refused",
        }
    }
}

/// The reason why a PROXY header was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyRefusal {
    /// It came from none of the listener's load balancers.
    Untrusted,
    /// It is not a valid header.
    Malformed,
    /// It did not come in time.
    Late,
    /// This listener accepts no PROXY header.
    Unexpected,
}

impl ProxyRefusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Malformed => "malformed",
            Self::Late => "late",
            Self::Unexpected => "unexpected",
        }
    }
}

/// The reason why there was no TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// Octets in the clear after STARTTLS: from an attacker in between, or a client that cannot wait.
    Injected,
    Late,
    HungUp,
    /// No version, cipher or certificate that both sides support, or no TLS at all.
    Handshake,
}

impl TlsFailure {
    fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Late => "late",
            Self::HungUp => "hung_up",
            Self::Handshake => "handshake",
        }
    }
}

/// The step that a client took too long for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    Tls,
    Login,
    Command,
    /// The next part of a body, or its rate,
    Body,
    /// or the whole body.
    Message,
    /// It does not read replies.
    Reply,
}

impl Late {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Login => "login",
            Self::Command => "command",
            Self::Body => "body",
            Self::Message => "message",
            Self::Reply => "reply",
        }
    }
}

/// The reason why a session had to log in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// It reached the maximum age.
    Age,
    /// Its login would no longer be accepted.
    Login,
}

impl SessionEnd {
    fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Login => "login",
        }
    }
}

/// The share of the memory for bodies that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    All,
    Namespace,
    Account,
}

impl MemoryLimit {
    fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Namespace => "namespace",
            Self::Account => "account",
        }
    }
}

/// The result of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginResult {
    Ok,
    BadLogin,
    WrongNetwork,
    NeedsTls,
    Blocked,
    NotInUse,
    Unavailable,
    Crowded,
    /// Its address failed so often that the password was not checked.
    Guessing,
}

impl LoginResult {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BadLogin => "bad_login",
            Self::WrongNetwork => "wrong_network",
            Self::NeedsTls => "needs_tls",
            Self::Blocked => "blocked",
            Self::NotInUse => "not_in_use",
            Self::Unavailable => "unavailable",
            Self::Crowded => "crowded",
            Self::Guessing => "guessing",
        }
    }
}

/// The result of a message that was read to its final dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageResult {
    Relayed,
    RefusedByUpstream,
    UpstreamRefusesUs,
    UpstreamUnavailable,
    OutcomeUnknown,
    /// It is a retry, and had been relayed.
    RelayedBefore,
    /// It is a retry, and was still in progress.
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
    dismissed: IntCounter,
    session_ends: IntCounterVec,
    logins: IntCounterVec,
    replies: IntCounterVec,
    messages: IntCounterVec,
    senders_refused: IntCounterVec,
    credits: IntCounterVec,
    octets: IntCounterVec,
    forwarding: Histogram,
    in_flight: IntGauge,
    memory_refusals: IntCounterVec,
    tls_failures: IntCounterVec,
    handshakes: IntCounterVec,
    timeouts: IntCounterVec,
    proxy_refusals: IntCounterVec,
    settings_refused: IntGauge,
    accounts: AccountCounters,
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
            dismissed: register(
                registry,
                known(IntCounter::new(
                    "franking_relay_connections_dismissed_total",
                    "Connections without a login that were closed because another one needed their place.",
                )),
            ),
            session_ends: counters(
                "sessions_ended_total",
                "Sessions that had to log in again, because of their age or because their login would not be taken any more.",
                &["reason"],
            ),
            logins: counters("logins_total", "Logins by result.", &["result"]),
            replies: counters("replies_total", "Replies to clients by code.", &["code"]),
            messages: counters("messages_total", "Messages read to their end, by result.", &["policy", "result"]),
            senders_refused: counters(
                "senders_refused_total",
                "Messages refused for their sender, by the list that it is missing from (policy, account, key), or because the \
                 header cannot be read (unreadable) or has not one From (from_count).",
                &["policy", "reason"],
            ),
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
            memory_refusals: counters(
                "memory_refusals_total",
                "Bodies for which there was no memory, by whose share is used up.",
                &["share"],
            ),
            settings_refused: register(
                registry,
                known(IntGauge::new(
                    "franking_relay_settings_refused",
                    "1 while relay.yaml or a certificate file cannot be taken over and the older ones are used.",
                )),
            ),
            tls_failures: counters("tls_failures_total", "TLS handshakes that failed.", &["reason"]),
            handshakes: counters(
                "tls_handshakes_total",
                "TLS handshakes, by the agreed parameters; resumed: with a ticket of this relay or another.",
                &["version", "cipher", "resumed"],
            ),
            timeouts: counters(
                "timeouts_total",
                "Connections closed because the client took too long.",
                &["waiting_for"],
            ),
            proxy_refusals: counters(
                "proxy_refused_total",
                "PROXY protocol headers that were not taken, or missing.",
                &["listener", "reason"],
            ),
            accounts: AccountCounters::new(
                counters(
                    "account_messages_total",
                    "Messages by account (the first limits.metricAccounts that sent) and result.",
                    &["policy", "account", "result"],
                ),
                counters(
                    "account_credits_total",
                    "Recipients of messages that were charged, by account (the first limits.metricAccounts that sent) and outcome.",
                    &["policy", "account", "outcome"],
                ),
                register(
                    registry,
                    known(IntGauge::new(
                        "franking_relay_accounts_left_out",
                        "Accounts that share the label \"other\": limits.metricAccounts has no room for them.",
                    )),
                ),
            ),
        }
    }

    pub fn arrived(&self, listener: &str, arrival: Arrival) {
        self.arrivals.with_label_values(&[listener, arrival.as_str()]).inc();
    }

    /// Returns the gauge of a listener's open connections.
    pub fn open(&self, listener: &str) -> IntGauge {
        self.open.with_label_values(&[listener])
    }

    pub fn dismissed(&self) {
        self.dismissed.inc();
    }

    pub fn session_ended(&self, why: SessionEnd) {
        self.session_ends.with_label_values(&[why.as_str()]).inc();
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

    /// Counts a message; at most `accounts` accounts have counters of their own.
    pub fn message(&self, labels: &Labels, result: MessageResult, accounts: u32) {
        self.messages.with_label_values(&[labels.policy.as_str(), result.as_str()]).inc();
        self.accounts.message(labels.whose(), result.as_str(), accounts);
    }

    /// Counts a message that is refused for its sender, in the envelope or in the header.
    pub fn sender_refused(&self, policy: &str, fault: SenderFault) {
        self.senders_refused.with_label_values(&[policy, fault.as_str()]).inc();
    }

    pub fn settled(&self, labels: &Labels, outcome: Outcome, credits: u32, accounts: u32) {
        let credits = u64::from(credits);
        self.credits.with_label_values(&[labels.policy.as_str(), outcome.as_str()]).inc_by(credits);
        self.accounts.credits(labels.whose(), outcome.as_str(), credits, accounts);
    }

    /// Removes the counters of accounts that are not to stay.
    pub fn release_accounts(&self, stays: impl Fn(AccountId) -> bool) {
        self.accounts.release(stays);
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

    pub fn memory_refused(&self, limit: MemoryLimit) {
        self.memory_refusals.with_label_values(&[limit.as_str()]).inc();
    }

    pub fn settings_refused(&self, refused: bool) {
        self.settings_refused.set(i64::from(refused));
    }

    pub fn tls_failed(&self, why: TlsFailure) {
        self.tls_failures.with_label_values(&[why.as_str()]).inc();
    }

    pub fn shook_hands(&self, agreed: &Agreed) {
        self.handshakes.with_label_values(&[agreed.version, agreed.cipher, agreed.resumed]).inc();
    }

    pub fn timed_out(&self, waiting_for: Late) {
        self.timeouts.with_label_values(&[waiting_for.as_str()]).inc();
    }

    pub fn proxy_refused(&self, listener: &str, why: ProxyRefusal) {
        self.proxy_refusals.with_label_values(&[listener, why.as_str()]).inc();
    }
}

/// Returns the metric, which cannot fail to be made: its name and labels are constants of ours.
fn known<T, E: std::fmt::Display>(made: Result<T, E>) -> T {
    made.unwrap_or_else(|error| panic!("making a metric: {error}"))
}
