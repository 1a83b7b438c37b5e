//! What a worker shows its master without a message: counters in a page that
//! both have mapped. The worker writes, the master reads when it chooses a
//! worker; the one word the master writes asks to be woken.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Histogram;
use crate::sys::shared_page::{Shareable, SharedPage};

/// Says that the page is a scoreboard of this layout.
const LAYOUT: u64 = u64::from_be_bytes(*b"ccboard4");

/// The counters, each written by the worker only. All start at 0.
#[repr(C)]
#[derive(Debug)]
pub struct Counters {
    layout: AtomicU64,
    wanted: AtomicU64,
    /// Sockets taken off the channel, lost ones included: the number of the
    /// next socket. Raised before a byte of the socket is read, so the master
    /// may give any later one to another worker.
    pub received: AtomicU64,
    /// Sockets that the kernel closed on their way; raised before `received`
    /// passes them, and told in [`crate::handoff::Packet::Lost`].
    pub lost: AtomicU64,
    /// Balanced sockets of which the worker knows what they are: the first
    /// request was answered, or opens no session, or the connection is gone.
    /// `clients` is raised before.
    pub settled: AtomicU64,
    /// Connections of which the worker does not know yet what they are: TLS
    /// without a request, other nodes that have not proved to be one. They count
    /// as settled, since they take the other side's time, and as load; and for
    /// the limit of connections they do not count yet.
    pub undecided: AtomicU64,
    /// Socket.IO sessions that live now.
    pub clients: AtomicU64,
    /// Client connections open now.
    pub connections: AtomicU64,
    /// How many more descriptors the worker can take; 0: send nothing.
    pub fd_headroom: AtomicU64,
    /// Requests relayed to the worker that owns their session.
    pub relayed: AtomicU64,
    /// Clients cut because they did not read.
    pub stalled: AtomicU64,
    /// Of the sockets `received`, those that are closed or were lost.
    pub ended: AtomicU64,
    /// TLS handshakes that failed or took too long.
    pub tls_failed: AtomicU64,
    /// Sessions that ended because too many handshakes stood alone.
    pub unfinished_ended: AtomicU64,
    /// Connections closed because they had carried as many requests as they
    /// may.
    pub requests_exceeded: AtomicU64,
    /// Relayed connections of other nodes that could not prove that they are.
    pub strangers: AtomicU64,
    /// Milliseconds of `CLOCK_MONOTONIC` when the event loop last ran its
    /// timer.
    pub heartbeat_ms: AtomicU64,
    /// By how many microseconds that timer was late.
    pub lag_us: AtomicU64,
    /// What the application counts as messages.
    pub messages: AtomicU64,
    /// From the moment that the master knew whose a socket is to the worker's having it.
    pub handoff_time: Histogram,
    /// From a request that opens a session to its answer.
    pub handshake_time: Histogram,
    /// What the application took for each message that it counts.
    pub store_time: Histogram,
    /// How long after that each recipient's socket was told, as the application measures it.
    pub delivery_time: Histogram,
    /// By how much the timer of `heartbeat_ms` was late, each time.
    pub lag: Histogram,
}

// SAFETY: repr(C), atomic integers only, far below a page.
unsafe impl Shareable for Counters {}

/// A mapped scoreboard.
#[derive(Debug)]
pub struct Scoreboard(SharedPage<Counters>);

impl Scoreboard {
    /// A worker's new board, and the descriptor that goes with its Hello.
    pub fn create() -> io::Result<(Scoreboard, OwnedFd)> {
        let (page, memory) = SharedPage::<Counters>::create("scoreboard")?;
        page.get().layout.store(LAYOUT, Ordering::SeqCst);
        Ok((Scoreboard(page), memory))
    }

    /// The master's view of a worker's board. `InvalidData` when it is not one.
    pub fn open(memory: &impl AsFd) -> io::Result<Scoreboard> {
        let page = SharedPage::<Counters>::open(memory)?;
        if page.get().layout.load(Ordering::SeqCst) != LAYOUT {
            let why = "the page is not a scoreboard of this layout";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Scoreboard(page))
    }

    /// Master: have the worker send [`crate::handoff::Packet::Progress`] after
    /// the next change. Read the counters once more after the call: a change
    /// before it wakes nobody.
    pub fn ask_wake(&self) {
        self.0.get().wanted.store(1, Ordering::SeqCst);
    }

    /// Worker: after a change of `received`, `settled`, `clients` (downwards)
    /// or `fd_headroom` (from 0), whether the master asked to be woken; then a
    /// Progress packet is due. Clears the wish.
    pub fn take_wake(&self) -> bool {
        let wanted = &self.0.get().wanted;
        // The load keeps the common case free of a locked write.
        wanted.load(Ordering::SeqCst) != 0 && wanted.swap(0, Ordering::SeqCst) != 0
    }
}

/// All access is by `Ordering::SeqCst`: the wish to be woken is a handshake of
/// two variables, which weaker orders would let slip.
impl std::ops::Deref for Scoreboard {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_master_sees_what_the_worker_counts() {
        let (worker, memory) = Scoreboard::create().unwrap();
        let master = Scoreboard::open(&memory).unwrap();
        worker.clients.fetch_add(3, Ordering::SeqCst);
        assert_eq!(master.clients.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_wish_to_be_woken_is_taken_once() {
        let (worker, memory) = Scoreboard::create().unwrap();
        let master = Scoreboard::open(&memory).unwrap();
        assert!(!worker.take_wake());
        master.ask_wake();
        assert!(worker.take_wake());
        assert!(!worker.take_wake());
    }

    /// What workers in other languages rely on: `docs/handoff.md`.
    #[test]
    fn the_layout_is_the_documented_one() {
        use std::mem::offset_of;
        assert_eq!(LAYOUT, 0x6363_626f_6172_6434);
        assert_eq!(offset_of!(Counters, wanted), 8);
        assert_eq!(offset_of!(Counters, received), 16);
        assert_eq!(offset_of!(Counters, settled), 32);
        assert_eq!(offset_of!(Counters, fd_headroom), 64);
        assert_eq!(offset_of!(Counters, ended), 88);
        assert_eq!(offset_of!(Counters, heartbeat_ms), 128);
        assert_eq!(offset_of!(Counters, messages), 144);
        assert_eq!(offset_of!(Counters, handoff_time), 152);
        assert_eq!(offset_of!(Counters, handshake_time), 152 + 144);
        assert_eq!(size_of::<Counters>(), 152 + 5 * 144);
    }

    #[test]
    fn another_page_is_not_a_scoreboard() {
        let (_page, memory) = SharedPage::<Counters>::create("other").unwrap();
        let error = Scoreboard::open(&memory).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
