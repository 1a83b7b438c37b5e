//! The worker's end of the channel to the master: takes the sockets, tells what
//! the master must know, and finds the next master when this one is gone.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use common::handoff::{Packet, SocketInfo};
use common::handoff_channel::{Channel, ChannelError, Delivery};
use rustix::net::AddressFamily;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::client_stream::Socket;
use crate::register::{Answered, Registration};

/// Packets that may wait for a master that does not read. There are a few kinds
/// only, so a longer queue is a master that is not well.
const OUTBOX: usize = 64;

/// Why the worker shall leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// The master says so and gives that much time.
    Drain(Duration),
    /// There is no place for this worker.
    Retired,
    /// There was no master for too long.
    Orphaned,
}

/// The channel and what goes with it.
pub(crate) struct Link {
    pub(crate) registration: Arc<Registration>,
    /// Whether the application wants sockets.
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) draining: CancellationToken,
    pub(crate) orphan_time: Duration,
    pub(crate) leave: mpsc::Sender<Leave>,
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
                link: &mut self,
                channel: &channel,
                serve: &serve,
                outbox: VecDeque::new(),
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
            let answered = self.registration.with_a_master(self.orphan_time, wants);
            (channel, ready_told) = match answered.await {
                Some(Answered::Welcome(channel, ready)) => (channel, ready),
                Some(Answered::Retire) => return self.leaves(Leave::Retired),
                None => return self.leaves(Leave::Orphaned),
            };
            tracing::info!("registered with the next master");
        }
    }

    fn leaves(&self, why: Leave) {
        // Full: a reason to leave is there already.
        let _ = self.leave.try_send(why);
    }
}

/// One channel's life.
struct Session<'a, F> {
    link: &'a mut Link,
    channel: &'a Channel,
    serve: &'a F,
    outbox: VecDeque<Packet>,
    ready_told: bool,
    /// The master knows that this worker leaves.
    leaving_known: bool,
}

impl<F: Fn(Socket, SocketInfo)> Session<'_, F> {
    async fn run(mut self) -> Ended {
        // What changed while there was no channel is told now.
        self.link.ready.mark_changed();
        loop {
            let draining = self.link.draining.clone();
            let board = self.link.registration.board.clone();
            let next = tokio::select! {
                received = self.channel.receive() => match received {
                    Ok(Some(delivery)) => self.take(delivery),
                    Ok(None) => return self.take_rest(),
                    Err(error) => Err(error),
                },
                () = board.progress() => self.tell(Packet::Progress),
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
            Packet::Drain { within_ms } => {
                self.leaving_known = true;
                let within = Duration::from_millis(within_ms.into());
                self.link.leaves(Leave::Drain(within));
                Ok(None)
            }
            Packet::Retire => Ok(Some(Ended::Retired)),
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
        let board = &self.link.registration.board;
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
            match socket_of(fd) {
                Ok(socket) => (self.serve)(socket, info),
                Err(error) => {
                    tracing::warn!(%error, "a socket of the master cannot be used");
                    if info.balanced {
                        self.link.registration.board.settled();
                    }
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
        while let Some(packet) = self.outbox.front() {
            match self.channel.try_send(packet, &[]) {
                Ok(()) => self.outbox.pop_front(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(None)
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
