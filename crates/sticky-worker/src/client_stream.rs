//! The wrapper around every socket the worker serves: counts what it reads,
//! shows its reader an end of file when the client is asked to return, and
//! cuts a client that does not read. Knows no HTTP.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, sleep_until};

use crate::socket::Socket;
use crate::stand_in::Frame;
use crate::stream_registry::Registered;
use crate::stream_state::{Ending, StreamState};
use crate::wire::{SharedWire, Wire};

/// A served socket.
pub(crate) struct ClientStream {
    wire: SharedWire,
    registered: Registered,
    write_deadline: Duration,
    is_write_vectored: bool,
    /// Runs while a write is pending.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs while a client that was asked to return finishes its upgrade.
    upgrade_wait: Option<Pin<Box<Sleep>>>,
    /// What is being written in the place of what stands for it.
    in_place: Option<Box<InPlace>>,
}

struct InPlace {
    frame: Frame,
    /// Length of what stands for it, at the beginning of what is to be written.
    stands: usize,
}

impl ClientStream {
    /// Wraps a registered socket. A write that is pending for longer than
    /// `write_deadline` fails with `TimedOut`, and the stream is at its end.
    pub(crate) fn new(socket: Socket, registered: Registered, write_deadline: Duration) -> Self {
        if let Some(tcp) = socket.tcp()
            && let Err(error) = tcp.set_nodelay(true)
        {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let is_write_vectored = socket.is_write_vectored();
        let wire = Arc::new(Mutex::new(Wire::new(socket)));
        registered.state().writes_to(&wire);
        ClientStream {
            wire,
            registered,
            write_deadline,
            is_write_vectored,
            stalled: None,
            upgrade_wait: None,
            in_place: None,
        }
    }

    pub(crate) fn state(&self) -> &Arc<StreamState> {
        self.registered.state()
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().expect("never poisoned")
    }

    fn must_end(&mut self, cx: &mut Context<'_>) -> bool {
        match self.state().ending() {
            Ending::Stays => false,
            Ending::Now => true,
            Ending::AfterUpgrade(until) => self
                .upgrade_wait
                .get_or_insert_with(|| Box::pin(sleep_until(until)))
                .as_mut()
                .poll(cx)
                .is_ready(),
        }
    }

    fn counted(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.state().count_sent(bytes);
        }
        self.watched(cx, written)
    }

    /// How much of `bytes` is to be written as it is. None of it: a frame in its place
    /// goes first.
    fn plain(&mut self, bytes: &[u8]) -> usize {
        if self.in_place.is_some() {
            return 0;
        }
        let stand_ins = self.registered.state().stand_ins();
        let found = stand_ins.and_then(|stand_ins| {
            let (text, at) = stand_ins.frame_in(bytes)?;
            Some((stand_ins, text, at))
        });
        match found {
            Some((stand_ins, text, at)) if at.start == 0 => {
                let stands = at.end;
                match stand_ins.frame(text, &bytes[at]) {
                    Some(frame) => {
                        self.in_place = Some(Box::new(InPlace { frame, stands }));
                        0
                    }
                    None => bytes.len(),
                }
            }
            Some((_, _, at)) => at.start,
            None => bytes.len(),
        }
    }

    /// Writes that frame. What stands for it counts as written when all of it is.
    fn poll_in_place(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(mut in_place) = self.in_place.take() else {
            return Poll::Ready(Ok(0));
        };
        while in_place.frame.has_remaining() {
            let mut parts = [IoSlice::new(&[]); 3];
            let count = in_place.frame.chunks_vectored(&mut parts);
            let written = self.wire().poll_write_vectored(cx, &parts[..count]);
            match self.counted(cx, written) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => in_place.frame.advance(bytes),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.in_place = Some(in_place);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(in_place.stands))
    }

    /// Writes the rest of what was put between the application's packets.
    fn write_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let written = {
                let mut wire = self.wire();
                if !wire.has_rest() {
                    return Poll::Ready(Ok(()));
                }
                wire.poll_write_rest(cx)
            };
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.state().count_sent(bytes),
            }
            self.stalled = None;
        }
    }

    /// For the application's writer, who waits for it.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.write_rest(cx) {
            // Without a rest, a deadline that runs is that of another write.
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            rest => self.watched(cx, rest),
        }
    }

    /// For the reader, since the writer may have nothing to write.
    fn rest_of_reader(&mut self, cx: &mut Context<'_>) {
        match self.write_rest(cx) {
            // An error is found by whoever writes next; a broken connection by the
            // reader, too.
            Poll::Ready(_) => {
                self.stalled = None;
                self.state().wake_writer();
            }
            Poll::Pending if self.is_past_deadline(cx) => self.state().stalled(),
            Poll::Pending => {}
        }
    }

    /// Whether a write that is pending is so for too long, or not to be waited for.
    fn is_past_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.write_deadline;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(deadline)));
        stalled.as_mut().poll(cx).is_ready() || self.state().is_cut()
    }

    /// Puts the deadline on a write, or on a flush or shutdown, which pend with
    /// TLS only.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        self.state().wake_on_cut(cx.waker());
        if !self.is_past_deadline(cx) {
            return Poll::Pending;
        }
        self.stalled = None;
        self.state().stalled();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.state().is_cut()
            && let Some(tcp) = self.wire().socket().tcp()
        {
            // A reset: the kernel need not keep what nobody reads.
            let _ = tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.must_end(cx) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let (read, has_rest) = {
            let mut wire = this.wire();
            (wire.poll_read(cx, buf), wire.has_rest())
        };
        if has_rest {
            this.rest_of_reader(cx);
        }
        if read.is_ready() {
            this.state().count_received(buf.filled().len() - before);
            return read;
        }
        this.state().wake_on_ending(cx.waker());
        // Asked between the look above and the registration.
        if this.must_end(cx) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.state().is_cut() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(self.poll_rest(cx))?;
        let plain = self.plain(buf);
        if plain == 0 && !buf.is_empty() {
            return self.poll_in_place(cx);
        }
        let written = self.wire().poll_write(cx, &buf[..plain]);
        self.counted(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.state().is_cut() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(self.poll_rest(cx))?;
        let written = self.wire().poll_write_vectored(cx, bufs);
        self.counted(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.is_write_vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state().is_cut() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let flushed = self.wire().poll_flush(cx);
        self.watched(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state().is_cut() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_rest(cx))?;
        let shut = self.wire().poll_shutdown(cx);
        self.watched(cx, shut)
    }
}

#[cfg(test)]
pub(crate) use tests::accepted_websocket;

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::board::Board;
    use crate::stream_registry::StreamRegistry;
    use crate::stream_state::Origin;
    use crate::text_frame::text_frame;

    const LONG: Duration = Duration::from_secs(20);

    async fn pair(
        deadline: Duration,
    ) -> (ClientStream, TcpStream, Arc<StreamRegistry>, Arc<Board>) {
        let board = Arc::new(Board::create().unwrap().0);
        let registry = Arc::new(StreamRegistry::new(board.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let registered = registry.enter(Origin::plain_relay());
        let socket = Socket::Tcp(accepted.unwrap().0);
        let stream = ClientStream::new(socket, registered, deadline);
        (stream, client.unwrap(), registry, board)
    }

    #[tokio::test]
    async fn a_reader_that_stalls_is_cut_and_counted() {
        let (mut stream, _client, _registry, board) = pair(Duration::from_millis(50)).await;
        let write = async {
            loop {
                if let Err(error) = stream.write_all(&[0; 65_536]).await {
                    return error;
                }
            }
        };
        let error = tokio::time::timeout(LONG, write).await.unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(board.counters().stalled.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn a_slow_reader_that_reads_is_not_cut() {
        let (mut stream, mut client, _registry, board) = pair(Duration::from_millis(400)).await;
        let total = 24 << 20;
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 20];
            let mut left = total;
            while left > 0 {
                left -= client.read(&mut buffer).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        stream.write_all(&vec![0; total]).await.unwrap();
        reader.await.unwrap();
        assert_eq!(board.counters().stalled.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn a_pending_read_ends_when_the_client_is_asked_to_return() {
        let (mut stream, _client, _registry, _board) = pair(LONG).await;
        let state = stream.state().clone();
        let read = tokio::spawn(async move { stream.read(&mut [0; 8]).await.unwrap() });
        tokio::task::yield_now().await;
        state.ask_to_return();
        assert_eq!(tokio::time::timeout(LONG, read).await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn an_upgrade_that_never_finishes_ends_at_its_timeout() {
        let (mut stream, mut client, _registry, _board) = pair(LONG).await;
        let state = stream.state().clone();
        state.upgrade_began(Duration::from_millis(100));
        state.ask_to_return();
        client.write_all(b"12 bytes....").await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 12);
        let end = tokio::time::timeout(LONG, stream.read(&mut buffer)).await;
        assert_eq!(end.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_large_packet_is_written_in_its_place_also_in_pieces() {
        let (mut stream, mut client, _registry, _board) = pair(LONG).await;
        let stand_ins = Arc::new(crate::stand_in::StandIns::default());
        stream.state().writes_in_place(&stand_ins);
        // More than the kernel takes at once.
        let json = format!("\"{}\"", "x".repeat(20 << 20));
        let text = stand_ins.add(json.clone().into());
        let short = format!("42[\"users\",\"{}\"]", text.as_str());
        let frame = [&[0x81, short.len() as u8], short.as_bytes()].concat();
        let all = [b"\x81\x01a", &frame[..], b"\x81\x01b"].concat();
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            read
        });
        stream.write_all(&all).await.unwrap();
        let state = stream.state().clone();
        drop(stream);
        let read = tokio::time::timeout(LONG, reader).await.unwrap().unwrap();
        let packet = format!("42[\"users\",{json}]");
        assert_eq!(&read[..3], b"\x81\x01a");
        assert_eq!(&read[3..5], [0x81, 127]);
        assert_eq!(read[5..13], (packet.len() as u64).to_be_bytes());
        assert!(read[13..read.len() - 3] == *packet.as_bytes());
        assert_eq!(&read[read.len() - 3..], b"\x81\x01b");
        assert_eq!(state.sent(), read.len() as u64);
    }

    #[tokio::test]
    async fn a_reader_that_stalls_in_a_large_packet_is_cut() {
        let (mut stream, _client, _registry, board) = pair(Duration::from_millis(50)).await;
        let stand_ins = Arc::new(crate::stand_in::StandIns::default());
        stream.state().writes_in_place(&stand_ins);
        let text = stand_ins.add(vec![b'1'; 20 << 20].into());
        let short = format!("42[\"users\",\"{}\"]", text.as_str());
        let frame = [&[0x81, short.len() as u8], short.as_bytes()].concat();
        let written = tokio::time::timeout(LONG, stream.write_all(&frame)).await;
        assert_eq!(
            written.unwrap().unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        assert_eq!(board.counters().stalled.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn a_dropped_stream_leaves_the_registry() {
        let (stream, _client, registry, board) = pair(LONG).await;
        let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = ended.clone();
        stream
            .state()
            .became_websocket(move || flag.store(true, SeqCst));
        assert_eq!(registry.websockets().len(), 1);
        assert_eq!(board.counters().connections.load(SeqCst), 1);
        let empty = registry.clone();
        let empty = tokio::spawn(async move { empty.empty().await });
        drop(stream);
        tokio::time::timeout(LONG, empty).await.unwrap().unwrap();
        assert!(ended.load(SeqCst));
        assert_eq!(board.counters().connections.load(SeqCst), 0);
    }

    const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";

    fn frame(packet: &str) -> Vec<u8> {
        text_frame(packet.as_bytes())
    }

    /// The WebSocket of a client, whose application has been heard once.
    async fn websocket(
        deadline: Duration,
    ) -> (ClientStream, TcpStream, Arc<StreamState>, Arc<Board>) {
        let (mut stream, mut client, _registry, board) = pair(deadline).await;
        let state = stream.state().clone();
        state.writes_in_place(&Arc::default());
        state.request_seen();
        state.became_websocket(|| ());
        let first = [ACCEPTED, &frame("40{}")].concat();
        stream.write_all(&first).await.unwrap();
        client.read_exact(&mut vec![0; first.len()]).await.unwrap();
        (stream, client, state, board)
    }

    pub(crate) async fn accepted_websocket()
    -> (ClientStream, TcpStream, Arc<StreamState>, Arc<Board>) {
        websocket(LONG).await
    }

    #[tokio::test]
    async fn a_packet_is_put_between_others_and_nowhere_else() {
        let (mut stream, mut client, state, _board) = websocket(LONG).await;
        let put = |queued| state.put_between(&frame("42[\"now\"]"), queued);
        let mut expected = Vec::new();
        // One waits in the application's queue, or has come from nowhere.
        assert!(!put(2) && !put(0));
        assert!(put(1));
        expected.extend(frame("42[\"now\"]"));
        let whole = frame("42[\"queued\"]");
        let (begin, end) = whole.split_at(7);
        stream.write_all(begin).await.unwrap();
        assert!(!put(1) && !put(2));
        stream.write_all(end).await.unwrap();
        assert!(!put(1) && put(2));
        expected.extend([whole, frame("42[\"now\"]")].concat());
        // Between the other packets, too, and it does not count among them.
        stream.write_all(&frame("2")).await.unwrap();
        assert!(put(2) && put(2));
        let now = frame("42[\"now\"]");
        expected.extend([frame("2"), now.clone(), now].concat());
        let long = frame(&"x".repeat(64 << 10));
        assert!(!state.put_between(&long, 2));
        state.ask_to_return();
        assert!(!put(2));
        drop(stream);
        assert!(!put(2));
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert!(read == expected);
        assert_eq!(
            state.sent() as usize,
            ACCEPTED.len() + frame("40{}").len() + read.len()
        );
    }

    #[tokio::test]
    async fn nothing_is_put_where_the_client_does_not_listen_or_frames_are_not_known() {
        // Until the application says more than that, it is not the session's transport.
        let (mut stream, _client, _registry, _board) = pair(LONG).await;
        let state = stream.state().clone();
        state.writes_in_place(&Arc::default());
        state.request_seen();
        state.became_websocket(|| ());
        for (frames, listens) in [
            (ACCEPTED.to_vec(), false),
            (frame("3probe"), false),
            (frame("2"), true),
        ] {
            stream.write_all(&frames).await.unwrap();
            assert_eq!(state.put_between(&frame("42[]"), 0), listens);
        }

        for (requests, is_a_clients) in [(1, false), (2, true)] {
            let (mut stream, _client, _registry, _board) = pair(LONG).await;
            let state = stream.state().clone();
            if is_a_clients {
                state.writes_in_place(&Arc::default());
            }
            for _ in 0..requests {
                state.request_seen();
            }
            state.became_websocket(|| ());
            stream.write_all(ACCEPTED).await.unwrap();
            stream.write_all(&frame("40{}")).await.unwrap();
            assert!(!state.put_between(&frame("42[]"), 1));
        }
    }

    /// Puts packets in between until the system has taken one in part. What was put, and
    /// what the client had to read meanwhile.
    async fn fill(state: &StreamState, client: &mut TcpStream) -> (Vec<u8>, Vec<u8>) {
        let now = frame(&format!("42[\"{}\"]", "x".repeat(60_000)));
        let (mut put, mut read) = (Vec::new(), Vec::new());
        let before = state.sent();
        while state.sent() - before == put.len() as u64 {
            if state.put_between(&now, 1) {
                put.extend(&now);
            } else {
                // It is full to the end of a frame.
                client.read_buf(&mut read).await.unwrap();
            }
        }
        assert!(!state.put_between(&now, 1));
        (put, read)
    }

    #[tokio::test]
    async fn the_rest_of_a_packet_comes_before_what_is_written_next() {
        for writes in [false, true] {
            let (stream, mut client, state, _board) = websocket(LONG).await;
            let (mut reader, mut writer) = tokio::io::split(stream);
            let read = tokio::spawn(async move { reader.read(&mut [0; 1]).await.unwrap() });
            tokio::task::yield_now().await;
            let (mut expected, mut all) = fill(&state, &mut client).await;
            // With nothing to write it is the reader who sees to it.
            let written = writes.then(|| {
                let queued = frame("42[\"queued\"]");
                expected.extend(&queued);
                tokio::spawn(async move {
                    writer.write_all(&queued).await.unwrap();
                    writer
                })
            });
            tokio::task::yield_now().await;
            let mut left = vec![0; expected.len() - all.len()];
            let left_read = client.read_exact(&mut left);
            tokio::time::timeout(LONG, left_read)
                .await
                .unwrap()
                .unwrap();
            all.extend(left);
            assert!(all == expected);
            if let Some(written) = written {
                tokio::time::timeout(LONG, written).await.unwrap().unwrap();
            }
            let queued = 1 + u64::from(writes);
            assert!(state.put_between(&frame("42[]"), queued), "nothing is left");
            client.write_all(b"x").await.unwrap();
            assert_eq!(read.await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_reader_that_stalls_in_what_was_put_between_is_cut() {
        let (mut stream, mut client, state, board) = websocket(Duration::from_millis(50)).await;
        fill(&state, &mut client).await;
        // Only the reader is there to notice.
        let end = tokio::time::timeout(LONG, stream.read(&mut [0; 1])).await;
        assert_eq!(end.unwrap().unwrap(), 0);
        assert_eq!(board.counters().stalled.load(SeqCst), 1);
        assert!(!state.put_between(&frame("42[]"), 1));
        assert_eq!(
            stream.write(b"x").await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }
}
