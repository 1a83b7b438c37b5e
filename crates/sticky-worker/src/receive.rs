//! The worker's end of the channel to the master: takes the sockets, tells what
//! the master must know, and finds the next master when this one is gone.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use common::handoff::{MAX_ADDRESSES, Packet, SocketInfo};
use common::handoff_channel::{Channel, ChannelError, Delivery};
use common::ticket_keys::TicketKeys;
use rustix::net::AddressFamily;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::drain::{Bounds, SETTLING};
use crate::register::{Answered, Registration};
use crate::sessions::Sessions;
use crate::socket::Socket;
use crate::stream_registry::StreamRegistry;
use crate::stream_state::Origin;
use crate::tls::Ticketer;

/// Packets that may wait for a master that does not read. There are a few kinds
/// only, so a longer queue is a master that is not well.
const OUTBOX: usize = 64;

/// Why the worker shall leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// The master says so.
    Drain(Bounds),
    /// There is no place for this worker.
    Retired,
    /// There was no master for too long.
    Orphaned,
}

/// The channel and what goes with it.
pub(crate) struct Link {
    pub(crate) registration: Arc<Registration>,
    pub(crate) streams: Arc<StreamRegistry>,
    pub(crate) sessions: Arc<Sessions>,
    /// Where the master's keys go.
    pub(crate) ticketer: Option<Arc<Ticketer>>,
    /// Whether the application wants sockets.
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) draining: CancellationToken,
    pub(crate) orphan_time: Duration,
    pub(crate) leave: mpsc::UnboundedSender<Leave>,
}

/// How one channel came to its end.
enum Ended {
    MasterGone,
    Retired,
}

impl Link {
    /// Hands every received socket to `serve`; does not end before the worker
    /// does, unless it is retired or orphaned.
    pub(crate) async fn run(mut self, mut channel: Channel, serve: impl Fn(Socket, SocketInfo)) {
        let mut ready_told = false;
        loop {
            let session = Session {
                present: self.streams.begin_counting(),
                outbox: self.keys().map(Packet::TicketKeys).into_iter().collect(),
                link: &mut self,
                channel: &channel,
                serve: &serve,
                ready_told,
                leaving_known: false,
            };
            let ended = session.run().await;
            if matches!(ended, Ended::Retired) {
                self.leaves(Leave::Retired);
                return;
            }
            tracing::warn!("the master is gone; serving on");
            let wants = || *self.ready.borrow() && !self.draining.is_cancelled();
            let leaving = || self.draining.is_cancelled();
            let answered = self
                .registration
                .with_a_master(self.orphan_time, wants, leaving);
            (channel, ready_told) = match answered.await {
                Some(Answered::Welcome(channel, ready)) => (channel, ready),
                Some(Answered::Retire) => return self.leaves(Leave::Retired),
                None => return self.leaves(Leave::Orphaned),
            };
            tracing::info!("registered with the next master");
        }
    }

    /// An earlier master's, for this one.
    fn keys(&self) -> Option<TicketKeys> {
        let keys = self.ticketer.as_ref()?.keys();
        (!keys.is_empty()).then_some(keys)
    }

    fn leaves(&self, why: Leave) {
        // Nobody listens any more: the worker is about to end.
        let _ = self.leave.send(why);
    }
}

/// One channel's life.
struct Session<'a, F> {
    link: &'a mut Link,
    channel: &'a Channel,
    serve: &'a F,
    /// Connections that are counted and came from earlier masters, not told yet.
    present: Vec<IpAddr>,
    outbox: VecDeque<Packet>,
    ready_told: bool,
    /// The master knows that this worker leaves.
    leaving_known: bool,
}

impl<F: Fn(Socket, SocketInfo)> Session<'_, F> {
    async fn run(mut self) -> Ended {
        // What changed while there was no channel is told now.
        self.link.ready.mark_changed();
        if self.flush().is_err() {
            return self.take_rest();
        }
        loop {
            let draining = self.link.draining.clone();
            let streams = self.link.streams.clone();
            let board = self.link.registration.board.clone();
            let next = tokio::select! {
                received = self.channel.receive() => match received {
                    Ok(Some(delivery)) => self.take(delivery),
                    Ok(None) => return self.take_rest(),
                    Err(error) => Err(error),
                },
                () = board.progress() => self.tell(Packet::Progress),
                () = streams.closed() => self.flush(),
                Ok(()) = self.link.ready.changed() => {
                    let ready = *self.link.ready.borrow_and_update() && !draining.is_cancelled();
                    self.tell_ready(ready)
                }
                () = draining.cancelled(), if !self.leaving_known => {
                    self.leaving_known = true;
                    self.tell(Packet::Leaving)
                }
                room = self.channel.room(), if !self.outbox.is_empty() => {
                    room.map_err(ChannelError::Io).and_then(|()| self.flush())
                }
            };
            match next {
                Ok(None) => {}
                Ok(Some(ended)) => return ended,
                // A master that died while something was sent to it.
                Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return self.take_rest();
                }
                Err(error) => {
                    tracing::warn!(%error, "the master's channel is broken");
                    return self.take_rest();
                }
            }
        }
    }

    /// What a master had sent before it died is still there.
    fn take_rest(mut self) -> Ended {
        while let Ok(Some(delivery)) = self.channel.try_receive() {
            if let Ok(Some(ended)) = self.take(delivery) {
                return ended;
            }
        }
        Ended::MasterGone
    }

    fn take(&mut self, delivery: Delivery) -> Result<Option<Ended>, ChannelError> {
        match delivery.packet {
            Packet::Handoff { first, sockets } => self.take_sockets(first, sockets, delivery.fds),
            Packet::Drain {
                spread_ms,
                within_ms,
            } => {
                self.leaving_known = true;
                self.link.leaves(Leave::Drain(Bounds {
                    spread: Duration::from_millis(spread_ms.into()),
                    within: Duration::from_millis(within_ms.into()),
                }));
                Ok(None)
            }
            Packet::Shed(count) => {
                let (everybody, now) = (self.link.sessions.everybody(), Instant::now());
                let settled = everybody
                    .iter()
                    .filter(|client| client.settles_at(SETTLING) <= now);
                let asked = settled.take(count as usize);
                asked.for_each(|client| self.link.sessions.move_elsewhere(client));
                Ok(None)
            }
            Packet::Retire => Ok(Some(Ended::Retired)),
            Packet::TicketKeys(keys) => {
                if let Some(ticketer) = &self.link.ticketer {
                    ticketer.add(&keys);
                }
                Ok(None)
            }
            other => {
                tracing::warn!(?other, "unexpected packet of the master");
                Ok(None)
            }
        }
    }

    fn take_sockets(
        &mut self,
        first: u64,
        sockets: Vec<SocketInfo>,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Ended>, ChannelError> {
        let arrived = fds.len().min(sockets.len());
        let lost = sockets.len() - arrived;
        let balanced = sockets[..arrived].iter().filter(|info| info.balanced);
        let board = self.link.registration.board.clone();
        if first != board.received() {
            tracing::error!(first, expected = board.received(), "the master miscounts");
        }
        // Before a byte of any is read: the master may forget its copies.
        board.took(sockets.len() as u64, lost as u64, balanced.count() as u64);
        if lost > 0 {
            tracing::warn!(lost, "no descriptors left for sockets of the master");
            self.tell(Packet::Lost {
                first: first + arrived as u64,
                count: lost as u8,
            })?;
        }
        for (fd, info) in fds.into_iter().zip(sockets) {
            board.handed_over(info.known_us);
            match socket_of(fd) {
                Ok(socket) => (self.serve)(socket, info),
                Err(error) => {
                    tracing::warn!(%error, "a socket of the master cannot be used");
                    drop(self.link.streams.enter(Origin::handed_over(&info)));
                }
            }
        }
        Ok(None)
    }

    fn tell_ready(&mut self, ready: bool) -> Result<Option<Ended>, ChannelError> {
        if std::mem::replace(&mut self.ready_told, ready) == ready {
            return Ok(None);
        }
        self.tell(Packet::Ready(ready))
    }

    /// Sends now or, when the channel is full, later and in order.
    fn tell(&mut self, packet: Packet) -> Result<Option<Ended>, ChannelError> {
        // One Progress says all; the order of the others matters.
        if packet != Packet::Progress || !self.outbox.contains(&packet) {
            self.outbox.push_back(packet);
        }
        if self.outbox.len() > OUTBOX {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<Option<Ended>, ChannelError> {
        loop {
            if self.outbox.is_empty() {
                let addresses = self.addresses();
                self.outbox.extend(addresses);
            }
            let Some(packet) = self.outbox.front() else {
                return Ok(None);
            };
            match self.channel.try_send(packet, &[]) {
                Ok(()) => self.outbox.pop_front(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        }
    }

    /// Some of the counted connections that are there, then of those that
    /// closed.
    fn addresses(&mut self) -> Option<Packet> {
        let keep = self.present.len().saturating_sub(MAX_ADDRESSES);
        let present = self.present.split_off(keep);
        if !present.is_empty() {
            return Some(Packet::Present(present));
        }
        let closed = self.link.streams.take_closed(MAX_ADDRESSES);
        (!closed.is_empty()).then_some(Packet::Closed(closed))
    }
}

/// The descriptor as what it is.
fn socket_of(fd: OwnedFd) -> io::Result<Socket> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    match rustix::net::sockopt::socket_domain(&fd)? {
        AddressFamily::UNIX => {
            let unix = std::os::unix::net::UnixStream::from(fd);
            UnixStream::from_std(unix).map(Socket::Unix)
        }
        AddressFamily::INET | AddressFamily::INET6 => {
            TcpStream::from_std(std::net::TcpStream::from(fd)).map(Socket::Tcp)
        }
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}
