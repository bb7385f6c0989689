//! One starves the others: each attack of a tenant or a stranger on what all share, on the built-in limits, while a
//! client of another namespace sends as ever.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use franking::domain::directory::{AccountEntry, Entry};
use franking::domain::id::AccountId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use super::bystander;
use super::scene::{FROM, MAIL, PASSWORD, POLICY, Rows, SOON, Scene, TO, account, key, username};
use crate::support::client::Client;
use crate::support::sink::{Act, At};

/// Keys of the attacker's namespace, each of an account of its own.
fn attackers(rows: &mut Rows, keys: impl IntoIterator<Item = u128>) {
    for n in keys {
        let id = AccountId(Uuid::from_u128(0x400 + n));
        rows.others.push(Entry::Account(AccountEntry { id, name: format!("attacker-{n}"), ..account() }));
        let mut key = key(n);
        (key.account, key.plain_listener) = (id, true);
        rows.others.push(Entry::Key(key));
    }
}

async fn log_in_plain(scene: &Scene, key: u128) -> Client {
    let mut client = Client::connect(scene.address("plain")).await;
    client.ask("EHLO attacker.example").await.is("250");
    client.login(&username(key), PASSWORD).await.is("235");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_sizes_take_no_memory() {
    let scene = bystander::scene(|rows| attackers(rows, 10..13)).await;
    let mut held = Vec::new();
    for n in 0..60 {
        let mut client = log_in_plain(&scene, 10 + n % 3).await;
        client.ask(&format!("MAIL FROM:<{FROM}> SIZE=52428800")).await.is("250");
        client.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
        client.ask("DATA").await.is("354");
        client.send("From: ").await;
        held.push(client);
    }
    bystander::is_undisturbed(&scene).await;
    // What was sent with room for our own fields, and no more.
    assert!((1..120_000).contains(&scene.bytes_in_flight()));
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_fills_its_memory_leaves_room_for_the_others() {
    let scene = bystander::scene(|rows| attackers(rows, 10..16)).await;
    let mut uploads = JoinSet::new();
    for n in 0..6 {
        let mut client = log_in_plain(&scene, 10 + n).await;
        client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
        client.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
        client.ask("DATA").await.is("354");
        uploads.spawn(async move {
            client.send(format!("{MAIL}\r\n")).await;
            let megabyte = format!("{}\r\n", "x".repeat(998)).repeat(1_000);
            for _ in 0..45 {
                client.send(&megabyte).await;
            }
            // It keeps what it has, without a final dot.
            client
        });
    }
    let clients = uploads.join_all().await;
    let share = |of: &str| format!("franking_relay_memory_refusals_total{{share=\"{of}\"}}");
    assert!(scene.metrics().contains(&share("namespace")), "{}", scene.metrics());
    bystander::is_undisturbed(&scene).await;
    // Another account of the same namespace hears it after its final dot, or before its upload.
    let mut sibling = log_in_plain(&scene, 10).await;
    sibling.ask(&format!("MAIL FROM:<{FROM}> SIZE=52428800")).await.is("250");
    sibling.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
    sibling.ask("DATA").await.is("452 4.3.1");
    drop(clients);
    scene.until("all of it is given back", async |scene| scene.bytes_in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_to_the_telemetry_ports_keep_no_probe_waiting() {
    let scene = bystander::scene(|_| {}).await;
    let mut held = Vec::new();
    for n in 0..500 {
        for address in scene.telemetry.expect("the ports") {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            if n % 2 == 0 {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: ").await.expect("writes");
            }
            held.push(stream);
        }
        if n == 40 {
            bystander::is_undisturbed(&scene).await;
        }
    }
    bystander::is_undisturbed(&scene).await;
    assert!(scene.metrics().contains("franking_telemetry_connections_closed_total{port=\"probes\"}"));
}

/// What the upstream refuses of the attackers, over and over, while `is_undisturbed`. Returns how often.
async fn keeps_sending(scene: &Scene, keys: &[u128], from: &'static str, heard: &'static str) -> JoinSet<()> {
    let mut attack = JoinSet::new();
    for key in keys {
        let mut client = log_in_plain(scene, *key).await;
        attack.spawn(async move {
            let message = MAIL.replace(FROM, from);
            loop {
                client.deliver(from, &[TO], &message).await.is(heard);
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    attack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_upstream_refuses_of_one_tenant_closes_it_for_nobody() {
    let scene = bystander::scene(|rows| attackers(rows, 10..13)).await;
    let gauge = format!("franking_upstream_breaker{{policy=\"{POLICY}\"}} 0\n");
    // Two accounts alternate a sender that it does not take, three send what it takes for spam.
    scene.sink.always(At::MailOf("nobody@example.com"), Act::Reply("553 5.1.8 no such sender"));
    scene.sink.always(At::FinalOf("spam@example.com"), Act::Reply("554 5.7.1 this is spam"));
    let attacks: [(&[u128], &str, &str); 2] =
        [(&[10, 11], "nobody@example.com", "553 5.1.8"), (&[10, 11, 12], "spam@example.com", "554 5.7.1")];
    for (keys, from, heard) in attacks {
        let mut attack = keeps_sending(&scene, keys, from, heard).await;
        bystander::is_undisturbed(&scene).await;
        assert!(attack.try_join_next().is_none(), "the attack ended");
        assert!(scene.metrics().contains(&gauge), "the provider is blamed: {}", scene.metrics());
        assert_eq!(scene.store.sightings().await.expect("sightings").troubles, vec![], "the provider is blamed");
        attack.shutdown().await;
    }
}

/// A connection from one of this machine's own addresses.
async fn connect_from(source: IpAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(address).await
}

/// A tenant has as many keys and addresses as it likes, so neither limit bounds its connections.
#[tokio::test]
async fn a_namespace_leaves_connections_to_the_others() {
    let rows = |rows: &mut Rows| {
        bystander::elsewhere(rows);
        attackers(rows, 10..14);
    };
    let scene = Scene::with(|config| config.limits.connections = 12, rows).await;
    let mut held = Vec::new();
    for n in 0..24 {
        let mut client = Client::open(scene.address("plain")).await;
        if client.reply().await.code != 220 {
            break;
        }
        client.ask("EHLO attacker.example").await.is("250");
        if client.login(&username(10 + n % 4), PASSWORD).await.code == 235 {
            held.push(client);
        }
    }
    let mut other = scene.client_of(bystander::KEY).await;
    other.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    assert_eq!(held.len(), 6, "half of them, where nobody else is there");
}

/// Holds 1,100 connections from eleven addresses, and says nothing on them. Those that the relay closes are renewed.
async fn holds_places(address: SocketAddr, network: u8) -> JoinSet<()> {
    let mut attack = JoinSet::new();
    for n in 0..1_100 {
        let source = IpAddr::from([127, 0, network, 1 + u8::try_from(n % 11).expect("small")]);
        // One after the other, so that none waits for the kernel's second try.
        let mut next = connect_from(source, address).await;
        attack.spawn(async move {
            loop {
                if let Ok(mut stream) = next {
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
                // Hundreds a second all the same.
                sleep(Duration::from_millis(200)).await;
                next = connect_from(source, address).await;
            }
        });
    }
    attack
}

/// Fails unless the bystander is served while strangers hold all places of those who have not logged in.
async fn is_served_beside_crowds(scene: &bystander::Attacked, listener: &str, network: u8) {
    let _attack = holds_places(scene.address(listener), network).await;
    scene
        .until("places go to newer connections", async |scene| {
            !scene.metrics().contains("franking_relay_connections_dismissed_total 0\n")
        })
        .await;
    bystander::is_undisturbed(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_a_login_keep_nobody_out() {
    let scene = bystander::scene(|_| {}).await;
    is_served_beside_crowds(&scene, "implicit", 1).await;
    is_served_beside_crowds(&scene, "submission", 2).await;
}

/// The same from addresses of which each has logged in, because the attacker is a tenant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_connections_without_a_login_keep_nobody_out() {
    let scene = bystander::scene(|rows| attackers(rows, [10])).await;
    for last in 1..=11 {
        let client = Client::open_from([127, 0, 1, last].into(), scene.address("implicit")).await;
        let mut client = client.encrypt(&scene.ca_pem).await;
        client.reply().await.is("220");
        client.ask("EHLO attacker.example").await.is("250");
        client.login(&username(10), PASSWORD).await.is("235");
    }
    is_served_beside_crowds(&scene, "implicit", 1).await;
}

/// A right password that may not be used (from this network, on this listener, of a revoked key) is no guess: an address
/// that tries it over and over is not shut for the others behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_passwords_that_may_not_be_used_shut_no_address() {
    let rows = |rows: &mut Rows| {
        rows.keys[0].allow_from = vec!["192.0.2.0/24".parse().expect("a network")];
        rows.keys[1].revoked = true;
    };
    let scene = bystander::scene(rows).await;
    let shared = IpAddr::from([127, 0, 0, 88]);
    let cases = [
        ("submission", 1, "535 5.7.8 this key may not be used from this network"),
        ("submission", 2, "535 5.7.13 the key is revoked"),
        ("plain", bystander::KEY, "538 5.7.11"),
    ];
    for (listener, key, heard) in cases {
        let mut attempts = JoinSet::new();
        // authFailuresPerAddress is 50.
        for _ in 0..60 {
            let (address, ca_pem) = (scene.address(listener), scene.ca_pem.clone());
            attempts.spawn(async move {
                let mut client = Client::open_from(shared, address).await;
                client.reply().await.is("220");
                client.ask("EHLO office.example").await.is("250");
                if listener != "plain" {
                    client.ask("STARTTLS").await.is("220");
                    client = client.encrypt(&ca_pem).await;
                    client.ask("EHLO office.example").await.is("250");
                }
                client.login(&username(key), PASSWORD).await.is(heard);
            });
        }
        attempts.join_all().await;
    }
    let client = Client::open_from(shared, scene.address("implicit")).await;
    let mut client = client.encrypt(&scene.ca_pem).await;
    client.reply().await.is("220");
    client.ask("EHLO office.example").await.is("250");
    // Its first login from there.
    client.login(&username(bystander::KEY), PASSWORD).await.is("235");
    bystander::is_undisturbed(&scene).await;
}

/// Messages with which an upstream takes its time, such as by their recipients, hold its connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_messages_of_one_tenant_leave_connections_to_the_others() {
    let scene = bystander::scene(|rows| attackers(rows, 10..12)).await;
    scene.sink.always(At::FinalOf("slow@example.com"), Act::Stall);
    let mut attack = JoinSet::new();
    for n in 0..60 {
        let mut client = log_in_plain(&scene, 10 + n % 2).await;
        let message = MAIL.replace(FROM, "slow@example.com");
        attack.spawn(async move { client.deliver("slow@example.com", &[TO], &message).await });
    }
    scene.sink.wait_for_stalled(38, SOON).await;
    // Small ones are in memory, too, for as long as they are on their way.
    assert!(scene.bytes_in_flight() > 60 * MAIL.len() as u64);
    bystander::is_undisturbed(&scene).await;
    assert!(!scene.metrics().contains(&format!("franking_upstream_share_waits_total{{policy=\"{POLICY}\"}} 0\n")));
    scene.sink.release();
    // On a slow machine the time for an answer is over.
    assert!(attack.join_all().await.into_iter().all(|reply| matches!(reply.code, 250 | 451)));
}
