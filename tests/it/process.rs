//! The binary as a process: what it says when it is told nonsense, what `prepare` makes and refuses to make, how it
//! stops.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use franking::ledger::sqlite::SqliteStore;
use franking::ledger::store::{Because, Identity, State, Store as _};
use franking::runtime::clock::SystemClock;

use crate::support::control_plane::ControlPlane;
use crate::support::franking::{DEADLINE, Home, eventually};
use crate::support::{definitions, identity};

/// Name of the installation's ConfigMap and Secret.
const INSTALLATION: &str = "franking-installation";

/// What a command said on its standard error, and how it ended.
fn said(output: Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn franking(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_franking"));
    // No variable of whoever runs the tests is a setting of ours.
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

#[test]
fn a_wrong_setting_stops_the_start_with_one_sentence_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("franking.yaml");
    let file = file.to_str().expect("UTF-8");
    for (text, named) in [
        ("operator: {concurency: 4}", "concurency"),
        ("operator: {concurrency: 0}", "operator.concurrency is 0"),
        ("ledger: {engine: postgres}", "ledger.urlFile is missing"),
        ("operator: {leaderElection: true}", "operator.leaderElection is true with ledger.engine sqlite"),
        ("relay: {configMap: franking-relay}", "relay.configMap is set with ledger.engine sqlite"),
        ("relay: {listeners: [{name: a, address: '0.0.0.0:25', mode: Plain}]}", "relay.listeners: \"a\" is plain"),
        ("telemetry: {address: here}", "telemetry.address"),
        ("relay: [", "line 1"),
    ] {
        fs::write(file, text).expect("writes");
        for role in ["all", "operator", "relay", "prepare"] {
            let (code, said) = said(franking(&[role, "--config", file]).output().expect("the binary starts"));
            assert_eq!(code, Some(2), "{role} {text}: {said}");
            assert!(said.starts_with("franking: ") && said.contains(named), "{text}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}

#[test]
fn the_environment_is_below_the_flags_and_is_judged_alike() {
    let output = franking(&["relay"]).env("FRANKING_LOG_LEVEL", "loud").output().expect("the binary starts");
    let (code, said) = said(output);
    assert_eq!(code, Some(2));
    assert!(said.contains("loud") && said.lines().count() == 1, "{said}");
}

#[test]
fn the_definitions_are_printed_without_a_cluster_or_settings() {
    let output = franking(&["crds"]).output().expect("the binary starts");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for kind in ["CreditPolicy", "SubAccount", "SubAccountApiKey"] {
        assert!(text.contains(&format!("kind: {kind}\n")), "no {kind}");
    }
}

#[test]
fn a_ledger_that_is_not_there_cannot_be_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("UTF-8");
    let (code, said) = said(franking(&["ledger", "check", "--data", data]).output().expect("the binary starts"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ledger.db") && said.lines().count() == 1, "{said}");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0, "a check makes nothing");
}

/// An operator's namespace, and a home that runs there with the operator's own rights.
struct Place {
    home: Home,
    client: Client,
    namespace: &'static str,
}

impl Place {
    async fn new(namespace: &'static str) -> Self {
        let (kubeconfig, client) = identity::operator(ControlPlane::shared(), namespace).await;
        Self { home: Home::new(&kubeconfig, namespace), client, namespace }
    }

    fn prepare(&self, arguments: &[&str]) -> (Option<i32>, String) {
        said(self.home.command(&[&["prepare"], arguments].concat()).output().expect("the binary starts"))
    }

    #[track_caller]
    fn prepared(&self, arguments: &[&str]) {
        let (code, said) = self.prepare(arguments);
        assert_eq!(code, Some(0), "{said}");
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], named: &[&str]) {
        let (code, said) = self.prepare(arguments);
        assert_eq!(code, Some(1), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.starts_with("franking: ") && named.iter().all(|named| last.contains(named)), "{said}");
    }

    async fn map(&self) -> ConfigMap {
        Api::namespaced(self.client.clone(), self.namespace).get(INSTALLATION).await.expect("the ConfigMap")
    }

    async fn secret(&self) -> Secret {
        Api::namespaced(self.client.clone(), self.namespace).get(INSTALLATION).await.expect("the Secret")
    }

    async fn incarnation(&self) -> String {
        self.map().await.data.expect("data")["incarnation"].clone()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.folder().join(name)
    }

    fn lose_ledger(&self) {
        for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            let path = self.file(name);
            if path.exists() {
                fs::remove_file(path).expect("removed");
            }
        }
    }
}

#[tokio::test]
async fn prepare_makes_an_installation_once_and_finds_it_again() {
    let place = Place::new("process-prepare").await;
    place.prepared(&[]);
    let (map, secret) = (place.map().await, place.secret().await);
    let label = |labels: Option<std::collections::BTreeMap<String, String>>| labels.expect("labels");
    assert_eq!(label(map.metadata.labels.clone())["app.kubernetes.io/managed-by"], "franking");
    assert_eq!(label(secret.metadata.labels.clone())["app.kubernetes.io/managed-by"], "franking");
    let yaml = fs::read_to_string(place.file("relay.yaml")).expect("relay.yaml");
    let hash = String::from_utf8(secret.data.as_ref().expect("data")["hash.key"].0.clone()).expect("base64");
    assert!(yaml.contains(&hash) && yaml.contains(&map.data.as_ref().expect("data")["installation"]), "not ours");
    for name in ["relay.yaml", "tls.key", "ledger.db"] {
        let mode = fs::metadata(place.file(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} can be read by others");
    }

    place.prepared(&[]);
    let (again, secret_again) = (place.map().await, place.secret().await);
    assert_eq!(again.metadata.resource_version, map.metadata.resource_version, "the second time wrote");
    assert_eq!(secret_again.metadata.resource_version, secret.metadata.resource_version, "the second time wrote");
    assert_eq!(fs::read_to_string(place.file("relay.yaml")).expect("relay.yaml"), yaml);

    // What is in memory goes with the pod, and comes back the same.
    fs::remove_file(place.file("relay.yaml")).expect("removed");
    place.prepared(&[]);
    assert_eq!(fs::read_to_string(place.file("relay.yaml")).expect("relay.yaml"), yaml);
    assert!(place.home.check().0, "the new ledger is in balance");
}

#[tokio::test]
async fn of_preparers_that_race_the_first_one_wins() {
    let place = Place::new("process-race").await;
    let racers: Vec<_> = (0..4)
        .map(|_| place.home.command(&["prepare"]).stderr(Stdio::piped()).spawn().expect("the binary starts"))
        .collect();
    for racer in racers {
        let (code, said) = said(racer.wait_with_output().expect("our own child"));
        assert_eq!(code, Some(0), "{said}");
    }
    let hash = String::from_utf8(place.secret().await.data.expect("data")["hash.key"].0.clone()).expect("base64");
    let yaml = fs::read_to_string(place.file("relay.yaml")).expect("relay.yaml");
    assert!(yaml.contains(&hash), "relay.yaml has the keys of a racer that lost");
}

/// Who the ledger at the home's path is.
async fn identity_of(place: &Place) -> Identity {
    let store = SqliteStore::open(&place.home.ledger(), Arc::new(SystemClock)).expect("the ledger");
    store.identity().await.expect("its identity")
}

#[tokio::test]
async fn an_empty_ledger_where_there_was_one_is_held() {
    let place = Place::new("process-empty").await;
    place.prepared(&[]);
    let first = place.incarnation().await;
    assert_eq!(identity_of(&place).await.state, State::Open);
    place.lose_ledger();
    // What a crash while it was made leaves behind is as empty as nothing.
    fs::write(place.home.ledger(), "").expect("writes");
    place.prepared(&[]);
    let held = identity_of(&place).await;
    assert_eq!(held.state, State::Held(Because::Empty));
    assert_ne!(held.incarnation.to_string(), first);
    assert_eq!(place.incarnation().await, first, "what was known is known");
    // Time and another start change nothing.
    place.prepared(&[]);
    assert_eq!(identity_of(&place).await, held);
}

#[tokio::test]
async fn a_ledger_of_another_installation_is_not_touched_and_one_of_another_incarnation_is_held() {
    let (ours, theirs) = (Place::new("process-ours").await, Place::new("process-theirs").await);
    ours.prepared(&[]);
    fs::copy(ours.home.ledger(), theirs.home.ledger()).expect("copied");
    theirs.prepared(&[]);
    assert_eq!(identity_of(&theirs).await, identity_of(&ours).await, "it was written to");
    let told = fs::read_to_string(theirs.file("relay.yaml")).expect("relay.yaml");
    assert!(told.contains(&format!("incarnation: {}", uuid::Uuid::nil())), "{told}");

    let backup = ours.file("backup.db");
    fs::copy(ours.home.ledger(), &backup).expect("copied");
    let maps = Api::<ConfigMap>::namespaced(ours.client.clone(), ours.namespace);
    let since = json!({"data": {"incarnation": uuid::Uuid::from_u128(7)}});
    maps.patch(INSTALLATION, &PatchParams::default(), &Patch::Merge(since)).await.expect("patched");
    ours.prepared(&[]);
    assert_eq!(identity_of(&ours).await.state, State::Held(Because::Swapped));
}

#[tokio::test]
async fn a_ledger_that_is_behind_the_noted_mark_is_held() {
    let place = Place::new("process-behind").await;
    place.prepared(&[]);
    let maps = Api::<ConfigMap>::namespaced(place.client.clone(), place.namespace);
    let mark = |mark: &str| Patch::Merge(json!({"data": {"ledgerMark": mark}}));
    maps.patch(INSTALLATION, &PatchParams::default(), &mark("0 0 0")).await.expect("patched");
    place.prepared(&[]);
    assert_eq!(identity_of(&place).await.state, State::Open);
    maps.patch(INSTALLATION, &PatchParams::default(), &mark("0 12 0")).await.expect("patched");
    place.prepared(&[]);
    assert_eq!(identity_of(&place).await.state, State::Held(Because::WentBack));
    maps.patch(INSTALLATION, &PatchParams::default(), &mark("a b")).await.expect("patched");
    place.refused(&[], &["ledgerMark", "three numbers"]);
}

#[tokio::test]
async fn keys_that_are_gone_or_broken_are_not_made_anew() {
    let place = Place::new("process-keys").await;
    place.prepared(&[]);
    // The operator's own rights do not go so far in every chart; whoever deletes it is an administrator.
    let admin = ControlPlane::shared().admin_client().await;
    let secrets = Api::<Secret>::namespaced(admin.clone(), place.namespace);
    let broken = json!({"stringData": {"hash.key": "c2hvcnQ="}});
    secrets.patch(INSTALLATION, &PatchParams::default(), &Patch::Merge(broken)).await.expect("patched");
    place.refused(&[], &["hash.key", "32 octets"]);
    secrets.delete(INSTALLATION, &DeleteParams::default()).await.expect("deleted");
    place.refused(&[], &["Secret process-keys/franking-installation is gone"]);
    assert!(secrets.get_opt(INSTALLATION).await.expect("an answer").is_none(), "it was made anew");

    let maps = Api::<ConfigMap>::namespaced(admin, place.namespace);
    let moved = json!({"data": {"cluster": "another"}});
    maps.delete(INSTALLATION, &DeleteParams::default()).await.expect("deleted");
    place.lose_ledger();
    place.prepared(&[]);
    maps.patch(INSTALLATION, &PatchParams::default(), &Patch::Merge(moved)).await.expect("patched");
    place.refused(&[], &["belongs to cluster another"]);
}

#[tokio::test]
async fn an_operator_waits_for_prepare() {
    let place = Place::new("process-unprepared").await;
    let (code, said) = said(place.home.command(&["operator"]).output().expect("the binary starts"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("run `franking prepare` first"), "{said}");
}

#[tokio::test]
async fn a_relay_alone_says_why_it_is_not_ready_and_ends_well_on_sigterm() {
    let place = Place::new("process-relay").await;
    place.prepared(&[]);
    let log = place.file("relay.log");
    // The relay has no business with Kubernetes, so it gets no way to it.
    let mut command = place.home.command(&["relay"]);
    command.env_remove("KUBECONFIG").env("HOME", "/nonexistent");
    let away = place.file("relay.yaml.away");
    fs::rename(place.file("relay.yaml"), &away).expect("renamed");
    let mut child =
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).expect("a log")).spawn().expect("starts");

    let (status, why) = eventually("the relay to say why", DEADLINE, || place.home.get("/readyz"));
    assert_eq!(status, 503, "{why}");
    assert!(why.starts_with("relay"), "{why}");
    assert_eq!(place.home.get("/healthz").map(|(status, _)| status), Some(200), "waiting is living");
    fs::rename(&away, place.file("relay.yaml")).expect("renamed");
    eventually("the relay to be ready", DEADLINE, || place.home.get("/readyz").filter(|(status, _)| *status == 200));
    let metrics = place.home.get("/metrics").expect("an answer").1;
    assert!(metrics.contains("process_resident_memory_bytes") && metrics.contains("franking_build_info"), "{metrics}");

    let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(asked.expect("kill is there").success());
    let status = eventually("the relay to stop", DEADLINE, || child.try_wait().expect("our own child"));
    assert_eq!(status.code(), Some(0), "{}", read(&log));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_roles_in_one_process_get_ready_and_end_well_on_sigterm() {
    let place = Place::new("process-all").await;
    definitions::install(&ControlPlane::shared().admin_client().await).await;
    let franking = place.home.start();
    let metrics = place.home.get("/metrics").expect("an answer").1;
    assert!(metrics.contains("franking_relay_settings_valid 1"), "{metrics}");
    assert_eq!(franking.stop(), 0, "{}", place.home.log());
    assert!(place.home.check().0, "the ledger is in balance");
    // Again over the same state, the operator in a process of its own this time.
    let mut command = place.home.command(&["operator"]);
    let log = fs::File::create(place.file("operator.log")).expect("a log");
    let mut child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts");
    eventually("the operator to be ready", DEADLINE, || place.home.get("/readyz").filter(|(status, _)| *status == 200));
    let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(asked.expect("kill is there").success());
    let status = eventually("the operator to stop", DEADLINE, || child.try_wait().expect("our own child"));
    assert_eq!(status.code(), Some(0), "{}", read(&place.file("operator.log")));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
