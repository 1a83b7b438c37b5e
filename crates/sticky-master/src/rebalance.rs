//! Evens out: asks clients of workers that have more than their share to go, so
//! many a second. They come back to those that have the fewest.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::handoff::Packet;
use tokio::time::MissedTickBehavior;

use crate::cluster::Cluster;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// A worker with at most this part more than its share is left alone: clients
/// come and go, and asking some to move for a few is worth nothing.
const TOLERANCE: u64 = 10;

/// Looks for ever; as many clients as the cluster says are asked at most.
pub(crate) async fn run(cluster: Arc<Cluster>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let per_second = cluster.rebalance.load(SeqCst);
        if per_second == 0 {
            continue;
        }
        let pool = cluster.pool();
        let taking: Vec<_> = pool.members().filter(|one| one.takes_clients()).collect();
        let counts: Vec<_> = taking.iter().map(|member| member.clients()).collect();
        for (member, surplus) in taking.iter().zip(surplus(&counts, per_second.into())) {
            if surplus > 0 {
                tracing::debug!(worker = %member.worker, clients = surplus, "asked to shed");
                // A full channel: at the next look.
                let _ = member.channel.try_send(&Packet::Shed(surplus as u32), &[]);
            }
        }
    }
}

/// How many of its clients each worker is to send away, at most `most` in all.
fn surplus(counts: &[u64], most: u64) -> Vec<u64> {
    let total: u64 = counts.iter().sum();
    let share = total.div_ceil(counts.len().max(1) as u64);
    let tolerated = share + (share / TOLERANCE).max(1);
    let over = |count: u64| if count > tolerated { count - share } else { 0 };
    let wanted: u64 = counts.iter().map(|count| over(*count)).sum();
    let mut left = most.min(wanted);
    let mut parts = Vec::new();
    for &count in counts {
        // Rounded up, so that the last ones move too.
        let part = (over(count) * most.min(wanted))
            .div_ceil(wanted.max(1))
            .min(left);
        left -= part;
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_share_goes_at_the_pace_that_was_given() {
        assert!(surplus(&[], 10).is_empty());
        assert_eq!(surplus(&[7], 10), [0]);
        assert_eq!(surplus(&[100, 100, 100], 10), [0, 0, 0]);
        assert_eq!(surplus(&[108, 96, 96], 10), [0, 0, 0]);
        assert_eq!(surplus(&[250, 250, 0, 0, 0], 50), [25, 25, 0, 0, 0]);
        assert_eq!(surplus(&[250, 250, 0, 0, 0], 1000), [150, 150, 0, 0, 0]);
        assert_eq!(surplus(&[300, 120, 0], 7), [7, 0, 0]);
        assert_eq!(surplus(&[4, 0], 1), [1, 0]);
    }

    #[test]
    fn repeated_it_ends_within_the_tolerance() {
        let mut counts = vec![300, 200, 0, 0, 0, 0];
        for _ in 0..100 {
            let going = surplus(&counts, 20);
            for (count, going) in counts.iter_mut().zip(&going) {
                *count -= going;
            }
            for _ in 0..going.iter().sum() {
                *counts.iter_mut().min().unwrap() += 1;
            }
        }
        assert!(
            counts.iter().all(|count| (75..=93).contains(count)),
            "{counts:?}"
        );
    }
}
