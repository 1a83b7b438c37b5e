//! The bounded queue between a bus and its one consumer. Never blocks the bus
//! and never drops silently: what did not fit becomes a [`BusEvent::Gap`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::bus::BusEvent;

/// Creates a queue that holds at most `max_events` events and `max_bytes` bytes
/// of payload (a single larger message still fits an empty queue).
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
    /// Something was dropped after the last queued event.
    missed: bool,
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
    /// Queues `event`. When the consumer lags beyond the bounds the event is
    /// dropped, and the consumer finds a [`BusEvent::Gap`] in its place.
    pub fn send(&self, event: BusEvent) {
        let mut state = self.0.lock();
        let size = size_of_payload(&event);
        let fits = state.events.is_empty()
            || (state.events.len() < self.0.max_events && state.bytes + size <= self.0.max_bytes);
        if fits {
            if std::mem::take(&mut state.missed) {
                state.events.push_back(BusEvent::Gap);
            }
            state.bytes += size;
            state.events.push_back(event);
        } else {
            state.missed |= event != BusEvent::Down;
        }
        drop(state);
        self.0.changed.notify_one();
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
                if let Some(event) = state.events.pop_front() {
                    state.bytes -= size_of_payload(&event);
                    return Some(event);
                }
                if std::mem::take(&mut state.missed) {
                    return Some(BusEvent::Gap);
                }
                if state.closed {
                    return None;
                }
            }
            // A notification that came since the look above is kept for this call.
            self.0.changed.notified().await;
        }
    }
}

fn size_of_payload(event: &BusEvent) -> usize {
    match event {
        BusEvent::Message { channel, payload } => channel.len() + payload.len(),
        BusEvent::Gap | BusEvent::Down => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(text: &'static str) -> BusEvent {
        BusEvent::Message {
            channel: String::new(),
            payload: Bytes::from_static(text.as_bytes()),
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_becomes_one_gap_in_its_place() {
        let (sender, mut receiver) = event_queue(2, 100);
        for text in ["a", "b", "lost", "lost too"] {
            sender.send(message(text));
        }
        assert_eq!(receiver.recv().await, Some(message("a")));
        sender.send(message("c"));
        drop(sender);
        assert_eq!(receiver.recv().await, Some(message("b")));
        assert_eq!(receiver.recv().await, Some(BusEvent::Gap));
        assert_eq!(receiver.recv().await, Some(message("c")));
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn a_gap_at_the_end_is_told_without_a_further_message() {
        let (sender, mut receiver) = event_queue(1, 100);
        sender.send(message("a"));
        sender.send(message("lost"));
        assert_eq!(receiver.recv().await, Some(message("a")));
        assert_eq!(receiver.recv().await, Some(BusEvent::Gap));
    }

    #[tokio::test]
    async fn bytes_are_bounded_but_one_message_always_fits() {
        let (sender, mut receiver) = event_queue(10, 3);
        sender.send(message("larger"));
        sender.send(message("x"));
        assert_eq!(receiver.recv().await, Some(message("larger")));
        assert_eq!(receiver.recv().await, Some(BusEvent::Gap));
    }

    #[tokio::test]
    async fn a_waiting_consumer_is_woken_by_a_message_and_by_the_end() {
        let (sender, mut receiver) = event_queue(10, 10);
        let consumer = tokio::spawn(async move { (receiver.recv().await, receiver.recv().await) });
        tokio::task::yield_now().await;
        sender.send(message("a"));
        drop(sender);
        assert_eq!(consumer.await.unwrap(), (Some(message("a")), None));
    }
}
