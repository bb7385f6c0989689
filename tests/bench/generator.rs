//! The load: N sessions, each sends the next message when the last was answered (a closed loop).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::relayed;
use super::size::sized;

/// Before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);

/// What is sent, and how.
#[derive(Clone)]
pub struct Load {
    pub address: SocketAddr,
    pub sessions: usize,
    pub seconds: u64,
    /// One connection for many messages, or a new one for each.
    pub reuse: bool,
    pub tls: Option<ClientTls>,
    /// The password of every key, where somebody logs in.
    pub password: Option<String>,
    /// Keys that send: the sessions take them in turn, a new connection takes the next.
    pub keys: usize,
    pub from: String,
    pub message: Arc<Vec<u8>>,
}

/// Implicit TLS, or STARTTLS.
#[derive(Clone)]
pub struct ClientTls {
    pub start: bool,
    connector: TlsConnector,
}

impl ClientTls {
    /// Takes any certificate: what is measured is on this machine.
    pub fn new(start: bool) -> Self {
        Self::with(start, Resumption::default())
    }

    /// Every connection is a client's first.
    pub fn without_tickets(start: bool) -> Self {
        Self::with(start, Resumption::disabled())
    }

    fn with(start: bool, resumption: Resumption) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(TrustAll(provider.clone()));
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the TLS versions of ring")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.resumption = resumption;
        Self { start, connector: TlsConnector::from(Arc::new(config)) }
    }
}

#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What came of it.
pub struct Report {
    pub messages: usize,
    pub seconds: f64,
    /// Of single messages, sorted.
    latencies: Vec<u32>,
}

impl Report {
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    /// In milliseconds.
    pub fn percentile(&self, part: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * part) as usize).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
    }
}

/// A message of `octets` with lines of 76 characters, as MIME makes them.
pub fn message_of(octets: usize, from: &str) -> Arc<Vec<u8>> {
    let mut message =
        format!("From: <{from}>\r\nTo: <someone@example.net>\r\nSubject: load\r\nDate: Sun, 22 Nov 2026 00:00:00 +0000\r\nMessage-ID: <load@example.com>\r\n\r\n").into_bytes();
    while message.len() + 78 <= octets {
        message.extend_from_slice(&[b'x'; 76]);
        message.extend_from_slice(b"\r\n");
    }
    Arc::new(message)
}

pub fn warm_up() -> Duration {
    sized(WARM_UP, Duration::from_millis(100))
}

/// Runs a load: some time to warm up, then `seconds` that count.
pub async fn run(load: &Load) -> Report {
    let counting = Arc::new(AtomicBool::new(false));
    let over = Arc::new(AtomicBool::new(false));
    let sessions: Vec<_> =
        (0..load.sessions).map(|n| tokio::spawn(session(load.clone(), n, counting.clone(), over.clone()))).collect();
    tokio::time::sleep(warm_up()).await;
    counting.store(true, Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(load.seconds)).await;
    counting.store(false, Ordering::Relaxed);
    let seconds = started.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for session in sessions {
        latencies.extend(session.await.expect("a session").unwrap_or_else(|error| panic!("a session failed: {error}")));
    }
    latencies.sort_unstable();
    Report { messages: latencies.len(), seconds, latencies }
}

async fn session(load: Load, n: usize, counting: Arc<AtomicBool>, over: Arc<AtomicBool>) -> io::Result<Vec<u32>> {
    let mut latencies = Vec::new();
    let mut client: Option<Client> = None;
    let mut key = n;
    while !over.load(Ordering::Relaxed) {
        let started = Instant::now();
        let mut ready = match client.take() {
            Some(client) => client,
            None => {
                key += load.sessions;
                Client::open(&load, key).await?
            }
        };
        ready.send(&load).await?;
        if load.reuse {
            client = Some(ready);
        } else {
            ready.command(b"QUIT\r\n", 221).await?;
        }
        if counting.load(Ordering::Relaxed) {
            latencies.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
    Ok(latencies)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub struct Client {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
}

impl Client {
    /// Connects and logs in, as the `key`-th of the load's keys.
    pub async fn open(load: &Load, key: usize) -> io::Result<Self> {
        let stream = TcpStream::connect(load.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut client = match &load.tls {
            Some(tls) if !tls.start => Self::over(Box::new(tls.connector.connect(name.clone(), stream).await?)),
            Some(_) | None => Self::over(Box::new(stream)),
        };
        client.expect(220).await?;
        client.command(b"EHLO load.example.com\r\n", 250).await?;
        if let Some(tls) = load.tls.as_ref().filter(|tls| tls.start) {
            client.command(b"STARTTLS\r\n", 220).await?;
            client = Self::over(Box::new(tls.connector.connect(name, client.stream).await?));
            client.command(b"EHLO load.example.com\r\n", 250).await?;
        }
        if let Some(password) = &load.password {
            let user = relayed::username(key % load.keys);
            let response = BASE64.encode(format!("\0{user}\0{password}"));
            client.command(format!("AUTH PLAIN {response}\r\n").as_bytes(), 235).await?;
        }
        Ok(client)
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        Self { stream, input: Vec::new() }
    }

    /// One message as most clients send it: each command waits for its reply.
    pub async fn send(&mut self, load: &Load) -> io::Result<()> {
        self.command(format!("MAIL FROM:<{}>\r\n", load.from).as_bytes(), 250).await?;
        self.command(b"RCPT TO:<someone@example.net>\r\n", 250).await?;
        self.command(b"DATA\r\n", 354).await?;
        self.command(&[load.message.as_slice(), b".\r\n"].concat(), 250).await
    }

    async fn command(&mut self, bytes: &[u8], code: u16) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        self.expect(code).await
    }

    async fn expect(&mut self, code: u16) -> io::Result<()> {
        loop {
            if let Some(end) = last_line_end(&self.input) {
                let text = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end);
                let expected = text.starts_with(&code.to_string());
                return if expected { Ok(()) } else { Err(io::Error::other(format!("expected {code}, heard {text}"))) };
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn last_line_end(input: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(length) = input[start..].iter().position(|&byte| byte == b'\n') {
        let goes_on = input.get(start + 3) == Some(&b'-');
        start += length + 1;
        if !goes_on {
            return Some(start);
        }
    }
    None
}
