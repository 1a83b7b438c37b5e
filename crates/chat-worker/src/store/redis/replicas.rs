//! Waiting for replicas: a message is acknowledged when so many have it, and survives the failover to
//! one of them.
//!
//! `WAIT` blocks its connection, so it has one of its own, and what was stored meanwhile shares the
//! next one. Redis waits for what *this* connection wrote, so something is written first; and then
//! it is looked whether the messages are there, because the server may be another one than that
//! which stored them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{ErrorKind, RedisError, RedisResult};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::send::{ids_key, member};
use crate::chat::message::NewMessage;
use crate::redis_connection::RedisConnection;
use crate::redis_url::RedisUrl;

/// How long the key lives that is written to be waited for.
const KEY_LIFE: Duration = Duration::from_secs(60);

pub(super) struct Replicas {
    asks: mpsc::UnboundedSender<Ask>,
    task: AbortHandle,
}

/// A message that somebody waits for. One for each operation under way, which are bounded in time.
struct Ask {
    member: String,
    users: Vec<String>,
    confirmed: oneshot::Sender<Result<(), NotConfirmed>>,
}

#[derive(Debug, Clone, Copy)]
enum NotConfirmed {
    /// Too few replicas have it.
    TooFew,
    /// The server that was asked does not have it.
    Missing,
    /// The server could not be asked.
    Away,
}

impl From<NotConfirmed> for RedisError {
    fn from(why: NotConfirmed) -> Self {
        let text = match why {
            NotConfirmed::TooFew => "too few replicas have it",
            NotConfirmed::Missing => "it is not where it was stored",
            NotConfirmed::Away => "the replicas could not be asked for",
        };
        (ErrorKind::Io, text).into()
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Replicas {
    /// Waits for `count` of them, each time for `timeout` at most.
    pub(super) fn start(url: RedisUrl, count: NonZeroU32, timeout: Duration) -> Self {
        // Bounded by those who wait.
        let (asks, queue) = mpsc::unbounded_channel();
        let waiter = Waiter {
            url,
            count: count.get(),
            timeout,
            connection: None,
            enough: true,
        };
        let task = tokio::spawn(waiter.run(queue)).abort_handle();
        Self { asks, task }
    }

    /// Resolves when enough replicas have it for `users`.
    pub(super) async fn have<'a>(
        &self,
        message: &NewMessage,
        users: impl Iterator<Item = &'a str>,
    ) -> RedisResult<()> {
        let (confirmed, answer) = oneshot::channel();
        let ask = Ask {
            member: member(message),
            users: users.map(str::to_owned).collect(),
            confirmed,
        };
        // A closed queue drops the ask, which the answer shows.
        let _ = self.asks.send(ask);
        Ok(answer.await.unwrap_or(Err(NotConfirmed::Away))?)
    }
}

struct Waiter {
    url: RedisUrl,
    count: u32,
    timeout: Duration,
    connection: Option<RedisConnection>,
    /// Whether there were enough the last time, as far as the log says.
    enough: bool,
}

impl Waiter {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Ask>) {
        while let Some(first) = queue.recv().await {
            let mut asks = vec![first];
            while let Ok(ask) = queue.try_recv() {
                asks.push(ask);
            }
            // Who gave up sends it again.
            asks.retain(|ask| !ask.confirmed.is_closed());
            let confirmed = self.confirm(&asks).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "the replicas could not be asked for");
                self.connection = None;
                vec![Err(NotConfirmed::Away); asks.len()]
            });
            self.say(&confirmed);
            for (ask, result) in asks.into_iter().zip(confirmed) {
                let _ = ask.confirmed.send(result);
            }
        }
    }

    /// What became of each.
    async fn confirm(&mut self, asks: &[Ask]) -> RedisResult<Vec<Result<(), NotConfirmed>>> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            connection => {
                // An answer takes as long as the waiting, and is waited for a little longer.
                let opened = RedisConnection::open(&self.url, self.timeout * 2).await?;
                connection.insert(opened)
            }
        };
        // In a cluster each user's copy may be on another server.
        let mut places: BTreeMap<Option<&str>, Vec<(usize, &str)>> = BTreeMap::new();
        for (number, ask) in asks.iter().enumerate() {
            for user in &ask.users {
                let server = self.url.is_cluster().then_some(&**user);
                places.entry(server).or_default().push((number, user));
            }
        }
        let (count, timeout) = (self.count, self.timeout);
        let answers = places.into_iter().map(|(server, places)| {
            let mut connection = connection.clone();
            async move {
                let key = match server {
                    Some(user) => format!("cc:wait:{{messages:{user}}}"),
                    None => "cc:wait".to_owned(),
                };
                let mut pipe = redis::pipe();
                pipe.cmd("SET").arg(&key).arg("").arg("PX");
                pipe.arg(KEY_LIFE.as_millis() as u64);
                pipe.cmd("WAIT").arg(count).arg(timeout.as_millis() as u64);
                for (number, user) in &places {
                    pipe.cmd("ZSCORE")
                        .arg(ids_key(user))
                        .arg(&asks[*number].member);
                }
                let values = connection.at_the_server_of(&key, pipe).await?;
                let mut values = values.into_iter().skip(1);
                let enough = match values.next().map(redis::from_redis_value::<u32>) {
                    Some(have) => have? >= count,
                    None => false,
                };
                let found = values.map(|score| !matches!(score, redis::Value::Nil));
                let found: Vec<(usize, bool)> = places
                    .iter()
                    .map(|(number, _)| *number)
                    .zip(found)
                    .collect();
                RedisResult::Ok((enough, found))
            }
        });
        let mut confirmed = vec![Ok(()); asks.len()];
        for answer in join_all(answers).await {
            let (enough, found) = answer?;
            for (number, found) in found {
                if !found {
                    confirmed[number] = Err(NotConfirmed::Missing);
                } else if !enough && confirmed[number].is_ok() {
                    confirmed[number] = Err(NotConfirmed::TooFew);
                }
            }
        }
        Ok(confirmed)
    }

    /// Says in the log when there begin to be too few, and when there are enough again.
    fn say(&mut self, confirmed: &[Result<(), NotConfirmed>]) {
        let too_few =
            |result: &Result<(), NotConfirmed>| matches!(result, Err(NotConfirmed::TooFew));
        let wanted = self.count;
        if self.enough && confirmed.iter().any(too_few) {
            self.enough = false;
            tracing::warn!(
                wanted,
                "too few replicas of Redis confirm: messages are refused"
            );
        } else if !self.enough && confirmed.iter().any(Result::is_ok) {
            self.enough = true;
            tracing::info!(wanted, "enough replicas of Redis confirm again");
        }
    }
}
