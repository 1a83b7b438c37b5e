//! The subscribed connection: keeps it alive, brings it to what is wanted, and
//! passes on what it hears. Never waits for the consumer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use redis::RedisResult;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::health::{Health, Role};
use super::servers::Servers;
use super::sharded::{Heard, Pushed, ShardedEar, Shards};
use super::subscriptions::{Batch, Subscriptions};
use super::{Confirm, RedisBusOptions};
use crate::event_queue::EventSender;

pub(super) enum Command {
    Subscribe {
        channels: Vec<String>,
        confirm: Confirm,
    },
    Unsubscribe {
        channels: Vec<String>,
    },
}

pub(super) struct Subscriber {
    pub(super) role: Role,
    pub(super) from: Source,
    pub(super) options: RedisBusOptions,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) events: Arc<EventSender>,
    pub(super) health: Arc<Health>,
    /// Tells the publisher to look whether Redis is still there.
    pub(super) suspicion: Arc<Notify>,
    pub(super) backoff: Backoff,
}

/// Where a subscriber listens.
#[derive(Clone)]
pub(super) enum Source {
    Servers(Servers),
    Shards(Shards),
}

/// A connection to there.
enum Connection {
    Server(PubSubSink, PubSubStream),
    Shards(ShardedEar, Heard),
}

impl Source {
    async fn connect(&mut self) -> RedisResult<Connection> {
        match self {
            Self::Servers(servers) => {
                let connection: PubSub = servers.next().get_async_pubsub().await?;
                let (sink, stream) = connection.split();
                Ok(Connection::Server(sink, stream))
            }
            Self::Shards(shards) => {
                let (ear, heard) = shards.ear().await?;
                Ok(Connection::Shards(ear, heard))
            }
        }
    }
}

impl Connection {
    /// The next that is pushed. Cancel safe.
    async fn next(&mut self) -> Pushed {
        match self {
            Self::Server(_, stream) => match stream.next().await {
                Some(message) => Pushed::Message {
                    channel: message.get_channel_name().to_owned(),
                    payload: Bytes::copy_from_slice(message.get_payload_bytes()),
                },
                None => Pushed::Lost,
            },
            Self::Shards(_, heard) => heard.next().await,
        }
    }

    /// Sends `batch`, or a PING when it is empty. Any answer shows that the
    /// connection lives, and without one in time it is given up.
    fn ask(&self, batch: Batch, limit: Duration) -> Asked {
        let asked = match self {
            Self::Server(sink, _) => ask_server(sink.clone(), batch.clone()).boxed(),
            Self::Shards(ear, _) => ear.clone().ask(batch.clone()).boxed(),
        };
        Box::pin(async move {
            match timeout(limit, asked).await {
                Ok(result) => result.map(|()| batch),
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

async fn ask_server(mut sink: PubSubSink, batch: Batch) -> RedisResult<()> {
    if batch == Batch::default() {
        sink.ping::<redis::Value>().await?;
    }
    if !batch.subscribe.is_empty() {
        sink.subscribe(&names(&batch.subscribe)[..]).await?;
    }
    if !batch.unsubscribe.is_empty() {
        sink.unsubscribe(&names(&batch.unsubscribe)[..]).await?;
    }
    Ok(())
}

/// The bus was dropped.
struct Closed;

/// What the connection was asked and has not answered yet.
type Asked = BoxFuture<'static, RedisResult<Batch>>;

impl Subscriber {
    pub(super) async fn run(mut self) {
        let mut subscriptions = Subscriptions::default();
        // All that was published before was heard; since the first connection that had all channels.
        let mut heard_before = None;
        while let Ok(connection) = self.connect(&mut subscriptions).await {
            subscriptions.start_anew();
            match self
                .serve(connection, &mut subscriptions, &mut heard_before)
                .await
            {
                Ok(cause) => self.health.down(self.role, &cause),
                Err(Closed) => return,
            }
            self.suspicion.notify_one();
            if heard_before.is_some() {
                self.events.down();
            }
            let pause = sleep(self.backoff.pause());
            if collecting(&mut self.commands, &mut subscriptions, pause)
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Connects, however long that takes. Commands go on to be taken.
    async fn connect(&mut self, subscriptions: &mut Subscriptions) -> Result<Connection, Closed> {
        loop {
            let attempt = timeout(self.options.connect_timeout, self.from.connect());
            let failure = match collecting(&mut self.commands, subscriptions, attempt).await? {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            self.health.down(self.role, &failure);
            let pause = sleep(self.backoff.pause());
            collecting(&mut self.commands, subscriptions, pause).await?;
        }
    }

    /// Listens until the connection is lost; returns why. `heard_before`: up to when all
    /// channels were heard, if ever.
    async fn serve(
        &mut self,
        mut connection: Connection,
        subscriptions: &mut Subscriptions,
        heard_before: &mut Option<Instant>,
    ) -> Result<String, Closed> {
        let limit = self.options.ping_interval;
        let mut asked: Option<Asked> = None;
        let mut complete = false;
        // When that was asked which was answered last: Redis had sent all before.
        let mut answered = Instant::now();
        let mut asked_at = answered;
        loop {
            if asked.is_none() {
                if let Some(batch) = subscriptions.next_batch() {
                    asked = Some(connection.ask(batch, limit));
                    asked_at = Instant::now();
                } else if !complete {
                    complete = true;
                    self.backoff.reset();
                    self.health.up(self.role);
                    if let Some(since) = heard_before.replace(answered) {
                        self.events.gap(since);
                    }
                }
            }
            let idle = asked.is_none();
            let answer = async {
                match asked.as_mut() {
                    Some(asked) => asked.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = answer => match answer {
                    Ok(batch) => {
                        asked = None;
                        answered = asked_at;
                        if complete {
                            *heard_before = Some(answered);
                        }
                        subscriptions.confirmed(batch);
                    }
                    Err(error) => return Ok(error.to_string()),
                },
                pushed = connection.next() => match pushed {
                    Pushed::Message { channel, payload } => {
                        self.events.message(channel, payload, answered);
                    }
                    Pushed::Ended { channel } if subscriptions.is_confirmed(&channel) => {
                        return Ok(format!("{channel} is on another server now"));
                    }
                    Pushed::Ended { .. } => {}
                    Pushed::Lost => return Ok("the connection was closed".to_owned()),
                },
                command = self.commands.recv() => {
                    take(subscriptions, command.ok_or(Closed)?);
                    // What was asked for at the same time goes in the same command.
                    while let Ok(command) = self.commands.try_recv() {
                        take(subscriptions, command);
                    }
                }
                () = sleep_until(answered + self.options.ping_interval), if idle => {
                    asked = Some(connection.ask(Batch::default(), limit));
                    asked_at = Instant::now();
                }
            }
        }
    }
}

fn names(channels: &[Arc<str>]) -> Vec<&str> {
    channels.iter().map(|name| &**name).collect()
}

/// Runs `work` while commands are taken.
async fn collecting<T>(
    commands: &mut mpsc::UnboundedReceiver<Command>,
    subscriptions: &mut Subscriptions,
    work: impl Future<Output = T>,
) -> Result<T, Closed> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            command = commands.recv() => take(subscriptions, command.ok_or(Closed)?),
        }
    }
}

fn take(subscriptions: &mut Subscriptions, command: Command) {
    match command {
        Command::Subscribe { channels, confirm } => subscriptions.subscribe(channels, confirm),
        Command::Unsubscribe { channels } => subscriptions.unsubscribe(channels),
    }
}
