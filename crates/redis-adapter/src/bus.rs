//! The contract between the adapter and whatever carries its messages from
//! process to process. Knows channels and bytes, never what they mean.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

/// Carries messages between the processes of a cluster: Redis, or anything
/// else with named channels.
///
/// Every method takes effect in the order of the calls, at the call: the
/// futures only report how it went, and dropping one does not undo it. No
/// method blocks. What arrives is not part of this trait: a constructor of a
/// bus hands out an [`EventReceiver`](crate::EventReceiver), which has one
/// consumer.
pub trait Bus: Send + Sync + 'static {
    /// Sends `payload` to every subscriber of `channel`, the sender included.
    /// The future resolves when the bus has confirmed it, or has failed; an
    /// implementation bounds that time. An error means "not known to be sent".
    fn publish(&self, channel: String, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>>;

    /// Subscribes to each of `channels`, and resolves only when all of them
    /// are confirmed on the connection that lives now: at once when they
    /// already are. Subscriptions are a set, they do not count. One that could
    /// not be confirmed in time stays wanted until [`unsubscribe`](Bus::unsubscribe).
    fn subscribe(&self, channels: Vec<String>) -> BoxFuture<'static, Result<(), BusError>>;

    /// Ends the subscription of each of `channels`; unknown ones are ignored.
    fn unsubscribe(&self, channels: Vec<String>);

    /// How many processes are subscribed to each of `channels`, this one included, in their
    /// order. The future resolves in bounded time.
    fn subscribers(&self, channels: Vec<String>) -> BoxFuture<'static, Result<Vec<u64>, BusError>>;

    /// The orderly end: resolves when what was published is on its way, in
    /// bounded time. Nothing is to be published or subscribed after the call.
    fn close(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Whether the bus can publish and hears all its channels, now and later.
    fn watch_up(&self) -> watch::Receiver<bool>;

    /// [`watch_up`](Bus::watch_up)'s present value.
    fn is_up(&self) -> bool {
        *self.watch_up().borrow()
    }
}

/// What a bus tells its one consumer, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// A message on a subscribed channel.
    Message {
        /// The channel's full name.
        channel: String,
        /// The message as it was published.
        payload: Bytes,
    },
    /// Messages that were published between `since` and this point may have
    /// been missed; all channels are subscribed again, so nothing after it is.
    Gap {
        /// Everything published before was heard.
        since: Instant,
    },
    /// The connection that messages arrive on was lost; a [`BusEvent::Gap`]
    /// follows when it is back.
    Down,
}

/// What is published: [`Bus::publish`] takes the two, and so may a store that
/// publishes together with a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The channel.
    pub channel: String,
    /// The message on it.
    pub payload: Bytes,
}

/// Why the bus could not confirm something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// No confirmation within the bus's time limit.
    #[error("the bus did not confirm in time")]
    Timeout,
    /// Too much is waiting to be sent already; nothing was queued.
    #[error("too many messages are waiting to be published")]
    QueueFull,
    /// The bus answered with an error.
    #[error("the bus refused: {0}")]
    Refused(String),
    /// The connection broke before the confirmation.
    #[error("the connection to the bus was lost: {0}")]
    Lost(String),
    /// The channel was unsubscribed while its subscription was pending.
    #[error("the channel was unsubscribed meanwhile")]
    Unsubscribed,
    /// The bus has been shut down.
    #[error("the bus is closed")]
    Closed,
}
