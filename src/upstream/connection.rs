//! One connection to an upstream, from the dial to the QUIT.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::domain::directory::UpstreamTls;

use super::UpstreamSettings;
use super::line::{Ended, Line};
use super::message::{Cause, Target};
use super::reply::{Class, Reply};
use super::tls::{self, Upgrade};
use super::upstream_stream::{Socket, UpstreamStream};

/// Maximum time for a RSET or QUIT: no mail waits for it, only a connection's slot.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// The capabilities that an upstream announced in its EHLO reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    /// It takes the SIZE parameter, and refuses messages of more octets (0 = it gave no limit).
    pub size: Option<usize>,
}

impl Capabilities {
    /// Reads them from all that was received so far: the greeting, then the EHLO reply.
    fn parse(received: &[u8]) -> Self {
        let text = String::from_utf8_lossy(received);
        let after_greeting = text.lines().skip_while(|line| line.as_bytes().get(3) == Some(&b'-')).skip(1);
        let mut seen = Self::default();
        // The first line of the EHLO reply is the upstream's name.
        for line in after_greeting.skip(1) {
            let mut words = line.get(4..).unwrap_or("").split_ascii_whitespace();
            let keyword = words.next().unwrap_or("").to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => seen.pipelining = true,
                "8BITMIME" => seen.eight_bit_mime = true,
                "SMTPUTF8" => seen.smtputf8 = true,
                "SIZE" => seen.size = Some(words.next().and_then(|limit| limit.parse().ok()).unwrap_or(0)),
                _ => {}
            }
        }
        seen
    }
}

/// The reason why there is no connection.
pub(super) enum NoConnection {
    Failed(Cause),
    RefusesUs(String),
}

/// A broken connection; outstanding replies will not come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken(pub Option<Ended>);

impl Broken {
    pub fn cause(self) -> Cause {
        match self.0 {
            Some(Ended::Timeout | Ended::Abandoned) => Cause::Timeout,
            Some(Ended::Closed) => Cause::Closed,
            Some(Ended::Early) | None => Cause::Protocol,
        }
    }
}

pub(super) struct Connection {
    smtp: AsyncSmtpConnection,
    pub line: Arc<Line>,
    pub capabilities: Capabilities,
    pub opened: Instant,
    pub uses: u32,
    reply_limit: Duration,
}

impl Connection {
    /// Dials, encrypts, greets and logs in.
    pub async fn open(
        target: &Target,
        tls: Option<Arc<ClientConfig>>,
        settings: &UpstreamSettings,
        deadline: Instant,
    ) -> Result<Self, NoConnection> {
        let connect_by = deadline.min(Instant::now() + settings.connect_limit);
        let dial = TcpStream::connect((target.entry.host.as_str(), target.entry.port));
        let stream = match timeout_at(connect_by, dial).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return Err(NoConnection::Failed(Cause::Unreachable)),
            Err(_) => return Err(NoConnection::Failed(Cause::Timeout)),
        };
        let peer = stream.peer_addr().map_err(|_| NoConnection::Failed(Cause::Closed))?;
        // Without it Nagle holds the last segment of a body back for 40 ms.
        stream.set_nodelay(true).map_err(|_| NoConnection::Failed(Cause::Closed))?;
        let login = target.secret.as_ref().and_then(|secret| secret.login.clone());
        if login.is_some() && target.entry.tls == UpstreamTls::None && !peer.ip().is_loopback() {
            tracing::error!(policy = %target.policy, "the upstream wants a login and has no TLS; it is not sent in the clear");
            return Err(NoConnection::Failed(Cause::Tls));
        }
        let (socket, greeting) = match timeout_at(connect_by, encrypt(target, tls, settings, stream)).await {
            Ok(done) => done?,
            Err(_) => return Err(NoConnection::Failed(Cause::Timeout)),
        };
        let line = Line::new(greeting, settings.reply_limit, deadline);
        let stream = UpstreamStream::new(socket, peer, line.clone());
        let hello = ClientId::Domain(settings.hostname.clone());
        let smtp = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello).await;
        let smtp = smtp.map_err(|error| no_connection(&error, &line))?;
        let capabilities = Capabilities::parse(&line.tapped());
        let (opened, reply_limit) = (Instant::now(), settings.reply_limit);
        let mut connection = Self { smtp, line, capabilities, opened, uses: 0, reply_limit };
        if let Some((user, password)) = login {
            connection.log_in(user, password).await?;
        }
        Ok(connection)
    }

    async fn log_in(&mut self, user: String, password: String) -> Result<(), NoConnection> {
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        match self.smtp.auth(&mechanisms, &Credentials::new(user, password)).await {
            Ok(response) => match read(&response) {
                reply if reply.class() == Class::Done => Ok(()),
                reply => Err(NoConnection::RefusesUs(reply.line())),
            },
            Err(error) if error.is_client() => {
                Err(NoConnection::RefusesUs("the upstream offers no AUTH PLAIN or LOGIN that we understand".to_owned()))
            }
            Err(error) => Err(no_connection(&error, &self.line)),
        }
    }

    /// Starts a transaction: waits are limited by its deadline from here on.
    pub fn begin(&mut self, deadline: Instant) {
        self.uses += 1;
        self.line.limit(self.reply_limit, deadline);
    }

    /// Writes commands and reads the reply to the first.
    pub async fn command(&mut self, commands: &str) -> Result<Reply, Broken> {
        let result = self.smtp.command(commands).await;
        self.reply(result)
    }

    /// Reads the reply to the next command that was written.
    pub async fn next_reply(&mut self) -> Result<Reply, Broken> {
        let result = self.smtp.read_response().await;
        self.reply(result)
    }

    /// Writes a body, dot-stuffed, and the final dot, and reads the reply.
    pub async fn message<'a>(&mut self, chunks: impl Iterator<Item = &'a [u8]>) -> Result<Reply, Broken> {
        let result = self.smtp.message_iter(chunks).await;
        self.reply(result)
    }

    fn reply(&self, result: Result<Response, lettre::transport::smtp::Error>) -> Result<Reply, Broken> {
        match result {
            Ok(response) => Ok(read(&response)),
            Err(error) => refusal(&error).ok_or(Broken(self.line.ended())),
        }
    }

    /// True if nothing arrived since the last reply, and the upstream did not hang up. It must be checked before a
    /// parked connection is used: a 421 that came while it was parked would be taken for the reply to MAIL. And before
    /// a body is written: a 250 right after the 354 would be taken for the reply to the message.
    pub fn is_quiet(&mut self) -> bool {
        let Some(before) = self.line.delivered() else { return false };
        // Unconstrained, because a used-up budget of the task would look like silence.
        let heard = tokio::task::unconstrained(self.smtp.read_response()).now_or_never();
        heard.is_none() && self.line.delivered() == Some(before)
    }

    /// Clears a refused transaction. False if the connection cannot be used again.
    pub async fn reset(&mut self) -> bool {
        // A reply that is there already would be taken for the reply to RSET.
        if !self.is_quiet() {
            return false;
        }
        self.line.limit(FAREWELL_LIMIT, Instant::now() + FAREWELL_LIMIT);
        matches!(self.command("RSET\r\n").await, Ok(reply) if reply.class() == Class::Done)
    }

    pub async fn quit(mut self) {
        self.line.limit(FAREWELL_LIMIT, Instant::now() + FAREWELL_LIMIT);
        // Whatever it answers, it is over.
        let _ = timeout(FAREWELL_LIMIT, self.smtp.quit()).await;
    }
}

async fn encrypt(
    target: &Target,
    tls: Option<Arc<ClientConfig>>,
    settings: &UpstreamSettings,
    mut stream: TcpStream,
) -> Result<(Socket, Vec<u8>), NoConnection> {
    let greeting = match target.entry.tls {
        UpstreamTls::None => return Ok((Socket::Plain(stream), Vec::new())),
        UpstreamTls::Implicit => Vec::new(),
        UpstreamTls::StartTls => match tls::start_tls(&mut stream, &settings.hostname).await {
            Ok(Upgrade::Ready(greeting)) => greeting,
            Ok(Upgrade::Refused(text)) => return Err(NoConnection::RefusesUs(text)),
            Ok(Upgrade::Impossible) => return Err(NoConnection::Failed(Cause::Tls)),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(NoConnection::Failed(Cause::Tls));
            }
            Err(_) => return Err(NoConnection::Failed(Cause::Closed)),
        },
    };
    let config = tls.ok_or(NoConnection::Failed(Cause::Tls))?;
    match tls::handshake(config, &target.entry.host, stream).await {
        Ok(stream) => Ok((Socket::Tls(Box::new(stream)), greeting)),
        Err(error) => {
            tracing::warn!(policy = %target.policy, %error, "the TLS handshake with the upstream failed");
            Err(NoConnection::Failed(Cause::Tls))
        }
    }
}

fn read(response: &Response) -> Reply {
    Reply::new(response.code().into(), response.message())
}

/// Restores the reply from the error that lettre makes of every 4xx and 5xx reply.
fn refusal(error: &lettre::transport::smtp::Error) -> Option<Reply> {
    use std::error::Error as _;
    let code = error.status()?;
    let text = error.source().map(ToString::to_string).unwrap_or_default();
    Some(Reply::new(code.into(), [text.as_str()]))
}

fn no_connection(error: &lettre::transport::smtp::Error, line: &Line) -> NoConnection {
    match refusal(error) {
        Some(reply) => NoConnection::RefusesUs(reply.line()),
        None => NoConnection::Failed(Broken(line.ended()).cause()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_ehlo_reply_alone() {
        let received = b"220-SIZE 1\r\n220 PIPELINING\r\n250-PIPELINING.example.com\r\n250-size 1000\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n";
        let expected = Capabilities { pipelining: false, eight_bit_mime: true, smtputf8: true, size: Some(1000) };
        assert_eq!(Capabilities::parse(received), expected);
        assert_eq!(Capabilities::parse(b"220 hi\r\n250 x\r\n"), Capabilities::default());
        assert_eq!(Capabilities::parse(b"220 hi\r\n250-x\r\n250-SIZE\r\n250 PIPELINING\r\n").size, Some(0));
    }
}
