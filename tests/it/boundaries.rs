//! The house rules that a compiler does not check: who may import whom, who owns which crate, what is pure, how long a
//! file may be. It reads the sources as text, with nothing but the standard library.

use std::collections::BTreeSet;

use crate::rust_tokens::{Token, tokens};
use crate::sources::{Source, sources, without_tests};

/// The longest file. Aim at 100–300.
const LINES_MAX: usize = 500;
/// Names that say nothing, so anything ends up in them.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "common", "helper", "helpers", "misc", "stuff", "shared"];

/// Each room with the rooms that it may import.
const ROOMS: [(&str, &[&str]); 8] = [
    ("domain", &[]),
    ("crd", &["domain"]),
    ("ledger", &["domain", "runtime"]),
    ("operator", &["domain", "crd", "ledger", "runtime"]),
    ("upstream", &["domain", "runtime"]),
    ("relay", &["domain", "ledger", "upstream", "runtime"]),
    // Only for the types that a settings file names.
    ("runtime", &["domain"]),
    ("main", &["domain", "crd", "ledger", "operator", "upstream", "relay", "runtime"]),
];

/// Each crate with the rooms that may name it. A crate that is not here is everybody's.
const CRATES: [(&str, &[&str]); 23] = [
    ("schemars", &["crd"]),
    ("kube", &["crd", "operator", "main"]),
    ("k8s_openapi", &["crd", "operator"]),
    ("rusqlite", &["ledger"]),
    ("tokio_postgres", &["ledger"]),
    ("tokio_postgres_rustls", &["ledger"]),
    ("deadpool", &["ledger"]),
    ("lettre", &["upstream"]),
    ("webpki_roots", &["upstream", "ledger"]),
    ("smtp_proto", &["relay"]),
    ("rustls", &["relay", "upstream", "ledger", "main"]),
    ("tokio_rustls", &["relay", "upstream"]),
    ("rcgen", &["operator"]),
    ("x509_parser", &["operator"]),
    ("clap", &["runtime"]),
    ("tracing_subscriber", &["runtime"]),
    ("prometheus", &["runtime"]),
    ("hyper", &["runtime", "upstream"]),
    ("hyper_util", &["runtime", "upstream"]),
    ("http_body_util", &["runtime", "upstream"]),
    ("ring", &["domain", "ledger", "operator", "relay"]),
    ("tokio", &["ledger", "operator", "relay", "upstream", "runtime", "main"]),
    ("axum", &[]),
];

/// Names that only some rooms may use, outside tests: sockets that listen, TLS from the server's side, a client of the
/// Kubernetes API.
const NAMES: [(&str, &[&str]); 8] = [
    ("TcpListener", &["relay", "runtime", "main"]),
    ("UnixListener", &[]),
    ("UdpSocket", &[]),
    ("ServerConfig", &["relay"]),
    ("TlsAcceptor", &["relay"]),
    ("ServerConnection", &["relay"]),
    ("CustomResource", &["crd"]),
    // The ledger's is PostgreSQL's.
    ("Client", &["operator", "ledger", "main"]),
];

/// Folders whose code is a function of its arguments, and what it must not name.
const PURE: [&str; 6] = [
    "src/domain/",
    "src/crd/",
    "src/ledger/rules/",
    "src/operator/plan/",
    "src/relay/smtp/",
    "src/runtime/relay_config/",
];
const IMPURE: [&str; 8] = ["async", "await", "tokio", "Client", "Clock", "Instant", "SystemTime", "TcpStream"];
/// The same for short names that a variable may have too.
const IMPURE_IN_PATHS: [&str; 2] = ["fs", "env"];

#[track_caller]
fn none(violations: Vec<String>) {
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn rooms_import_only_what_the_map_allows() {
    none(sources(&["src"]).iter().flat_map(foreign_imports).collect());
}

#[test]
fn crates_and_sockets_are_named_only_by_their_owners() {
    none(sources(&["src"]).iter().flat_map(foreign_names).collect());
}

#[test]
fn pure_code_names_no_clock_client_socket_or_task() {
    none(sources(&["src"]).iter().flat_map(impurities).collect());
}

#[test]
fn nothing_reaches_over_its_parent() {
    none(sources(&["src", "tests"]).iter().flat_map(climbs).collect());
}

#[test]
fn every_file_belongs_to_a_module() {
    let fuzzed = include_str!("../fuzz/Cargo.toml").replace("path = \"", "path = \"tests/fuzz/");
    let manifests = format!("{}\n{fuzzed}", include_str!("../../Cargo.toml"));
    none(orphans(&manifests, &sources(&["src", "tests"])));
}

#[test]
fn files_are_short_and_named_after_what_they_hold() {
    none(sources(&["src", "tests"]).iter().flat_map(shapeless).collect());
}

#[test]
fn no_lint_is_switched_off_without_a_reason() {
    none(sources(&["src", "tests"]).iter().flat_map(switched_off).collect());
}

fn foreign_imports(source: &Source) -> Vec<String> {
    let Some(room) = source.room() else { return vec![] };
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![source.says(format!("\"{room}\" is not a room; add it to the map in boundaries.rs and lib.rs"))];
    };
    let named = named_rooms(&tokens(&source.text), source.path == format!("src/{room}/mod.rs"));
    let foreign = named.into_iter().filter(|name| name != room && !allowed.contains(&name.as_str()));
    foreign.map(|name| source.says(format!("{room} must not import {name}"))).collect()
}

/// The rooms behind `crate::`, `franking::` and, in a room's own mod.rs, `super::`, grouped imports included.
fn named_rooms(tokens: &[Token], in_mod: bool) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        let root = ["crate", "franking"].iter().any(|root| pair[0].is(root)) || (in_mod && pair[0].is("super"));
        if root && pair[1].is("::") && !tokens[..at].last().is_some_and(|before| before.is("::")) {
            named.extend(heads(&tokens[at + 2..]));
        }
    }
    named.retain(|name| ROOMS.iter().any(|(room, _)| room == name));
    named
}

/// The first names of a path or of each path in a group.
fn heads(tree: &[Token]) -> Vec<String> {
    match tree.first() {
        Some(Token::Name(name)) => vec![name.clone()],
        Some(Token::Sign('{')) => {
            let (mut depth, mut heads, mut first) = (0, vec![], true);
            for token in tree {
                match token {
                    Token::Sign('{') => depth += 1,
                    Token::Sign('}') if depth == 1 => break,
                    Token::Sign('}') => depth -= 1,
                    Token::Sign(',') if depth == 1 => first = true,
                    Token::Name(name) if depth == 1 && first => {
                        heads.push(name.clone());
                        first = false;
                    }
                    Token::Name(_) | Token::Sign(_) | Token::Text(_) => {}
                }
            }
            heads
        }
        Some(Token::Sign(_) | Token::Text(_)) | None => vec![],
    }
}

fn foreign_names(source: &Source) -> Vec<String> {
    let Some(room) = source.room() else { return vec![] };
    // Tests listen and serve where a room must not: a fake of the other side.
    let code = without_tests(&tokens(&source.text));
    let mut said = BTreeSet::new();
    for (at, token) in code.iter().enumerate() {
        let Some(name) = token.name() else { continue };
        let (before, after) = (at.checked_sub(1).map(|at| &code[at]), code.get(at + 1));
        let path_begins = !before.is_some_and(|token| token.is("::") || token.is("."));
        let path_goes_on = after.is_some_and(|token| token.is("::"));
        let imported = before.is_some_and(|token| token.is("use"));
        if path_begins && (path_goes_on || imported) {
            let owned = CRATES.iter().find(|(owned, _)| *owned == name);
            if owned.is_some_and(|(_, rooms)| !rooms.contains(&room)) {
                said.insert(source.says(format!("{room} must not name the crate {name}")));
            }
        }
        if NAMES.iter().any(|(owned, rooms)| *owned == name && !rooms.contains(&room)) {
            said.insert(source.says(format!("{room} must not name {name}")));
        }
    }
    said.into_iter().collect()
}

fn impurities(source: &Source) -> Vec<String> {
    if !PURE.iter().any(|folder| source.path.starts_with(folder)) {
        return vec![];
    }
    let code = without_tests(&tokens(&source.text));
    let in_path = |at: usize| {
        let beside = [at.checked_sub(1).map(|before| &code[before]), code.get(at + 1)];
        beside.into_iter().flatten().any(|token| token.is("::"))
    };
    let mut named = BTreeSet::new();
    for (at, name) in code.iter().enumerate().filter_map(|(at, token)| Some((at, token.name()?))) {
        if IMPURE.contains(&name) || (IMPURE_IN_PATHS.contains(&name) && in_path(at)) {
            named.insert(name);
        }
    }
    named.into_iter().map(|name| source.says(format!("pure code must not name {name}"))).collect()
}

fn climbs(source: &Source) -> Vec<String> {
    let code = tokens(&source.text);
    let climbs = code.windows(3).any(|path| path[0].is("super") && path[1].is("::") && path[2].is("super"));
    if climbs { vec![source.says("super::super: say crate:: and where")] } else { vec![] }
}

fn orphans(manifest: &str, sources: &[Source]) -> Vec<String> {
    let roots = manifest.lines().filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
    let mut left: Vec<String> = roots.chain(["src/lib.rs", "src/main.rs"]).map(str::to_owned).collect();
    let mut declared = BTreeSet::new();
    while let Some(path) = left.pop() {
        if !declared.insert(path.clone()) {
            continue;
        }
        let Some(source) = sources.iter().find(|source| source.path == path) else { continue };
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        // Only mod.rs and the roots have children: clippy forbids a file and a folder of one name.
        left.extend(modules(&tokens(&source.text)).into_iter().flat_map(|module| match module {
            Module::Named(name) => vec![format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")],
            Module::At(path) => vec![resolve(folder, &path)],
        }));
    }
    let orphans = sources.iter().filter(|source| !declared.contains(&source.path));
    orphans.map(|source| source.says("no `mod` declares it, so nobody compiles it")).collect()
}

enum Module {
    Named(String),
    At(String),
}

fn modules(code: &[Token]) -> Vec<Module> {
    let mut found = vec![];
    for (at, window) in code.windows(3).enumerate() {
        let [keyword, Token::Name(name), end] = window else { continue };
        if !keyword.is("mod") || !end.is(";") {
            continue;
        }
        // `#[path = "x.rs"] mod name;`, with a visibility between at most.
        let before = &code[at.saturating_sub(10)..at];
        let path = before.windows(3).rev().find_map(|attribute| match attribute {
            [name, equals, Token::Text(path)] if name.is("path") && equals.is("=") => Some(path.clone()),
            _ => None,
        });
        let separate = before.iter().rposition(|token| token.is(";") || token.is("}"));
        let attributed = before.iter().rposition(|token| token.is("path"));
        match path {
            Some(path) if separate < attributed => found.push(Module::At(path)),
            Some(_) | None => found.push(Module::Named(name.clone())),
        }
    }
    found
}

fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn shapeless(source: &Source) -> Vec<String> {
    let mut said = vec![];
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        said.push(source.says(format!("{lines} lines; split it, {LINES_MAX} is the most")));
    }
    let words = source.path.trim_end_matches(".rs").split('/');
    said.extend(
        words.filter(|word| EMPTY_NAMES.contains(word)).map(|word| source.says(format!("\"{word}\" says nothing"))),
    );
    said
}

fn switched_off(source: &Source) -> Vec<String> {
    let code = tokens(&source.text);
    let off =
        code.windows(3).any(|part| (part[0].is("[") || part[0].is(",")) && part[1].is("allow") && part[2].is("("));
    if off { vec![source.says("allow(…): use #[expect(…, reason = \"…\")]")] } else { vec![] }
}

/// Each check, proven to bite.
mod bites {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_foreign_import_is_found_in_every_form() {
        for text in [
            "use crate::operator::run;",
            "use crate::{domain::id, operator};",
            "use crate::{domain::{id, credit}, operator::{a, b}};",
            "fn f() { crate::operator::run() }",
            "type A = franking::operator::B;",
            "mod tests { use crate::operator; }",
        ] {
            assert_eq!(foreign_imports(&source("src/relay/session.rs", text)).len(), 1, "{text}");
        }
        assert_eq!(foreign_imports(&source("src/relay/mod.rs", "use super::operator;")).len(), 1);
        assert_eq!(foreign_imports(&source("src/kitchen/mod.rs", "")).len(), 1);
        for text in [
            "use crate::{domain::{operator, id}, ledger};",
            "// crate::operator\n/// [`crate::operator`]\nlet a = \"crate::operator\";",
            "use super::operator;",
            "use crate::relay::operator;",
        ] {
            none(foreign_imports(&source("src/relay/session.rs", text)));
        }
        none(foreign_imports(&source("src/lib.rs", "pub mod operator;")));
        none(foreign_imports(&source("src/main.rs", "use franking::{operator, relay};")));
    }

    #[test]
    fn a_foreign_crate_or_socket_is_found_outside_tests() {
        for (path, text) in [
            ("src/relay/mod.rs", "use kube::Client;"),
            ("src/operator/mod.rs", "use rusqlite;"),
            ("src/crd/a.rs", "fn f(client: kube::Client) {}"),
            ("src/crd/a.rs", "use kube::{Api, Client};"),
            ("src/ledger/a.rs", "prometheus::Registry::new()"),
            ("src/upstream/a.rs", "tokio::net::TcpListener::bind(a)"),
            ("src/upstream/a.rs", "let a: rustls::ServerConfig;"),
            ("src/domain/a.rs", "use tokio::sync::watch;"),
            ("src/relay/a.rs", "#[cfg(test)] mod tests { fn f() {} } use lettre::Address;"),
        ] {
            assert!(!foreign_names(&source(path, text)).is_empty(), "{path}: {text}");
        }
        for (path, text) in [
            ("src/operator/a.rs", "use kube::Client;"),
            ("src/upstream/a.rs", "#[cfg(test)]\nmod tests { use tokio::net::TcpListener; fn f() { if a { b } } }"),
            ("src/upstream/a.rs", "struct Tls { rustls: u8 } fn f(t: Tls) -> u8 { t.rustls }"),
            ("src/relay/a.rs", "use crate::runtime::metrics::prometheus::Registry;"),
        ] {
            none(foreign_names(&source(path, text)));
        }
    }

    #[test]
    fn impure_code_is_found_in_pure_folders_only() {
        for text in ["async fn f() {}", "use std::fs;", "fn f(c: Client) {}", "Instant::now()", "std::env::var(a)"] {
            for folder in PURE {
                assert_eq!(impurities(&source(&format!("{folder}a.rs"), text)).len(), 1, "{folder} {text}");
            }
            none(impurities(&source("src/operator/apply.rs", text)));
        }
        none(impurities(&source(
            "src/operator/plan/a.rs",
            "#[cfg(test)]\nmod tests { use std::fs; }\nfn f(env: u8) {}",
        )));
    }

    #[test]
    fn a_climb_an_allow_a_long_file_and_an_empty_name_are_found() {
        assert_eq!(climbs(&source("src/a.rs", "use super::super::b;")).len(), 1);
        none(climbs(&source("src/a.rs", "use super::b; // super::super")));
        for text in ["#[allow(dead_code)]", "#![allow(clippy::all)]", "#[cfg_attr(test, allow(unused))]"] {
            assert_eq!(switched_off(&source("src/a.rs", text)).len(), 1, "{text}");
        }
        none(switched_off(&source("src/a.rs", "#[expect(dead_code, reason = \"allow(x)\")] fn allow() { allow() }")));
        assert_eq!(shapeless(&source("src/a.rs", &"\n".repeat(LINES_MAX + 1))).len(), 1);
        none(shapeless(&source("src/a.rs", &"\n".repeat(LINES_MAX))));
        for path in ["src/util.rs", "src/relay/common/mod.rs", "tests/it/helpers.rs"] {
            assert_eq!(shapeless(&source(path, "")).len(), 1, "{path}");
        }
    }

    #[test]
    fn a_file_that_no_module_declares_is_found() {
        let files = |texts: &[(&str, &str)]| texts.iter().map(|(path, text)| source(path, text)).collect::<Vec<_>>();
        let manifest = "[[test]]\npath = \"tests/it/main.rs\"\n";
        let tree = files(&[
            ("src/lib.rs", "pub mod a;\n#[cfg(test)] mod b;"),
            ("src/a/mod.rs", "pub(crate) mod c; // mod d;"),
            ("src/a/c.rs", "mod tests {}"),
            ("src/b.rs", ""),
            ("tests/it/main.rs", "#[path = \"../demo/mail.rs\"]\nmod letters;\nmod e;"),
            ("tests/demo/mail.rs", ""),
            ("tests/it/e.rs", ""),
        ]);
        none(orphans(manifest, &tree));
        for lost in ["src/a/d.rs", "src/c.rs", "tests/it/letters.rs", "tests/it/support/mod.rs"] {
            let with_lost = tree.iter().map(|known| source(&known.path, &known.text)).chain([source(lost, "")]);
            assert_eq!(orphans(manifest, &with_lost.collect::<Vec<_>>()).len(), 1, "{lost}");
        }
    }
}
