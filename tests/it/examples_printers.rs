//! `examples/printers/from-csv.sh`: a list of devices becomes keys on a real API server and a sheet to type from, with which a
//! device sends; and a list with mistakes becomes nothing but sentences.

use std::path::Path;
use std::process::{Command, Output};

use crate::examples::folder;
use crate::story::{SYSTEM, Stage};
use crate::support::chart::{objects, render, utf8};
use crate::support::control_plane::succeeded;
use crate::support::franking::{DEADLINE, eventually};

const LIST: &str = "\u{feff}name,networks,sender\r\n\
    # The one that stands here.\r\n\
    scanner-here,127.0.0.1,here@scan.example.com\r\n\
    \r\n\
    scanner-there, 10.20.8.12/32 fd00:20::9:12 ,*@scan.example.com\r\n\
    123,10.20.0.0/16,123@scan.example.com\r\n";
/// A device without TLS: login and one mail, in the clear.
const DEVICE: &str = "import smtplib, sys\nhost, port, user, password, sender = sys.argv[1:]\n\
    with smtplib.SMTP(host, int(port)) as relay:\n    relay.login(user, password)\n    \
    relay.sendmail(sender, ['reader@example.net'], f'From: {sender}\\nSubject: A scan\\n\\nHello!')\n";

/// Runs the script on a list, beside a kubectl that means this API server where there is one.
fn script(what: &str, list: &Path, kubeconfig: Option<&Path>, more: &[(&str, &str)]) -> Output {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/current");
    let path = std::env::join_paths([ours, "/usr/bin".into(), "/bin".into()]).expect("a path");
    let mut command = Command::new("sh");
    command.arg(folder().join("printers/from-csv.sh")).arg(what).arg(list).env("PATH", path);
    command.env("KUBECONFIG", kubeconfig.unwrap_or(Path::new("/nowhere"))).envs(more.iter().copied());
    command.output().expect("a shell is there")
}

fn list_of(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().expect("a folder");
    let list = place.path().join("devices.csv");
    std::fs::write(&list, text).expect("our own folder");
    (place, list)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_becomes_keys_and_a_sheet_with_which_a_device_sends() {
    let stage = Stage::set().await;
    let franking = stage.home.start();
    let text = std::fs::read_to_string(folder().join("printers/devices.yaml")).expect("the example");
    for mut object in objects(&text) {
        if object["kind"] == "CreditPolicy" {
            let port = stage.sink.address().port();
            object["spec"]["upstream"] = serde_json::json!({"host": "127.0.0.1", "port": port, "tls": "None"});
        }
        stage.apply(&object.to_string());
    }
    let (_place, list) = list_of(LIST);
    let kubeconfig = Some(stage.plane.admin_kubeconfig());

    // A sheet before there are keys names the first that is missing.
    let early = script("sheet", &list, kubeconfig, &[]);
    assert!(!early.status.success() && early.stdout.is_empty(), "{}", String::from_utf8_lossy(&early.stdout));
    assert!(String::from_utf8_lossy(&early.stderr).contains("scanner-here has no Secret yet"));

    let keys = succeeded(script("keys", &list, None, &[]));
    succeeded(stage.plane.kubectl_stdin(&["apply", "--validate=strict", "--filename", "-"], &keys));
    stage.wait_ready();
    let networks = ["get", "subaccountapikey", "scanner-there", "--namespace", "facilities", "--output"];
    let there = stage.kubectl(&[networks.as_slice(), &["jsonpath={.spec.allowFrom}"]].concat());
    assert_eq!(there, r#"["10.20.8.12/32","fd00:20::9:12"]"#);

    // Host and port are the plain listener's, as the Secrets have them.
    let sheet = succeeded(script("sheet", &list, kubeconfig, &[]));
    let rows: Vec<Vec<&str>> = sheet.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["name", "host", "port", "username", "password", "sender"]);
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["name", "scanner-here", "scanner-there", "123"]);
    for row in &rows[1..] {
        let secret = stage.kubectl(&[
            "get",
            "secret",
            row[0],
            "--namespace",
            "facilities",
            "--output",
            "go-template={{base64decode .data.username}} {{base64decode .data.password}}",
        ]);
        let port = stage.home.plain.port().to_string();
        assert_eq!([row[1], row[2], &secret], ["localhost", &port, &format!("{} {}", row[3], row[4])]);
    }
    let elsewhere = succeeded(script("sheet", &list, kubeconfig, &[("HOST", "192.0.2.10"), ("PORT", "25")]));
    assert!(elsewhere.contains("\nscanner-here,192.0.2.10,25,"), "the variables say nothing");
    let inside = script("sheet", &list, kubeconfig, &[("HOST", "franking-relay.franking-system.svc")]);
    assert!(!inside.status.success() && String::from_utf8_lossy(&inside.stderr).contains("a name inside the cluster"));

    // What is typed from the sheet sends.
    let [host, port, user, password, sender] = [rows[1][1], rows[1][2], rows[1][3], rows[1][4], rows[1][5]];
    let device = |sender: &str| {
        Command::new("python3").args(["-c", DEVICE, host, port, user, password, sender]).output().expect("python3")
    };
    succeeded(device(sender));
    assert_eq!(stage.sink.wait_for(1, DEADLINE).await[0].from, "here@scan.example.com");
    let other = device("there@scan.example.com");
    assert!(!other.status.success() && String::from_utf8_lossy(&other.stderr).contains("550"), "{other:?}");

    // A key that may not use the plain listener any more has no place on the sheet.
    let with_tls = r#"{"spec": {"plainListener": false}}"#;
    stage.kubectl(&["patch", "subaccountapikey", "123", "-n", "facilities", "--type=merge", "-p", with_tls]);
    let sheet = || script("sheet", &list, kubeconfig, &[]);
    eventually("the Secret to lose the plain listener's place", DEADLINE, || {
        String::from_utf8_lossy(&sheet().stderr).contains("the Secret of 123 has no plain-host").then_some(())
    });

    // As many as the page speaks of.
    let many: String = (0..200).map(|n| format!("device-{n},10.20.{n}.1,device-{n}@scan.example.com\n")).collect();
    let (_place, list) = list_of(&many);
    let keys = succeeded(script("keys", &list, None, &[]));
    let apply = ["apply", "--validate=strict", "--dry-run=server", "--filename", "-"];
    assert_eq!(succeeded(stage.plane.kubectl_stdin(&apply, &keys)).lines().count(), 200);
    assert_eq!(franking.stop(), 0, "{}", stage.home.log());
}

/// A line, and what is said of it: the field, and words of the sentence.
const MISTAKES: [(&str, &str, &str); 17] = [
    ("Scanner 1,10.0.0.1,a@scan.example.com", "name", "\"Scanner 1\" is no name"),
    (",10.0.0.1,a@scan.example.com", "name", "is no name"),
    ("-a,10.0.0.1,a@scan.example.com", "name", "is no name"),
    ("good,10.0.0.1,a@scan.example.com", "name", "good stands in line 1 too"),
    ("a,,a@scan.example.com", "networks", "it is empty"),
    ("a,10.0.0.300,a@scan.example.com", "networks", "\"10.0.0.300\" is no address"),
    ("a,10.0.0,a@scan.example.com", "networks", "is no address"),
    ("a,10.0.0.1/24,a@scan.example.com", "networks", "no bits set after the prefix"),
    ("a,10.0.0.0/33,a@scan.example.com", "networks", "is no address"),
    ("a,10.0.0.1 scanner.local,a@scan.example.com", "networks", "\"scanner.local\" is no address"),
    ("a,fd00::/129,a@scan.example.com", "networks", "is no address"),
    ("a,10.0.0.1,scan.example.com", "sender", "is no address"),
    ("a,10.0.0.1,a@localhost", "sender", "is no address"),
    ("a,10.0.0.1,", "sender", "is no address"),
    ("a,10.0.0.1", "sender", "the line has 2 fields"),
    ("a,10.0.0.1,10.0.0.2,a@scan.example.com", "field 4", "the line has 4 fields"),
    ("a,\"10.0.0.1,10.0.0.2\",a@scan.example.com", "quotes", "separated by spaces"),
];

#[test]
fn a_mistake_is_named_by_line_and_field_and_no_key_is_made() {
    for (line, field, words) in MISTAKES {
        let (_place, list) = list_of(&format!("good,10.0.0.1,good@scan.example.com\n\n{line}\n"));
        let output = script("keys", &list, None, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.stdout.is_empty(), "{line}: {said}");
        let expected = format!("{}, line 3, {field}: ", list.display());
        assert!(said.lines().count() == 1 && said.starts_with(&expected) && said.contains(words), "{line}: {said}");
    }
    // All of them at once, and lists of nothing.
    let lines: Vec<&str> = MISTAKES.iter().map(|(line, ..)| *line).collect();
    let (_place, list) = list_of(&format!("good,10.0.0.1,good@scan.example.com\n{}\n", lines.join("\n")));
    let said = String::from_utf8(script("keys", &list, None, &[]).stderr).expect("text");
    assert!(said.lines().count() >= MISTAKES.len(), "{said}");
    for (text, words) in [("", "it has no devices"), ("name,networks,sender\n", "it has no devices")] {
        let (_place, list) = list_of(text);
        let output = script("keys", &list, None, &[]);
        assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains(words), "{text:?}");
    }
    for (what, list) in [("keys", "/no/such/list"), ("words", "/dev/null")] {
        assert!(!script(what, Path::new(list), None, &[]).status.success(), "{what} {list}");
    }
}

#[test]
fn the_list_of_the_example_has_no_mistake() {
    let list = folder().join("printers/devices.csv");
    let keys = objects(&succeeded(script("keys", &list, None, &[])));
    let names: Vec<&str> = keys.iter().filter_map(|key| key["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["scanner-eighth-floor", "scanner-archive", "copiers-second-floor"]);
    assert!(
        keys.iter().all(|key| key["spec"]["plainListener"] == true && key["metadata"]["namespace"] == "facilities")
    );
}

/// With the example's values, the Secrets of devices have the Service's port and the name or address for devices.
#[test]
fn the_chart_tells_the_operator_where_devices_connect_to() {
    let values = utf8(&folder().join("printers/relay-values.yaml"));
    let advertised = |more: &[&str]| {
        let only = ["--show-only", "templates/configmaps.yaml"];
        let rendered = render(SYSTEM, &[only.as_slice(), &["--values", &values], more].concat());
        let settings = objects(&rendered).into_iter().find_map(|map| {
            let text = map["data"]["relay-settings.yaml"].as_str()?.to_owned();
            Some(serde_yaml::from_str::<serde_json::Value>(&text).expect("YAML"))
        });
        settings.expect("the relay's settings")["advertise"].clone()
    };
    let expected = |more: serde_json::Value| {
        let mut all = serde_json::json!({"host": "smtp.example.com", "port": 465});
        all.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        all
    };
    assert_eq!(advertised(&[]), expected(serde_json::json!({"plainPort": 25})));
    let address = ["--set", "relay.plain.hostname=192.0.2.10,relay.plain.port=2500"];
    assert_eq!(advertised(&address), expected(serde_json::json!({"plainPort": 2500, "plainHost": "192.0.2.10"})));
    assert_eq!(advertised(&["--set", "relay.plain.enabled=false"]), expected(serde_json::json!({})));
}
