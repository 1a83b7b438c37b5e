//! One log line now and then for what is counted by reason: not one for each
//! case, which an attacker would only love.

use std::fmt::Write;
use std::time::Duration;

/// At most one line in that time.
pub const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// `3 not HTTP/1, 12 head too slow`: how much more there is of each reason now
/// than before; nothing when nothing changed. Both have the same reasons in the
/// same order.
pub fn difference(before: &[(&str, u64)], now: &[(&str, u64)]) -> Option<String> {
    let mut line = String::new();
    for ((_, before), (reason, now)) in before.iter().zip(now) {
        let more = now.saturating_sub(*before);
        if more > 0 {
            let comma = if line.is_empty() { "" } else { ", " };
            let _ = write!(line, "{comma}{more} {reason}");
        }
    }
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told() {
        let before = [("a", 1), ("b", 2), ("c", 0)];
        assert_eq!(difference(&before, &before), None);
        let now = [("a", 1), ("b", 5), ("c", 1)];
        assert_eq!(difference(&before, &now).as_deref(), Some("3 b, 1 c"));
    }
}
