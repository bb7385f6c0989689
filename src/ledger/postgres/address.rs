//! Parses a libpq URI: where the server is and how it is trusted.
//!
//! The driver knows neither `sslrootcert` nor `verify-ca` and `verify-full`: these are taken out here. As libpq does,
//! `prefer` (the default) and `require` encrypt without authenticating the server; with `sslrootcert` the certificate
//! must be of that CA and of this host.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Maximum time from the first packet to a session; a server that does not answer in this time is taken as absent.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Silence after which a connection is probed, so that a failover that sends no reset is noticed.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Time after which unacknowledged data ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// The server's address: how it is reached.
pub struct Address {
    pub config: tokio_postgres::Config,
    pub tls: MakeRustlsConnect,
}

/// The certificates that are trusted to identify the server.
enum Trust {
    /// Any server: encryption protects only against eavesdroppers.
    Anybody,
    Roots(RootCertStore),
}

/// Reads a URI. A refusal never repeats it.
pub fn parse(url: &str) -> Result<Address, String> {
    let Split { url, mode, root } = split(url)?;
    let mut config: tokio_postgres::Config = url
        .parse()
        .map_err(|_| "its URI cannot be read; it is postgresql://user:password@host:port/database".to_owned())?;
    let (ssl_mode, trust) = match (mode.as_deref(), root.as_deref()) {
        (Some("disable"), _) => (SslMode::Disable, Trust::Anybody),
        (Some("verify-ca" | "verify-full"), None | Some("system")) => {
            let mut roots = RootCertStore::empty();
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            (SslMode::Require, Trust::Roots(roots))
        }
        (Some("require" | "verify-ca" | "verify-full"), Some(path)) => {
            (SslMode::Require, Trust::Roots(read_roots(Path::new(path))?))
        }
        (Some("require"), None) => (SslMode::Require, Trust::Anybody),
        (Some("prefer" | "allow") | None, None) => (SslMode::Prefer, Trust::Anybody),
        (Some("prefer" | "allow") | None, Some(_)) => {
            return Err(
                "its URI has sslrootcert without sslmode=verify-full; say which server must prove itself".to_owned()
            );
        }
        (Some(_), _) => {
            return Err("its URI has an unknown sslmode; use disable, prefer, require or verify-full".to_owned());
        }
    };
    config
        .ssl_mode(ssl_mode)
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .application_name("franking")
        .connect_timeout(CONNECT_LIMIT)
        .keepalives_idle(KEEPALIVE)
        .keepalives_interval(KEEPALIVE)
        .tcp_user_timeout(UNACKNOWLEDGED);
    Ok(Address { config, tls: MakeRustlsConnect::new(client_config(trust)?) })
}

struct Split {
    url: String,
    mode: Option<String>,
    root: Option<String>,
}

/// Takes `sslmode` and `sslrootcert` out of the query.
fn split(url: &str) -> Result<Split, String> {
    let Some((head, query)) = url.rsplit_once('?') else {
        return Ok(Split { url: url.to_owned(), mode: None, root: None });
    };
    let (mut mode, mut root, mut rest) = (None, None, vec![]);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = || {
            let text = percent_encoding::percent_decode_str(value).decode_utf8();
            text.map(|text| text.into_owned()).map_err(|_| format!("its URI has a {name} that is not text"))
        };
        match name {
            "sslmode" => mode = Some(decoded()?),
            "sslrootcert" => root = Some(decoded()?),
            _ => rest.push(pair),
        }
    }
    let url = if rest.is_empty() { head.to_owned() } else { format!("{head}?{}", rest.join("&")) };
    Ok(Split { url, mode, root })
}

fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let refused = |what: &dyn std::fmt::Display| format!("its sslrootcert {} cannot be used ({what})", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| refused(&error))? {
        let certificate = certificate.map_err(|error| refused(&error))?;
        roots.add(certificate).map_err(|error| refused(&error))?;
    }
    if roots.is_empty() { Err(refused(&"there is no certificate in it")) } else { Ok(roots) }
}

fn client_config(trust: Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |error: &dyn std::fmt::Display| format!("TLS cannot be set up for it ({error})");
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anybody => Arc::new(Anybody(provider.clone())),
        Trust::Roots(roots) => {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            builder.build().map_err(|error| failed(&error))?
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// A verifier that accepts any certificate, as `sslmode=require` does: encrypted, not authenticated.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> SslMode {
        parse(url).map(|address| address.config.get_ssl_mode()).expect(url)
    }

    #[test]
    fn what_libpq_knows_of_tls_is_understood() {
        let base = "postgresql://franking:s3cret@db/franking";
        assert_eq!(mode(base), SslMode::Prefer);
        for (query, expected) in [
            ("sslmode=disable", SslMode::Disable),
            ("sslmode=prefer", SslMode::Prefer),
            ("sslmode=require", SslMode::Require),
            ("sslmode=verify-full", SslMode::Require),
            ("connect_timeout=3&sslmode=verify-full&sslrootcert=system", SslMode::Require),
        ] {
            assert_eq!(mode(&format!("{base}?{query}")), expected, "{query}");
        }
    }

    #[test]
    fn what_cannot_be_trusted_is_refused_and_nothing_secret_repeated() {
        let base = "postgresql://franking:s3cret@db/franking";
        for (query, named) in [
            ("sslmode=maybe", "sslmode"),
            ("sslmode=verify-full&sslrootcert=/nowhere/ca.crt", "/nowhere/ca.crt"),
            ("sslrootcert=/nowhere/ca.crt", "sslmode=verify-full"),
            ("password=%ff&port=many", "cannot be read"),
        ] {
            let refused = parse(&format!("{base}?{query}")).map(|_| ()).expect_err(query);
            assert!(refused.contains(named) && !refused.contains("s3cret"), "{refused}");
        }
    }

    #[test]
    fn a_standby_is_never_written_to() {
        let address = parse("postgresql://a,b/franking").expect("an address");
        assert_eq!(address.config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }
}
