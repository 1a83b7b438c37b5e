//! The subscribed connection: keeps it alive, brings it to what is wanted, and
//! passes on what it hears. Never waits for the consumer.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use redis::RedisResult;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::health::{Health, Role};
use super::servers::Servers;
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
    pub(super) servers: Servers,
    pub(super) options: RedisBusOptions,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) events: EventSender,
    pub(super) health: Arc<Health>,
    /// Tells the publisher to look whether Redis is still there.
    pub(super) suspicion: Arc<Notify>,
    pub(super) backoff: Backoff,
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
                Ok(cause) => self.health.down(Role::Subscriber, &cause),
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
    async fn connect(&mut self, subscriptions: &mut Subscriptions) -> Result<PubSub, Closed> {
        loop {
            let client = self.servers.next();
            let attempt = timeout(self.options.connect_timeout, client.get_async_pubsub());
            let failure = match collecting(&mut self.commands, subscriptions, attempt).await? {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            self.health.down(Role::Subscriber, &failure);
            let pause = sleep(self.backoff.pause());
            collecting(&mut self.commands, subscriptions, pause).await?;
        }
    }

    /// Listens until the connection is lost; returns why. `heard_before`: up to when all
    /// channels were heard, if ever.
    async fn serve(
        &mut self,
        connection: PubSub,
        subscriptions: &mut Subscriptions,
        heard_before: &mut Option<Instant>,
    ) -> Result<String, Closed> {
        let (sink, mut stream): (PubSubSink, PubSubStream) = connection.split();
        let mut asked: Option<Asked> = None;
        let mut complete = false;
        // When that was asked which was answered last: Redis had sent all before.
        let mut answered = Instant::now();
        let mut asked_at = answered;
        loop {
            if asked.is_none() {
                if let Some(batch) = subscriptions.next_batch() {
                    asked = Some(self.ask(sink.clone(), batch));
                    asked_at = Instant::now();
                } else if !complete {
                    complete = true;
                    self.backoff.reset();
                    self.health.up(Role::Subscriber);
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
                message = stream.next() => match message {
                    Some(message) => self.events.message(
                        message.get_channel_name().to_owned(),
                        Bytes::copy_from_slice(message.get_payload_bytes()),
                        answered,
                    ),
                    None => return Ok("the connection was closed".to_owned()),
                },
                command = self.commands.recv() => {
                    take(subscriptions, command.ok_or(Closed)?);
                    // What was asked for at the same time goes in the same command.
                    while let Ok(command) = self.commands.try_recv() {
                        take(subscriptions, command);
                    }
                }
                () = sleep_until(answered + self.options.ping_interval), if idle => {
                    asked = Some(self.ask(sink.clone(), Batch::default()));
                    asked_at = Instant::now();
                }
            }
        }
    }

    /// Sends `batch`, or a PING when it is empty. Any answer shows that the
    /// connection lives, and without one in time it is given up.
    fn ask(&self, mut sink: PubSubSink, batch: Batch) -> Asked {
        let limit = self.options.ping_interval;
        Box::pin(async move {
            let asked = async {
                if batch == Batch::default() {
                    sink.ping::<redis::Value>().await?;
                }
                if !batch.subscribe.is_empty() {
                    sink.subscribe(&names(&batch.subscribe)[..]).await?;
                }
                if !batch.unsubscribe.is_empty() {
                    sink.unsubscribe(&names(&batch.unsubscribe)[..]).await?;
                }
                Ok(batch)
            };
            match timeout(limit, asked).await {
                Ok(result) => result,
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        })
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
