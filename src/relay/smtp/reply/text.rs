//! Text from outside, made safe for a reply.

/// Maximum length of a text. RFC 5321 §4.5.3.1.5: a reply line has at most 512 octets with its code and CRLF; the code
/// and an enhanced code take at most 13 of them.
pub const TEXT_MAX: usize = 480;

/// Makes foreign text safe inside one reply line: printable ASCII, bounded.
pub fn printable(text: &str) -> String {
    text.chars().take(TEXT_MAX).map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}
