//! Marks by which a message is recognised when its client sends it a second time, or when it loops back.

use std::collections::BTreeSet;
use std::fmt;

use ring::digest;

use uuid::Uuid;

use super::id::KeyId;
use super::sender::Address;

/// SHA-256 over the key's id, the envelope (sender; the set of recipients, in any order) and the message as it was
/// received: dots unstuffed and line ends made CRLF, nothing added or left out. Domains are A-labels in lower case.
/// Each part is hashed with its length, because otherwise two different messages could join to the same octets.
///
/// It holds nothing that can be read, and it includes the key, so no key's message is taken for another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(key: KeyId, sender: Option<&Address>, recipients: &[Address], message: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut add = |part: &[u8]| {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        };
        add(key.0.as_bytes());
        // The null sender is the empty string, which is not an address.
        add(sender.map(Address::canonical).unwrap_or_default().as_bytes());
        let recipients: BTreeSet<String> = recipients.iter().map(Address::canonical).collect();
        add(&(recipients.len() as u64).to_be_bytes());
        for recipient in &recipients {
            add(recipient.as_bytes());
        }
        add(message);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

/// Prints no digest: a reader of a log must not be able to confirm a guess that a certain message was sent.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

/// Mark that a relay writes into its Received field, to recognise a message of the same key that comes back. It belongs
/// to the key and not to the relay: what one tenant sends to another's list server passes here twice, and is no loop.
/// It does not reveal which key it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceMark(String);

impl TraceMark {
    pub fn of(installation: Uuid, key: KeyId) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"franking trace mark");
        context.update(installation.as_bytes());
        context.update(key.0.as_bytes());
        // 64 bits: two keys do not have the same mark by chance.
        let hex = context.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        Self(format!("trace {hex}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_message_makes_it_another_one() {
        let key = |n| KeyId(Uuid::from_u128(n));
        let address = |text| Address::parse(text).expect("an address");
        let (a, b) = (address("a@example.com"), address("b@example.com"));
        let both = [a.clone(), b.clone()];
        let one = Fingerprint::of(key(1), Some(&a), &both, b"x\r\n");
        assert_eq!(one, Fingerprint::of(key(1), Some(&a), &both, b"x\r\n"));
        let others = [
            Fingerprint::of(key(2), Some(&a), &both, b"x\r\n"),
            Fingerprint::of(key(1), None, &both, b"x\r\n"),
            Fingerprint::of(key(1), Some(&b), &both, b"x\r\n"),
            Fingerprint::of(key(1), Some(&a), &both[..1], b"x\r\n"),
            Fingerprint::of(key(1), Some(&a), &[b.clone(), address("A@example.com")], b"x\r\n"),
            Fingerprint::of(key(1), Some(&a), &both, b"x\r\n\r\n"),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(&one, other, "{index}");
        }
        // The set of recipients is the same, however a client names it.
        for recipients in [[b.clone(), a.clone()], [address("a@EXAMPLE.com"), address("b@Example.Com")]] {
            assert_eq!(one, Fingerprint::of(key(1), Some(&a), &recipients, b"x\r\n"));
        }
        assert_eq!(one, Fingerprint::of(key(1), Some(&a), &[b.clone(), a.clone(), b.clone()], b"x\r\n"));
    }
}
