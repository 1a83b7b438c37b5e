//! The embedded store: what every store has to do, and what it promises when things break.

mod conformance;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chat_worker::store::Store;
use chat_worker::store::sqlite::{Durability, SqliteStore, SqliteStoreConfig};
use futures_util::future::BoxFuture;
use redis_adapter::{Bus, BusError};
use tokio::sync::watch;

use conformance::{Cluster, Lives};

/// Keeps what is published.
struct Recorder {
    published: Mutex<Vec<(String, Bytes)>>,
    up: watch::Sender<bool>,
}

impl Recorder {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            published: Mutex::default(),
            up: watch::Sender::new(true),
        })
    }
}

impl Bus for Recorder {
    fn publish(&self, channel: String, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        self.published.lock().unwrap().push((channel, payload));
        Box::pin(std::future::ready(Ok(())))
    }

    fn subscribe(&self, _: Vec<String>) -> BoxFuture<'static, Result<(), BusError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn unsubscribe(&self, _: Vec<String>) {}

    fn watch_up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }
}

struct Directory(tempfile::TempDir);

impl Cluster for Directory {
    fn process_with(&self, lives: Lives) -> Arc<dyn Store> {
        let config = SqliteStoreConfig {
            session_ttl: lives.session,
            message_ttl: lives.message,
            ..config(self.0.path())
        };
        SqliteStore::start(config, Recorder::new()).unwrap()
    }
}

fn config(data_dir: &Path) -> SqliteStoreConfig {
    SqliteStoreConfig {
        data_dir: data_dir.to_owned(),
        durability: Durability::Normal,
        session_ttl: Duration::from_secs(24 * 60 * 60),
        message_ttl: Duration::from_secs(24 * 60 * 60),
        operation_timeout: Duration::from_secs(10),
        tend_interval: Duration::from_millis(200),
    }
}

#[tokio::test]
async fn sqlite_conforms() {
    conformance::run(&Directory(tempfile::tempdir().unwrap())).await;
}
