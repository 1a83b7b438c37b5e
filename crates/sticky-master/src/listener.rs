//! Where clients connect: addresses, binding, accepting.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use common::handoff::Speaks;
use common::sys::defer_accept::defer_accept;
use common::sys::readiness;
use rustix::fs::Mode;
use rustix::net::SocketFlags;
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::entrance::Entrance;

/// Connections that may wait to be accepted; the kernel cuts it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A connection is taken when its first bytes are there: the kernel keeps it until then, also
/// when this master dies and another one has the socket. Who says nothing for that long is
/// taken all the same.
const DEFER: Duration = Duration::from_secs(1);

/// A connection on which nothing has come for this long is probed, so many
/// times with that pause, and given up: after two minutes in all.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1:3000`, `[::1]:3000`; port 0 takes a free one.
    Tcp(SocketAddr),
    /// `unix:/path/to/socket`.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: needs a path".to_owned()),
            Some(path) => Ok(ListenAddress::Unix(path.into())),
            None => text.parse().map(ListenAddress::Tcp).map_err(|_| {
                "expected ADDR:PORT, such as 127.0.0.1:3000 or [::1]:3000, or unix:PATH".to_owned()
            }),
        }
    }
}

/// As a URL where there is one, as text that parses back otherwise.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => write!(f, "http://{address}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address could not be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// As it was asked for.
    pub address: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
    address: ListenAddress,
    entrance: Entrance,
    /// To be removed at the end.
    file: Option<SocketFile>,
}

/// A listener that was bound before this process image began.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) socket: OwnedFd,
    pub(crate) address: ListenAddress,
    pub(crate) entrance: Entrance,
    /// To be removed at the end.
    pub(crate) file: Option<SocketFile>,
}

/// The file of a Unix socket that this master bound; removed with this value.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl SocketFile {
    /// Of a listener at that address, if it has one.
    pub(crate) fn of(address: &ListenAddress) -> Option<SocketFile> {
        match address {
            ListenAddress::Unix(path) => Some(SocketFile(path.clone())),
            ListenAddress::Tcp(_) => None,
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a Unix socket's file may be used for, by default: as the process's umask says.
const MODE_ANYBODY: u32 = 0o777;
/// By the user of this process only.
const MODE_OWN: u32 = 0o600;

impl Listener {
    /// Listens for something other than the clients of a [`Master`](crate::Master). At a Unix socket
    /// only the user who runs this process can connect; its file is removed with this value, and one
    /// that a dead process left behind is replaced.
    ///
    /// # Errors
    /// [`BindError`], with the address.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn private(address: &ListenAddress) -> Result<Listener, BindError> {
        let entrance = Entrance {
            clients: None,
            proxy_protocol: false,
            relay: false,
        };
        Listener::bind_with(address, entrance, MODE_OWN)
    }

    /// Binds and listens. A Unix socket that a dead process left behind is
    /// replaced; a living one is an error.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn bind(address: &ListenAddress, entrance: Entrance) -> Result<Listener, BindError> {
        Listener::bind_with(address, entrance, MODE_ANYBODY)
    }

    fn bind_with(
        address: &ListenAddress,
        entrance: Entrance,
        mode: u32,
    ) -> Result<Listener, BindError> {
        let bound = match address {
            ListenAddress::Tcp(address) => bind_tcp(*address),
            ListenAddress::Unix(path) => bind_unix(path, mode),
        };
        let watched = bound.and_then(|(socket, address)| {
            socket.set_nonblocking(true)?;
            let socket = readiness::watch(socket.into(), Interest::READABLE)?;
            Ok(Listener {
                socket,
                file: SocketFile::of(&address),
                address,
                entrance,
            })
        });
        watched.map_err(|source| BindError {
            address: match address {
                ListenAddress::Tcp(address) => address.to_string(),
                unix => unix.to_string(),
            },
            source,
        })
    }

    /// Takes a listener that is bound already.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn inherit(inherited: Inherited) -> io::Result<Listener> {
        rustix::io::ioctl_fionbio(&inherited.socket, true)?;
        Ok(Listener {
            socket: readiness::watch(inherited.socket, Interest::READABLE)?,
            address: inherited.address,
            entrance: inherited.entrance,
            file: inherited.file,
        })
    }

    /// Takes a socket that a service manager passed. The error says what is wrong
    /// with it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn passed(
        socket: OwnedFd,
        entrance: impl Fn(&ListenAddress) -> Entrance,
    ) -> Result<Listener, BindError> {
        let address = passed_address(&socket);
        let listener = address.and_then(|address| {
            if matches!(address, ListenAddress::Tcp(_)) {
                prepare(&socket)?;
            }
            Listener::inherit(Inherited {
                socket,
                entrance: entrance(&address),
                address,
                // It is the service manager's.
                file: None,
            })
        });
        listener.map_err(|source| BindError {
            address: "a socket of the service manager".to_owned(),
            source,
        })
    }

    /// For another process image.
    pub(crate) fn bequeath(self) -> Inherited {
        Inherited {
            socket: self.socket.into_inner(),
            address: self.address,
            entrance: self.entrance,
            file: self.file,
        }
    }

    /// The address with the port that it has in fact.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// What its connections begin with.
    pub(crate) fn entrance(&self) -> Entrance {
        self.entrance
    }

    /// The same address as a client would dial it, TLS or not.
    pub(crate) fn url(&self) -> String {
        match (&self.address, self.entrance.clients) {
            (ListenAddress::Tcp(address), Some(Speaks::Tls)) => format!("https://{address}"),
            (address, _) => address.to_string(),
        }
    }

    /// Whether connections to `address` arrive here; then other nodes' workers
    /// may come, too.
    pub(crate) fn take_relays(&mut self, address: SocketAddr) -> bool {
        let ListenAddress::Tcp(bound) = self.address else {
            return false;
        };
        let ip = bound.ip();
        let same = bound.port() == address.port()
            && (ip == address.ip() || ip.is_unspecified() && (ip.is_ipv6() || address.is_ipv4()));
        self.entrance.relay |= same;
        same
    }

    /// The next connection, which does not block, and its address, if it came by TCP. Safe to cancel.
    ///
    /// # Errors
    /// Of the one connection or of this process (no descriptors): see
    /// [`common::exhaustion`].
    pub async fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        loop {
            let mut ready = self.socket.readable().await?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::acceptfrom_with(self.socket.as_fd(), flags) {
                Ok((fd, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    return Ok((fd, peer));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<(Socket, ListenAddress)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Otherwise connections of the last run that linger keep the port for a
    // minute.
    socket.set_reuse_address(true)?;
    // What is accepted inherits it. A client that vanished in the middle of a
    // request's body would otherwise keep its connection for ever.
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, ListenAddress::Tcp(bound)))
}

/// What the connections of a TCP listener inherit, and when it gives them out.
fn prepare(socket: &impl AsFd) -> io::Result<()> {
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    SockRef::from(socket).set_tcp_keepalive(&probes)?;
    defer_accept(socket, DEFER)
}

/// Where a socket listens that somebody else bound.
fn passed_address(socket: &OwnedFd) -> io::Result<ListenAddress> {
    let socket = SockRef::from(socket);
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        let why = "it is no stream socket that listens";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let address = socket.local_addr()?;
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Ok(ListenAddress::Tcp(address)),
        (None, Some(path)) => Ok(ListenAddress::Unix(path.to_owned())),
        (None, None) => {
            let why = "it is neither a TCP nor a named Unix socket";
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

/// `mode` is less the umask.
fn bind_unix(path: &Path, mode: u32) -> io::Result<(Socket, ListenAddress)> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before it has a file, which Linux makes with the mode of the socket: so nobody else can
    // connect in between.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path, &address) => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    socket.listen(BACKLOG)?;
    let path = std::path::absolute(path)?;
    Ok((socket, ListenAddress::Unix(path)))
}

/// A socket on which nobody listens any more; anything else (a file, a full
/// backlog) is left alone.
fn is_stale(path: &Path, address: &SockAddr) -> bool {
    let found = std::fs::symlink_metadata(path);
    if !found.is_ok_and(|found| found.file_type().is_socket()) {
        return false;
    }
    let probe =
        Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| socket.connect(address));
    matches!(probe, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn bind(address: &ListenAddress) -> Result<Listener, BindError> {
        let entrance = Entrance {
            clients: Some(Speaks::Http),
            proxy_protocol: false,
            relay: false,
        };
        Listener::bind(address, entrance)
    }

    #[tokio::test]
    async fn relays_come_to_the_listener_whose_address_is_theirs() {
        for (bound, address, expected) in [
            ("127.0.0.1:0", "127.0.0.1", true),
            ("127.0.0.1:0", "127.0.0.2", false),
            ("0.0.0.0:0", "127.0.0.2", true),
            ("[::]:0", "127.0.0.2", true),
            ("0.0.0.0:0", "::1", false),
        ] {
            let mut listener = bind(&bound.parse().unwrap()).unwrap();
            let ListenAddress::Tcp(real) = *listener.address() else {
                panic!("not TCP");
            };
            let address = SocketAddr::new(address.parse().unwrap(), real.port());
            assert_eq!(listener.take_relays(address), expected, "{bound} {address}");
            assert_eq!(listener.entrance().relay, expected);
            let other = SocketAddr::new(address.ip(), real.port() ^ 1);
            assert!(!listener.take_relays(other));
        }
    }

    #[test]
    fn addresses_parse_and_print() {
        let parse = |text: &str| text.parse::<ListenAddress>();
        assert_eq!(
            parse("127.0.0.1:80").unwrap().to_string(),
            "http://127.0.0.1:80"
        );
        assert_eq!(parse("[::1]:80").unwrap().to_string(), "http://[::1]:80");
        assert_eq!(parse("unix:/a b").unwrap().to_string(), "unix:/a b");
        for wrong in ["", "3000", "localhost", "unix:", "::1:80x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_free_port_is_reported_and_a_taken_one_refused() {
        let any = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = bind(&any).unwrap();
        let error = bind(listener.address()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        let ListenAddress::Tcp(bound) = *listener.address() else {
            panic!("not TCP");
        };
        let mut client = std::net::TcpStream::connect(bound).unwrap();
        client.write_all(b"G").unwrap();
        let (fd, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, Some(client.local_addr().unwrap()));
        let accepted = socket2::SockRef::from(&fd);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE_TIME);
    }

    #[tokio::test]
    async fn a_stale_unix_socket_is_replaced_and_a_living_one_or_a_file_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address = ListenAddress::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = bind(&address).unwrap();
        assert!(bind(&address).is_err());
        let _client = UnixStream::connect(&path).unwrap();
        let (_fd, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, None);
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(bind(&address).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
