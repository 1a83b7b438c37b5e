//! A [`Bus`] on Redis pub/sub: one connection that publishes, and one that is
//! subscribed to exact channels, never to patterns. Both reconnect for ever.

mod backoff;
mod health;
mod publisher;
mod servers;
mod sharded;
mod subscriber;
mod subscriptions;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::bus::{Bus, BusError};
use crate::event_queue::{EventReceiver, EventSender, event_queue};
use backoff::Backoff;
use health::{Health, Role};
use publisher::{Answered, Budget, Order, Publisher, Sent, To};
use servers::{Census, Servers};
use sharded::Shards;
use subscriber::{Command, Source, Subscriber};

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
    /// In a Redis Cluster (version 7 or newer): channels whose names begin so are *sharded*. Each is
    /// on one server, by its name, and a message on it costs that server alone; but only those who
    /// use sharded pub/sub hear it, and two such channels keep no order between them. Default none.
    pub sharded_prefix: Option<String>,
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
            sharded_prefix: None,
        }
    }
}

/// Publishes to and hears from one Redis server, or a Redis Cluster. Its tasks end when it is
/// dropped.
pub struct RedisBus {
    plain: Line,
    /// In a cluster, and what the names of its channels begin with.
    sharded: Option<(String, Line)>,
    budget: Arc<Budget>,
    publish_timeout: Duration,
    subscribe_timeout: Duration,
    health: Arc<Health>,
    /// In a cluster.
    census: Option<Arc<Census>>,
}

/// The way to a publisher and a subscriber.
struct Line {
    orders: mpsc::UnboundedSender<Sent>,
    commands: mpsc::UnboundedSender<Command>,
}

impl RedisBus {
    /// Starts to connect, and never stops trying: that Redis is away is no
    /// error, neither now nor later.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(client: redis::Client, options: RedisBusOptions) -> (Self, EventReceiver) {
        let health = Health::new([Role::Publisher, Role::Subscriber]);
        let start = Start::new(health, options);
        let bus = start.bus(Servers::one(client), None);
        (bus, start.receiver)
    }

    /// The same on a Redis Cluster, of which `servers` are some: the more of them there are, the
    /// more others may be away. What is published goes to every server of the cluster, as with
    /// JavaScript's adapter of this wire, unless its channel is
    /// [sharded](RedisBusOptions::sharded_prefix).
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
        let shards = Shards::new(servers.clone(), options.connect_timeout);
        let servers = Servers::cluster(servers)?;
        let sharded_prefix = options.sharded_prefix.clone();
        let mut roles = vec![Role::Publisher, Role::Subscriber];
        if sharded_prefix.is_some() {
            roles.extend([Role::ShardedPublisher, Role::ShardedSubscriber]);
        }
        let start = Start::new(Health::new(roles), options);
        let mut bus = start.bus(servers, Some(Arc::new(census)));
        bus.sharded = sharded_prefix.map(|prefix| (prefix, start.sharded(shards)));
        Ok((bus, start.receiver))
    }

    /// The line that `channel` is on.
    fn line(&self, channel: &str) -> &Line {
        match &self.sharded {
            Some((prefix, line)) if channel.starts_with(&**prefix) => line,
            _ => &self.plain,
        }
    }

    /// The channels of each line that has any.
    fn by_line(&self, channels: Vec<String>) -> Vec<(&Line, Vec<String>)> {
        let is_sharded = |channel: &String| !std::ptr::eq(self.line(channel), &self.plain);
        let (sharded, plain): (Vec<_>, Vec<_>) = channels.into_iter().partition(is_sharded);
        let sharded = self.sharded.as_ref().map(|(_, line)| (line, sharded));
        let lines = std::iter::once((&self.plain, plain)).chain(sharded);
        lines.filter(|(_, channels)| !channels.is_empty()).collect()
    }

    /// Queues an order at the call; the future waits for the answer.
    fn order(
        &self,
        line: &Line,
        order: Order,
    ) -> Result<impl Future<Output = Result<redis::Value, BusError>> + use<>, BusError> {
        let deadline = Instant::now() + self.publish_timeout;
        let sent = Sent::new(order, deadline, &self.budget);
        let (sent, answered): (Sent, Answered) = sent.ok_or(BusError::QueueFull)?;
        // A closed queue drops what it is sent, which `answer` reports.
        let _ = line.orders.send(sent);
        Ok(answer(answered, deadline))
    }
}

/// What the tasks of a bus share.
struct Start {
    options: RedisBusOptions,
    events: Arc<EventSender>,
    receiver: EventReceiver,
    budget: Arc<Budget>,
    health: Arc<Health>,
    backoff: Backoff,
}

impl Start {
    fn new(health: Health, options: RedisBusOptions) -> Self {
        let (events, receiver) =
            event_queue(options.max_waiting_events, options.max_waiting_event_bytes);
        let budget = Budget::new(
            options.max_waiting_publishes,
            options.max_waiting_publish_bytes,
        );
        Self {
            backoff: Backoff::new(options.backoff_min, options.backoff_max),
            options,
            events: Arc::new(events),
            receiver,
            budget: Arc::new(budget),
            health: Arc::new(health),
        }
    }

    fn bus(&self, servers: Servers, census: Option<Arc<Census>>) -> RedisBus {
        let (to, from) = (To::Servers(servers.clone()), Source::Servers(servers));
        RedisBus {
            plain: self.line([Role::Publisher, Role::Subscriber], to, from),
            sharded: None,
            budget: self.budget.clone(),
            publish_timeout: self.options.publish_timeout,
            subscribe_timeout: self.options.subscribe_timeout,
            health: self.health.clone(),
            census,
        }
    }

    fn sharded(&self, shards: Shards) -> Line {
        let (to, from) = (To::Shards(shards.clone()), Source::Shards(shards));
        self.line([Role::ShardedPublisher, Role::ShardedSubscriber], to, from)
    }

    /// Starts the tasks of a line.
    fn line(&self, [publisher, subscriber]: [Role; 2], to: To, from: Source) -> Line {
        // Bounded by the budget.
        let (orders, order_queue) = mpsc::unbounded_channel();
        // Taken whatever else the subscriber waits for, so nothing adds up.
        let (commands, command_queue) = mpsc::unbounded_channel();
        // The subscriber sees a broken connection at once; an idle publisher would
        // find out with its next message.
        let suspicion = Arc::new(Notify::new());
        let publisher = Publisher {
            role: publisher,
            to,
            options: self.options.clone(),
            queue: order_queue,
            health: self.health.clone(),
            suspicion: suspicion.clone(),
            backoff: self.backoff.clone(),
        };
        tokio::spawn(publisher.run());
        let subscriber = Subscriber {
            role: subscriber,
            from,
            options: self.options.clone(),
            commands: command_queue,
            events: self.events.clone(),
            health: self.health.clone(),
            suspicion,
            backoff: self.backoff.clone(),
        };
        tokio::spawn(subscriber.run());
        Line { orders, commands }
    }
}

impl Bus for RedisBus {
    fn publish(&self, channel: String, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        let line = self.line(&channel);
        let published = self.order(line, Order::Publish { channel, payload });
        Box::pin(async move { published?.await.map(drop) })
    }

    fn subscribers(&self, channels: Vec<String>) -> BoxFuture<'static, Result<Vec<u64>, BusError>> {
        let Some(census) = self.census.clone() else {
            let counted = self.order(&self.plain, Order::Subscribers { channels });
            return Box::pin(async move {
                let answer = counted?.await?;
                // Each channel, and its number.
                let counts: Vec<(redis::Value, u64)> = redis::from_redis_value(answer)
                    .map_err(|error| BusError::Refused(error.to_string()))?;
                Ok(counts.into_iter().map(|(_, count)| count).collect())
            });
        };
        let is_sharded = |channel: &String| !std::ptr::eq(self.line(channel), &self.plain);
        let sharded: Vec<bool> = channels.iter().map(is_sharded).collect();
        let limit = self.publish_timeout;
        Box::pin(async move {
            let counted = timeout(limit, census.of_both(&channels, &sharded)).await;
            let counted = counted.map_err(|_| BusError::Timeout)?;
            counted.map_err(|error| BusError::Lost(error.to_string()))
        })
    }

    fn subscribe(&self, channels: Vec<String>) -> BoxFuture<'static, Result<(), BusError>> {
        let deadline = Instant::now() + self.subscribe_timeout;
        let lines = self.by_line(channels).into_iter();
        let confirmations = lines.map(|(line, channels)| {
            let (confirm, confirmed) = oneshot::channel();
            let _ = line.commands.send(Command::Subscribe { channels, confirm });
            answer(confirmed, deadline)
        });
        // Sent at the call.
        let confirmations: Vec<_> = confirmations.collect();
        Box::pin(async move { try_join_all(confirmations).await.map(drop) })
    }

    fn unsubscribe(&self, channels: Vec<String>) {
        for (line, channels) in self.by_line(channels) {
            let _ = line.commands.send(Command::Unsubscribe { channels });
        }
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
