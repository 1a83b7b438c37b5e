//! How fast one socket's events are dealt with: a bucket that a second fills, kept as one moment.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// So much may come at once after a pause: what a second allows.
const BURST: Duration = Duration::from_secs(1);

/// What one socket has used of its allowance.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When what it sent would have been due at an even pace.
    due: Option<Instant>,
}

impl Pace {
    /// Takes note of an event, of which `per_second` are allowed, if there is a limit. Returns for how
    /// long it has to wait.
    pub(super) fn next(&mut self, per_second: Option<NonZeroU32>, now: Instant) -> Duration {
        let Some(per_second) = per_second else {
            return Duration::ZERO;
        };
        let due = self.due.map_or(now, |due| due.max(now)) + BURST / per_second.get();
        self.due = Some(due);
        due.saturating_duration_since(now + BURST)
    }

    /// The same for what cannot wait: false, and it does not count, when it came too soon.
    pub(super) fn admits(&mut self, per_second: Option<NonZeroU32>, now: Instant) -> bool {
        let before = self.due;
        let admitted = self.next(per_second, now).is_zero();
        if !admitted {
            self.due = before;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_comes_at_once_and_then_an_even_stream() {
        let ten = NonZeroU32::new(10);
        let (mut pace, begin) = (Pace::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(pace.next(ten, begin), Duration::ZERO);
        }
        assert_eq!(pace.next(ten, begin), Duration::from_millis(100));
        assert_eq!(pace.next(ten, begin), Duration::from_millis(200));
        // After the two have waited, who keeps to the pace never waits.
        let mut now = begin + Duration::from_millis(200);
        for _ in 0..100 {
            now += Duration::from_millis(100);
            assert_eq!(pace.next(ten, now), Duration::ZERO);
        }
        now += Duration::from_secs(60);
        for _ in 0..10 {
            assert!(pace.admits(ten, now));
        }
        assert!(!pace.admits(ten, now));
        // What was refused does not count.
        assert!(!pace.admits(ten, now + Duration::from_millis(50)));
        assert!(pace.admits(ten, now + Duration::from_millis(100)));
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let mut pace = Pace::default();
        for _ in 0..100_000 {
            assert_eq!(pace.next(None, Instant::now()), Duration::ZERO);
        }
    }
}
