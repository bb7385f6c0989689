//! `examples/pod/`: its Jobs on a real API server, whose pods are then run here as a kubelet would, against a real relay.
//!
//! A container's mounts become folders, and what its arguments, its variables and its files say of a mount path names the
//! folder instead: nothing else of a manifest is changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::examples::folder;
use crate::story::Stage;
use crate::support::chart::{object, objects, utf8};
use crate::support::control_plane::succeeded;
use crate::support::franking::{DEADLINE, eventually};

/// A program that takes so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives the stage the plan of `examples/sink/`, with the stage's own sink for its upstream.
pub fn apply_plan(stage: &Stage) {
    let text = std::fs::read_to_string(folder().join("sink/2-plan.yaml")).expect("the example");
    let mut policy = object(&objects(&text), "CreditPolicy", "try").clone();
    policy["spec"]["upstream"]["host"] = "127.0.0.1".into();
    policy["spec"]["upstream"]["port"] = stage.sink.address().port().into();
    stage.apply(&policy.to_string());
}

/// Applies a file or a folder of the examples as a user does.
pub fn apply_example(stage: &Stage, path: &str) {
    let path = utf8(&folder().join(path));
    stage.kubectl(&["apply", "--server-side", "--validate=strict", "--filename", &path]);
}

/// The first container of a pod, as far as a process needs it.
pub struct Container {
    pub command: Vec<String>,
    pub variables: BTreeMap<String, String>,
    /// The folder that stands for `/`.
    root: PathBuf,
    /// Mount paths, the longest first.
    mounts: Vec<String>,
}

impl Container {
    /// Mounts the Secrets and ConfigMaps that a pod's `spec` names below `under`.
    pub fn of(stage: &Stage, namespace: &str, spec: &Value, under: &Path) -> Self {
        let content = |kind: &str, name: &str| {
            let json = stage.kubectl(&["get", kind, name, "--namespace", namespace, "--output", "json"]);
            let object: Value = serde_json::from_str(&json).expect("JSON");
            let text = |value: &Value| match (value.as_str().expect("text"), kind) {
                (coded, "secret") => String::from_utf8(BASE64.decode(coded).expect("base64")).expect("text"),
                (plain, _) => plain.to_owned(),
            };
            let data = object["data"].as_object().expect("data");
            data.iter().map(|(key, value)| (key.clone(), text(value))).collect::<BTreeMap<_, _>>()
        };
        let container = &spec["containers"][0];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let name_of = |value: &Value| value.as_str().expect("a name").to_owned();

        let mut volumes = BTreeMap::new();
        for volume in list(&spec["volumes"]) {
            let files = match (volume["secret"]["secretName"].as_str(), volume["configMap"]["name"].as_str()) {
                (Some(secret), _) => content("secret", secret),
                (_, Some(map)) => content("configmap", map),
                _ => continue,
            };
            volumes.insert(name_of(&volume["name"]), files);
        }
        let mut mounts: Vec<String> =
            list(&container["volumeMounts"]).iter().map(|mount| name_of(&mount["mountPath"])).collect();
        mounts.sort_by_key(|path| std::cmp::Reverse(path.len()));
        let mut found = Self { command: vec![], variables: BTreeMap::new(), root: under.to_owned(), mounts };

        for mount in list(&container["volumeMounts"]) {
            let Some(files) = volumes.get(&name_of(&mount["name"])) else { continue };
            let place = found.path(&name_of(&mount["mountPath"]));
            for (name, text) in files {
                let place = match mount["subPath"].as_str() {
                    Some(file) if file == name => place.clone(),
                    Some(_) => continue,
                    None => place.join(name),
                };
                std::fs::create_dir_all(place.parent().expect("a folder")).expect("our own folder");
                std::fs::write(place, found.translated(text)).expect("our own folder");
            }
        }
        let words = [list(&container["command"]), list(&container["args"])].concat();
        found.command = words.iter().map(|word| found.translated(word.as_str().expect("text"))).collect();
        for source in list(&container["envFrom"]) {
            for (key, text) in content("secret", source["secretRef"]["name"].as_str().expect("a Secret")) {
                found.variables.insert(key, found.translated(&text));
            }
        }
        for variable in list(&container["env"]) {
            let reference = &variable["valueFrom"]["secretKeyRef"];
            let text = match reference["name"].as_str() {
                Some(secret) => content("secret", secret)[reference["key"].as_str().expect("a key")].clone(),
                None => name_of(&variable["value"]),
            };
            found.variables.insert(name_of(&variable["name"]), found.translated(&text));
        }
        found
    }

    /// The text with the folders that are here for the mount paths, or for one above them.
    fn translated(&self, text: &str) -> String {
        if text.starts_with('/') && self.mounts.iter().any(|path| Path::new(path).starts_with(text)) {
            return utf8(&self.root.join(text.trim_start_matches('/')));
        }
        let here = |path: &str| utf8(&self.root.join(path.trim_start_matches('/')));
        self.mounts.iter().fold(text.to_owned(), |text, path| text.replace(path, &here(path)))
    }

    /// The place of a path of the container.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(self.translated(path))
    }

    /// Runs a program with the container's variables and these besides: whether it ended well, and what it printed.
    pub async fn run(&self, words: &[String], more: &[(&str, &str)]) -> (bool, String) {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(&self.variables).envs(more.iter().copied()).kill_on_drop(true);
        command.env("PATH", std::env::var_os("PATH").expect("a PATH"));
        let ended = timeout(PATIENCE, command.output()).await.unwrap_or_else(|_| panic!("{words:?} hangs"));
        let output = ended.unwrap_or_else(|error| panic!("{}: {error}; make prerequisites installs it", words[0]));
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

/// A Job, the subject of its mail, and whether it reads the Secret as files.
const JOBS: [(&str, &str); 2] = [("from-files", "From files"), ("from-variables", "From variables")];

#[tokio::test(flavor = "multi_thread")]
async fn both_jobs_send_through_a_relay_and_all_of_the_example_goes_away() {
    let stage = Stage::set().await;
    let franking = stage.home.start();
    apply_plan(&stage);
    apply_example(&stage, "pod");
    stage.wait_ready();

    for (sent, (job, subject)) in (1..).zip(JOBS) {
        // The namespace is restricted, and pods are what Pod Security refuses.
        let selector = format!("job-name={job}");
        let pod = eventually("the Job's pod", DEADLINE, || {
            let get = ["get", "pods", "--namespace", "mailer", "--selector", &selector, "--output", "json"];
            let pods: Value = serde_json::from_str(&stage.kubectl(&get)).expect("JSON");
            pods["items"].get(0).cloned()
        });
        assert_eq!(pod["spec"]["containers"][0]["image"], "python:3-alpine");
        let place = tempfile::tempdir().expect("a folder");
        let container = Container::of(&stage, "mailer", &pod["spec"], place.path());
        let (well, said) = container.run(&container.command, &[]).await;
        assert!(well, "{job}: {said}\n{}", stage.home.log());
        let received = stage.sink.wait_for(sent, DEADLINE).await.pop().expect("a message");
        assert_eq!(
            (received.from.as_str(), &received.to[..]),
            ("mailer@example.com", &["reader@example.net".to_owned()][..])
        );
        let body = String::from_utf8_lossy(&received.body).into_owned();
        assert!(body.contains(&format!("Subject: {subject}\r\n")) && body.contains("Hello!"), "{body}");
        // Another CA in the Secret's place: the program must not send.
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate").cert.pem();
        let mut distrustful = container;
        let file = place.path().join("bindings/smtp/certificates");
        if file.exists() {
            std::fs::write(file, &other).expect("our own folder");
        }
        distrustful.variables.insert("SMTP_CA".to_owned(), other);
        let (well, said) = distrustful.run(&distrustful.command, &[]).await;
        assert!(!well && said.contains("CERTIFICATE_VERIFY_FAILED"), "{job}: {said}");
    }
    let used = ["get", "subaccount", "mailer", "--namespace", "mailer", "--output", "jsonpath={.status.credits.used}"];
    eventually("both credits on status", DEADLINE, || (stage.kubectl(&used) == "2").then_some(()));

    removed(&stage, "pod", "mailer");
    assert_eq!(franking.stop(), 0, "{}", stage.home.log());
}

/// The folder's objects are deleted as its README says, and nothing of them is left in the namespace.
pub fn removed(stage: &Stage, path: &str, namespace: &str) {
    let path = utf8(&folder().join(path));
    succeeded(stage.plane.kubectl(&["delete", "--ignore-not-found", "--filename", &path, "--timeout=120s"]));
    let left = stage.kubectl(&["get", "namespaces", "--output", "name"]);
    assert!(!left.lines().any(|line| line == format!("namespace/{namespace}")), "{left}");
}
