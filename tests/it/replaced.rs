//! The ledger is lost, put back from before, or somebody else's: nothing is sent, everything says why, and what an
//! administrator accepts by name has everybody's password and used credits.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::story::{SYSTEM, Stage, log_in, send};
use crate::support::chart;
use crate::support::control_plane::succeeded;
use crate::support::franking::{DEADLINE, eventually};
use crate::support::mail::{Credentials, Session};

/// A relay looks at its ledger five times a second.
const SOON: Duration = Duration::from_secs(5);

const FILES: [&str; 3] = ["ledger.db", "ledger.db-wal", "ledger.db-shm"];

struct Scene {
    stage: Stage,
    credentials: Credentials,
    /// The account's cap so far, all of it used.
    cap: Cell<u32>,
}

impl Scene {
    /// A ledger with four used credits that statuses show, and a backup from when two of them were not.
    async fn set() -> (Self, PathBuf) {
        let stage = Stage::set().await;
        let franking = stage.home.start();
        stage.policy(100);
        stage.account("cap: {credits: 4}");
        stage.key("website", "label: Website");
        stage.wait_ready();
        let credentials = stage.credentials("website");
        assert_eq!(franking.stop(), 0);
        let scene = Self { stage, credentials, cap: Cell::new(4) };
        let franking = scene.stage.home.start();
        scene.sends(2);
        let saved = scene.stage.home.folder().join("saved.db");
        let output = scene.ledger(&["backup", path(&saved)]);
        assert!(output.contains("is a whole ledger"), "{output}");
        scene.sends(2);
        scene.used_up();
        assert_eq!(franking.stop(), 0);
        (scene, saved)
    }

    fn ledger(&self, arguments: &[&str]) -> String {
        succeeded(self.stage.home.command(&[&["ledger"], arguments].concat()).output().expect("the binary starts"))
    }

    fn session(&self) -> Session {
        let (session, reply) = Session::open_quietly(&self.credentials).expect("a session");
        assert!(reply.starts_with("235"), "{reply}");
        session
    }

    fn sends(&self, count: u32) {
        let mut session = self.session();
        for number in 0..count {
            let reply = send(&mut session, &format!("number {number}"));
            assert!(reply.starts_with("250"), "{reply}");
        }
    }

    /// All of the cap is used, and the status says so.
    fn used_up(&self) {
        let reply = send(&mut self.session(), "one too many");
        assert!(reply.starts_with("452 4.7.1") && reply.contains("account"), "{reply}");
        eventually("the used credits on status", DEADLINE, || {
            (self.stage.account_field(".status.credits.used") == self.cap.get().to_string()).then_some(())
        });
    }

    fn reason(&self) -> String {
        self.stage.account_field(".status.conditions[?(@.type==\"Ready\")].reason")
    }

    /// Nothing is sent, nobody is refused for good, and every object says what it is and what to do. Returns the name
    /// that it is accepted by.
    fn is_held(&self, what: &str, session: Option<&mut Session>) -> String {
        if let Some(session) = session {
            eventually("an open session to be told to come back", SOON, || {
                let reply = send(session, "held");
                assert!(reply.starts_with("250") || reply.starts_with("45"), "{what}: {reply}");
                reply.starts_with("451").then_some(())
            });
        }
        eventually("a login to be told to come back", SOON, || {
            let reply = log_in(&self.credentials);
            assert!(reply.starts_with("454") || reply.starts_with("235"), "{what}: {reply}");
            reply.starts_with("454").then_some(())
        });
        for kind in ["creditpolicy/plan", "subaccount/shop", "subaccountapikey/website"] {
            let path = "jsonpath={.status.conditions[?(@.type==\"Stalled\")]}";
            eventually(kind, DEADLINE, || {
                let shown = self.stage.kubectl(&["get", kind, "-n", "team", "-o", path]);
                (shown.contains("LedgerReplaced") && shown.contains(what)).then_some(())
            });
            let sending = self.stage.kubectl(&["get", kind, "-n", "team", "-o", "jsonpath={.status.sending}"]);
            assert_eq!(sending, "no", "{kind}");
        }
        let message = self.stage.account_field(".status.conditions[?(@.type==\"Stalled\")].message");
        let (_, name) = message.split_once("franking.io/accept-ledger=").unwrap_or_else(|| panic!("{message}"));
        let metrics = self.stage.home.get("/metrics").expect("it answers").1;
        assert!(metrics.contains("franking_ledger_replaced 1"), "{metrics}");
        let events = self.stage.kubectl(&["get", "events", "-n", SYSTEM]);
        assert!(events.contains("LedgerReplaced") && events.contains("franking-installation"), "{events}");
        assert_eq!(
            self.stage.account_field(".status.credits.used"),
            self.cap.get().to_string(),
            "what was used is still shown"
        );
        assert!(log_in(&self.credentials).starts_with("454"), "it opened by itself");
        name.to_owned()
    }

    fn annotate(&self, name: &str) {
        let word = format!("franking.io/accept-ledger={name}");
        self.stage.kubectl(&["annotate", "configmap", "franking-installation", "-n", SYSTEM, "--overwrite", &word]);
    }

    /// Accepted: the same password, the same id, and not one credit more than before.
    fn is_accepted_by(&self, name: &str) {
        let id = self.stage.account_field(".status.accountId");
        self.annotate(name);
        eventually("the same password to work", DEADLINE, || {
            let reply = log_in(&self.credentials);
            assert!(!reply.starts_with('5'), "refused for good: {reply}");
            reply.starts_with("235").then_some(())
        });
        let now = self.stage.credentials("website");
        assert_eq!(
            (now.password, now.username),
            (self.credentials.password.clone(), self.credentials.username.clone())
        );
        self.used_up();
        self.stage.wait_ready();
        assert_eq!(self.stage.account_field(".status.accountId"), id);
        self.cap.set(self.cap.get() + 2);
        self.stage.account(&format!("cap: {{credits: {}}}", self.cap.get()));
        eventually("the raised cap", DEADLINE, || {
            (self.stage.account_field(".status.credits.remaining") == "2").then_some(())
        });
        self.sends(2);
        self.used_up();
        let metrics = self.stage.home.get("/metrics").expect("it answers").1;
        assert!(metrics.contains("franking_ledger_replaced 0"), "{metrics}");
        let events = self.ledger(&["events"]);
        let accepted = events.lines().rfind(|line| line.contains("ledger.accepted")).unwrap_or_default();
        assert!(accepted.contains("kubectl-annotate"), "{events}");
        assert!(events.contains("lot.raised"), "{events}");
        let told = self.stage.kubectl(&["get", "events", "-n", SYSTEM]);
        assert!(told.contains("LedgerAccepted") && told.contains("franking-installation"), "{told}");
        let (balanced, said) = self.stage.home.check();
        assert!(balanced, "{said}");
    }

    fn lose(&self) {
        for path in FILES.map(|name| self.stage.home.folder().join(name)) {
            if path.exists() {
                fs::remove_file(path).expect("removed");
            }
        }
    }

    /// Moves the ledger with its journal from one folder to another.
    fn carry(from: &Path, to: &Path) {
        for name in FILES {
            if from.join(name).exists() {
                fs::rename(from.join(name), to.join(name)).expect("renamed");
            }
        }
    }

    /// Puts a copy of a file in the ledger's place, as somebody would who knows no better.
    fn put(&self, file: &Path) {
        let copy = self.stage.home.folder().join("copy.db");
        fs::copy(file, &copy).expect("copied");
        self.lose();
        fs::rename(copy, self.stage.home.ledger()).expect("renamed");
    }

    fn foreign(&self) -> PathBuf {
        let file = self.stage.home.folder().join("foreign.db");
        if !file.exists() {
            let (installation, incarnation) = (Uuid::from_u128(1), Uuid::from_u128(2));
            franking::ledger::sqlite::prepare(&file, installation, "elsewhere", incarnation, Timestamp::UNIX_EPOCH)
                .expect("another's ledger");
        }
        file
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_replaced_while_we_were_down_is_held_until_it_is_accepted() {
    let (scene, saved) = Scene::set().await;

    // The volume was emptied.
    scene.lose();
    let franking = scene.stage.home.start();
    let name = scene.is_held("is empty", None);
    scene.annotate(&Uuid::from_u128(5).to_string());
    assert!(log_in(&scene.credentials).starts_with("454"), "another name was taken");
    assert_eq!(franking.stop(), 0);
    // It is held over a restart.
    let franking = scene.stage.home.start();
    assert_eq!(scene.is_held("is empty", None), name);
    scene.is_accepted_by(&name);
    assert_eq!(franking.stop(), 0);

    // A backup from before some of what was sent, and from before the acceptance.
    let said = scene.ledger(&["restore", path(&saved)]);
    assert!(said.contains("kept as"), "{said}");
    let franking = scene.stage.home.start();
    let other = scene.is_held("was restored from a backup", None);
    assert_ne!(other, name, "an old word of acceptance would do");
    scene.is_accepted_by(&other);
    assert_eq!(franking.stop(), 0);

    // The same without a word to anybody: the mark in the ConfigMap is ahead of it.
    let before = scene.stage.home.folder().join("before.db");
    scene.ledger(&["backup", path(&before)]);
    let franking = scene.stage.home.start();
    scene.cap.set(scene.cap.get() + 1);
    scene.stage.account(&format!("cap: {{credits: {}}}", scene.cap.get()));
    eventually("the raised cap", DEADLINE, || {
        (scene.stage.account_field(".status.credits.remaining") == "1").then_some(())
    });
    scene.sends(1);
    scene.used_up();
    assert_eq!(franking.stop(), 0);
    scene.put(&before);
    let franking = scene.stage.home.start();
    let name = scene.is_held("is older than", None);
    scene.is_accepted_by(&name);
    assert_eq!(franking.stop(), 0);

    // Another installation's.
    scene.put(&scene.foreign());
    let franking = scene.stage.home.start();
    let name = scene.is_held("belongs to another installation", None);
    scene.is_accepted_by(&name);
    assert_eq!(franking.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_replaced_while_we_run_is_held_until_it_is_accepted() {
    let (scene, saved) = Scene::set().await;
    let franking = scene.stage.home.start();

    let mut session = scene.session();
    scene.put(&saved);
    let name = scene.is_held("was put in place of the known one", Some(&mut session));
    scene.is_accepted_by(&name);

    let mut session = scene.session();
    scene.put(&scene.foreign());
    let name = scene.is_held("belongs to another installation", Some(&mut session));
    scene.is_accepted_by(&name);

    let mut session = scene.session();
    scene.lose();
    let name = scene.is_held("is empty", Some(&mut session));
    scene.is_accepted_by(&name);
    assert_eq!(franking.stop(), 0, "{}", scene.stage.home.log());
    assert!(!scene.stage.home.log().contains(&scene.credentials.password), "a password is in the log");
}

/// What was taken away and put back is the ledger that we know: it goes on without a word.
#[tokio::test(flavor = "multi_thread")]
async fn the_right_ledger_that_is_back_needs_no_acceptance() {
    let (scene, _) = Scene::set().await;
    let folder = scene.stage.home.folder();
    let away = folder.join("away");
    fs::create_dir(&away).expect("made");
    Scene::carry(folder, &away);
    let franking = scene.stage.home.start();
    scene.is_held("is empty", None);
    assert_eq!(franking.stop(), 0);
    scene.lose();
    Scene::carry(&away, folder);
    let franking = scene.stage.home.start();
    eventually("the password to work", DEADLINE, || log_in(&scene.credentials).starts_with("235").then_some(()));
    scene.stage.wait_ready();
    assert_eq!(scene.reason(), "Ready");
    scene.used_up();
    assert_eq!(franking.stop(), 0);
}

/// The chart's roles for tenants, bound to a user in the namespace of the account.
const TENANT: &str = "--as=tenant";

impl Scene {
    fn admit_tenant(&self) {
        let file = ["--show-only", "templates/rbac-people.yaml", "--set", "fullnameOverride=franking"];
        self.stage.apply(&chart::render(SYSTEM, &file));
        for role in ["franking-tenant-edit", "franking-self-service"] {
            let role = format!("--clusterrole={role}");
            self.stage.kubectl(&["create", "rolebinding", &role[14..], &role, "--user=tenant", "-n", "team"]);
        }
    }

    fn as_tenant(&self, arguments: &[&str]) -> std::process::Output {
        self.stage.plane.kubectl(&[arguments, &["-n", "team", TENANT]].concat())
    }

    /// Deletes the key and the account, with every word that a tenant may say.
    fn delete_as_tenant(&self) {
        for object in ["subaccountapikey/website", "subaccount/shop"] {
            succeeded(self.as_tenant(&["annotate", object, "--overwrite", "franking.io/force-delete=true"]));
            succeeded(self.as_tenant(&["delete", object, "--wait=false"]));
        }
    }

    fn stands(&self, object: &str) -> bool {
        self.as_tenant(&["get", object]).status.success()
    }

    /// Makes both again, each as soon as its name is free.
    fn make_again_as_tenant(&self) {
        let manifests = [
            (
                "subaccount/shop",
                "SubAccount, metadata: {name: shop}, spec: {policyRef: {name: plan}, cap: {credits: 4}}",
            ),
            (
                "subaccountapikey/website",
                "SubAccountApiKey, metadata: {name: website}, spec: {subAccountRef: {name: shop}, \
                 secret: {name: website}, cap: {credits: 4}}",
            ),
        ];
        for (object, manifest) in manifests {
            eventually("the deletion to be done", DEADLINE, || (!self.stands(object)).then_some(()));
            let manifest = format!("{{apiVersion: franking.io/v1alpha1, kind: {manifest}}}");
            succeeded(self.stage.plane.kubectl_stdin(&["create", "-f", "-", "-n", "team", TENANT], &manifest));
        }
    }
}

/// Whoever deletes and makes again while the ledger is held finds what was used: the deletion waits, and what statuses
/// showed is in the ledger before anything leaves.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refilled_by_deleting_and_making_again_while_the_ledger_is_held() {
    let (mut scene, _) = Scene::set().await;
    scene.admit_tenant();
    let franking = scene.stage.home.start();
    scene.stage.key("website", "label: Website, cap: {credits: 4}");
    scene.stage.wait_ready();
    let mut session = scene.session();
    scene.lose();
    let name = scene.is_held("is empty", Some(&mut session));
    scene.delete_as_tenant();
    // A restart of the operator is no way out either: it has passed them all when it says so of each.
    assert_eq!(franking.stop(), 0);
    let franking = scene.stage.home.start();
    scene.is_held("is empty", None);
    for object in ["subaccountapikey/website", "subaccount/shop"] {
        assert!(scene.stands(object), "{object} left while the ledger was held");
    }
    scene.annotate(&name);
    scene.make_again_as_tenant();
    scene.stage.wait_ready();
    scene.credentials = scene.stage.credentials("website");
    eventually("the new password to work", DEADLINE, || log_in(&scene.credentials).starts_with("235").then_some(()));
    let reply = send(&mut scene.session(), "one too many");
    assert!(reply.starts_with("452 4.7.1") && reply.contains("key's cap of 4 has 0 left"), "{reply}");
    eventually("the account's used credits on status", DEADLINE, || {
        (scene.stage.account_field(".status.credits.used") == "4").then_some(())
    });
    let key_used = || {
        scene.stage.kubectl(&["get", "subaccountapikey/website", "-n", "team", "-o", "jsonpath={.status.credits.used}"])
    };
    eventually("the key's used credits on status", DEADLINE, || (key_used() == "4").then_some(()));
    // The account's cap is raised: the key's is still used up.
    scene.cap.set(6);
    scene.stage.account("cap: {credits: 6}");
    eventually("the raised cap", DEADLINE, || {
        (scene.stage.account_field(".status.credits.remaining") == "2").then_some(())
    });
    let reply = send(&mut scene.session(), "one too many");
    assert!(reply.starts_with("452 4.7.1") && reply.contains("key"), "{reply}");
    scene.stage.key("website", "cap: {credits: 6}");
    eventually("the raised cap of the key", DEADLINE, || {
        send(&mut scene.session(), "more").starts_with("250").then_some(())
    });
    scene.sends(1);
    assert_eq!(scene.stage.sink.messages().len(), 6, "four before, two after");
    assert_eq!(franking.stop(), 0);
    let (balanced, said) = scene.stage.home.check();
    assert!(balanced, "{said}");
}
