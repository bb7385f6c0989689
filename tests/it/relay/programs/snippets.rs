//! The lines that `docs/sending.md` gives for pods: run as they stand there, with a folder as a mounted Secret has it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Attempt, Way, run};
use crate::relay::scene::{SOON, Scene};

const FROM: &str = "news@example.com";
const TO: &str = "reader@example.net";

/// The block of code under the line of the page that begins so.
fn lines_of_the_page(beginning: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sending.md");
    let page = std::fs::read_to_string(page).expect("docs/sending.md");
    let below = page.lines().skip_while(|line| !line.starts_with(beginning)).skip(2);
    let lines: Vec<&str> = below.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(!lines.is_empty(), "docs/sending.md has no lines under {beginning:?}");
    lines.join("\n") + "\n"
}

/// Makes the folder that `SERVICE_BINDING_ROOT` names, with the Secret as the kubelet mounts it: through links.
fn mounted(attempt: &Attempt) -> PathBuf {
    let root = attempt.folder.join("bindings");
    let smtp = root.join("smtp");
    std::fs::create_dir_all(smtp.join("..2026")).expect("our own folder");
    std::os::unix::fs::symlink("..2026", smtp.join("..data")).expect("our own folder");
    let ca = std::fs::read_to_string(&attempt.ca).expect("the certificate");
    let port = attempt.port.to_string();
    let files = [
        ("host", "localhost"),
        ("port", &port),
        ("username", &attempt.username),
        ("password", &attempt.password),
        ("certificates", &ca),
    ];
    for (name, content) in files {
        std::fs::write(smtp.join("..2026").join(name), content).expect("our own folder");
        std::os::unix::fs::symlink(Path::new("..data").join(name), smtp.join(name)).expect("our own folder");
    }
    root
}

/// A mail goes through, and with another CA none does.
async fn sends(program: &str, arguments: &[&str], variables: &[(&str, &str)], install: &str) {
    let scene = Scene::new().await;
    let attempt = Attempt::new(&scene, Way::Implicit);
    let root = mounted(&attempt);
    let ca = std::fs::read_to_string(&attempt.ca).expect("the certificate");
    let mut given = vec![format!("SERVICE_BINDING_ROOT={}", root.display())];
    given.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
    let port = attempt.port.to_string();
    let preset = [
        ("SMTP_HOST", "localhost"),
        ("SMTP_PORT", &port),
        ("SMTP_USERNAME", &attempt.username),
        ("SMTP_PASSWORD", &attempt.password),
    ];
    given.extend(preset.map(|(name, value)| format!("{name}={value}")));
    let with_ca = |ca: &str| [given.clone(), vec![format!("SMTP_CA={ca}"), program.to_owned()]].concat();
    let arguments = |ca: &str| [with_ca(ca), arguments.iter().map(|&argument| argument.to_owned()).collect()].concat();

    let heard = run("env", arguments(&ca), "", install).await;
    assert!(heard.accepted, "{program}: {heard}");
    let received = scene.sink.wait_for(1, SOON).await.pop().expect("a message");
    assert_eq!((received.from.as_str(), received.to.as_slice()), (FROM, [TO.to_owned()].as_slice()));
    assert!(String::from_utf8_lossy(&received.body).contains("Hello!"));

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate").cert.pem();
    std::fs::write(root.join("smtp/certificates"), &other).expect("our own folder");
    let heard = run("env", arguments(&other), "", install).await;
    assert!(!heard.accepted, "{program} with a CA that has not signed: {heard}");
    assert_eq!(scene.sink.count(), 1);
}

#[tokio::test]
async fn python_sends_from_mounted_files() {
    sends("python3", &["-c", &lines_of_the_page("Python, from files")], &[], "install the package python3").await;
}

#[tokio::test]
async fn python_sends_from_the_variables_of_the_preset() {
    sends("python3", &["-c", &lines_of_the_page("Python, from the variables")], &[], "install the package python3")
        .await;
}

#[tokio::test]
async fn node_sends_from_mounted_files() {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/node_modules");
    assert!(libraries.is_dir(), "there is no nodemailer below target/clients; install it with `make clients`");
    let libraries = libraries.to_str().expect("a path in UTF-8");
    let lines = lines_of_the_page("Node, with nodemailer");
    sends("node", &["-e", &lines], &[("NODE_PATH", libraries)], "install the package nodejs").await;
}

#[tokio::test]
async fn php_sends_from_mounted_files() {
    let rest = format!(
        "$mail->setFrom(\"{FROM}\");\n$mail->addAddress(\"{TO}\");\n[$mail->Subject, $mail->Body] = [\"A mail\", \"Hello!\"];\n\
         $mail->send();"
    );
    let library = "/usr/share/php/libphp-phpmailer/autoload.php";
    assert!(Path::new(library).exists(), "there is no PHPMailer on this machine; install the package libphp-phpmailer");
    let program = format!("require \"{library}\";\n{}{rest}", lines_of_the_page("PHP, with PHPMailer"));
    sends("php", &["-r", &program], &[], "install the package php-cli").await;
}

#[tokio::test]
async fn go_sends_from_mounted_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = lines_of_the_page("Go, with its standard library");
    // What a program does with each error is its own.
    let checked: String = lines
        .lines()
        .map(|line| if line.contains("err ") { format!("{line}\ncheck(err)\n") } else { format!("{line}\n") })
        .collect();
    let program = format!(
        "package main\nimport (\"crypto/tls\"; \"crypto/x509\"; \"net\"; \"net/smtp\"; \"os\")\n\
         func check(err error) {{ if err != nil {{ panic(err) }} }}\n\
         func main() {{\n{checked}\ncheck(relay.Mail(\"{FROM}\"))\ncheck(relay.Rcpt(\"{TO}\"))\n\
         data, err := relay.Data()\ncheck(err)\n\
         _, err = data.Write([]byte(\"From: {FROM}\\r\\n\\r\\nHello!\\r\\n\"))\ncheck(err)\n\
         check(data.Close())\ncheck(relay.Quit())\n}}\n"
    );
    let (source, built) = (folder.path().join("main.go"), folder.path().join("main"));
    std::fs::write(&source, program).expect("our own folder");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&built).arg(&source).current_dir(folder.path()).env("GOFLAGS", "-mod=mod");
    let output = build.output().expect("there is no go on this machine; install it from https://go.dev/dl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    sends(built.to_str().expect("a path in UTF-8"), &[], &[], "").await;
}
