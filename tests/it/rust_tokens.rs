//! As much of Rust's lexer as `boundaries` needs: names, signs and string literals, without comments.

/// A token with what it takes to judge a path or an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    Name(String),
    Sign(char),
    Text(String),
}

impl Token {
    pub fn is(&self, text: &str) -> bool {
        match self {
            Self::Name(name) => name == text,
            Self::Sign(sign) => text.chars().eq([*sign]),
            Self::Text(_) => false,
        }
    }

    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Sign(_) | Self::Text(_) => None,
        }
    }
}

/// The tokens of a source file. Numbers come out as names, lifetimes as a sign and a name, `::` as one name-like token,
/// because paths are what is looked for.
pub fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: source, tokens: vec![] };
    while lexer.step() {}
    lexer.tokens
}

struct Lexer<'a> {
    rest: &'a str,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.skip(block_comment(self.rest));
        } else if first == '"' {
            self.string(1);
        } else if let Some(hashes) = raw_string(self.rest) {
            self.raw_string(hashes);
        } else if self.rest.starts_with("b\"") || self.rest.starts_with("c\"") {
            self.string(2);
        } else if first == '\'' {
            // A character ends with a quote after one character or escape; anything else is a lifetime.
            self.skip(character(self.rest).unwrap_or(1));
        } else if first.is_alphanumeric() || first == '_' {
            let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
            self.tokens.push(Token::Name(self.rest[..end].to_owned()));
            self.skip(end);
        } else if self.rest.starts_with("::") {
            self.tokens.push(Token::Name("::".to_owned()));
            self.skip(2);
        } else {
            if !first.is_whitespace() {
                self.tokens.push(Token::Sign(first));
            }
            self.skip(first.len_utf8());
        }
        true
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn string(&mut self, opening: usize) {
        let body = &self.rest[opening..];
        let mut escaped = false;
        let end = body.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.unwrap_or(body.len());
        self.tokens.push(Token::Text(body[..end].to_owned()));
        self.skip((opening + end + 1).min(self.rest.len()));
    }

    fn raw_string(&mut self, hashes: usize) {
        let opening = self.rest.find('"').map_or(self.rest.len(), |quote| quote + 1);
        let closing = format!("\"{}", "#".repeat(hashes));
        let body = &self.rest[opening..];
        let end = body.find(&closing).unwrap_or(body.len());
        self.tokens.push(Token::Text(body[..end].to_owned()));
        self.skip((opening + end + closing.len()).min(self.rest.len()));
    }
}

/// The number of hashes, where a raw string begins.
fn raw_string(text: &str) -> Option<usize> {
    let after = ["br", "cr", "r"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn character(text: &str) -> Option<usize> {
    let mut characters = text.char_indices().skip(1);
    let (_, first) = characters.next()?;
    if first == '\\' {
        characters.next();
        return characters.find(|(_, c)| *c == '\'').map(|(at, _)| at + 1);
    }
    characters.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1)
}

/// The length of a comment that may hold others.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

#[test]
fn comments_strings_and_characters_are_not_code() {
    let names = |source: &str| tokens(source).iter().filter_map(|t| t.name().map(str::to_owned)).collect::<Vec<_>>();
    assert_eq!(names("a /* b /* c */ d */ e // f\ng"), ["a", "e", "g"]);
    assert_eq!(names(r#"a("b \" c", 'd', '\'', b"e") f"#), ["a", "f"]);
    assert_eq!(names("r#\"a \" b\"# c"), ["c"]);
    assert_eq!(names("&'a str '\u{e9}' x"), ["a", "str", "x"]);
    assert_eq!(names("crate::a::{b, c}"), ["crate", "::", "a", "::", "b", "c"]);
    assert_eq!(tokens("#[path = \"x.rs\"]").last_chunk::<2>().expect("two").first(), Some(&Token::Text("x.rs".into())));
}
