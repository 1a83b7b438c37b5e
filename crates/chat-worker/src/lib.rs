//! The chat: sessions, private messages and presence on socketioxide, with its state in a store.
//!
//! [`Chat::start`] wires a store, a bus and the Socket.IO service together; [`Chat::service`] is
//! the HTTP service to be served, by `sticky-worker` or anything else that serves a tower service.
//! This crate never accepts connections by itself.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use redis_adapter::{AdapterOptions, AdapterState};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backend::Parts;
use crate::chat::identity::NoRandomness;
use crate::data_dir::{DataDirError, DataDirLock};
use crate::origin::AllowedOrigins;
use crate::publish_routes::Publishing;
use crate::sockets::Sockets;
use crate::store::Health;
use crate::store::sqlite::{DatabaseError, SqliteStartError};

mod arriving_body;
mod backend;
pub mod chat;
mod client_bundle;
mod config;
pub mod data_dir;
mod embedded_file;
mod http;
mod login_routes;
mod login_session;
pub mod migrate;
pub mod nodes;
mod origin;
mod page;
mod publish_routes;
mod redis_connection;
mod redis_url;
mod sockets;
pub mod store;

pub use backend::{Backend, Embedded};
pub use config::ChatConfig;
pub use origin::OriginError;
pub use redis_url::{RedisUrl, UrlError, parse_redis_url};

/// Why the chat cannot start. That Redis is away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// One of the configured origins is none.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The address of Redis cannot be used.
    #[error("cannot use the address of Redis: {0}")]
    Redis(#[source] redis::RedisError),
    /// The data directory cannot be used, or another cluster uses it.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The embedded store cannot start.
    #[error(transparent)]
    Store(#[from] SqliteStartError),
    /// This worker cannot meet the others.
    #[error("cannot open the bus in the runtime directory: {0}")]
    Bus(#[source] std::io::Error),
    /// The system has no randomness to give.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// What happened since the start. Every count only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChatCounters {
    /// Broadcasts that are not known to have reached the other workers.
    pub unconfirmed: u64,
    /// Times that broadcasts of other workers may have been missed.
    pub gaps: u64,
}

/// Something that is worth being counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// A message that a client sent to this process is stored: a private one, or one in the lobby.
    /// One that is sent again is not told of again.
    Stored {
        /// From its turn among the client's events to the store's answer.
        took: Duration,
    },
    /// A private message is on its way to a client of this process: one of the recipient's, or
    /// another one of the sender's.
    Delivered {
        /// From its time `at`, by the clocks of the machines that took it and this one.
        after: Duration,
    },
}

/// A running chat. Its background tasks end when it is dropped.
pub struct Chat {
    sockets: Arc<Sockets>,
    router: Router,
    background: Vec<AbortHandle>,
    _data_dir: Option<DataDirLock>,
}

impl Chat {
    /// Starts the chat inside the present tokio runtime, and returns at once: the store may still
    /// be connecting. See [`Chat::wait_until_store_is_up`].
    ///
    /// # Errors
    /// [`StartError`], when the configuration cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: ChatConfig) -> Result<Self, StartError> {
        let origins = AllowedOrigins::parse(&config.cors_origins)?;
        let Parts {
            store,
            bus,
            events,
            data_dir,
        } = backend::start(&config)?;
        let options = AdapterOptions {
            prefix: config.adapter_prefix(),
            name: config.name.clone(),
            max_flush: sockets::MAX_FLUSH,
            ..AdapterOptions::default()
        };
        let adapter = AdapterState::new(bus, events, options);
        sockets::introduce(&adapter);
        let vitals = http::Vitals {
            store: store.clone(),
            bus: adapter.bus().clone(),
        };
        let sockets = Arc::new(Sockets::new(store, adapter, &config));
        let socket_io = sockets::routes(
            sockets.clone(),
            config.ping_interval,
            config.ping_timeout,
            config.max_payload,
        );
        let publishing = Publishing::new(&config.publish_tokens, config.max_payload);
        let more = login_routes::routes(sockets.clone())
            .merge(publish_routes::routes(sockets.clone(), publishing));
        let background = vec![
            tokio::spawn(sockets::keep_presence(sockets.clone())).abort_handle(),
            tokio::spawn(sockets::keep_roll(sockets.clone())).abort_handle(),
            tokio::spawn(sockets::look_around(sockets.clone())).abort_handle(),
            tokio::spawn(sockets::keep_caught_up(sockets.clone())).abort_handle(),
        ];
        Ok(Self {
            sockets,
            router: http::routes(socket_io, more, vitals, origins),
            background,
            _data_dir: data_dir,
        })
    }

    /// The HTTP service: the page at `/`, `/login` and `/logout`, Socket.IO at `/socket.io/`, the
    /// client's bundle beside it, `/healthz`.
    ///
    /// Requests may carry `sticky_worker::ClientHandle` (without it, a client is left alone when
    /// the store is away) and `sticky_worker::ClientScheme` (without it, plain HTTP is assumed).
    pub fn service(&self) -> Router {
        self.router.clone()
    }

    /// Resolves once the store and the bus answer.
    pub async fn wait_until_store_is_up(&self) {
        // Neither ends before `self` does, which this borrows.
        let mut store = self.sockets.store.health();
        let _ = store.wait_for(|health| *health == Health::Up).await;
        let mut bus = self.sockets.adapter.bus().watch_up();
        let _ = bus.wait_for(|up| *up).await;
    }

    /// Has `observer` called for each [`Happening`]. Once, before clients come; it is called often,
    /// and by who serves clients.
    pub fn observe(&self, observer: impl Fn(Happening) + Send + Sync + 'static) {
        self.sockets.observe(Box::new(observer));
    }

    /// From the moment that `draining` is cancelled clients are expected to come back at another
    /// process: their users count as connected for
    /// [`presence_grace`](ChatConfig::presence_grace) after the end of this one.
    pub fn leave_when(&self, draining: CancellationToken) {
        self.sockets.leave_when(draining);
    }

    /// Waits until everything that is under way for sockets is done, above all the ends of those
    /// that have gone; then gives up this process's presence. To be called when all clients have
    /// been sent away; one that stays makes it wait. Returns whether all was done within `limit`.
    pub async fn finish(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.sockets.tasks.close();
        let done = timeout_at(deadline, self.sockets.tasks.wait())
            .await
            .is_ok();
        for task in &self.background {
            task.abort();
        }
        // Bounded by the store. Without it, others repair what is left after the lease.
        let left = self.sockets.store.leave().await;
        match &left {
            // With a farewell nobody looks for what this process may not have said.
            Ok(()) => self.sockets.adapter.bus().close().await,
            Err(error) => tracing::debug!(%error, "what is left is for others to repair"),
        }
        done && left.is_ok()
    }

    /// What happened so far.
    pub fn counters(&self) -> ChatCounters {
        ChatCounters {
            unconfirmed: self.sockets.unconfirmed(),
            gaps: self.sockets.adapter.counters().gaps,
        }
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        for task in &self.background {
            task.abort();
        }
    }
}
