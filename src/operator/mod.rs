//! Specs become Secrets, directory entries and status: observe ▶ plan (pure) ▶ apply ▶ report.

pub mod books;
pub mod certificate;
pub mod error;
pub mod index;
pub mod installation;
pub mod plan;
pub mod prepare;
pub mod references;
pub mod relay_config;
pub mod watch;

/// Where programs send to: what Secrets and status say of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    /// Listeners by name.
    pub ports: Vec<(String, u16)>,
    /// The port with TLS from the first byte, for `smtps://`.
    pub tls_port: Option<u16>,
    /// The port with STARTTLS, for `smtp://` where there is no other.
    pub starttls_port: Option<u16>,
    /// The certificate authority, where it is a private one.
    pub ca_pem: Option<String>,
}

impl Endpoint {
    /// Scheme and port of the URI that programs are given.
    pub fn preferred(&self) -> (&'static str, u16) {
        match (self.tls_port, self.starttls_port) {
            (Some(port), _) => ("smtps", port),
            (None, Some(port)) => ("smtp", port),
            (None, None) => ("smtp", self.ports.first().map_or(587, |(_, port)| *port)),
        }
    }
}
