//! The publishing connection. Owns the order: one batch is under way at a time,
//! and what comes meanwhile is the next batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Pipeline, RedisResult, Value};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::RedisBusOptions;
use super::backoff::Backoff;
use super::health::{Health, Role};
use super::servers::Servers;
use super::sharded::Shards;
use crate::bus::BusError;
use crate::redis_cluster::send_by_slot;

/// A batch ends at either: large enough that the round trip does not count,
/// small enough that its first message is not confirmed much later than alone.
const BATCH_MESSAGES: usize = 512;
const BATCH_BYTES: usize = 1024 * 1024;

/// What Redis is told or asked.
pub(super) enum Order {
    Publish {
        channel: String,
        payload: Bytes,
    },
    /// How many are subscribed to each.
    Subscribers {
        channels: Vec<String>,
    },
}

impl Order {
    fn bytes(&self) -> usize {
        match self {
            Self::Publish { channel, payload } => channel.len() + payload.len(),
            Self::Subscribers { channels } => channels.iter().map(String::len).sum(),
        }
    }

    fn add_to(&self, pipeline: &mut Pipeline, publish: &str) {
        match self {
            Self::Publish { channel, payload } => {
                pipeline.cmd(publish).arg(channel).arg(&payload[..])
            }
            Self::Subscribers { channels } => pipeline.cmd("PUBSUB").arg("NUMSUB").arg(channels),
        };
    }
}

/// One order on its way.
pub(super) struct Sent {
    order: Order,
    /// Nobody waits for the answer any more, so it is not sent after this.
    deadline: Instant,
    answer: oneshot::Sender<Result<Value, BusError>>,
    _share: Share,
}

/// What Redis answers to an order.
pub(super) type Answered = oneshot::Receiver<Result<Value, BusError>>;

impl Sent {
    /// None when too much is on its way already.
    pub(super) fn new(
        order: Order,
        deadline: Instant,
        budget: &Arc<Budget>,
    ) -> Option<(Self, Answered)> {
        let share = Budget::take(budget, order.bytes())?;
        let (answer, answered) = oneshot::channel();
        let sent = Self {
            order,
            deadline,
            answer,
            _share: share,
        };
        Some((sent, answered))
    }
}

/// Bounds all messages on their way.
pub(super) struct Budget {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    max_messages: usize,
    max_bytes: usize,
    emptied: Notify,
}

/// One message's part of the budget, given back when dropped.
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            max_messages,
            max_bytes,
            emptied: Notify::new(),
        }
    }

    pub(super) fn take(budget: &Arc<Self>, bytes: usize) -> Option<Share> {
        let share = Share {
            budget: budget.clone(),
            bytes,
        };
        let messages = budget.messages.fetch_add(1, Ordering::Relaxed);
        let waiting = budget.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = messages == 0
            || (messages < budget.max_messages && waiting + bytes <= budget.max_bytes);
        fits.then_some(share)
    }

    /// Resolves when nothing waits and nothing is under way.
    pub(super) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.messages.load(Ordering::Relaxed) == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.budget.messages.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.budget.emptied.notify_waiters();
        }
    }
}

pub(super) struct Publisher {
    pub(super) role: Role,
    pub(super) to: To,
    pub(super) options: RedisBusOptions,
    pub(super) queue: mpsc::UnboundedReceiver<Sent>,
    pub(super) health: Arc<Health>,
    /// Says that Redis may be gone: look at once.
    pub(super) suspicion: Arc<Notify>,
    pub(super) backoff: Backoff,
}

/// Where a publisher publishes.
#[derive(Clone)]
pub(super) enum To {
    Servers(Servers),
    Shards(Shards),
}

/// A connection to there.
enum Mouth {
    Server(MultiplexedConnection),
    Shards(ClusterConnection),
}

impl To {
    async fn connect(&mut self, limit: Duration) -> RedisResult<Mouth> {
        match self {
            Self::Servers(servers) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(limit))
                    // The batch has its own.
                    .set_response_timeout(None);
                let client = servers.next();
                let connection = client.get_multiplexed_async_connection_with_config(&config);
                Ok(Mouth::Server(connection.await?))
            }
            Self::Shards(shards) => Ok(Mouth::Shards(shards.mouth().await?)),
        }
    }

    fn command(&self) -> &'static str {
        match self {
            Self::Servers(_) => "PUBLISH",
            Self::Shards(_) => "SPUBLISH",
        }
    }
}

impl Mouth {
    /// The answers, each of which may be an error.
    async fn send(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        match self {
            Self::Server(connection) => {
                let sent = connection.send_packed_commands(pipeline, 0, pipeline.len());
                sent.await
            }
            Self::Shards(connection) => send_by_slot(connection, pipeline).await,
        }
    }
}

/// The bus was dropped.
struct Closed;

impl Publisher {
    pub(super) async fn run(mut self) {
        let mut pending = VecDeque::new();
        while let Ok(connection) = self.connect(&mut pending).await {
            self.health.up(self.role);
            match self.serve(connection, &mut pending).await {
                Ok(cause) => self.health.down(self.role, &cause),
                Err(Closed) => return,
            }
            let pause = sleep(self.backoff.pause());
            if collecting(&mut self.queue, &mut pending, pause)
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Connects, however long that takes. Messages go on to queue, and to expire.
    async fn connect(&mut self, pending: &mut VecDeque<Sent>) -> Result<Mouth, Closed> {
        loop {
            let limit = self.options.connect_timeout;
            // The connection timeout covers the TCP connection only, not the greeting.
            let attempt = timeout(limit, self.to.connect(limit));
            let failure = match collecting(&mut self.queue, pending, attempt).await? {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            self.health.down(self.role, &failure);
            let pause = sleep(self.backoff.pause());
            collecting(&mut self.queue, pending, pause).await?;
        }
    }

    /// Publishes until the connection is of no use; returns why.
    async fn serve(
        &mut self,
        mut connection: Mouth,
        pending: &mut VecDeque<Sent>,
    ) -> Result<String, Closed> {
        loop {
            if pending.is_empty() {
                tokio::select! {
                    sent = self.queue.recv() => pending.push_back(sent.ok_or(Closed)?),
                    () = self.suspicion.notified() => {}
                    () = sleep(self.options.ping_interval) => {}
                }
            }
            while let Ok(sent) = self.queue.try_recv() {
                pending.push_back(sent);
            }
            expire(pending);
            let batch = take_batch(pending);
            let limit = match batch.is_empty() {
                true => self.options.ping_interval,
                false => self.options.publish_timeout,
            };
            let pipeline = pipeline_of(&batch, self.to.command());
            let failure = match timeout(limit, connection.send(&pipeline)).await {
                Ok(Ok(answers)) => {
                    self.backoff.reset();
                    confirm(batch, answers);
                    continue;
                }
                Ok(Err(error)) => BusError::Lost(error.to_string()),
                Err(_) => BusError::Timeout,
            };
            // Whether Redis has seen it is not known, so it is not sent again.
            for sent in batch {
                let _ = sent.answer.send(Err(failure.clone()));
            }
            return Ok(failure.to_string());
        }
    }
}

/// Runs `work` while the queue moves to `pending`, which holds no message past its deadline.
async fn collecting<T>(
    queue: &mut mpsc::UnboundedReceiver<Sent>,
    pending: &mut VecDeque<Sent>,
    work: impl Future<Output = T>,
) -> Result<T, Closed> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            sent = queue.recv() => {
                pending.push_back(sent.ok_or(Closed)?);
                expire(pending);
            }
        }
    }
}

fn expire(pending: &mut VecDeque<Sent>) {
    let now = Instant::now();
    // All have the same time to live, so the front is the oldest. The one who
    // waits for the confirmation watches the deadline too.
    while pending.front().is_some_and(|sent| sent.deadline <= now) {
        pending.pop_front();
    }
}

fn take_batch(pending: &mut VecDeque<Sent>) -> Vec<Sent> {
    let mut bytes = 0;
    let fitting = pending.iter().take(BATCH_MESSAGES).take_while(|sent| {
        let more = sent.order.bytes();
        let fits = bytes == 0 || bytes + more <= BATCH_BYTES;
        bytes += more.max(1);
        fits
    });
    let count = fitting.count();
    pending.drain(..count).collect()
}

/// The commands of a batch; a PING when there are none.
fn pipeline_of(batch: &[Sent], publish: &str) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(batch.len().max(1));
    for sent in batch {
        sent.order.add_to(&mut pipeline, publish);
    }
    if batch.is_empty() {
        pipeline.cmd("PING");
    }
    pipeline
}

fn confirm(batch: Vec<Sent>, answers: Vec<Value>) {
    for (sent, answer) in batch.into_iter().zip(answers) {
        let result = match answer {
            Value::ServerError(error) => Err(BusError::Refused(error.to_string())),
            answer => Ok(answer),
        };
        let _ = sent.answer.send(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(budget: &Arc<Budget>, bytes: usize, lives: Duration) -> Option<Sent> {
        let order = Order::Publish {
            channel: String::new(),
            payload: Bytes::from(vec![0; bytes]),
        };
        let sent = Sent::new(order, Instant::now() + lives, budget);
        sent.map(|(sent, _)| sent)
    }

    #[tokio::test]
    async fn the_budget_counts_what_is_on_its_way() {
        let budget = Arc::new(Budget::new(2, 10));
        let minute = Duration::from_secs(60);
        let large = publish(&budget, 100, minute);
        assert!(large.is_some(), "one message always fits");
        assert!(publish(&budget, 1, minute).is_none());
        drop(large);
        let first = publish(&budget, 5, minute);
        let second = publish(&budget, 5, minute);
        assert!(first.is_some() && second.is_some());
        assert!(publish(&budget, 0, minute).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_bounded_and_the_expired_are_left_out() {
        let budget = Arc::new(Budget::new(usize::MAX, usize::MAX));
        let minute = Duration::from_secs(60);
        let mut pending = VecDeque::new();
        pending.extend(publish(&budget, 1, Duration::from_secs(1)));
        pending.extend(publish(&budget, 2 * BATCH_BYTES, minute));
        pending.extend((0..600).filter_map(|_| publish(&budget, 3, minute)));
        tokio::time::advance(Duration::from_secs(2)).await;
        expire(&mut pending);
        assert_eq!(take_batch(&mut pending).len(), 1);
        assert_eq!(take_batch(&mut pending).len(), BATCH_MESSAGES);
        assert_eq!(take_batch(&mut pending).len(), 600 - BATCH_MESSAGES);
        assert!(take_batch(&mut pending).is_empty());
    }
}
