//! The addresses in a header that names senders (RFC 5322 §3.4, groups as RFC 6854 allows them).
//!
//! A program further on may read a doubtful header differently, and then the address that was allowed is not the one
//! that is shown. So a value is taken in one of two ways. Where it keeps to the grammar, its addresses are what the
//! grammar says. Where it does not, but holds exactly one angle address (`[JIRA] Bot <a@b.c>`, a name in Latin-1),
//! every address that any program could read anywhere in it counts as a sender too. The rest is refused, not guessed:
//! routes, spaces inside an address, quoted local parts that need their quotes, domain literals.

use crate::domain::sender::Address;

/// The most addresses of one header that are looked at.
pub const ADDRESSES_MAX: usize = 100;
/// How deep comments may nest.
const COMMENT_DEPTH_MAX: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    Atom(&'a str),
    Quoted(String),
    Special(char),
}

/// A token, and whether white space or a comment stood before it.
struct Spaced<'a> {
    token: Token<'a>,
    apart: bool,
}

/// All addresses of an unfolded header value. `None` when any part of it cannot be understood for certain.
pub fn addresses(value: &[u8]) -> Option<Vec<Address>> {
    match std::str::from_utf8(value) {
        Ok(text) => listed(text).or_else(|| around_one_angle(text)),
        // Another character set may hide quotes and backslashes in its letters; that way nothing depends on them.
        Err(_) => around_one_angle(&String::from_utf8_lossy(value)),
    }
}

/// The addresses of a value that keeps to the grammar.
fn listed(value: &str) -> Option<Vec<Address>> {
    let tokens = tokens(value)?;
    let mut found = Vec::new();
    let mut group = false;
    let mut entry: Vec<&Spaced<'_>> = Vec::new();
    for spaced in &tokens {
        match spaced.token {
            Token::Special(',') => take(&mut entry, &mut found)?,
            // A group's name is only words, and groups do not nest.
            Token::Special(':') if !group && !entry.is_empty() && entry.iter().all(|s| is_word(&s.token)) => {
                group = true;
                entry.clear();
            }
            Token::Special(';') if group => {
                take(&mut entry, &mut found)?;
                group = false;
            }
            Token::Special(':' | ';') => return None,
            Token::Special(_) | Token::Atom(_) | Token::Quoted(_) => entry.push(spaced),
        }
    }
    take(&mut entry, &mut found)?;
    (!group && !found.is_empty()).then_some(found)
}

/// Reads one mailbox, or nothing between two commas.
fn take(entry: &mut Vec<&Spaced<'_>>, found: &mut Vec<Address>) -> Option<()> {
    let parts = std::mem::take(entry);
    if parts.is_empty() {
        return Some(());
    }
    if found.len() == ADDRESSES_MAX {
        return None;
    }
    let open = parts.iter().position(|spaced| spaced.token == Token::Special('<'));
    let spec = match open {
        Some(open) => {
            let (phrase, angle) = parts.split_at(open);
            let phrase_ok = phrase.iter().all(|spaced| is_word(&spaced.token) || spaced.token == Token::Special('.'));
            let (last, inside) = angle[1..].split_last()?;
            if !phrase_ok || last.token != Token::Special('>') {
                return None;
            }
            inside
        }
        None => &parts[..],
    };
    found.push(address(spec)?);
    Some(())
}

fn is_word(token: &Token<'_>) -> bool {
    match token {
        Token::Atom(_) | Token::Quoted(_) => true,
        Token::Special(_) => false,
    }
}

/// `local@domain` with nothing between its parts.
fn address(spec: &[&Spaced<'_>]) -> Option<Address> {
    let mut text = String::new();
    for (index, spaced) in spec.iter().enumerate() {
        if index > 0 && spaced.apart {
            return None;
        }
        match &spaced.token {
            Token::Atom(atom) => text.push_str(atom),
            // A quoted string stands for a local part alone; the check below refuses what needs its quotes.
            Token::Quoted(quoted) if index == 0 && spec.get(1)?.token == Token::Special('@') => {
                if quoted.contains('@') {
                    return None;
                }
                text.push_str(quoted);
            }
            Token::Special(special @ ('.' | '@')) => text.push(*special),
            Token::Quoted(_) | Token::Special(_) => return None,
        }
    }
    // RFC 2047 §5 forbids an encoded word in an address; readers that decode it all the same show another one.
    if text.contains("=?") {
        return None;
    }
    Address::parse(&text).ok()
}

fn tokens(value: &str) -> Option<Vec<Spaced<'_>>> {
    let mut tokens = Vec::new();
    let mut rest = value;
    let mut apart = true;
    while let Some(first) = rest.chars().next() {
        match first {
            ' ' | '\t' => {
                apart = true;
                rest = &rest[1..];
                continue;
            }
            '(' => {
                apart = true;
                rest = after_comment(rest)?;
                continue;
            }
            '"' => {
                let (quoted, after) = quoted(&rest[1..])?;
                tokens.push(Spaced { token: Token::Quoted(quoted), apart });
                rest = after;
            }
            '<' | '>' | '@' | ',' | ';' | ':' | '.' => {
                tokens.push(Spaced { token: Token::Special(first), apart });
                rest = &rest[1..];
            }
            c if is_atom(c) => {
                let end = rest.find(|c| !is_atom(c)).unwrap_or(rest.len());
                let (atom, after) = rest.split_at(end);
                tokens.push(Spaced { token: Token::Atom(atom), apart });
                rest = after;
            }
            // Brackets, backslashes, stray closing parentheses, control characters.
            _ => return None,
        }
        apart = false;
    }
    Some(tokens)
}

/// The addresses of a value with one angle address and a name before it that the grammar does not allow. Quotes and
/// comments hide nothing here, because programs differ on where they end.
fn around_one_angle(value: &str) -> Option<Vec<Address>> {
    let (name, rest) = value.split_once('<')?;
    let (inside, after) = rest.split_once('>')?;
    let is_alone = !name.contains('>') && !inside.contains('<') && after.chars().all(char::is_whitespace);
    // An encoded word (RFC 2047) may hold an address that only the reader sees.
    let is_plain = !name.contains("=?") && !inside.contains(char::REPLACEMENT_CHARACTER);
    if !is_alone || !is_plain || !is_name(name) {
        return None;
    }
    let mut found = addresses_in(name)?;
    let tokens = tokens(inside)?;
    found.push(address(&tokens.iter().collect::<Vec<_>>())?);
    (found.len() <= ADDRESSES_MAX).then_some(found)
}

/// Says whether a name shows as it is read: nothing invisible, and no quote or comment left open over the address.
fn is_name(text: &str) -> bool {
    let mut depth = Some(0_usize);
    for c in text.chars() {
        match c {
            '\\' => return false,
            '(' => depth = depth.map(|depth| depth + 1),
            ')' => depth = depth.and_then(|depth| depth.checked_sub(1)),
            c if (c.is_control() && c != '\t') || is_invisible(c) => return false,
            _ => {}
        }
    }
    let has_both = text.contains('"') && text.contains('(');
    depth == Some(0) && text.matches('"').count().is_multiple_of(2) && !has_both
}

/// What divides addresses and groups, or begins a quoted name, for a reader that forgives more than we do.
const DIVIDERS: [char; 4] = [',', ';', ':', '"'];

/// Every address that can be read in a name. An `@` between spaces is a word of its own (`R&D @ Acme`), unless a host
/// name with a dot follows, which older grammars take for the address's domain, or it stands in a list (`ceo @ bank, Bob`). `None` where an `@` belongs to
/// something that is no address.
fn addresses_in(name: &str) -> Option<Vec<Address>> {
    let mut found = Vec::new();
    for (at, _) in name.match_indices('@') {
        let (before, after) = (&name[..at], &name[at + 1..]);
        let is_apart = !before.ends_with(|c: char| !c.is_whitespace()) && after.starts_with(char::is_whitespace);
        let (before, after) = if is_apart { (before.trim_end(), after.trim_start()) } else { (before, after) };
        let is_outside = |c: char| c != '.' && !is_atom(c);
        let local = before.rsplit(is_outside).next().unwrap_or_default();
        let (domain, rest) = after.split_at(after.find(is_outside).unwrap_or(after.len()));
        let is_divided = before.contains(DIVIDERS) || rest.trim_start().starts_with(DIVIDERS);
        if is_apart && !is_divided && !starts_host(domain, rest) {
            continue;
        }
        let text = format!("{local}@{domain}");
        if text.contains("=?") || found.len() == ADDRESSES_MAX {
            return None;
        }
        found.push(Address::parse(&text).ok()?);
    }
    Some(found)
}

/// Says whether some program could take `word` with what follows it for a host name: it has a dot (UTS #46 knows four),
/// a dot or a comment follows, or it is a domain literal.
fn starts_host(word: &str, rest: &str) -> bool {
    const DOTS: [char; 4] = ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'];
    word.contains(DOTS) || rest.trim_start().starts_with(|c: char| DOTS.contains(&c) || c == '(' || c == '[')
}

/// RFC 5322 `atext` and non-ASCII (RFC 6532) that shows and is no space. Directional and invisible characters would
/// let a header read differently from how it is parsed.
fn is_atom(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
    } else {
        !c.is_control() && !c.is_whitespace() && !is_invisible(c)
    }
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}' | '\u{ffa0}'
        )
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

/// What a quoted string holds, and what follows it. `text` starts after its first quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut characters = text.char_indices();
    while let Some((index, c)) = characters.next() {
        match c {
            '"' => return Some((content, &text[index + 1..])),
            '\\' => content.push(characters.next()?.1),
            c if c.is_control() && c != '\t' => return None,
            c => content.push(c),
        }
    }
    None
}

/// What follows a comment. `text` starts with its parenthesis.
fn after_comment(text: &str) -> Option<&str> {
    let mut depth = 0_usize;
    let mut characters = text.char_indices();
    while let Some((index, c)) = characters.next() {
        match c {
            '(' => {
                depth += 1;
                if depth > COMMENT_DEPTH_MAX {
                    return None;
                }
            }
            ')' => {
                depth -= 1;
                if depth == 0 {
                    return Some(&text[index + 1..]);
                }
            }
            '\\' => {
                characters.next()?;
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(value: &str) -> Option<Vec<String>> {
        addresses(value.as_bytes()).map(|found| found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_honest_way_to_write_a_sender_is_understood() {
        let cases: [(&str, &[&str]); 17] = [
            ("a@b.c", &["a@b.c"]),
            ("<a@b.c>", &["a@b.c"]),
            ("Alice <a@b.c>", &["a@b.c"]),
            ("\"Doe, Alice\" <a@b.c>", &["a@b.c"]),
            ("\"x@evil.com\" <a@b.c>", &["a@b.c"]),
            ("\"a \\\" <x@evil.com>\" <a@b.c>", &["a@b.c"]),
            ("John Q. Public <a@b.c>", &["a@b.c"]),
            ("=?utf-8?Q?Gr=C3=BC=C3=9Fe?= <a@b.c>", &["a@b.c"]),
            ("=?utf-8?B?w6Q=?= =?utf-8?B?w6Q=?= <a@b.c>", &["a@b.c"]),
            ("Müller <müller@b.c>", &["müller@b.c"]),
            ("a@b.c (Alice <x@evil.com>)", &["a@b.c"]),
            ("(x (y) \\) z) Alice (w) <a@b.c> (v)", &["a@b.c"]),
            ("a@b.c, Bob <b@b.c>,", &["a@b.c", "b@b.c"]),
            ("Team: a@b.c, Bob <b@b.c>;", &["a@b.c", "b@b.c"]),
            ("\"first.last\"@b.c", &["first.last@b.c"]),
            ("first.last+tag@B.C", &["first.last+tag@B.C"]),
            (" \t a@b.c ", &["a@b.c"]),
        ];
        for (value, expected) in cases {
            assert_eq!(
                read(value).as_deref(),
                Some(&expected.iter().map(|&s| s.to_owned()).collect::<Vec<_>>()[..]),
                "{value}"
            );
        }
    }

    #[test]
    fn what_another_program_could_read_differently_is_refused() {
        for value in [
            "",
            "  ",
            "(only a comment)",
            "nobody:;",
            "Alice",
            "<>",
            "Alice <>",
            "<a@b.c> x@evil.com",
            "<a@b.c> <x@evil.com>",
            "<a@b.c",
            "a@b.c>",
            "<<a@b.c>>",
            "<a@b.c>>",
            "a@b.c x@evil.com",
            "a@b.c@evil.com",
            "a @b.c",
            "a@ b.c",
            "a.(x)b@b.c",
            "<@evil.com:a@b.c>",
            "<@evil.com,@x.y:a@b.c>",
            "\"x@evil.com\"@b.c",
            "\"a b\"@b.c",
            "x.\"a\"@b.c",
            "\"a\".x@b.c",
            "a@[1.2.3.4]",
            "\"open <a@b.c>",
            "(open <a@b.c>",
            "close) <a@b.c>",
            "a@b.c; x@evil.com",
            "A: B: a@b.c;;",
            "A: a@b.c",
            "a\\b@b.c",
            "a@b.c\u{202e}",
            "a\u{200b}@b.c",
            "((((((((((a)))))))))) a@b.c",
            // Some readers decode these and show another address ("Mailsploit").
            "=?utf-8?B?Ym9zc0BldmlsLmNvbQ==?=@b.c",
            "Boss <=?utf-8?Q?boss=40evil.com?=@b.c>",
            "\"=?utf-8?Q?boss=40evil.com=00?=\"@b.c",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }

    #[test]
    fn one_angle_address_may_have_any_name_whose_own_addresses_are_read_too() {
        let cases: [(&[u8], &[&str]); 19] = [
            (b"a@b.c <a@b.c>", &["a@b.c", "a@b.c"]),
            (b"[JIRA] Bot <a@b.c>", &["a@b.c"]),
            (b"R&D @ Acme <a@b.c>", &["a@b.c"]),
            (b"@ Acme <a@b.c>", &["a@b.c"]),
            (b"x@b.c via Shop <a@b.c>", &["x@b.c", "a@b.c"]),
            (b"M\xfcller <a@b.c>", &["a@b.c"]),
            (b"\"M\xfcller\" <a@b.c>", &["a@b.c"]),
            (b"M\xfcller (B\xfcro) <a@b.c>", &["a@b.c"]),
            (b"Acme\xa0Shop <a@b.c>", &["a@b.c"]),
            ("Acme\u{a0}Shop <a@b.c>".as_bytes(), &["a@b.c"]),
            (b"Doe, Alice <a@b.c>", &["a@b.c"]),
            (b"Alert: disk; full <a@b.c>", &["a@b.c"]),
            (b"[x] \"Bot\" <a@b.c> ", &["a@b.c"]),
            // Read by some program, so it has to be allowed too.
            (b"x@evil.com <a@b.c>", &["x@evil.com", "a@b.c"]),
            (b"x@bank <a@b.c>", &["x@bank", "a@b.c"]),
            (b"x @ evil.com <a@b.c>", &["x@evil.com", "a@b.c"]),
            (b"ceo @ bank, Bob <a@b.c>", &["ceo@bank", "a@b.c"]),
            (b"Team: ceo @ bank; <a@b.c>", &["ceo@bank", "a@b.c"]),
            (b"\"x@evil.com\" [y] <a@b.c>", &["x@evil.com", "a@b.c"]),
        ];
        for (value, expected) in cases {
            let found = addresses(value).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(
                found.as_deref(),
                Some(&expected.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()[..]),
                "{}",
                value.escape_ascii()
            );
        }
    }

    #[test]
    fn a_name_with_an_at_sign_that_no_address_explains_is_refused() {
        let cases: [&[u8]; 17] = [
            b"x@ evil.com [y] <a@b.c>",
            b"=?utf-8?Q?ceo=40bank=2Eexample?= [x] <a@b.c>",
            b"x @evil.com [y] <a@b.c>",
            b"x@\xa0evil.com <a@b.c>",
            b"x @ bank . com [y] <a@b.c>".as_slice(),
            b"x @ [192.0.2.1] <a@b.c>",
            "x @ evil\u{3002}com <a@b.c>".as_bytes(),
            b"\"x\"@evil.com [y] <a@b.c>",
            b"=?utf-8?Q?x?=@b.c [y] <a@b.c>",
            b"[x] <a@b.c> <a@b.c>",
            b"[x] <a@b.c> y",
            b"[x > y] <a@b.c>",
            b"[x <a@b.c",
            b"[\xfc \"\x95\\\" <x@evil.com> \" <a@b.c>",
            b"[x] \"open <a@b.c>",
            b"[x (open <a@b.c>",
            "[x]\u{202e} <a@b.c>".as_bytes(),
        ];
        for value in cases {
            // What is read as an address is judged: it must not be allowed where only b.c is.
            let found = addresses(value);
            let is_refused = found.is_none_or(|found| found.iter().any(|found| !found.to_string().ends_with("@b.c")));
            assert!(is_refused, "{}", value.escape_ascii());
        }
        assert_eq!(addresses(b"[\xfc] <\xfc@b.c>"), None, "an address is read for certain or not at all");
    }

    proptest! {
        #[test]
        fn nothing_makes_the_parser_fail_and_what_it_finds_stood_there(value in "[a-c@.<>,;:\"() \\\\\\[]{0,40}") {
            for address in addresses(value.as_bytes()).into_iter().flatten() {
                prop_assert!(value.contains(address.local()), "{} in {}", address, value);
            }
        }
    }
}
