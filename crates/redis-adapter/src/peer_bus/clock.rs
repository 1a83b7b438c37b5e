//! Moments that processes of one machine tell each other: nanoseconds of `CLOCK_MONOTONIC`, which
//! all of them share, and by which [`Instant`] counts on Linux.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// A moment as it is told: never a later one.
pub(super) fn told(moment: Instant) -> u64 {
    let now = now_ns();
    now.saturating_sub(moment.elapsed().as_nanos() as u64)
}

/// A moment that was told: never a later one, nor one to come.
pub(super) fn moment(told_ns: u64) -> Instant {
    let now = Instant::now();
    let age = Duration::from_nanos(now_ns().saturating_sub(told_ns));
    // Before the clock began there is nothing to miss.
    now.checked_sub(age).unwrap_or(now)
}

fn now_ns() -> u64 {
    // Only a clock that does not exist cannot be read.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_comes_back_no_later_and_hardly_earlier() {
        let then = Instant::now() - Duration::from_secs(5);
        let back = moment(told(then));
        assert!(back <= then && then - back <= Duration::from_millis(50));
        assert!(moment(u64::MAX) <= Instant::now());
    }
}
