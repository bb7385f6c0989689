//! Networks that a credential or a listener may be used from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Checks whether `address` lies in one of `networks`. An IPv4-mapped IPv6 address counts as its IPv4 address, because
/// a dual-stack listener reports every IPv4 client that way.
pub fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = canonical(address);
    networks.iter().any(|network| network.contains(&address))
}

/// Returns the address as IPv4 if it is an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2).
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
    }
}

/// Addresses besides the link-local ones at which clouds hand out credentials to any caller: Alibaba, Azure, Oracle;
/// AWS and Google over IPv6.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];
/// The prefix under which a NAT64 gateway reaches IPv4 (RFC 6052 §2.1).
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// Checks whether `address` is link-local (RFC 3927, RFC 4291 §2.5.6) or serves a cloud's instance metadata. No request
/// is made to such an address on a tenant's behalf, because the services there trust every caller.
pub fn is_link_local_or_metadata(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(v4) => v4.is_link_local() || METADATA.contains(&IpAddr::V4(v4)),
        IpAddr::V6(v6) if v6.segments()[..6] == NAT64 => {
            let [.., a, b, c, d] = v6.octets();
            is_link_local_or_metadata(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        IpAddr::V6(v6) => v6.is_unicast_link_local() || METADATA.contains(&IpAddr::V6(v6)),
    }
}

/// Parses `10.1.2.0/24` or a single address, which is a network of one.
///
/// Refuses host bits after the prefix: `10.1.2.3/24` is nearly always a typing mistake for one of two things.
pub fn parse(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(canonical(address)));
    }
    let network: IpNet =
        text.parse().map_err(|_| format!("\"{text}\" is not an IP network such as 10.1.2.0/24 or 2001:db8::/32"))?;
    if network.network() != network.addr() {
        return Err(format!(
            "\"{text}\" has bits set after its prefix; write {} for the network or {} for the address",
            network.trunc(),
            network.addr()
        ));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_counts_as_ipv4() {
        let networks = [parse("10.1.2.0/24").expect("a network")];
        assert!(contains(&networks, "::ffff:10.1.2.3".parse().expect("an address")));
        assert!(!contains(&networks, "10.1.3.1".parse().expect("an address")));
    }

    #[test]
    fn link_local_and_metadata_addresses_are_known_in_every_disguise() {
        let is = |text: &str| is_link_local_or_metadata(text.parse().expect(text));
        for bad in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "fe80::1",
            "febf::1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
        ] {
            assert!(is(bad), "{bad}");
        }
        for good in ["127.0.0.1", "10.0.0.1", "169.253.1.1", "::1", "fd00:ec2::253", "fec0::1", "2001:db8::a9fe:a9fe"] {
            assert!(!is(good), "{good}");
        }
    }

    #[test]
    fn host_bits_are_refused_with_both_readings() {
        let error = parse("10.1.2.3/24").expect_err("host bits");
        assert!(error.contains("10.1.2.0/24") && error.contains("10.1.2.3 "), "{error}");
    }
}
