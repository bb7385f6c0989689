//! The listeners: one task each, which accepts connections, counts them and turns them away.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client_stream::ClientStream;
use super::connection::{AcceptedConnection, Connection, SharedState};
use super::metrics::{Arrival, ProxyRefusal};
use super::smtp::proxy::{self, Header};
use super::smtp::reply::Reply;
use crate::domain::network;
use crate::runtime::relay_config::{Listener, ListenerMode};

/// Pause after a failed accept: the process is out of file descriptors, and retrying at once would only take the
/// processor as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that the kernel queues until they are accepted; it lowers this to its own limit (somaxconn, 4,096). A
/// client that finds no room waits a second for its second try, so that all clients would feel a flood.
const BACKLOG: u32 = 4_096;
/// Maximum time for a client that is turned away to read the reason.
const TURN_AWAY_LIMIT: Duration = Duration::from_secs(2);

/// A listener that is open.
pub struct ListenerTask {
    listener: Arc<ArcSwap<Listener>>,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl ListenerTask {
    pub async fn open(listener: Listener, shared: Arc<SharedState>, sessions: TaskTracker) -> io::Result<Self> {
        let socket = bind(listener.address)?;
        let address = socket.local_addr()?;
        tracing::info!(listener = listener.name, %address, mode = ?listener.mode, "listening");
        let listener = Arc::new(ArcSwap::from_pointee(listener));
        let stop = CancellationToken::new();
        let accepting = accept(socket, listener.clone(), shared, sessions);
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = accepting => {}
            }
        });
        Ok(Self { listener, address, stop, task })
    }

    /// Returns the address that it listens on; the port is the real one if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn listener(&self) -> Arc<Listener> {
        self.listener.load_full()
    }

    /// Takes over changed settings without closing the socket. The address must be the same.
    pub fn change(&self, listener: Listener) {
        self.listener.store(Arc::new(listener));
    }

    /// Stops accepting, and returns when the socket is free. Sessions continue.
    pub async fn close(self) {
        self.stop.cancel();
        // The task does not panic, and stopping it is the aim.
        let _ = self.task.await;
    }
}

/// Binds as `TcpListener::bind` does, with a longer queue.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(
    socket: TcpListener,
    listener: Arc<ArcSwap<Listener>>,
    shared: Arc<SharedState>,
    sessions: TaskTracker,
) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let session = meet(stream, peer, listener.load_full(), shared.clone());
                sessions.spawn(session);
            }
            Err(error) => {
                tracing::warn!(listener = listener.load().name, %error, "accepting a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection, or turns it away. Its places are released when it ends.
async fn meet(mut stream: TcpStream, peer: SocketAddr, listener: Arc<Listener>, shared: Arc<SharedState>) {
    let metrics = &shared.admission.metrics;
    let settings = shared.admission.settings.load_full();
    let limits = &settings.config.limits;
    let Some(connection) = shared.limits.any(limits.connections) else {
        metrics.arrived(&listener.name, Arrival::CrowdedAll);
        return turn_away(stream, &listener, &shared, Reply::Crowded).await;
    };
    let address = match client(&mut stream, peer.ip(), &listener, &shared).await {
        Ok(address) => address,
        Err(why) => {
            metrics.arrived(&listener.name, Arrival::Unproxied);
            metrics.proxy_refused(&listener.name, why);
            // Strangers can cause any number of these: the metrics show them.
            tracing::debug!(listener = listener.name, peer = %peer.ip(), why = why.as_str(), "no PROXY header is taken");
            return turn_away(stream, &listener, &shared, Reply::NoService).await;
        }
    };
    if !listener.networks.is_empty() && !network::contains(&listener.networks, address) {
        metrics.arrived(&listener.name, Arrival::Foreign);
        tracing::debug!(listener = listener.name, peer = %address, "not from a network of this listener");
        return turn_away(stream, &listener, &shared, Reply::NoService).await;
    }
    let Some(_address) = shared.limits.address(address, limits.connections_per_address) else {
        metrics.arrived(&listener.name, Arrival::CrowdedAddress);
        return turn_away(stream, &listener, &shared, Reply::Crowded).await;
    };
    let Some(place) = shared.unauthenticated.admit(address, limits, Instant::now()) else {
        metrics.arrived(&listener.name, Arrival::CrowdedUnauthenticated);
        return turn_away(stream, &listener, &shared, Reply::Crowded).await;
    };
    metrics.arrived(&listener.name, Arrival::Served);
    // A reply is one write that the client waits for, so there is nothing to gather.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let open = metrics.open(&listener.name);
    open.inc();
    let stream = ClientStream::new(stream, Duration::from_secs(u64::from(limits.reply_seconds)));
    let accepted = AcceptedConnection { address, listener, place };
    Connection::new(shared.clone(), settings, stream, accepted).serve().await;
    drop(connection);
    open.dec();
}

/// Returns the client's address: the peer, or behind a load balancer the client that the balancer names. Every decision
/// by address uses this one.
async fn client(
    stream: &mut TcpStream,
    peer: IpAddr,
    listener: &Listener,
    shared: &SharedState,
) -> Result<IpAddr, ProxyRefusal> {
    let peer = network::canonical(peer);
    if listener.proxy_from.is_empty() {
        return Ok(peer);
    }
    if !network::contains(&listener.proxy_from, peer) {
        return Err(ProxyRefusal::Untrusted);
    }
    let limit = Duration::from_secs(u64::from(shared.admission.settings.load().config.limits.proxy_seconds));
    let read = tokio::select! {
        read = timeout(limit, Box::pin(header(stream))) => read,
        () = shared.draining.cancelled() => return Err(ProxyRefusal::Late),
    };
    match read {
        Ok(Ok(Header::For(address))) => Ok(network::canonical(address)),
        Ok(Ok(Header::Own)) => Ok(peer),
        Ok(Err(_)) => Err(ProxyRefusal::Malformed),
        Err(_) => Err(ProxyRefusal::Late),
    }
}

/// Reads a PROXY header and not one octet more, because a TLS handshake may follow.
async fn header(stream: &mut TcpStream) -> io::Result<Header> {
    let mut known = Vec::new();
    let mut next = [0; 512];
    loop {
        let seen = stream.peek(&mut next).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let before = known.len();
        known.extend_from_slice(&next[..seen]);
        let parsed = proxy::parse(&known).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
        // All octets of an incomplete header belong to it.
        let taken = parsed.map_or(known.len(), |(_, length)| length) - before;
        stream.read_exact(&mut next[..taken]).await?;
        if let Some((header, _)) = parsed {
            return Ok(header);
        }
    }
}

/// Sends the reason, if the client can read it (inside TLS it could not), and while not too many are told.
async fn turn_away(mut stream: TcpStream, listener: &Listener, shared: &SharedState, reply: Reply) {
    let Some(_told) = shared.limits.turned_away() else { return };
    match listener.mode {
        ListenerMode::Implicit => {}
        ListenerMode::StartTls | ListenerMode::Plain => {
            let mut line = BytesMut::new();
            reply.write(&mut line);
            let say = async {
                stream.write_all(&line).await?;
                stream.shutdown().await
            };
            // It makes no difference if the client reads it.
            let _ = timeout(TURN_AWAY_LIMIT, say).await;
        }
    }
}
