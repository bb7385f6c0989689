//! Who may send as whom.
//!
//! A policy that lists no domain allows nothing. An account's patterns narrow what its policy allows, a key's what its
//! account may do, and none ever widens it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// RFC 5321 §4.5.3.1.1: octets of a local part.
const LOCAL_MAX: usize = 64;
/// RFC 5321 §4.5.3.1.2: octets of a domain.
const DOMAIN_MAX: usize = 255;

/// A mail domain in lower case: dot-separated labels of letters, digits and hyphens (or non-ASCII letters, RFC 6531).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MailDomain(String);

impl MailDomain {
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_lowercase();
        let labels_ok = lower.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || (!c.is_ascii() && c.is_alphanumeric()))
        });
        if labels_ok && lower.len() <= DOMAIN_MAX {
            Ok(Self(lower))
        } else {
            Err(format!("\"{text}\" is not a mail domain such as example.com"))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MailDomain {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<MailDomain> for String {
    fn from(domain: MailDomain) -> Self {
        domain.0
    }
}

impl fmt::Display for MailDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mail address that is safe to write into an SMTP command: no spaces, control characters, angle brackets or
/// quotes, so a local part that needs quoting is refused rather than re-quoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    local: String,
    domain: MailDomain,
}

impl Address {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{}\" is not a mail address such as name@example.com", text.escape_debug());
        let (local, domain) = text.rsplit_once('@').ok_or_else(wrong)?;
        let local_ok = !local.is_empty()
            && local.len() <= LOCAL_MAX
            && local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_character));
        if !local_ok {
            return Err(wrong());
        }
        Ok(Self { local: local.to_owned(), domain: MailDomain::parse(domain).map_err(|_| wrong())? })
    }

    pub fn domain(&self) -> &MailDomain {
        &self.domain
    }

    pub fn local(&self) -> &str {
        &self.local
    }

    /// Whether SMTPUTF8 (RFC 6531) is needed to name it.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.0.is_ascii()
    }
}

/// RFC 5322 `atext`, and non-ASCII (RFC 6531) that is not a control or a space.
fn is_atom_character(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
    } else {
        !c.is_control() && !c.is_whitespace()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

/// What a key may send as: one address (`alerts@example.com`) or a whole domain (`*@example.com`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SenderPattern {
    local: Option<String>,
    domain: MailDomain,
}

impl SenderPattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(domain) = text.strip_prefix("*@").or_else(|| text.strip_prefix('@')) {
            return Ok(Self { local: None, domain: MailDomain::parse(domain)? });
        }
        let address = Address::parse(text)
            .map_err(|_| format!("\"{text}\" is not a sender pattern; write name@example.com or *@example.com"))?;
        Ok(Self { local: Some(address.local), domain: address.domain })
    }

    /// Local parts are compared without case: providers do, and a stricter comparison would only surprise.
    pub fn matches(&self, address: &Address) -> bool {
        self.domain == address.domain
            && self.local.as_ref().is_none_or(|local| local.to_lowercase() == address.local.to_lowercase())
    }
}

impl TryFrom<String> for SenderPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<SenderPattern> for String {
    fn from(pattern: SenderPattern) -> Self {
        format!("{}@{}", pattern.local.as_deref().unwrap_or("*"), pattern.domain)
    }
}

/// Says whether a key may send as `address`: the key's patterns narrow its account's, and those narrow the `domains` of its
/// policy. No patterns of a key mean all that its account may; `None` of an account means all that its policy may, and an
/// empty list nobody.
pub fn may_send_as(
    domains: &[MailDomain],
    account: Option<&[SenderPattern]>,
    key: &[SenderPattern],
    address: &Address,
) -> bool {
    let any = |patterns: &[SenderPattern]| patterns.iter().any(|pattern| pattern.matches(address));
    domains.contains(&address.domain) && account.is_none_or(any) && (key.is_empty() || any(key))
}

/// Whether a key with these patterns could ever send: at least one address passes [`may_send_as`].
pub fn may_ever_send(domains: &[MailDomain], account: Option<&[SenderPattern]>, key: &[SenderPattern]) -> bool {
    let meets = |a: &SenderPattern, b: &SenderPattern| {
        let locals = a.local.as_ref().zip(b.local.as_ref());
        a.domain == b.domain && locals.is_none_or(|(a, b)| a.to_lowercase() == b.to_lowercase())
    };
    let within = |pattern: &SenderPattern| {
        domains.contains(&pattern.domain)
            && account.is_none_or(|account| account.iter().any(|other| meets(pattern, other)))
    };
    let domain = |domain: &MailDomain| SenderPattern { local: None, domain: domain.clone() };
    if key.is_empty() { domains.iter().map(domain).any(|all| within(&all)) } else { key.iter().any(within) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).expect("an address")
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
            "\"a b\"@c.d",
            "a\r\n@c.d",
            ".a@c.d",
            "a..b@c.d",
            "a@c..d",
            "a@-c.d",
            "a@[1.2.3.4]",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a@b.c", "first.last+tag@Example.COM", "grüße@exämple.de", "o'neil@b.c"] {
            assert!(Address::parse(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn a_key_that_no_address_passes_is_told_from_one_that_some_address_passes() {
        let domains = [MailDomain::parse("example.com").expect("a domain")];
        let pattern = |text| SenderPattern::parse(text).expect("a pattern");
        let (sales, all, other) =
            ([pattern("sales@example.com")], [pattern("*@example.com")], [pattern("*@other.com")]);
        let cases = [
            (None, &[][..], true),
            (None, &all[..], true),
            (None, &other[..], false),
            (Some(&sales[..]), &all[..], true),
            (Some(&all[..]), &sales[..], true),
            (Some(&sales[..]), &[pattern("ceo@example.com")][..], false),
            (Some(&sales[..]), &[pattern("Sales@EXAMPLE.com")][..], true),
            (Some(&other[..]), &[][..], false),
            (Some(&[][..]), &all[..], false),
        ];
        for (account, key, expected) in cases {
            assert_eq!(may_ever_send(&domains, account, key), expected, "{account:?} {key:?}");
            assert!(!may_ever_send(&[], account, key));
        }
    }

    #[test]
    fn nothing_listed_is_nothing_allowed_and_patterns_only_narrow() {
        let domains = [MailDomain::parse("Example.com").expect("a domain")];
        let pattern = |text| SenderPattern::parse(text).expect("a pattern");
        let may = |domains, account: Option<&[_]>, key: &[_], text| may_send_as(domains, account, key, &address(text));
        assert!(!may(&[], None, &[], "a@example.com"));
        assert!(may(&domains, None, &[], "a@EXAMPLE.com"));
        assert!(!may(&domains, None, &[], "a@sub.example.com"));
        assert!(may(&domains, None, &[pattern("Alerts@example.com")], "alerts@example.com"));
        assert!(!may(&domains, None, &[pattern("alerts@example.com")], "b@example.com"));
        assert!(!may(&domains, None, &[pattern("*@other.com")], "a@other.com"));
        let (sales, all) = ([pattern("sales@example.com")], [pattern("*@example.com")]);
        assert!(
            may(&domains, Some(&sales), &[], "sales@example.com")
                && may(&domains, Some(&sales), &all, "sales@example.com")
        );
        assert!(
            !may(&domains, Some(&sales), &[], "ceo@example.com")
                && !may(&domains, Some(&sales), &all, "ceo@example.com")
        );
        assert!(!may(&domains, Some(&sales), &[pattern("ceo@example.com")], "sales@example.com"));
        assert!(!may(&domains, Some(&[pattern("*@other.com")]), &[], "a@other.com"));
        assert!(!may(&domains, Some(&[]), &[], "a@example.com"));
    }
}
