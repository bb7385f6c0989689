//! The socket with its two buffers: whole lines out of it, batches of replies into it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use memchr::memchr;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::metrics::TlsFailure;
use super::smtp::command::LINE_MAX;
use super::smtp::reply::Reply;
use super::tls::Agreed;

/// Room for one read: a pipelined envelope, or a TLS record of a body.
const READ_CHUNK: usize = 16 * 1024;
/// Room for one read of a client that has been silent: a command.
const IDLE_CHUNK: usize = 512;
/// Silence after which the room is released: ten thousand idle sessions are worth 160 MB of it.
const IDLE_AFTER: Duration = Duration::from_secs(1);
/// Maximum size of a batch of replies: those to a pipelined envelope of a hundred recipients fit. Short commands have
/// long replies (EHLO), so without it one read makes a megabyte of them.
const BATCH_MAX: usize = 8 * 1024;

/// The transport of a connection, before and after STARTTLS.
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Only during a handshake, or after it failed.
    Gone,
}

/// The content at the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut {
    /// A line of this many octets with its end.
    Line(usize),
    /// A line that was longer than [`LINE_MAX`]; it was discarded.
    TooLong,
    /// No whole line yet.
    Wait,
}

/// A client's connection.
pub struct ClientStream {
    transport: Transport,
    pub input: BytesMut,
    output: BytesMut,
    /// Octets of the input that are known to hold no line end.
    scanned: usize,
    /// The rest of an overlong line is being discarded.
    skipping: bool,
    /// Maximum time for a client to read our replies. A reply is small, so only a dead client takes any time.
    reply_limit: Duration,
    /// The client does not read: nothing more is sent to it.
    stuck: bool,
}

impl ClientStream {
    pub fn new(stream: TcpStream, reply_limit: Duration) -> Self {
        Self {
            transport: Transport::Plain(stream),
            input: BytesMut::new(),
            output: BytesMut::new(),
            scanned: 0,
            skipping: false,
            reply_limit,
            stuck: false,
        }
    }

    /// Adds a reply to the batch.
    pub fn say(&mut self, reply: &Reply) {
        reply.write(&mut self.output);
    }

    /// Sends the batch if it is large.
    pub async fn relieve(&mut self) -> io::Result<()> {
        if self.output.len() < BATCH_MAX { Ok(()) } else { self.flush().await }
    }

    /// Sends the batch in one write.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let write = async {
            self.transport.write_all(&self.output).await?;
            self.transport.flush().await
        };
        let Ok(written) = timeout(self.reply_limit, write).await else {
            self.stuck = true;
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        };
        written?;
        self.output.clear();
        Ok(())
    }

    /// True if the client was given up because it does not read.
    pub fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Reads more input. `Ok(0)` is the client's end; a `TimedOut` error is the deadline, even if octets are there: a
    /// client that keeps sending would never reach it.
    pub async fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        let now = Instant::now();
        if now >= deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        self.input.reserve(READ_CHUNK);
        let talking = deadline.min(now + IDLE_AFTER);
        // Giving up a read loses nothing: either it has read, or it has not.
        if let Ok(read) = timeout_at(talking, self.transport.read_buf(&mut self.input)).await {
            return read;
        }
        if talking < deadline {
            self.shrink();
            if let Ok(read) = timeout_at(deadline, self.transport.read_buf(&mut self.input)).await {
                return read;
            }
        }
        Err(io::Error::from(io::ErrorKind::TimedOut))
    }

    /// Releases the memory that a silent client has no use for.
    fn shrink(&mut self) {
        let mut small = BytesMut::with_capacity(self.input.len() + IDLE_CHUNK);
        small.extend_from_slice(&self.input);
        self.input = small;
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }

    /// Waits until a client that waits for a reply hangs up, which is how it gives up. Never returns for one that sent
    /// something more (QUIT): it does not retry, and what it sends next is another message, even if it is the same byte
    /// for byte.
    pub async fn hung_up(&mut self) {
        if self.input.is_empty() {
            self.input.reserve(1);
            if matches!(self.transport.read_buf(&mut self.input).await, Ok(0) | Err(_)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Looks for a whole line. Call [`ClientStream::consume`] with its length after reading it.
    pub fn cut(&mut self) -> Cut {
        let Some(found) = memchr(b'\n', &self.input[self.scanned..]) else {
            if self.skipping || self.input.len() > LINE_MAX {
                self.skipping = true;
                self.input.clear();
            }
            self.scanned = self.input.len();
            return Cut::Wait;
        };
        let length = self.scanned + found + 1;
        if self.skipping || length > LINE_MAX {
            self.skipping = false;
            self.consume(length);
            return Cut::TooLong;
        }
        Cut::Line(length)
    }

    pub fn consume(&mut self, octets: usize) {
        self.input.advance(octets);
        self.scanned = 0;
    }

    /// Starts TLS. Nothing may be buffered: bytes that came in the clear need not be the client's (CVE-2011-0411).
    pub async fn start_tls(&mut self, config: Arc<ServerConfig>, deadline: Instant) -> Result<Option<Agreed>, NoTls> {
        if !self.input.is_empty() {
            let error = io::Error::new(io::ErrorKind::InvalidData, "octets before the TLS handshake");
            return Err(NoTls { why: TlsFailure::Injected, error });
        }
        let Transport::Plain(stream) = std::mem::replace(&mut self.transport, Transport::Gone) else {
            return Err(NoTls::from(io::Error::from(io::ErrorKind::NotConnected)));
        };
        // Boxed, so that the session does not keep the room of a handshake.
        let accept = Box::pin(timeout_at(deadline, TlsAcceptor::from(config).accept(stream)));
        let stream = accept.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))?;
        let agreed = Agreed::of(stream.get_ref().1);
        self.transport = Transport::Tls(Box::new(stream));
        // The dialogue in the clear needed room that a silent client does not.
        self.shrink();
        Ok(agreed)
    }

    /// Closes the connection cleanly, as far as the client lets us.
    pub async fn close(&mut self) {
        if !self.stuck && self.flush().await.is_ok() {
            // It makes no difference if the client is gone already.
            let _ = timeout(self.reply_limit, self.transport.shutdown()).await;
        }
    }
}

/// A failed TLS handshake and its reason.
#[derive(Debug)]
pub struct NoTls {
    pub why: TlsFailure,
    pub error: io::Error,
}

impl From<io::Error> for NoTls {
    fn from(error: io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::TimedOut => TlsFailure::Late,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected => TlsFailure::HungUp,
            // rustls wraps what it refuses; no other kind of error is known here.
            _ => TlsFailure::Handshake,
        };
        Self { why, error }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Gone => Poll::Ready(Err(io::Error::from(io::ErrorKind::NotConnected))),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Gone => Poll::Ready(Err(io::Error::from(io::ErrorKind::NotConnected))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Gone => Poll::Ready(Err(io::Error::from(io::ErrorKind::NotConnected))),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::smtp::reply::{Carries, Offer};
    use tokio::net::TcpListener;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn pair() -> (ClientStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("a connection");
        let (server, _) = listener.accept().await.expect("the other end");
        (ClientStream::new(server, PATIENCE), client)
    }

    #[tokio::test]
    async fn a_deadline_that_passed_is_over_even_where_octets_wait() {
        let (mut stream, mut client) = pair().await;
        client.write_all(b"NOOP\r\nNOOP\r\n").await.expect("written");
        let later = Instant::now() + PATIENCE;
        assert!(stream.fill(later).await.expect("octets") > 0);
        client.write_all(b"NOOP\r\n").await.expect("written");
        let Transport::Plain(socket) = &stream.transport else { panic!("no socket") };
        socket.readable().await.expect("octets wait");
        let late = stream.fill(Instant::now()).await.expect_err("the deadline");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_silent_client_takes_little_memory_and_loses_nothing_that_it_said() {
        let (mut stream, mut client) = pair().await;
        client.write_all(b"EHLO client.exam").await.expect("written");
        let later = Instant::now() + PATIENCE;
        while stream.input.len() < 16 {
            stream.fill(later).await.expect("octets");
        }
        assert_eq!(stream.cut(), Cut::Wait);
        let late = stream.fill(Instant::now() + 2 * IDLE_AFTER).await.expect_err("silence");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert!(stream.input.capacity() <= 2 * IDLE_CHUNK, "{} octets are kept", stream.input.capacity());
        client.write_all(b"ple\r\n").await.expect("written");
        while stream.input.len() < 21 {
            stream.fill(Instant::now() + PATIENCE).await.expect("octets");
        }
        assert_eq!(stream.cut(), Cut::Line(21));
        assert_eq!(&stream.input[..21], b"EHLO client.example\r\n");
    }

    #[tokio::test]
    async fn replies_to_many_short_commands_take_little_memory() {
        let (mut stream, mut client) = pair().await;
        let carries = Carries { eight_bit: true, utf8: true, size: 1 };
        let offer = Offer { start_tls: true, auth: true, carries };
        let reply = Reply::Ehlo { hostname: "relay.example".to_owned(), offer };
        let mut one = BytesMut::new();
        reply.write(&mut one);
        let reading = tokio::spawn(async move {
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.expect("replies");
            heard.len()
        });
        for _ in 0..5_000 {
            stream.say(&reply);
            stream.relieve().await.expect("sent");
            assert!(stream.output.capacity() <= 4 * BATCH_MAX, "{} octets are kept", stream.output.capacity());
        }
        stream.close().await;
        drop(stream);
        assert_eq!(reading.await.expect("heard"), 5_000 * one.len());
    }
}
