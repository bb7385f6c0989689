//! One POST over HTTPS, without redirects, within a time and a size.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::tls;
use crate::domain::webhook::{ID, SIGNATURE, TIMESTAMP};
use crate::runtime::courier::{Call, Delivery, Hook};

/// From the dial to the last header of the answer. Receivers are told to answer first and work later.
const LIMIT: Duration = Duration::from_secs(10);
/// Octets of a body: notices are some hundred.
const BODY_MAX: usize = 64 * 1024;

/// Any 2xx is taken for a yes. The body of the answer is not read: nothing in it could change what is done.
pub async fn post(hook: &Hook, call: &Call) -> Delivery {
    if call.body.len() > BODY_MAX {
        return Delivery::Failed(format!("the body has {} octets, more than {BODY_MAX}", call.body.len()));
    }
    match timeout(LIMIT, exchange(hook, call)).await {
        Ok(Ok(status)) if status.is_success() => Delivery::Sent,
        Ok(Ok(StatusCode::GONE)) => Delivery::Unwanted,
        Ok(Ok(status)) if status.is_redirection() => {
            Delivery::Failed(format!("it answered {status}; redirects are not followed"))
        }
        Ok(Ok(status)) => Delivery::Failed(format!("it answered {status}")),
        Ok(Err(problem)) => Delivery::Failed(problem),
        Err(_) => Delivery::Failed(format!("it did not answer within {} s", LIMIT.as_secs())),
    }
}

async fn exchange(hook: &Hook, call: &Call) -> Result<StatusCode, String> {
    let request = request(hook, call)?;
    let config = tls::client_config(hook.ca_pem.as_deref(), None)?;
    let stream = TcpStream::connect((hook.url.host.as_str(), hook.url.port)).await;
    let stream = stream.map_err(|error| format!("connecting: {}", error.kind()))?;
    let stream = tls::handshake(config, &hook.url.host, stream).await;
    let stream = stream.map_err(|error| format!("the TLS handshake: {error}"))?;
    let opened = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|error| format!("speaking HTTP: {error}"))?;
    // It does the reading and writing, and ends with this call. What breaks it is what the answer says.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await;
    answer.map(|answer| answer.status()).map_err(|error| format!("speaking HTTP: {error}"))
}

fn request(hook: &Hook, call: &Call) -> Result<Request<Full<Bytes>>, String> {
    Request::post(&hook.url.target)
        .header(HOST, hook.url.authority())
        .header(USER_AGENT, concat!("franking/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header(ID, &call.id)
        .header(TIMESTAMP, call.at.as_second())
        .header(SIGNATURE, hook.key.sign(&call.id, call.at, &call.body))
        .body(Full::new(Bytes::from(call.body.clone())))
        .map_err(|error| format!("making the request: {error}"))
}
