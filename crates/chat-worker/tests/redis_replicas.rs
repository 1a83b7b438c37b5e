//! Messages that are acknowledged only when a replica has them.

#[allow(dead_code, reason = "each test binary uses its part")]
mod conformance;
#[allow(dead_code, reason = "each test binary uses its part")]
mod redis_server;

use std::net::TcpListener;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_worker::store::redis::{RedisStore, RedisStoreConfig};
use chat_worker::store::{Position, Store};
use redis::Commands;

use conformance::{message, unannounced};
use redis_server::RedisServer;

struct Pair {
    primary: RedisServer,
    replica: RedisServer,
}

impl Pair {
    /// A primary, and a replica that has caught up with it.
    fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port().to_string();
        drop(free);
        let primary =
            RedisServer::start_with(&["--port", &port, "--repl-diskless-sync-delay", "0"]);
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
        let mut redis = primary.inspect();
        let () = redis.set("first", "").unwrap();
        let caught_up = redis::cmd("WAIT").arg(1).arg(30_000).query(&mut redis);
        assert_eq!(caught_up, Ok(1));
        Self { primary, replica }
    }

    fn store(&self) -> Arc<dyn Store> {
        let config = RedisStoreConfig {
            operation_timeout: Duration::from_secs(2),
            replicas: NonZeroU32::new(1),
            ..RedisStoreConfig::default()
        };
        RedisStore::start(self.primary.url(), config).unwrap()
    }
}

#[tokio::test]
async fn a_message_is_refused_while_too_few_replicas_have_it() {
    let pair = Pair::start();
    let store = pair.store();
    let first = store.append(message("m1", "a", "b"), unannounced()).await;
    assert!(first.unwrap().fresh);
    pair.replica.signal("STOP");
    let asked = Instant::now();
    let new = message("m2", "a", "b");
    store.append(new.clone(), unannounced()).await.unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(10));
    // Reading waits for nobody.
    let read = store.replay("b", Position::default()).await.unwrap();
    assert_eq!(read.messages.len(), 2);
    pair.replica.signal("CONT");
    let deadline = Instant::now() + conformance::PATIENCE;
    while store.append(new.clone(), unannounced()).await.is_err() {
        assert!(Instant::now() < deadline, "the replica is back");
    }
    let read = store.replay("b", Position::default()).await.unwrap();
    assert_eq!(read.messages.len(), 2);
    let to_oneself = store.append(message("m3", "a", "a"), unannounced()).await;
    assert!(to_oneself.unwrap().fresh);
}

#[tokio::test]
async fn what_was_confirmed_outlives_the_primary() {
    let mut pair = Pair::start();
    let store = pair.store();
    let (sender, mut confirmed) = tokio::sync::mpsc::unbounded_channel();
    for user in 0..20 {
        let (store, sender) = (store.clone(), sender.clone());
        tokio::spawn(async move {
            for number in 0.. {
                let id = format!("{user}-{number}");
                let new = message(&id, &format!("from-{user}"), "to");
                if store.append(new, unannounced()).await.is_err() {
                    return;
                }
                let _ = sender.send(id);
            }
        });
    }
    drop(sender);
    let mut ids = Vec::new();
    while ids.len() < 1_000 {
        ids.push(confirmed.recv().await.unwrap());
    }
    // In the middle of it.
    pair.primary.kill();
    while let Some(id) = confirmed.recv().await {
        ids.push(id);
    }
    let mut redis = pair.replica.inspect();
    let () = redis::cmd("REPLICAOF")
        .arg(&["NO", "ONE"])
        .query(&mut redis)
        .unwrap();
    let kept: Vec<String> = redis.lrange("messages:to", 0, -1).unwrap();
    let kept = kept.concat();
    let lost = ids
        .iter()
        .filter(|id| !kept.contains(&format!("\"id\":\"{id}\"")));
    assert_eq!(lost.count(), 0, "of {}", ids.len());
}
