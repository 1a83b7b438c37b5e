//! What waits to be written to one peer. Never blocks; messages beyond its bounds are dropped, and
//! the peer is told at that place that it missed something.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock;
use super::frame::Frame;

/// Bytes that are taken to be written at once.
const BATCH: usize = 256 * 1024;

/// Bytes beside the messages. A peer that leaves so much unread is let go, and starts afresh when
/// it is back.
const CONTROL_BYTES: usize = 16 * 1024 * 1024;

pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Notify,
    emptied: Notify,
    max_messages: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    frames: VecDeque<(Bytes, Kind)>,
    messages: usize,
    message_bytes: usize,
    control_bytes: usize,
    /// What was dropped after the last frame was published from then on.
    missed_since: Option<Instant>,
    /// Since when something has been waiting or being written.
    busy_since: Option<Instant>,
    overrun: bool,
    /// Nobody writes it any more.
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Control,
    /// The latest is enough.
    Alive,
    /// At most one between two others.
    Missed,
}

/// What [`Outbox::take`] came back with.
pub(super) enum Taken {
    /// To be written.
    Bytes(BytesMut),
    /// The peer reads nothing.
    Overrun,
}

impl Outbox {
    pub(super) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            emptied: Notify::new(),
            max_messages,
            max_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first stream begins. What has been queued already follows the hello.
    pub(super) fn begin(&self, hello: &Frame) {
        let mut state = self.lock();
        state.busy_since.get_or_insert_with(Instant::now);
        let hello = hello.encode();
        state.control_bytes += hello.len();
        state.frames.push_front((hello, Kind::Control));
        drop(state);
        self.changed.notify_one();
    }

    /// Another stream begins: what was queued is forgotten. Returns since when messages may be lost
    /// by that.
    pub(super) fn begin_anew(&self, hello: impl FnOnce(Instant) -> Frame) -> Instant {
        let mut state = self.lock();
        let missed = state.missed_since.into_iter().chain(state.busy_since);
        let since = missed.min().unwrap_or_else(Instant::now);
        *state = State::default();
        state.push(hello(since).encode(), Kind::Control);
        drop(state);
        self.changed.notify_one();
        since
    }

    /// Queues a frame that is no message.
    pub(super) fn control(&self, frame: &Frame) {
        let mut state = self.lock();
        state.push(frame.encode(), Kind::Control);
        drop(state);
        self.changed.notify_one();
    }

    /// Queues a message, an encoded frame, or makes it missed.
    pub(super) fn message(&self, frame: Bytes) {
        let mut state = self.lock();
        let fits = state.messages == 0
            || (state.messages < self.max_messages
                && state.message_bytes + frame.len() <= self.max_bytes);
        if fits {
            state.push(frame, Kind::Message);
        } else {
            state.missed_since.get_or_insert_with(Instant::now);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Something that was published from then on was not sent.
    pub(super) fn missed(&self, since: Instant) {
        let mut state = self.lock();
        let since = state.missed_since.map_or(since, |known| known.min(since));
        state.missed_since = Some(since);
        drop(state);
        self.changed.notify_one();
    }

    /// Says that this process lives, and that all that it had published by `at` lies before.
    pub(super) fn alive(&self, at: Instant) {
        let mut state = self.lock();
        if state
            .frames
            .back()
            .is_some_and(|(_, kind)| *kind == Kind::Alive)
        {
            state.frames.pop_back();
        }
        let at_ns = clock::told(at);
        state.push(Frame::Alive { at_ns }.encode(), Kind::Alive);
        drop(state);
        self.changed.notify_one();
    }

    /// The next bytes to write. What was taken before counts as written. Cancel safe.
    pub(super) async fn take(&self) -> Taken {
        loop {
            {
                let mut state = self.lock();
                if state.overrun {
                    return Taken::Overrun;
                }
                if state.frames.is_empty() {
                    state.flush_missed();
                }
                if !state.frames.is_empty() {
                    return Taken::Bytes(state.take_batch());
                }
                state.busy_since = None;
            }
            self.emptied.notify_waiters();
            // A notification that came since the look above is kept for this call.
            self.changed.notified().await;
        }
    }

    /// The peer is gone.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.emptied.notify_waiters();
    }

    /// Resolves when all that was queued was written, or never will be.
    pub(super) async fn written(&self) {
        loop {
            let emptied = self.emptied.notified();
            {
                let state = self.lock();
                let written = state.busy_since.is_none() && state.missed_since.is_none();
                if written || state.overrun || state.closed {
                    return;
                }
            }
            emptied.await;
        }
    }
}

impl State {
    fn push(&mut self, frame: Bytes, kind: Kind) {
        if self.overrun {
            return;
        }
        self.flush_missed();
        if kind == Kind::Message {
            self.messages += 1;
            self.message_bytes += frame.len();
        } else if kind == Kind::Control {
            self.control_bytes += frame.len();
            self.overrun |= self.control_bytes > CONTROL_BYTES;
        }
        if !self.overrun {
            self.busy_since.get_or_insert_with(Instant::now);
            self.frames.push_back((frame, kind));
        }
    }

    fn flush_missed(&mut self) {
        if let Some(since) = self.missed_since.take() {
            let since_ns = clock::told(since);
            let missed = Frame::Missed { since_ns }.encode();
            self.busy_since.get_or_insert(since);
            self.frames.push_back((missed, Kind::Missed));
        }
    }

    fn take_batch(&mut self) -> BytesMut {
        let mut batch = BytesMut::new();
        while let Some((frame, kind)) = self.frames.pop_front() {
            match kind {
                Kind::Message => {
                    self.messages -= 1;
                    self.message_bytes -= frame.len();
                }
                Kind::Control => self.control_bytes -= frame.len(),
                Kind::Alive | Kind::Missed => {}
            }
            batch.extend_from_slice(&frame);
            let next = self.frames.front().map_or(0, |(next, _)| next.len());
            if batch.len() + next > BATCH {
                break;
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn frames(outbox: &Outbox) -> Vec<Frame> {
        let Taken::Bytes(mut bytes) = outbox.take().await else {
            panic!("overrun");
        };
        std::iter::from_fn(|| Frame::decode(&mut bytes).unwrap()).collect()
    }

    fn message(payload: &'static [u8]) -> Frame {
        Frame::Message {
            channel: "c".into(),
            payload: Bytes::from_static(payload),
        }
    }

    fn mark(number: u64) -> Frame {
        Frame::Mark { number }
    }

    /// That something is missed since some moment between the two, but for rounding.
    fn assert_missed(frame: &Frame, from: Instant, until: Instant) {
        let Frame::Missed { since_ns } = frame else {
            panic!("{frame:?}");
        };
        let since = clock::moment(*since_ns);
        let rounding = Duration::from_millis(5);
        assert!(
            from - rounding <= since && since <= until,
            "{:?}",
            since - from
        );
    }

    #[tokio::test]
    async fn what_does_not_fit_is_missed_in_its_place() {
        let outbox = Outbox::new(2, 1000);
        let before = Instant::now();
        for payload in [b"1", b"2", b"3", b"4"] {
            outbox.message(message(payload).encode());
        }
        let after = Instant::now();
        outbox.control(&mark(1));
        let told = frames(&outbox).await;
        assert_eq!(told[..2], [message(b"1"), message(b"2")]);
        assert_missed(&told[2], before, after);
        assert_eq!(told[3..], [mark(1)]);
        outbox.message(message(b"5").encode());
        assert_eq!(frames(&outbox).await, [message(b"5")]);
    }

    #[tokio::test]
    async fn a_message_that_is_missed_at_the_end_is_told_without_another() {
        let outbox = Outbox::new(1, 1000);
        outbox.message(message(b"1").encode());
        outbox.message(message(b"2").encode());
        assert_eq!(frames(&outbox).await, [message(b"1")]);
        assert!(matches!(frames(&outbox).await[..], [Frame::Missed { .. }]));
    }

    #[tokio::test]
    async fn a_sign_of_life_stands_behind_all_that_came_before_and_the_latest_is_enough() {
        let outbox = Outbox::new(10, 1000);
        outbox.message(message(b"1").encode());
        for _ in 0..1000 {
            outbox.alive(Instant::now());
        }
        outbox.missed(Instant::now());
        outbox.alive(Instant::now());
        outbox.alive(Instant::now());
        let told = frames(&outbox).await;
        let [first, Frame::Missed { .. }, Frame::Alive { .. }] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(*first, message(b"1"));
    }

    /// What was queued before the first stream began was forgotten, with the answers in it.
    #[tokio::test]
    async fn what_was_queued_early_follows_the_first_hello() {
        let outbox = Outbox::new(10, 1000);
        outbox.control(&Frame::Reached { number: 7 });
        outbox.message(message(b"1").encode());
        let hello = Frame::Hello {
            name: "a".into(),
            since_ns: 0,
        };
        outbox.begin(&hello);
        let expected = [hello, Frame::Reached { number: 7 }, message(b"1")];
        assert_eq!(frames(&outbox).await, expected);
    }

    #[tokio::test]
    async fn another_stream_tells_since_when_something_may_be_lost() {
        let outbox = Outbox::new(10, 1000);
        let hello = |_| Frame::Bye;
        let before = Instant::now();
        assert!(outbox.begin_anew(hello) >= before, "nothing was under way");
        assert_eq!(frames(&outbox).await, [Frame::Bye]);
        outbox.message(message(b"1").encode());
        let _ = frames(&outbox).await;
        // Taken, and perhaps not written.
        let first = Instant::now();
        outbox.message(message(b"2").encode());
        assert!(outbox.begin_anew(hello) <= first);
        assert_eq!(frames(&outbox).await, [Frame::Bye]);
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_for_ever_is_let_go() {
        let outbox = Outbox::new(1, 1000);
        let channels = vec!["x".repeat(60_000); 100];
        for _ in 0..3 {
            outbox.control(&Frame::Subscribe {
                channels: channels.clone(),
            });
        }
        assert!(matches!(outbox.take().await, Taken::Overrun));
    }
}
