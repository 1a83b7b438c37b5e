//! `TCP_DEFER_ACCEPT`, which neither std nor socket2 knows.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc::{self, IPPROTO_TCP, TCP_DEFER_ACCEPT};
use nix::sys::socket::setsockopt;
// They use each other by these names.
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// See `man 7 tcp`.
    DeferAccept,
    Both,
    IPPROTO_TCP,
    TCP_DEFER_ACCEPT,
    u32
);

/// From now on a listening TCP socket gives out a connection when its first bytes
/// are there; without any, after about `time`, which the kernel rounds up to a
/// number of its retransmissions.
pub fn defer_accept(listener: &impl AsFd, time: Duration) -> io::Result<()> {
    let seconds = time.as_secs().try_into().unwrap_or(u32::MAX);
    Ok(setsockopt(listener, DeferAccept, &seconds)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_given_out_with_its_first_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        defer_accept(&listener, Duration::from_secs(1)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let none = listener.accept().unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"x").unwrap();
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn who_says_nothing_comes_a_little_later() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        defer_accept(&listener, Duration::from_secs(1)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.accept().unwrap();
    }
}
