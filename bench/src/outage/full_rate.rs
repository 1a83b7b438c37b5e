//! Since when a cluster is at full rate again.

/// How many of `times` fall into each of the first `seconds` seconds after `start`, in nanoseconds.
pub(super) fn by_second(
    times: impl IntoIterator<Item = u64>,
    start: u64,
    seconds: usize,
) -> Vec<u64> {
    let mut counts = vec![0; seconds];
    for time in times {
        let second = time.checked_sub(start).map(|nanos| nanos / 1_000_000_000);
        if let Some(count) = second.and_then(|second| counts.get_mut(second as usize)) {
            *count += 1;
        }
    }
    counts
}

/// The first second from which on each has `enough`; `None` when the last one has not.
pub(super) fn full_rate_since(by_second: &[u64], enough: u64) -> Option<usize> {
    let short = by_second.iter().rposition(|count| *count < enough);
    let since = short.map_or(0, |short| short + 1);
    (since < by_second.len()).then_some(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn times_are_counted_by_second() {
        let times = [9, 10, 10 + SECOND - 1, 10 + SECOND, 10 + 3 * SECOND];
        assert_eq!(by_second(times, 10, 3), [2, 1, 0]);
        assert_eq!(by_second([], 10, 2), [0, 0]);
    }

    #[test]
    fn full_rate_holds_until_the_end() {
        assert_eq!(full_rate_since(&[500, 500, 500], 475), Some(0));
        assert_eq!(full_rate_since(&[0, 900, 475], 475), Some(1));
        // A burst before a second that is short does not count.
        assert_eq!(full_rate_since(&[900, 474, 500, 500], 475), Some(2));
        assert_eq!(full_rate_since(&[500, 500, 474], 475), None);
        assert_eq!(full_rate_since(&[], 475), None);
    }
}
