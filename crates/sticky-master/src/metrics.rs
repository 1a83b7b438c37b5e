//! What is counted, for monitoring. Workers count in their scoreboards, so it costs them nothing
//! to be looked at.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use common::histogram::{Distribution, Histogram};
use common::scoreboard::Counters;

use crate::status::WorkerStatus;

/// What one worker process counted since its start, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Sockets that it got from a master.
    pub handoffs: u64,
    /// Sockets on their way to it that came to nothing, because it had no descriptor left; most went
    /// to another worker then.
    pub handoffs_lost: u64,
    /// Requests that it passed on to the worker whose session they name.
    pub relayed: u64,
    /// Messages, if the application counts them.
    pub messages: u64,
    /// Clients cut because they did not read.
    pub stalled: u64,
    /// TLS handshakes that failed or took too long.
    pub tls_failed: u64,
    /// Sessions that ended because too many handshakes stood alone.
    pub unfinished_ended: u64,
    /// Connections closed because they had carried as many requests as they may.
    pub requests_exceeded: u64,
    /// Connections of other nodes that could not prove that they are.
    pub strangers: u64,
    /// From the moment that the master knew whose a socket is to the worker's having it.
    pub handoff_time: Distribution,
    /// From a request that opens a session to its answer.
    pub handshake_time: Distribution,
    /// What the application took for each message that it counts.
    pub store_time: Distribution,
    /// How long after that each recipient's socket was told, as the application measures it.
    pub delivery_time: Distribution,
    /// By how much the event loop's timer was late, twice a second.
    pub event_loop_lag: Distribution,
}

impl WorkerCounts {
    /// A scoreboard's.
    pub(crate) fn read(board: &Counters) -> WorkerCounts {
        let count = |counter: &AtomicU64| counter.load(SeqCst);
        let read = Histogram::read;
        // Lost last: it is raised before `received` passes it.
        let received = count(&board.received);
        let lost = count(&board.lost);
        WorkerCounts {
            handoffs: received.saturating_sub(lost),
            handoffs_lost: lost,
            relayed: count(&board.relayed),
            messages: count(&board.messages),
            stalled: count(&board.stalled),
            tls_failed: count(&board.tls_failed),
            unfinished_ended: count(&board.unfinished_ended),
            requests_exceeded: count(&board.requests_exceeded),
            strangers: count(&board.strangers),
            handoff_time: read(&board.handoff_time),
            handshake_time: read(&board.handshake_time),
            store_time: read(&board.store_time),
            delivery_time: read(&board.delivery_time),
            event_loop_lag: read(&board.lag),
        }
    }

    /// Adds another's.
    pub(crate) fn add(&mut self, other: &WorkerCounts) {
        self.merge(other, u64::wrapping_add);
    }

    /// Takes another's off. Below zero it wraps, and is right again when they are added.
    pub(crate) fn subtract(&mut self, other: &WorkerCounts) {
        self.merge(other, u64::wrapping_sub);
    }

    fn merge(&mut self, other: &WorkerCounts, how: impl Fn(u64, u64) -> u64) {
        // By name, so that none can be forgotten.
        let WorkerCounts {
            handoffs,
            handoffs_lost,
            relayed,
            messages,
            stalled,
            tls_failed,
            unfinished_ended,
            requests_exceeded,
            strangers,
            handoff_time,
            handshake_time,
            store_time,
            delivery_time,
            event_loop_lag,
        } = self;
        for (mine, others) in [
            (handoffs, other.handoffs),
            (handoffs_lost, other.handoffs_lost),
            (relayed, other.relayed),
            (messages, other.messages),
            (stalled, other.stalled),
            (tls_failed, other.tls_failed),
            (unfinished_ended, other.unfinished_ended),
            (requests_exceeded, other.requests_exceeded),
            (strangers, other.strangers),
        ] {
            *mine = how(*mine, others);
        }
        for (mine, others) in [
            (handoff_time, &other.handoff_time),
            (handshake_time, &other.handshake_time),
            (store_time, &other.store_time),
            (delivery_time, &other.delivery_time),
            (event_loop_lag, &other.event_loop_lag),
        ] {
            mine.merge(others, &how);
        }
    }
}

/// One worker process.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    /// How it stands.
    pub status: WorkerStatus,
    /// What it counted since its start; zeroes of one that has not registered.
    pub counts: WorkerCounts,
}

/// All that a master counts, and its workers.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Every worker process, lowest id first.
    pub workers: Vec<WorkerMetrics>,
    /// What all workers counted while they were this master's, those that have ended with them.
    pub totals: WorkerCounts,
    /// Connections that it refused, by reason, in a few words.
    pub refused: Vec<(&'static str, u64)>,
    /// Silent connections that had to make room when no descriptor was left.
    pub made_room: u64,
    /// Worker processes that it started.
    pub started: u64,
    /// Worker processes that ended otherwise than they should.
    pub died: u64,
    /// Connections that wait in the master: for their request, or for a worker.
    pub waiting: u64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::scoreboard::Scoreboard;

    use super::*;

    #[test]
    fn what_is_taken_off_and_added_again_comes_to_the_difference() {
        let (board, _memory) = Scoreboard::create().unwrap();
        let beat = |messages: u64| {
            board.messages.fetch_add(messages, SeqCst);
            board.store_time.observe(Duration::from_micros(messages));
            WorkerCounts::read(&board)
        };
        let before = beat(1000);
        let after = beat(3);
        let mut total = WorkerCounts::default();
        total.subtract(&before);
        total.add(&after);
        assert_eq!(total.messages, 3);
        assert_eq!((total.store_time.count(), total.store_time.sum_us), (1, 3));
    }
}
