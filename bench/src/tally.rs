//! What a generator counted; tallies of several processes add up.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Times with three significant digits, up to ten minutes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Recorded", into = "Recorded")]
pub(crate) struct Latencies(Histogram<u64>);

/// Longest time that is told apart: 10 minutes.
const NANOS_MAX: u64 = 600_000_000_000;

impl Default for Latencies {
    fn default() -> Self {
        // Cannot fail: the bounds are constants that the histogram accepts.
        Latencies(Histogram::new_with_bounds(1_000, NANOS_MAX, 3).expect("sound bounds"))
    }
}

impl Latencies {
    /// One time, in nanoseconds.
    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// In milliseconds; `None` when nothing was recorded.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e6;
        (!self.0.is_empty()).then(|| Summary {
            count: self.0.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        })
    }
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// A histogram on its way to another process: its values with their counts.
#[derive(Serialize, Deserialize)]
struct Recorded(Vec<(u64, u64)>);

impl From<Latencies> for Recorded {
    fn from(latencies: Latencies) -> Recorded {
        let values = latencies.0.iter_recorded();
        Recorded(
            values
                .map(|v| (v.value_iterated_to(), v.count_since_last_iteration()))
                .collect(),
        )
    }
}

impl From<Recorded> for Latencies {
    fn from(recorded: Recorded) -> Latencies {
        let mut latencies = Latencies::default();
        for (value, count) in recorded.0 {
            latencies.0.saturating_record_n(value, count);
        }
        latencies
    }
}

/// Problems that are told in words; the others are only counted.
const PROBLEMS_MAX: usize = 5;

/// Counts and times of one scenario.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Units of work that were done within the measured time.
    pub(crate) units: u64,
    pub(crate) latencies: BTreeMap<String, Latencies>,
    pub(crate) counts: BTreeMap<String, u64>,
    /// The first few things that went wrong.
    pub(crate) problems: Vec<String>,
}

impl Tally {
    pub(crate) fn record(&mut self, what: &str, nanos: u64) {
        match self.latencies.get_mut(what) {
            Some(latencies) => latencies.record(nanos),
            None => self
                .latencies
                .entry(what.to_owned())
                .or_default()
                .record(nanos),
        }
    }

    pub(crate) fn count(&mut self, what: &str, add: u64) {
        match self.counts.get_mut(what) {
            Some(count) => *count += add,
            None => {
                self.counts.insert(what.to_owned(), add);
            }
        }
    }

    /// Something failed: counted as `failed`, the first ones in words.
    pub(crate) fn problem(&mut self, error: &anyhow::Error) {
        self.count("failed", 1);
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(format!("{error:#}"));
        }
    }

    /// After the warm-up: what went wrong in it stays.
    pub(crate) fn forget_measurements(&mut self) {
        self.units = 0;
        self.latencies.clear();
    }

    /// Adds what another process counted.
    pub(crate) fn add(&mut self, other: Tally) {
        self.units += other.units;
        for (what, latencies) in other.latencies {
            let own = self.latencies.entry(what).or_default();
            // Cannot fail: all have the same bounds.
            own.0.add(&latencies.0).expect("histograms of one kind");
        }
        for (what, count) in other.counts {
            self.count(&what, count);
        }
        let room = PROBLEMS_MAX.saturating_sub(self.problems.len());
        self.problems.extend(other.problems.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up_after_a_way_as_json() {
        let mut one = Tally::default();
        for millis in 1..=100 {
            one.record("ack", millis * 1_000_000);
        }
        one.count("lost", 2);
        one.problem(&anyhow::anyhow!("cause").context("what"));
        let json = serde_json::to_string(&one).unwrap();
        let mut sum: Tally = serde_json::from_str(&json).unwrap();
        sum.add(one);
        let summary = sum.latencies["ack"].summary().unwrap();
        assert_eq!(summary.count, 200);
        assert!((summary.p50 - 50.0).abs() < 0.1, "{summary:?}");
        assert!((summary.max - 100.0).abs() < 0.2, "{summary:?}");
        assert_eq!(sum.counts["lost"], 4);
        assert_eq!(sum.problems, ["what: cause", "what: cause"]);
    }
}
