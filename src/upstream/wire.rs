//! The stream under lettre's connection: it writes late, limits every wait, and knows whether the final dot went out.
//!
//! lettre flushes after every write and waits without a limit. Here bytes are held until lettre reads or enough of
//! them are there, so that a body and its final dot leave in one segment, and every wait ends at a named time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::client::TlsStream;

/// Held bytes at which they are sent without waiting for a read: a few segments, one TLS record or more.
const HELD_MAX: usize = 64 * 1024;
/// What lettre reads of one reply at the most (its own limit), kept while the capabilities are learned.
const TAP_MAX: usize = 100_000;
/// What an upstream may say before we are done speaking.
const EARLY_MAX: usize = 4096;

/// The point of no return of one message. Both sides race for it: the wire before it takes the final dot, the caller
/// when its deadline has passed. Whoever is first is right for ever.
#[derive(Debug, Default)]
pub(super) struct Point(AtomicU8);

const OPEN: u8 = 0;
const WRITTEN: u8 = 1;
const ABANDONED: u8 = 2;

impl Point {
    /// The wire is about to write the final dot. False: it must not.
    fn commit(&self) -> bool {
        self.0.compare_exchange(OPEN, WRITTEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Nobody waits any more. True: the final dot will never be written.
    pub fn abandon(&self) -> bool {
        self.0.compare_exchange(OPEN, ABANDONED, Ordering::AcqRel, Ordering::Acquire).is_ok() || self.is_abandoned()
    }

    pub fn is_written(&self) -> bool {
        self.0.load(Ordering::Acquire) == WRITTEN
    }

    fn is_abandoned(&self) -> bool {
        self.0.load(Ordering::Acquire) == ABANDONED
    }
}

/// Why a wire cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Timeout,
    Closed,
    /// The upstream answered before the message was complete; its reply can still be read.
    Early,
    Abandoned,
}

/// How far a body is.
#[derive(Debug)]
enum Body {
    None,
    Open(Arc<Point>),
    /// All of it was handed over: what comes next is the final dot.
    Dot(Arc<Point>),
}

/// What the transaction and its wire share: lettre owns the wire, so this is how it is spoken to.
#[derive(Debug)]
pub(super) struct Line(Mutex<State>);

#[derive(Debug)]
struct State {
    /// How long one wait may last, and when the last one must be over.
    stall: Duration,
    deadline: Instant,
    /// Counts the changes of the two.
    terms: u64,
    final_reply: Duration,
    /// Everything read so far, while somebody wants it.
    tap: Option<Vec<u8>>,
    /// Read, but not yet handed to lettre.
    ahead: Vec<u8>,
    body: Body,
    ended: Option<Ended>,
    /// Octets handed to lettre, and where in a line the last one was.
    delivered: u64,
    column: u32,
}

impl Line {
    /// `ahead` is what was read before lettre came: the greeting of a STARTTLS upstream.
    pub fn new(ahead: Vec<u8>, stall: Duration, deadline: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            stall,
            deadline,
            terms: 0,
            final_reply: stall,
            tap: Some(Vec::new()),
            ahead,
            body: Body::None,
            ended: None,
            delivered: 0,
            column: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that was read until now; the tap closes.
    pub fn tapped(&self) -> Vec<u8> {
        self.state().tap.take().unwrap_or_default()
    }

    /// From here on each wait lasts at most `stall` and none beyond `deadline`.
    pub fn limit(&self, stall: Duration, deadline: Instant) {
        let mut state = self.state();
        (state.stall, state.deadline) = (stall, deadline);
        state.terms += 1;
    }

    /// A body follows; its dot needs `point`, and the reply after it may take `final_reply`.
    pub fn body(&self, point: Arc<Point>, final_reply: Duration) {
        let mut state = self.state();
        state.body = Body::Open(point);
        state.final_reply = final_reply;
    }

    /// The body is complete: the next bytes are the final dot.
    pub fn dot_is_next(&self) {
        let mut state = self.state();
        if let Body::Open(point) = &state.body {
            state.body = Body::Dot(point.clone());
        }
    }

    pub fn ended(&self) -> Option<Ended> {
        self.state().ended
    }

    /// Octets handed to lettre, when the last of them ended a line; `None` in the middle of one.
    pub fn delivered(&self) -> Option<u64> {
        let state = self.state();
        (state.column == 0 && state.ahead.is_empty() && state.ended.is_none()).then_some(state.delivered)
    }
}

#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    peer: SocketAddr,
    line: Arc<Line>,
    /// Written by lettre and not yet by us, from `sent` on.
    held: Vec<u8>,
    sent: usize,
    timer: Option<Pin<Box<Sleep>>>,
    /// The terms under which the timer was set, while it runs.
    waiting: Option<u64>,
}

impl Wire {
    pub fn new(socket: Socket, peer: SocketAddr, line: Arc<Line>) -> Self {
        Self { socket, peer, line, held: Vec::new(), sent: 0, timer: None, waiting: None }
    }

    fn end(&self, ended: Ended, error: io::Error) -> io::Error {
        self.line.state().ended.get_or_insert(ended);
        error
    }

    /// Nothing can be done now: wait, but not for ever.
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

    /// Sends what is held.
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

    /// While a body is on its way, hears whether the upstream hung up or spoke early. True: it did, stop.
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

    /// Hands `fresh` to lettre as it can take it. Returns what must go there instead, where it differs.
    fn deliver(&self, fresh: &[u8]) -> Option<Vec<u8>> {
        let mut state = self.line.state();
        let mut mended = None;
        for (index, &byte) in fresh.iter().enumerate() {
            // A text in Latin-1 is no reason to lose the code before it; `250` without a text is a reply (RFC 5321
            // §4.2), which lettre does not know.
            let bare = state.column == 3 && byte == b'\r';
            if bare || !byte.is_ascii() {
                mended.get_or_insert_with(|| fresh[..index].to_vec());
            }
            if let Some(mended) = &mut mended {
                if bare {
                    mended.push(b' ');
                }
                mended.push(if byte.is_ascii() { byte } else { b'?' });
            }
            state.column = if byte == b'\n' { 0 } else { state.column.saturating_add(1) };
        }
        state.delivered += fresh.len() as u64;
        let seen = mended.as_deref().unwrap_or(fresh);
        if let Some(tap) = &mut state.tap
            && tap.len() + seen.len() <= TAP_MAX
        {
            tap.extend(seen);
        }
        mended
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.line.ended() {
            None => ready!(self.poll_send(cx))?,
            Some(Ended::Early) => {}
            Some(Ended::Timeout | Ended::Closed | Ended::Abandoned) => return Poll::Ready(Ok(())),
        }
        let mut bytes = [0; EARLY_MAX];
        let mut fresh = ReadBuf::new(&mut bytes);
        {
            let mut state = self.line.state();
            let taken = state.ahead.len().min(EARLY_MAX).min(buf.remaining() / 2);
            fresh.put_slice(&state.ahead[..taken]);
            state.ahead.drain(..taken);
        }
        if fresh.filled().is_empty() {
            // Half of the room at the most, because mending a reply may lengthen it.
            let mut part = fresh.take(buf.remaining() / 2);
            match self.socket.poll_read(cx, &mut part) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.end(Ended::Closed, error))),
                Poll::Pending => return self.wait(cx).map(Err),
            }
            let read = part.filled().len();
            fresh = ReadBuf::new(&mut bytes);
            fresh.set_filled(read);
        }
        self.waiting = None;
        if fresh.filled().is_empty() {
            self.end(Ended::Closed, io::ErrorKind::UnexpectedEof.into());
            return Poll::Ready(Ok(()));
        }
        match self.deliver(fresh.filled()) {
            Some(mended) => buf.put_slice(&mended),
            None => buf.put_slice(fresh.filled()),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
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
            if point.is_abandoned() {
                return Poll::Ready(Err(self.end(Ended::Abandoned, io::ErrorKind::ConnectionAborted.into())));
            }
            if dot {
                self.take_dot(cx, &point)?;
            }
        }
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Held bytes leave when lettre reads, or when there are enough of them.
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

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}
