//! Whoever guesses, floods, drips or never reads: slowed down and turned away, each by a limit with a name and a figure
//! that shows it, and never at the cost of somebody else.

use std::time::{Duration, Instant};

use franking::domain::directory::{AccountEntry, Entry};
use franking::domain::id::AccountId;
use franking::runtime::relay_config::{Limits, RelayConfig};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::scene::{FROM, MAIL, PASSWORD, Rows, SOON, Scene, TO, account, key, username};
use crate::support::client::{Client, plain};

/// Fails unless the relay's figures have this line.
#[track_caller]
fn counted(scene: &Scene, line: &str) {
    let metrics = scene.metrics();
    assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
}

/// A connection from another address of this machine.
async fn greeted_from(scene: &Scene, last: u8) -> Client {
    let client = Client::open_from([127, 0, 0, last].into(), scene.address("implicit")).await;
    let mut client = client.encrypt(&scene.ca_pem).await;
    client.reply().await.is("220");
    client.ask("EHLO x").await.is("250");
    client
}

#[tokio::test]
async fn an_address_that_guesses_is_not_asked_any_more_and_no_name_is_locked() {
    let few = |config: &mut RelayConfig| {
        config.limits.auth_failures_per_address = 4;
        config.limits.auth_delay_seconds = 1;
    };
    let scene = Scene::with(few, |_| {}).await;
    // An office: one device works, another one guesses.
    scene.client_of(1).await.ask("QUIT").await.is("221");
    let mut guesser = scene.greeted().await;
    guesser.login(&username(2), "wrong").await.is("535 5.7.8");
    guesser.login(&username(2), "wrong again").await.is("535 5.7.8");
    guesser.login(&username(2), "and again").await.is("421 4.7.0");
    let mut guesser = scene.greeted().await;
    guesser.login("nobody-1", "wrong").await.is("535 5.7.8");
    guesser.login(&username(2), PASSWORD).await.is("454 4.7.0 too many failed logins from this address");
    counted(&scene, "franking_relay_logins_total{result=\"guessing\"} 1");
    counted(&scene, "franking_relay_logins_total{result=\"bad_login\"} 4");

    // The right password from another address, and of the device that was known here before.
    greeted_from(&scene, 2).await.login(&username(2), PASSWORD).await.is("235 2.7.0");
    scene.client_of(1).await.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
}

#[tokio::test]
async fn guesses_of_one_name_from_many_addresses_wait_longer_and_the_right_password_does_not() {
    let few = |config: &mut RelayConfig| {
        config.limits.auth_failures_per_name = 2;
        config.limits.auth_delay_seconds = 2;
    };
    let scene = Scene::with(few, |_| {}).await;
    let mut pauses = Vec::new();
    for last in 2..5 {
        let mut client = greeted_from(&scene, last).await;
        let started = Instant::now();
        client.login(&username(1), "wrong").await.is("535 5.7.8");
        pauses.push(started.elapsed().as_millis());
    }
    assert!(pauses[0] >= 500 && pauses[0] < 1900 && pauses[1] >= 2000 && pauses[2] >= 2000, "{pauses:?}");
    let started = Instant::now();
    scene.client_of(1).await;
    assert!(started.elapsed() < Duration::from_secs(1), "the owner of the name waits {:?}", started.elapsed());
}

#[tokio::test]
async fn a_new_connection_starts_the_delay_of_failed_logins_not_anew() {
    let scene = Scene::new().await;
    let mut pauses = Vec::new();
    for name in [username(1), "nobody".to_owned(), username(2)] {
        let mut client = scene.greeted().await;
        let started = Instant::now();
        client.login(&name, "wrong").await.is("535 5.7.8");
        pauses.push(started.elapsed().as_millis());
    }
    let least = [500, 1_000, 2_000];
    assert!(pauses.iter().zip(least).all(|(pause, least)| *pause >= least), "{pauses:?}");
}

#[tokio::test]
async fn an_unknown_name_costs_the_same_time_as_a_wrong_password() {
    let scene = Scene::new().await;
    let mut took = Vec::new();
    for (last, name) in (2..).zip([username(1), "nobody-1".to_owned(), username(2), "nobody-2".to_owned()]) {
        let mut client = greeted_from(&scene, last).await;
        let started = Instant::now();
        client.login(&name, "wrong").await.is("535 5.7.8 user name or password is wrong");
        took.push(started.elapsed().as_millis());
    }
    // The answer comes half a second after the question, however long it took to find: not before, and soon.
    assert!(took.iter().all(|millis| (500..800).contains(millis)), "{took:?}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let scene = Scene::with(|config| config.limits.reply_seconds = 1, |_| {}).await;
    let mut deaf = Client::connect(scene.address("plain")).await;
    let many = "EHLO x\r\n".repeat(10_000);
    let started = Instant::now();
    // Its replies fill the buffers of both sides, and then nobody listens to it either.
    while let Ok(Ok(())) = timeout(Duration::from_secs(5), deaf.try_send(&many)).await {
        assert!(started.elapsed() < SOON, "nobody stopped it");
    }
    scene
        .until("it is given up", async |scene| {
            scene.metrics().contains("franking_relay_timeouts_total{waiting_for=\"reply\"} 1")
        })
        .await;
    scene.until("its place is free", async |scene| open(scene, "plain") == 0).await;
}

fn open(scene: &Scene, listener: &str) -> u64 {
    let metrics = scene.metrics();
    let start = format!("franking_relay_connections{{listener=\"{listener}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_body_that_drips_is_cut_off() {
    let strict = |config: &mut RelayConfig| {
        (config.limits.data_seconds, config.limits.data_bytes_per_second) = (1, 1_000_000);
    };
    let scene = Scene::with(strict, |_| {}).await;
    let mut client = scene.client().await;
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
    client.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
    client.ask("DATA").await.is("354");
    let dripping = async {
        // Never silent for long, and never worth its place.
        while client.try_send("From: \r\n").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, dripping).await.expect("it is cut off");
    counted(&scene, "franking_relay_timeouts_total{waiting_for=\"body\"} 1");
    scene.until_usage([0, 0, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_command_that_drips_gets_no_more_time() {
    let hurried = |config: &mut RelayConfig| (config.limits.login_seconds, config.limits.idle_seconds) = (60, 2);
    let scene = Scene::with(hurried, |_| {}).await;
    let mut client = scene.client().await;
    let started = Instant::now();
    while client.try_send("N").await.is_ok() {
        sleep(Duration::from_millis(100)).await;
        assert!(started.elapsed() < SOON, "nobody stopped it");
    }
    counted(&scene, "franking_relay_timeouts_total{waiting_for=\"command\"} 1");
}

#[tokio::test]
async fn a_handshake_that_never_begins_is_given_up() {
    let scene = Scene::with(|config| config.limits.tls_seconds = 1, |_| {}).await;
    let mut silent = Client::open(scene.address("implicit")).await;
    silent.closed().await;
    let mut halfway = Client::connect(scene.address("submission")).await;
    halfway.ask("STARTTLS").await.is("220");
    halfway.closed().await;
    let mut rubbish = Client::open(scene.address("implicit")).await;
    rubbish.send("EHLO this is no handshake\r\n").await;
    // An alert, which is no line of ours.
    scene
        .until("all three are counted", async |scene| {
            let metrics = scene.metrics();
            metrics.contains("franking_relay_tls_failures_total{reason=\"late\"} 2")
                && metrics.contains("franking_relay_tls_failures_total{reason=\"handshake\"} 1")
        })
        .await;
    counted(&scene, "franking_relay_timeouts_total{waiting_for=\"tls\"} 2");
}

#[tokio::test]
async fn a_flood_of_connections_is_turned_away_by_the_limit_that_it_meets() {
    type Edit = fn(&mut Limits);
    let cases: [(Edit, &str); 2] = [
        (|limits| limits.connections = 2, "crowded_all"),
        (|limits| limits.connections_per_address = 2, "crowded_address"),
    ];
    for (edit, result) in cases {
        let scene = Scene::with(|config| edit(&mut config.limits), |_| {}).await;
        let address = scene.address("submission");
        let first = [Client::connect(address).await, Client::connect(address).await];
        for _ in 0..20 {
            let mut one_more = Client::open(address).await;
            one_more.reply().await.is("421 4.3.2");
            one_more.closed().await;
        }
        counted(&scene, &format!("franking_relay_connections_total{{listener=\"submission\",result=\"{result}\"}} 20"));
        drop(first);
        scene.until("a place is free again", async |_| Client::open(address).await.reply().await.code == 220).await;
    }
}

#[tokio::test]
async fn a_new_connection_gets_the_place_of_an_older_one_without_a_login() {
    let scene = Scene::with(|config| config.limits.unauthenticated = 2, |_| {}).await;
    let address = scene.address("submission");
    let mut greeted = Client::connect(address).await;
    let mut handshaking = Client::open(scene.address("implicit")).await;
    scene.until("it is served", async |scene| open(scene, "implicit") == 1).await;
    let newest = [Client::connect(address).await, Client::connect(address).await];
    greeted.reply().await.is("421 4.3.2 too many connections");
    greeted.closed().await;
    handshaking.closed().await;
    counted(&scene, "franking_relay_connections_dismissed_total 2");
    drop(newest);
}

/// By crowds of its own a guesser would be rid of the pause.
#[tokio::test]
async fn a_guesser_that_has_to_go_never_hears_whether_it_was_right() {
    let scene = Scene::with(|config| config.limits.unauthenticated = 2, |_| {}).await;
    for wrong in ["nobody-1", "nobody-2", "nobody-3"] {
        greeted_from(&scene, 2).await.login(wrong, "wrong").await.is("535");
    }
    let mut guesser = greeted_from(&scene, 2).await;
    // The answer is four seconds away.
    guesser.send(format!("AUTH PLAIN {}\r\n", plain("nobody", "wrong"))).await;
    let address = scene.address("submission");
    let crowd = [Client::connect(address).await, Client::connect(address).await];
    guesser.reply().await.is("421 4.3.2 too many connections");
    guesser.closed().await;
    drop(crowd);
}

#[tokio::test]
async fn who_logged_in_takes_no_place_of_those_who_have_not() {
    let scene = Scene::with(|config| config.limits.unauthenticated = 1, |_| {}).await;
    let mut first = scene.client().await;
    let mut second = scene.client().await;
    for client in [&mut first, &mut second] {
        client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    }
}

const OTHER: AccountId = AccountId(Uuid::from_u128(0x201));

/// Key 3 is of another account.
fn two_accounts(rows: &mut Rows) {
    rows.others.push(Entry::Account(AccountEntry { id: OTHER, name: "other".to_owned(), ..account() }));
    let mut third = key(3);
    third.account = OTHER;
    rows.others.push(Entry::Key(third));
}

#[tokio::test]
async fn one_account_cannot_fill_the_memory_for_bodies() {
    let small = |config: &mut RelayConfig| {
        config.limits.message_bytes = 60_000;
        config.limits.bytes_in_flight = 200_000;
        config.limits.bytes_in_flight_per_account = Some(60_000);
    };
    let scene = Scene::with(small, two_accounts).await;
    let begin = async |client: &mut Client, parameter: &str| {
        client.ask(&format!("MAIL FROM:<{FROM}>{parameter}")).await.is("250");
        client.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
        client.ask("DATA").await
    };
    let lines = |count: usize| format!("{}\r\n", "x".repeat(98)).repeat(count);
    // A word takes nothing, octets do.
    let mut greedy = scene.client_of(1).await;
    begin(&mut greedy, " SIZE=60000").await.is("354");
    let mut sibling = scene.client_of(2).await;
    begin(&mut sibling, " SIZE=50000").await.is("354");
    greedy.send(format!("{MAIL}\r\n{}", lines(500))).await;
    scene.until("the octets are there", async |scene| scene.bytes_in_flight() > 50_000).await;
    // Another key of the same account has no share of its own.
    sibling.send(format!("{MAIL}\r\n{}.\r\n", lines(200))).await;
    sibling.reply().await.is("452 4.3.1");
    // What cannot be kept is refused before the upload, where it is announced.
    begin(&mut sibling, " SIZE=20000").await.is("452 4.3.1");
    sibling.ask("RSET").await.is("250");
    let mut other = scene.client_of(3).await;
    begin(&mut other, " SIZE=40000").await.is("354");
    other.send(format!("{MAIL}\r\n{}.\r\n", lines(300))).await;
    other.reply().await.is("250 2.0.0");
    greedy.send(".\r\n").await;
    greedy.reply().await.is("250 2.0.0");
    sibling.deliver(FROM, &[TO], &format!("{MAIL}\r\n{}", lines(200))).await.is("250 2.0.0");
    counted(&scene, "franking_relay_messages_total{policy=\"plan\",result=\"no_memory\"} 2");
    counted(&scene, "franking_relay_memory_refusals_total{share=\"account\"} 2");
    assert_eq!(scene.bytes_in_flight(), 0);
}

#[tokio::test]
async fn a_body_that_was_fast_and_then_drips_is_cut_off_and_so_is_one_that_takes_too_long() {
    let hurried = |config: &mut RelayConfig| {
        let limits = &mut config.limits;
        (limits.data_seconds, limits.data_bytes_per_second, limits.message_seconds) = (1, 1_000, 3);
    };
    let scene = Scene::with(hurried, |_| {}).await;
    let begin = async || {
        let mut client = scene.client().await;
        client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
        client.ask(&format!("RCPT TO:<{TO}>")).await.is("250");
        client.ask("DATA").await.is("354");
        client
    };
    let drips = async |client: &mut Client, octets: usize, every: Duration| {
        let dripping = async {
            while client.try_send("x".repeat(octets)).await.is_ok() {
                sleep(every).await
            }
        };
        timeout(SOON, dripping).await.expect("it is cut off");
    };
    // Fifty seconds' worth at once is no excuse for a drip.
    let mut client = begin().await;
    client.send(format!("{MAIL}\r\n{}", format!("{}\r\n", "x".repeat(98)).repeat(500))).await;
    let started = Instant::now();
    drips(&mut client, 1, Duration::from_millis(50)).await;
    assert!(started.elapsed() < Duration::from_millis(2_900), "it had {:?}", started.elapsed());
    counted(&scene, "franking_relay_timeouts_total{waiting_for=\"body\"} 1");
    // Fast enough, and without an end.
    drips(&mut begin().await, 100, Duration::from_millis(50)).await;
    counted(&scene, "franking_relay_timeouts_total{waiting_for=\"message\"} 1");
    scene.until_usage([0, 0, 0, 0, 0]).await;
}

#[tokio::test]
async fn whatever_is_too_long_is_refused_and_the_session_goes_on() {
    let scene = Scene::with(|config| config.limits.errors = 100, |_| {}).await;
    let long = |octets: usize| "x".repeat(octets);
    let mut client = scene.greeted().await;
    client.ask(&format!("EHLO {}", long(20_000))).await.is("500 5.5.2");
    client.ask(&format!("AUTH PLAIN {}", long(20_000))).await.is("500 5.5.2");
    client.ask("AUTH LOGIN").await.is("334");
    client.ask(&long(20_000)).await.is("500 5.5.2");
    client.ask("AUTH LOGIN").await.is("334");
    client.ask(&long(8_000)).await;
    client.ask("*").await;
    client.ask("NOOP").await.is("250");
    client.ask(&format!("AUTH PLAIN {}", plain(&username(1), PASSWORD))).await.is("235");
    client.ask(&format!("MAIL FROM:<{}@example.com>", long(300))).await.is("501 5.1.7");
    client.ask(&format!("MAIL FROM:<{FROM}> SIZE={}", "9".repeat(30))).await;
    client.ask("RSET").await.is("250");
    client.ask(&format!("MAIL FROM:<{FROM}> SIZE=100001")).await.is("552 5.3.4");
    client.ask(&format!("MAIL FROM:<{FROM}>")).await.is("250");
    client.ask(&format!("RCPT TO:<a@{}>", long(300))).await.is("501 5.1.3");
    client.ask("RSET").await.is("250");
    client
        .deliver(FROM, &[TO], &format!("{MAIL}\r\n{}", format!("{}\r\n", long(998)).repeat(101)))
        .await
        .is("552 5.3.4");
    client.deliver(FROM, &[TO], &format!("{MAIL}\r\n{}", long(70_000))).await.is("554 5.6.0");
    client.deliver(FROM, &[TO], MAIL).await.is("250 2.0.0");
    scene.until_usage([1, 1, 0, 0, 0]).await;
}
