//! `/healthz`, `/readyz` and `/metrics`: for probes and Prometheus, not for the public.
//!
//! Probes have a port of their own, so that filling the port of the metrics cannot get the pod restarted. A connection
//! carries one request. When all places of a port are taken, its oldest connection is closed: a probe sends its whole
//! request at once, so only connections that hold a place without need grow old.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::health::Health;
use super::metrics::{self, IntCounterVec, Opts, Registry, register};

/// Maximum connections of one port: two probes, a Prometheus pair and a person, several times over.
const CONNECTIONS: usize = 32;
/// Maximum octets of request line and headers; hyper's own minimum.
const HEADER_BYTES: usize = 8 * 1024;
/// Pause after a failed accept: a lack of file descriptors ends when something closes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The purpose of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// `/healthz` and `/readyz`.
    Probes,
    /// `/metrics`, and `/healthz` and `/readyz` for people.
    Metrics,
}

impl Port {
    fn as_str(self) -> &'static str {
        match self {
            Self::Probes => "probes",
            Self::Metrics => "metrics",
        }
    }

    /// Returns the time for the request line and the headers. A probe and a scrape send them at once.
    fn header_wait(self) -> Duration {
        match self {
            Self::Probes => Duration::from_secs(1),
            Self::Metrics => Duration::from_secs(5),
        }
    }

    /// Returns the time from the accept to the end of the response: a kubelet gives up after seconds, and Prometheus
    /// after ten.
    fn connection_life(self) -> Duration {
        match self {
            Self::Probes => Duration::from_secs(5),
            Self::Metrics => Duration::from_secs(30),
        }
    }
}

/// The state that the ports of a process report. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    registry: Registry,
    health: Health,
    /// Renders one text of the metrics at a time, so that a client with many requests takes one thread at most.
    rendering: Arc<Semaphore>,
    closed: IntCounterVec,
}

impl Telemetry {
    pub fn new(registry: Registry, health: Health) -> Self {
        let closed = Opts::new(
            "franking_telemetry_connections_closed_total",
            "Connections for probes or metrics that were closed before their answer, because others came or they were late.",
        );
        let closed = IntCounterVec::new(closed, &["port"])
            .unwrap_or_else(|error| panic!("the name and label of this metric are constants of ours: {error}"));
        Self { closed: register(&registry, closed), rendering: Arc::new(Semaphore::new(1)), registry, health }
    }

    /// Serves a port for as long as the process lives, a drain included: that is when administrators look. A failing
    /// connection is the client's problem and ends alone.
    pub async fn serve(self, listener: TcpListener, port: Port) -> Infallible {
        let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS);
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a telemetry connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            open.retain(|connection| !connection.is_finished());
            if open.len() >= CONNECTIONS
                && let Some(oldest) = open.pop_front()
            {
                oldest.abort();
                self.count_closed(port);
            }
            open.push_back(tokio::spawn(self.clone().connection(stream, port)).abort_handle());
        }
    }

    async fn connection(self, stream: TcpStream, port: Port) {
        let service = service_fn(|request: Request<Incoming>| {
            let telemetry = &self;
            async move { Ok::<_, Infallible>(telemetry.answer(request.method(), request.uri().path(), port).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(port.header_wait())
            .max_buf_size(HEADER_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        match timeout(port.connection_life(), served).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                if error.is_timeout() {
                    self.count_closed(port);
                }
                tracing::debug!(%error, "a telemetry connection ended early");
            }
            Err(_) => self.count_closed(port),
        }
    }

    fn count_closed(&self, port: Port) {
        self.closed.with_label_values(&[port.as_str()]).inc();
    }

    async fn answer(&self, method: &Method, path: &str, port: Port) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match (path, port) {
            ("/healthz", Port::Probes | Port::Metrics) => text(StatusCode::OK, "ok\n".to_owned()),
            ("/readyz", Port::Probes | Port::Metrics) => readiness(&self.health),
            ("/metrics", Port::Metrics) => self.metrics().await,
            (_, Port::Metrics) => text(StatusCode::NOT_FOUND, "there is /healthz, /readyz and /metrics\n".to_owned()),
            (_, Port::Probes) => text(StatusCode::NOT_FOUND, "there is /healthz and /readyz\n".to_owned()),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let _turn = self.rendering.acquire().await;
        let registry = self.registry.clone();
        // On a blocking thread, because a thousand accounts take milliseconds in which a connection could be served.
        let rendered = tokio::task::spawn_blocking(move || metrics::render(&registry)).await;
        let mut response = match rendered {
            Ok(rendered) => text(StatusCode::OK, rendered),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("rendering the metrics: {error}\n")),
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
        response
    }
}

/// Returns 503 with a line for each closed gate, so that `kubectl get --raw` or a curl shows what is missing. Faults of
/// open gates follow.
fn readiness(health: &Health) -> Response<Full<Bytes>> {
    let (closed, notes) = (health.closed(), health.notes());
    let lines: String = closed.iter().chain(&notes).map(|(gate, reason)| format!("{gate}: {reason}\n")).collect();
    if closed.is_empty() {
        return text(StatusCode::OK, format!("ok\n{lines}"));
    }
    text(StatusCode::SERVICE_UNAVAILABLE, lines)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::runtime::metrics::{IntGauge, register};

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await
    }

    #[tokio::test]
    async fn readyz_says_why_not_and_healthz_only_that_we_live() {
        let (registry, health) = (Registry::new(), Health::default());
        register(&registry, IntGauge::new("franking_answer", "The answer.").expect("a gauge")).set(42);
        let gate = health.gate("relay");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(Telemetry::new(registry, health).serve(listener, Port::Metrics));

        let not_ready = get(address, "/readyz").await;
        assert!(not_ready.starts_with("HTTP/1.1 503") && not_ready.ends_with("relay: starting\n"), "{not_ready}");
        gate.open();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        gate.close("draining");
        assert!(get(address, "/readyz").await.ends_with("relay: draining\n"));
        gate.note("the ledger is held");
        let noted = get(address, "/readyz").await;
        assert!(noted.starts_with("HTTP/1.1 200") && noted.ends_with("ok\nrelay: the ledger is held\n"), "{noted}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("franking_answer 42"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        let post = ask(address, "POST /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405"), "{post}");
    }

    /// Starts a port of each kind, of one process.
    async fn ports() -> (Registry, [std::net::SocketAddr; 2]) {
        let registry = Registry::new();
        let telemetry = Telemetry::new(registry.clone(), Health::default());
        let mut addresses = Vec::new();
        for port in [Port::Probes, Port::Metrics] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            addresses.push(listener.local_addr().expect("an address"));
            tokio::spawn(telemetry.clone().serve(listener, port));
        }
        (registry, [addresses[0], addresses[1]])
    }

    #[tokio::test]
    async fn a_probe_has_a_port_without_metrics() {
        let (_, [probes, _]) = ports().await;
        assert!(get(probes, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(probes, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(probes, "/metrics").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn a_connection_carries_one_request() {
        let (_, addresses) = ports().await;
        for address in addresses {
            let twice = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n".repeat(2);
            let answers = ask(address, &twice).await;
            assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
        }
    }

    /// The attack: silent connections, and connections that begin a request and never end it, on both ports.
    #[tokio::test]
    async fn open_connections_keep_no_probe_waiting() {
        let (registry, addresses) = ports().await;
        for count in [40, 500] {
            let mut held = vec![];
            for n in 0..count {
                for address in addresses {
                    let mut stream = TcpStream::connect(address).await.expect("connects");
                    if n % 2 == 0 {
                        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: ").await.expect("writes");
                    }
                    held.push(stream);
                }
            }
            for address in addresses {
                for path in ["/healthz", "/readyz"] {
                    let answer = timeout(Duration::from_secs(1), get(address, path)).await.expect("within a second");
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                }
            }
            assert!(timeout(Duration::from_secs(5), get(addresses[1], "/metrics")).await.is_ok());
        }
        let rendered = metrics::render(&registry);
        assert!(rendered.contains("franking_telemetry_connections_closed_total{port=\"probes\"}"), "{rendered}");
    }

    #[tokio::test]
    async fn a_request_that_does_not_come_is_not_waited_for() {
        let (_, [probes, _]) = ports().await;
        let mut silent = TcpStream::connect(probes).await.expect("connects");
        let closed = timeout(3 * Port::Probes.header_wait(), silent.read(&mut [0; 1])).await.expect("it is closed");
        assert_eq!(closed.unwrap_or(0), 0);
    }
}
