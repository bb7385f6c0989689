//! The documents in Markdown: their links and the paths that they name lead somewhere, and the first page stays short.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Octets of the README, so that it is read.
const README_MAX: usize = 10 * 1024;
/// Folders whose names begin the paths that documents name.
const FOLDERS: [&str; 6] = ["src/", "tests/", "charts/", "docs/", "examples/", "crds/"];
/// The index, from which every page of `docs/` is reached.
const INDEX: &str = "docs/README.md";

/// What newcomers ask, as the index has it, and words of the answer in the section that it leads to.
const QUESTIONS: [(&str, &str); 21] = [
    ("Why is a suspended key refused in the middle", "So a session that logged in a minute ago hears `550 5.7.13`"),
    ("Where is the text of a reply?", "in one file, `src/relay/smtp/reply/mod.rs`"),
    ("When is a Secret overwritten?", "A Secret that another owner made is never overwritten"),
    ("What happens to a message when a relay is killed?", "within 90 s the operator counts what the relay had"),
    (
        "How does a limit act that is lowered in mid-period?",
        "stops the next message; it opens again when the period ends",
    ),
    ("How is a field added?", "**`make generate`**: CRDs"),
    ("What does 451 4.3.5 mean", "**the platform team** fixes the policy's upstream"),
    ("How is a lost ledger accepted?", "kubectl annotate configmap franking-installation"),
    ("What does one more account cost?", "0.06 ms to make"),
    ("How do I run one test?", "cargo test --test it relay::senders"),
    ("My pod cannot log in.", "wrong user name or password"),
    ("Why may my program not send as this address?", "must pass three lists"),
    ("I heard 451.", "It is not charged again"),
    ("What happens at midnight", "Nothing runs at midnight"),
    ("Does deleting an account give its credits back?", "Deleting an account and applying it again changes none"),
    ("SQLite or PostgreSQL?", "needs | a volume on a local file system"),
    ("What should wake me at night?", "franking_ledger_replaced == 1"),
    ("What became of this message?", "--prefix --tail=-1 | grep \"$MESSAGE\""),
    ("How do I keep tenants from making keys?", "--set rbac.aggregateToNamespaceRoles=false"),
    ("What may a tenant do", "write `SubAccountApiKey`, read `SubAccount`"),
    ("Who changed this limit?", "`franking ledger events` prints which limit"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document with its text, by its path from the root.
fn documents() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left: Vec<PathBuf> = FOLDERS.iter().map(|folder| root().join(folder)).collect();
    left.push(root().join("README.md"));
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("list a folder");
            left.extend(entries.map(|entry| entry.expect("an entry").path()).filter(|path| !is_built(path)));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            found.insert(name, fs::read_to_string(&path).expect("a document"));
        }
    }
    found
}

fn is_built(path: &Path) -> bool {
    path.ends_with("target") || path.ends_with("node_modules")
}

/// A document without its blocks of code: lines that are indented by four, and those between fences.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// What stands between backticks.
fn code_spans(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2)
}

/// Targets of links. What looks like one in code is none.
fn links(prose: &str) -> Vec<String> {
    let text: String = prose.split('`').step_by(2).collect::<Vec<_>>().join("code");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// The anchors that GitHub gives the headings of a document.
fn anchors(prose: &str) -> BTreeSet<String> {
    let headings = prose.lines().filter_map(|line| line.strip_prefix('#'));
    headings.map(|heading| anchor(heading.trim_start_matches('#').trim())).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// A link's target as a path from the root, and its anchor; `None` for one that leaves the repository.
fn resolved(from: &str, target: &str) -> Option<(String, Option<String>)> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) =
        target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor.to_owned())));
    if path.is_empty() {
        return Some((from.to_owned(), anchor));
    }
    let joined = Path::new(from).parent().unwrap_or(Path::new("")).join(path);
    let mut parts: Vec<&str> = vec![];
    for part in joined.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(part) => parts.push(part.to_str().expect("UTF-8")),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some((parts.join("/"), anchor))
}

/// Links of one document that lead nowhere.
fn broken(from: &str, text: &str, documents: &BTreeMap<String, String>) -> Vec<String> {
    let mut said = vec![];
    for target in links(&prose(text)) {
        let Some((path, anchor)) = resolved(from, &target) else { continue };
        if !root().join(&path).exists() && !documents.contains_key(&path) {
            said.push(format!("{from}: {target}: there is no {path}"));
        } else if let Some(anchor) = anchor {
            let there = documents.get(&path).is_some_and(|text| anchors(&prose(text)).contains(&anchor));
            if !there {
                said.push(format!("{from}: {target}: no heading of {path} has this anchor"));
            }
        }
    }
    said
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    let said: Vec<String> = documents.iter().flat_map(|(from, text)| broken(from, text, &documents)).collect();
    assert!(said.is_empty(), "{}", said.join("\n"));
}

#[test]
fn every_path_that_is_named_is_there() {
    let mut said = vec![];
    for (from, text) in documents() {
        for span in code_spans(&prose(&text)) {
            let is_path = span.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
            let is_ours = FOLDERS.iter().any(|folder| span.starts_with(folder));
            if is_path && is_ours && !root().join(span).exists() {
                said.push(format!("{from}: there is no {span}"));
            }
        }
    }
    assert!(said.is_empty(), "{}", said.join("\n"));
}

#[test]
fn every_page_is_two_steps_from_the_index_at_most() {
    let documents = documents();
    let followed = |from: &BTreeSet<String>| -> BTreeSet<String> {
        let pages = from.iter().filter_map(|page| Some((page, documents.get(page)?)));
        let targets = pages.flat_map(|(page, text)| {
            links(&prose(text)).into_iter().filter_map(move |target| Some(resolved(page, &target)?.0))
        });
        targets.collect()
    };
    let first = followed(&BTreeSet::from([INDEX.to_owned()]));
    let second = followed(&first);
    let reached = |page: &&String| *page == INDEX || first.contains(*page) || second.contains(*page);
    let lost: Vec<&String> = documents.keys().filter(|page| page.starts_with("docs/") && !reached(page)).collect();
    assert!(lost.is_empty(), "{lost:?} are not reached from {INDEX}");
}

/// The part of a page below the heading with this anchor, up to the next heading that is as high, on one line.
fn section(text: &str, anchor_of: Option<&str>) -> String {
    let level = |line: &str| line.bytes().take_while(|byte| *byte == b'#').count();
    let is_wanted =
        |line: &&str| level(line) > 0 && anchor_of.is_none_or(|wanted| anchor(line.trim_matches(['#', ' '])) == wanted);
    let mut lines = text.lines().skip_while(|line| !is_wanted(line));
    let first = lines.next().expect("a heading, as another test says");
    let rest = lines.take_while(|line| level(line) == 0 || level(line) > level(first));
    rest.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_newcomers_ask_is_one_link_from_the_index() {
    let documents = documents();
    let index = &documents[INDEX];
    for (question, answer) in QUESTIONS {
        let row = index.lines().find(|line| line.contains(question));
        let row = row.unwrap_or_else(|| panic!("{INDEX} does not ask: {question}"));
        let targets = links(row).into_iter().filter_map(|target| resolved(INDEX, &target));
        let mut sections = targets.filter_map(|(path, anchor)| Some(section(documents.get(&path)?, anchor.as_deref())));
        assert!(sections.any(|section| section.contains(answer)), "{question}: no link of it leads to: {answer}");
    }
}

#[test]
fn the_readme_is_short() {
    let length = documents()["README.md"].len();
    assert!(length <= README_MAX, "README.md has {length} octets; {README_MAX} is the most: move text to docs/");
}

#[test]
fn a_newcomer_is_told_the_versions_that_the_manifests_ask_for() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect("a manifest");
    let after = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
        let parts: Vec<&str> = line.trim_matches(['"', ' ']).split('.').collect();
        parts[..2].join(".")
    };
    let rust = after(&read("Cargo.toml"), "rust-version = ");
    let go = after(&read("tests/cluster/go.mod"), "go ");
    for page in ["README.md", "docs/CONTRIBUTING.md"] {
        assert!(read(page).contains(&format!("Rust {rust}, Go {go}")), "{page} does not name Rust {rust}, Go {go}");
    }
    assert!(read("tests/prerequisites.sh").contains(&format!("Go {go} or newer")), "prerequisites.sh names another Go");
}

/// Each check, proven to bite.
mod bites {
    use super::*;

    #[test]
    fn a_link_is_judged_by_file_and_anchor() {
        let pages = [
            ("docs/a.md", "# One\n\n## What's `new`, in 2026?\n"),
            (
                "docs/b.md",
                "[x](a.md#one) [x](a.md#whats-new-in-2026) [x](#here) [x](https://example.com/a#b)\n\n# Here\n",
            ),
            ("docs/c.md", "[x](a.md#two) [x](gone.md) [x](#here) `[x](no-link.md)`\n\n    [x](code.md)\n"),
        ];
        let pages: BTreeMap<String, String> =
            pages.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        let said = |name: &str| broken(name, &pages[name], &pages);
        assert_eq!(said("docs/b.md"), Vec::<String>::new());
        let heard = said("docs/c.md");
        assert!(heard.len() == 3 && heard[0].contains("a.md#two") && heard[1].contains("gone.md"), "{heard:?}");
    }
}
