//! A client's connection while the master holds it. Its bytes are looked at,
//! never taken: the worker reads the request from its first byte.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use common::sys::readiness;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::refuse::Refusal;
use crate::request_head::{self, Claim, HEAD_MAX, Head};

/// After a refusal that many bytes of the request are thrown away, so that the
/// client can read the answer: closing over unread bytes sends a reset.
const DISCARD_BYTES: usize = 1024 * 1024;
/// The same in time.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    fd: OwnedFd,
    peer: Option<SocketAddr>,
    permit: OwnedSemaphorePermit,
}

/// What looking at a socket showed.
#[derive(Debug)]
pub(crate) enum Sight {
    /// A whole request head.
    Request(Claim),
    /// Not yet: some bytes, or none at all.
    Incomplete {
        /// Whether any have arrived.
        begun: bool,
    },
    /// Something to refuse.
    Refuse(Refusal),
    /// The client has gone, or it never said a word.
    Gone,
}

impl ClientSocket {
    /// Takes an accepted connection; the permit is given back with it.
    pub(crate) fn new(fd: OwnedFd, peer: Option<SocketAddr>, permit: OwnedSemaphorePermit) -> Self {
        ClientSocket { fd, peer, permit }
    }

    /// The client's address; none for a Unix socket.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Looks at what has arrived.
    pub(crate) fn look(&self) -> Sight {
        look(self.fd.as_fd())
    }

    /// Waits for a whole head, until `deadline` at most. Who sent nothing until
    /// then is gone, who sent part of a head is refused. The error is this
    /// process's (no memory, no more watches).
    pub(crate) async fn watch(self, deadline: Instant) -> io::Result<(Self, Sight)> {
        let watched = readiness::watch(self.fd, Interest::READABLE)?;
        let sight = watch(&watched, deadline).await;
        let socket = ClientSocket {
            fd: watched.into_inner(),
            peer: self.peer,
            permit: self.permit,
        };
        Ok((socket, sight))
    }

    /// Answers with a refusal, shuts down writing and discards what the client
    /// still sends, within bounds; then closes.
    pub(crate) async fn refuse(self, refusal: Refusal) {
        let answer = refusal.response();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // An accepted socket's buffer is empty: the short answer fits.
        if rustix::net::send(&self.fd, answer.as_bytes(), flags).is_err() {
            return;
        }
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
        if let Ok(watched) = readiness::watch(self.fd, Interest::READABLE) {
            let _ = tokio::time::timeout(DISCARD_TIME, discard(&watched)).await;
        }
        drop(self.permit);
    }
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

async fn watch(fd: &AsyncFd<OwnedFd>, deadline: Instant) -> Sight {
    let mut begun = false;
    loop {
        let ready = tokio::time::timeout_at(deadline, fd.readable()).await;
        let mut ready = match ready {
            Ok(Ok(ready)) => ready,
            Ok(Err(_)) => return Sight::Gone,
            Err(_) if begun => return Sight::Refuse(Refusal::HeadTooSlow),
            Err(_) => return Sight::Gone,
        };
        // The client's end of file stays ready for good: no clearing undoes it,
        // and after it nothing more of a head will come.
        let ended = ready.ready().is_read_closed();
        // Cleared before looking: bytes that arrive after the look wake again,
        // those before it were seen. Without this it would spin.
        ready.clear_ready();
        match look(fd.as_fd()) {
            Sight::Incomplete { .. } if ended => return Sight::Gone,
            Sight::Incomplete { begun: some } => begun = some,
            sight => return sight,
        }
    }
}

fn look(fd: BorrowedFd<'_>) -> Sight {
    let mut buffer = [0u8; HEAD_MAX];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let length = match rustix::net::recv(fd, &mut buffer[..], flags) {
        Ok((0, _)) => return Sight::Gone,
        Ok((length, _)) => length,
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
            return Sight::Incomplete { begun: false };
        }
        Err(_) => return Sight::Gone,
    };
    match request_head::read(&buffer[..length]) {
        Head::Complete(claim) => Sight::Request(claim),
        Head::Partial => Sight::Incomplete { begun: true },
        Head::TooLarge => Sight::Refuse(Refusal::HeadTooLarge),
        Head::Invalid => Sight::Refuse(Refusal::NotHttp),
    }
}

async fn discard(fd: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut buffer = [0u8; 16 * 1024];
    let mut left = DISCARD_BYTES;
    while left > 0 {
        let mut ready = fd.readable().await?;
        match rustix::net::recv(fd, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok(()),
            Ok((length, _)) => left = left.saturating_sub(length),
            Err(rustix::io::Errno::WOULDBLOCK) => ready.clear_ready(),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
