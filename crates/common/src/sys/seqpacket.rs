//! `SOCK_SEQPACKET` Unix sockets that carry descriptors. Every call is
//! non-blocking, every descriptor that is made or received is close-on-exec
//! from its birth and owned at once, so nothing can leak.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::handoff::MAX_SOCKETS;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
/// Workers that may wait to be accepted: more than there are worker ids.
const BACKLOG: i32 = 512;

/// Listens on `path`, which must not exist.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Takes one connection, or fails with `WouldBlock`.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, FLAGS)?)
}

/// Connects to a listener at `path`; `WouldBlock` when its backlog is full.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Process and user id of the process that made the other end, as the kernel
/// knows them.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok((
        credentials.pid.as_raw_nonzero().get().unsigned_abs(),
        credentials.uid.as_raw(),
    ))
}

/// Sends one message with at most [`MAX_SOCKETS`] descriptors.
///
/// `WouldBlock` when the channel is full. A user without privilege who has as
/// many descriptors in flight as one process may have open gets
/// `ETOOMANYREFS`, which means the same: it passes when the receiver catches
/// up.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, flags) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::TOOMANYREFS | rustix::io::Errno::NOBUFS) => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// One received message.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the message; 0 at the end of file.
    pub length: usize,
    /// Its descriptors, in the sender's order. When the receiver is at its
    /// descriptor limit the kernel delivers the first few and closes the rest.
    pub fds: Vec<OwnedFd>,
    /// The kernel dropped some of the message's bytes.
    pub bytes_truncated: bool,
}

/// Receives one message into `buffer`, or fails with `WouldBlock`.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    Ok(Received {
        length: message.bytes,
        fds,
        bytes_truncated: message.flags.contains(ReturnFlags::TRUNC),
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = listen(&path).unwrap();
        let client = connect(&path).unwrap();
        let server = accept(listener.as_fd()).unwrap();
        (client, server)
    }

    #[test]
    fn descriptors_arrive_owned_in_order_and_close_on_exec() {
        let (client, server) = pair();
        let (mut readers, mut writers) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (reader, writer) = std::io::pipe().unwrap();
            readers.push(reader);
            writers.push(OwnedFd::from(writer));
        }
        let fds: Vec<_> = writers.iter().map(AsFd::as_fd).collect();
        send(client.as_fd(), b"three", &fds).unwrap();
        drop(writers);
        let mut buffer = [0; 64];
        let received = receive(server.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..received.length], b"three");
        assert_eq!(received.fds.len(), 3);
        for (number, (fd, mut reader)) in received.fds.into_iter().zip(readers).enumerate() {
            let flags = rustix::io::fcntl_getfd(&fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            use std::io::{Read, Write};
            let text = format!("pipe {number}");
            std::fs::File::from(fd).write_all(text.as_bytes()).unwrap();
            let mut read = String::new();
            reader.read_to_string(&mut read).unwrap();
            assert_eq!(read, text);
        }
    }

    #[test]
    fn a_full_channel_would_block_and_its_end_is_an_empty_message() {
        let (client, server) = pair();
        let mut sent = 0;
        let full = loop {
            match send(client.as_fd(), &[7; 64], &[]) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(client);
        let mut buffer = [0; 64];
        for _ in 0..sent {
            assert_eq!(receive(server.as_fd(), &mut buffer).unwrap().length, 64);
        }
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap().length, 0);
    }

    #[test]
    fn the_peer_is_who_the_kernel_says() {
        let (client, _server) = pair();
        let (pid, uid) = peer(client.as_fd()).unwrap();
        assert_eq!(pid, std::process::id());
        assert_eq!(uid, rustix::process::getuid().as_raw());
    }
}
