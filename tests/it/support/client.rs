//! An SMTP client that says exactly what it is told, byte for byte, and reads replies one by one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Longer than any reply takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One reply, of one line or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// The lines after their codes, joined by line feeds.
    pub text: String,
}

impl Reply {
    /// Fails unless the reply starts with `expected`, such as `452 4.7.1`.
    #[track_caller]
    pub fn is(self, expected: &str) -> Self {
        let found = format!("{} {}", self.code, self.text);
        assert!(found.starts_with(expected), "expected {expected}, heard {found}");
        self
    }
}

/// What a TLS handshake agreed on.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub version: ProtocolVersion,
    pub resumed: bool,
    pub certificate: Vec<u8>,
}

pub struct Client {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
}

impl Client {
    /// Connects in the clear and reads nothing yet.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connecting to the relay");
        stream.set_nodelay(true).expect("no delay");
        Self { stream: Box::new(stream), input: Vec::new() }
    }

    /// The same from another address of this machine.
    pub async fn open_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("an address of this machine");
        let stream = socket.connect(address).await.expect("connecting to the relay");
        stream.set_nodelay(true).expect("no delay");
        Self { stream: Box::new(stream), input: Vec::new() }
    }

    /// Connects in the clear and reads the greeting.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::open(address).await;
        client.reply().await.is("220 ");
        client
    }

    /// Connects by implicit TLS and reads the greeting.
    pub async fn connect_tls(address: SocketAddr, ca_pem: &str) -> Self {
        let mut client = Self::open(address).await.encrypt(ca_pem).await;
        client.reply().await.is("220 ");
        client
    }

    /// The handshake. The certificate must be the one of `ca_pem`, for `localhost`.
    pub async fn encrypt(self, ca_pem: &str) -> Self {
        self.encrypt_as(trusting(ca_pem)).await.expect("the TLS handshake").0
    }

    /// The same with a relay that may hang up.
    pub async fn try_encrypt(self, ca_pem: &str) -> std::io::Result<Self> {
        Ok(self.encrypt_as(trusting(ca_pem)).await?.0)
    }

    /// The handshake as somebody else would do it, and what was agreed.
    pub async fn encrypt_as(self, config: Arc<ClientConfig>) -> std::io::Result<(Self, Agreed)> {
        assert!(self.input.is_empty(), "octets before the handshake: {}", self.input.escape_ascii());
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(config).connect(name, self.stream).await?;
        let connection = stream.get_ref().1;
        let agreed = Agreed {
            version: connection.protocol_version().expect("a version"),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate: connection.peer_certificates().expect("a certificate")[0].to_vec(),
        };
        Ok((Self { stream: Box::new(stream), input: Vec::new() }, agreed))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("writing to the relay");
    }

    /// Says that nothing more comes, and listens on.
    pub async fn close_our_side(&mut self) {
        self.stream.shutdown().await.expect("closing our side");
    }

    /// For a relay that may hang up in the middle.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Says one line and hears the reply.
    pub async fn ask(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// The same with a relay that may hang up: `None`.
    pub async fn try_ask(&mut self, line: &str) -> Option<Reply> {
        self.try_send(format!("{line}\r\n")).await.ok()?;
        self.try_reply().await
    }

    pub async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("the relay hung up")
    }

    /// `None` where the relay hangs up instead.
    pub async fn try_reply(&mut self) -> Option<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            let code = line[..3].parse().expect("a code");
            lines.push(line.get(4..).unwrap_or("").to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(Reply { code, text: lines.join("\n") });
            }
        }
    }

    /// Fails unless the relay hangs up without another word.
    pub async fn closed(&mut self) {
        let rest = self.line().await;
        assert_eq!(rest, None, "the relay has not hung up");
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                assert!(line.ends_with(b"\r\n"), "a reply line without CRLF: {}", line.escape_ascii());
                return Some(String::from_utf8(line[..line.len() - 2].to_vec()).expect("an ASCII reply"));
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.expect("no reply in time");
            // An abrupt end is an end.
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub async fn login(&mut self, username: &str, password: &str) -> Reply {
        self.ask(&format!("AUTH PLAIN {}", plain(username, password))).await
    }

    /// MAIL, RCPT and DATA, one by one; the reply to the first that is refused, or to the final dot.
    pub async fn deliver(&mut self, from: &str, to: &[&str], message: &str) -> Reply {
        let reply = self.ask(&format!("MAIL FROM:<{from}>")).await;
        if reply.code != 250 {
            return reply;
        }
        self.deliver_rest(to, message).await
    }

    /// The same after MAIL was accepted: RCPT to each of `to`, then DATA.
    pub async fn deliver_rest(&mut self, to: &[&str], message: &str) -> Reply {
        for to in to {
            let reply = self.ask(&format!("RCPT TO:<{to}>")).await;
            if reply.code != 250 {
                return reply;
            }
        }
        let reply = self.ask("DATA").await;
        if reply.code != 354 {
            return reply;
        }
        self.send(format!("{message}\r\n.\r\n")).await;
        self.reply().await
    }
}

/// The response of AUTH PLAIN.
pub fn plain(username: &str, password: &str) -> String {
    BASE64.encode(format!("\0{username}\0{password}"))
}

fn trusting(ca_pem: &str) -> Arc<ClientConfig> {
    Arc::new(client_config(ca_pem, &[], |_| {}))
}

/// A client that trusts `ca_pem`, speaks `versions` (none named = all) and knows what `edit` leaves of the algorithms.
pub fn client_config(
    ca_pem: &str,
    versions: &[&'static SupportedProtocolVersion],
    edit: impl FnOnce(&mut CryptoProvider),
) -> ClientConfig {
    let mut provider = rustls::crypto::ring::default_provider();
    edit(&mut provider);
    let provider = Arc::new(provider);
    let versions = if versions.is_empty() { rustls::ALL_VERSIONS } else { versions };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.expect("a certificate")).expect("a root");
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("a verifier");
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("the TLS versions of ring")
        .with_webpki_verifier(verifier)
        .with_no_client_auth()
}
