//! A small SMTP client that shows its dialogue: what a program with the mounted Secret would do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A reply that takes longer is a fault of the demo's own machine.
const REPLY_DEADLINE: Duration = Duration::from_secs(30);

/// What a pod reads from the mounted files.
#[derive(Clone)]
pub struct Credentials {
    pub host: String,
    pub port: u16,
    pub username: String,
    pub password: String,
    pub certificates: String,
}

/// One session over implicit TLS.
pub struct Session {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    /// Whether lines are printed.
    pub shown: bool,
}

impl Credentials {
    /// From the data of a Secret.
    pub fn from_secret(secret: &Secret) -> Result<Self, String> {
        let data = secret.data.as_ref().ok_or("the Secret has no data")?;
        let value = |key: &str| {
            let bytes = data.get(key).ok_or_else(|| format!("the Secret has no `{key}`"))?;
            String::from_utf8(bytes.0.clone()).map_err(|error| format!("reading `{key}`: {error}"))
        };
        Ok(Self {
            host: value("host")?,
            port: value("port")?.parse().map_err(|error| format!("reading `port`: {error}"))?,
            username: value("username")?,
            password: value("password")?,
            certificates: value("certificates")?,
        })
    }
}

impl Session {
    /// Connects, logs in and prints the dialogue; an error where the relay refuses the login.
    pub fn open(credentials: &Credentials) -> Result<Self, String> {
        let (session, reply) = Self::log_in(credentials, true)?;
        if reply.starts_with("235") { Ok(session) } else { Err(format!("the login was answered {reply}")) }
    }

    /// Connects and logs in without a word; the session and the reply to AUTH.
    pub fn open_quietly(credentials: &Credentials) -> Result<(Self, String), String> {
        Self::log_in(credentials, false)
    }

    fn log_in(credentials: &Credentials, shown: bool) -> Result<(Self, String), String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(credentials.certificates.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("reading `certificates`: {error}"))?;
            roots.add(certificate).map_err(|error| format!("trusting `certificates`: {error}"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("preparing TLS: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name =
            ServerName::try_from(credentials.host.clone()).map_err(|error| format!("reading `host`: {error}"))?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| format!("TLS: {error}"))?;
        let socket = TcpStream::connect((credentials.host.as_str(), credentials.port))
            .map_err(|error| format!("connecting to {}:{}: {error}", credentials.host, credentials.port))?;
        socket.set_read_timeout(Some(REPLY_DEADLINE)).map_err(|error| format!("setting a deadline: {error}"))?;
        let mut session = Self { stream: BufReader::new(StreamOwned::new(connection, socket)), shown };
        session.reply()?;
        session.say("EHLO app.demo")?;
        let plain = BASE64.encode(format!("\0{}\0{}", credentials.username, credentials.password));
        let reply =
            session.say_as(&format!("AUTH PLAIN {plain}"), "AUTH PLAIN (the mounted user name and password)")?;
        Ok((session, reply))
    }

    /// Sends one message and returns the last reply: the 250 after its body, or the refusal.
    pub fn send(&mut self, from: &str, to: &str, subject: &str) -> Result<String, String> {
        for command in [format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{to}>"), "DATA".to_owned()] {
            let reply = self.say(&command)?;
            if !reply.starts_with(['2', '3']) {
                self.say("RSET")?;
                return Ok(reply);
            }
        }
        let message = format!("From: Demo <{from}>\r\nTo: {to}\r\nSubject: {subject}\r\n\r\nGood morning.\r\n.");
        self.say_as(&message, "(headers, body) .")
    }

    pub fn quit(mut self) -> Result<(), String> {
        self.say("QUIT").map(drop)
    }

    fn say(&mut self, line: &str) -> Result<String, String> {
        self.say_as(line, line)
    }

    fn say_as(&mut self, line: &str, shown: &str) -> Result<String, String> {
        if self.shown {
            println!("    C: {shown}");
        }
        let stream = self.stream.get_mut();
        stream
            .write_all(format!("{line}\r\n").as_bytes())
            .and_then(|()| stream.flush())
            .map_err(|error| format!("writing to the relay: {error}"))?;
        self.reply()
    }

    fn reply(&mut self) -> Result<String, String> {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).map_err(|error| format!("reading from the relay: {error}"))?;
            if line.is_empty() {
                return Err("the relay closed the connection".to_owned());
            }
            if self.shown {
                println!("    S: {}", line.trim_end());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }
}
