//! One registered worker as the master sees it: the sockets on their way to it
//! and what its scoreboard says. The master keeps its copy of a socket until
//! the worker has received it; if the worker dies before, nobody has read a
//! byte and another worker can have it.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use common::handoff::{Hello, MAX_SOCKETS, Packet, SocketInfo};
use common::handoff_channel::Channel;
use common::scoreboard::Scoreboard;
use common::worker_id::{Generation, WorkerId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::address_counts::AddressCounts;
use crate::balance::Candidate;
use crate::client_socket::ClientSocket;
use crate::metrics::WorkerCounts;
use crate::request_head::Claim;
use crate::status::{WorkerState, WorkerStatus};

/// Balanced sockets that may be on their way to a worker or wait there for
/// their first answer: enough to keep it busy, too few for a stampede onto a
/// newcomer.
pub(crate) const UNSETTLED_MAX: u64 = 64;
/// Sockets that may wait for room in a worker's channel, which itself holds
/// some hundred.
pub(crate) const BACKLOG_MAX: usize = 256;
/// A worker that has not taken a socket for this long gets no new clients until
/// it does.
const STALLED_AFTER: Duration = Duration::from_secs(2);
/// A worker whose event loop has not run for this long gets no new clients until it does.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// A worker that had no descriptor left for a socket gets none for this long.
/// Without it the same sockets would go to it and come back as fast as they can.
const LOST_PAUSE: Duration = Duration::from_secs(1);

/// A socket with what is needed to route it once more.
#[derive(Debug)]
pub(crate) struct Routed {
    /// The connection.
    pub socket: ClientSocket,
    /// What its first request said.
    pub claim: Claim,
    /// Whether the balancing method chose.
    pub balanced: bool,
    /// Whose connection it is, where they are counted.
    pub counted: Option<IpAddr>,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    sent: Instant,
    routed: Routed,
}

/// A registered worker.
#[derive(Debug)]
pub(crate) struct Member {
    /// Who.
    pub worker: WorkerId,
    /// Given at its start.
    pub generation: Generation,
    /// Its process id, as it said.
    pub pid: u32,
    /// That process, safe against reuse of the pid.
    pub process: OwnedFd,
    /// The way to it.
    pub channel: Arc<Channel>,
    /// Told when the backlog waits for room in the channel.
    pub blocked: Arc<Notify>,
    /// It said that new sockets are welcome.
    pub ready: bool,
    /// It drains: only its own sessions' sockets go there.
    pub leaving: bool,
    board: Scoreboard,
    next: u64,
    balanced_sent: u64,
    lost_handled: u64,
    lost_at: Option<Instant>,
    /// Its connections and those on their way to it.
    addresses: AddressCounts,
    backlog: VecDeque<Routed>,
    in_flight: VecDeque<InFlight>,
}

impl Member {
    /// A worker that said Hello.
    pub(crate) fn new(
        hello: &Hello,
        process: OwnedFd,
        channel: Arc<Channel>,
        board: Scoreboard,
    ) -> Member {
        Member {
            worker: hello.worker,
            generation: hello.generation,
            pid: hello.pid,
            process,
            channel,
            blocked: Arc::new(Notify::new()),
            ready: hello.ready,
            leaving: hello.leaving,
            lost_handled: board.lost.load(SeqCst),
            lost_at: None,
            addresses: AddressCounts::default(),
            board,
            next: hello.received,
            balanced_sent: hello.balanced_received,
            backlog: VecDeque::new(),
            in_flight: VecDeque::new(),
        }
    }

    /// Socket.IO sessions that live there.
    pub(crate) fn clients(&self) -> u64 {
        self.board.clients.load(SeqCst)
    }

    /// What waits for room in its channel.
    pub(crate) fn take_backlog(&mut self) -> impl Iterator<Item = Routed> {
        self.backlog.drain(..)
    }

    /// Whether it may get clients that are not its own.
    pub(crate) fn takes_clients(&self) -> bool {
        self.ready && !self.leaving
    }

    /// Whether it can answer for sessions that it made.
    pub(crate) fn owns_sessions(&self) -> bool {
        self.ready || self.leaving
    }

    /// What the balancer should know, unless the worker has stalled.
    /// `now_ms` is the same moment by [`common::monotonic::now_ms`].
    pub(crate) fn candidate(&self, now: Instant, now_ms: u64) -> Option<Candidate> {
        let oldest = self.in_flight.front();
        if oldest.is_some_and(|oldest| now - oldest.sent >= STALLED_AFTER)
            || self.silence(now_ms) >= SILENT_AFTER
        {
            return None;
        }
        // Settled and undecided before clients: a worker raises clients first, so
        // a client may be counted twice for a moment, and never not at all.
        let unsettled = self.unsettled();
        let on_the_way = self.held() as u64;
        Some(Candidate {
            worker: self.worker,
            load: unsettled + self.board.undecided.load(SeqCst) + self.board.clients.load(SeqCst),
            full: unsettled >= UNSETTLED_MAX
                || self.has_no_descriptors(now)
                || self.board.fd_headroom.load(SeqCst) <= on_the_way
                || self.backlog.len() >= BACKLOG_MAX,
        })
    }

    /// For how long its event loop has not run, at a time of [`common::monotonic::now_ms`].
    pub(crate) fn silence(&self, now_ms: u64) -> Duration {
        match self.board.heartbeat_ms.load(SeqCst) {
            // It has only begun, or never says.
            0 => Duration::ZERO,
            beat => Duration::from_millis(now_ms.saturating_sub(beat)),
        }
    }

    /// How it stands, with its [`counts`](Self::counts), at a time of [`common::monotonic::now_ms`].
    pub(crate) fn status(&self, counts: &WorkerCounts, now_ms: u64) -> WorkerStatus {
        let count = |counter: &AtomicU64| counter.load(SeqCst);
        let state = if self.silence(now_ms) >= SILENT_AFTER {
            WorkerState::Stuck
        } else if self.leaving {
            WorkerState::Draining
        } else if self.ready {
            WorkerState::Ready
        } else {
            WorkerState::Starting
        };
        WorkerStatus {
            id: self.worker.0,
            pid: Some(self.pid),
            generation: Some(self.generation.0),
            state,
            clients: count(&self.board.clients),
            connections: count(&self.board.connections),
            handoffs: counts.handoffs,
            relayed: counts.relayed,
            messages: counts.messages,
            event_loop_lag_us: count(&self.board.lag_us),
        }
    }

    /// What it counted since its start.
    pub(crate) fn counts(&self) -> WorkerCounts {
        WorkerCounts::read(&self.board)
    }

    /// Whether it lost a socket just now.
    pub(crate) fn has_no_descriptors(&self, now: Instant) -> bool {
        self.lost_at.is_some_and(|lost| now - lost < LOST_PAUSE)
    }

    /// Sockets that it received and has not closed, and knows to be clients'.
    pub(crate) fn connections(&self) -> u64 {
        // Received last: it is raised first.
        let others = self.board.ended.load(SeqCst) + self.board.undecided.load(SeqCst);
        self.board.received.load(SeqCst).saturating_sub(others)
    }

    /// Whether it can open one more descriptor.
    pub(crate) fn has_room(&self) -> bool {
        self.board.fd_headroom.load(SeqCst) > self.held() as u64
    }

    /// Its connections of that address.
    pub(crate) fn of_address(&self, address: IpAddr) -> u32 {
        self.addresses.of(address)
    }

    /// It has these from an earlier master.
    pub(crate) fn present(&mut self, addresses: &[IpAddr]) {
        addresses.iter().for_each(|one| self.addresses.came(*one));
    }

    /// These are closed.
    pub(crate) fn closed(&mut self, addresses: &[IpAddr]) {
        addresses.iter().for_each(|one| self.addresses.left(*one));
    }

    /// Sockets on their way to it, of which the master has a copy.
    pub(crate) fn held(&self) -> usize {
        self.in_flight.len() + self.backlog.len()
    }

    fn unsettled(&self) -> u64 {
        self.balanced_sent
            .saturating_sub(self.board.settled.load(SeqCst))
    }

    /// Queues a socket for [`flush`](Self::flush); gives it back when too many
    /// wait.
    pub(crate) fn stage(&mut self, routed: Routed) -> Option<Routed> {
        if self.backlog.len() >= BACKLOG_MAX {
            return Some(routed);
        }
        self.balanced_sent += u64::from(routed.balanced);
        if let Some(address) = routed.counted {
            self.addresses.came(address);
        }
        self.backlog.push_back(routed);
        None
    }

    /// Sends what is staged, several sockets in a message, as far as the channel
    /// has room; `blocked` is told of a rest. The error is of a broken channel,
    /// whose end of file tells the rest.
    pub(crate) fn flush(&mut self, now: Instant) -> io::Result<()> {
        while !self.backlog.is_empty() {
            match self.send_batch() {
                Ok(count) => {
                    for routed in self.backlog.drain(..count) {
                        self.in_flight.push_back(InFlight {
                            number: self.next,
                            sent: now,
                            routed,
                        });
                        self.next += 1;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.notify_one();
                    break;
                }
                broken => return broken.map(|_| ()),
            }
        }
        Ok(())
    }

    fn send_batch(&self) -> io::Result<usize> {
        let batch = || self.backlog.iter().take(MAX_SOCKETS);
        let info = |routed: &Routed| SocketInfo {
            peer: routed.socket.peer(),
            counted: routed.counted,
            speaks: routed.socket.speaks(),
            balanced: routed.balanced,
            known_us: routed.socket.known_us(),
        };
        let packet = Packet::Handoff {
            first: self.next,
            sockets: batch().map(info).collect(),
        };
        let fds: Vec<_> = batch().map(|routed| routed.socket.as_fd()).collect();
        self.channel.try_send(&packet, &fds)?;
        Ok(fds.len())
    }

    /// Drops the copies of what the worker has received. False when some are
    /// left.
    pub(crate) fn release_received(&mut self) -> bool {
        let received = self.board.received.load(SeqCst);
        // Among those received may be lost ones, which a packet is about to
        // name: then all copies stay until it has.
        if self.board.lost.load(SeqCst) > self.lost_handled {
            return self.in_flight.is_empty();
        }
        while self
            .in_flight
            .front()
            .is_some_and(|copy| copy.number < received)
        {
            self.in_flight.pop_front();
        }
        self.in_flight.is_empty()
    }

    /// Asks the worker to send Progress at the next change.
    pub(crate) fn ask_wake(&self) {
        self.board.ask_wake();
    }

    /// The kernel closed these sockets on their way: takes the copies back.
    pub(crate) fn take_lost(&mut self, first: u64, count: u8, now: Instant) -> Vec<Routed> {
        self.lost_handled += u64::from(count);
        self.lost_at = Some(now);
        let lost = first..first.saturating_add(count.into());
        let (taken, kept) = std::mem::take(&mut self.in_flight)
            .into_iter()
            .partition::<Vec<_>, _>(|copy| lost.contains(&copy.number));
        self.in_flight = kept.into();
        let taken: Vec<_> = taken.into_iter().map(|copy| copy.routed).collect();
        for address in taken.iter().filter_map(|routed| routed.counted) {
            self.addresses.left(address);
        }
        // They will never be settled.
        self.balanced_sent -= taken.iter().filter(|routed| routed.balanced).count() as u64;
        self.release_received();
        taken
    }

    /// The worker is dead: what it never received.
    pub(crate) fn into_unreceived(mut self) -> Vec<Routed> {
        // Its losses need no packet any more: it read nothing of them.
        self.lost_handled = u64::MAX;
        self.release_received();
        let copies = self.in_flight.into_iter().map(|copy| copy.routed);
        copies.chain(self.backlog).collect()
    }
}
