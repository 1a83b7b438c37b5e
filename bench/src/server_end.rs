//! The server's end of a connection: which process holds it, and whether it still does. A client that
//! does not read cannot tell from its own end.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;

/// A descriptor of another process.
#[derive(Debug)]
pub(crate) struct ServerEnd {
    pub(crate) pid: u32,
    /// In /proc.
    descriptor: PathBuf,
    /// What the descriptor is of.
    socket: PathBuf,
    client: SocketAddrV4,
}

impl ServerEnd {
    /// Looks among these processes for who has the connection of the client with that address.
    pub(crate) fn find(client: SocketAddr, pids: &[u32]) -> Option<ServerEnd> {
        let SocketAddr::V4(client) = client else {
            return None;
        };
        let socket = PathBuf::from(format!("socket:[{}]", look_up(client)?.inode));
        pids.iter().find_map(|pid| {
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
            let mut descriptors = descriptors.flatten().map(|entry| entry.path());
            let descriptor = descriptors
                .find(|path| fs::read_link(path).is_ok_and(|target| target == socket))?;
            Some(ServerEnd {
                pid: *pid,
                descriptor,
                socket: socket.clone(),
                client,
            })
        })
    }

    /// Whether the process has not closed it.
    pub(crate) fn is_open(&self) -> bool {
        fs::read_link(&self.descriptor).is_ok_and(|target| target == self.socket)
    }

    /// Bytes that the kernel holds for the client, who has not taken them.
    pub(crate) fn unsent(&self) -> u64 {
        look_up(self.client).map_or(0, |line| line.unsent)
    }
}

fn look_up(client: SocketAddrV4) -> Option<Line> {
    Line::of_peer(&fs::read_to_string("/proc/net/tcp").ok()?, client)
}

/// The kernel's line about the socket whose other end has that address.
struct Line {
    /// Bytes that were written and not taken by the other end.
    unsent: u64,
    inode: u64,
}

impl Line {
    fn of_peer(table: &str, peer: SocketAddrV4) -> Option<Line> {
        // The address as the kernel has it in memory, printed as one number.
        let address = u32::from_ne_bytes(peer.ip().octets());
        let peer = format!("{address:08X}:{:04X}", peer.port());
        let fields = |line: &'_ str| -> Option<Line> {
            let mut fields = line.split_whitespace().skip(2);
            if fields.next()? != peer {
                return None;
            }
            let (unsent, _) = fields.nth(1)?.split_once(':')?;
            Some(Line {
                unsent: u64::from_str_radix(unsent, 16).ok()?,
                inode: fields.nth(4)?.parse().ok()?,
            })
        };
        table.lines().find_map(fields)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0100007F:0BB8 0200007F:1F90 01 0000012C:00000000 01:00000014 00000000     0        0 22 2 0 20 4 30 10 -1";
        let line = Line::of_peer(table, SocketAddrV4::new([127, 0, 0, 2].into(), 8080)).unwrap();
        assert_eq!((line.unsent, line.inode), (300, 22));
        let nobody = SocketAddrV4::new([127, 0, 0, 3].into(), 8080);
        assert!(Line::of_peer(table, nobody).is_none());
    }

    #[test]
    fn a_connection_is_found_until_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let address = client.local_addr().unwrap();
        let end = ServerEnd::find(address, &[1, std::process::id()]).unwrap();
        assert_eq!(end.pid, std::process::id());
        assert!(end.is_open());
        assert_eq!(end.unsent(), 0);
        drop(server);
        assert!(!end.is_open());
        assert!(ServerEnd::find(address, &[]).is_none());
    }
}
