//! Settings that are the same for all upstreams.

use std::time::Duration;

/// Settings that are the same for all upstreams.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// The name in our EHLO.
    pub hostname: String,
    /// Maximum number of connections to one policy's upstream, in use and parked together. A namespace may use three
    /// quarters of them.
    pub connections: usize,
    /// Maximum number of messages that wait for a connection; more are `Busy` at once.
    pub queue: usize,
    /// Maximum time that a connection is parked: less than the 5 minutes that RFC 5321 §4.5.3.2.7 asks of servers, and
    /// than the minute that busy ones grant.
    pub idle: Duration,
    /// Approximate age at which a connection is closed between transactions, so that a moved upstream is found.
    pub max_age: Duration,
    pub max_uses: u32,
    /// Maximum time for dial and TLS.
    pub connect_limit: Duration,
    /// Maximum time for any reply before the final dot, and for any standstill while a body is written: RFC 5321
    /// §4.5.3.2 gives MAIL and RCPT 5 minutes. The deadline of a message is usually shorter.
    pub reply_limit: Duration,
    /// Maximum time for the reply to the final dot: RFC 5321 §4.5.3.2.6 says 10 minutes, because giving up early sends
    /// mail twice.
    pub final_reply_limit: Duration,
    /// Idle time after which a pool is removed, and its metrics with it.
    pub forget_after: Duration,
    /// Interval at which parked connections and idle pools are checked.
    pub tidy_every: Duration,
}

impl UpstreamSettings {
    pub fn new(hostname: impl Into<String>, connections: usize) -> Self {
        Self {
            hostname: hostname.into(),
            connections: connections.max(1),
            queue: 10_000,
            idle: Duration::from_secs(50),
            max_age: Duration::from_secs(600),
            max_uses: 10_000,
            connect_limit: Duration::from_secs(30),
            reply_limit: Duration::from_secs(300),
            final_reply_limit: Duration::from_secs(600),
            forget_after: Duration::from_secs(3600),
            tidy_every: Duration::from_secs(5),
        }
    }
}
