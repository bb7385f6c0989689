//! The endpoint that programs send to.

use crate::runtime::fleet::PlainAddress;

/// The relay's endpoint, as shown in Secrets and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    /// Listeners by name.
    pub ports: Vec<(String, u16)>,
    /// The port with TLS from the first byte, for `smtps://`.
    pub tls_port: Option<u16>,
    /// The port with STARTTLS, for `smtp://` where there is no other.
    pub starttls_port: Option<u16>,
    /// The address for devices without TLS, if there is one.
    pub plain: Option<PlainAddress>,
    /// The certificate authority, if it is a private one.
    pub ca_pem: Option<String>,
}

/// The port of a relay that names none, from RFC 6409.
const SUBMISSION: u16 = 587;

impl Endpoint {
    /// Returns scheme and port of the URI for programs.
    pub fn preferred(&self) -> (&'static str, u16) {
        match (self.tls_port, self.starttls_port) {
            (Some(port), _) => ("smtps", port),
            (None, Some(port)) => ("smtp", port),
            (None, None) => ("smtp", self.ports.first().map_or(SUBMISSION, |(_, port)| *port)),
        }
    }
}
