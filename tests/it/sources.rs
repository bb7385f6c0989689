//! The project's Rust files as text, for the tests that judge them.

use std::path::{Path, PathBuf};

use crate::rust_tokens::{Token, tokens};

/// A file of ours: its path from the repository's root, and its text.
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    /// The room that a file under `src/` belongs to; `None` for `lib.rs`, which only opens the doors.
    pub fn room(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        match rest.split_once('/') {
            Some((room, _)) => Some(room),
            None => rest.strip_suffix(".rs").filter(|name| *name != "lib"),
        }
    }

    pub fn says(&self, what: impl std::fmt::Display) -> String {
        format!("{}: {what}", self.path)
    }
}

/// All Rust files under these folders, in order.
pub fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![];
    let mut left: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder that can be read").path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let path = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The code without `#[cfg(test)] mod … { … }`.
pub fn without_tests(code: &[Token]) -> Vec<Token> {
    let mark: Vec<Token> = tokens("#[cfg(test)]");
    let mut kept = vec![];
    let mut at = 0;
    while at < code.len() {
        if code[at..].starts_with(&mark) {
            let body = at + code[at..].iter().position(|token| token.is("{") || token.is(";")).unwrap_or(0);
            at = if code[body].is("{") { body + block(&code[body..]) } else { body };
        } else {
            kept.push(code[at].clone());
        }
        at += 1;
    }
    kept
}

/// The place of the bracket that closes the first one.
fn block(code: &[Token]) -> usize {
    let mut depth = 0;
    let closes = code.iter().position(|token| {
        depth += i32::from(token.is("{")) - i32::from(token.is("}"));
        depth == 0
    });
    closes.unwrap_or(code.len() - 1)
}
