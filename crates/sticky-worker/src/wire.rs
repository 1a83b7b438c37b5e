//! The socket under a served stream, and what is being written to it. Whoever writes
//! says so here, so that a frame can be put between two others from elsewhere than
//! the application's own writer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::sent_packets::SentFrames;
use crate::socket::Socket;

/// The longest frame that is put between others: so much may be left of it for each
/// client that does not read. What is longer gains little by it.
const BETWEEN_MAX: usize = 64 << 10;

/// Of the stream, and of who puts frames in between. Locked for no longer than a call.
pub(crate) type SharedWire = Arc<Mutex<Wire>>;

/// A served socket.
pub(crate) struct Wire {
    socket: Socket,
    /// What was written of a client's WebSocket.
    frames: Option<SentFrames>,
    /// The end of a frame that was put in between, and that the system did not take.
    /// Written before anything else.
    rest: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(socket: Socket) -> Self {
        Wire {
            socket,
            frames: None,
            rest: Vec::new(),
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The answer that makes it a client's WebSocket is the next that is written.
    pub(crate) fn becomes_websocket(&mut self) {
        self.frames = Some(SentFrames::default());
    }

    /// Writes a whole frame of at most [`BETWEEN_MAX`] bytes, if all `queued` packets that the application has queued so
    /// far were written, and nothing else is being written. The bytes of it that the
    /// system took, and `None` when it was not written at all. If it is not all, the
    /// stream has to be woken for the rest.
    pub(crate) fn put_between(&mut self, frame: &[u8], queued: u64) -> Option<usize> {
        let frames = self.frames.as_ref()?;
        let is_free = self.rest.is_empty() && frames.is_between_packets();
        if !is_free || frames.packets() != queued || frame.len() > BETWEEN_MAX {
            return None;
        }
        let written = self.socket.try_write(frame)?;
        self.rest.extend_from_slice(&frame[written..]);
        Some(written)
    }

    pub(crate) fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Writes some of the rest; the bytes that were taken. Not to be called without one.
    pub(crate) fn poll_write_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, &self.rest);
        if let Poll::Ready(Ok(bytes)) = written {
            self.rest.drain(..bytes);
            if self.rest.is_empty() {
                self.rest = Vec::new();
            }
        }
        written
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        if let (Poll::Ready(Ok(written)), Some(frames)) = (&written, &mut self.frames) {
            frames.wrote(&bytes[..*written]);
        }
        written
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, parts);
        if let (Poll::Ready(Ok(written)), Some(frames)) = (&written, &mut self.frames) {
            let mut left = *written;
            for part in parts {
                let of_part = left.min(part.len());
                frames.wrote(&part[..of_part]);
                left -= of_part;
            }
        }
        written
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
