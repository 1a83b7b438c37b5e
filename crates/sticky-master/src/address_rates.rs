//! How fast new clients of each address come. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use common::pace::{Pace, Rate};
use tokio::time::Instant;

/// What may come at once after a pause: as many as in that time. An office comes back in a moment when
/// its line does.
const BURST: Duration = Duration::from_secs(5);

/// From so many addresses on, those that have a full bucket again are forgotten before another is
/// added.
const SWEEP_FROM: usize = 1024;

/// The addresses that came lately.
#[derive(Debug)]
pub(crate) struct AddressRates {
    rate: Rate,
    paces: HashMap<IpAddr, Pace>,
    sweep_at: usize,
}

impl AddressRates {
    /// So many a second are let in, at least 1.
    pub(crate) fn new(per_second: u32) -> AddressRates {
        AddressRates {
            rate: Rate {
                interval: Duration::from_secs(1) / per_second.max(1),
                burst: BURST,
            },
            paces: HashMap::new(),
            sweep_at: SWEEP_FROM,
        }
    }

    /// One more of that address. False, and it does not count, when it came too soon.
    pub(crate) fn admits(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.paces.len() >= self.sweep_at && !self.paces.contains_key(&address) {
            self.paces.retain(|_, pace| !pace.is_over(now));
            // So that a look at all of them is paid for by as many that came.
            self.sweep_at = SWEEP_FROM.max(self.paces.len() * 2);
        }
        self.paces
            .entry(address)
            .or_default()
            .admits(Some(self.rate), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u32) -> IpAddr {
        IpAddr::from(last.to_be_bytes())
    }

    #[test]
    fn a_burst_then_an_even_pace_for_each_address_alone() {
        let (mut rates, begin) = (AddressRates::new(2), Instant::now());
        for _ in 0..10 {
            assert!(rates.admits(address(1), begin));
        }
        assert!(!rates.admits(address(1), begin));
        assert!(rates.admits(address(2), begin));
        // Who was refused may come at the time at which another would have been let in.
        assert!(!rates.admits(address(1), begin + Duration::from_millis(499)));
        assert!(rates.admits(address(1), begin + Duration::from_millis(500)));
        assert!(!rates.admits(address(1), begin + Duration::from_millis(501)));
    }

    #[test]
    fn addresses_that_have_gone_take_no_memory() {
        let (mut rates, begin) = (AddressRates::new(1), Instant::now());
        for second in 0..100u32 {
            let now = begin + Duration::from_secs(u64::from(second) * 2);
            for client in 0..1000 {
                assert!(rates.admits(address(second * 1000 + client), now));
            }
        }
        assert!(rates.paces.len() <= 2 * SWEEP_FROM, "{}", rates.paces.len());
    }
}
