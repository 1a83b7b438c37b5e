//! Fills an embedded store, to see what much of everything costs:
//! `fill_store DATA_DIR USERS MESSAGES`. User number `n` has the session `session-<n>` and the id
//! `user-<n>`; each writes to a few others in turn.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chat_worker::chat::message::NewMessage;
use chat_worker::store::sqlite::{self, Durability, SqliteStore, SqliteStoreConfig};
use chat_worker::store::{Health, Session, Store, StoreError};
use futures_util::future::BoxFuture;
use redis_adapter::{Bus, BusError};
use rusqlite::Connection;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Operations under way at once: as many as one commit takes.
const AT_ONCE: usize = 256;

/// Others that each user writes to.
const CONVERSATIONS: usize = 10;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Nobody listens.
struct NoBus(watch::Sender<bool>);

impl Bus for NoBus {
    fn publish(&self, _: String, _: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn subscribe(&self, _: Vec<String>) -> BoxFuture<'static, Result<(), BusError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn unsubscribe(&self, _: Vec<String>) {}

    fn subscribers(&self, channels: Vec<String>) -> BoxFuture<'static, Result<Vec<u64>, BusError>> {
        Box::pin(std::future::ready(Ok(vec![0; channels.len()])))
    }

    fn watch_up(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [data_dir, users, messages] = &words[..] else {
        return Err("usage: fill_store DATA_DIR USERS MESSAGES".into());
    };
    let (users, messages): (usize, usize) = (users.parse()?, messages.parse()?);
    std::fs::create_dir_all(data_dir)?;
    sqlite::check(data_dir.as_ref())?;
    let config = SqliteStoreConfig {
        data_dir: data_dir.into(),
        durability: Durability::Normal,
        session_ttl: DAY,
        message_ttl: DAY,
        history_max: usize::MAX,
        operation_timeout: Duration::from_secs(60),
        grace: Duration::from_secs(5),
        tend_interval: Duration::from_secs(5),
    };
    let store = SqliteStore::start(config, Arc::new(NoBus(watch::Sender::new(true))))?;
    store
        .health()
        .wait_for(|health| *health == Health::Up)
        .await?;
    all(users, |n| {
        let store = store.clone();
        async move {
            let session = Session {
                id: format!("session-{n}"),
                user: format!("user-{n}"),
                name: format!("User {n}"),
            };
            let socket = n.to_string();
            store.connect(&session, &socket).await?;
            store.disconnect(&session, &socket).await.map(drop)
        }
    })
    .await?;
    all(messages, |n| {
        let store = store.clone();
        async move {
            let (from, turn) = (n % users, n / users % CONVERSATIONS);
            let new = NewMessage {
                id: format!("m{n}"),
                content: format!("message {n} ").repeat(5),
                from: format!("user-{from}"),
                to: format!("user-{}", (from + 1 + turn * turn) % users),
            };
            let announce = Box::new(|_| Vec::new());
            store.append(new, announce).await.map(drop)
        }
    })
    .await?;
    // It takes more at once than it can put in order meanwhile, and that is not what is to be seen.
    let connection = Connection::open(Path::new(data_dir).join("chat.db"))?;
    while connection.query_row("SELECT EXISTS (SELECT 1 FROM recent)", [], |row| row.get(0))? {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(connection);
    store.leave().await?;
    Ok(())
}

/// Runs `count` operations, many at once.
async fn all<F>(count: usize, operation: impl Fn(usize) -> F) -> Result<(), StoreError>
where
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for n in 0..count {
        if running.len() >= AT_ONCE {
            next(&mut running).await?;
        }
        running.spawn(operation(n));
    }
    while !running.is_empty() {
        next(&mut running).await?;
    }
    Ok(())
}

async fn next(running: &mut JoinSet<Result<(), StoreError>>) -> Result<(), StoreError> {
    match running.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(panic)) => Err(StoreError::Unavailable(panic.to_string())),
        None => Ok(()),
    }
}
