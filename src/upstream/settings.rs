//! Settings that are the same for all upstreams.

use std::time::Duration;

/// What is the same for all upstreams.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// The name in our EHLO.
    pub hostname: String,
    /// Connections to one policy's upstream, in use and parked together. A namespace may use three quarters of them.
    pub connections: usize,
    /// Messages that may wait for one of them; more are `Busy` at once.
    pub queue: usize,
    /// How long a connection may be parked: under the 5 minutes that RFC 5321 §4.5.3.2.7 asks of servers, and of the
    /// minute that busy ones grant.
    pub idle: Duration,
    /// After about this time a connection is closed at the next boundary, so that a moved upstream is found.
    pub max_age: Duration,
    pub max_uses: u32,
    /// Dial and TLS.
    pub connect_limit: Duration,
    /// Any reply before the final dot, and any standstill while a body is written: RFC 5321 §4.5.3.2 gives MAIL and
    /// RCPT 5 minutes. The deadline of a message is usually shorter.
    pub reply_limit: Duration,
    /// The reply to the final dot: RFC 5321 §4.5.3.2.6 says 10 minutes, because giving up early sends mail twice.
    pub final_reply_limit: Duration,
    /// A pool that nobody used for so long goes, and its figures with it.
    pub forget_after: Duration,
    /// How often parked connections and idle pools are looked through.
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
