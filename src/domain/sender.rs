//! Rules for the senders that a key may name.
//!
//! A policy that lists no domain allows nothing. An account's patterns narrow what its policy allows, and a key's
//! narrow what its account may do; neither ever widens it.

use serde::{Deserialize, Serialize};

pub use super::address::{Address, MailDomain};

/// A sender that a key may name: one address (`alerts@example.com`) or a whole domain (`*@example.com`).
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
        let wrong = || format!("\"{text}\" is not a sender pattern; write name@example.com or *@example.com");
        let address = Address::parse(text).map_err(|_| wrong())?;
        let domain = address.domain().ok_or_else(wrong)?.clone();
        Ok(Self { local: Some(address.local().to_owned()), domain })
    }

    pub fn domain(&self) -> &MailDomain {
        &self.domain
    }

    /// Compares local parts without their quotes and without the case of ASCII letters: providers do the same, and a
    /// stricter comparison would only surprise users. Other letters must be identical, because Unicode's lower case of
    /// some is ASCII (the Kelvin sign's is `k`), and those are other mailboxes.
    pub fn matches(&self, address: &Address) -> bool {
        let same = |local: &String| local.eq_ignore_ascii_case(&address.mailbox());
        address.domain() == Some(&self.domain) && self.local.as_ref().is_none_or(same)
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

/// The list that an address is missing from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unlisted {
    /// `senders.domains` of the policy.
    Policy,
    /// `allowedSenders` of the account.
    Account,
    /// `allowedSenders` of the key.
    Key,
}

impl Unlisted {
    pub const ALL: [Self; 3] = [Self::Policy, Self::Account, Self::Key];

    fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Account => "account",
            Self::Key => "key",
        }
    }
}

/// The reason why a message is refused for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SenderFault {
    /// An address that the key may not send as.
    Unlisted(Unlisted),
    /// A header field whose addresses cannot be read for certain.
    Unreadable,
    /// A number of From fields other than one.
    FromCount,
}

impl SenderFault {
    /// Returns the word for metric labels, logs and the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unlisted(list) => list.as_str(),
            Self::Unreadable => "unreadable",
            Self::FromCount => "from_count",
        }
    }

    /// Parses the word that [`as_str`](Self::as_str) returns.
    pub fn parse(word: &str) -> Option<Self> {
        let unlisted = Unlisted::ALL.into_iter().map(Self::Unlisted);
        unlisted.chain([Self::Unreadable, Self::FromCount]).find(|fault| fault.as_str() == word)
    }
}

/// Checks that a key may send as `address`: the key's patterns narrow its account's, and those narrow the `domains` of
/// its policy. A key without patterns may send as all that its account may, an account with `None` as all that its
/// policy may, and an account with an empty list as nothing. `Err` names the widest list that `address` is missing
/// from.
pub fn may_send_as(
    domains: &[MailDomain],
    account: Option<&[SenderPattern]>,
    key: &[SenderPattern],
    address: &Address,
) -> Result<(), Unlisted> {
    let any = |patterns: &[SenderPattern]| patterns.iter().any(|pattern| pattern.matches(address));
    if !address.domain().is_some_and(|domain| domains.contains(domain)) {
        return Err(Unlisted::Policy);
    }
    if !account.is_none_or(any) {
        return Err(Unlisted::Account);
    }
    if key.is_empty() || any(key) { Ok(()) } else { Err(Unlisted::Key) }
}

/// Returns the domains that an account may send as: those of its policy that its own patterns leave.
pub fn sender_domains<'a>(
    domains: &'a [MailDomain],
    account: Option<&[SenderPattern]>,
) -> impl Iterator<Item = &'a MailDomain> {
    domains
        .iter()
        .filter(move |domain| account.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.domain == **domain)))
}

/// Checks whether a key with these patterns could ever send: at least one address passes [`may_send_as`].
pub fn may_ever_send(domains: &[MailDomain], account: Option<&[SenderPattern]>, key: &[SenderPattern]) -> bool {
    let meets = |a: &SenderPattern, b: &SenderPattern| {
        let locals = a.local.as_ref().zip(b.local.as_ref());
        a.domain == b.domain && locals.is_none_or(|(a, b)| a.eq_ignore_ascii_case(b))
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
        let may = |domains, account: Option<&[_]>, key: &[_], text| {
            may_send_as(domains, account, key, &address(text)).is_ok()
        };
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

    #[test]
    fn a_refusal_names_the_widest_list_that_an_address_is_missing_from() {
        let domains = [MailDomain::parse("example.com").expect("a domain")];
        let pattern = |text| SenderPattern::parse(text).expect("a pattern");
        let (sales, ceo) = ([pattern("sales@example.com")], [pattern("ceo@example.com")]);
        type Case<'a> = (&'a str, Option<&'a [SenderPattern]>, &'a [SenderPattern], Result<(), Unlisted>);
        let cases: [Case<'_>; 6] = [
            ("a@other.com", None, &[], Err(Unlisted::Policy)),
            ("a@[192.0.2.1]", None, &[], Err(Unlisted::Policy)),
            ("a@other.com", Some(&sales), &ceo, Err(Unlisted::Policy)),
            ("a@example.com", Some(&sales), &ceo, Err(Unlisted::Account)),
            ("sales@example.com", Some(&sales), &ceo, Err(Unlisted::Key)),
            ("\"Sales\"@example.com", Some(&sales), &sales, Ok(())),
        ];
        for (text, account, key, expected) in cases {
            let address = Address::from_path(text).expect("an address");
            assert_eq!(may_send_as(&domains, account, key, &address), expected, "{text}");
        }
    }

    /// Unicode lower-cases U+212A (Kelvin sign) and U+0130 to ASCII letters, but they stand for other mailboxes.
    #[test]
    fn a_local_part_that_only_looks_like_a_listed_one_is_another() {
        let domains = [MailDomain::parse("example.com").expect("a domain")];
        let pattern = |text| [SenderPattern::parse(text).expect("a pattern")];
        for (listed, sent, same) in [
            ("kim@example.com", "KIM@example.com", true),
            ("kim@example.com", "\u{212a}im@example.com", false),
            ("\u{212a}im@example.com", "kim@example.com", false),
            ("i\u{307}nfo@example.com", "\u{130}nfo@example.com", false),
            ("gr\u{fc}\u{df}e@example.com", "GR\u{fc}\u{df}E@example.com", true),
        ] {
            let allowed = may_send_as(&domains, None, &pattern(listed), &address(sent));
            assert_eq!(allowed.is_ok(), same, "{sent} where {listed} is listed");
            assert_eq!(may_ever_send(&domains, Some(&pattern(listed)), &pattern(sent)), same, "{sent} and {listed}");
        }
    }

    #[test]
    fn a_domain_is_the_same_in_unicode_and_in_a_labels_in_every_list() {
        let spellings = ["bücher.example", "xn--bcher-kva.example", "BÜCHER.example", "XN--BCHER-KVA.EXAMPLE"];
        for listed in spellings {
            let domains = [MailDomain::parse(listed).expect("a domain")];
            let patterns = [SenderPattern::parse(&format!("shop@{listed}")).expect("a pattern")];
            for sent in spellings {
                let address = address(&format!("shop@{sent}"));
                let allowed = may_send_as(&domains, Some(&patterns), &patterns, &address);
                assert_eq!(allowed, Ok(()), "{sent} where {listed} is listed");
            }
        }
    }

    #[test]
    fn an_accounts_domains_are_those_of_its_policy_that_its_patterns_leave() {
        let domains = ["a.example", "b.example"].map(|domain| MailDomain::parse(domain).expect("a domain"));
        let patterns = ["x@b.example", "*@c.example"].map(|text| SenderPattern::parse(text).expect("a pattern"));
        let left = |patterns: Option<&[SenderPattern]>| {
            sender_domains(&domains, patterns).map(MailDomain::as_str).collect::<Vec<_>>()
        };
        assert_eq!(left(None), ["a.example", "b.example"]);
        assert_eq!(left(Some(&patterns)), ["b.example"]);
        assert!(left(Some(&[])).is_empty());
    }
}
