//! Where the server is, and which of the machine's addresses to come from.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};

/// Addresses that one process comes from: a closed connection keeps its port
/// for a while, and one address has some 28,000 of them.
const SOURCES: u32 = 64;

/// A server's address, with a source address for each connection to it.
#[derive(Debug)]
pub(crate) struct Target {
    address: SocketAddr,
    /// For the `Host` header.
    pub(crate) host: String,
    /// The first of this process' source addresses, when the server is on the loopback.
    first_source: Option<Ipv4Addr>,
    connections: Cell<u32>,
    /// `SO_RCVBUF` of the connections; `None`: what the kernel chooses.
    receive_buffer: Option<u32>,
}

impl Target {
    /// `process` counts the generators of a run: each has addresses of its own.
    pub(crate) fn new(address: SocketAddr, process: u32) -> Target {
        let first_source = match address.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => {
                Some(Ipv4Addr::from_bits(0x7F40_0001 + (process << 8)))
            }
            _ => None,
        };
        Target {
            address,
            host: address.to_string(),
            first_source,
            connections: Cell::new(0),
            receive_buffer: None,
        }
    }

    /// The same with connections for which the kernel keeps so many bytes that nobody has read.
    pub(crate) fn with_receive_buffer(mut self, bytes: u32) -> Target {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Opens a connection. Small packets are sent at once.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let count = self.connections.get();
        self.connections.set(count.wrapping_add(1));
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_nodelay(true)?;
        if let Some(bytes) = self.receive_buffer {
            // Before it connects: the window that is told then grows with it.
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(first) = self.first_source {
            // The port is then chosen at connect, and only has to differ for this destination.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            let source = Ipv4Addr::from_bits(first.to_bits() + count % SOURCES);
            socket.bind(SocketAddr::from((source, 0)))?;
        }
        socket.connect(self.address).await
    }

    /// Connections opened so far.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.get().into()
    }
}
