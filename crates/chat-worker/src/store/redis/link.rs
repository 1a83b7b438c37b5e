//! The one connection to Redis: made, watched, and made again when it is lost.
//!
//! redis's own connection manager is not used because it gives up after some tries, keeps a
//! failed login for ever, and does not notice a peer that is silent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::redis_connection::RedisConnection;
use crate::redis_url::RedisUrl;
use crate::store::Health;

/// How often the connection is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// After so many unanswered pings the connection is given up: a host that vanished without a
/// word is not noticed in another way. A Redis that is only frozen is back on the old one sooner.
const PINGS_LOST: u32 = 5;

/// A connection to a replica, which refuses writes, is kept for that long.
const REPLICA_PATIENCE: Duration = Duration::from_secs(2);

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

pub(super) struct Link {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

struct Shared {
    current: Mutex<Option<RedisConnection>>,
    connected: Notify,
    broken: Notify,
    health: watch::Sender<Health>,
    /// Since when it does not answer.
    away_since: Mutex<Option<Instant>>,
    /// The server does not take writes any more: it is a replica now.
    is_replica: AtomicBool,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Link {
    pub(super) fn start(url: RedisUrl, timeout: Duration) -> Self {
        let name = url.to_string();
        let shared = Arc::new(Shared {
            current: Mutex::new(None),
            connected: Notify::new(),
            broken: Notify::new(),
            health: watch::Sender::new(Health::Down(format!("not connected to {name} yet"))),
            away_since: Mutex::new(Some(Instant::now())),
            is_replica: AtomicBool::new(false),
        });
        let keeper = tokio::spawn(keep(shared.clone(), url, name, timeout)).abort_handle();
        Self { shared, keeper }
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// The connection; waits for one while there is none, so give it a bound of time.
    pub(super) async fn connection(&self) -> RedisConnection {
        loop {
            // Registered before the look, so that no wake-up falls between.
            let connected = self.shared.connected.notified();
            if let Some(connection) = self.shared.get() {
                return connection;
            }
            connected.await;
        }
    }

    /// Why Redis cannot be asked, when it has not answered for as long as that.
    pub(super) fn is_away_for(&self, time: Duration) -> Option<String> {
        let since = *self.shared.lock_away_since();
        if since.is_none_or(|since| since.elapsed() < time) {
            return None;
        }
        match &*self.shared.health.borrow() {
            Health::Up => None,
            Health::ReadOnly(why) | Health::Down(why) => Some(why.clone()),
        }
    }

    /// An operation failed: makes a new connection if this one is lost, or leads to a replica.
    pub(super) fn failed(&self, error: &RedisError) {
        tracing::debug!(%error, "a Redis command failed");
        if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
            self.shared.is_replica.store(true, Ordering::Relaxed);
            self.shared.broken.notify_one();
        } else if error.is_unrecoverable_error() && !error.is_timeout() {
            self.shared.broken.notify_one();
        }
    }
}

impl Shared {
    fn get(&self) -> Option<RedisConnection> {
        self.lock().clone()
    }

    fn set(&self, connection: Option<RedisConnection>) {
        *self.lock() = connection;
    }

    fn lock(&self) -> MutexGuard<'_, Option<RedisConnection>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_away_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.away_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the health; says a change of it in the log once.
    fn report(&self, name: &str, health: Health) {
        let mut since = self.lock_away_since();
        match health {
            Health::Up => *since = None,
            Health::ReadOnly(_) | Health::Down(_) => {
                *since = since.or_else(|| Some(Instant::now()));
            }
        }
        drop(since);
        self.health.send_if_modified(|old| {
            if *old == health {
                return false;
            }
            match (&*old, &health) {
                (_, Health::Up) => tracing::info!(redis = name, "connected to Redis"),
                (Health::Up, Health::ReadOnly(why) | Health::Down(why)) => {
                    tracing::warn!(
                        redis = name,
                        why,
                        "Redis is away; trying again until it is back"
                    );
                }
                (Health::ReadOnly(_) | Health::Down(_), _) => {}
            }
            *old = health;
            true
        });
    }
}

async fn keep(shared: Arc<Shared>, url: RedisUrl, name: String, timeout: Duration) {
    let mut said = false;
    let mut backoff = BACKOFF_FIRST;
    loop {
        match connect(&url, timeout).await {
            Ok(connection) => {
                backoff = BACKOFF_FIRST;
                said = true;
                shared.set(Some(connection.clone()));
                shared.report(&name, Health::Up);
                shared.connected.notify_waiters();
                match watch_over(&shared, &name, connection, timeout).await {
                    Ended::Lost(why) => {
                        shared.set(None);
                        shared.report(&name, Health::Down(why));
                    }
                    // It can still be read while the next one is made.
                    Ended::IsReplica => {
                        tracing::debug!(
                            redis = name,
                            "this Redis is a replica now; connecting anew"
                        );
                    }
                }
            }
            Err(error) => {
                if !said {
                    said = true;
                    tracing::warn!(redis = name, %error, "cannot connect to Redis yet; trying until it is there");
                }
                shared.report(&name, Health::Down(error.to_string()));
                tokio::time::sleep(jittered(backoff)).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

async fn connect(url: &RedisUrl, timeout: Duration) -> RedisResult<RedisConnection> {
    let mut connection = RedisConnection::open(url, timeout).await?;
    // A Redis that still loads its data accepts connections and refuses commands.
    redis::cmd("PING").exec_async(&mut connection).await?;
    Ok(connection)
}

/// Why a connection is not used any more.
enum Ended {
    Lost(String),
    /// The name may lead to the new primary by now.
    IsReplica,
}

/// Returns when the connection is of no use any more.
async fn watch_over(
    shared: &Shared,
    name: &str,
    mut connection: RedisConnection,
    timeout: Duration,
) -> Ended {
    let began = Instant::now();
    let mut lost = 0;
    loop {
        let _ = tokio::time::timeout(PING_INTERVAL, shared.broken.notified()).await;
        // While it leads to the same one, that is asked again and again.
        if shared.is_replica.load(Ordering::Relaxed) && began.elapsed() >= REPLICA_PATIENCE {
            shared.is_replica.store(false, Ordering::Relaxed);
            return Ended::IsReplica;
        }
        match redis::cmd("PING").exec_async(&mut connection).await {
            Ok(()) => {
                lost = 0;
                shared.report(name, Health::Up);
            }
            Err(error) if error.is_timeout() => {
                lost += 1;
                if lost >= PINGS_LOST {
                    return Ended::Lost(format!("no answer for {:?}", timeout * PINGS_LOST));
                }
                shared.report(name, Health::Down("it does not answer".into()));
            }
            Err(error) if error.is_unrecoverable_error() => return Ended::Lost(error.to_string()),
            // It answers, but not what we need (a replica being promoted, out of memory …).
            Err(error) => shared.report(name, Health::Down(error.to_string())),
        }
    }
}

/// Between half and all of `backoff`, so that the workers of a host do not knock together.
fn jittered(backoff: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    backoff.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}
