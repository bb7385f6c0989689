//! The stream under lettre's connection: it writes late, limits every wait, and knows whether the final dot went out.
//!
//! lettre flushes after every write and waits without a limit. Here bytes are held until lettre reads or enough of
//! them are there, so that a body and its final dot leave in one segment, and every wait ends at a named time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::client::TlsStream;

use super::line::{Body, Ended, Line, Point};

/// Number of held bytes at which they are sent without waiting for a read: a few segments, one TLS record or more.
const HELD_MAX: usize = 64 * 1024;
/// Maximum number of octets read at once, and accepted from an upstream while we are still sending.
const EARLY_MAX: usize = 4096;

#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

impl Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[derive(Debug)]
pub(super) struct UpstreamStream {
    socket: Socket,
    peer: SocketAddr,
    line: Arc<Line>,
    /// Bytes that lettre has written and we have not sent, from `sent` on.
    held: Vec<u8>,
    sent: usize,
    /// Reply lines that lettre has not taken yet.
    lines: Vec<u8>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The `terms` that the timer was set under, while it runs.
    waiting: Option<u64>,
}

impl UpstreamStream {
    pub fn new(socket: Socket, peer: SocketAddr, line: Arc<Line>) -> Self {
        Self { socket, peer, line, held: Vec::new(), sent: 0, lines: Vec::new(), timer: None, waiting: None }
    }

    fn end(&self, ended: Ended, error: io::Error) -> io::Error {
        self.line.state().ended.get_or_insert(ended);
        error
    }

    /// Waits, but not for ever: returns the error once the time limit has passed.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (terms, at) = {
            let state = self.line.state();
            (state.terms, (Instant::now() + state.stall).min(state.deadline))
        };
        if self.waiting != Some(terms) {
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(at),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
            }
            self.waiting = Some(terms);
        }
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(self.end(Ended::Timeout, io::ErrorKind::TimedOut.into()))
    }

    /// Sends the held bytes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            match self.socket.poll_write(cx, &self.held[self.sent..]) {
                Poll::Ready(Ok(taken)) if taken > 0 => {
                    self.sent += taken;
                    self.waiting = None;
                }
                Poll::Ready(Ok(_)) => {
                    return Poll::Ready(Err(self.end(Ended::Closed, io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Err(error)) => {
                    // The reply that explains it may be here already.
                    self.listen(cx);
                    return Poll::Ready(Err(self.end(Ended::Closed, error)));
                }
                Poll::Pending => {
                    if self.listen(cx) {
                        return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                    }
                    return self.wait(cx).map(Err);
                }
            }
        }
        if self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match self.socket.poll_flush(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.end(Ended::Closed, error))),
            Poll::Pending => return self.wait(cx).map(Err),
        }
        self.waiting = None;
        self.sent = 0;
        self.held.clear();
        self.held.shrink_to(HELD_MAX);
        Poll::Ready(Ok(()))
    }

    /// Reads the upstream's output, starting with what arrived early. It may be less than a line.
    fn poll_lines(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ahead = std::mem::take(&mut self.line.state().ahead);
        if !ahead.is_empty() {
            self.line.deliver(&ahead, &mut self.lines);
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; EARLY_MAX];
        let mut fresh = ReadBuf::new(&mut bytes);
        match self.socket.poll_read(cx, &mut fresh) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.end(Ended::Closed, error))),
            Poll::Pending => return self.wait(cx).map(Err),
        }
        self.waiting = None;
        if fresh.filled().is_empty() {
            self.end(Ended::Closed, io::ErrorKind::UnexpectedEof.into());
            return Poll::Ready(Ok(()));
        }
        self.line.deliver(fresh.filled(), &mut self.lines);
        Poll::Ready(Ok(()))
    }

    /// Checks, while a body is being sent, whether the upstream hung up or replied early. True if it did, and sending
    /// must stop.
    fn listen(&mut self, cx: &mut Context<'_>) -> bool {
        if matches!(self.line.state().body, Body::None) {
            return false;
        }
        let mut bytes = [0; EARLY_MAX];
        let mut buf = ReadBuf::new(&mut bytes);
        let heard = match self.socket.poll_read(cx, &mut buf) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => Ended::Early,
            Poll::Ready(Ok(()) | Err(_)) => Ended::Closed,
        };
        let mut state = self.line.state();
        state.ahead.extend(buf.filled());
        state.ended.get_or_insert(heard);
        true
    }

    /// Takes the final dot, or refuses to.
    fn take_dot(&mut self, cx: &mut Context<'_>, point: &Point) -> io::Result<()> {
        if self.listen(cx) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if !point.commit() {
            return Err(self.end(Ended::Abandoned, io::ErrorKind::ConnectionAborted.into()));
        }
        let mut state = self.line.state();
        state.body = Body::None;
        state.stall = state.final_reply;
        state.deadline = Instant::now() + state.final_reply;
        state.terms += 1;
        Ok(())
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.line.ended() {
            None => ready!(self.poll_send(cx))?,
            Some(Ended::Early) => {}
            Some(Ended::Timeout | Ended::Closed | Ended::Abandoned) => return Poll::Ready(Ok(())),
        }
        while self.lines.is_empty() {
            ready!(self.poll_lines(cx))?;
            if self.line.ended() == Some(Ended::Closed) {
                return Poll::Ready(Ok(()));
            }
        }
        let taken = self.lines.len().min(buf.remaining());
        buf.put_slice(&self.lines[..taken]);
        self.lines.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.line.ended().is_some() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        if self.held.len() - self.sent >= HELD_MAX {
            ready!(self.poll_send(cx))?;
        }
        let (point, dot) = match &self.line.state().body {
            Body::None => (None, false),
            Body::Open(point) => (Some(point.clone()), false),
            Body::Dot(point) => (Some(point.clone()), true),
        };
        if let Some(point) = point {
            if dot {
                self.take_dot(cx, &point)?;
            } else if point.is_abandoned() {
                return Poll::Ready(Err(self.end(Ended::Abandoned, io::ErrorKind::ConnectionAborted.into())));
            }
        }
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Does nothing: held bytes are sent when lettre reads, or when there are enough of them.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.line.ended().is_none() {
            ready!(self.poll_send(cx))?;
        }
        self.socket.poll_shutdown(cx)
    }
}

impl AsyncTokioStream for UpstreamStream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A stream in the middle of a body, whose other end takes `room` octets before it is read.
    fn stream(room: usize) -> (UpstreamStream, Arc<Line>, Arc<Point>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(room);
        let line = Line::new(Vec::new(), LONG, Instant::now() + LONG);
        let point = Arc::new(Point::default());
        line.body(point.clone(), LONG);
        let peer = SocketAddr::from(([127, 0, 0, 1], 25));
        (UpstreamStream::new(Socket::Memory(ours), peer, line.clone()), line, point, theirs)
    }

    /// Returns all that the other end receives, after the stream is gone.
    async fn heard(stream: UpstreamStream, mut theirs: DuplexStream) -> Vec<u8> {
        drop(stream);
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).await.expect("reading what was written");
        bytes
    }

    #[tokio::test]
    async fn once_abandoned_the_final_dot_is_never_taken() {
        let (mut stream, line, point, theirs) = stream(1024);
        stream.write_all(b"body").await.expect("a body");
        line.dot_is_next();
        assert!(point.abandon());
        assert!(stream.write_all(b"\r\n.\r\n").await.is_err());
        assert_eq!(line.ended(), Some(Ended::Abandoned));
        assert!(!heard(stream, theirs).await.ends_with(b".\r\n"));
    }

    #[tokio::test]
    async fn once_abandoned_no_more_of_the_body_is_taken() {
        let (mut stream, line, point, _theirs) = stream(1024);
        stream.write_all(b"body").await.expect("a body");
        assert!(point.abandon());
        assert!(stream.write_all(b"more").await.is_err());
        assert_eq!(line.ended(), Some(Ended::Abandoned));
    }

    #[tokio::test]
    async fn the_dot_leaves_with_the_body_and_only_then_counts_as_written() {
        let (mut stream, line, point, mut theirs) = stream(1024);
        stream.write_all(b"body").await.expect("a body");
        line.dot_is_next();
        assert!(!point.is_written());
        stream.write_all(b"\r\n.\r\n").await.expect("a dot");
        assert!(point.is_written() && !point.abandon());
        theirs.write_all(b"250 ok\r\n").await.expect("a reply");
        let mut reply = [0; 64];
        let read = stream.read(&mut reply).await.expect("the reply");
        assert_eq!(&reply[..read], b"250 ok\r\n");
        assert_eq!(heard(stream, theirs).await, b"body\r\n.\r\n");
    }

    #[tokio::test]
    async fn the_dot_is_held_back_when_the_upstream_spoke_or_went() {
        let (mut stream, line, point, mut theirs) = stream(1024);
        stream.write_all(b"body").await.expect("a body");
        theirs.write_all(b"452 4.3.1 disk full\r\n").await.expect("an early reply");
        line.dot_is_next();
        assert!(stream.write_all(b"\r\n.\r\n").await.is_err());
        assert_eq!((line.ended(), point.is_written()), (Some(Ended::Early), false));
        let mut reply = [0; 64];
        let read = stream.read(&mut reply).await.expect("the early reply");
        assert_eq!(&reply[..read], b"452 4.3.1 disk full\r\n");

        let (mut gone, line, point, theirs) = self::stream(1024);
        drop(theirs);
        line.dot_is_next();
        assert!(gone.write_all(b".\r\n").await.is_err());
        assert_eq!((line.ended(), point.is_written()), (Some(Ended::Closed), false));
    }

    #[tokio::test]
    async fn an_upstream_that_speaks_and_reads_no_more_is_heard() {
        let (mut stream, line, _point, mut theirs) = stream(64);
        theirs.write_all(b"552 5.3.4 too big\r\n").await.expect("an early reply");
        let body = vec![b'x'; 2 * HELD_MAX];
        stream.write_all(&body).await.expect("held");
        assert!(stream.write_all(&body).await.is_err(), "the held octets cannot leave");
        assert_eq!(line.ended(), Some(Ended::Early));
    }

    #[tokio::test]
    async fn every_wait_ends() {
        let short = Duration::from_millis(20);
        for (stall, deadline) in [(short, LONG), (LONG, short)] {
            let (mut stream, line, _point, _theirs) = stream(64);
            line.limit(stall, Instant::now() + deadline);
            assert!(stream.read(&mut [0; 64]).await.is_err());
            assert_eq!(line.ended(), Some(Ended::Timeout));
        }
    }
}
