//! What is known of one worker process, and how others wait for it.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use common::worker_id::Generation;
use tokio::sync::{Notify, watch};

/// Waits for a flag to be set.
pub(crate) async fn until_true(flag: &watch::Sender<bool>) {
    // The sender is borrowed, and so lives.
    let _ = flag.subscribe().wait_for(|now| *now).await;
}

/// Waits until something is known.
pub(crate) async fn until_known<T: Clone>(place: &watch::Sender<Option<T>>) -> T {
    let mut place = place.subscribe();
    let known = place.wait_for(Option::is_some).await;
    match known.ok().and_then(|known| known.clone()) {
        Some(known) => known,
        // The sender is borrowed, and so lives.
        None => std::future::pending().await,
    }
}

/// What is known of a worker process from its start to its end, whether it has
/// registered or not.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// The process.
    pub pid: OnceLock<u32>,
    /// Of a process that this master started.
    pub generation: OnceLock<Generation>,
    /// It has registered.
    pub registered: watch::Sender<bool>,
    /// It was ready at some time.
    pub ready: watch::Sender<bool>,
    /// It is not wanted any more: it drains as soon as it registers.
    pub retired: AtomicBool,
    /// Told when it drains by itself.
    pub leaving: Notify,
    /// Told when its channel has ended.
    pub gone: Notify,
}

impl Seat {
    /// Whether it was ready at some time.
    pub(crate) fn was_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until it is ready for the first time.
    pub(crate) async fn ready(&self) {
        until_true(&self.ready).await;
    }

    /// Waits until it has registered.
    pub(crate) async fn registered(&self) {
        until_true(&self.registered).await;
    }
}

/// One process that leaves, until it has ended.
#[derive(Debug)]
pub(crate) struct Leaver(watch::Sender<usize>);

impl Leaver {
    /// Counts it among `leavers`.
    pub(crate) fn among(leavers: &watch::Sender<usize>) -> Leaver {
        leavers.send_modify(|count| *count += 1);
        Leaver(leavers.clone())
    }
}

impl Drop for Leaver {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
