//! Commands that come at about the same time go to Redis together: each one alone would wake Redis and
//! this process once more. One that comes after a pause goes at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::RedisStore;
use super::link::Link;

/// Between two pipelines. At 6,000 messages a second from 4 workers on 2 cores that saves Redis a tenth
/// of its CPU for each, and the workers as well; the median ack takes 2 ms longer.
const PACE: Duration = Duration::from_millis(2);

/// Commands of one pipeline.
const MAX_COMMANDS: usize = 256;

#[derive(Default)]
pub(super) struct Together(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    commands: Vec<(Cmd, oneshot::Sender<RedisResult<Value>>)>,
    /// Somebody is about to send them.
    is_due: bool,
    last: Option<Instant>,
}

impl Together {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RedisStore {
    /// Sends a command together with others, and resolves to its own answer. What nobody waits for any
    /// more is not sent.
    pub(super) async fn ask_together(&self, command: Cmd) -> RedisResult<Value> {
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.together.lock();
            waiting.commands.push((command, reply));
            if !waiting.is_due {
                waiting.is_due = true;
                let due = waiting.last.map(|last| last + PACE);
                tokio::spawn(send(self.link.clone(), self.together.clone(), due));
            }
        }
        let dropped = || RedisError::from((ErrorKind::Io, "the connection was lost"));
        answer.await.unwrap_or_else(|_| Err(dropped()))
    }
}

async fn send(link: Arc<Link>, together: Arc<Together>, due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
    // Not before there is a connection: what came until then goes with it.
    let mut connection = link.connection().await;
    let commands = {
        let mut waiting = together.lock();
        waiting.is_due = false;
        waiting.last = Some(Instant::now());
        std::mem::take(&mut waiting.commands)
    };
    let mut commands = commands.into_iter().filter(|(_, reply)| !reply.is_closed());
    loop {
        let (some, replies): (Vec<_>, Vec<_>) = commands.by_ref().take(MAX_COMMANDS).unzip();
        if replies.is_empty() {
            return;
        }
        let mut pipe = Pipeline::with_capacity(some.len());
        pipe.ignore_errors();
        for command in some {
            pipe.add_command(command);
        }
        let answers: RedisResult<Vec<RedisResult<Value>>> = pipe.query_async(&mut connection).await;
        match answers {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }
}
