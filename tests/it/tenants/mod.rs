//! Tenants as attackers, with the rights that the chart's roles give them: impersonated users on a real API server, the
//! chart's admission policies, the real operator and relay, and a sink for an upstream.

mod adoption;
mod existing;
mod prepaid;
mod random;
mod reading;
mod senders;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::story::Stage;
use crate::support::chart::render;
use crate::support::control_plane::{ControlPlane, succeeded};
use crate::support::franking::eventually;
use crate::support::mail::{Credentials, Session};

pub use crate::story::SYSTEM;

/// The API server takes up an admission policy and its binding within a second or so.
const TAKEN_UP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// The namespace in which it is seen that the admission policies are in force.
const PROBES: &str = "probes";

/// Franking installed as the chart does it, with its roles and admission policies.
pub struct Cluster {
    pub stage: Stage,
}

/// A user of the API server.
#[derive(Clone, Debug)]
pub struct User {
    name: String,
    groups: Vec<String>,
}

impl User {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), groups: Vec::new() }
    }

    pub fn in_groups(name: &str, groups: &[&str]) -> Self {
        Self { name: name.to_owned(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
    }

    fn flags(&self) -> Vec<String> {
        let groups = self.groups.iter().map(|group| format!("--as-group={group}"));
        let everybody = "--as-group=system:authenticated".to_owned();
        [format!("--as={}", self.name), everybody].into_iter().chain(groups).collect()
    }
}

/// The objects of the chart that say who may do what, under the names that the examples know. The operator's service
/// account has the name of its namespace.
fn rules(system: &str) -> String {
    let operator = format!("serviceAccount.name={system}");
    let [people, admission] = ["templates/rbac-people.yaml", "templates/admission.yaml"];
    render(system, &["--set", &operator, "--show-only", people, "--show-only", admission])
}

/// Applies these rules, and waits until they are in force.
pub fn admit(plane: &ControlPlane, system: &str) {
    let probes = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {PROBES}}}}}");
    let probe = User::new("probe");
    let metadata = json!({"name": "probe", "namespace": PROBES});
    let writing = binding("RoleBinding", &metadata, "franking-self-service", &probe).to_string();
    let keeper = User::new("keeper");
    let metadata = json!({"name": "keeper", "namespace": PROBES});
    let keeping = binding("RoleBinding", &metadata, "franking-account-admin", &keeper).to_string();
    for manifest in [rules(system), probes, writing, keeping] {
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        succeeded(plane.kubectl_stdin(&apply, &manifest));
    }
    wait_until_admission_guards(plane, &probe, &keeper);
}

/// Waits until each admission policy refuses what it is there to refuse. The keeper administers no account.
fn wait_until_admission_guards(plane: &ControlPlane, probe: &User, keeper: &User) {
    let account = resource("SubAccount", PROBES, "probe", &json!({"policyRef": {"name": "none"}}));
    let key = json!({"subAccountRef": {"name": "probe"}, "secret": {"adopt": true}});
    let key = resource("SubAccountApiKey", PROBES, "probe", &key);
    let mut forced = resource("SubAccountApiKey", PROBES, "probe", &json!({"subAccountRef": {"name": "probe"}}));
    let plain = forced.clone();
    forced["metadata"]["annotations"] = json!({"franking.io/force-delete": "true"});
    for (user, refused, words) in
        [(probe, account, ""), (probe, key, ""), (probe, forced, ""), (keeper, plain, "on subaccounts/keys")]
    {
        eventually("admission to guard all that it is there for", TAKEN_UP, || {
            let answer = run_as(plane, user, &["create", "--dry-run=server", "-f", "-"], &refused.to_string());
            answer.is_err_and(|said| said.contains(words)).then_some(())
        });
    }
}

/// Runs kubectl as this user; the complaint where it fails.
fn run_as(plane: &ControlPlane, user: &User, arguments: &[&str], input: &str) -> Result<String, String> {
    let flags = user.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let output = plane.kubectl_stdin(&[arguments, &flags].concat(), input);
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Gives a user a ClusterRole.
pub fn binding(kind: &str, metadata: &Value, role: &str, user: &User) -> Value {
    let api = "rbac.authorization.k8s.io";
    json!({
        "apiVersion": format!("{api}/v1"), "kind": kind, "metadata": metadata,
        "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": api, "kind": "User", "name": user.name}],
    })
}

impl Cluster {
    /// Everything but the running program.
    pub async fn install() -> Self {
        let cluster = Self { stage: Stage::set().await };
        admit(&cluster.stage.plane, SYSTEM);
        cluster
    }

    /// Runs kubectl as this user; the complaint where it fails.
    pub fn run(&self, user: &User, arguments: &[&str], input: &str) -> Result<String, String> {
        run_as(&self.stage.plane, user, arguments, input)
    }

    /// Applies an object as this user.
    pub fn apply(&self, user: &User, object: &Value) -> Result<String, String> {
        self.run(user, &["apply", "--server-side", "-f", "-"], &object.to_string())
    }

    /// Gives a user a ClusterRole in a namespace.
    pub fn bind(&self, namespace: &str, role: &str, user: &User) {
        let metadata = json!({"name": format!("{role}-{}", user.name), "namespace": namespace});
        self.stage.apply(&binding("RoleBinding", &metadata, role, user).to_string());
    }

    /// An object as it stands, read by the administrator.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let output = self.stage.plane.kubectl(&["get", kind, name, "-n", namespace, "-o", "json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// Waits until the object says this, and returns the sentence.
    pub fn says(&self, kind: &str, namespace: &str, name: &str, condition: &str, reason: &str) -> String {
        let found = || {
            let standing = self.get(kind, namespace, name)?;
            let conditions = standing["status"]["conditions"].as_array()?;
            let found = conditions.iter().find(|found| {
                found["type"] == condition
                    && found["reason"] == reason
                    && found["observedGeneration"] == standing["metadata"]["generation"]
            })?;
            Some(found["message"].as_str()?.to_owned())
        };
        let until = Instant::now() + TAKEN_UP;
        loop {
            if let Some(sentence) = found() {
                return sentence;
            }
            let standing = self.get(kind, namespace, name).unwrap_or_default();
            assert!(Instant::now() < until, "waited for {condition}: {reason}; there is {standing:#}");
            std::thread::park_timeout(POLL);
        }
    }

    /// The login that a Secret of ours holds, once it is there.
    pub fn credentials(&self, namespace: &str, secret: &str) -> Credentials {
        eventually(&format!("the Secret {namespace}/{secret}"), TAKEN_UP, || {
            let secret: Secret = serde_json::from_value(self.get("secret", namespace, secret)?).expect("a Secret");
            Credentials::from_secret(&secret).ok()
        })
    }

    /// Logs in and sends one message; the reply to the login where that is refused, else the last reply.
    pub fn send(&self, credentials: &Credentials, from: &str) -> String {
        let (mut session, reply) = Session::open_quietly(credentials).expect("an answer");
        match reply.starts_with("235") {
            true => session.send(from, "reader@example.net", "attack").expect("an answer"),
            false => reply,
        }
    }

    pub fn applied_as_admin(&self, arguments: &[&str]) {
        succeeded(self.stage.plane.kubectl(&[&["apply", "--server-side"], arguments].concat()));
    }
}

/// One of our kinds.
pub fn resource(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "franking.io/v1alpha1", "kind": kind,
           "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

#[track_caller]
pub fn refused(answer: Result<String, String>, words: &[&str]) {
    let said = answer.expect_err("it is refused");
    assert!(said.contains("forbidden") || said.contains("Forbidden"), "{said}");
    for words in words {
        assert!(said.contains(words), "{said}");
    }
}
