//! Mail addresses and their domains.
//!
//! An address is forwarded as it was written, octet for octet, but compared by its meaning: its domain as A-labels (RFC
//! 5890), its local part without quotes.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Serialize};

/// Maximum octets of a local part (RFC 5321 §4.5.3.1.1).
const LOCAL_MAX: u8 = 64;
/// Maximum octets of a domain (RFC 5321 §4.5.3.1.2).
const DOMAIN_MAX: usize = 255;
/// Maximum octets of a label (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;

const POSTMASTER: &str = "postmaster";

/// A mail domain as A-labels in lower case, however it was written: `bücher.example` and `xn--bcher-kva.example` are
/// one domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MailDomain(Box<str>);

impl MailDomain {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a mail domain such as example.com");
        let labels = text.split('.').map(a_label).collect::<Option<Vec<_>>>().ok_or_else(wrong)?.join(".");
        if labels.len() <= DOMAIN_MAX { Ok(Self(labels.into())) } else { Err(wrong()) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns a label as it is in the DNS. UTS #46 maps some letters outside ASCII to ASCII ones (the Kelvin sign to `k`,
/// full width to ordinary letters); a label with such letters only looks like another name, so it is refused.
fn a_label(label: &str) -> Option<String> {
    let label = if label.is_ascii() {
        label.to_ascii_lowercase()
    } else {
        let becomes_ascii = |c: char| !c.is_ascii() && c.to_lowercase().any(|lower| lower.is_ascii());
        if label.chars().any(becomes_ascii) {
            return None;
        }
        let mapped = Uts46::new().to_ascii(label.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow, DnsLength::Ignore);
        mapped.ok().filter(|mapped| mapped.starts_with("xn--"))?.into_owned()
    };
    let is_label = !label.is_empty()
        && label.len() <= LABEL_MAX
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    is_label.then_some(label)
}

impl TryFrom<String> for MailDomain {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<MailDomain> for String {
    fn from(domain: MailDomain) -> Self {
        domain.0.into()
    }
}

impl fmt::Display for MailDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Domain(MailDomain),
    /// An address literal (RFC 5321 §4.1.3): `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    Literal(IpAddr),
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let Some(literal) = text.strip_prefix('[') else { return MailDomain::parse(text).ok().map(Self::Domain) };
        let literal = literal.strip_suffix(']')?;
        let address = match literal.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => literal[5..].parse::<Ipv6Addr>().ok()?.into(),
            Some(_) | None => literal.parse::<Ipv4Addr>().ok()?.into(),
        };
        Some(Self::Literal(address))
    }
}

/// A mail address that is safe to write into an SMTP command as it is: no control characters and no angle brackets, and
/// spaces only inside quotes.
#[derive(Clone, Debug)]
pub struct Address {
    /// The address as it was written.
    written: Box<str>,
    /// Octets of the local part, quotes included; at most [`LOCAL_MAX`].
    local: u8,
    host: Host,
}

impl Address {
    /// Parses an address as it stands in settings and headers: a dot-atom (RFC 5322 §3.2.3) and a domain.
    pub fn parse(text: &str) -> Result<Self, String> {
        let address = Self::from_path(text)?;
        let is_dot_atom =
            address.local().split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_character));
        match address.host {
            Host::Domain(_) if is_dot_atom => Ok(address),
            Host::Domain(_) | Host::Literal(_) => Err(no_address(text)),
        }
    }

    /// Parses the inside of a path in MAIL or RCPT (RFC 5321 §4.1.2). Besides dot-atoms it accepts quoted local parts,
    /// address literals, and dots where some providers gave them to their customers (`user..name@`, `user.@`).
    pub fn from_path(text: &str) -> Result<Self, String> {
        let wrong = || no_address(text);
        let (local, domain) = text.rsplit_once('@').ok_or_else(wrong)?;
        let local_ok = match local.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"').is_some_and(is_quotable),
            None => local.chars().all(|c| c == '.' || is_atom_character(c)),
        };
        if local.is_empty() || !local_ok || domain.len() > DOMAIN_MAX {
            return Err(wrong());
        }
        let length = u8::try_from(local.len()).ok().filter(|length| *length <= LOCAL_MAX).ok_or_else(wrong)?;
        let host = Host::parse(domain).ok_or_else(wrong)?;
        Ok(Self { written: text.into(), local: length, host })
    }

    /// Returns the postmaster address of a domain, which every server must accept (RFC 5321 §4.5.1).
    pub fn postmaster(domain: &MailDomain) -> Self {
        let written = format!("{POSTMASTER}@{domain}").into();
        Self { written, local: POSTMASTER.len() as u8, host: Host::Domain(domain.clone()) }
    }

    /// Returns the domain; `None` for an address literal.
    pub fn domain(&self) -> Option<&MailDomain> {
        match &self.host {
            Host::Domain(domain) => Some(domain),
            Host::Literal(_) => None,
        }
    }

    /// Returns the local part as it was written.
    pub fn local(&self) -> &str {
        &self.written[..usize::from(self.local)]
    }

    /// Returns the local part without its quotes: `"a"@b.c` and `a@b.c` are one mailbox (RFC 5321 §4.1.2).
    pub fn mailbox(&self) -> Cow<'_, str> {
        let Some(quoted) = self.local().strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')) else {
            return Cow::Borrowed(self.local());
        };
        let mut content = String::with_capacity(quoted.len());
        let mut characters = quoted.chars();
        while let Some(c) = characters.next() {
            content.extend(if c == '\\' { characters.next() } else { Some(c) });
        }
        Cow::Owned(content)
    }

    /// Returns the form that is compared and hashed. Two addresses have the same canonical form only if they are equal.
    pub fn canonical(&self) -> String {
        match &self.host {
            Host::Domain(domain) => format!("{}@{domain}", self.mailbox()),
            Host::Literal(address) => format!("{}@[{address}]", self.mailbox()),
        }
    }

    /// True if the address is all ASCII; otherwise it needs SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.written.is_ascii()
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.host == other.host && self.mailbox() == other.mailbox()
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.mailbox().hash(state);
        self.host.hash(state);
    }
}

fn no_address(text: &str) -> String {
    format!("\"{}\" is not a mail address such as name@example.com", text.escape_debug())
}

/// Checks for RFC 5322 `atext`, or non-ASCII (RFC 6531) that is neither a control character nor a space.
fn is_atom_character(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
    } else {
        !c.is_control() && !c.is_whitespace()
    }
}

/// Checks whether `content` may stand between the quotes of a local part (RFC 5321 §4.1.2, RFC 6531 §3.3). The RFC
/// allows angle brackets; we refuse them, because a server that looks for the end of the path and ignores quotes would
/// read another command.
fn is_quotable(content: &str) -> bool {
    let mut characters = content.chars();
    while let Some(c) = characters.next() {
        let c = if c == '\\' { characters.next().filter(char::is_ascii) } else { Some(c).filter(|c| *c != '"') };
        let fine = c.is_some_and(|c| {
            if c.is_ascii() { c == ' ' || (c.is_ascii_graphic() && !"<>".contains(c)) } else { is_atom_character(c) }
        });
        if !fine {
            return false;
        }
    }
    true
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each form of a path, and true if settings and headers may hold it too.
    #[test]
    fn a_path_holds_every_form_of_an_address_and_keeps_it_as_it_is() {
        for (text, elsewhere) in [
            ("a@b.c", true),
            ("first.last+tag@Example.COM", true),
            ("grüße@exämple.de", true),
            ("o'neil@b.c", true),
            ("user..name@docomo.example", false),
            ("user.@docomo.example", false),
            (".user@docomo.example", false),
            ("\"a\"@b.c", false),
            ("\"john doe\"@b.c", false),
            ("\"a@b\"@c.d", false),
            ("\"a\\\"b\\\\c\"@c.d", false),
            ("\"\"@b.c", false),
            ("a@[192.0.2.1]", false),
            ("a@[IPv6:2001:db8::1]", false),
            ("a@[ipv6:::1]", false),
        ] {
            let address = Address::from_path(text).expect(text);
            assert_eq!(address.to_string(), text, "octet for octet");
            assert_eq!(Address::parse(text).is_ok(), elsewhere, "{text}");
        }
    }

    #[test]
    fn what_could_break_out_of_a_command_is_not_an_address() {
        for bad in [
            "",
            "a",
            "@b.c",
            "a@",
            "a b@c.d",
            "a>b@c.d",
            "a\r\n@c.d",
            "a\0@c.d",
            "\"a>\"@c.d",
            "\"a<\"@c.d",
            "\"a\r\n\"@c.d",
            "\"a\0\"@c.d",
            "\"a\t\"@c.d",
            "\"a\\\r\"@c.d",
            "\"a\"b\"@c.d",
            "\"a\\\"@c.d",
            "\"a@c.d",
            "\"@c.d",
            "a\"b\"@c.d",
            "a@c..d",
            "a@c.d.",
            "a@-c.d",
            "a@[1.2.3]",
            "a@[1.2.3.4",
            "a@[IPv6:1.2.3.4]",
            "a@[x:y]",
            "a@[1.2.3.4]>",
            "a@b\u{a0}c.d",
        ] {
            assert!(Address::from_path(bad).is_err(), "{bad:?} was accepted");
        }
        let long = format!("{}@b.c", "a".repeat(usize::from(LOCAL_MAX) + 1));
        assert!(Address::from_path(&long).is_err());
    }

    #[test]
    fn addresses_are_equal_by_what_they_mean() {
        let address = |text| Address::from_path(text).expect("an address");
        for (one, other, same) in [
            ("a@b.c", "a@B.C", true),
            ("a@b.c", "\"a\"@b.c", true),
            ("a@b.c", "\"\\a\"@b.c", true),
            ("a@bücher.example", "a@XN--bcher-kva.example", true),
            ("a@[IPv6:2001:db8::1]", "a@[ipv6:2001:DB8:0::1]", true),
            ("a@b.c", "A@b.c", false),
            ("a@b.c", "\"a \"@b.c", false),
            ("a@[192.0.2.1]", "a@[192.0.2.2]", false),
        ] {
            assert_eq!(address(one) == address(other), same, "{one} {other}");
            assert_eq!(address(one).canonical() == address(other).canonical(), same, "{one} {other}");
        }
    }

    #[test]
    fn a_domain_is_read_as_a_labels_and_never_as_one_that_it_looks_like() {
        for (text, a_labels) in [
            ("Example.COM", "example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.Example", "xn--bcher-kva.example"),
            ("XN--Bcher-KVA.example", "xn--bcher-kva.example"),
            ("straße.example", "xn--strae-oqa.example"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ] {
            assert_eq!(MailDomain::parse(text).map(String::from).as_deref(), Ok(a_labels), "{text}");
        }
        for bad in ["\u{212a}.example", "bü\u{212a}.example", "\u{ff45}xample.com", "a\u{3002}b", "a_b.c", "a\u{ad}.c"]
        {
            assert!(MailDomain::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
