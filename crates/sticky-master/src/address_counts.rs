//! How many connections there are of each client address. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Of an IPv6 address the network part counts: a client has all the rest.
const V6_PREFIX: u32 = 64;

/// Counts by address.
#[derive(Debug, Default)]
pub(crate) struct AddressCounts(HashMap<IpAddr, u32>);

/// What is counted for a client of this address.
pub(crate) fn counted(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !0 << (128 - V6_PREFIX)).into(),
        v4 => v4,
    }
}

impl AddressCounts {
    /// Connections of that address.
    pub(crate) fn of(&self, address: IpAddr) -> u32 {
        self.0.get(&address).copied().unwrap_or(0)
    }

    /// One more.
    pub(crate) fn came(&mut self, address: IpAddr) {
        *self.0.entry(address).or_default() += 1;
    }

    /// One less. What is not there any more takes no memory.
    pub(crate) fn left(&mut self, address: IpAddr) {
        if let Some(count) = self.0.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_left_is_forgotten() {
        let mut counts = AddressCounts::default();
        let address = IpAddr::from([127, 0, 0, 1]);
        counts.left(address);
        counts.came(address);
        counts.came(address);
        assert_eq!(counts.of(address), 2);
        counts.left(address);
        counts.left(address);
        assert_eq!(counts.of(address), 0);
        assert!(counts.0.is_empty());
    }

    #[test]
    fn neighbours_of_one_ipv6_network_are_one() {
        let of = |text: &str| counted(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::7"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::7"), of("2001:db8:1:3::7"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
