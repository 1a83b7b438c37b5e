//! What an operator can choose about the chat.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::backend::Backend;
use crate::chat::history::{HISTORY_DEFAULT, HISTORY_MAX_DEFAULT};
use crate::chat::roster::ROSTER_DEFAULT;
use crate::chat::workspace::WorkspacePolicy;
use crate::origin::{AllowedOrigins, OriginError};

/// The settings of the chat, with their defaults in [`ChatConfig::new`].
#[derive(Debug, Clone)]
pub struct ChatConfig {
    /// What keeps the state and carries events between workers.
    pub backend: Backend,
    /// What the adapter's channels begin with: the option `key` of JavaScript servers and emitters
    /// on the same Redis. Default `socket.io`.
    pub adapter_key: String,
    /// On a Redis Cluster: the workers talk by sharded pub/sub, so that an event costs one of its
    /// servers and not all. Node servers and emitters hear nothing of it and are not heard. Default
    /// false.
    pub sharded_pubsub: bool,
    /// What other servers call this process when it does not answer them. Default: a name made up.
    pub name: Option<String>,
    /// How long a session lives without a socket. Default 24 h.
    pub session_ttl: Duration,
    /// How long a user's messages live after the last one. Default 24 h.
    pub message_ttl: Duration,
    /// Users that a client is told of at its login, and later on; beside its conversation partners,
    /// who are told of in any case. Up to so many in all, everybody is told of everybody. Default 500.
    pub roster_limit: usize,
    /// The newest messages of each conversation that a client is told at its login. Default 50.
    pub history_limit: usize,
    /// About the most messages that are kept for a user; older ones go. Default 10,000.
    pub history_max: usize,
    /// The largest content of a message, in bytes. Default 64 KiB. It cannot usefully be larger
    /// than a packet, 1,000,000 bytes.
    pub message_max: usize,
    /// The largest packet from a client, in bytes, on both transports. Default 1,000,000, as the
    /// JavaScript server's.
    pub max_payload: usize,
    /// Bytes of events that may wait for one client; who has more is asked to come back. Default
    /// 8 MiB.
    pub max_buffered: usize,
    /// Events of one socket that are dealt with in a second, after as many at once; the others wait, or
    /// are refused when [too much](crate::chat::reply::Code::RateLimited) waits. Default 1,000.
    pub events_per_second: Option<NonZeroU32>,
    /// How often a client is pinged. Default 25 s.
    pub ping_interval: Duration,
    /// How long a client may take to answer a ping. Default 20 s.
    pub ping_timeout: Duration,
    /// Origins of web pages that may use this server beside its own: `scheme://host[:port]`, or
    /// `*` for every page (which then gets no cookies). Default none.
    pub cors_origins: Vec<String>,
    /// Tokens with which events may be published from outside. Default none: then nobody may.
    pub publish_tokens: Vec<String>,
    /// Who may subscribe to a workspace's rooms. Default everyone who is logged in.
    pub workspace_policy: WorkspacePolicy,
    /// How long one operation of the store may take. Default 2 s.
    pub store_timeout: Duration,
    /// With Redis: how many replicas must have a message before it is acknowledged. Default none.
    pub redis_wait: Option<NonZeroU32>,
    /// With Redis: after how much silence a worker counts as dead, and its users as gone. Default
    /// 10 s. (Processes of one machine know of each other's death sooner.)
    pub presence_lease: Duration,
    /// How long users whose worker has left or died are expected back before they count as gone.
    /// Default 5 s.
    pub presence_grace: Duration,
    /// How often a worker says that it lives, and looks for dead ones. Default 5 s.
    pub presence_interval: Duration,
}

impl ChatConfig {
    /// The defaults, on this backend.
    pub fn new(backend: Backend) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            backend,
            adapter_key: redis_adapter::channel::DEFAULT_PREFIX.to_owned(),
            sharded_pubsub: false,
            name: None,
            session_ttl: DAY,
            message_ttl: DAY,
            roster_limit: ROSTER_DEFAULT,
            history_limit: HISTORY_DEFAULT,
            history_max: HISTORY_MAX_DEFAULT,
            message_max: 64 * 1024,
            max_payload: 1_000_000,
            max_buffered: 8 << 20,
            events_per_second: NonZeroU32::new(1_000),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            cors_origins: Vec::new(),
            publish_tokens: Vec::new(),
            workspace_policy: WorkspacePolicy::default(),
            store_timeout: Duration::from_secs(2),
            redis_wait: None,
            presence_lease: Duration::from_secs(10),
            presence_grace: Duration::from_secs(5),
            presence_interval: Duration::from_secs(5),
        }
    }

    /// What the adapter's channels begin with in fact: sharded ones must not be mistaken for
    /// others.
    pub(crate) fn adapter_prefix(&self) -> String {
        match self.sharded_pubsub {
            true => format!("{}-sharded", self.adapter_key),
            false => self.adapter_key.clone(),
        }
    }

    /// Finds mistakes before anything is started.
    ///
    /// # Errors
    /// One of [`cors_origins`](Self::cors_origins) is not an origin.
    pub fn check(&self) -> Result<(), OriginError> {
        AllowedOrigins::parse(&self.cors_origins).map(|_| ())
    }
}
