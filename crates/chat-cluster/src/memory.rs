//! When most of a worker's clients have left, what they took is given back to the
//! system: glibc's allocator by itself only shortens the end of its heap.

use std::time::Duration;

use common::sys::free_memory;
use sticky_worker::WorkerHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How often the number of clients is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// What fewer clients leave behind, some 25 KiB each, is not worth it.
const WORTH: u64 = 100;

/// Runs for as long as the worker.
pub(crate) async fn give_back_after_clients(worker: WorkerHandle) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ebb = Ebb::default();
    loop {
        looks.tick().await;
        if ebb.is_over(worker.clients()) {
            // Not on this thread: it takes milliseconds, with much memory more.
            let given = tokio::task::spawn_blocking(free_memory::give_back).await;
            tracing::debug!(?given, "memory of clients that left was given back");
        }
    }
}

/// Whether clients have left, and no more of them leave just now.
#[derive(Debug, Default)]
struct Ebb {
    /// The most since memory was given back.
    most: u64,
    last: u64,
}

impl Ebb {
    /// The number of clients at this look. True once after fewer than half of the most
    /// are left, when it has stopped to fall.
    fn is_over(&mut self, clients: u64) -> bool {
        let falls = clients < self.last;
        self.last = clients;
        self.most = self.most.max(clients);
        let over = !falls && clients < self.most / 2 && self.most - clients >= WORTH;
        if over {
            self.most = clients;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(clients: &[u64]) -> Vec<u32> {
        let mut ebb = Ebb::default();
        let over = clients.iter().map(|clients| ebb.is_over(*clients));
        (0..)
            .zip(over)
            .filter_map(|(at, over)| over.then_some(at))
            .collect()
    }

    #[test]
    fn memory_goes_back_once_when_clients_have_left() {
        assert_eq!(looks(&[0, 1_000, 5_000, 2_000, 0, 0, 0, 0]), [5]);
        assert_eq!(looks(&[300, 100, 100, 100, 280, 100, 100]), [2, 6]);
    }

    #[test]
    fn a_few_clients_and_those_that_come_and_go_are_no_reason() {
        for clients in [
            &[99, 0, 0, 0][..],
            &[1_000, 600, 600, 1_000, 550, 550],
            &[0, 0, 0],
        ] {
            assert!(looks(clients).is_empty(), "{clients:?}");
        }
    }
}
