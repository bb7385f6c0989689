//! Finds circles of imports between the files of `src/`: no file may import, straight or through others, a file that
//! imports it. What two files need is a leaf below both. A re-export counts as the file that it leads to, so a `mod.rs`
//! that only re-exports its children is in no circle.

use std::collections::{BTreeMap, BTreeSet};

use crate::rust_tokens::{Token, tokens};
use crate::sources::{Source, sources, without_tests};

/// A module's path below the crate: `["relay", "smtp"]`.
type Path = Vec<String>;

#[test]
fn no_file_imports_a_file_that_imports_it() {
    let circles = circles(&sources(&["src"]));
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// What a file names of the crate, and what others find in it.
#[derive(Default)]
struct Module {
    /// Paths that it names, whole, outside tests.
    named: BTreeSet<Path>,
    /// Names that it imports, with where they lead: who finds a name here is led on.
    aliases: BTreeMap<String, Path>,
    /// Modules that it takes everything from.
    globs: Vec<Path>,
    /// The items that it declares.
    items: BTreeSet<String>,
}

type Modules = BTreeMap<Path, Module>;

/// Each circle as one line with its files.
fn circles(sources: &[Source]) -> Vec<String> {
    let files: Vec<(Path, &Source)> = sources.iter().filter_map(|source| Some((path_of(source)?, source))).collect();
    let known: BTreeSet<Path> = files.iter().map(|(path, _)| path.clone()).collect();
    let modules: Modules = files.iter().map(|(path, source)| (path.clone(), read(path, source, &known))).collect();
    let imports: BTreeMap<&Path, BTreeSet<Path>> = modules
        .iter()
        .map(|(path, module)| {
            let led = module.named.iter().map(|named| led_to(&modules, named, 0)).filter(|led| led != path);
            (path, led.collect())
        })
        .collect();
    let reached: BTreeMap<&Path, BTreeSet<Path>> = imports.keys().map(|path| (*path, reach(&imports, path))).collect();
    let mut circles = BTreeSet::new();
    for (path, reaches) in &reached {
        let circle: Vec<String> = reaches
            .iter()
            .filter(|other| other == path || reached[*other].contains(*path))
            .map(|other| other.join("::"))
            .collect();
        if reaches.contains(*path) {
            circles.insert(format!("a circle of imports: {}", circle.join(", ")));
        }
    }
    circles.into_iter().collect()
}

/// The module that a file under `src/` is; `None` for `main.rs`, which nothing imports.
fn path_of(source: &Source) -> Option<Path> {
    let path = source.path.strip_prefix("src/")?.strip_suffix(".rs")?;
    if path == "main" {
        return None;
    }
    let path = path.strip_suffix("/mod").unwrap_or(path);
    Some(path.split('/').filter(|part| *part != "lib").map(str::to_owned).collect())
}

/// All that is reached from a module by one import or more.
fn reach(imports: &BTreeMap<&Path, BTreeSet<Path>>, from: &Path) -> BTreeSet<Path> {
    let mut reached = BTreeSet::new();
    let mut left = vec![from];
    while let Some(path) = left.pop() {
        left.extend(imports.get(path).into_iter().flatten().filter(|next| reached.insert((*next).clone())));
    }
    reached
}

/// The module that declares what a path names, behind any re-exports.
fn led_to(modules: &Modules, path: &[String], steps: usize) -> Path {
    let deepest = (0..=path.len()).rev().find(|end| modules.contains_key(&path[..*end])).unwrap_or(0);
    let (module, rest) = path.split_at(deepest);
    let Some((name, deeper)) = rest.split_first() else { return module.to_vec() };
    let Some(found) = modules.get(module).filter(|found| steps < 10 && !found.items.contains(name)) else {
        return module.to_vec();
    };
    if let Some(alias) = found.aliases.get(name) {
        return led_to(modules, &[alias, deeper].concat(), steps + 1);
    }
    let from_glob = found.globs.iter().find(|glob| modules.get(*glob).is_some_and(|from| from.items.contains(name)));
    from_glob.cloned().unwrap_or_else(|| module.to_vec())
}

fn read(path: &[String], source: &Source, known: &BTreeSet<Path>) -> Module {
    let code = without_tests(&tokens(&source.text));
    let mut module = Module::default();
    let mut at = 0;
    while at < code.len() {
        if code[at].is("use") {
            let mut leaves = vec![];
            at = leaves_of(&code, at + 1, &[], &mut leaves);
            for Leaf { named, alias } in leaves {
                let Some(whole) = whole(path, &named, known) else { continue };
                match alias {
                    Some(alias) => drop(module.aliases.insert(alias, whole.clone())),
                    None => module.globs.push(whole.clone()),
                }
                module.named.insert(whole);
            }
            continue;
        }
        if let Some(name) = code.get(at + 1).and_then(Token::name).filter(|_| declares(&code[at])) {
            module.items.insert(name.to_owned());
        }
        let after_path = at.checked_sub(1).is_some_and(|before| code[before].is("::") || code[before].is("."));
        if !after_path && code.get(at + 1).is_some_and(|next| next.is("::")) {
            let mut named = vec![];
            while let Some(name) = code.get(at).and_then(Token::name) {
                named.push(name.to_owned());
                if !code.get(at + 1).is_some_and(|next| next.is("::")) {
                    break;
                }
                at += 2;
            }
            module.named.extend(whole(path, &named, known));
        }
        at += 1;
    }
    module
}

fn declares(token: &Token) -> bool {
    ["struct", "enum", "fn", "trait", "type", "const", "static", "macro_rules"].iter().any(|word| token.is(word))
}

/// One name that a `use` brings in.
struct Leaf {
    named: Path,
    /// Its name here; `None` for a glob.
    alias: Option<String>,
}

/// Collects the leaves of the tree of a `use` that begins at `at`; gives the place behind it.
fn leaves_of(code: &[Token], mut at: usize, before: &[String], leaves: &mut Vec<Leaf>) -> usize {
    let mut named = before.to_vec();
    while let Some(token) = code.get(at) {
        if token.is("{") {
            at += 1;
            while code.get(at).is_some_and(|token| !token.is("}")) {
                at = leaves_of(code, at, &named, leaves);
                at += usize::from(code.get(at).is_some_and(|token| token.is(",")));
            }
            return at + 1;
        }
        if token.is("*") {
            leaves.push(Leaf { named, alias: None });
            return at + 1;
        }
        let Some(name) = token.name() else { return at + 1 };
        if name != "self" || named.is_empty() {
            named.push(name.to_owned());
        }
        at += 1;
        if code.get(at).is_some_and(|token| token.is("::")) {
            at += 1;
            continue;
        }
        let renamed = code.get(at).is_some_and(|token| token.is("as"));
        let alias = if renamed { code.get(at + 1).and_then(Token::name) } else { named.last().map(String::as_str) };
        let alias = alias.map(str::to_owned);
        leaves.push(Leaf { named, alias });
        return at + if renamed { 2 } else { 0 };
    }
    at
}

/// A path as the crate's root sees it; `None` where it leads out of the crate or to something local.
fn whole(module: &[String], named: &[String], known: &BTreeSet<Path>) -> Option<Path> {
    let (first, rest) = named.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module, rest].concat()),
        "super" => Some([module.split_last()?.1, rest].concat()),
        _ => {
            let child = [module, std::slice::from_ref(first)].concat();
            known.contains(&child).then(|| [module, named].concat())
        }
    }
}

/// The check, proven to bite.
mod bites {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let source = |(path, text): &(&str, &str)| Source { path: (*path).to_owned(), text: (*text).to_owned() };
        circles(&files.iter().map(source).collect::<Vec<_>>())
    }

    #[test]
    fn a_circle_is_found_straight_through_others_and_through_re_exports() {
        for files in [
            [
                ("src/a/b.rs", "use crate::a::c::C; struct B;"),
                ("src/a/c.rs", "use super::b::B; struct C;"),
                ("src/lib.rs", ""),
            ],
            [
                ("src/a.rs", "fn f() { crate::b::f() }"),
                ("src/b.rs", "use crate::{c as d};"),
                ("src/c.rs", "fn f(a: crate::a::A) {}"),
            ],
            [
                ("src/a/mod.rs", "mod b; fn f() { b::f() } pub struct A;"),
                ("src/a/b.rs", "use super::A; fn f() {}"),
                ("src/lib.rs", ""),
            ],
            [
                ("src/a/mod.rs", "pub use self::b::B;"),
                ("src/a/b.rs", "use crate::c::C; struct B;"),
                ("src/c.rs", "use crate::a::B; struct C;"),
            ],
            [
                ("src/a/mod.rs", "pub use self::b::*;"),
                ("src/a/b.rs", "use crate::c::C; struct B;"),
                ("src/c.rs", "use crate::a::B; struct C;"),
            ],
        ] {
            assert_eq!(found(&files).len(), 1, "{files:?}");
        }
    }

    #[test]
    fn a_tree_of_imports_a_mod_that_re_exports_and_tests_are_no_circle() {
        let files = [
            ("src/lib.rs", "pub mod a; pub mod c;"),
            ("src/a/mod.rs", "mod b; mod d; pub use self::b::B; pub use d::{D, D as E};"),
            ("src/a/b.rs", "use crate::a::D; struct B; #[cfg(test)] mod tests { use crate::c::f; }"),
            ("src/a/d.rs", "struct D; // crate::a::B"),
            ("src/c.rs", "use crate::a::{self, B, E}; fn f() { std::mem::drop(a) }"),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }
}
