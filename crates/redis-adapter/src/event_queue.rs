//! The bounded queue between a bus and its one consumer. Never blocks the bus
//! and never drops silently: what did not fit becomes a [`BusEvent::Gap`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bus::BusEvent;

/// Creates a queue that holds at most `max_events` messages (and what lies between them) and
/// `max_bytes` bytes of them; a single larger message still fits an empty queue.
pub fn event_queue(max_events: usize, max_bytes: usize) -> (EventSender, EventReceiver) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::default()),
        changed: Notify::new(),
        max_events,
        max_bytes,
    });
    (EventSender(shared.clone()), EventReceiver(shared))
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    max_events: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    events: VecDeque<BusEvent>,
    bytes: usize,
    /// What was dropped after the last queued event may have been published from then on.
    missed_since: Option<Instant>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, and every state it can be left in is valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bus's end. Dropping it ends the queue after what is queued.
pub struct EventSender(Arc<Shared>);

impl EventSender {
    /// Queues a message. When the consumer lags beyond the bounds it is dropped, and the consumer
    /// finds a [`BusEvent::Gap`] in its place, since `heard_before`: what was published before that
    /// moment by whoever published this has been queued already.
    pub fn message(&self, channel: String, payload: Bytes, heard_before: Instant) {
        let mut state = self.0.lock();
        let size = channel.len() + payload.len();
        let fits = state.events.is_empty()
            || (state.events.len() < self.0.max_events && state.bytes + size <= self.0.max_bytes);
        if fits {
            state.flush_missed();
            state.bytes += size;
            let message = BusEvent::Message { channel, payload };
            state.events.push_back(message);
        } else {
            state.missed(heard_before);
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// Queues a [`BusEvent::Gap`], in any case.
    pub fn gap(&self, since: Instant) {
        self.0.lock().missed(since);
        self.0.changed.notify_one();
    }

    /// Queues a [`BusEvent::Down`].
    pub fn down(&self) {
        let mut state = self.0.lock();
        state.flush_missed();
        // One after the other says nothing new, and would not be bounded.
        if state.events.back() != Some(&BusEvent::Down) {
            state.events.push_back(BusEvent::Down);
        }
        drop(state);
        self.0.changed.notify_one();
    }
}

impl State {
    fn missed(&mut self, since: Instant) {
        let since = self.missed_since.map_or(since, |known| known.min(since));
        self.missed_since = Some(since);
    }

    fn flush_missed(&mut self) {
        if let Some(since) = self.missed_since.take() {
            self.events.push_back(BusEvent::Gap { since });
        }
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

/// The consumer's end.
pub struct EventReceiver(Arc<Shared>);

impl EventReceiver {
    /// The next event, or `None` once the bus is gone and the queue is empty.
    /// Cancel safe.
    pub async fn recv(&mut self) -> Option<BusEvent> {
        // A full queue must not keep other tasks of the thread from running.
        tokio::task::consume_budget().await;
        loop {
            {
                let mut state = self.0.lock();
                if state.events.is_empty() {
                    state.flush_missed();
                }
                if let Some(event) = state.events.pop_front() {
                    state.bytes -= size_of_message(&event);
                    return Some(event);
                }
                if state.closed {
                    return None;
                }
            }
            // A notification that came since the look above is kept for this call.
            self.0.changed.notified().await;
        }
    }

    /// Whether at least so many events are queued at the moment.
    pub fn has(&self, events: usize) -> bool {
        self.0.lock().events.len() >= events
    }
}

fn size_of_message(event: &BusEvent) -> usize {
    match event {
        BusEvent::Message { channel, payload } => channel.len() + payload.len(),
        BusEvent::Gap { .. } | BusEvent::Down => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn message(text: &'static str) -> BusEvent {
        BusEvent::Message {
            channel: String::new(),
            payload: Bytes::from_static(text.as_bytes()),
        }
    }

    fn send(sender: &EventSender, text: &'static str, heard_before: Instant) {
        sender.message(
            String::new(),
            Bytes::from_static(text.as_bytes()),
            heard_before,
        );
    }

    #[tokio::test]
    async fn what_does_not_fit_becomes_one_gap_in_its_place() {
        let (sender, mut receiver) = event_queue(2, 100);
        let first = Instant::now();
        for (n, text) in ["a", "b", "lost", "lost too"].into_iter().enumerate() {
            send(&sender, text, first + Duration::from_secs(n as u64));
        }
        assert_eq!(receiver.recv().await, Some(message("a")));
        send(&sender, "c", first + Duration::from_secs(9));
        drop(sender);
        assert_eq!(receiver.recv().await, Some(message("b")));
        let since = first + Duration::from_secs(2);
        assert_eq!(receiver.recv().await, Some(BusEvent::Gap { since }));
        assert_eq!(receiver.recv().await, Some(message("c")));
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn a_gap_at_the_end_is_told_without_a_further_message() {
        let (sender, mut receiver) = event_queue(1, 100);
        let since = Instant::now();
        send(&sender, "a", since);
        send(&sender, "lost", since);
        assert_eq!(receiver.recv().await, Some(message("a")));
        assert_eq!(receiver.recv().await, Some(BusEvent::Gap { since }));
    }

    #[tokio::test]
    async fn bytes_are_bounded_but_one_message_always_fits() {
        let (sender, mut receiver) = event_queue(10, 3);
        let since = Instant::now();
        send(&sender, "larger", since);
        send(&sender, "x", since);
        assert_eq!(receiver.recv().await, Some(message("larger")));
        assert_eq!(receiver.recv().await, Some(BusEvent::Gap { since }));
    }

    #[tokio::test]
    async fn gaps_and_downs_are_told_also_when_nothing_fits_and_pile_up_nowhere() {
        let (sender, mut receiver) = event_queue(1, 100);
        let since = Instant::now();
        send(&sender, "a", since);
        for seconds in [7, 5, 6] {
            sender.gap(since + Duration::from_secs(seconds));
        }
        sender.down();
        sender.down();
        let since = since + Duration::from_secs(5);
        assert_eq!(receiver.recv().await, Some(message("a")));
        assert_eq!(receiver.recv().await, Some(BusEvent::Gap { since }));
        assert_eq!(receiver.recv().await, Some(BusEvent::Down));
        sender.gap(since);
        assert_eq!(receiver.recv().await, Some(BusEvent::Gap { since }));
    }

    #[tokio::test]
    async fn a_waiting_consumer_is_woken_by_a_message_and_by_the_end() {
        let (sender, mut receiver) = event_queue(10, 10);
        let consumer = tokio::spawn(async move { (receiver.recv().await, receiver.recv().await) });
        tokio::task::yield_now().await;
        send(&sender, "a", Instant::now());
        drop(sender);
        assert_eq!(consumer.await.unwrap(), (Some(message("a")), None));
    }
}
