//! An upstream that we control: an SMTP server that records what it is sent, and misbehaves on command.
//!
//! It is correct where it is not told otherwise (only CRLF.CRLF ends a message, dots are un-stuffed, replies come in
//! order and in one write), because a sloppy sink would hide our mistakes; and it is fast, because it is the floor
//! of the benchmarks too.

mod session;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// How a sink serves.
#[derive(Clone)]
pub struct SinkOptions {
    pub address: SocketAddr,
    pub tls: SinkTls,
    /// Wanted before MAIL.
    pub login: Option<(String, String)>,
    /// PEM of the authority whose certificate a client must show in TLS.
    pub client_ca: Option<String>,
    /// Offered mechanisms.
    pub mechanisms: &'static str,
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    pub size: Option<usize>,
    /// Whether messages are kept in memory; they are counted anyway.
    pub keep: bool,
    /// Where each message is written as a file, too.
    pub directory: Option<PathBuf>,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: SinkTls::None,
            login: None,
            client_ca: None,
            mechanisms: "PLAIN LOGIN",
            pipelining: true,
            eight_bit_mime: true,
            smtputf8: true,
            size: Some(64 * 1024 * 1024),
            keep: true,
            directory: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkTls {
    None,
    StartTls,
    Implicit,
}

/// One message as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Without brackets; empty for the null sender.
    pub from: String,
    pub to: Vec<String>,
    /// What followed the address in MAIL.
    pub parameters: String,
    pub body: Vec<u8>,
    pub tls: bool,
    /// The user that logged in.
    pub auth: Option<String>,
    /// Number of the connection, from 1.
    pub connection: u64,
}

/// Where in a dialogue a sink misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Connect,
    Ehlo,
    StartTls,
    Auth,
    Mail,
    /// MAIL of this sender.
    MailOf(&'static str),
    /// The n-th RCPT of a transaction, from 1; 0 = each.
    Recipient(usize),
    Data,
    /// Once this many octets of a body have come.
    Body(usize),
    /// After the final dot, before its reply.
    Final,
    /// The same, for a message of this sender.
    FinalOf(&'static str),
}

/// What it does there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Says this line instead. A refused message is not recorded.
    Reply(&'static str),
    /// Says these octets for its own reply, and means the same.
    Answer(&'static [u8]),
    /// Says this line and hangs up.
    ReplyAndDrop(&'static str),
    /// Sends these bytes right behind its own reply, in the same segment.
    Inject(&'static [u8]),
    /// Hangs up. At [`At::Final`] the message is recorded: it was complete.
    Drop,
    /// Goes on only after [`Sink::release`].
    Stall,
    /// The same, and then this.
    StallThen(Box<Act>),
    Delay(Duration),
}

struct Rule {
    at: At,
    act: Act,
    once: bool,
}

struct Shared {
    options: SinkOptions,
    tls: Option<TlsAcceptor>,
    rules: Mutex<Vec<Rule>>,
    messages: Mutex<Vec<Received>>,
    /// Messages recorded.
    count: watch::Sender<u64>,
    released: watch::Sender<bool>,
    /// Sessions that are stalled now.
    stalled: watch::Sender<u64>,
    connections: AtomicU64,
    open: watch::Sender<u64>,
    quits: AtomicU64,
    /// The latest EHLO, as it was said.
    hello: Mutex<String>,
}

/// A running sink; dropping it ends it with its connections.
pub struct Sink {
    address: SocketAddr,
    ca_pem: Option<String>,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Sink {
    pub async fn start(options: SinkOptions) -> Self {
        let listener = TcpListener::bind(options.address).await.expect("binding the sink's address");
        let address = listener.local_addr().expect("the sink's address");
        let (tls, ca_pem) = match options.tls {
            SinkTls::None => (None, None),
            SinkTls::StartTls | SinkTls::Implicit => {
                let (acceptor, pem) = self_signed_for(options.client_ca.as_deref());
                (Some(acceptor), Some(pem))
            }
        };
        let shared = Arc::new(Shared {
            options,
            tls,
            rules: Mutex::default(),
            messages: Mutex::default(),
            count: watch::Sender::new(0),
            released: watch::Sender::new(false),
            stalled: watch::Sender::new(0),
            connections: AtomicU64::new(0),
            open: watch::Sender::new(0),
            quits: AtomicU64::new(0),
            hello: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { address, ca_pem, shared, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client must trust to speak TLS with it.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// From now on it does `act` whenever a dialogue comes to `at`.
    pub fn always(&self, at: At, act: Act) {
        self.shared.rules().push(Rule { at, act, once: false });
    }

    /// It does `act` the next time a dialogue comes to `at`. Several are done in order.
    pub fn once(&self, at: At, act: Act) {
        self.shared.rules().push(Rule { at, act, once: true });
    }

    /// Forgets all misbehaviour.
    pub fn behave(&self) {
        self.shared.rules().clear();
    }

    /// Lets every stalled dialogue go on.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    pub fn messages(&self) -> Vec<Received> {
        self.shared.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn count(&self) -> u64 {
        *self.shared.count.borrow()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn hello(&self) -> String {
        self.shared.hello.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn quits(&self) -> u64 {
        self.shared.quits.load(Ordering::SeqCst)
    }

    /// Waits until `n` messages were recorded in all.
    pub async fn wait_for(&self, n: u64, within: Duration) -> Vec<Received> {
        until(&self.shared.count, within, "recorded messages", |count| count >= n).await;
        self.messages()
    }

    /// Waits until `n` dialogues are stalled.
    pub async fn wait_for_stalled(&self, n: u64, within: Duration) {
        until(&self.shared.stalled, within, "stalled dialogues", |count| count >= n).await;
    }

    /// Waits until no more than `n` connections are open.
    pub async fn wait_for_open(&self, n: u64, within: Duration) {
        until(&self.shared.open, within, "open connections", |count| count <= n).await;
    }
}

async fn until(figure: &watch::Sender<u64>, within: Duration, what: &str, enough: impl Fn(u64) -> bool) {
    let mut figure = figure.subscribe();
    let reached = tokio::time::timeout(within, figure.wait_for(|count| enough(*count))).await.is_ok();
    assert!(reached, "after {within:?} the sink has {} {what}", *figure.borrow());
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it was told to do here, if anything.
    fn act(&self, here: impl Fn(At) -> bool) -> Option<Act> {
        let mut rules = self.rules();
        let index = rules.iter().position(|rule| here(rule.at))?;
        Some(if rules[index].once { rules.remove(index).act } else { rules[index].act.clone() })
    }

    async fn stall(&self) {
        self.stalled.send_modify(|count| *count += 1);
        // The sender lives as long as this does.
        let _ = self.released.subscribe().wait_for(|released| *released).await;
        self.stalled.send_modify(|count| *count -= 1);
    }

    fn record(&self, received: Received) {
        if let Some(directory) = &self.options.directory {
            let number = *self.count.borrow() + 1;
            let head = format!(
                "X-Envelope-From: <{}>\r\nX-Envelope-To: <{}>\r\nX-Login: {}\r\n",
                received.from,
                received.to.join(">, <"),
                received.auth.as_deref().unwrap_or("-")
            );
            let path = directory.join(format!("{number:06}-{}.eml", received.connection));
            if let Err(error) = std::fs::write(&path, [head.as_bytes(), &received.body].concat()) {
                eprintln!("writing {}: {error}", path.display());
            }
        }
        if self.options.keep {
            self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(received);
        }
        self.count.send_modify(|count| *count += 1);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Ends its sessions with itself.
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let shared = shared.clone();
        shared.open.send_modify(|open| *open += 1);
        sessions.spawn(async move {
            let open = Closing(shared.clone());
            // A client that hangs up in the middle is an everyday thing.
            let _ = session::serve(stream, number, shared).await;
            drop(open);
        });
        while sessions.try_join_next().is_some() {}
    }
}

struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// A certificate for this machine, which is its own authority.
pub fn self_signed() -> (TlsAcceptor, String) {
    self_signed_for(None)
}

/// The same, for clients that show a certificate of `client_ca`.
fn self_signed_for(client_ca: Option<&str>) -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .expect("making the sink's certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("the sink's key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = match client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            let authority = CertificateDer::from_pem_slice(pem.as_bytes()).expect("the clients' authority");
            roots.add(authority).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            verifier.build().expect("a verifier of clients")
        }
    };
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the TLS versions of ring")
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("the sink's certificate fits its key");
    (TlsAcceptor::from(Arc::new(config)), made.cert.pem())
}
