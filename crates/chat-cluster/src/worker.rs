//! A worker process: the chat behind the master's sockets.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chat_worker::chat::workspace::WorkspacePolicy;
use chat_worker::nodes::{self, NodeName, NodeRegister};
use chat_worker::store::sqlite::Durability;
use chat_worker::{Backend, Chat, ChatConfig, Embedded, Happening, parse_redis_url};
use common::sid_tag::SidTag;
use serde::{Deserialize, Serialize};
use sticky_worker::{
    ClusterSecret, NodeAddresses, NodeId, TlsFiles, TrustedProxies, TrustedProxy, Worker,
    WorkerConfig, WorkerHandle,
};
use tokio::time::{Instant, MissedTickBehavior};

use crate::cli::Options;
use crate::memory;
use crate::signals::{Signals, block_on};
use crate::telemetry::{self, LogFormat, LogLevel};

/// The environment variable in which the master gives its workers their
/// settings: not on the command line, where all users of the machine would
/// read the store's password.
pub(crate) const SETTINGS: &str = "CHAT_CLUSTER_WORKER_SETTINGS";

/// After a worker's clients have gone, their departure is written to the store
/// within that time.
const FINISH_TIME: Duration = Duration::from_secs(2);

/// A secret of fewer characters can be guessed: a node proves that it knows it
/// to whoever asks.
const SECRET_MIN: usize = 16;

/// Where the chat is kept.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum StoreChoice {
    /// The URL, not checked yet.
    Redis(String),
    /// SQLite on this machine.
    Embedded {
        data_dir: PathBuf,
        durability: Durability,
    },
}

impl StoreChoice {
    /// As the chat wants it. `name` is this process's among those of the
    /// runtime directory. The error is one line.
    fn backend(&self, runtime_dir: &Path, name: String) -> anyhow::Result<Backend> {
        Ok(match self {
            StoreChoice::Redis(url) => Backend::Redis(parse_redis_url(url)?),
            StoreChoice::Embedded {
                data_dir,
                durability,
            } => Backend::Embedded(Embedded {
                data_dir: data_dir.clone(),
                durability: *durability,
                runtime_dir: runtime_dir.to_owned(),
                name,
            }),
        })
    }
}

/// What a worker needs to know of the command line.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct WorkerSettings {
    store: StoreChoice,
    adapter_key: String,
    sharded_pubsub: bool,
    redis_wait: Option<NonZeroU32>,
    cors_origins: Vec<String>,
    publish_tokens: Vec<String>,
    workspace_policy: WorkspacePolicy,
    ping_interval: Duration,
    ping_timeout: Duration,
    session_ttl: Duration,
    message_ttl: Duration,
    roster_limit: usize,
    history_limit: usize,
    history_max: usize,
    presence_grace: Duration,
    orphan_time: Duration,
    message_max: usize,
    max_payload: usize,
    max_buffered: usize,
    events_per_second: Option<NonZeroU32>,
    serving: Serving,
    /// With Redis: this node among others.
    pub(crate) node: Option<NodeName>,
    pub(crate) log_format: LogFormat,
    pub(crate) log_level: LogLevel,
}

/// What options name, or the files that they name.
#[derive(Debug)]
pub(crate) struct Secrets {
    pub(crate) publish_tokens: Vec<String>,
    pub(crate) cluster_secret: Option<String>,
}

/// How connections are served.
#[derive(Debug, Deserialize, Serialize)]
struct Serving {
    /// Certificate and key.
    tls: Option<(PathBuf, PathBuf)>,
    trusted_proxies: Vec<String>,
    affinity_cookie: Option<String>,
    cluster_secret: Option<String>,
    requests_per_connection: u32,
    unfinished_handshakes: usize,
    head_max: usize,
    greeting_time: Duration,
    idle_timeout: Duration,
    write_deadline: Duration,
}

impl Serving {
    fn new(options: &Options, cluster_secret: Option<String>) -> Serving {
        Serving {
            tls: options.tls_cert.clone().zip(options.tls_key.clone()),
            trusted_proxies: options
                .trusted_proxy
                .iter()
                .map(ToString::to_string)
                .collect(),
            affinity_cookie: options.affinity_cookie.clone(),
            cluster_secret,
            requests_per_connection: options.max_requests_per_connection,
            unfinished_handshakes: options.max_unfinished_handshakes as usize,
            head_max: options.max_head as usize,
            greeting_time: options.head_timeout,
            idle_timeout: options.idle_timeout,
            write_deadline: options.write_timeout,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        if let Some(files) = self.tls_files() {
            files.check()?;
        }
        match self.cluster_secret.as_deref().map(str::len) {
            Some(0) => anyhow::bail!("the cluster's secret is empty"),
            Some(length) if length < SECRET_MIN => {
                tracing::warn!(
                    "the cluster's secret is short: whoever reaches a node can guess it at home"
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn tls_files(&self) -> Option<TlsFiles> {
        let (certificate, key) = self.tls.clone()?;
        Some(TlsFiles { certificate, key })
    }

    fn apply(&self, config: &mut WorkerConfig) -> anyhow::Result<()> {
        let proxies = self.trusted_proxies.iter().map(|text| text.parse());
        let proxies: Result<Vec<TrustedProxy>, String> = proxies.collect();
        config.trusted_proxies = TrustedProxies::new(proxies.map_err(anyhow::Error::msg)?);
        config.tls = self.tls_files();
        config.affinity_cookie.clone_from(&self.affinity_cookie);
        let secret = self.cluster_secret.as_deref();
        config.cluster_secret = secret.map(ClusterSecret::new);
        config.requests_per_connection = self.requests_per_connection;
        config.unfinished_handshakes = self.unfinished_handshakes;
        config.head_max = self.head_max;
        config.greeting_time = self.greeting_time;
        config.idle_timeout = self.idle_timeout;
        config.write_deadline = self.write_deadline;
        Ok(())
    }
}

impl WorkerSettings {
    /// The options that concern workers.
    pub(crate) fn new(options: &Options, store: StoreChoice, secrets: Secrets) -> WorkerSettings {
        WorkerSettings {
            store,
            adapter_key: options.adapter_key.clone(),
            sharded_pubsub: options.sharded_pubsub,
            redis_wait: NonZeroU32::new(options.redis_wait),
            cors_origins: options.cors_origin.clone(),
            publish_tokens: secrets.publish_tokens,
            workspace_policy: options.workspace_policy.into(),
            ping_interval: Duration::from_millis(options.ping_interval_ms.into()),
            ping_timeout: Duration::from_millis(options.ping_timeout_ms.into()),
            session_ttl: options.session_ttl,
            message_ttl: options.message_ttl,
            roster_limit: options.roster_limit as usize,
            history_limit: options.history_limit as usize,
            history_max: options.history_max as usize,
            presence_grace: options.presence_grace,
            orphan_time: options.orphan_time,
            message_max: options.message_max as usize,
            max_payload: options.max_payload as usize,
            max_buffered: options.max_buffered as usize,
            events_per_second: NonZeroU32::new(options.max_events_per_second),
            serving: Serving::new(options, secrets.cluster_secret),
            node: None,
            log_format: options.log_format,
            log_level: options.log_level,
        }
    }

    /// The value of [`SETTINGS`].
    pub(crate) fn to_environment(&self) -> anyhow::Result<String> {
        serde_json::to_string(self).context("cannot write the workers' settings")
    }

    /// As the chat of the process `name` wants them. The error is one line.
    pub(crate) fn chat(&self, runtime_dir: &Path, name: String) -> anyhow::Result<ChatConfig> {
        let node = self.node.as_ref();
        let name_among_servers = match node {
            Some(node) => format!("{name} of {}", node.name),
            None => name.clone(),
        };
        let mut config = ChatConfig::new(self.store.backend(runtime_dir, name)?);
        config.name = Some(name_among_servers);
        config.adapter_key.clone_from(&self.adapter_key);
        config.sharded_pubsub = self.sharded_pubsub;
        config.redis_wait = self.redis_wait;
        config.cors_origins.clone_from(&self.cors_origins);
        config.publish_tokens.clone_from(&self.publish_tokens);
        config.workspace_policy = self.workspace_policy;
        config.ping_interval = self.ping_interval;
        config.ping_timeout = self.ping_timeout;
        config.session_ttl = self.session_ttl;
        config.message_ttl = self.message_ttl;
        config.roster_limit = self.roster_limit;
        config.history_limit = self.history_limit;
        config.history_max = self.history_max;
        config.presence_grace = self.presence_grace;
        config.message_max = self.message_max;
        config.max_payload = self.max_payload;
        config.max_buffered = self.max_buffered;
        config.events_per_second = self.events_per_second;
        config.check()?;
        Ok(config)
    }

    /// Finds mistakes in how connections are to be served before anything is
    /// started. The error is one line.
    pub(crate) fn check_serving(&self) -> anyhow::Result<()> {
        self.serving.check()
    }

    /// The register of nodes, with Redis. The error is one line.
    pub(crate) fn register(&self, known: Option<NodeId>) -> Option<anyhow::Result<NodeRegister>> {
        let (StoreChoice::Redis(url), Some(node)) = (&self.store, &self.node) else {
            return None;
        };
        let url = parse_redis_url(url).map_err(anyhow::Error::from);
        Some(url.map(|url| NodeRegister::new(url, node.clone(), known)))
    }

    /// Whether the chat is kept in a Redis, which other nodes may share.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.store, StoreChoice::Redis(_))
    }

    /// Whether nodes can prove to each other that they are of one cluster.
    pub(crate) fn has_cluster_secret(&self) -> bool {
        self.serving.cluster_secret.is_some()
    }

    /// Whether that is a Redis Cluster.
    pub(crate) fn is_on_redis_cluster(&self) -> bool {
        matches!(&self.store, StoreChoice::Redis(url) if url.starts_with("redis+cluster://"))
    }

    fn from_environment() -> anyhow::Result<WorkerSettings> {
        let text = std::env::var(SETTINGS).context("workers are started by the master")?;
        serde_json::from_str(&text).context("cannot read the master's settings")
    }
}

/// Serves until the master ends it.
pub(crate) fn run() -> anyhow::Result<()> {
    let settings = WorkerSettings::from_environment()?;
    telemetry::start(settings.log_format, settings.log_level);
    let mut config = WorkerConfig::from_env()?;
    config.ping_interval = settings.ping_interval;
    config.ping_timeout = settings.ping_timeout;
    config.orphan_time = settings.orphan_time;
    settings.serving.apply(&mut config)?;
    // All tasks of this process run on this thread, inside this span.
    let tag = SidTag {
        node: config.node,
        worker: config.worker,
    };
    let tag = String::from_utf8_lossy(&tag.encode()).into_owned();
    let span = tracing::info_span!("worker", id = config.worker.0, tag);
    let _inside = span.enter();
    block_on(serve(config, settings))
}

async fn serve(config: WorkerConfig, settings: WorkerSettings) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot handle signals")?;
    let name = format!("worker-{}", config.worker);
    let id = config.node;
    let chat = settings.chat(&config.runtime_dir, name)?;
    // First, because with it goes the right to the worker's name.
    let worker = tokio::select! {
        registered = Worker::register(config) => registered?,
        // Nobody is served yet.
        _ = signals.stop() => return Ok(()),
    };
    let chat = Arc::new(Chat::start(chat)?);
    if let Some(register) = settings.register(Some(id)) {
        tokio::spawn(keep_node(register?, id, worker.handle()));
    }
    tokio::spawn(memory::give_back_after_clients(worker.handle()));
    let handle = worker.handle();
    let counts = handle.clone();
    chat.observe(move |what| match what {
        Happening::Stored { took } => counts.count_message(took),
        Happening::Delivered { after } => counts.count_delivery(after),
    });
    chat.leave_when(handle.draining());
    let up = chat.clone();
    tokio::spawn(async move {
        up.wait_until_store_is_up().await;
        handle.set_ready(true);
    });
    let asked = async {
        let signal = signals.stop().await;
        tracing::info!(signal, "asked to stop");
    };
    // The name on the bus is in use until the chat has finished.
    let name = worker.id_guard();
    let exit = worker.run(chat.service(), asked).await?;
    chat.finish(FINISH_TIME).await;
    drop(name);
    tracing::debug!(?exit, "worker ended");
    Ok(())
}

/// Renews the node's lease, as every worker of it does: so the node lives as
/// long as one of them, whatever becomes of the master. And learns where the
/// other nodes are.
async fn keep_node(mut register: NodeRegister, id: NodeId, worker: WorkerHandle) {
    let mut beat = tokio::time::interval(nodes::BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut others = Others::default();
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            () = worker.nodes_wanted() => {}
        }
        match register.hold().await {
            Ok(place) if place.id == id => {
                worker.set_nodes(others.now(place.others, Instant::now()));
            }
            // Redis has lost its data, and another node was faster.
            Ok(place) => {
                tracing::error!(id = %id, now = %place.id, "another node has this node's number");
            }
            Err(error) => tracing::debug!(%error, "the node's lease was not renewed"),
        }
    }
}

/// The other nodes. After a time without Redis the first to be back finds the
/// leases of all others over, though they live: what was known before counts
/// until they have had time to renew them.
#[derive(Debug, Default)]
struct Others {
    listed: NodeAddresses,
    seen: Option<Instant>,
    /// What to add, and until when.
    kept: Option<(NodeAddresses, Instant)>,
}

impl Others {
    fn now(&mut self, listed: NodeAddresses, now: Instant) -> NodeAddresses {
        let away = self
            .seen
            .is_some_and(|seen| now - seen > nodes::LEASE - nodes::BEAT);
        if away {
            let until = now + nodes::LEASE;
            self.kept = Some((std::mem::take(&mut self.listed), until));
        }
        self.seen = Some(now);
        self.listed.clone_from(&listed);
        self.kept.take_if(|(_, until)| *until <= now);
        let mut all = self
            .kept
            .clone()
            .map_or_else(NodeAddresses::new, |(kept, _)| kept);
        all.extend(listed);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nodes_are_kept_for_a_while_after_redis_was_away() {
        let address = |last: u8| std::net::SocketAddr::from(([10, 0, 0, last], 7000));
        let both = NodeAddresses::from([(NodeId(1), address(1)), (NodeId(2), address(2))]);
        let one = NodeAddresses::from([(NodeId(1), address(9))]);
        let mut others = Others::default();
        let begin = Instant::now();
        assert_eq!(others.now(both.clone(), begin), both);
        // Without an outage who is not listed is gone.
        let next = begin + nodes::BEAT;
        assert_eq!(others.now(one.clone(), next), one);
        assert_eq!(others.now(both.clone(), next), both);
        let back = next + Duration::from_secs(40);
        assert_eq!(others.now(NodeAddresses::new(), back), both);
        let mut moved = both.clone();
        moved.insert(NodeId(1), address(9));
        assert_eq!(others.now(one.clone(), back + nodes::BEAT), moved);
        assert_eq!(others.now(one.clone(), back + nodes::BEAT * 2), moved);
        assert_eq!(others.now(one.clone(), back + nodes::LEASE), one);
    }
}
