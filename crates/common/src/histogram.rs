//! How often something took how long, in memory that two processes may see: counted by the one,
//! read by the other.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper bounds of all buckets but the last, in microseconds, each bound included: 100 µs to
/// 10 s in steps of 2 to 2.5. What is in the last took longer.
pub const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Durations, counted by bucket. Starts at zero everywhere, as a page of zeroes does.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < micros);
        // The sum first: who reads between the two finds an average that is too long, never none.
        self.sum_us.fetch_add(micros, Relaxed);
        self.buckets[bucket].fetch_add(1, Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Distribution {
        Distribution {
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }
}

/// A [`Histogram`] at a moment, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// How many are in each bucket of [`BOUNDS_US`], and how many took longer.
    pub buckets: [u64; BUCKETS],
    /// Microseconds of all together.
    pub sum_us: u64,
}

impl Distribution {
    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Merges another's counts into each of these, by adding, for one.
    pub fn merge(&mut self, other: &Distribution, how: impl Fn(u64, u64) -> u64) {
        for (mine, others) in self.buckets.iter_mut().zip(other.buckets) {
            *mine = how(*mine, others);
        }
        self.sum_us = how(self.sum_us, other.sum_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_the_last_has_no_bound() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut expected = Distribution::default();
        for bucket in [0, 0, 1, 15, 16] {
            expected.buckets[bucket] += 1;
        }
        expected.sum_us = 20_000_202;
        assert_eq!(histogram.read(), expected);
        assert_eq!(histogram.read().count(), 5);
        let mut twice = histogram.read();
        twice.merge(&histogram.read(), u64::wrapping_add);
        assert_eq!((twice.count(), twice.sum_us), (10, 40_000_404));
    }
}
