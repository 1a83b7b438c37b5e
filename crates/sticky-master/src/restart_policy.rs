//! How long to wait before a worker that died is started again. Pure.

use std::time::Duration;

/// A worker that was ready and lived this long after its start did not die of
/// starting: the count of failures begins anew.
const PROVEN: Duration = Duration::from_secs(2);
/// The first pause; it doubles with each further death.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: a cause that was mended is noticed within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The same for a worker that did serve: it can, and something else kills it.
const LONGEST_AFTER_SERVING: Duration = Duration::from_millis(500);
/// The same for a worker that was not ready, where others before it served: it was
/// killed while it started.
const LONGEST_AMONG_SERVING: Duration = Duration::from_secs(2);
/// After that many deaths in a row an operator should look.
pub(crate) const LOUD_AFTER: u32 = 10;

/// The restarts of one seat.
#[derive(Debug, Default)]
pub(crate) struct RestartPolicy {
    failures: u32,
    /// Of these, those that never served.
    never_ready: u32,
}

impl RestartPolicy {
    /// The pause after a death: none after the first, then exponential, to a bound
    /// that is low where one has served. `ready`: whether the process ever did.
    pub(crate) fn after_death(&mut self, lived: Duration, ready: bool) -> Duration {
        if ready && lived >= PROVEN {
            *self = RestartPolicy::default();
        }
        self.failures = self.failures.saturating_add(1);
        let any = doubled(self.failures, LONGEST_AFTER_SERVING);
        if ready {
            return any;
        }
        self.never_ready = self.never_ready.saturating_add(1);
        let longest = match self.failures - self.never_ready {
            0 => LONGEST_PAUSE,
            _ => LONGEST_AMONG_SERVING,
        };
        any.max(doubled(self.never_ready, longest))
    }

    /// Deaths in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

/// The pause after so many deaths.
fn doubled(deaths: u32, longest: Duration) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        more => FIRST_PAUSE
            .saturating_mul(1 << (more - 2).min(16))
            .min(longest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_costs_nothing_and_a_loop_backs_off_to_a_bound() {
        let mut policy = RestartPolicy::default();
        let pauses: Vec<_> = (0..12)
            .map(|_| {
                policy
                    .after_death(Duration::from_millis(5), false)
                    .as_millis()
            })
            .collect();
        let expected = [
            0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000,
        ];
        assert_eq!(pauses, expected);
        assert_eq!(policy.failures(), 12);
    }

    #[test]
    fn who_is_killed_again_and_again_while_serving_is_soon_replaced() {
        let mut policy = RestartPolicy::default();
        for _ in 0..100 {
            let pause = policy.after_death(Duration::from_millis(500), true);
            assert!(pause <= LONGEST_AFTER_SERVING);
        }
    }

    #[test]
    fn who_is_killed_while_it_starts_and_while_it_serves_is_soon_replaced() {
        let mut policy = RestartPolicy::default();
        for _ in 0..100 {
            for ready in [true, false, false] {
                let pause = policy.after_death(Duration::from_millis(500), ready);
                assert!(pause <= LONGEST_AMONG_SERVING);
            }
        }
    }

    #[test]
    fn a_worker_that_served_is_replaced_at_once() {
        let mut policy = RestartPolicy::default();
        for _ in 0..5 {
            policy.after_death(Duration::ZERO, false);
        }
        assert_eq!(policy.after_death(PROVEN, true), Duration::ZERO);
        assert_ne!(policy.after_death(PROVEN, false), Duration::ZERO);
    }
}
