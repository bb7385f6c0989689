//! Sends one POST over HTTPS, without redirects, within a time and a size.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::tls;
use crate::domain::network::is_link_local_or_metadata;
use crate::domain::webhook::{HookUrl, ID, SIGNATURE, TIMESTAMP};
use crate::runtime::notifier::{Call, Delivery, Hook};

/// Maximum time from the dial to the last header of the response. Receivers are told to respond first and work later.
const LIMIT: Duration = Duration::from_secs(10);
/// Maximum size of a body; notices have some hundred octets.
const BODY_MAX: usize = 64 * 1024;

/// Sends one call. Any 2xx counts as success. The response's body is not read: nothing in it could change what is done.
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
    let addresses = addresses(&hook.url).await?;
    let stream = TcpStream::connect(&addresses[..]).await;
    let stream = stream.map_err(|error| format!("connecting: {}", error.kind()))?;
    let stream = tls::handshake(config, &hook.url.host, stream).await;
    let stream = stream.map_err(|error| format!("the TLS handshake: {error}"))?;
    let opened = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|error| format!("speaking HTTP: {error}"))?;
    // The task does the reading and writing, and ends with this call. Its error is also the response's.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await;
    answer.map(|answer| answer.status()).map_err(|error| format!("speaking HTTP: {error}"))
}

/// Resolves the host's name: the address that is checked is the one that is dialled, so that a name that resolves
/// differently the second time gains nothing.
async fn addresses(url: &HookUrl) -> Result<Vec<SocketAddr>, String> {
    let found = lookup_host((url.host.as_str(), url.port)).await;
    let found: Vec<SocketAddr> = found.map_err(|error| format!("resolving the host: {}", error.kind()))?.collect();
    let (refused, taken): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|address| is_link_local_or_metadata(address.ip()));
    match (taken.is_empty(), refused.is_empty()) {
        (false, _) => Ok(taken),
        (true, false) => {
            Err("the host is at a link-local or cloud metadata address, where webhooks do not go".to_owned())
        }
        (true, true) => Err("the host has no address".to_owned()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_resolves_to_a_metadata_address_is_not_dialled() {
        let at = |host: &str| HookUrl { host: host.to_owned(), port: 443, target: "/".to_owned() };
        // The resolver reads these as 169.254.169.254, and the URL's own check sees no address in them.
        for host in ["2852039166", "0xa9fea9fe", "169.254.169.254"] {
            let problem = addresses(&at(host)).await.expect_err(host);
            assert!(problem.contains("link-local"), "{host}: {problem}");
        }
        assert_eq!(addresses(&at("127.0.0.1")).await, Ok(vec![SocketAddr::from(([127, 0, 0, 1], 443))]));
    }
}
