//! The pod of the chart, container by container: each is started as the process that its args, environment and mounts say,
//! over the same folders. The relay is given no identity at all, because its container has none.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::support::chart::{object, objects, render, utf8};
use crate::support::control_plane::{ControlPlane, Options, succeeded};
use crate::support::franking::{DEADLINE, eventually, free_port, get};
use crate::support::mail::{Credentials, Session};
use crate::support::sink::{Sink, SinkOptions};
use crate::support::{definitions, identity};

const NAMESPACE: &str = "franking-system";

/// The pod's volumes as folders, and what its texts name as what exists here.
struct Pod {
    objects: Vec<Value>,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    /// What a text of the pod says, and what stands for it here: addresses with fixed ports, mount paths.
    instead: Vec<(String, String)>,
}

impl Pod {
    fn new(manifests: &str, kubeconfig: PathBuf) -> Self {
        let mut pod = Self {
            objects: objects(manifests),
            folder: tempfile::tempdir().expect("a temporary folder"),
            kubeconfig,
            instead: vec![],
        };
        for role in ["prepare", "operator", "relay"] {
            for mount in pod.container(role)["volumeMounts"].as_array().expect("mounts").clone() {
                let (name, path) =
                    (mount["name"].as_str().expect("a name"), mount["mountPath"].as_str().expect("a path"));
                pod.instead.push((path.to_owned(), utf8(&pod.folder.path().join(name))));
            }
        }
        // The longest first: no path of the pod may be replaced in the middle of another.
        pod.instead.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        pod.instead.dedup();
        for port in ["4465", "4525", "4587", "9081", "9082", "9090", "9091", "9092"] {
            pod.instead.push((format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", free_port())));
        }
        pod.fill_volumes();
        pod
    }

    fn spec(&self) -> &Value {
        &object(&self.objects, "StatefulSet", "franking")["spec"]["template"]["spec"]
    }

    fn container(&self, role: &str) -> &Value {
        let all =
            ["initContainers", "containers"].into_iter().flat_map(|part| self.spec()[part].as_array().expect(part));
        all.into_iter().find(|container| container["name"] == role).expect(role)
    }

    /// In two steps, because what stands for a path may have another path of the pod in it: `/tmp` is one.
    fn translate(&self, text: &str) -> String {
        let marked = self
            .instead
            .iter()
            .enumerate()
            .fold(text.to_owned(), |text, (index, (there, _))| text.replace(there, &format!("\0{index}\0")));
        self.instead
            .iter()
            .enumerate()
            .fold(marked, |text, (index, (_, here))| text.replace(&format!("\0{index}\0"), here))
    }

    fn fill_volumes(&self) {
        let claims = [serde_json::json!({"name": "ledger"})];
        for volume in self.spec()["volumes"].as_array().expect("volumes").iter().chain(&claims) {
            let folder = self.folder.path().join(volume["name"].as_str().expect("a name"));
            std::fs::create_dir_all(&folder).expect("a temporary folder");
            if let Some(map) = volume["configMap"]["name"].as_str() {
                let files = object(&self.objects, "ConfigMap", map)["data"].as_object().expect("files");
                for (name, text) in files {
                    let text = self.translate(text.as_str().expect("text"));
                    std::fs::write(folder.join(name), text).expect("a temporary folder");
                }
            }
        }
    }

    /// The container's process. It sees the API server only where the container mounts a token.
    fn start(&self, role: &str) -> Process {
        let container = self.container(role);
        let mut command = Command::new(env!("CARGO_BIN_EXE_franking"));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        for argument in container["args"].as_array().expect("args") {
            command.arg(self.translate(argument.as_str().expect("text")));
        }
        for variable in container["env"].as_array().expect("env") {
            let text = |key: &str| variable[key].as_str().expect("text");
            command.env(text("name"), self.translate(text("value")));
        }
        if container["volumeMounts"].as_array().expect("mounts").iter().any(|mount| mount["name"] == "token") {
            command.env("KUBECONFIG", &self.kubeconfig);
        }
        let log = self.folder.path().join(format!("{role}.log"));
        let file = std::fs::File::create(&log).expect("a temporary folder");
        Process { child: command.stderr(file).spawn().expect("the binary starts"), log }
    }

    /// Waits until the process says that it is ready where its probe asks.
    fn wait_ready(&self, role: &str, probe: &str, process: &mut Process) {
        let container = self.container(role);
        let asked = &container[probe]["httpGet"];
        let port = container["ports"].as_array().expect("ports").iter().find(|port| port["name"] == asked["port"]);
        let port = port.expect("the probe names a port")["containerPort"].as_u64().expect("a number");
        let address = self.translate(&format!("127.0.0.1:{port}")).parse().expect("an address");
        let path = asked["path"].as_str().expect("a path");
        eventually(&format!("{role} to be ready"), DEADLINE, || {
            assert!(process.child.try_wait().expect("our own child").is_none(), "{role} ended:\n{}", process.said());
            (get(address, path)?.0 == 200).then_some(())
        });
    }
}

struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn code(&mut self, within: Duration) -> Option<i32> {
        eventually("the process to end", within, || self.child.try_wait().expect("our own child")).code()
    }

    fn stop(&mut self) -> Option<i32> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(asked.expect("kill is there").success());
        self.code(DEADLINE)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn value(path: &Path, key: &str) -> Value {
    let text = std::fs::read_to_string(path).expect("it was written");
    serde_yaml::from_str::<Value>(&text).expect("YAML")[key].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_of_the_pod_make_a_franking_together() {
    let plane = ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
    definitions::install(&plane.admin_client().await).await;
    let (kubeconfig, _) = identity::operator(&plane, NAMESPACE).await;
    let sink = Sink::start(SinkOptions::default()).await;
    let settings = ["--set", "bindAddress=127.0.0.1", "--set", "relay.hostname=localhost"];
    let pod = Pod::new(&render(NAMESPACE, &settings), kubeconfig);

    let mut prepare = pod.start("prepare");
    assert_eq!(prepare.code(DEADLINE), Some(0), "{}", prepare.said());
    let relay_yaml = pod.folder.path().join("run/relay.yaml");
    assert_eq!(value(&relay_yaml, "hostname"), "localhost");
    let (mut operator, mut relay) = (pod.start("operator"), pod.start("relay"));
    pod.wait_ready("operator", "startupProbe", &mut operator);
    pod.wait_ready("relay", "readinessProbe", &mut relay);

    let manifests = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: team}}}}\n---\n\
         {{apiVersion: franking.io/v1alpha1, kind: CreditPolicy, metadata: {{name: plan}}, spec: {{\
         senders: {{domains: [example.com]}}, upstream: {{host: 127.0.0.1, port: {}, tls: None}}}}}}\n---\n\
         {{apiVersion: franking.io/v1alpha1, kind: SubAccount, metadata: {{name: shop, namespace: team}}, \
         spec: {{policyRef: {{name: plan}}}}}}\n---\n\
         {{apiVersion: franking.io/v1alpha1, kind: SubAccountApiKey, metadata: {{name: orders, namespace: team}}, \
         spec: {{subAccountRef: {{name: shop}}}}}}",
        sink.address().port()
    );
    succeeded(plane.kubectl_stdin(&["apply", "--server-side", "-f", "-"], &manifests));
    let ready = ["wait", "--for=condition=Ready", "subaccountapikey/orders", "--namespace", "team", "--timeout=60s"];
    succeeded(plane.kubectl(&ready));
    let secret = succeeded(plane.kubectl(&["get", "secret", "orders", "--namespace", "team", "--output", "json"]));
    let secret: Secret = serde_json::from_str(&secret).expect("a Secret");
    let mut credentials = Credentials::from_secret(&secret).expect("a Secret of ours");
    assert_eq!((credentials.host.as_str(), credentials.port), ("localhost", 465), "what the Service offers");

    // There is no Service here; its port 465 leads to this one.
    let container = pod.translate("127.0.0.1:4465");
    credentials.port = container.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address");
    let (mut session, reply) = Session::open_quietly(&credentials).expect("a connection");
    assert!(reply.starts_with("235"), "{reply}\n{}", relay.said());
    let reply = session.send("orders@example.com", "reader@example.net", "Order 1").expect("an answer");
    assert!(reply.starts_with("250"), "{reply}\n{}", relay.said());
    assert_eq!(sink.messages().len(), 1);

    // A change of the relay's settings is followed by running processes, as the chart says by not making a new pod.
    let relay_settings = pod.folder.path().join("relay-settings/relay-settings.yaml");
    let text = std::fs::read_to_string(&relay_settings).expect("it is mounted");
    std::fs::write(&relay_settings, text + "\nlimits: {recipients: 7}\n").expect("the folder is ours");
    eventually("relay.yaml to follow", DEADLINE, || (value(&relay_yaml, "limits")["recipients"] == 7).then_some(()));
    session.quit().expect("a goodbye");
    assert_eq!(relay.stop(), Some(0), "{}", relay.said());
    assert_eq!(operator.stop(), Some(0), "{}", operator.said());
}
