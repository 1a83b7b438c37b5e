//! How long to wait before the next attempt to connect. Pure but for its dice.

use std::time::Duration;

/// Doubling pauses with jitter, so that many processes that lost one server do
/// not come back at the same moment.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            next: min,
        }
    }

    /// After success the next failure starts anew.
    pub(super) fn reset(&mut self) {
        self.next = self.min;
    }

    /// The next pause: between a half and all of what is due.
    pub(super) fn pause(&mut self) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(self.max);
        // Without randomness the pause is only less spread.
        let dice = getrandom::u32().unwrap_or(u32::MAX);
        due / 2 + (due / 2).mul_f64(f64::from(dice) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_start_anew_after_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(300));
        for due in [50, 100, 200, 300, 300] {
            let pause = backoff.pause();
            assert!(
                ms(due / 2) <= pause && pause <= ms(due),
                "{pause:?} of {due}"
            );
        }
        backoff.reset();
        assert!(backoff.pause() <= ms(50));
    }
}
