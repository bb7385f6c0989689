//! The whole story with the real binary: applied, mounted, sent, counted, refused, and killed on the way.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;

use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::{DEADLINE, Home, eventually};
use crate::support::mail::{Credentials, Session};
use crate::support::sink::{Sink, SinkOptions};
use crate::support::{definitions, identity};

pub const SYSTEM: &str = "franking-system";
/// A revoked, expired or suspended credential is refused within this (issue: a second), and the watch before it.
pub const SOON: Duration = Duration::from_secs(3);

/// A cluster with Franking's definitions and identity, an upstream, and a place for the binary.
pub struct Stage {
    pub plane: ControlPlane,
    pub sink: Sink,
    pub home: Home,
}

impl Stage {
    pub async fn set() -> Self {
        let plane = ControlPlane::start(Options::default()).expect("a control plane");
        definitions::install(&plane.admin_client().await).await;
        let (kubeconfig, _) = identity::operator(&plane, SYSTEM).await;
        let home = Home::new(&kubeconfig, SYSTEM);
        let sink = Sink::start(SinkOptions::default()).await;
        let stage = Self { plane, sink, home };
        stage.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team}}");
        stage
    }

    pub fn apply(&self, manifest: &str) {
        succeeded(self.plane.kubectl_stdin(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifest));
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        succeeded(self.plane.kubectl(arguments))
    }

    pub fn policy(&self, pool: u32) {
        self.apply(&format!(
            "{{apiVersion: franking.io/v1alpha1, kind: CreditPolicy, metadata: {{name: plan}}, spec: {{\
             pool: {{credits: {pool}, period: Monthly}}, senders: {{domains: [example.com]}}, \
             upstream: {{host: 127.0.0.1, port: {}, tls: None}}}}}}",
            self.sink.address().port()
        ));
    }

    pub fn account(&self, rules: &str) {
        self.apply(&format!(
            "{{apiVersion: franking.io/v1alpha1, kind: SubAccount, metadata: {{name: shop, namespace: team}}, \
             spec: {{policyRef: {{name: plan}}, {rules}}}}}"
        ));
    }

    pub fn key(&self, name: &str, rules: &str) {
        self.apply(&format!(
            "{{apiVersion: franking.io/v1alpha1, kind: SubAccountApiKey, metadata: {{name: {name}, namespace: team}}, \
             spec: {{subAccountRef: {{name: shop}}, secret: {{name: {name}}}, {rules}}}}}"
        ));
    }

    pub fn wait_ready(&self) {
        for kind in ["creditpolicies", "subaccounts", "subaccountapikeys"] {
            let wait = ["wait", "--for=condition=Ready", kind, "--all", "-A", "--timeout=60s"];
            let ready = self.plane.kubectl(&wait).status.success();
            assert!(ready, "{}\n{}", self.kubectl(&["get", "franking", "-A", "-o", "yaml"]), self.home.log());
        }
    }

    pub fn credentials(&self, secret: &str) -> Credentials {
        let json = self.kubectl(&["get", "secret", secret, "-n", "team", "-o", "json"]);
        let secret: Secret = serde_json::from_str(&json).expect("a Secret");
        Credentials::from_secret(&secret).expect("a Secret of ours")
    }

    /// A field of the account, as text.
    pub fn account_field(&self, path: &str) -> String {
        self.kubectl(&["get", "subaccount", "shop", "-n", "team", "-o", &format!("jsonpath={{{path}}}")])
    }
}

pub fn send(session: &mut Session, subject: &str) -> String {
    session.send("news@example.com", "reader@example.net", subject).expect("an answer")
}

pub fn log_in(credentials: &Credentials) -> String {
    Session::open_quietly(credentials).map_or_else(|error| error, |(_, reply)| reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_applied_mounted_sent_with_used_up_suspended_and_restored() {
    let stage = Stage::set().await;
    let franking = stage.home.start();
    stage.policy(100);
    stage.account("cap: {credits: 3}");
    stage.key("website", "label: Website");
    stage.wait_ready();

    // Sent until the cap refuses, and exactly the cap arrives.
    let credentials = stage.credentials("website");
    let (mut session, reply) = Session::open_quietly(&credentials).expect("a login");
    assert!(reply.starts_with("235"), "{reply}");
    for number in 1..=3 {
        let reply = send(&mut session, &format!("number {number}"));
        assert!(reply.starts_with("250"), "{reply}");
    }
    let reply = send(&mut session, "one too many");
    assert!(reply.starts_with("452 4.7.1") && reply.contains("account"), "{reply}");
    assert_eq!(stage.sink.messages().len(), 3);

    // It is back on status: used up is a change of phase, written at once.
    eventually("the account's used credits on status", DEADLINE, || {
        (stage.account_field(".status.credits.used") == "3").then_some(())
    });
    assert_eq!(stage.account_field(".status.credits.remaining"), "0");
    let id = stage.account_field(".status.accountId");

    // Suspended in the middle of a session, and resumed by itself when the cause goes.
    stage.account("cap: {credits: 10}, suspended: true, suspendReason: unpaid");
    eventually("the open session to be refused", SOON, || {
        send(&mut session, "suspended").starts_with("550 5.7.13").then_some(())
    });
    eventually("the login to be refused", SOON, || log_in(&credentials).starts_with("535 5.7.13").then_some(()));
    stage.account("cap: {credits: 10}");
    eventually("the session to go on", SOON, || send(&mut session, "resumed").starts_with("250").then_some(()));

    // Rotated: both passwords work during the overlap.
    stage.key("website", "label: Website, rotation: {restartedAt: '2026-11-01T00:00:00Z'}");
    let rotated = eventually("a new password", DEADLINE, || {
        let now = stage.credentials("website");
        (now.password != credentials.password).then_some(now)
    });
    eventually("the new password to work", SOON, || log_in(&rotated).starts_with("235").then_some(()));
    assert!(log_in(&credentials).starts_with("235"), "the old password works during the overlap");

    // Revoked: refused within a second, in the open session too.
    stage.key("website", "label: Website, revoked: true");
    eventually("the revoked key to be refused", SOON, || log_in(&rotated).starts_with("535 5.7.13").then_some(()));
    eventually("the open session to be refused", SOON, || {
        send(&mut session, "revoked").starts_with("55").then_some(())
    });

    // Deleted and applied again: the same id, and the used credits with it.
    stage.kubectl(&["delete", "subaccount", "shop", "-n", "team", "--timeout=60s"]);
    stage.account("cap: {credits: 10}");
    stage.key("website", "label: Website");
    stage.wait_ready();
    assert_eq!(stage.account_field(".status.accountId"), id);
    eventually("the used credits to be remembered", DEADLINE, || {
        (stage.account_field(".status.credits.used").parse::<u32>().ok()? >= 4).then_some(())
    });

    // The same figures in metrics, and books that balance.
    let (_, metrics) = stage.home.get("/metrics").expect("it answers");
    assert!(metrics.contains("franking_policy_credits{policy=\"plan\",what=\"used\"}"), "{metrics}");
    assert_eq!(crate::generated::metrics_documented(&metrics), Ok(()));
    assert_eq!(franking.stop(), 0);
    let (balanced, said) = stage.home.check();
    assert!(balanced, "{said}");
    assert!(!stage.home.log().contains(&credentials.password), "a password is in the log");
    assert!(!stage.home.log().contains("reader@example.net"), "an address is in the log");
}

/// Senders that go on through a kill: what was acknowledged to each.
fn senders(
    credentials: &Credentials,
    stop: &Arc<AtomicBool>,
    acknowledged: &Arc<AtomicUsize>,
) -> Vec<std::thread::JoinHandle<HashSet<String>>> {
    (0..6)
        .map(|sender| {
            let (credentials, stop, acknowledged) = (credentials.clone(), stop.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                let mut said_250 = HashSet::new();
                let mut number = 0;
                while !stop.load(Ordering::SeqCst) {
                    let Ok((mut session, reply)) = Session::open_quietly(&credentials) else { continue };
                    if !reply.starts_with("235") {
                        continue;
                    }
                    while !stop.load(Ordering::SeqCst) {
                        number += 1;
                        let subject = format!("sender {sender} number {number}");
                        match session.send("news@example.com", "reader@example.net", &subject) {
                            Ok(reply) if reply.starts_with("250") => {
                                acknowledged.fetch_add(1, Ordering::SeqCst);
                                said_250.insert(subject);
                            }
                            Ok(_) => {}
                            Err(_) => break,
                        }
                    }
                }
                said_250
            })
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_under_load_charges_all_that_was_acknowledged_and_changes_no_secret() {
    let stage = Stage::set().await;
    stage.policy(1_000_000);
    stage.account("cap: {credits: 500000}");
    stage.key("website", "label: Website");
    let mut franking = stage.home.start();
    stage.wait_ready();
    let credentials = stage.credentials("website");
    let secret =
        || stage.kubectl(&["get", "secrets", "-n", "team", "-o", "jsonpath={.items[*].metadata.resourceVersion}"]);
    let version = secret();

    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let senders = senders(&credentials, &stop, &acknowledged);
    eventually("mail to flow", DEADLINE, || (acknowledged.load(Ordering::SeqCst) > 50).then_some(()));
    let saved = back_up(&stage);
    for _ in 0..3 {
        let before = acknowledged.load(Ordering::SeqCst);
        eventually("mail to flow", DEADLINE, || (acknowledged.load(Ordering::SeqCst) > before + 50).then_some(()));
        franking.kill();
        franking = stage.home.start();
    }
    let before = acknowledged.load(Ordering::SeqCst);
    eventually("mail to flow again", DEADLINE, || (acknowledged.load(Ordering::SeqCst) > before + 50).then_some(()));
    stop.store(true, Ordering::SeqCst);
    let said_250: HashSet<String> = senders.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();

    // Whatever was answered 250 arrived, and all that arrived was charged: never more mail than credits.
    let arrived: Vec<String> = stage.sink.messages().iter().map(|message| subject(&message.body)).collect();
    let distinct: HashSet<String> = arrived.iter().cloned().collect();
    assert!(said_250.is_subset(&distinct), "acknowledged and not arrived: {:?}", said_250.difference(&distinct));
    assert_eq!(franking.stop(), 0);
    let (balanced, said) = stage.home.check();
    assert!(balanced, "{said}");
    let used = charged(&stage.home.ledger());
    assert!(used >= arrived.len(), "{} arrived and only {used} were charged", arrived.len());
    // What a kill leaves open stays charged: at most one message of each sender for each kill.
    assert!(used <= arrived.len() + 6 * 3, "{used} were charged for {} that arrived", arrived.len());
    assert_eq!(secret(), version, "a restart changed the Secret");
    // What was saved in between is a whole ledger, of that moment.
    let held = charged(&saved.join("ledger.db"));
    assert!((50..used).contains(&held), "the backup holds {held} of {used}");
    let mut check = Command::new(env!("CARGO_BIN_EXE_franking"));
    let checked =
        check.args(["ledger", "check", "--data"]).arg(&saved).env_clear().output().expect("the binary starts");
    assert!(checked.status.success(), "{checked:?}");
}

/// A folder with a copy of the ledger, made while it is in use.
fn back_up(stage: &Stage) -> PathBuf {
    let saved = stage.home.folder().join("saved");
    std::fs::create_dir(&saved).expect("a folder");
    let to = saved.join("ledger.db");
    let made = stage.home.command(&["ledger", "backup", to.to_str().expect("UTF-8")]).output();
    let made = made.expect("the binary starts");
    assert!(made.status.success(), "{made:?}");
    saved
}

pub fn subject(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("our messages have a subject");
    line.to_owned()
}

/// Credits that the account's lots were charged and not given back, read from the books as an auditor would.
fn charged(ledger: &PathBuf) -> usize {
    let books = rusqlite::Connection::open(ledger).expect("the ledger is a SQLite file");
    let sum: i64 = books
        .query_row("SELECT sum(consumed) FROM lot WHERE kind = 'account'", [], |row| row.get(0))
        .expect("the account has a lot");
    usize::try_from(sum).expect("credits are not negative")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_over_the_same_state_writes_nothing_and_is_quick() {
    let stage = Stage::set().await;
    stage.policy(100);
    stage.account("cap: {credits: 3}");
    stage.key("website", "label: Website");
    let franking = stage.home.start();
    stage.wait_ready();
    // What the relay says of the upstream comes a little later than that the plan is ready.
    stage.kubectl(&["wait", "creditpolicies", "--all", "--for=condition=UpstreamAvailable", "--timeout=60s"]);
    let versions = || {
        let kinds = "creditpolicies,subaccounts,subaccountapikeys,secrets";
        stage.kubectl(&[
            "get",
            kinds,
            "-A",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name}={.metadata.resourceVersion} {end}",
        ])
    };
    let standing = eventually("nothing more to be written", DEADLINE, {
        let mut before = String::new();
        let mut since = Instant::now();
        move || {
            let now = versions();
            if now != before {
                (before, since) = (now, Instant::now());
            }
            (since.elapsed() > Duration::from_secs(2)).then(|| before.clone())
        }
    });
    assert_eq!(franking.stop(), 0);
    let franking = stage.home.start();
    eventually("every object to be looked at again", DEADLINE, || {
        let (_, metrics) = stage.home.get("/metrics")?;
        let reconciles: f64 = metrics
            .lines()
            .filter(|line| line.starts_with("controller_runtime_reconcile_total"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        (reconciles >= 3.0).then_some(())
    });
    assert_eq!(versions(), standing);
    assert_eq!(franking.stop(), 0);
}
