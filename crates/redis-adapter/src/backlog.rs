//! What is heard while the application makes good what was missed: it waits, channel by channel, so
//! that nothing overtakes what was sent before it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Messages that wait at most, and their bytes: as much as a [`RedisBus`](crate::RedisBus) lets wait
/// for its consumer.
const MAX_MESSAGES: usize = 16_384;
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Messages may have been missed: told by [`AdapterState::missed`](crate::AdapterState::missed).
#[derive(Debug, Clone, Copy)]
pub struct Missed {
    since: Instant,
    epoch: u64,
}

impl Missed {
    /// From when on. What was published before that was heard.
    pub fn since(&self) -> Instant {
        self.since
    }
}

/// More came for a room than can wait, and was dropped: what was missed has to be read once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more was broadcast while it was made good than can wait")]
pub struct MissedMore;

#[derive(Default)]
pub(crate) struct Backlog {
    /// Whether anything may have to wait: spares the lock when nothing was missed.
    is_open: AtomicBool,
    state: Mutex<State>,
    told: Notify,
}

#[derive(Default)]
struct State {
    /// Grows with each sign that something is or was missed: what is made good of an earlier one
    /// says nothing of a later.
    epoch: u64,
    /// Of the gaps that nobody was told of yet.
    missed_since: Option<Instant>,
    /// Channels of which all was made good in this epoch.
    made_good: HashSet<String>,
    waiting: HashMap<String, Waiting>,
    messages: usize,
    bytes: usize,
}

#[derive(Default)]
struct Waiting {
    messages: Vec<Bytes>,
    /// Some were dropped.
    overflowed: bool,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on messages may be missed; what is heard waits for what will be read.
    pub(crate) fn begin(&self) {
        self.lock().begin();
        self.is_open.store(true, Ordering::Release);
    }

    /// Messages were missed since then, and none is from now on.
    pub(crate) fn gap(&self, since: Instant) {
        let mut state = self.lock();
        state.begin();
        let known = state.missed_since;
        state.missed_since = Some(known.map_or(since, |known| known.min(since)));
        drop(state);
        self.is_open.store(true, Ordering::Release);
        self.told.notify_one();
    }

    /// Resolves with a gap that nobody was told of. Cancel safe.
    pub(crate) async fn missed(&self) -> Missed {
        loop {
            {
                let mut state = self.lock();
                if let Some(since) = state.missed_since.take() {
                    let epoch = state.epoch;
                    return Missed { since, epoch };
                }
            }
            // A notification that came since the look above is kept for this call.
            self.told.notified().await;
        }
    }

    /// Whether any message may have to wait.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Keeps a message unless all of its channel was made good; whether it did.
    pub(crate) fn keep(&self, channel: &str, message: &Bytes) -> bool {
        let state = &mut *self.lock();
        if !self.is_open() || state.made_good.contains(channel) {
            return false;
        }
        let size = channel.len() + message.len();
        let fits = state.messages < MAX_MESSAGES && state.bytes + size <= MAX_BYTES;
        let waiting = state.waiting.entry(channel.to_owned()).or_default();
        if waiting.overflowed {
            return true;
        }
        if fits {
            waiting.messages.push(message.clone());
            state.messages += 1;
            state.bytes += size;
        } else {
            waiting.overflowed = true;
            let dropped = std::mem::take(&mut waiting.messages);
            state.release(channel, &dropped);
        }
        true
    }

    /// What was missed on `channel` is made good: `deliver` gets what waits, in order, and what
    /// comes afterwards waits no more. Nothing happens when more was missed since.
    pub(crate) fn made_good(
        &self,
        missed: &Missed,
        channel: &str,
        deliver: impl Fn(&Bytes),
    ) -> Result<(), MissedMore> {
        loop {
            let messages = {
                let state = &mut *self.lock();
                if state.epoch != missed.epoch {
                    return Ok(());
                }
                match state.waiting.remove(channel) {
                    Some(waiting) if waiting.overflowed => return Err(MissedMore),
                    Some(waiting) => {
                        state.release(channel, &waiting.messages);
                        // Still none may pass: what comes meanwhile is taken next.
                        waiting.messages
                    }
                    None => {
                        state.made_good.insert(channel.to_owned());
                        return Ok(());
                    }
                }
            };
            // The caller's code runs without the lock.
            messages.iter().for_each(&deliver);
        }
    }

    /// What waits for `channel` is of no use any more.
    pub(crate) fn forget(&self, channel: &str) {
        let state = &mut *self.lock();
        if let Some(waiting) = state.waiting.remove(channel) {
            state.release(channel, &waiting.messages);
        }
    }

    /// Whatever is left was made good as well. Returns the channels of which that is not true,
    /// because some was dropped.
    pub(crate) fn all_made_good(
        &self,
        missed: &Missed,
        deliver: impl Fn(&str, &Bytes),
    ) -> Vec<String> {
        let mut dropped = Vec::new();
        loop {
            let channel = {
                let state = &mut *self.lock();
                if state.epoch != missed.epoch {
                    return dropped;
                }
                let Some(channel) = state.waiting.keys().next().cloned() else {
                    *state = State {
                        epoch: state.epoch,
                        ..State::default()
                    };
                    self.is_open.store(false, Ordering::Release);
                    return dropped;
                };
                channel
            };
            let made_good = self.made_good(missed, &channel, |message| deliver(&channel, message));
            if made_good.is_err() {
                dropped.push(channel);
            }
        }
    }
}

impl State {
    fn begin(&mut self) {
        self.epoch += 1;
        self.made_good.clear();
    }

    fn release(&mut self, channel: &str, messages: &[Bytes]) {
        self.messages -= messages.len();
        let bytes: usize = messages.iter().map(|m| channel.len() + m.len()).sum();
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn told(backlog: &Backlog) -> Missed {
        backlog.missed().now_or_never().expect("a gap to tell of")
    }

    fn kept(backlog: &Backlog, channel: &str, text: &'static str) -> bool {
        backlog.keep(channel, &Bytes::from_static(text.as_bytes()))
    }

    fn delivered(backlog: &Backlog, missed: &Missed, channel: &str) -> Vec<Bytes> {
        let got = Mutex::new(Vec::new());
        let deliver = |message: &Bytes| got.lock().unwrap().push(message.clone());
        backlog.made_good(missed, channel, deliver).unwrap();
        got.into_inner().unwrap()
    }

    #[test]
    fn without_a_gap_nothing_waits() {
        let backlog = Backlog::default();
        assert!(!backlog.is_open());
        assert!(!kept(&backlog, "a", "1"));
        assert!(backlog.missed().now_or_never().is_none());
    }

    #[test]
    fn each_channel_waits_until_it_was_made_good() {
        let backlog = Backlog::default();
        backlog.begin();
        assert!(kept(&backlog, "a", "1"));
        let since = Instant::now();
        backlog.gap(since);
        let missed = told(&backlog);
        assert_eq!(missed.since(), since);
        assert!(kept(&backlog, "a", "2"));
        assert!(kept(&backlog, "b", "3"));
        assert_eq!(delivered(&backlog, &missed, "a"), ["1", "2"]);
        assert!(!kept(&backlog, "a", "4"));
        assert!(kept(&backlog, "b", "5"));
        let rest = Mutex::new(Vec::new());
        let dropped = backlog.all_made_good(&missed, |channel, message| {
            rest.lock()
                .unwrap()
                .push((channel.to_owned(), message.clone()));
        });
        assert!(dropped.is_empty());
        let rest = rest.into_inner().unwrap();
        let expected = [("b", "3"), ("b", "5")];
        let expected = expected.map(|(channel, text)| (channel.to_owned(), Bytes::from(text)));
        assert_eq!(rest, expected);
        assert!(!backlog.is_open());
        assert!(!kept(&backlog, "b", "6"));
    }

    #[test]
    fn what_comes_while_it_is_delivered_follows_it() {
        let backlog = Backlog::default();
        backlog.gap(Instant::now());
        let missed = told(&backlog);
        kept(&backlog, "a", "1");
        let got = Mutex::new(Vec::new());
        let deliver = |message: &Bytes| {
            if message == "1" {
                assert!(kept(&backlog, "a", "2"));
            }
            got.lock().unwrap().push(message.clone());
        };
        backlog.made_good(&missed, "a", deliver).unwrap();
        assert_eq!(*got.lock().unwrap(), ["1", "2"]);
    }

    #[test]
    fn what_was_made_good_before_the_next_gap_does_not_count() {
        let backlog = Backlog::default();
        backlog.gap(Instant::now());
        let first = told(&backlog);
        assert!(delivered(&backlog, &first, "a").is_empty());
        backlog.begin();
        assert!(kept(&backlog, "a", "1"));
        assert!(delivered(&backlog, &first, "a").is_empty());
        assert!(backlog.all_made_good(&first, |_, _| {}).is_empty());
        assert!(backlog.is_open());
        backlog.gap(Instant::now());
        let second = told(&backlog);
        assert_eq!(delivered(&backlog, &second, "a"), ["1"]);
    }

    #[test]
    fn gaps_that_nobody_was_told_of_are_one_from_the_first_on() {
        let backlog = Backlog::default();
        let first = Instant::now();
        backlog.gap(first);
        backlog.gap(first + std::time::Duration::from_secs(1));
        let missed = told(&backlog);
        assert_eq!(missed.since(), first);
        assert!(backlog.missed().now_or_never().is_none());
        assert!(backlog.all_made_good(&missed, |_, _| {}).is_empty());
        assert!(!backlog.is_open());
    }

    #[test]
    fn more_than_can_wait_has_to_be_read_again() {
        let backlog = Backlog::default();
        backlog.gap(Instant::now());
        let missed = told(&backlog);
        for _ in 0..MAX_MESSAGES {
            assert!(kept(&backlog, "busy", "x"));
        }
        assert!(kept(&backlog, "calm", "dropped"));
        let made_good = |channel| backlog.made_good(&missed, channel, |_| {});
        assert_eq!(made_good("calm"), Err(MissedMore));
        assert_eq!(delivered(&backlog, &missed, "busy").len(), MAX_MESSAGES);
        // Read again, and there is room now.
        assert!(kept(&backlog, "calm", "y"));
        assert_eq!(delivered(&backlog, &missed, "calm"), ["y"]);
        for number in 0..MAX_MESSAGES {
            assert!(kept(&backlog, &number.to_string(), "x"));
        }
        assert!(kept(&backlog, "new", "dropped"));
        assert_eq!(backlog.all_made_good(&missed, |_, _| {}), ["new"]);
    }

    #[test]
    fn the_bound_is_in_bytes_too() {
        let backlog = Backlog::default();
        backlog.gap(Instant::now());
        let missed = told(&backlog);
        let large = Bytes::from(vec![b'x'; MAX_BYTES / 2]);
        assert!(backlog.keep("a", &large));
        assert!(backlog.keep("a", &large));
        assert_eq!(backlog.made_good(&missed, "a", |_| {}), Err(MissedMore));
        assert!(kept(&backlog, "a", "1"));
        assert_eq!(delivered(&backlog, &missed, "a"), ["1"]);
    }
}
