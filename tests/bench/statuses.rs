//! How far statuses are behind when thousands of accounts and keys are made at once, on the real API server.
//!
//! Everything is timed from the last create: until all are Ready, and until the counts on status (`status.keys` of each
//! account, `status.accounts` of the policy) are right. Beside it the metric that says how far behind the operator knows to be.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use franking::crd::{CreditPolicy, SubAccount, SubAccountApiKey};
use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::operator::{SYSTEM, create_all, make_namespaces, make_policy};
use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::{Home, get};
use crate::support::identity;

/// Accounts, and as many keys (issue: 10,000 each).
pub const OBJECTS: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(1_800);
/// Between two looks at the metrics.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

pub async fn run(count: usize) {
    let plane = ControlPlane::start(Options::default()).expect("a control plane");
    let admin = plane.admin_client().await;
    succeeded(plane.kubectl(&["apply", "--server-side", "-f", "crds"]));
    let (kubeconfig, _) = identity::operator(&plane, SYSTEM).await;
    make_policy(&admin).await;
    make_namespaces(&admin, "bench").await;
    let home = Home::new(&kubeconfig, SYSTEM);
    let franking = home.start();
    let samples = Samples::start(home.telemetry);

    let began = Instant::now();
    let ((created, accounts), keys, policy) = tokio::join!(
        async { tokio::join!(create(&admin, count), watch_accounts(&admin, count)) },
        watch_keys(&admin, count),
        watch_policy(&admin, count),
    );
    let after = |at: Instant| at.saturating_duration_since(created).as_secs_f64();
    println!("{count} accounts + {count} keys were made in            {:7.1} s", (created - began).as_secs_f64());
    println!("  all keys Ready, after the last create          {:7.1} s", after(keys[0]));
    println!("  all accounts Ready                             {:7.1} s", after(accounts[0]));
    println!("  status.keys of all accounts right              {:7.1} s", after(accounts[1]));
    println!("  status.accounts of the policy right            {:7.1} s", after(policy[0]));
    let settled = samples.until_nothing_is_due().await;
    println!("  no status due any more                         {:7.1} s", after(settled));
    let samples = samples.stop();
    let most = |of: fn(&Sample) -> f64, from: Instant| {
        samples.iter().filter(|sample| sample.at >= from).map(of).fold(0.0, f64::max)
    };
    println!("franking_operator_status_lag_seconds, most       {:7.0}", most(|sample| sample.lag, began));
    println!("  … after the last create                        {:7.0}", most(|sample| sample.lag, created));
    println!("franking_operator_statuses_due, most             {:7.0}", most(|sample| sample.due, began));
    let written = samples.last().map_or(0.0, |sample| sample.written);
    println!("franking_operator_status_writes_total            {written:7.0}");
    assert_eq!(franking.stop(), 0);
}

/// Returns when the last one was made.
async fn create(admin: &Client, count: usize) -> Instant {
    create_all(admin, "bench", count).await;
    Instant::now()
}

async fn watch_accounts(admin: &Client, count: usize) -> Vec<Instant> {
    let ready = |account: &SubAccount| account.status.as_ref().is_some_and(|status| is_ready(&status.conditions));
    let counted = |account: &SubAccount| {
        let keys = account.status.as_ref().and_then(|status| status.keys);
        keys.is_some_and(|keys| (keys.total, keys.active) == (1, 1))
    };
    watch(Api::all(admin.clone()), count, &[&ready, &counted]).await
}

async fn watch_keys(admin: &Client, count: usize) -> Vec<Instant> {
    let ready = |key: &SubAccountApiKey| key.status.as_ref().is_some_and(|status| is_ready(&status.conditions));
    watch(Api::all(admin.clone()), count, &[&ready]).await
}

async fn watch_policy(admin: &Client, count: usize) -> Vec<Instant> {
    let count = i64::try_from(count).expect("a small number");
    let counted = |policy: &CreditPolicy| {
        let accounts = policy.status.as_ref().and_then(|status| status.accounts);
        accounts.is_some_and(|accounts| (accounts.total, accounts.active) == (count, count))
    };
    watch(Api::all(admin.clone()), 1, &[&counted]).await
}

fn is_ready(conditions: &[Condition]) -> bool {
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Watches until every check holds for `count` objects at once. Returns for each check since when it does.
async fn watch<K>(api: Api<K>, count: usize, checks: &[&(dyn Fn(&K) -> bool + Sync)]) -> Vec<Instant>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut events = pin!(watcher(api, watcher::Config::default()).applied_objects());
    let mut hold: Vec<(BTreeSet<String>, Option<Instant>)> = vec![Default::default(); checks.len()];
    loop {
        let event = tokio::time::timeout_at(until, events.next()).await;
        let counts = || hold.iter().map(|(good, _)| good.len()).collect::<Vec<_>>();
        let event = event.unwrap_or_else(|_| panic!("the checks hold for {:?} of {count}", counts()));
        // What breaks off is listed again.
        let Ok(object) = event.expect("the watch goes on") else { continue };
        let uid = object.uid().expect("stored");
        for ((good, since), check) in hold.iter_mut().zip(checks) {
            let _ = if check(&object) { good.insert(uid.clone()) } else { good.remove(&uid) };
            *since = if good.len() == count { since.or_else(|| Some(Instant::now())) } else { None };
        }
        let since: Option<Vec<Instant>> = hold.iter().map(|(_, since)| *since).collect();
        if let Some(since) = since {
            return since;
        }
    }
}

/// The operator's own figures at one moment.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    lag: f64,
    due: f64,
    written: f64,
}

/// Reads the metrics again and again, on a thread of its own.
struct Samples {
    address: std::net::SocketAddr,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Sample>>,
}

impl Samples {
    fn start(address: std::net::SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while !asked.load(Ordering::Acquire) {
                samples.extend(sample(address));
                std::thread::park_timeout(SAMPLE_EVERY);
            }
            samples.extend(sample(address));
            samples
        });
        Self { address, stop, thread }
    }

    async fn until_nothing_is_due(&self) -> Instant {
        let mut ticks = tokio::time::interval(SAMPLE_EVERY);
        loop {
            ticks.tick().await;
            if let Some(sample) = sample(self.address).filter(|sample| sample.due == 0.0) {
                return sample.at;
            }
        }
    }

    fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("no panic")
    }
}

fn sample(address: std::net::SocketAddr) -> Option<Sample> {
    let (_, text) = get(address, "/metrics")?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
    };
    Some(Sample {
        at: Instant::now(),
        lag: value("franking_operator_status_lag_seconds")?,
        due: value("franking_operator_statuses_due")?,
        written: value("franking_operator_status_writes_total")?,
    })
}
