//! A [`Bus`] on Redis pub/sub: one connection that publishes, and one that is
//! subscribed to exact channels, never to patterns. Both reconnect for ever.

mod backoff;
mod health;
mod publisher;
mod servers;
mod subscriber;
mod subscriptions;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::bus::{Bus, BusError};
use crate::event_queue::{EventReceiver, event_queue};
use backoff::Backoff;
use health::Health;
use publisher::{Answered, Budget, Order, Publisher, Sent};
use servers::{Census, Servers};
use subscriber::{Command, Subscriber};

/// Time limits and bounds of a [`RedisBus`].
#[derive(Debug, Clone)]
pub struct RedisBusOptions {
    /// How long [`Bus::publish`] waits for Redis, from the call. Default 2 s.
    pub publish_timeout: Duration,
    /// How long [`Bus::subscribe`] waits for Redis, from the call. Default 5 s.
    pub subscribe_timeout: Duration,
    /// How long one attempt to connect may take. Default 2 s.
    pub connect_timeout: Duration,
    /// After this long without a command a connection is tried with a PING,
    /// and given up after as long again without an answer: a connection that
    /// silently died is noticed within twice this. Default 5 s.
    pub ping_interval: Duration,
    /// The pause before the first attempt to reconnect; it doubles up to
    /// `backoff_max`, and each is shortened at random by up to a half.
    /// Default 50 ms.
    pub backoff_min: Duration,
    /// The longest pause between attempts to reconnect. Default 2 s.
    pub backoff_max: Duration,
    /// Messages that may wait for the consumer. More become a gap. Default 16,384.
    pub max_waiting_events: usize,
    /// Their bytes. Default 32 MiB, which is what Redis itself allows a
    /// subscriber to lag behind before it is cut off.
    pub max_waiting_event_bytes: usize,
    /// Messages that may wait to be published, and to be confirmed. Default 16,384.
    pub max_waiting_publishes: usize,
    /// Their bytes. Default 32 MiB.
    pub max_waiting_publish_bytes: usize,
}

impl Default for RedisBusOptions {
    fn default() -> Self {
        Self {
            publish_timeout: Duration::from_secs(2),
            subscribe_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            max_waiting_events: 16_384,
            max_waiting_event_bytes: 32 * 1024 * 1024,
            max_waiting_publishes: 16_384,
            max_waiting_publish_bytes: 32 * 1024 * 1024,
        }
    }
}

/// Publishes to and hears from one Redis server, or a Redis Cluster. Its two tasks end when it is
/// dropped.
pub struct RedisBus {
    orders: mpsc::UnboundedSender<Sent>,
    budget: Arc<Budget>,
    publish_timeout: Duration,
    commands: mpsc::UnboundedSender<Command>,
    subscribe_timeout: Duration,
    health: Arc<Health>,
    /// In a cluster.
    census: Option<Arc<Census>>,
}

impl RedisBus {
    /// Starts to connect, and never stops trying: that Redis is away is no
    /// error, neither now nor later.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(client: redis::Client, options: RedisBusOptions) -> (Self, EventReceiver) {
        Self::start_on(Servers::one(client), None, options)
    }

    /// The same on a Redis Cluster, of which `servers` are some: the more of them there are, the
    /// more others may be away. What is published goes to every server of the cluster, as with
    /// JavaScript's adapter of this wire.
    ///
    /// # Errors
    /// When `servers` is empty or no addresses.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_cluster(
        servers: Vec<redis::ConnectionInfo>,
        options: RedisBusOptions,
    ) -> redis::RedisResult<(Self, EventReceiver)> {
        let census = Census::new(servers.clone(), &options)?;
        let servers = Servers::cluster(servers)?;
        Ok(Self::start_on(servers, Some(Arc::new(census)), options))
    }

    fn start_on(
        servers: Servers,
        census: Option<Arc<Census>>,
        options: RedisBusOptions,
    ) -> (Self, EventReceiver) {
        // Bounded by the budget.
        let (orders, order_queue) = mpsc::unbounded_channel();
        // Taken whatever else the subscriber waits for, so nothing adds up.
        let (commands, command_queue) = mpsc::unbounded_channel();
        let (events, receiver) =
            event_queue(options.max_waiting_events, options.max_waiting_event_bytes);
        let budget = Arc::new(Budget::new(
            options.max_waiting_publishes,
            options.max_waiting_publish_bytes,
        ));
        let health = Arc::new(Health::default());
        // The subscriber sees a broken connection at once; an idle publisher would
        // find out with its next message.
        let suspicion = Arc::new(Notify::new());
        let backoff = Backoff::new(options.backoff_min, options.backoff_max);
        let bus = Self {
            orders,
            budget,
            publish_timeout: options.publish_timeout,
            commands,
            subscribe_timeout: options.subscribe_timeout,
            health: health.clone(),
            census,
        };
        let publisher = Publisher {
            servers: servers.clone(),
            options: options.clone(),
            queue: order_queue,
            health: health.clone(),
            suspicion: suspicion.clone(),
            backoff: backoff.clone(),
        };
        tokio::spawn(publisher.run());
        let subscriber = Subscriber {
            servers,
            options,
            commands: command_queue,
            events,
            health,
            suspicion,
            backoff,
        };
        tokio::spawn(subscriber.run());
        (bus, receiver)
    }
}

impl RedisBus {
    /// Queues an order at the call; the future waits for the answer.
    fn order(
        &self,
        order: Order,
    ) -> Result<impl Future<Output = Result<redis::Value, BusError>> + use<>, BusError> {
        let deadline = Instant::now() + self.publish_timeout;
        let sent = Sent::new(order, deadline, &self.budget);
        let (sent, answered): (Sent, Answered) = sent.ok_or(BusError::QueueFull)?;
        // A closed queue drops what it is sent, which `answer` reports.
        let _ = self.orders.send(sent);
        Ok(answer(answered, deadline))
    }
}

impl Bus for RedisBus {
    fn publish(&self, channel: String, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        let published = self.order(Order::Publish { channel, payload });
        Box::pin(async move { published?.await.map(drop) })
    }

    fn subscribers(&self, channels: Vec<String>) -> BoxFuture<'static, Result<Vec<u64>, BusError>> {
        if let Some(census) = self.census.clone() {
            let limit = self.publish_timeout;
            return Box::pin(async move {
                let counted = timeout(limit, census.subscribers(&channels)).await;
                let counted = counted.map_err(|_| BusError::Timeout)?;
                counted.map_err(|error| BusError::Lost(error.to_string()))
            });
        }
        let counted = self.order(Order::Subscribers { channels });
        Box::pin(async move {
            let answer = counted?.await?;
            // Each channel, and its number.
            let counts: Vec<(redis::Value, u64)> = redis::from_redis_value(answer)
                .map_err(|error| BusError::Refused(error.to_string()))?;
            Ok(counts.into_iter().map(|(_, count)| count).collect())
        })
    }

    fn subscribe(&self, channels: Vec<String>) -> BoxFuture<'static, Result<(), BusError>> {
        let (confirm, confirmed) = oneshot::channel();
        let deadline = Instant::now() + self.subscribe_timeout;
        let _ = self.commands.send(Command::Subscribe { channels, confirm });
        Box::pin(answer(confirmed, deadline))
    }

    fn unsubscribe(&self, channels: Vec<String>) {
        let _ = self.commands.send(Command::Unsubscribe { channels });
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let budget = self.budget.clone();
        // No message is kept longer than that.
        let limit = self.publish_timeout;
        Box::pin(async move {
            let _ = timeout(limit, budget.empty()).await;
        })
    }

    fn watch_up(&self) -> watch::Receiver<bool> {
        self.health.watch_up()
    }
}

type Confirm = oneshot::Sender<Result<(), BusError>>;

async fn answer<T>(
    confirmed: oneshot::Receiver<Result<T, BusError>>,
    deadline: Instant,
) -> Result<T, BusError> {
    match timeout_at(deadline, confirmed).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(BusError::Closed),
        Err(_) => Err(BusError::Timeout),
    }
}
