//! Who is there, who wants what, and what waits for whom: the state behind a bus's streams.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::clock;
use super::frame::{CHANNELS_MAX, Frame};
use super::outbox::Outbox;
use crate::bus::BusError;
use crate::event_queue::EventSender;

pub(super) struct Table {
    state: Mutex<State>,
    /// Nothing was published here before.
    started: Instant,
    events: EventSender,
    /// A peer has told what it wants, or is gone.
    known: Notify,
    max_messages: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    /// The channels wanted here, each with the mark that confirms it.
    wanted: HashMap<String, u64>,
    last_mark: u64,
    /// By name.
    peers: HashMap<String, Peer>,
    /// By a number of the accepted stream.
    listeners: HashMap<u64, Listener>,
    next_listener: u64,
    /// The listeners of each channel.
    routes: HashMap<String, Vec<u64>>,
    waiting: Vec<Waiting>,
}

/// A process to which there is a stream, or soon.
struct Peer {
    outbox: Arc<Outbox>,
    /// The mark up to which it knows what is wanted here.
    reached: u64,
    /// It was not waited for: what it published meanwhile is missed here.
    given_up: Option<GivenUp>,
    /// It has told all that it wants.
    known: bool,
    /// What was published since then it may have wanted, and had not said so.
    published_since: Option<Instant>,
}

struct GivenUp {
    /// The mark up to which it was not waited for.
    mark: u64,
    /// When the first of what it did not know of was asked for.
    since: Instant,
}

/// A stream from a peer.
struct Listener {
    name: String,
    /// What it published before that moment has come.
    heard_before: Instant,
    outbox: Arc<Outbox>,
    channels: HashSet<String>,
    /// The last one that it asked for an answer to.
    mark: u64,
}

/// A subscription that is not confirmed yet.
struct Waiting {
    mark: u64,
    channels: Vec<String>,
    done: oneshot::Sender<Result<(), BusError>>,
}

/// A stream that was said hello on.
pub(super) struct Arrival {
    pub(super) listener: u64,
    /// Where to write to the peer; a task has to be started for it.
    pub(super) new_peer: Option<Arc<Outbox>>,
}

impl Table {
    pub(super) fn new(events: EventSender, max_messages: usize, max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            started: Instant::now(),
            events,
            known: Notify::new(),
            max_messages,
            max_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_outbox(&self) -> Arc<Outbox> {
        Arc::new(Outbox::new(self.max_messages, self.max_bytes))
    }

    // What the application asks for.

    /// Sends a message to all who want it, this process included.
    pub(super) fn publish(&self, channel: String, payload: Bytes) {
        let state = &mut *self.lock();
        for peer in state.peers.values_mut().filter(|peer| !peer.known) {
            peer.published_since.get_or_insert_with(Instant::now);
        }
        if let Some(listeners) = state.routes.get(&channel) {
            let message = Frame::Message {
                channel: channel.clone(),
                payload: payload.clone(),
            };
            let frame = message.encode();
            for listener in listeners {
                state.listeners[listener].outbox.message(frame.clone());
            }
        }
        // Under the lock, like the rest: here, too, messages come in the order of the calls.
        if state.wanted.contains_key(&channel) {
            self.events.message(channel, payload, Instant::now());
        }
    }

    /// How many processes want each of `channels`, as far as it is known here: all that were there
    /// before this one, and of later ones those that have said so.
    pub(super) fn subscribers(&self, channels: &[String]) -> Vec<u64> {
        let state = self.lock();
        let count = |channel: &String| {
            let others = state.routes.get(channel).map_or(0, Vec::len);
            others as u64 + u64::from(state.wanted.contains_key(channel))
        };
        channels.iter().map(count).collect()
    }

    /// Asks every peer for `channels`. Nothing to wait for is `None`.
    pub(super) fn subscribe(
        &self,
        channels: Vec<String>,
    ) -> Option<(u64, oneshot::Receiver<Result<(), BusError>>)> {
        let state = &mut *self.lock();
        let new: Vec<String> = channels
            .iter()
            .filter(|channel| !state.wanted.contains_key(*channel))
            .cloned()
            .collect();
        if !new.is_empty() {
            state.last_mark += 1;
            let number = state.last_mark;
            for peer in state.peers.values_mut() {
                subscribe_at(&peer.outbox, &new, number);
                // Who was given up before is not waited for again.
                if let Some(given_up) = &mut peer.given_up {
                    given_up.mark = number;
                }
            }
            state
                .wanted
                .extend(new.into_iter().map(|channel| (channel, number)));
        }
        let marks = channels
            .iter()
            .filter_map(|channel| state.wanted.get(channel));
        let mark = marks.copied().max()?;
        if state.is_confirmed(mark) {
            return None;
        }
        let (done, confirmed) = oneshot::channel();
        state.waiting.push(Waiting {
            mark,
            channels,
            done,
        });
        Some((mark, confirmed))
    }

    /// Waits no longer for the peers that did not answer to `mark`, which was asked for at `asked`:
    /// they are frozen, or nearly so. When they come to themselves they may publish before they read
    /// what is wanted here; then something is missed.
    pub(super) fn give_up(&self, mark: u64, asked: Instant) {
        let state = &mut *self.lock();
        for (name, peer) in &mut state.peers {
            if peer.reached < mark {
                tracing::warn!(peer = name, "a worker does not answer on the bus");
                let since = peer.given_up.as_ref().map_or(asked, |known| known.since);
                peer.given_up = Some(GivenUp {
                    mark: mark.max(peer.given_up_mark()),
                    since: since.min(asked),
                });
            }
        }
        state.confirm();
    }

    pub(super) fn unsubscribe(&self, channels: Vec<String>) {
        let state = &mut *self.lock();
        for channel in &channels {
            state.wanted.remove(channel);
        }
        let known = std::mem::take(&mut state.waiting);
        let (ended, waiting): (Vec<_>, Vec<_>) = known
            .into_iter()
            .partition(|waiting| waiting.channels.iter().any(|c| channels.contains(c)));
        state.waiting = waiting;
        for waiting in ended {
            let _ = waiting.done.send(Err(BusError::Unsubscribed));
        }
        for part in channels.chunks(CHANNELS_MAX) {
            let frame = Frame::Unsubscribe {
                channels: part.to_vec(),
            };
            for peer in state.peers.values() {
                peer.outbox.control(&frame);
            }
        }
    }

    /// Resolves when every peer of `names` that is still there has told what it wants.
    pub(super) async fn known(&self, names: &[String]) {
        loop {
            let changed = self.known.notified();
            {
                let state = self.lock();
                let known = |name| state.peers.get(name).is_none_or(|peer| peer.known);
                if names.iter().all(known) {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Where to write to each peer.
    pub(super) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let state = self.lock();
        state
            .peers
            .values()
            .map(|peer| peer.outbox.clone())
            .collect()
    }

    // What happens on streams to peers.

    /// A peer that was found; `None` when it is known.
    pub(super) fn found(&self, name: &str) -> Option<Arc<Outbox>> {
        self.lock().add_peer(name, || self.new_outbox())
    }

    /// A stream to the peer begins, or another one: what was said on the one before does not count.
    pub(super) fn connected(&self, name: &str, own_name: &str, again: bool) {
        let state = &mut *self.lock();
        let Some(peer) = state.peers.get_mut(name) else {
            return;
        };
        peer.reached = 0;
        let outbox = &peer.outbox;
        let hello = |since| Frame::Hello {
            name: own_name.to_owned(),
            since_ns: clock::told(since),
        };
        if again {
            // What was written to the old stream may be lost, answers to marks too.
            let since = outbox.begin_anew(hello);
            outbox.missed(since);
            let streams = state.listeners.values().filter(|l| l.name == name);
            if let Some(number) = streams.map(|stream| stream.mark).max() {
                outbox.control(&Frame::Reached { number });
            }
        } else {
            outbox.begin(&hello(self.started));
        }
        let wanted: Vec<String> = state.wanted.keys().cloned().collect();
        subscribe_at(outbox, &wanted, state.last_mark);
    }

    /// Nobody is there under this name any more. False when it still writes to this process: then
    /// it has only just died, or is a new one of the same name.
    pub(super) fn gone(&self, name: &str) -> bool {
        let state = &mut *self.lock();
        if state.listeners.values().any(|stream| stream.name == name) {
            return false;
        }
        if let Some(peer) = state.peers.remove(name) {
            peer.outbox.close();
            // It never came to telling that it read what is wanted here, and may have published.
            if let Some(given_up) = peer.given_up {
                self.events.gap(given_up.since);
            }
        }
        state.confirm();
        self.known.notify_waiters();
        true
    }

    // What happens on streams from peers.

    /// Somebody said hello on a stream, on which comes what it publishes from `since` on.
    pub(super) fn arrived(&self, name: String, since: Instant) -> Arrival {
        let state = &mut *self.lock();
        let new_peer = state.add_peer(&name, || self.new_outbox());
        let listener = state.next_listener;
        state.next_listener += 1;
        let mut outbox = None;
        if let Some(peer) = state.peers.get_mut(&name) {
            // Its wishes come anew on this stream.
            peer.known = false;
            outbox = Some(peer.outbox.clone());
        }
        let stream = Listener {
            name,
            heard_before: since,
            outbox: outbox.unwrap_or_else(|| self.new_outbox()),
            channels: HashSet::new(),
            mark: 0,
        };
        state.listeners.insert(listener, stream);
        Arrival { listener, new_peer }
    }

    /// The stream has ended. Without a farewell whoever wrote it is dead, and may have done
    /// something that it had not told.
    pub(super) fn left(&self, listener: u64, farewell: bool) {
        let state = &mut *self.lock();
        let Some(ended) = state.listeners.remove(&listener) else {
            return;
        };
        for channel in &ended.channels {
            state.unroute(channel, listener);
        }
        let others = state.listeners.values().any(|l| l.name == ended.name);
        if !others && let Some(peer) = state.peers.get_mut(&ended.name) {
            // Should it be alive, it comes again.
            peer.known = false;
        }
        if !farewell {
            self.events.gap(ended.heard_before);
        }
    }

    /// A frame after the hello.
    pub(super) fn heard(&self, listener: u64, frame: Frame) {
        let state = &mut *self.lock();
        match frame {
            Frame::Subscribe { channels } => state.add_routes(listener, channels),
            Frame::Unsubscribe { channels } => {
                for channel in channels {
                    if state
                        .listeners
                        .get_mut(&listener)
                        .is_some_and(|l| l.channels.remove(&channel))
                    {
                        state.unroute(&channel, listener);
                    }
                }
            }
            Frame::Mark { number } => {
                state.answer(listener, number);
                self.known.notify_waiters();
            }
            Frame::Reached { number } => {
                if let Some(since) = state.reached(listener, number) {
                    self.events.gap(since);
                }
            }
            Frame::Message { channel, payload } => {
                // What is not wanted any more was on its way.
                if let Some(known) = state.listeners.get(&listener)
                    && state.wanted.contains_key(&channel)
                {
                    self.events.message(channel, payload, known.heard_before);
                }
            }
            Frame::Missed { since_ns } => self.events.gap(clock::moment(since_ns)),
            Frame::Alive { at_ns } => {
                if let Some(known) = state.listeners.get_mut(&listener) {
                    known.heard_before = clock::moment(at_ns);
                }
            }
            Frame::Hello { .. } | Frame::Bye => {}
        }
    }
}

/// Asks for channels, and for an answer to `number`.
fn subscribe_at(outbox: &Outbox, channels: &[String], number: u64) {
    for part in channels.chunks(CHANNELS_MAX) {
        let channels = part.to_vec();
        outbox.control(&Frame::Subscribe { channels });
    }
    outbox.control(&Frame::Mark { number });
}

impl State {
    fn add_peer(&mut self, name: &str, make: impl FnOnce() -> Arc<Outbox>) -> Option<Arc<Outbox>> {
        if self.peers.contains_key(name) {
            return None;
        }
        let outbox = make();
        let peer = Peer {
            outbox: outbox.clone(),
            reached: 0,
            given_up: None,
            known: false,
            published_since: None,
        };
        self.peers.insert(name.to_owned(), peer);
        Some(outbox)
    }

    /// Whether every peer knows what was wanted at `mark`. One that came later has read it with its
    /// first mark, and what it published before it tells as missed.
    fn is_confirmed(&self, mark: u64) -> bool {
        let peers = self.peers.values();
        peers
            .map(|peer| peer.reached.max(peer.given_up_mark()))
            .all(|at| at >= mark)
    }

    fn confirm(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for waiting in waiting {
            if self.is_confirmed(waiting.mark) {
                let _ = waiting.done.send(Ok(()));
            } else if !waiting.done.is_closed() {
                self.waiting.push(waiting);
            }
        }
    }

    fn add_routes(&mut self, listener: u64, channels: Vec<String>) {
        let Some(known) = self.listeners.get_mut(&listener) else {
            return;
        };
        for channel in channels {
            if known.channels.insert(channel.clone()) {
                self.routes.entry(channel).or_default().push(listener);
            }
        }
    }

    fn unroute(&mut self, channel: &str, listener: u64) {
        if let Some(listeners) = self.routes.get_mut(channel) {
            listeners.retain(|known| *known != listener);
            if listeners.is_empty() {
                self.routes.remove(channel);
            }
        }
    }

    /// The peer's wishes up to its mark are in effect from here on.
    fn answer(&mut self, listener: u64, number: u64) {
        let Some(Listener {
            name, outbox, mark, ..
        }) = self.listeners.get_mut(&listener)
        else {
            return;
        };
        *mark = number;
        outbox.control(&Frame::Reached { number });
        if let Some(peer) = self.peers.get_mut(name)
            && !std::mem::replace(&mut peer.known, true)
            && let Some(since) = peer.published_since.take()
        {
            peer.outbox.missed(since);
        }
    }

    /// The peer has read our wishes up to `number`. If it was not waited for: since when it may have
    /// published what was wanted here.
    fn reached(&mut self, listener: u64, number: u64) -> Option<Instant> {
        let listener = self.listeners.get(&listener)?;
        let last = self.last_mark;
        let peer = self.peers.get_mut(&listener.name)?;
        peer.reached = peer.reached.max(number.min(last));
        let reached = peer.reached;
        let late = peer.given_up.take_if(|given_up| reached >= given_up.mark);
        self.confirm();
        late.map(|given_up| given_up.since)
    }
}

impl Peer {
    fn given_up_mark(&self) -> u64 {
        self.given_up.as_ref().map_or(0, |given_up| given_up.mark)
    }
}
