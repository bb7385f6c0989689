//! The addresses in a header that names senders (RFC 5322 §3.4, groups as RFC 6854 allows them).
//!
//! A program further on may read a doubtful header differently, and then show another address than the one that was
//! allowed. So a value is accepted in one of two ways. If it follows the grammar, its addresses are those of the
//! grammar, and those in its comments, because some programs know no comments. If it does not, but holds exactly one
//! angle address (`[JIRA] Bot <a@b.c>`, a name in Latin-1), every address that any program could read anywhere in it
//! counts as a sender too. The rest is refused, not guessed: routes, spaces inside an address or around its dots, quoted
//! local parts that need their quotes, domain literals, invisible characters.

use crate::domain::sender::Address;

/// Maximum number of addresses read from one header.
pub const ADDRESSES_MAX: usize = 100;
/// Maximum depth of nested comments.
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

/// A value split into tokens.
struct Scanned<'a> {
    tokens: Vec<Spaced<'a>>,
    /// The comments, and the quoted strings whose end, angle brackets or commas some programs see differently.
    asides: Vec<&'a str>,
}

impl Scanned<'_> {
    /// Returns the addresses that only some programs read in the asides. `None` if an `@` there is not understood, or
    /// if there are more than [`ADDRESSES_MAX`] in all.
    fn aside(&self) -> Option<Vec<Address>> {
        let mut signs = Signs::default();
        self.asides.iter().try_for_each(|text| signs.read(text))?;
        Some(signs.found)
    }
}

/// Returns all addresses of an unfolded header value. `None` if any part of it cannot be understood for certain.
pub fn addresses(value: &[u8]) -> Option<Vec<Address>> {
    let found = match std::str::from_utf8(value) {
        Ok(text) => listed(text).or_else(|| around_one_angle(text)),
        // Another character set may hide quotes and backslashes in its letters; that way nothing depends on them.
        Err(_) => in_another_character_set(value),
    };
    found.filter(|found| found.len() <= ADDRESSES_MAX)
}

/// Returns the addresses in octets that are not UTF-8, as they are and as read by a program that decodes overlong
/// forms.
fn in_another_character_set(value: &[u8]) -> Option<Vec<Address>> {
    let mut found = around_one_angle(&String::from_utf8_lossy(value))?;
    let decoded = with_overlong_forms_decoded(value);
    if decoded != value {
        found.extend(around_one_angle(&String::from_utf8_lossy(&decoded))?);
    }
    Some(found)
}

/// Replaces overlong forms of visible ASCII characters (RFC 3629 §3: `C1 80` for `@`) by these characters.
fn with_overlong_forms_decoded(value: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, after)) = rest.split_first() {
        match overlong(rest) {
            Some((ascii, length)) => {
                decoded.push(ascii);
                rest = &rest[length..];
            }
            None => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    decoded
}

/// Returns the visible character that the overlong form at the beginning of `octets` stands for, and the form's length.
fn overlong(octets: &[u8]) -> Option<(u8, usize)> {
    let first = *octets.first()?;
    // RFC 2279 had forms of up to six octets: as many as the first has ones in front.
    let length = usize::try_from(first.leading_ones()).ok().filter(|length| (2..=6).contains(length))?;
    let lead = u32::from(first) & (0x7f >> length);
    let code = octets
        .get(1..length)?
        .iter()
        .try_fold(lead, |code, octet| (octet & 0xc0 == 0x80).then_some((code << 6) | u32::from(octet & 0x3f)))?;
    u8::try_from(code).ok().filter(u8::is_ascii_graphic).map(|ascii| (ascii, length))
}

/// Returns the addresses of a value that follows the grammar, and then those of its asides.
fn listed(value: &str) -> Option<Vec<Address>> {
    let scanned = scan(value)?;
    let mut found = Vec::new();
    let mut group = false;
    let mut entry: Vec<&Spaced<'_>> = Vec::new();
    for spaced in &scanned.tokens {
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
    if group || found.is_empty() {
        return None;
    }
    found.extend(scanned.aside()?);
    Some(found)
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

/// Reads `local@domain` with nothing between its parts.
fn address(spec: &[&Spaced<'_>]) -> Option<Address> {
    let mut text = String::new();
    for (index, spaced) in spec.iter().enumerate() {
        if index > 0 && spaced.apart {
            return None;
        }
        match &spaced.token {
            Token::Atom(atom) => text.push_str(atom),
            // A quoted string must be a whole local part; the check below refuses one that needs its quotes.
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

fn scan(value: &str) -> Option<Scanned<'_>> {
    let (mut tokens, mut asides) = (Vec::new(), Vec::new());
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
                let after = after_comment(rest)?;
                let comment = &rest[1..rest.len() - after.len() - 1];
                if comment.contains(is_unseen) {
                    return None;
                }
                asides.push(comment);
                rest = after;
                continue;
            }
            '"' => {
                let (quoted, after) = quoted(&rest[1..])?;
                // A program without backslash escapes sees another end, one that looks for `<` sees an address, and one
                // that divides a list at each comma (or semicolon, as mail programs for offices do) sees an entry.
                let written = &rest[1..rest.len() - after.len() - 1];
                if written.contains(is_unseen) {
                    return None;
                }
                if written.contains(['<', '>', '\\', ',', ';']) {
                    asides.push(written);
                }
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
    Some(Scanned { tokens, asides })
}

/// Returns the addresses of a value with one angle address and a name before it that the grammar does not allow. Quotes
/// and comments hide nothing here, because programs differ on where they end.
fn around_one_angle(value: &str) -> Option<Vec<Address>> {
    let (name, rest) = value.split_once('<')?;
    let (inside, after) = rest.split_once('>')?;
    let is_alone = !name.contains('>') && !inside.contains('<') && after.chars().all(char::is_whitespace);
    // An encoded word (RFC 2047) may hold an address that only the reader sees.
    let is_plain = !name.contains("=?") && !inside.contains(char::REPLACEMENT_CHARACTER);
    if !is_alone || !is_plain || !is_name(name) {
        return None;
    }
    let mut signs = Signs::default();
    signs.read(name)?;
    let mut found = signs.found;
    let scanned = scan(inside)?;
    found.push(address(&scanned.tokens.iter().collect::<Vec<_>>())?);
    found.extend(scanned.aside()?);
    Some(found)
}

/// True if a name shows as it is read: nothing invisible, and no quote or comment left open over the address.
fn is_name(text: &str) -> bool {
    let mut depth = Some(0_usize);
    for c in text.chars() {
        match c {
            '\\' => return false,
            '(' => depth = depth.map(|depth| depth + 1),
            ')' => depth = depth.and_then(|depth| depth.checked_sub(1)),
            c if is_unseen(c) => return false,
            _ => {}
        }
    }
    let has_both = text.contains('"') && text.contains('(');
    depth == Some(0) && text.matches('"').count().is_multiple_of(2) && !has_both
}

/// Characters that divide addresses and groups, or begin a quoted name or an address, for a more lenient reader than
/// ours.
const DIVIDERS: [char; 6] = [',', ';', ':', '"', '<', '>'];
/// The dots of a host name (UTS #46).
const DOTS: [char; 4] = ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

/// The `@` of names and comments, and the addresses around them.
#[derive(Default)]
struct Signs {
    count: usize,
    found: Vec<Address>,
}

impl Signs {
    /// Reads every address that can be read in a name or a comment. An `@` between spaces is a word of its own (as in
    /// `R&D @ Acme`), unless a host name with a dot follows, which older grammars take for the address's domain, or it
    /// stands in a list (`ceo @ bank, Bob`) or beside an angle bracket. `None` if an `@` belongs to something that is
    /// no address or only part of one.
    fn read(&mut self, text: &str) -> Option<()> {
        let mut passed = Passed::default();
        // The octets of `text` that are passed.
        let mut end = 0;
        for (at, _) in text.match_indices('@') {
            self.count += 1;
            if self.count > ADDRESSES_MAX {
                return None;
            }
            let (before, after) = (&text[..at], &text[at + 1..]);
            let is_apart = !before.ends_with(|c: char| !c.is_whitespace()) && after.starts_with(char::is_whitespace);
            let (before, after) = if is_apart { (before.trim_end(), after.trim_start()) } else { (before, after) };
            let is_outside = |c: char| c != '.' && !is_atom(c);
            let local = before.rsplit(is_outside).next().unwrap_or_default();
            let (domain, rest) = after.split_at(after.find(is_outside).unwrap_or(after.len()));
            // In `a@b@c`, what stands before the second local part is passed already.
            if let Some(between) = text.get(end..before.len() - local.len()) {
                passed.go_over(between)?;
                end += between.len();
            }
            let is_divided = passed.divider || rest.trim_start().starts_with(DIVIDERS);
            if is_apart && !is_divided && !starts_host(domain, rest) {
                continue;
            }
            let address = format!("{local}@{domain}");
            if passed.last == LastToken::Dot || address.contains("=?") {
                return None;
            }
            self.found.push(Address::parse(&address).ok()?);
            passed.last = LastToken::Address;
            end = text.len() - rest.len();
        }
        passed.go_over(&text[end..])
    }
}

/// The part of a text that lies behind, as far as it matters to the addresses that follow.
#[derive(Default)]
struct Passed {
    /// True if one of [`DIVIDERS`] stood there.
    divider: bool,
    /// The last token in the inmost open comment, or outside if none is open.
    last: LastToken,
    /// The last token before each open comment.
    before_comments: Vec<LastToken>,
}

/// The last token before a place, not counting white space and comments: older grammars (RFC 5322 §4.4) allow both
/// around the dots of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastToken {
    Dot,
    Address,
    #[default]
    Other,
}

impl Passed {
    /// Goes over text without addresses. `None` if it continues the address before it.
    fn go_over(&mut self, text: &str) -> Option<()> {
        for c in text.chars() {
            self.divider |= DIVIDERS.contains(&c);
            match c {
                '(' => self.before_comments.push(std::mem::take(&mut self.last)),
                ')' => self.last = self.before_comments.pop().unwrap_or_default(),
                c if c.is_whitespace() => {}
                c if DOTS.contains(&c) && self.last == LastToken::Address => return None,
                '.' => self.last = LastToken::Dot,
                _ => self.last = LastToken::Other,
            }
        }
        Some(())
    }
}

/// True if some program could take `word` with what follows it for a host name: it has a dot (UTS #46 knows four), a
/// dot or a comment follows, or it is a domain literal.
fn starts_host(word: &str, rest: &str) -> bool {
    word.contains(DOTS) || rest.trim_start().starts_with(|c: char| DOTS.contains(&c) || c == '(' || c == '[')
}

/// True for RFC 5322 `atext`, and for non-ASCII (RFC 6532) that is visible and no space. Directional and invisible
/// characters would let a header read differently from how it is parsed.
fn is_atom(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
    } else {
        !c.is_control() && !c.is_whitespace() && !is_invisible(c)
    }
}

/// True for control characters except the tab, and for directional and invisible ones.
fn is_unseen(c: char) -> bool {
    (c.is_control() && c != '\t') || is_invisible(c)
}

/// True for directional characters, line separators and those without a glyph (Default_Ignorable_Code_Point), but for the
/// two selectors that choose between text and emoji.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{3164}'
                | '\u{ffa0}'
                | '\u{2028}'
                | '\u{2029}'
        )
        || matches!(c, '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{fe00}'..='\u{fe0d}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}')
        || matches!(c, '\u{e0000}'..='\u{e0fff}')
}

/// Returns the content of a quoted string, and the text after it. `text` starts after its first quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut characters = text.char_indices();
    while let Some((index, c)) = characters.next() {
        match c {
            '"' => return Some((content, &text[index + 1..])),
            '\\' => content.push(characters.next()?.1),
            c => content.push(c),
        }
    }
    None
}

/// Returns the text after a comment. `text` starts with its parenthesis.
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
mod tests;
