//! How fast something may come: so many in a time, after a burst of as many as another time allows.
//! What has come is kept as one moment, so it costs as little for each of many clients.

use std::time::Duration;

use tokio::time::Instant;

/// What is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Between two at an even pace.
    pub interval: Duration,
    /// So many may come at once after a pause as are due in that time.
    pub burst: Duration,
}

/// What one client has used of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When the next one would be due at an even pace.
    due: Option<Instant>,
}

impl Pace {
    /// Takes note of one more, if there is a limit. Returns for how long it has to wait.
    pub fn next(&mut self, rate: Option<Rate>, now: Instant) -> Duration {
        let Some(rate) = rate else {
            return Duration::ZERO;
        };
        let due = self.due.map_or(now, |due| due.max(now)) + rate.interval;
        self.due = Some(due);
        due.saturating_duration_since(now + rate.burst)
    }

    /// The same for what cannot wait: false, and it does not count, when it came too soon.
    pub fn admits(&mut self, rate: Option<Rate>, now: Instant) -> bool {
        let before = *self;
        let admitted = self.next(rate, now).is_zero();
        if !admitted {
            *self = before;
        }
        admitted
    }

    /// Whether all of the burst may come again, as if nothing had come before.
    pub fn is_over(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_comes_at_once_and_then_an_even_stream() {
        let ten = Some(Rate {
            interval: Duration::from_millis(100),
            burst: Duration::from_secs(1),
        });
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
        assert!(!pace.is_over(now));
        now += Duration::from_secs(60);
        assert!(pace.is_over(now));
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
