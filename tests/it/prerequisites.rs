//! What runs where: the tests' own needs are met or named before anything is built, and the steps of CI have the budgets
//! that the page says.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Of all steps of `.ci/run` together, on two cores of a new machine.
const MINUTES: u32 = 45;
/// Commands that stand for their packages here.
const ALL: [&str; 19] = [
    "cc",
    "c++",
    "make",
    "git",
    "kill",
    "sha256sum",
    "pg_ctlcluster",
    "swaks",
    "curl",
    "msmtp",
    "python3",
    "pip3",
    "ruby",
    "php",
    "node",
    "npm",
    "postconf",
    "saslpasswd2",
    "cargo",
];

/// A machine whose commands are empty programs, but for those in `without`.
fn machine(without: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for command in ALL.iter().chain(&["go"]).filter(|command| !without.contains(command)) {
        program(folder.path(), command, "#!/bin/sh\n");
    }
    folder
}

fn program(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("our own folder");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("our own file");
}

/// An apt-get that notes how it was called, and installs a command of each name in `brings`.
fn apt_get(folder: &Path, brings: &[&str]) {
    let folder_name = folder.display();
    let makes: String = brings
        .iter()
        .map(|name| {
            format!("[ \"$1\" = update ] || {{ : >{folder_name}/{name}; /bin/chmod +x {folder_name}/{name}; }}\n")
        })
        .collect();
    program(folder, "apt-get", &format!("#!/bin/sh\necho \"$*\" >>{folder_name}/calls\n{makes}"));
    // As root it is not asked; as anybody else it does what it is asked.
    program(folder, "sudo", "#!/bin/sh\n[ \"$1\" = -n ] && shift\nexec \"$@\"\n");
    program(folder, "true", "#!/bin/sh\n");
    symlink("/usr/bin/env", folder.join("env")).expect("our own folder");
}

fn run(machine: &Path) -> (Output, String, String) {
    let mut command = Command::new("/bin/bash");
    command.arg(format!("{ROOT}/tests/prerequisites.sh")).env("PATH", machine);
    let output = command.output().expect("bash is there");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    (output, said, complained)
}

#[test]
fn where_all_is_there_nothing_is_asked_of_apt() {
    let machine = machine(&[]);
    apt_get(machine.path(), &[]);
    let (output, said, complained) = run(machine.path());
    assert!(output.status.success(), "{complained}");
    assert_eq!((said.as_str(), complained.as_str()), ("", ""));
    assert!(!machine.path().join("calls").exists());
}

#[test]
fn what_is_missing_is_installed_and_said_first() {
    let machine = machine(&["swaks", "pg_ctlcluster"]);
    apt_get(machine.path(), &["swaks", "pg_ctlcluster"]);
    let (output, said, complained) = run(machine.path());
    assert!(output.status.success(), "{complained}");
    assert!(
        said.contains("not here; installing them") && said.contains("postgresql, swaks, libnet-ssleay-perl"),
        "{said}"
    );
    let calls = std::fs::read_to_string(machine.path().join("calls")).expect("it was called");
    let calls: Vec<&str> = calls.lines().collect();
    assert_eq!(
        calls,
        ["update -qq", "install -y -qq --no-install-recommends postgresql swaks libnet-ssleay-perl"],
        "and nothing else"
    );
}

#[test]
fn where_nothing_can_be_installed_one_sentence_names_all_that_is_missing() {
    let machine = machine(&["swaks", "msmtp", "php"]);
    let (output, _, complained) = run(machine.path());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        complained,
        "the tests need what is not here: Debian's packages swaks, libnet-ssleay-perl, msmtp, php-cli, or what your system \
         calls them (there is no apt-get to install them with)\n"
    );
}

#[test]
fn what_debian_does_not_have_is_named_with_the_rest_before_anything_is_installed() {
    let machine = machine(&["cargo", "go", "curl"]);
    apt_get(machine.path(), &["curl"]);
    let (output, said, complained) = run(machine.path());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(said, "");
    for word in ["cargo (Rust", "go (Go 1.26", "and Debian's packages curl"] {
        assert!(complained.contains(word), "{complained}");
    }
    assert_eq!(complained.lines().count(), 1, "{complained}");
    assert!(!machine.path().join("calls").exists());
}

#[test]
fn make_test_asks_for_them_before_it_builds() {
    let makefile = std::fs::read_to_string(format!("{ROOT}/Makefile")).expect("the Makefile");
    let rule = makefile.lines().find_map(|line| line.strip_prefix("test: ")).expect("a rule for the tests");
    assert!(rule.starts_with("prerequisites "), "{rule}");
    assert!(makefile.contains(".NOTPARALLEL:\n"));
}

#[test]
fn the_steps_of_ci_and_their_budgets_are_those_of_the_page_and_add_up() {
    let script = std::fs::read_to_string(format!("{ROOT}/.ci/run")).expect("the script");
    let steps: Vec<(String, u32)> = script
        .lines()
        .filter_map(|line| line.strip_prefix("step ")?.split_once(' '))
        .map(|(minutes, name)| (name.trim_matches('"').to_owned(), minutes.parse().expect("minutes")))
        .collect();
    let page = std::fs::read_to_string(format!("{ROOT}/docs/CONTRIBUTING.md")).expect("the page");
    let rows = page.lines().skip_while(|line| *line != "| step | budget |").skip(2).map_while(|line| {
        let (name, minutes) = line.strip_prefix("| ")?.strip_suffix(" min |")?.split_once(" | ")?;
        Some((name.to_owned(), minutes.parse().expect("minutes")))
    });
    assert_eq!(rows.collect::<Vec<_>>(), steps);
    assert!(!steps.is_empty() && steps.iter().map(|(_, minutes)| minutes).sum::<u32>() <= MINUTES);
}
