//! The self-signed certificate of the embedded default: a CA of this installation, kept in its Secret, and a
//! short-lived leaf beside `relay.yaml`. Programs trust the CA, so a new leaf does not affect them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use uuid::Uuid;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use crate::runtime::relay_config::Listener;

/// Lifetime of the CA, which programs trust as long as their Secret exists; ten years is longer than any installation
/// goes without a release that can replace it.
const AUTHORITY_DAYS: u64 = 3650;
/// Lifetime of a leaf, as with public CAs (the CA/Browser Forum's limit is going down to 47).
const LEAF_DAYS: u64 = 90;
/// Backdating, because clocks of devices are wrong by hours; a certificate valid since a day ago works there too.
const BACKDATE: Duration = Duration::from_secs(24 * 60 * 60);
/// Maximum length of a common name (RFC 5280, `ub-common-name`). Longer host names are only in the alternative names,
/// which is where clients look.
const COMMON_NAME_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("making a certificate")]
    Make(#[from] rcgen::Error),
}

/// The installation's CA, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// A certificate and its key, both as PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn mint(installation: Uuid, now: Timestamp) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name = common_name(&format!("Franking {installation}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, now, AUTHORITY_DAYS);
        Ok(Self { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    /// Issues a leaf for these names: host names and IP addresses.
    pub fn issue(&self, names: &BTreeSet<String>, now: Timestamp) -> Result<Leaf, Error> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name = match names.iter().find(|name| name.len() <= COMMON_NAME_MAX) {
            Some(name) => common_name(name),
            None => DistinguishedName::new(),
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, now, LEAF_DAYS);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// True if this CA issued `leaf` for its key and exactly these names, and more than a third of its lifetime is
    /// left.
    pub fn stands_behind(&self, leaf: &Leaf, names: &BTreeSet<String>, now: Timestamp) -> bool {
        let Ok(key) = KeyPair::from_pem(&leaf.key) else { return false };
        let (Ok((_, leaf)), Ok((_, authority))) =
            (parse_x509_pem(leaf.certificate.as_bytes()), parse_x509_pem(self.certificate.as_bytes()))
        else {
            return false;
        };
        let (Ok(leaf), Ok(authority)) = (leaf.parse_x509(), authority.parse_x509()) else { return false };
        let validity = leaf.validity();
        let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let fresh = from <= now.as_second() && now.as_second() + (to - from) / 3 < to;
        fresh
            // A process that was stopped between writing the two files leaves a pair that does not match.
            && leaf.public_key().subject_public_key.data == key.public_key_raw()
            && leaf.verify_signature(Some(authority.public_key())).is_ok()
            && alternative_names(&leaf).as_ref() == Some(names)
    }
}

/// Returns the names under which programs may reach a relay: its host name, the advertised one, and the loopback if it
/// listens there.
pub fn names(hostname: &str, advertised: &str, listeners: &[Listener]) -> BTreeSet<String> {
    let mut names = BTreeSet::from([hostname.to_ascii_lowercase(), advertised.to_ascii_lowercase()]);
    if listeners.iter().any(|listener| listener.address.ip().is_loopback()) {
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    }
    names
}

fn alternative_names(leaf: &x509_parser::certificate::X509Certificate<'_>) -> Option<BTreeSet<String>> {
    let extension = leaf.subject_alternative_name().ok()??;
    extension
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(octets) => match <[u8; 4]>::try_from(*octets) {
                Ok(v4) => Some(IpAddr::from(v4).to_string()),
                Err(_) => <[u8; 16]>::try_from(*octets).ok().map(|v6| IpAddr::from(v6).to_string()),
            },
            _ => None,
        })
        .collect()
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn valid_for(params: &mut CertificateParams, now: Timestamp, days: u64) {
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_second().max(0).unsigned_abs());
    params.not_before = now - BACKDATE;
    params.not_after = now + Duration::from_secs(days * 24 * 60 * 60);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + day * 24 * 60 * 60).expect("a time")
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_leaf_stands_until_a_third_of_its_life_or_other_names_or_another_ca() {
        let authority = Authority::mint(Uuid::from_u128(1), day(0)).expect("a CA");
        let names = set(&["relay.example.com", "127.0.0.1", "::1"]);
        let leaf = authority.issue(&names, day(0)).expect("a leaf");
        assert!(authority.stands_behind(&leaf, &names, day(0)));
        assert!(authority.stands_behind(&leaf, &names, day(58)));
        assert!(!authority.stands_behind(&leaf, &names, day(60)), "a third is left");
        assert!(!authority.stands_behind(&leaf, &names, day(-2)), "not yet valid");
        assert!(!authority.stands_behind(&leaf, &set(&["relay.example.com", "127.0.0.1"]), day(0)));
        let another = authority.issue(&names, day(0)).expect("a leaf");
        for (certificate, key) in [("", leaf.key.as_str()), (&leaf.certificate, ""), (&leaf.certificate, &another.key)]
        {
            let pair = Leaf { certificate: certificate.to_owned(), key: key.to_owned() };
            assert!(!authority.stands_behind(&pair, &names, day(0)));
        }
        let other = Authority::mint(Uuid::from_u128(1), day(0)).expect("a CA");
        assert!(!other.stands_behind(&leaf, &names, day(0)));
    }

    #[test]
    fn loopback_names_are_added_where_a_listener_is_there() {
        let listener = |address: &str| Listener {
            name: "a".into(),
            address: address.parse().expect("an address"),
            mode: crate::runtime::relay_config::ListenerMode::Implicit,
            networks: vec![],
            proxy_from: vec![],
            budget_seconds: 300,
            line_ends: crate::runtime::relay_config::LineEnds::Reject,
        };
        assert_eq!(names("R.example.com", "mail.example.com", &[listener("[::]:465")]).len(), 2);
        let local = names("localhost", "localhost", &[listener("127.0.0.1:465")]);
        assert_eq!(local, set(&["localhost", "127.0.0.1", "::1"]));
    }

    #[test]
    fn a_host_name_longer_than_a_common_name_is_issued_all_the_same() {
        let authority = Authority::mint(Uuid::from_u128(1), day(0)).expect("a CA");
        let names = set(&[&format!("{}.svc", "a".repeat(60))]);
        let leaf = authority.issue(&names, day(0)).expect("a leaf");
        assert!(authority.stands_behind(&leaf, &names, day(0)));
    }
}
