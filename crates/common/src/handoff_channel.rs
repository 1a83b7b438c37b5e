//! One end of the channel between a master and a worker, on tokio: whole
//! packets with their descriptors, in order, never blocking the event loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::handoff::{MAX_PACKET, Packet, PacketError};
use crate::sys::{readiness, seqpacket};

/// Between two tries to send on a channel that has room and refused.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// Why a channel cannot go on.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The other end sent something that is not a packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The socket failed; a peer that died shows as the end of file, or as a
    /// broken pipe when something was sent.
    #[error("handoff channel: {0}")]
    Io(#[from] io::Error),
}

/// A packet and what came with it.
#[derive(Debug)]
pub struct Delivery {
    /// The packet.
    pub packet: Packet,
    /// Its descriptors in order: fewer than the packet promises when this
    /// process has no descriptor left (see `man 7 unix`, `MSG_CTRUNC`).
    pub fds: Vec<OwnedFd>,
}

/// One end of the channel.
#[derive(Debug)]
pub struct Channel {
    socket: AsyncFd<OwnedFd>,
}

impl Channel {
    /// Connects to the master that listens at `path`.
    pub fn connect(path: &Path) -> io::Result<Channel> {
        Channel::new(seqpacket::connect(path)?)
    }

    fn new(socket: OwnedFd) -> io::Result<Channel> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(Channel {
            socket: readiness::watch(socket, interest)?,
        })
    }

    /// Process id and user id of the process at the other end.
    pub fn peer(&self) -> io::Result<(u32, u32)> {
        seqpacket::peer(self.socket.as_fd())
    }

    /// Sends at once or fails with `WouldBlock`: the channel is full, or too
    /// many descriptors are on their way. Nothing is sent in part.
    pub fn try_send(&self, packet: &Packet, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(MAX_PACKET);
        packet.encode(&mut bytes);
        seqpacket::send(self.socket.as_fd(), &bytes, fds)
    }

    /// Sends when there is room. Safe to cancel: then nothing was sent.
    pub async fn send(&self, packet: &Packet, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.socket.writable().await?;
            match self.try_send(packet, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                sent => return sent,
            }
        }
    }

    /// Waits until the channel may have room after a `WouldBlock` of
    /// [`try_send`](Self::try_send). Safe to cancel.
    pub async fn room(&self) -> io::Result<()> {
        if self.has_room()? {
            // It came just now; or there was room all the time and too many
            // descriptors are on their way, of which no event tells: not to
            // spin.
            tokio::time::sleep(ROOM_PAUSE).await;
            return Ok(());
        }
        loop {
            let mut ready = self.socket.writable().await?;
            if self.has_room()? {
                return Ok(());
            }
            // Of an earlier time.
            ready.clear_ready();
        }
    }

    fn has_room(&self) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.socket, PollFlags::OUT)];
        poll(&mut polled, Some(&Timespec::default()))?;
        Ok(!polled[0].revents().is_empty())
    }

    /// The next packet; `None` when the other end is closed. Safe to cancel:
    /// no packet is lost.
    pub async fn receive(&self) -> Result<Option<Delivery>, ChannelError> {
        loop {
            let mut ready = self.socket.readable().await?;
            match self.try_receive() {
                Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                }
                received => return received,
            }
        }
    }

    /// The next packet if one waits; otherwise an error of kind `WouldBlock`.
    pub fn try_receive(&self) -> Result<Option<Delivery>, ChannelError> {
        let mut buffer = [0; MAX_PACKET];
        let mut received = seqpacket::receive(self.socket.as_fd(), &mut buffer);
        if matches!(&received, Err(error) if error.kind() == io::ErrorKind::ConnectionReset) {
            // A peer that died with our packets unread resets the channel, which
            // is told once; behind it is what the peer had sent, and then the end.
            received = seqpacket::receive(self.socket.as_fd(), &mut buffer);
        }
        let received = received?;
        if received.length == 0 {
            return Ok(None);
        }
        let packet = Packet::decode(&buffer[..received.length])?;
        if received.bytes_truncated {
            return Err(PacketError::Malformed(buffer[0]).into());
        }
        Ok(Some(Delivery {
            packet,
            fds: received.fds,
        }))
    }
}

/// The master's end: where workers connect.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
}

impl Listener {
    /// Listens at `path`, which must not exist.
    pub fn bind(path: &Path) -> io::Result<Listener> {
        let socket = readiness::watch(seqpacket::listen(path)?, Interest::READABLE)?;
        Ok(Listener { socket })
    }

    /// Takes a socket that listens already.
    pub fn inherit(socket: OwnedFd) -> io::Result<Listener> {
        let socket = readiness::watch(socket, Interest::READABLE)?;
        Ok(Listener { socket })
    }

    /// The socket, for [`inherit`](Self::inherit) in another process image.
    pub fn bequeath(self) -> OwnedFd {
        self.socket.into_inner()
    }

    /// The next connection. Safe to cancel.
    pub async fn accept(&self) -> io::Result<Channel> {
        loop {
            let mut ready = self.socket.readable().await?;
            match seqpacket::accept(self.socket.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                accepted => return Channel::new(accepted?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::handoff::{MAX_SOCKETS, SocketInfo};

    use super::*;

    async fn pair() -> (Channel, Channel) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::bind(&path).unwrap();
        let worker = Channel::connect(&path).unwrap();
        (listener.accept().await.unwrap(), worker)
    }

    #[tokio::test]
    async fn packets_arrive_in_order_with_their_descriptors_until_the_end() {
        let (master, worker) = pair().await;
        let (reader, _writer) = std::io::pipe().unwrap();
        let info = SocketInfo {
            counted: None,
            speaks: crate::handoff::Speaks::Http,
            peer: None,
            balanced: true,
            known_us: 1,
        };
        let handoff = Packet::Handoff {
            first: 0,
            sockets: vec![info],
        };
        master.send(&handoff, &[reader.as_fd()]).await.unwrap();
        master.send(&Packet::Retire, &[]).await.unwrap();
        drop(master);
        let delivery = worker.receive().await.unwrap().unwrap();
        assert_eq!((delivery.packet, delivery.fds.len()), (handoff, 1));
        let delivery = worker.receive().await.unwrap().unwrap();
        assert_eq!((delivery.packet, delivery.fds.len()), (Packet::Retire, 0));
        assert!(worker.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_a_peer_sent_before_it_died_is_read_to_its_end() {
        let (master, worker) = pair().await;
        worker.send(&Packet::Progress, &[]).await.unwrap();
        worker.send(&Packet::Leaving, &[]).await.unwrap();
        // Unread at the worker's death: a reset.
        master.send(&Packet::Welcome, &[]).await.unwrap();
        drop(worker);
        for expected in [Packet::Progress, Packet::Leaving] {
            let delivery = master.receive().await.unwrap().unwrap();
            assert_eq!(delivery.packet, expected);
        }
        assert!(master.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn room_wakes_the_sender_of_a_full_channel() {
        let (master, worker) = pair().await;
        let mut sent = 0;
        while master.try_send(&Packet::Progress, &[]).is_ok() {
            sent += 1;
        }
        let taker = async {
            for _ in 0..sent {
                worker.receive().await.unwrap();
            }
        };
        let (room, ()) = tokio::join!(master.room(), taker);
        room.unwrap();
        master.try_send(&Packet::Progress, &[]).unwrap();
    }

    /// After `ETOOMANYREFS` the channel has room all the time.
    #[tokio::test]
    async fn waiting_for_room_does_not_spin_while_there_is_room() {
        let (master, _worker) = pair().await;
        for _ in 0..3 {
            let begin = std::time::Instant::now();
            master.room().await.unwrap();
            assert!(begin.elapsed() >= ROOM_PAUSE);
        }
    }

    #[tokio::test]
    async fn a_full_batch_passes() {
        let (master, worker) = pair().await;
        let (reader, _writer) = std::io::pipe().unwrap();
        let info = SocketInfo {
            counted: None,
            speaks: crate::handoff::Speaks::Http,
            peer: Some("[::1]:80".parse().unwrap()),
            balanced: false,
            known_us: 2,
        };
        let packet = Packet::Handoff {
            first: 3,
            sockets: vec![info; MAX_SOCKETS],
        };
        master
            .try_send(&packet, &[reader.as_fd(); MAX_SOCKETS])
            .unwrap();
        let delivery = worker.receive().await.unwrap().unwrap();
        assert_eq!(delivery.packet, packet);
        assert_eq!(delivery.fds.len(), MAX_SOCKETS);
    }
}
