//! A receiver of webhooks: HTTPS with a certificate of its own, which records what it is sent and answers as it is told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::sink::self_signed;

/// One request.
#[derive(Clone, Debug)]
pub struct Posted {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Posted {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

#[derive(Default)]
struct Shared {
    posted: Mutex<Vec<Posted>>,
    answers: Mutex<VecDeque<u16>>,
    count: watch::Sender<usize>,
}

/// A running receiver; dropping it ends it.
pub struct Receiver {
    pub address: SocketAddr,
    pub ca_pem: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (acceptor, ca_pem) = self_signed();
        let shared = Arc::new(Shared::default());
        let server = shared.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (acceptor, shared) = (acceptor.clone(), server.clone());
                tokio::spawn(async move {
                    // Who does not trust us hangs up, and that is no fault of ours.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, shared.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, ca_pem, shared, accepting }
    }

    /// The status of the next answers, one each; without more it is 204.
    pub fn next(&self, statuses: &[u16]) {
        self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner).extend(statuses);
    }

    pub fn posted(&self) -> Vec<Posted> {
        self.shared.posted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `n` requests came in all.
    pub async fn wait_for(&self, n: usize, within: Duration) -> Vec<Posted> {
        let mut count = self.shared.count.subscribe();
        let came = tokio::time::timeout(within, count.wait_for(|count| *count >= n)).await.is_ok();
        assert!(came, "after {within:?} there were {} webhooks", *count.borrow());
        self.posted()
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let posted = Posted { path: parts.uri.to_string(), headers: parts.headers, body };
    shared.posted.lock().unwrap_or_else(PoisonError::into_inner).push(posted);
    shared.count.send_modify(|count| *count += 1);
    let status = shared.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(204);
    let answer = Response::builder().status(status).header("location", "https://elsewhere.example.com/");
    Ok(answer.body(Empty::new()).expect("an answer"))
}
