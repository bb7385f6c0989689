//! Relays of a fleet and the database below them are killed while mail flows: what was acknowledged arrived and is
//! charged, and little more is.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::spread::{SpreadSetup, plan};
use crate::story::subject;
use crate::support::franking::{DEADLINE, eventually, free_port};
use crate::support::mail::{Credentials, Session};
use crate::support::postgres::Pair;
use crate::support::sink::{Sink, SinkOptions};

/// Programs that send through each relay, each one message at a time.
const SENDERS: usize = 3;
/// Messages between two faults: enough to be in the middle of everything.
const FLOW: usize = 50;

/// Programs that send through one relay until they are told to stop, whatever becomes of it.
struct Senders {
    /// Where the relay listens now.
    port: Arc<AtomicU16>,
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<HashSet<String>>>,
}

impl Senders {
    fn start(relay: &str, credentials: &Credentials, port: u16) -> Self {
        let (port, acknowledged) = (Arc::new(AtomicU16::new(port)), Arc::new(AtomicUsize::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..SENDERS).map(|number| {
            let (who, credentials) = (format!("{relay}, sender {number}"), credentials.clone());
            let (port, acknowledged, stop) = (port.clone(), acknowledged.clone(), stop.clone());
            std::thread::spawn(move || send(&who, credentials, &port, &acknowledged, &stop))
        });
        Self { threads: threads.collect(), port, acknowledged, stop }
    }

    /// Waits until so many more were acknowledged.
    fn flow(&self, what: &str, logs: impl Fn() -> String) {
        let before = self.acknowledged.load(Ordering::SeqCst);
        let until = std::time::Instant::now() + DEADLINE;
        while self.acknowledged.load(Ordering::SeqCst) <= before + FLOW {
            assert!(std::time::Instant::now() < until, "no mail flows {what}\n{}", logs());
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    }

    fn end(self) -> HashSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    }
}

/// The subjects that were acknowledged.
fn send(
    who: &str,
    mut credentials: Credentials,
    port: &AtomicU16,
    acknowledged: &AtomicUsize,
    stop: &AtomicBool,
) -> HashSet<String> {
    let (mut said_250, mut number) = (HashSet::new(), 0);
    while !stop.load(Ordering::SeqCst) {
        credentials.port = port.load(Ordering::SeqCst);
        let session = Session::open_quietly(&credentials).ok().filter(|(_, reply)| {
            assert!(!reply.starts_with('5'), "{who} was refused for good: {reply}");
            reply.starts_with("235")
        });
        let Some((mut session, _)) = session else {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            number += 1;
            let subject = format!("{who}, message {number}");
            match session.send("news@example.com", "reader@example.net", &subject) {
                Ok(reply) if reply.starts_with("250") => {
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                    said_250.insert(subject);
                }
                Ok(reply) => assert!(reply.starts_with('4'), "{who} was refused for good: {reply}"),
                Err(_) => break,
            }
        }
    }
    said_250
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_relay_and_a_failover_under_load_lose_nothing_that_was_acknowledged() {
    let pair = tokio::task::spawn_blocking(Pair::start).await.expect("two servers");
    let setup = SpreadSetup::over(pair.url() + "&target_session_attrs=read-write").await;
    let sink = Sink::start(SinkOptions::default()).await;
    let mut operator = setup.operate();
    eventually("the Secrets of the relays", DEADLINE, || setup.has_relay_secrets().then_some(()));
    let ((mut first, first_port), (mut second, second_port)) = (setup.relay("relay-0"), setup.relay("relay-1"));
    first.wait_ready();
    second.wait_ready();
    setup.apply(&plan(&sink, 1_000_000));
    setup.key("orders");
    let credentials = setup.credentials("orders", DEADLINE);
    let through_first = Senders::start("first", &credentials, first_port);
    let through_second = Senders::start("second", &credentials, second_port);
    let flow = |when: &str| {
        through_first.flow(when, || setup.logs());
        through_second.flow(when, || setup.logs());
    };

    flow("at first");
    drop(second);
    through_first.flow("beside a relay that was killed", || setup.logs());
    let port = free_port();
    let mut second = setup.relay_on("relay-1", port);
    through_second.port.store(port, Ordering::SeqCst);
    flow("after a relay was killed");
    let Pair { primary, standby } = pair;
    let lost = primary.kill();
    standby.promote();
    flow("after the database was killed and its standby took over");
    let mut said_250 = through_first.end();
    said_250.extend(through_second.end());

    first.stop();
    second.stop();
    operator.stop();
    let arrived: Vec<String> = sink.messages().iter().map(|message| subject(&message.body)).collect();
    let distinct: HashSet<String> = arrived.iter().cloned().collect();
    assert!(said_250.is_subset(&distinct), "acknowledged and not arrived: {:?}", said_250.difference(&distinct));
    let used = setup.charged().await;
    assert!(used >= arrived.len(), "{} arrived and only {used} were charged\n{}", arrived.len(), setup.logs());
    // Of the relay that was killed nobody knows what became of the message that each of its senders had under way.
    assert!(used <= arrived.len() + SENDERS, "{used} were charged for {} that arrived", arrived.len());
    setup.balances();
    std::fs::remove_dir_all(lost).expect("the lost server's folder");
}
