//! TLS towards an upstream: the certificates that are trusted, and STARTTLS by hand.
//!
//! STARTTLS is done here and not by lettre, which keeps what was buffered before the handshake: a line injected in
//! the clear after `220` would be taken for an answer inside TLS (the class of CVE-2011-0411).

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::domain::directory::ClientCertificate;

/// Maximum size of a greeting or an EHLO reply in the clear; Postfix's are under 500 octets.
const PLAIN_REPLY_MAX: usize = 16 * 1024;

/// Builds the TLS configuration for one upstream. It trusts the upstream's own CA if the policy names one, else the
/// web's, and shows the policy's client certificate if there is one and the upstream asks for it.
pub(super) fn client_config(
    ca_pem: Option<&str>,
    client: Option<&ClientCertificate>,
) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca_pem {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| format!("reading the upstream's CA: {error}"))?;
                roots.add(certificate).map_err(|error| format!("trusting the upstream's CA: {error}"))?;
            }
            if roots.is_empty() {
                return Err("the upstream's CA has no certificate in it".to_owned());
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("choosing TLS versions: {error}"))?
        .with_root_certificates(roots);
    let config = match client {
        None => config.with_no_client_auth(),
        Some(client) => {
            let (chain, key) = pair(client)?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("using the client certificate with its key: {error}"))?
        }
    };
    Ok(Arc::new(config))
}

fn pair(client: &ClientCertificate) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(client.certificate_pem.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("reading the client certificate: {error}"))?;
    if chain.is_empty() {
        return Err("the client certificate has no certificate in it".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(client.key_pem.as_bytes())
        .map_err(|error| format!("reading the client certificate's key: {error}"))?;
    Ok((chain, key))
}

/// Performs the handshake; the certificate must be `host`'s.
pub(super) async fn handshake(
    config: Arc<ClientConfig>,
    host: &str,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, stream).await
}

/// The result of STARTTLS in the clear.
pub(super) enum Upgrade {
    /// Ready for the handshake. Holds the greeting, which lettre still expects.
    Ready(Vec<u8>),
    /// The upstream refuses us, with this line.
    Refused(String),
    /// The upstream cannot do STARTTLS, or an attacker replies in its place.
    Impossible,
}

/// Performs greeting, EHLO and STARTTLS in the clear. Nothing but the reply to each may be there: one more byte is an
/// attack.
pub(super) async fn start_tls(stream: &mut TcpStream, hostname: &str) -> io::Result<Upgrade> {
    let greeting = plain_reply(stream).await?;
    if !is_positive(&greeting) {
        return Ok(Upgrade::Refused(last_line(&greeting)));
    }
    stream.write_all(format!("EHLO {hostname}\r\n").as_bytes()).await?;
    let offer = plain_reply(stream).await?;
    if !is_positive(&offer) {
        return Ok(Upgrade::Refused(last_line(&offer)));
    }
    let offered = offer
        .split(|&byte| byte == b'\n')
        .any(|line| line.get(4..).is_some_and(|keyword| keyword.trim_ascii().eq_ignore_ascii_case(b"STARTTLS")));
    if !offered {
        return Ok(Upgrade::Impossible);
    }
    stream.write_all(b"STARTTLS\r\n").await?;
    let answer = plain_reply(stream).await?;
    Ok(if is_positive(&answer) { Upgrade::Ready(greeting) } else { Upgrade::Impossible })
}

/// Reads one complete reply. Fails if anything follows it: no other reply can be due before we send more.
async fn plain_reply(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    loop {
        let mut bytes = [0; 2048];
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&bytes[..read]);
        if let Some(end) = reply_end(&reply) {
            return if end == reply.len() {
                Ok(reply)
            } else {
                Err(io::Error::new(io::ErrorKind::InvalidData, "bytes follow a reply before the TLS handshake"))
            };
        }
        if reply.len() > PLAIN_REPLY_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply before the TLS handshake is too long"));
        }
    }
}

/// Returns the end of the first reply: after the first line that does not continue with a hyphen.
fn reply_end(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(length) = bytes[start..].iter().position(|&byte| byte == b'\n') {
        let line = &bytes[start..=start + length];
        start += length + 1;
        if line.get(3) != Some(&b'-') {
            return Some(start);
        }
    }
    None
}

/// True for a 2yz reply: the first digit decides (RFC 5321 §4.2).
fn is_positive(reply: &[u8]) -> bool {
    matches!(reply, [b'2', b'0'..=b'9', b'0'..=b'9', ..])
}

fn last_line(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    text.lines().last().unwrap_or("").chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_with_its_last_line() {
        assert_eq!(reply_end(b"220 hi\r\n"), Some(8));
        assert_eq!(reply_end(b"250-a\r\n250"), None);
        assert_eq!(reply_end(b"250-a\r\n250 b\r\n"), Some(14));
        assert_eq!(reply_end(b"220 go\r\n250-injected\r\n"), Some(8));
        assert_eq!(reply_end(b"220\r\n"), Some(5));
    }

    #[test]
    fn a_ca_that_is_none_is_refused() {
        assert!(client_config(Some("nothing"), None).is_err());
        assert!(client_config(None, None).is_ok());
    }

    #[test]
    fn a_client_certificate_without_its_key_is_refused() {
        let made = rcgen::generate_simple_self_signed(["us".to_owned()]).expect("a certificate");
        let other = rcgen::generate_simple_self_signed(["us".to_owned()]).expect("a certificate");
        let with = |certificate_pem: String, key_pem: String| {
            client_config(None, Some(&ClientCertificate { certificate_pem, key_pem }))
        };
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        assert!(with(certificate.clone(), key.clone()).is_ok());
        for (certificate, key) in [
            (certificate.clone(), "none".to_owned()),
            (String::new(), key),
            (certificate, other.signing_key.serialize_pem()),
        ] {
            assert!(with(certificate, key).is_err());
        }
    }
}
