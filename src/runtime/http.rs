//! `/healthz`, `/readyz` and `/metrics`: for probes and Prometheus, not for the public.

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

use super::health::Health;
use super::metrics::{self, Registry};

/// Connections at once: two probes, a Prometheus pair and a person, several times over.
const CONNECTIONS: usize = 32;
/// A scrape interval is a minute at most; a connection that lives longer is asked to come back.
const CONNECTION_LIFE: Duration = Duration::from_secs(90);
/// A probe sends its whole request at once.
const HEADER_WAIT: Duration = Duration::from_secs(5);
/// Request line and headers; hyper's own least.
const HEADER_BYTES: usize = 8 * 1024;
/// Before the next accept after one failed: out of file descriptors heals when something closes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves for as long as the process lives, a drain included: that is when somebody wants to know. Failing connections
/// are the other side's affair and end alone.
pub async fn serve(listener: TcpListener, registry: Registry, health: Health) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a telemetry connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Over the bound the connection is closed at once, so that probes never queue behind strangers.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (registry, health) = (registry.clone(), health.clone());
        tokio::spawn(async move {
            if tokio::time::timeout(CONNECTION_LIFE, connection(stream, registry, health)).await.is_err() {
                tracing::debug!("a telemetry connection was closed for its age");
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, registry: Registry, health: Health) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &registry, &health);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a telemetry connection ended early");
    }
}

fn answer(method: &Method, path: &str, registry: &Registry, health: &Health) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => readiness(health),
        "/metrics" => {
            let mut response = text(StatusCode::OK, metrics::render(registry));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there is /healthz, /readyz and /metrics\n".to_owned()),
    }
}

/// 503 with a line for each gate that is closed, so that `kubectl get --raw` or a curl says what is missing. What is
/// wrong behind an open gate follows.
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
        tokio::spawn(serve(listener, registry, health));

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

    #[tokio::test]
    async fn a_stranger_over_the_bound_is_closed_and_a_place_that_is_left_is_given_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, Registry::new(), Health::default()));
        let mut held = vec![];
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            // Answered once and kept alive, so it surely holds its place.
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("writes");
            stream.read_exact(&mut [0; 12]).await.expect("an answer");
            held.push(stream);
        }
        let mut over = TcpStream::connect(address).await.expect("connects");
        assert_eq!(over.read(&mut [0; 1]).await.unwrap_or(0), 0);
        held.clear();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while tokio::time::Instant::now() < deadline {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
            if stream.read(&mut [0; 12]).await.unwrap_or(0) > 0 {
                return;
            }
        }
        panic!("no place was given again");
    }
}
