//! The smarthost of a policy, and its sealed login.

use serde::{Deserialize, Serialize};

/// The TLS mode towards an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UpstreamTls {
    Implicit,
    StartTls,
    None,
}

/// Bytes sealed with the installation's key (see `ledger::seal`), as base64. Useless without it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub String);

/// The smarthost that a policy's mail is forwarded to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamEntry {
    pub host: String,
    pub port: u16,
    pub tls: UpstreamTls,
    /// Sealed JSON of [`UpstreamSecret`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Sealed>,
    /// Maximum recipients of one message; more are refused at the client's RCPT.
    pub max_recipients: u16,
}

impl UpstreamEntry {
    /// Returns host and port.
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The content of [`UpstreamEntry::secret`]: the login, the upstream's private CA if it has one, and the certificate
/// that we show if it asks for one.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamSecret {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientCertificate>,
}

/// A certificate with its chain, and its key, as PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificate {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for UpstreamSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UpstreamSecret(…)")
    }
}
