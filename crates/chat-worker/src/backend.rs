//! The seam between the chat and what it runs on: which store and which bus, decided once, here.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use redis_adapter::{Bus, EventReceiver, PeerBus, PeerBusOptions, RedisBus, RedisBusOptions};

use crate::ChatConfig;
use crate::StartError;
use crate::data_dir::{DataDir, DataDirLock};
use crate::redis_url::RedisUrl;
use crate::store::Store;
use crate::store::redis::{RedisStore, RedisStoreConfig};
use crate::store::sqlite::{self, Durability, SqliteStore, SqliteStoreConfig};

/// What keeps the state and carries events between workers.
#[derive(Debug, Clone)]
pub enum Backend {
    /// A Redis, for both.
    Redis(RedisUrl),
    /// SQLite and Unix streams, for the workers of one machine.
    Embedded(Embedded),
}

/// A chat without Redis.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Where the state is kept; see [`crate::data_dir`].
    pub data_dir: PathBuf,
    /// What survives a power cut; the crash of a process loses nothing either way.
    pub durability: Durability,
    /// Where the workers meet: a directory of this user alone, the same for all of them.
    pub runtime_dir: PathBuf,
    /// This worker's name among them, which no other living process may have.
    pub name: String,
}

/// Where the state is, for people: no password.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backend::Redis(url) => url.fmt(f),
            Backend::Embedded(embedded) => embedded.data_dir.display().fmt(f),
        }
    }
}

impl Backend {
    /// For the process that starts the workers: makes what is missing and finds what would keep
    /// each of them from starting. Hold on to what it returns: with it the data directory belongs to
    /// the cluster of this runtime directory. That Redis is away is no reason.
    ///
    /// # Errors
    /// The data directory cannot be used, another cluster uses it, or its database is damaged.
    pub fn prepare(&self) -> Result<Option<DataDirLock>, StartError> {
        let Backend::Embedded(embedded) = self else {
            return Ok(None);
        };
        let lock = DataDir::open(&embedded.data_dir)?.claim(&embedded.runtime_dir)?;
        sqlite::check(&embedded.data_dir)?;
        Ok(Some(lock))
    }
}

/// What the chat runs on.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) events: EventReceiver,
    /// Held as long as the store is used.
    pub(crate) data_dir: Option<DataDirLock>,
}

pub(crate) fn start(config: &ChatConfig) -> Result<Parts, StartError> {
    match &config.backend {
        Backend::Redis(url) => start_redis(url, config),
        Backend::Embedded(embedded) => start_embedded(embedded, config),
    }
}

fn start_redis(url: &RedisUrl, config: &ChatConfig) -> Result<Parts, StartError> {
    let store = RedisStore::start(
        url.clone(),
        RedisStoreConfig {
            session_ttl: config.session_ttl,
            message_ttl: config.message_ttl,
            history_max: config.history_max,
            operation_timeout: config.store_timeout,
            lease: config.presence_lease,
            grace: config.presence_grace,
            tend_interval: config.presence_interval,
            replicas: config.redis_wait,
            sharded_pubsub: config.sharded_pubsub,
        },
    )?;
    let options = RedisBusOptions {
        sharded_prefix: config.sharded_pubsub.then(|| config.adapter_prefix()),
        ..RedisBusOptions::default()
    };
    let (bus, events) = match url.is_cluster() {
        true => RedisBus::start_cluster(url.servers(), options).map_err(StartError::Redis)?,
        false => {
            let client = redis::Client::open(url.first()).map_err(StartError::Redis)?;
            RedisBus::start(client, options)
        }
    };
    Ok(Parts {
        store,
        bus: Arc::new(bus),
        events,
        data_dir: None,
    })
}

fn start_embedded(embedded: &Embedded, config: &ChatConfig) -> Result<Parts, StartError> {
    let lock = DataDir::open(&embedded.data_dir)?.claim(&embedded.runtime_dir)?;
    let options = PeerBusOptions::new(&embedded.runtime_dir, &embedded.name);
    let (bus, events) = PeerBus::start(options).map_err(StartError::Bus)?;
    let bus: Arc<dyn Bus> = Arc::new(bus);
    let store = SqliteStore::start(
        SqliteStoreConfig {
            data_dir: embedded.data_dir.clone(),
            durability: embedded.durability,
            session_ttl: config.session_ttl,
            message_ttl: config.message_ttl,
            history_max: config.history_max,
            operation_timeout: config.store_timeout,
            grace: config.presence_grace,
            tend_interval: config.presence_interval,
        },
        bus.clone(),
    )?;
    Ok(Parts {
        store,
        bus,
        events,
        data_dir: Some(lock),
    })
}
