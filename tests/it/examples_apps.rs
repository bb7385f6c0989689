//! `examples/apps/`: each key's Secret has exactly the names that its program reads, each patch mounts it, and where a program's
//! mail library runs here, it sends with what its container would have.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::examples::folder;
use crate::examples_pod::{Container, apply_example, apply_plan, removed};
use crate::story::Stage;
use crate::support::chart::utf8;
use crate::support::control_plane::succeeded;
use crate::support::franking::DEADLINE;
use crate::support::sink::Received;

const NAMESPACE: &str = "apps";
/// Names in every key's Secret.
const BASE: [&str; 9] =
    ["account-id", "certificates", "host", "password", "port", "provider", "type", "uri", "username"];
/// Names that the preset `env` adds for a key with one sender.
const ENV: [&str; 7] = ["SMTP_CA", "SMTP_FROM", "SMTP_HOST", "SMTP_PASSWORD", "SMTP_PORT", "SMTP_URL", "SMTP_USERNAME"];
/// Each program, whether its key has the preset, and the names of its template.
const PROGRAMS: [(&str, bool, &[&str]); 9] = [
    ("alertmanager", false, &["alertmanager.yml"]),
    ("django", false, &["EMAIL_HOST", "EMAIL_PORT", "EMAIL_HOST_USER", "EMAIL_HOST_PASSWORD", "DEFAULT_FROM_EMAIL"]),
    (
        "ghost",
        false,
        &[
            "mail__transport",
            "mail__from",
            "mail__options__host",
            "mail__options__port",
            "mail__options__secure",
            "mail__options__auth__user",
            "mail__options__auth__pass",
        ],
    ),
    (
        "gitea",
        false,
        &[
            "GITEA__mailer__ENABLED",
            "GITEA__mailer__PROTOCOL",
            "GITEA__mailer__SMTP_ADDR",
            "GITEA__mailer__SMTP_PORT",
            "GITEA__mailer__USER",
            "GITEA__mailer__PASSWD",
            "GITEA__mailer__FROM",
        ],
    ),
    ("gitlab", false, &["GITLAB_OMNIBUS_CONFIG", "relay-ca.crt"]),
    (
        "grafana",
        false,
        &["GF_SMTP_ENABLED", "GF_SMTP_HOST", "GF_SMTP_USER", "GF_SMTP_PASSWORD", "GF_SMTP_FROM_ADDRESS"],
    ),
    ("keycloak", false, &["realm.json"]),
    ("nextcloud", true, &["SMTP_NAME", "SMTP_SECURE", "SMTP_AUTHTYPE", "MAIL_FROM_ADDRESS", "MAIL_DOMAIN"]),
    ("wordpress", true, &[]),
];

/// Django's own mail, with the settings module of the example.
const DJANGO: &str = "import django\ndjango.setup()\nfrom django.core.mail import send_mail\n\
    assert send_mail('A mail', 'Hello!', None, ['reader@example.net']) == 1";
/// WordPress around its PHPMailer: it asks the filters for the sender, then lets the plugins set it up.
const WORDPRESS: &str = r#"
function add_filter($name, $call) { global $hooks; $hooks[$name] = $call; }
function add_action($name, $call) { add_filter($name, $call); }
require '/usr/share/php/libphp-phpmailer/autoload.php';
require $argv[1];
$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->setFrom($hooks['wp_mail_from']('wordpress@localhost'));
$mail->addAddress('reader@example.net');
[$mail->Subject, $mail->Body] = ['A mail', 'Hello!'];
$hooks['phpmailer_init']($mail);
$mail->send();
"#;
/// Ghost's settings from its variables: two underscores go one level down.
const GHOST: &str = r#"
const mail = {};
for (const [name, value] of Object.entries(process.env)) {
  const parts = name.split("__");
  if (parts.shift() !== "mail") continue;
  const last = parts.pop();
  parts.reduce((at, part) => (at[part] ??= {}), mail)[last] = value;
}
require("nodemailer").createTransport(mail.options)
  .sendMail({ from: mail.from, to: "reader@example.net", subject: "A mail", text: "Hello!" });
"#;
/// GitLab's mail goes through net/smtp, with these of its settings.
const GITLAB: &str = r#"
require "net/smtp"
require "openssl"
gitlab_rails = {}
eval(ENV.fetch("GITLAB_OMNIBUS_CONFIG"))
of = ->(name) { gitlab_rails.fetch(name) }
raise "one of them" unless of["smtp_enable"] && of["smtp_tls"] && !of["smtp_enable_starttls_auto"]
context = OpenSSL::SSL::SSLContext.new
context.set_params(ca_file: of["smtp_ca_file"], verify_mode: OpenSSL::SSL::VERIFY_PEER)
server = Net::SMTP.new(of["smtp_address"], of["smtp_port"])
server.enable_tls(context)
login = { user: of["smtp_user_name"], secret: of["smtp_password"], authtype: of["smtp_authentication"].to_sym }
from = of["gitlab_email_from"]
server.start(helo: "client.example", **login) do |session|
  session.send_message("From: #{from}\r\nSubject: A mail\r\n\r\nHello!\r\n", from, "reader@example.net")
end
"#;
/// A program of Go's standard library that trusts and logs in as Grafana does: address, user, password, sender.
const GO: &str = r#"package main
import ("crypto/tls"; "net"; "net/smtp"; "os")
func check(err error) { if err != nil { panic(err) } }
func main() {
    connection, err := tls.Dial("tcp", os.Args[1], nil)
    check(err)
    host, _, err := net.SplitHostPort(os.Args[1])
    check(err)
    relay, err := smtp.NewClient(connection, host)
    check(err)
    check(relay.Auth(smtp.PlainAuth("", os.Args[2], os.Args[3], host)))
    check(relay.Mail(os.Args[4]))
    check(relay.Rcpt("reader@example.net"))
    data, err := relay.Data()
    check(err)
    _, err = data.Write([]byte("From: " + os.Args[4] + "\r\nSubject: A mail\r\n\r\nHello!\r\n"))
    check(err)
    check(data.Close())
    check(relay.Quit())
}
"#;

fn files_below(part: &str) -> BTreeSet<String> {
    let entries =
        std::fs::read_dir(folder().join(part)).expect("the examples can be read").map(|entry| entry.expect("an entry"));
    let stems = entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".yaml")?.to_owned()));
    stems.filter(|stem| stem != "0-account").collect()
}

#[test]
fn each_program_has_a_key_a_patch_and_a_row() {
    let programs: BTreeSet<String> = PROGRAMS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(files_below("apps"), programs);
    assert_eq!(files_below("apps/patches"), programs);
    let page = std::fs::read_to_string(folder().join("apps/README.md")).expect("the page");
    for program in programs {
        assert!(page.contains(&format!("| `{program}` |")), "the README has no row for {program}");
    }
}

/// A Deployment as it was before there was mail, with the example's patch: what its pods have then.
fn patched(stage: &Stage, program: &str, under: &Path) -> Container {
    let labels = json!({"app": program});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": program, "namespace": NAMESPACE},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": program, "image": program}]}}},
    });
    stage.apply(&deployment.to_string());
    let patch = utf8(&folder().join(format!("apps/patches/{program}.yaml")));
    let command =
        ["patch", "deployment", program, "--namespace", NAMESPACE, "--patch-file", &patch, "--output", "json"];
    let deployment: Value = serde_json::from_str(&stage.kubectl(&command)).expect("JSON");
    let spec = &deployment["spec"]["template"]["spec"];
    assert_eq!(spec["containers"].as_array().map(Vec::len), Some(1), "{program}: the patch meant another container");
    Container::of(stage, NAMESPACE, spec, under)
}

fn names(stage: &Stage, program: &str) -> BTreeSet<String> {
    let secret = format!("{program}-smtp");
    let json = stage.kubectl(&["get", "secret", &secret, "--namespace", NAMESPACE, "--output", "json"]);
    let secret: Value = serde_json::from_str(&json).expect("JSON");
    secret["data"].as_object().expect("data").keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_secret_has_the_names_that_its_program_reads_and_the_libraries_send_with_it() {
    let stage = Stage::set().await;
    let franking = stage.home.start();
    apply_plan(&stage);
    apply_example(&stage, "apps");
    stage.wait_ready();

    for (program, preset, template) in PROGRAMS {
        let env = if preset { ENV.as_slice() } else { &[] };
        let expected = BASE.iter().chain(env).chain(template).map(|&name| name.to_owned()).collect();
        assert_eq!(names(&stage, program), expected, "{program}");
    }

    let place = tempfile::tempdir().expect("a folder");
    let go = go_program(place.path());
    let mut sent = 0;
    for (program, ..) in PROGRAMS {
        let under = place.path().join(program);
        let container = patched(&stage, program, &under);
        let Some((words, more)) = mailing(program, &container, &go) else { continue };
        let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (well, said) = container.run(&words, &more).await;
        assert!(well, "{program}: {said}\n{}", stage.home.log());
        sent += 1;
        let received: Received = stage.sink.wait_for(sent, DEADLINE).await.pop().expect("a message");
        assert_eq!(received.from, format!("{program}@example.com"));
        assert!(String::from_utf8_lossy(&received.body).contains("Hello!"), "{program}");

        // With another CA in the Secret none of them sends.
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate").cert.pem();
        std::fs::write(container.path("/bindings/smtp/certificates"), other).expect("our own folder");
        let (well, said) = container.run(&words, &more).await;
        assert!(!well && stage.sink.count() == sent, "{program} with a CA that has not signed: {said}");
    }
    assert_eq!(sent, 7, "programs whose way of sending runs here");

    what_is_only_read(&stage, place.path());
    removed(&stage, "apps", NAMESPACE);
    assert_eq!(franking.stop(), 0, "{}", stage.home.log());
}

/// A command, and variables besides its container's own.
type Mailing = (Vec<String>, Vec<(&'static str, String)>);

/// The command that stands for the program here.
fn mailing(program: &str, container: &Container, go: &str) -> Option<Mailing> {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients");
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let of = |name: &str| container.variables[name].as_str();
    let port = |host: &str, port: &str| format!("{}:{}", of(host), of(port));
    Some(match program {
        "django" => {
            let path = format!("{}:{}", of("PYTHONPATH"), utf8(&clients.join("python")));
            let more = vec![("PYTHONPATH", path), ("DJANGO_SETTINGS_MODULE", "mail_settings".to_owned())];
            (words(&["python3", "-c", DJANGO]), more)
        }
        "ghost" => (words(&["node", "-e", GHOST]), vec![("NODE_PATH", utf8(&clients.join("node_modules")))]),
        "gitea" => {
            let address = port("GITEA__mailer__SMTP_ADDR", "GITEA__mailer__SMTP_PORT");
            (
                words(&[
                    go,
                    &address,
                    of("GITEA__mailer__USER"),
                    of("GITEA__mailer__PASSWD"),
                    of("GITEA__mailer__FROM"),
                ]),
                vec![],
            )
        }
        "gitlab" => (words(&["ruby", "-e", GITLAB]), vec![]),
        "grafana" => {
            let login = [of("GF_SMTP_USER"), of("GF_SMTP_PASSWORD"), of("GF_SMTP_FROM_ADDRESS")];
            (words(&[&[go, of("GF_SMTP_HOST")], login.as_slice()].concat()), vec![])
        }
        "alertmanager" => {
            let file = container.command[0].strip_prefix("--config.file=").expect("its one argument");
            let config: Value =
                serde_yaml::from_str(&std::fs::read_to_string(file).expect("it is mounted")).expect("YAML");
            let of = |name: &str| config["global"][name].as_str().expect("text").to_owned();
            let password = std::fs::read_to_string(of("smtp_auth_password_file")).expect("it is mounted");
            let trust = vec![("SSL_CERT_FILE", utf8(&container.path("/bindings/smtp/certificates")))];
            assert_eq!(config["global"]["smtp_tls_config"]["ca_file"], trust[0].1.as_str());
            (vec![go.to_owned(), of("smtp_smarthost"), of("smtp_auth_username"), password, of("smtp_from")], trust)
        }
        "wordpress" => {
            let plugin = utf8(&container.path("/var/www/html/wp-content/mu-plugins").join("relay.php"));
            (words(&["php", "-r", WORDPRESS, "--", &plugin]), vec![])
        }
        _ => return None,
    })
}

/// Keycloak and Nextcloud do not run here: what they are given is complete and means the relay.
fn what_is_only_read(stage: &Stage, place: &Path) {
    let realm = std::fs::read_to_string(place.join("keycloak/bindings/smtp/realm.json")).expect("it is mounted");
    let realm: Value = serde_json::from_str(&realm).expect("JSON");
    let file =
        |name: &str| std::fs::read_to_string(place.join("keycloak/bindings/smtp").join(name)).expect("it is mounted");
    let expected = json!({"host": "localhost", "port": stage.home.relay.port().to_string(), "ssl": "true",
        "starttls": "false", "auth": "true", "user": file("username"), "password": file("password"),
        "from": "keycloak@example.com"});
    assert_eq!(realm["smtpServer"], expected);

    let config = utf8(&place.join("nextcloud/var/www/html/config/relay.config.php"));
    let print = format!("require '{config}'; echo $CONFIG['mail_smtpstreamoptions']['ssl']['cafile'];");
    let output = Command::new("php").args(["-r", &print]).output().expect("install the package php-cli");
    assert_eq!(succeeded(output), utf8(&place.join("nextcloud/bindings/smtp/certificates")));
}

/// Builds [`GO`], and gives the path of what came of it.
fn go_program(place: &Path) -> String {
    let (source, built) = (place.join("main.go"), place.join("main"));
    std::fs::write(&source, GO).expect("our own folder");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&built).arg(&source).current_dir(place).env("GOFLAGS", "-mod=mod");
    succeeded(build.output().expect("there is no go on this machine; install it from https://go.dev/dl"));
    utf8(&built)
}
