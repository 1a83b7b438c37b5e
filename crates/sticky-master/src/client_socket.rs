//! A client's connection while the master holds it. Its bytes are looked at,
//! never taken: the worker reads the request from its first byte. The one
//! exception is the PROXY protocol's header, which is none of the client's.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use common::handoff::Speaks;
use common::monotonic;
use common::relay_hello::{self, RelayHello};
use common::sys::readiness;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::entrance::{Entrance, Reading};
use crate::proxy_header::{self, ProxyHeader};
use crate::refuse::Refusal;
use crate::request_head::{self, Claim, Head};

/// Most bytes that are looked at, on the stack: the largest bound of a head
/// that can be set.
pub(crate) const PEEK_MAX: usize = 64 * 1024;

/// A TLS record that begins a handshake.
const TLS_HANDSHAKE: u8 = 22;

/// After a refusal that many bytes of the request are thrown away, so that the
/// client can read the answer: closing over unread bytes sends a reset.
const DISCARD_BYTES: usize = 1024 * 1024;
/// The same in time.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    fd: OwnedFd,
    arrival: Arrival,
    /// When it was known whose it is, by [`monotonic::now_us`]; 0: not yet.
    known_us: u64,
    permit: OwnedSemaphorePermit,
}

/// What is known of a connection so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) entrance: Entrance,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) header_due: bool,
    speaks: Speaks,
    pub(crate) client: Option<IpAddr>,
}

/// What looking at a socket showed.
#[derive(Debug)]
pub(crate) enum Sight {
    /// All that is needed to find its worker.
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
    pub(crate) fn new(
        fd: OwnedFd,
        peer: Option<SocketAddr>,
        entrance: Entrance,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let client = peer.map(|peer| peer.ip());
        let arrival = Arrival::again(entrance, peer, client, entrance.proxy_protocol);
        ClientSocket::again(fd, arrival, permit)
    }

    /// A connection of which something is known already.
    pub(crate) fn again(fd: OwnedFd, arrival: Arrival, permit: OwnedSemaphorePermit) -> Self {
        ClientSocket {
            fd,
            arrival,
            known_us: 0,
            permit,
        }
    }

    /// It is known whose it is. The first time counts, if it is passed on again.
    pub(crate) fn set_known(&mut self) {
        if self.known_us == 0 {
            self.known_us = monotonic::now_us();
        }
    }

    /// When that was, by [`monotonic::now_us`].
    pub(crate) fn known_us(&self) -> u64 {
        self.known_us
    }

    /// The connection and what is known of it.
    pub(crate) fn into_parts(self) -> (OwnedFd, Arrival) {
        (self.fd, self.arrival)
    }

    /// The address at the other end, or the one that a PROXY protocol header
    /// gave; none for a Unix socket.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.arrival.peer
    }

    /// The address of the client whose request came first: the peer's, or what
    /// trusted proxies said in it.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        self.arrival.client
    }

    /// What it begins with, once it was looked at.
    pub(crate) fn speaks(&self) -> Speaks {
        self.arrival.speaks
    }

    /// Looks at what has arrived.
    pub(crate) fn look(&mut self, reading: &Reading) -> Sight {
        self.arrival.look(self.fd.as_fd(), reading)
    }

    /// Waits until there is enough to see, until `deadline` at most. Who sent
    /// nothing until then is gone, who sent part of a head is refused. `stop` ends
    /// the waiting with [`Sight::Incomplete`]. The error is this process's (no
    /// memory, no more watches).
    pub(crate) async fn watch(
        mut self,
        deadline: Instant,
        reading: &Reading,
        stop: impl Future<Output = ()>,
    ) -> io::Result<(Self, Sight)> {
        let watched = readiness::watch(self.fd, Interest::READABLE)?;
        let sight = tokio::select! {
            sight = watch(&watched, &mut self.arrival, deadline, reading) => sight,
            () = stop => Sight::Incomplete { begun: true },
        };
        self.fd = watched.into_inner();
        Ok((self, sight))
    }

    /// Answers with a refusal, shuts down writing and discards what the client
    /// still sends, within bounds; then closes. Who would not understand the
    /// answer gets none.
    pub(crate) async fn refuse(self, refusal: Refusal) {
        if self.arrival.speaks != Speaks::Http && !refusal.is_for_any_protocol() {
            return;
        }
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

async fn watch(
    fd: &AsyncFd<OwnedFd>,
    arrival: &mut Arrival,
    deadline: Instant,
    reading: &Reading,
) -> Sight {
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
        match arrival.look(fd.as_fd(), reading) {
            Sight::Incomplete { .. } if ended => return Sight::Gone,
            Sight::Incomplete { begun: some } => begun |= some,
            sight => return sight,
        }
    }
}

impl Arrival {
    /// What is known before, or without, another look. `header_due`: a PROXY
    /// protocol header is still to come.
    pub(crate) fn again(
        entrance: Entrance,
        peer: Option<SocketAddr>,
        client: Option<IpAddr>,
        header_due: bool,
    ) -> Arrival {
        Arrival {
            entrance,
            peer,
            header_due,
            speaks: entrance.clients.unwrap_or(Speaks::Relay),
            client,
        }
    }

    fn look(&mut self, fd: BorrowedFd<'_>, reading: &Reading) -> Sight {
        let mut buffer = [MaybeUninit::uninit(); PEEK_MAX];
        let most = reading.head_max.clamp(proxy_header::LENGTH_MAX, PEEK_MAX);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let bytes = match rustix::net::recv(fd, &mut buffer[..most], flags) {
            Ok(((bytes, _), _)) => &*bytes,
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Sight::Incomplete { begun: false },
            Err(_) => return Sight::Gone,
        };
        let Some(&first) = bytes.first() else {
            return Sight::Gone;
        };
        if self.entrance.relay && first == relay_hello::FIRST_BYTE {
            return self.see_relay(bytes);
        }
        if self.header_due {
            return match proxy_header::read(bytes) {
                ProxyHeader::Complete { length, client } => {
                    self.take_header(fd, length, client);
                    // Behind it there may be more than was looked at.
                    match self.look(fd, reading) {
                        Sight::Incomplete { .. } => Sight::Incomplete { begun: true },
                        sight => sight,
                    }
                }
                ProxyHeader::Partial => Sight::Incomplete { begun: true },
                ProxyHeader::Invalid => Sight::Refuse(Refusal::NoProxyHeader),
            };
        }
        self.see_client(bytes, reading)
    }

    /// Takes the header off, and not a byte more.
    fn take_header(&mut self, fd: BorrowedFd<'_>, length: usize, client: Option<SocketAddr>) {
        let mut header = [MaybeUninit::uninit(); proxy_header::LENGTH_MAX];
        // It was there just now, and nobody else reads from this socket.
        let _ = rustix::net::recv(fd, &mut header[..length], RecvFlags::DONTWAIT);
        self.header_due = false;
        if client.is_some() {
            self.peer = client;
            self.client = client.map(|client| client.ip().to_canonical());
        }
    }

    fn see_relay(&mut self, bytes: &[u8]) -> Sight {
        self.speaks = Speaks::Relay;
        match bytes.first_chunk() {
            None => Sight::Incomplete { begun: true },
            Some(hello) => match RelayHello::decode(hello) {
                Some(hello) => Sight::Request(Claim::Relayed(hello.owner)),
                None => Sight::Gone,
            },
        }
    }

    /// `bytes` are a client's own first ones.
    fn see_client(&mut self, bytes: &[u8], reading: &Reading) -> Sight {
        match self.entrance.clients {
            Some(Speaks::Tls) if bytes[0] == TLS_HANDSHAKE => Sight::Request(Claim::New),
            Some(Speaks::Tls) => Sight::Refuse(Refusal::NotTls),
            Some(Speaks::Http) => match request_head::read(bytes, self.peer, reading) {
                Head::Complete { claim, client } => {
                    self.client = client;
                    Sight::Request(claim)
                }
                Head::Partial => Sight::Incomplete { begun: true },
                Head::TooLarge => Sight::Refuse(Refusal::HeadTooLarge),
                Head::Invalid => Sight::Refuse(Refusal::NotHttp),
            },
            Some(Speaks::Relay) | None => Sight::Gone,
        }
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
            Err(Errno::WOULDBLOCK) => ready.clear_ready(),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
