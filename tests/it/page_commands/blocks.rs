//! The blocks of the pages: lines that are indented by four or more. Each is either commands or a text that the list here has.

use std::path::{Path, PathBuf};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What holds a text to the truth.
pub enum Truth {
    /// Lines of this file, where `…` stands for others.
    Quotes(&'static str),
    /// A part of a pod, which the API server takes.
    Pod,
    /// A test that reads it from the page.
    Test(&'static str),
    /// Nothing, and why.
    Nothing(&'static str),
}

const SNIPPETS: Truth = Truth::Test("tests/it/relay/programs/snippets.rs");
/// Blocks that are no commands: the page, how they begin, and what holds them to the truth.
pub const TEXTS: [(&str, &str, Truth); 19] = [
    ("README.md", "platform team", Truth::Nothing("a drawing")),
    ("README.md", "apiVersion: franking.io", Truth::Test("tests/it/page_commands/mod.rs")),
    ("README.md", "NAMESPACE ", Truth::Nothing("what `make demo` prints is new each time")),
    ("README.md", "volumes: ", Truth::Pod),
    ("README.md", "envFrom: ", Truth::Pod),
    ("docs/architecture.md", "kubectl apply ─▶", Truth::Nothing("a drawing")),
    ("docs/sending.md", "volumes: ", Truth::Pod),
    ("docs/sending.md", "envFrom: ", Truth::Pod),
    ("docs/sending.md", "env: [{name: SERVICE_BINDING_ROOT", Truth::Pod),
    ("docs/sending.md", "import os, pathlib", SNIPPETS),
    ("docs/sending.md", "import os, smtplib", SNIPPETS),
    ("docs/sending.md", "const { existsSync", SNIPPETS),
    ("docs/sending.md", "file := func", SNIPPETS),
    ("docs/sending.md", "$file = fn", SNIPPETS),
    ("docs/sending.md", "Path smtp", SNIPPETS),
    ("docs/CONTRIBUTING.md", "let (reply, result)", Truth::Quotes("src/relay/admit.rs")),
    ("docs/CONTRIBUTING.md", "/// Interval of pulls", Truth::Quotes("src/relay/directory.rs")),
    ("docs/CONTRIBUTING.md", "return Err(Problem", Truth::Quotes("src/crd/secret.rs")),
    ("examples/apps/README.md", "global:", Truth::Nothing("values of GitLab's own chart")),
];

/// Consecutive lines of a page, without the indentation that they share.
pub struct Block {
    pub page: String,
    pub line: usize,
    pub text: String,
}

impl Block {
    /// Whether it is pasted into a shell.
    pub fn is_commands(&self) -> bool {
        !TEXTS.iter().any(|(page, beginning, _)| *page == self.page && self.text.starts_with(beginning))
    }
}

/// Every page that people read: the generated reference has no commands, and what belongs to the tests is read by those who change them.
pub fn pages() -> Vec<String> {
    let mut found = vec!["README.md".to_owned()];
    let mut left: Vec<PathBuf> = ["charts", "docs", "examples"].map(|folder| Path::new(ROOT).join(folder)).into();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path.strip_prefix(ROOT).expect("below the root").to_string_lossy().into_owned());
        }
    }
    found
}

pub fn blocks_of(page: &str) -> Vec<Block> {
    found_in(page, &std::fs::read_to_string(Path::new(ROOT).join(page)).expect("a page"))
}

fn found_in(page: &str, text: &str) -> Vec<Block> {
    assert!(!text.contains("```"), "{page} has a fence; blocks are indented by four");
    let mut blocks: Vec<(usize, Vec<&str>)> = vec![];
    let mut is_open = false;
    for (number, line) in (1..).zip(text.lines()) {
        match blocks.last_mut() {
            Some((_, lines)) if is_open && (line.starts_with("    ") || line.is_empty()) => lines.push(line),
            _ if line.starts_with("    ") => {
                blocks.push((number, vec![line]));
                is_open = true;
            }
            _ => is_open = false,
        }
    }
    blocks
        .into_iter()
        .map(|(line, lines)| {
            let is_blank = |line: &str| line.trim().is_empty();
            let indents = lines.iter().filter(|line| !is_blank(line)).map(|line| line.len() - line.trim_start().len());
            let indent = indents.min().unwrap_or_default();
            let text: String =
                lines.iter().map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
            Block { page: page.to_owned(), line, text: format!("{}\n", text.trim_end()) }
        })
        .collect()
}

#[test]
fn each_text_that_is_no_command_is_there_once_and_quotes_what_is_written() {
    let read = |path: &str| std::fs::read_to_string(Path::new(ROOT).join(path)).expect("a file that the list names");
    for (page, beginning, truth) in TEXTS {
        let found: Vec<Block> = blocks_of(page).into_iter().filter(|block| block.text.starts_with(beginning)).collect();
        assert_eq!(found.len(), 1, "{page}: {beginning}");
        match truth {
            Truth::Quotes(path) => {
                let source = read(path);
                for line in found[0].text.lines().map(str::trim).filter(|line| *line != "…") {
                    assert!(source.contains(line), "{path} has no line {line}");
                }
            }
            Truth::Test(path) => {
                let name = page.rsplit('/').next().expect("a name");
                assert!(read(path).contains(name), "{path} does not read {page}");
            }
            Truth::Nothing(why) => assert!(!why.is_empty(), "{page}: {beginning}"),
            Truth::Pod => {}
        }
    }
}

#[test]
fn a_block_is_found_in_a_list_and_goes_on_after_an_empty_line() {
    let text = "Text:\n\n    one \\\n      two\n\n    three\n\nText\n\n1. Item:\n\n       four <<EOF\n       a: b\n       EOF\n\n   text\n";
    let found: Vec<(usize, String)> =
        found_in("page", text).into_iter().map(|block| (block.line, block.text)).collect();
    let expected = [(3, "one \\\n  two\n\nthree\n"), (12, "four <<EOF\na: b\nEOF\n")];
    assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
}
