//! All limits of the relay, by name, with the reasons for their defaults.

use serde::{Deserialize, Serialize};

/// All limits of the relay, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Maximum octets of one message, announced as SIZE (RFC 1870).
    pub message_bytes: usize,
    /// Maximum recipients of one message; RFC 5321 §4.5.3.1.8 requires at least 100.
    pub recipients: u16,
    /// Octets of all bodies being read or forwarded. A namespace may hold as many of them as it leaves free: one alone
    /// a half, two a third each, so that there is always room for the messages of others.
    pub bytes_in_flight: usize,
    /// Maximum of these octets that one namespace may hold, however many are free. Absent = as many as it leaves free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_in_flight_per_namespace: Option<usize>,
    /// Maximum of these octets that one account may hold, so that none fills its namespace's share. Absent = two
    /// fifths, or one message of the largest size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_in_flight_per_account: Option<usize>,
    /// Maximum connections. A namespace may have as many logged-in ones as it leaves free: one alone a half of them.
    pub connections: u32,
    /// Open connections of one address (an IPv6 /64).
    pub connections_per_address: u32,
    /// Open connections of one key.
    pub connections_per_key: u32,
    /// Connections that have not authenticated yet. When all of them are taken, a new one displaces an older one.
    pub unauthenticated: u32,
    /// Failed AUTH commands in one connection before it is closed.
    pub auth_attempts: u32,
    /// Wrong passwords from one address (an IPv6 /64) after which its passwords are no longer checked, except for names
    /// that logged in from there before.
    pub auth_failures_per_address: u32,
    /// Wrong passwords of one name, from anywhere, after which each further failure is delayed by at least 8 s. A name
    /// is never locked.
    pub auth_failures_per_name: u32,
    /// Longest delay before the reply to a failed login. The delay begins at half a second and doubles with each wrong
    /// password of the address or the name, on any connection.
    pub auth_delay_seconds: u32,
    /// Seconds without a wrong password after which one is forgotten.
    pub auth_forget_seconds: u32,
    /// Number of addresses, and of names, whose wrong passwords are remembered: the latest ones.
    pub auth_counters: u32,
    /// Refused commands in one connection before it is closed.
    pub errors: u32,
    /// Seconds from the accept until the PROXY header is complete.
    pub proxy_seconds: u32,
    /// Seconds for the TLS handshake.
    pub tls_seconds: u32,
    /// Seconds from the accept until AUTH succeeds; a quarter of them while more than half of `unauthenticated` is
    /// taken.
    pub login_seconds: u32,
    /// Seconds from the accept until a session without an open transaction has to log in again.
    pub session_seconds: u32,
    /// Seconds of waiting for a command; RFC 5321 §4.5.3.2.7 requires 5 minutes.
    pub idle_seconds: u32,
    /// Seconds of waiting for the next bytes of a body (RFC 5321 §4.5.3.2.5), and the window over which its rate is
    /// judged.
    pub data_seconds: u32,
    /// Minimum rate of a body over any `data_seconds`. A faster start does not make up for a slow rest.
    pub data_bytes_per_second: u32,
    /// Seconds from 354 to the final dot, however fast the body arrives.
    pub message_seconds: u32,
    /// Seconds for a client to take its replies, 8 kB at most.
    pub reply_seconds: u32,
    /// Seconds that sessions have to finish after a stop was requested.
    pub drain_seconds: u32,
    /// Maximum connections to one upstream.
    pub upstream_connections: u32,
    /// Number of accounts with counters of their own in the metrics: the first that sent. Later ones share one, called
    /// `other`. A removed account makes room.
    pub metric_accounts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Scanners send 25–50 MB; SES takes 40 MB, most smarthosts 25–50.
            message_bytes: 50 * 1024 * 1024,
            recipients: 100,
            // Five of the largest messages at once, or about five thousand of 50 kB.
            bytes_in_flight: 256 * 1024 * 1024,
            bytes_in_flight_per_namespace: None,
            bytes_in_flight_per_account: None,
            connections: 10_000,
            // An office of printers behind one address.
            connections_per_address: 100,
            connections_per_key: 50,
            unauthenticated: 1_000,
            auth_attempts: 3,
            // A device that tries its old password every minute never reaches this: one a minute is forgotten.
            auth_failures_per_address: 50,
            auth_failures_per_name: 20,
            // Below the 10 s after which some devices give up on a reply.
            auth_delay_seconds: 8,
            auth_forget_seconds: 60,
            // About ten megabytes at most.
            auth_counters: 50_000,
            errors: 20,
            // A load balancer sends it in its first segment.
            proxy_seconds: 5,
            // Old printers take ten seconds for an RSA handshake.
            tls_seconds: 30,
            login_seconds: 60,
            // Long enough that a busy pool of connections hardly notices, and shorter than a working day.
            session_seconds: 14_400,
            idle_seconds: 300,
            data_seconds: 180,
            data_bytes_per_second: 256,
            // The largest message over a line of 256 kbit/s.
            message_seconds: 1_800,
            reply_seconds: 30,
            // Above the longest budget, so that a client that has sent its whole message when the stop comes still gets
            // a reply.
            drain_seconds: 330,
            upstream_connections: 50,
            metric_accounts: 1_000,
        }
    }
}

impl Limits {
    /// Returns the maximum octets of one account's bodies.
    pub fn bytes_per_account(&self) -> usize {
        // Less than the half that its namespace may hold alone.
        let most = (self.bytes_in_flight / 5 * 2).max(self.message_bytes);
        self.bytes_in_flight_per_account.unwrap_or(most)
    }

    /// Returns the maximum octets of one namespace's bodies while `taken` are taken in all.
    pub fn bytes_per_namespace(&self, taken: usize) -> usize {
        let free = self.bytes_in_flight.saturating_sub(taken);
        self.bytes_in_flight_per_namespace.map_or(free, |most| most.min(free))
    }

    /// Returns the limits with both shares of the memory as numbers: the most that an account may hold, and the most
    /// that a namespace may hold while no other holds any.
    pub fn with_shares(&self) -> Self {
        // What is taken then is the namespace's own, and it leaves as much free.
        let namespace = self.bytes_per_namespace(self.bytes_in_flight.div_ceil(2));
        Self {
            bytes_in_flight_per_namespace: Some(namespace),
            bytes_in_flight_per_account: Some(self.bytes_per_account().min(namespace)),
            ..self.clone()
        }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("messageBytes", self.message_bytes),
            ("recipients", usize::from(self.recipients)),
            ("connections", self.connections as usize),
            ("connectionsPerAddress", self.connections_per_address as usize),
            ("connectionsPerKey", self.connections_per_key as usize),
            ("unauthenticated", self.unauthenticated as usize),
            ("authAttempts", self.auth_attempts as usize),
            ("authFailuresPerAddress", self.auth_failures_per_address as usize),
            ("authFailuresPerName", self.auth_failures_per_name as usize),
            ("authForgetSeconds", self.auth_forget_seconds as usize),
            ("authCounters", self.auth_counters as usize),
            ("errors", self.errors as usize),
            ("proxySeconds", self.proxy_seconds as usize),
            ("tlsSeconds", self.tls_seconds as usize),
            ("replySeconds", self.reply_seconds as usize),
            ("loginSeconds", self.login_seconds as usize),
            ("sessionSeconds", self.session_seconds as usize),
            ("idleSeconds", self.idle_seconds as usize),
            ("dataSeconds", self.data_seconds as usize),
            ("messageSeconds", self.message_seconds as usize),
            ("upstreamConnections", self.upstream_connections as usize),
        ];
        if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("limits.{name} is 0; nothing could be sent, use at least 1"));
        }
        if self.bytes_in_flight / 2 < self.message_bytes {
            return Err(format!(
                "limits.bytesInFlight ({}) is under twice limits.messageBytes ({}); a message of the largest size may take \
                 half of it, so that there is room for the others",
                self.bytes_in_flight, self.message_bytes
            ));
        }
        let shares = [
            ("bytesInFlightPerNamespace", self.bytes_in_flight_per_namespace),
            ("bytesInFlightPerAccount", self.bytes_in_flight_per_account),
        ];
        for (name, share) in shares {
            if let Some(share) = share.filter(|share| *share < self.message_bytes) {
                return Err(format!(
                    "limits.{name} ({share}) is under limits.messageBytes ({}); one message of the largest size must fit",
                    self.message_bytes
                ));
            }
        }
        Ok(())
    }
}
