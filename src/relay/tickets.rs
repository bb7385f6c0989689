//! Session tickets that every relay of the installation can open: a device that connects anew for each message is
//! spared the certificate and half the handshake, whichever relay it reaches.
//!
//! The keys are derived from the installation's sealing key and the time, so no relay has to be given a new one: a
//! changed `relay.yaml` would roll the fleet. Each half day has its own key; a ticket of the half day before is still
//! accepted, and of the next, for a relay whose clock is ahead. In TLS 1.3 a resumed session makes a key of its own in
//! any case; a TLS 1.2 session with a ticket can be read by anyone who has the installation's Secret and a recording.

use std::fmt;
use std::sync::Arc;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::server::ProducesTickets;

use crate::runtime::clock::Clock;
use crate::runtime::relay_config::KeyBytes;

/// Time for which one key makes tickets. A ticket lives for one to two of these, and clients are told the shorter time
/// (RFC 8446 §4.6.1 allows seven days).
const EPOCH_SECONDS: u32 = 12 * 60 * 60;
/// Length of the half day's number in front of a ticket.
const EPOCH_LEN: usize = 8;

pub struct Tickets {
    root: Prk,
    random: SystemRandom,
    clock: Arc<dyn Clock>,
}

impl Tickets {
    /// Derives the root from `key`, the sealing key; what is derived opens nothing that `key` seals.
    pub fn new(key: &KeyBytes, clock: Arc<dyn Clock>) -> Self {
        let root = Salt::new(HKDF_SHA256, b"franking TLS session tickets, 1").extract(&key.0);
        Self { root, random: SystemRandom::new(), clock }
    }

    fn epoch(&self) -> i64 {
        self.clock.now().as_second().div_euclid(i64::from(EPOCH_SECONDS))
    }

    fn key(&self, epoch: [u8; EPOCH_LEN]) -> LessSafeKey {
        let info = [&epoch[..]];
        let material = self.root.expand(&info, &CHACHA20_POLY1305).expect("32 octets are far under HKDF's limit");
        LessSafeKey::new(UnboundKey::from(material))
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        EPOCH_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let epoch = self.epoch().to_be_bytes();
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let key = self.key(epoch);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(epoch), &mut sealed).ok()?;
        Some([&epoch[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (epoch, rest) = ticket.split_first_chunk::<EPOCH_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        // A key is derived only for a half day that is accepted.
        let now = self.epoch();
        if ![now - 1, now, now + 1].contains(&i64::from_be_bytes(*epoch)) {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.key(*epoch).open_in_place(nonce, Aad::from(*epoch), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock::ManualClock;

    fn tickets(key: u8, clock: &ManualClock) -> Tickets {
        Tickets::new(&KeyBytes([key; 32]), Arc::new(clock.clone()))
    }

    #[test]
    fn another_relay_of_the_installation_opens_a_ticket_until_its_key_is_old() {
        let clock = ManualClock::new("2026-11-20T10:00:00Z".parse().expect("a time"));
        let (one, two, stranger) = (tickets(1, &clock), tickets(1, &clock), tickets(2, &clock));
        let ticket = one.encrypt(b"a session").expect("a ticket");
        assert_eq!(two.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(stranger.decrypt(&ticket), None);
        assert_ne!(one.encrypt(b"a session"), Some(ticket.clone()), "no two tickets are alike");

        clock.advance(i64::from(EPOCH_SECONDS));
        assert!(two.decrypt(&ticket).is_some(), "the key before is still known");
        clock.advance(i64::from(EPOCH_SECONDS));
        assert_eq!(two.decrypt(&ticket), None);
    }

    #[test]
    fn a_changed_or_shortened_ticket_does_not_open() {
        let clock = ManualClock::new("2026-11-20T10:00:00Z".parse().expect("a time"));
        let tickets = tickets(1, &clock);
        let ticket = tickets.encrypt(b"a session").expect("a ticket");
        for place in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[place] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "octet {place}");
            assert_eq!(tickets.decrypt(&ticket[..place]), None, "{place} octets");
        }
    }
}
