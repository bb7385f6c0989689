//! The page of the binary's settings: commands and flags from the command line's definition, the settings file from the
//! types that it is read into, with their doc comments.

use clap::{Arg, Command, CommandFactory as _};
use franking::crd::File;
use franking::runtime::cli::Cli;
use franking::runtime::relay_config::Limits;
use serde_json::Value;

use super::markdown::{code, page, table};

const CONFIG: &str = include_str!("../../../src/runtime/config.rs");
const FLEET: &str = include_str!("../../../src/runtime/fleet.rs");
const RELAY_CONFIG: &str = include_str!("../../../src/runtime/relay_config/mod.rs");
const LIMITS: &str = include_str!("../../../src/runtime/relay_config/limits.rs");

/// Sections of the settings file: path, source, the type that it is read into.
const SECTIONS: [(&str, &str, &str); 10] = [
    ("", CONFIG, "struct RawSettings"),
    ("ledger", CONFIG, "enum RawLedger"),
    ("operator", CONFIG, "struct RawOperator"),
    ("relay", FLEET, "struct RawRelay"),
    ("relay.advertise", FLEET, "struct RawAdvertise"),
    ("relay.listeners[]", RELAY_CONFIG, "struct WrittenListener"),
    ("relay.tls", FLEET, "struct RawTls"),
    ("relay.tls.certificates[]", RELAY_CONFIG, "struct CertificateFiles"),
    ("relay.limits", LIMITS, "struct Limits"),
    ("telemetry", CONFIG, "struct RawTelemetry"),
];

pub fn file() -> File {
    let command = Cli::command();
    let mut commands = vec![];
    subcommands(&command, "franking", &mut commands);
    let flags = command.get_arguments().filter(|flag| flag.is_global_set()).map(|flag| {
        let environment = flag.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        [code(&usage(flag)), code(&environment), help(flag)]
    });
    let parts = [
        "Settings of the binary `franking`. The chart writes them from [its values](chart-values.md); you need this page to run \
         the binary by hand."
            .to_owned(),
        format!("## Commands\n\n{}", table(["command", "does"], commands)),
        format!(
            "## Flags\n\nFor every command. A flag wins over its environment variable, and that over the settings file.\n\n{}",
            table(["flag", "environment", "meaning"], flags)
        ),
        format!(
            "## The settings file\n\nYAML, named by `--config`; `franking.yaml` in the chart's pods. An unknown key or an \
             impossible value stops the start with a sentence that names it.\n\n{}",
            table(["setting", "default", "meaning"], settings())
        ),
    ];
    page("settings.md", "Settings", "src/runtime/cli.rs, src/runtime/config.rs and what they name", &parts)
}

/// A row for each subcommand, with its own flags and arguments.
fn subcommands(command: &Command, path: &str, rows: &mut Vec<[String; 2]>) {
    for command in command.get_subcommands() {
        let path = format!("{path} {}", command.get_name());
        if command.get_subcommands().next().is_some() {
            subcommands(command, &path, rows);
            continue;
        }
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        rows.push([code(&path), about]);
        let own = command.get_arguments().filter(|argument| !argument.is_global_set());
        rows.extend(own.map(|argument| [format!("… {}", code(&usage(argument))), help(argument)]));
    }
}

/// Such as `--keep KEEP`, or `FILE`.
fn usage(argument: &Arg) -> String {
    let takes = argument.get_action().takes_values();
    let names = argument.get_value_names().filter(|_| takes).into_iter().flatten().map(|name| name.to_string());
    let flag = argument.get_long().map(|long| format!("--{long}"));
    flag.into_iter().chain(names).collect::<Vec<_>>().join(" ")
}

fn help(argument: &Arg) -> String {
    let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    if !argument.get_action().takes_values() {
        return help;
    }
    let choices: Vec<String> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if !choices.is_empty() {
        help.push_str(&format!(": {}", choices.join(", ")));
    }
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if !defaults.is_empty() {
        help.push_str(&format!(" (default {})", code(&defaults.join(", "))));
    }
    help
}

/// A row for each field of each section. Fields that are sections have none of their own.
fn settings() -> Vec<[String; 3]> {
    let limits = serde_json::to_value(Limits::default()).expect("limits are JSON");
    let mut rows = vec![];
    for (path, source, declaration) in SECTIONS {
        for field in fields(source, declaration) {
            let path = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
            if SECTIONS.iter().any(|(section, ..)| section.trim_end_matches("[]") == path) {
                continue;
            }
            assert!(!field.meaning.is_empty(), "{path}: its field in {declaration} has no doc comment");
            let default = match &limits[&field.name] {
                Value::Number(number) if path.starts_with("relay.limits.") => number.to_string(),
                _ => String::new(),
            };
            rows.push([code(&path), default, field.meaning]);
        }
    }
    rows
}

struct Setting {
    /// As it is written in the file.
    name: String,
    meaning: String,
}

/// The fields of a type, as rustfmt writes them: a line each, with doc comments above.
fn fields(source: &str, declaration: &str) -> Vec<Setting> {
    let found = source.split_once(&format!("{declaration} {{\n")).and_then(|(_, rest)| rest.split_once("\n}\n"));
    let (body, _) = found.unwrap_or_else(|| panic!("there is no {declaration}; settings.rs names another"));
    let (mut fields, mut comment) = (tag(source, declaration, body), vec![]);
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            comment.push(text);
        } else if line.starts_with("#[") {
            continue;
        } else if let Some((name, _)) = line.trim_start_matches("pub ").split_once(": ") {
            fields.push(Setting { name: camel(name), meaning: comment.join(" ") });
            comment.clear();
        } else {
            // A variant, or its end.
            comment.clear();
        }
    }
    assert!(!fields.is_empty(), "{declaration} has no fields");
    fields
}

/// The field that says which variant of an enum it is (serde's `tag`), with the words that it takes.
fn tag(source: &str, declaration: &str, body: &str) -> Vec<Setting> {
    let above = source.split_once(declaration).map_or("", |(above, _)| above);
    let attribute = above.rsplit_once("\n\n").map_or(above, |(_, attributes)| attributes);
    let Some((name, _)) = attribute.split_once("tag = \"").and_then(|(_, rest)| rest.split_once('"')) else {
        return vec![];
    };
    let variants = body.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" {"));
    let words: Vec<String> = variants.map(|variant| code(&variant.to_ascii_lowercase())).collect();
    vec![Setting { name: name.to_owned(), meaning: format!("{}.", words.join(" or ")) }]
}

/// `url_file` → `urlFile`, as serde's `rename_all` does it.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |whole, part| {
        let mut letters = part.chars();
        let head = letters.next().map(|letter| letter.to_ascii_uppercase());
        whole + &head.into_iter().chain(letters).collect::<String>()
    })
}
