//! The worker's scoreboard with the one rule that goes with each counter: what
//! the master may be asleep for is told. Sends nothing itself: it wakes the
//! task that holds the channel.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::monotonic;
use common::scoreboard::Scoreboard;
use common::tally_line::{LINE_INTERVAL, difference};
use tokio::sync::Notify;

/// How often the event loop shows that it runs.
const BEAT: Duration = Duration::from_millis(500);

/// Counters that the master sees.
#[derive(Debug)]
pub(crate) struct Board {
    shared: Scoreboard,
    progress: Notify,
    /// Balanced sockets received from any master so far.
    balanced: AtomicU64,
    /// Connections that the limit of open files leaves room for.
    capacity: AtomicU64,
    /// Connections to other workers.
    relays: AtomicU64,
}

impl Board {
    /// A new board and the descriptor that goes with the Hello.
    pub(crate) fn create() -> io::Result<(Board, OwnedFd)> {
        let (shared, memory) = Scoreboard::create()?;
        let board = Board {
            shared,
            progress: Notify::new(),
            balanced: AtomicU64::new(0),
            capacity: AtomicU64::new(0),
            relays: AtomicU64::new(0),
        };
        Ok((board, memory))
    }

    /// Resolves when the master waits for a change that happened.
    pub(crate) async fn progress(&self) {
        self.progress.notified().await;
    }

    /// Sockets taken off the channel so far.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// How many of them were balanced.
    pub(crate) fn balanced(&self) -> u64 {
        self.balanced.load(Ordering::SeqCst)
    }

    /// A message's sockets are ours now, or lost for us: `lost` of `count`.
    pub(crate) fn took(&self, count: u64, lost: u64, balanced: u64) {
        self.balanced.fetch_add(balanced, Ordering::SeqCst);
        self.shared.lost.fetch_add(lost, Ordering::SeqCst);
        self.ended(lost);
        self.shared.received.fetch_add(count, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn undecided(&self) {
        self.shared.undecided.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn decided(&self) {
        self.shared.undecided.fetch_sub(1, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn settled(&self) {
        self.shared.settled.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn client_came(&self) {
        self.shared.clients.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn client_left(&self) {
        self.shared.clients.fetch_sub(1, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn clients(&self) -> u64 {
        self.shared.clients.load(Ordering::SeqCst)
    }

    pub(crate) fn connection_came(&self) {
        self.shared.connections.fetch_add(1, Ordering::SeqCst);
        self.publish_headroom();
    }

    pub(crate) fn connection_left(&self) {
        self.shared.connections.fetch_sub(1, Ordering::SeqCst);
        self.publish_headroom();
    }

    pub(crate) fn relay_opened(&self) {
        self.relays.fetch_add(1, Ordering::SeqCst);
        self.publish_headroom();
    }

    pub(crate) fn relay_closed(&self) {
        self.relays.fetch_sub(1, Ordering::SeqCst);
        self.publish_headroom();
    }

    pub(crate) fn relayed(&self) {
        self.shared.relayed.fetch_add(1, Ordering::SeqCst);
    }

    /// So many sockets of the master's are closed, or never came.
    pub(crate) fn ended(&self, sockets: u64) {
        self.shared.ended.fetch_add(sockets, Ordering::SeqCst);
    }

    pub(crate) fn tls_failed(&self) {
        self.shared.tls_failed.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn unfinished_ended(&self) {
        self.shared.unfinished_ended.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn requests_exceeded(&self) {
        self.shared.requests_exceeded.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn stranger(&self) {
        self.shared.strangers.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn stalled(&self) {
        self.shared.stalled.fetch_add(1, Ordering::SeqCst);
    }

    /// A socket is here that the master knew whose it is since then, by [`monotonic::now_us`].
    pub(crate) fn handed_over(&self, known_us: u64) {
        let took = monotonic::now_us().saturating_sub(known_us);
        self.shared
            .handoff_time
            .observe(Duration::from_micros(took));
    }

    /// A request that opens a session was answered.
    pub(crate) fn handshake(&self, took: Duration) {
        self.shared.handshake_time.observe(took);
    }

    pub(crate) fn message(&self, took: Duration) {
        self.shared.messages.fetch_add(1, Ordering::SeqCst);
        self.shared.store_time.observe(took);
    }

    pub(crate) fn delivery(&self, took: Duration) {
        self.shared.delivery_time.observe(took);
    }

    /// How many connections there may be.
    pub(crate) fn set_capacity(&self, connections: u64) {
        self.capacity.store(connections, Ordering::SeqCst);
        self.publish_headroom();
    }

    fn publish_headroom(&self) {
        let connections = self.shared.connections.load(Ordering::SeqCst);
        let taken = connections + self.relays.load(Ordering::SeqCst);
        let free = self.capacity.load(Ordering::SeqCst).saturating_sub(taken);
        let before = self.shared.fd_headroom.swap(free, Ordering::SeqCst);
        if before == 0 && free > 0 {
            self.wake();
        }
    }

    /// Shows for ever that the event loop runs.
    pub(crate) async fn keep_beating(&self) {
        let mut beat = tokio::time::interval(BEAT);
        loop {
            let due = beat.tick().await;
            let lag = due.elapsed();
            self.shared.lag.observe(lag);
            let lag = u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
            self.shared.lag_us.store(lag, Ordering::SeqCst);
            let now_ms = monotonic::now_ms();
            self.shared.heartbeat_ms.store(now_ms, Ordering::SeqCst);
        }
    }

    /// Tells for ever, in the log, who was not served as they wished.
    pub(crate) async fn tell(&self) {
        let mut told = self.limits();
        loop {
            tokio::time::sleep(LINE_INTERVAL).await;
            let now = self.limits();
            if let Some(line) = difference(&told, &now) {
                tracing::warn!(connections = line, "limits were met");
            }
            told = now;
        }
    }

    fn limits(&self) -> [(&'static str, u64); 4] {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        [
            ("did not read", count(&self.shared.stalled)),
            ("failed to shake hands", count(&self.shared.tls_failed)),
            (
                "handshakes without a second request",
                count(&self.shared.unfinished_ended),
            ),
            ("were no node of the cluster", count(&self.shared.strangers)),
        ]
    }

    /// Whether there is room for more descriptors.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.fd_headroom.load(Ordering::SeqCst) > 0
    }

    fn wake(&self) {
        if self.shared.take_wake() {
            self.progress.notify_one();
        }
    }

    #[cfg(test)]
    pub(crate) fn counters(&self) -> &common::scoreboard::Counters {
        &self.shared
    }
}
