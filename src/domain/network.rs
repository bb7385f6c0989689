//! Source networks that narrow who may use a credential or a listener.

use std::net::IpAddr;

use ipnet::IpNet;

/// Whether `address` lies in one of `networks`. An IPv4-mapped IPv6 address counts as its IPv4 address, because a
/// dual-stack listener reports every IPv4 client that way.
pub fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = canonical(address);
    networks.iter().any(|network| network.contains(&address))
}

/// The address without the IPv4-in-IPv6 disguise (RFC 4291 §2.5.5.2).
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
    }
}

/// Parses `10.1.2.0/24` or a single address, which is a network of one.
///
/// Host bits after the prefix are refused: `10.1.2.3/24` is nearly always a typing mistake for one of two things.
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
    fn host_bits_are_refused_with_both_readings() {
        let error = parse("10.1.2.3/24").expect_err("host bits");
        assert!(error.contains("10.1.2.0/24") && error.contains("10.1.2.3 "), "{error}");
    }
}
