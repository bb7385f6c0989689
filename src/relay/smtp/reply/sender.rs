//! The refusal of a sender: the address, and where its user finds the allowed senders.

use std::fmt;

use super::text::printable;
use crate::domain::sender::{Address, Unlisted};
use crate::relay::smtp::field_name::FieldName;

/// Maximum number of characters of an address that a reply repeats, which leaves room to say where to look.
const ADDRESS_SHOWN: usize = 128;

/// The place where an address stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderPlace {
    Envelope,
    Header(FieldName),
}

impl fmt::Display for SenderPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Envelope => f.write_str("envelope's sender"),
            Self::Header(field) => write!(f, "{field} header"),
        }
    }
}

/// An address that a key may not send as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedSender {
    pub place: SenderPlace,
    pub address: Address,
    /// The list that it is missing from.
    pub list: Unlisted,
    /// The object that shows the list, as `namespace/name`: the key for [`Unlisted::Key`], else its account.
    pub holder: String,
}

impl DeniedSender {
    /// Returns the reply's text. It names only what a tenant may read: the policy's own list is repeated in the
    /// account's status.
    pub(super) fn sentence(&self) -> String {
        let Self { place, address, list, holder } = self;
        let mut shown = address.to_string();
        if let Some((end, _)) = shown.char_indices().nth(ADDRESS_SHOWN) {
            shown.truncate(end);
            shown.push_str("...");
        }
        let look = match list {
            Unlisted::Policy => format!("its domain is not in status.senderDomains of SubAccount {holder}"),
            Unlisted::Account => format!("it is not in spec.allowedSenders of SubAccount {holder}"),
            Unlisted::Key => format!("it is not in spec.allowedSenders of SubAccountApiKey {holder}"),
        };
        printable(&format!("this key may not send as {shown} ({place}): {look}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(address: &str, list: Unlisted) -> DeniedSender {
        let address = Address::from_path(address).expect("an address");
        DeniedSender { place: SenderPlace::Header(FieldName::From), address, list, holder: "team/shop".to_owned() }
    }

    #[test]
    fn each_refusal_names_the_address_and_where_to_look() {
        for (list, look) in [
            (Unlisted::Policy, "its domain is not in status.senderDomains of SubAccount team/shop"),
            (Unlisted::Account, "it is not in spec.allowedSenders of SubAccount team/shop"),
            (Unlisted::Key, "it is not in spec.allowedSenders of SubAccountApiKey team/shop"),
        ] {
            let sentence = denied("a@bank.example", list).sentence();
            assert_eq!(sentence, format!("this key may not send as a@bank.example (From header): {look}"));
        }
    }

    #[test]
    fn a_long_or_foreign_address_leaves_room_for_where_to_look() {
        let long = format!("\u{fc}@{}", vec!["x".repeat(60); 4].join("."));
        let sentence = denied(&long, Unlisted::Policy).sentence();
        assert!(sentence.is_ascii() && sentence.contains("?@xxx") && sentence.ends_with("SubAccount team/shop"));
    }
}
