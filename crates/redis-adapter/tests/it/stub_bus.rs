//! A bus within the process: every publication reaches every subscriber at
//! once. Confirmations can be withheld and publications refused.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis_adapter::{Bus, BusError, EventReceiver, EventSender, event_queue};
use tokio::sync::watch;
use tokio::time::Instant;

/// What the buses of one test share.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Mutex<Vec<Arc<Peer>>>>);

struct Peer {
    events: EventSender,
    channels: Mutex<HashSet<String>>,
}

/// One process's bus.
pub(crate) struct StubBus {
    hub: Hub,
    peer: Arc<Peer>,
    confirming: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
    up: watch::Sender<bool>,
    published: Mutex<Vec<String>>,
}

impl Hub {
    pub(crate) fn bus(&self) -> (Arc<StubBus>, EventReceiver) {
        let (events, receiver) = event_queue(100_000, usize::MAX);
        let peer = Arc::new(Peer {
            events,
            channels: Mutex::default(),
        });
        self.0.lock().unwrap().push(peer.clone());
        let bus = StubBus {
            hub: self.clone(),
            peer,
            confirming: watch::Sender::new(true),
            refusing: watch::Sender::new(false),
            up: watch::Sender::new(true),
            published: Mutex::default(),
        };
        (Arc::new(bus), receiver)
    }

    /// A message of a process that is none of the test's.
    pub(crate) fn send(&self, channel: &str, payload: &[u8]) {
        for peer in self.0.lock().unwrap().iter() {
            if peer.channels.lock().unwrap().contains(channel) {
                let payload = Bytes::copy_from_slice(payload);
                peer.events
                    .message(channel.to_owned(), payload, Instant::now());
            }
        }
    }
}

impl StubBus {
    pub(crate) fn confirm(&self, confirming: bool) {
        self.confirming.send_replace(confirming);
    }

    pub(crate) fn refuse(&self, refusing: bool) {
        self.refusing.send_replace(refusing);
    }

    /// Its process is gone, from one moment to the next.
    pub(crate) fn die(&self) {
        let mut peers = self.hub.0.lock().unwrap();
        peers.retain(|peer| !Arc::ptr_eq(peer, &self.peer));
    }

    /// Where to put what no publication brings.
    pub(crate) fn events(&self) -> &EventSender {
        &self.peer.events
    }

    pub(crate) fn channels(&self) -> BTreeSet<String> {
        self.peer.channels.lock().unwrap().iter().cloned().collect()
    }

    /// The channels of all publications but signs of life, in order.
    pub(crate) fn published(&self) -> Vec<String> {
        let published = self.published.lock().unwrap();
        let published = published
            .iter()
            .filter(|channel| *channel != "socket.io-node#");
        published.cloned().collect()
    }

    fn answer(&self) -> BoxFuture<'static, Result<(), BusError>> {
        if *self.refusing.borrow() {
            return Box::pin(async { Err(BusError::Refused("as told".to_owned())) });
        }
        let mut confirming = self.confirming.subscribe();
        Box::pin(async move {
            let confirmed = confirming.wait_for(|confirming| *confirming).await;
            confirmed.map(drop).map_err(|_| BusError::Closed)
        })
    }
}

impl Bus for StubBus {
    fn publish(&self, channel: String, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        if !*self.refusing.borrow() {
            self.hub.send(&channel, &payload);
        }
        self.published.lock().unwrap().push(channel);
        self.answer()
    }

    fn subscribe(&self, channels: Vec<String>) -> BoxFuture<'static, Result<(), BusError>> {
        self.peer.channels.lock().unwrap().extend(channels);
        self.answer()
    }

    fn unsubscribe(&self, channels: Vec<String>) {
        let mut subscribed = self.peer.channels.lock().unwrap();
        for channel in channels {
            subscribed.remove(&channel);
        }
    }

    fn subscribers(&self, channels: Vec<String>) -> BoxFuture<'static, Result<Vec<u64>, BusError>> {
        let peers = self.hub.0.lock().unwrap();
        let count = |channel: &String| {
            let peers = peers.iter();
            peers
                .filter(|peer| peer.channels.lock().unwrap().contains(channel))
                .count() as u64
        };
        Box::pin(std::future::ready(Ok(channels.iter().map(count).collect())))
    }

    fn watch_up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }
}
