//! Behind a load balancer: who the client is, and who may say so.

use franking::runtime::relay_config::RelayConfig;

use super::scene::{FROM, MAIL, PASSWORD, Rows, Scene, TO, username};
use crate::support::client::Client;

/// Every listener behind a balancer on this machine.
fn balanced(config: &mut RelayConfig) {
    for listener in &mut config.listeners {
        listener.proxy_from = vec!["127.0.0.1/32".parse().expect("a network")];
    }
}

/// Key 1 may only be used from a network of documentation (RFC 5737).
fn narrow(rows: &mut Rows) {
    rows.keys[0].allow_from = vec!["192.0.2.0/24".parse().expect("a network")];
}

fn line(source: &str) -> Vec<u8> {
    let family = if source.contains(':') { ("TCP6", "::1") } else { ("TCP4", "127.0.0.1") };
    format!("PROXY {} {source} {} 40000 465\r\n", family.0, family.1).into_bytes()
}

fn binary(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(source);
    header.extend([127, 0, 0, 1, 0x9c, 0x40, 1, 0xd1]);
    header
}

#[track_caller]
fn refused(scene: &Scene, listener: &str, reason: &str) {
    let line = format!("franking_relay_proxy_refused_total{{listener=\"{listener}\",reason=\"{reason}\"}} 1");
    let metrics = scene.metrics();
    assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
}

#[tokio::test]
async fn the_client_that_a_balancer_names_is_the_one_that_is_judged() {
    let scene = Scene::with(balanced, narrow).await;
    for (header, login) in [
        (line("192.0.2.7"), "235 2.7.0"),
        (line("::ffff:192.0.2.7"), "235 2.7.0"),
        (binary([192, 0, 2, 7]), "235 2.7.0"),
        (line("198.51.100.7"), "535 5.7.8 this key may not be used from this network"),
        (line("2001:db8::7"), "535 5.7.8 this key may not be used from this network"),
        (binary([198, 51, 100, 7]), "535 5.7.8 this key may not be used from this network"),
        // A health check is the balancer's own affair.
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(), "535 5.7.8 this key may not be used from this network"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "535 5.7.8 this key may not be used from this network"),
    ] {
        let mut client = Client::open(scene.address("implicit")).await;
        client.send(&header).await;
        let mut client = client.encrypt(&scene.ca_pem).await;
        client.reply().await.is("220");
        client.ask("EHLO x").await.is("250");
        client.login(&username(1), PASSWORD).await.is(login);

        let mut client = Client::open(scene.address("submission")).await;
        // Octet by octet, with what a hasty client says behind it.
        for octet in &header {
            client.send([*octet]).await;
        }
        client.send("EHLO x\r\n").await;
        client.reply().await.is("220");
        client.reply().await.is("250");
        client.ask("STARTTLS").await.is("220");
        let mut client = client.encrypt(&scene.ca_pem).await;
        client.ask("EHLO x").await.is("250");
        client.login(&username(1), PASSWORD).await.is(login);
    }
    let mut client = Client::open(scene.address("implicit")).await;
    client.send(line("192.0.2.7")).await;
    let mut client = client.encrypt(&scene.ca_pem).await;
    client.reply().await.is("220");
    client.ask("EHLO x").await.is("250");
    client.login(&username(1), PASSWORD).await.is("235");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
}

#[tokio::test]
async fn who_is_no_balancer_of_the_listener_is_turned_away() {
    let others = |config: &mut RelayConfig| {
        config.listeners[0].proxy_from = vec!["10.0.0.0/8".parse().expect("a network")];
    };
    let scene = Scene::with(others, |_| {}).await;
    let mut client = Client::open(scene.address("submission")).await;
    client.send(line("10.1.2.3")).await;
    client.reply().await.is("554 5.7.1 no service for this network");
    client.closed().await;
    refused(&scene, "submission", "untrusted");
}

#[tokio::test]
async fn what_is_no_header_or_does_not_come_is_turned_away() {
    let hurried = |config: &mut RelayConfig| {
        balanced(config);
        config.limits.proxy_seconds = 1;
    };
    let scene = Scene::with(hurried, |_| {}).await;
    let mut client = Client::open(scene.address("submission")).await;
    client.send("EHLO x\r\n").await;
    client.reply().await.is("554 5.7.1");
    refused(&scene, "submission", "malformed");
    let mut silent = Client::open(scene.address("plain")).await;
    silent.send("PROXY TCP4 192").await;
    silent.reply().await.is("554 5.7.1");
    refused(&scene, "plain", "late");
}

#[tokio::test]
async fn nobody_says_who_he_is_on_a_listener_that_does_not_ask() {
    let scene = Scene::with(|_| {}, narrow).await;
    for header in [line("192.0.2.7"), binary([192, 0, 2, 7])] {
        let mut client = Client::open(scene.address("submission")).await;
        client.send(&header).await;
        client.reply().await.is("220");
        client.reply().await.is("554 5.7.1");
        client.closed().await;
    }
    let metrics = scene.metrics();
    let counted = "franking_relay_proxy_refused_total{listener=\"submission\",reason=\"unexpected\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn limits_count_the_clients_behind_a_balancer_and_not_the_balancer() {
    let one_each = |config: &mut RelayConfig| {
        balanced(config);
        config.limits.connections_per_address = 1;
        // The plain listener's networks are the clients' too.
        config.listeners[2].networks = vec!["192.0.2.0/24".parse().expect("a network")];
    };
    let scene = Scene::with(one_each, |_| {}).await;
    let arrive = async |listener: &str, source: &str| {
        let mut client = Client::open(scene.address(listener)).await;
        client.send(line(source)).await;
        let code = client.reply().await.code;
        (client, code)
    };
    let (_first, code) = arrive("submission", "192.0.2.7").await;
    assert_eq!(code, 220);
    let (_second, code) = arrive("submission", "192.0.2.8").await;
    assert_eq!(code, 220, "another client is another address");
    assert_eq!(arrive("submission", "192.0.2.7").await.1, 421);
    let (_third, code) = arrive("plain", "192.0.2.9").await;
    assert_eq!(code, 220);
    assert_eq!(arrive("plain", "198.51.100.1").await.1, 554);
    drop(_first);
    scene.until("the place is free again", async |_| arrive("submission", "192.0.2.7").await.1 == 220).await;
}
