//! The doors: one task per listener that accepts, counts and turns away.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Connection, Front, Visitor};
use super::metrics::Arrival;
use super::smtp::reply::Reply;
use super::wire::Wire;
use crate::domain::network;
use crate::domain::relay_config::{Listener, ListenerMode};

/// The pause after an accept that failed: the process is out of file descriptors, and asking again at once would
/// only take the processor as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a turned-away client may take to read why.
const TURN_AWAY_LIMIT: Duration = Duration::from_secs(2);

/// A listener that is open.
pub struct Door {
    listener: Arc<ArcSwap<Listener>>,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Door {
    pub async fn open(listener: Listener, front: Arc<Front>, sessions: TaskTracker) -> io::Result<Self> {
        let socket = TcpListener::bind(listener.address).await?;
        let address = socket.local_addr()?;
        tracing::info!(listener = listener.name, %address, mode = ?listener.mode, "listening");
        let listener = Arc::new(ArcSwap::from_pointee(listener));
        let stop = CancellationToken::new();
        let accepting = accept(socket, listener.clone(), front, sessions);
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = accepting => {}
            }
        });
        Ok(Self { listener, address, stop, task })
    }

    /// Where it listens; the port is the real one where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn listener(&self) -> Arc<Listener> {
        self.listener.load_full()
    }

    /// Takes over what changed without closing the socket. The address must be the same.
    pub fn change(&self, listener: Listener) {
        self.listener.store(Arc::new(listener));
    }

    /// Stops accepting, and returns when the socket is free. Sessions go on.
    pub async fn close(self) {
        self.stop.cancel();
        // The task does not panic, and a stopped door is what is wanted.
        let _ = self.task.await;
    }
}

async fn accept(socket: TcpListener, listener: Arc<ArcSwap<Listener>>, front: Arc<Front>, sessions: TaskTracker) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let session = meet(stream, peer, listener.load_full(), front.clone());
                sessions.spawn(session);
            }
            Err(error) => {
                tracing::warn!(listener = listener.load().name, %error, "accepting a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection, or turns it away. Its places are given back when it ends.
async fn meet(stream: TcpStream, peer: SocketAddr, listener: Arc<Listener>, front: Arc<Front>) {
    let metrics = &front.admission.metrics;
    if !listener.networks.is_empty() && !network::contains(&listener.networks, peer.ip()) {
        metrics.arrived(&listener.name, Arrival::Foreign);
        return turn_away(stream, &listener, Reply::NoService).await;
    }
    let settings = front.admission.settings.load_full();
    let limits = &settings.config.limits;
    let places = (
        front.crowd.connections.take(1, limits.connections as usize),
        front.crowd.unauthenticated.take(1, limits.unauthenticated as usize),
        front.crowd.address(peer.ip(), limits.connections_per_address),
    );
    let (Some(_connection), Some(unauthenticated), Some(_address)) = places else {
        metrics.arrived(&listener.name, Arrival::Crowded);
        return turn_away(stream, &listener, Reply::Crowded).await;
    };
    metrics.arrived(&listener.name, Arrival::Served);
    // A reply is one write, and the client waits for it: nothing to gather.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let open = metrics.open(&listener.name);
    open.inc();
    let visitor = Visitor { address: network::canonical(peer.ip()), listener, unauthenticated };
    Connection::new(front.clone(), settings, Wire::new(stream), visitor).serve().await;
    open.dec();
}

/// Says why, where the client can read it: inside TLS it could not.
async fn turn_away(mut stream: TcpStream, listener: &Listener, reply: Reply) {
    match listener.mode {
        ListenerMode::Implicit => {}
        ListenerMode::StartTls | ListenerMode::Plain => {
            let mut line = BytesMut::new();
            reply.write(&mut line);
            let say = async {
                stream.write_all(&line).await?;
                stream.shutdown().await
            };
            // Whether it was read makes no difference.
            let _ = timeout(TURN_AWAY_LIMIT, say).await;
        }
    }
}
