//! A connected socket of any kind that a worker serves or calls.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// A call of ours to another node. Not shut down, but reset when it is
    /// dropped: whoever sends the first FIN keeps a port in `TIME_WAIT`.
    Called(TcpStream),
    /// Boxed: it has some hundred bytes more than the others.
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! each {
    ($this:expr, $socket:ident => $call:expr) => {
        match $this {
            Socket::Tcp($socket) => $call,
            Socket::Unix($socket) => $call,
            Socket::Called($socket) => $call,
            Socket::Tls($socket) => $call,
        }
    };
}

impl Socket {
    /// The TCP connection, if it is one or runs over one.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Socket::Tcp(tcp) | Socket::Called(tcp) => Some(tcp),
            Socket::Tls(tls) => Some(tls.get_ref().0),
            Socket::Unix(_) => None,
        }
    }

    /// Writes what the system takes at once. `None` when that is nothing, also because
    /// of an error, which whoever writes next meets, and always with TLS.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> Option<usize> {
        let written = match self {
            Socket::Tcp(tcp) => tcp.try_write(bytes),
            Socket::Unix(unix) => unix.try_write(bytes),
            Socket::Called(_) | Socket::Tls(_) => return None,
        };
        written.ok().filter(|bytes| *bytes > 0)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), socket => Pin::new(socket).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, socket => socket.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(*self, Socket::Called(_)) {
            return Poll::Ready(Ok(()));
        }
        each!(self.get_mut(), socket => Pin::new(socket).poll_shutdown(cx))
    }
}
