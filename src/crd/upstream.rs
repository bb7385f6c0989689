//! `spec.upstream` of a policy: the smarthost that mail is forwarded to.

use std::net::IpAddr;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::reference::{LocalRef, is_dns_subdomain};
use crate::domain::directory;

/// Default of the maximum recipients of one message: as many as every server must accept (RFC 5321 §4.5.3.1.8).
const MAX_RECIPIENTS_DEFAULT: i32 = 100;

/// The smarthost that mail is forwarded to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.credentialsSecretRef) || !has(self.tls) || self.tls != 'None'")
    .message("credentials must not cross the network in clear text: use tls Implicit or StartTls, or remove credentialsSecretRef"))]
#[x_kube(validation = Rule::new("!has(self.clientCertificateSecretRef) || !has(self.tls) || self.tls != 'None'")
    .message("a client certificate is shown in TLS: use tls Implicit or StartTls, or remove clientCertificateSecretRef"))]
pub struct Upstream {
    /// Host name or IP address, such as smtp.example.com.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9:]([A-Za-z0-9.:-]*[A-Za-z0-9:])?$')")
        .message("write a host name or an IP address, such as smtp.example.com; the port has a field of its own"))]
    pub host: String,
    /// TCP port. If absent, 465 for tls Implicit, 587 for StartTls, 25 for None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Implicit (TLS from the first byte), StartTls (required, never optional) or None (no TLS, only for a smarthost in
    /// the same network). Implicit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// Secret in the operator's namespace with the keys username and password, and ca.crt for a private CA. It must
    /// carry the label franking.io/use: "true".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<LocalRef>,
    /// Secret in the operator's namespace with the keys tls.crt and tls.key (type kubernetes.io/tls): the certificate
    /// for a smarthost that asks for one, beside or instead of a login. It must carry the label franking.io/use:
    /// "true".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret_ref: Option<LocalRef>,
    /// Maximum recipients of one message that the smarthost accepts. 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_recipients: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpstreamTls {
    Implicit,
    StartTls,
    None,
}

/// An upstream that passed the checks, without its secret, which only the operator can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedUpstream {
    pub host: String,
    pub port: u16,
    pub tls: directory::UpstreamTls,
    /// Name of the Secret in the operator's namespace.
    pub credentials_secret: Option<String>,
    /// Name of the Secret with the client certificate.
    pub client_certificate_secret: Option<String>,
    pub max_recipients: u16,
}

impl Upstream {
    pub(super) fn check(&self) -> Result<CheckedUpstream, Problem> {
        let lower = self.host.to_ascii_lowercase();
        if !is_dns_subdomain(&lower) && self.host.parse::<IpAddr>().is_err() {
            return Err(Problem::new("spec.upstream.host", "write a host name or an IP address, without a port"));
        }
        let (tls, usual_port) = match self.tls.unwrap_or(UpstreamTls::Implicit) {
            UpstreamTls::Implicit => (directory::UpstreamTls::Implicit, 465),
            UpstreamTls::StartTls => (directory::UpstreamTls::StartTls, 587),
            UpstreamTls::None => (directory::UpstreamTls::None, 25),
        };
        if tls == directory::UpstreamTls::None && self.credentials_secret_ref.is_some() {
            return Err(Problem::new(
                "spec.upstream.credentialsSecretRef",
                "credentials must not cross the network in clear text; use tls Implicit or StartTls, or remove it",
            ));
        }
        if tls == directory::UpstreamTls::None && self.client_certificate_secret_ref.is_some() {
            return Err(Problem::new(
                "spec.upstream.clientCertificateSecretRef",
                "a client certificate is shown in TLS; use tls Implicit or StartTls, or remove it",
            ));
        }
        let client_certificate_secret = match &self.client_certificate_secret_ref {
            Some(reference) => Some(reference.check("spec.upstream.clientCertificateSecretRef")?),
            None => None,
        };
        let credentials_secret = match &self.credentials_secret_ref {
            Some(reference) => Some(reference.check("spec.upstream.credentialsSecretRef")?),
            None => None,
        };
        let port = u16::try_from(self.port.unwrap_or(usual_port)).ok().filter(|port| *port > 0);
        let recipients = u16::try_from(self.max_recipients.unwrap_or(MAX_RECIPIENTS_DEFAULT)).ok();
        Ok(CheckedUpstream {
            host: lower,
            port: port.ok_or_else(|| Problem::new("spec.upstream.port", "write a port from 1 to 65535"))?,
            tls,
            credentials_secret,
            client_certificate_secret,
            max_recipients: recipients
                .filter(|count| (1..=1000).contains(count))
                .ok_or_else(|| Problem::new("spec.upstream.maxRecipients", "write a number from 1 to 1000"))?,
        })
    }
}
