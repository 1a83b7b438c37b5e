//! The options: a contract with those who run it, on the command line, in the environment and in a file.

// Most of what follows are help texts, which the terminal shows as they are.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chat_worker::data_dir;
use clap::Parser;
use common::runtime_dir::RuntimeDir;
use sticky_master::{ListenAddress, TrustedProxy, WORKERS_MAX};

use crate::bounded_file;
use crate::commands::Command;
use crate::option_values::{
    BalanceMethod, DurabilityLevel, WorkspacePolicyChoice, adapter_key, cookie_name, dialable,
    duration, publish_token,
};
use crate::telemetry::{LogFormat, LogLevel};
use crate::worker::StoreChoice;

/// Socket.IO chat on every core of a machine: a master accepts connections and
/// hands each one to a worker process; the workers share the chat through an
/// embedded store, or through Redis. Linux only.
#[derive(Debug, Parser)]
#[command(
    name = "chat-cluster",
    version,
    max_term_width = 100,
    after_help = "Each option can be given as an environment variable, and in a file (--config), \
                  too: a flag wins over its variable, and that over the file. REDIS_URL and PORT \
                  (which means 0.0.0.0:PORT) count when neither the flag nor the CHAT_CLUSTER_ \
                  variable is there."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) options: Options,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A file of options, TOML: the names of the flags without the dashes in front, as in
    /// workers = 4. Flags and variables win over it
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CHAT_CLUSTER_CONFIG",
        hide_env_values = true
    )]
    pub(crate) config: Option<PathBuf>,

    /// Worker processes, 1 to 128 [default: the number of CPUs]
    #[arg(long, value_name = "N", env = "CHAT_CLUSTER_WORKERS", hide_env_values = true,
          value_parser = clap::value_parser!(u16).range(1..=WORKERS_MAX as i64))]
    pub(crate) workers: Option<u16>,

    /// Where clients connect: ADDR:PORT or unix:PATH; may be given several
    /// times [default: 127.0.0.1:3000]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "CHAT_CLUSTER_LISTEN",
        value_delimiter = ',',
        hide_env_values = true
    )]
    listen: Vec<ListenAddress>,

    /// Which worker gets a new client
    #[arg(
        long,
        value_name = "METHOD",
        env = "CHAT_CLUSTER_BALANCE",
        hide_env_values = true,
        default_value = "least-connection",
        value_enum
    )]
    pub(crate) balance: BalanceMethod,

    /// Keep sessions and messages in this Redis, which several machines may
    /// share [default: none; they are kept in --data-dir]
    #[arg(
        long,
        value_name = "URL",
        env = "CHAT_CLUSTER_REDIS",
        hide_env_values = true
    )]
    redis: Option<String>,

    /// A file with that URL in it, in place of --redis: so no password is on the command line
    #[arg(
        long,
        value_name = "FILE",
        env = "CHAT_CLUSTER_REDIS_FILE",
        hide_env_values = true
    )]
    redis_file: Option<PathBuf>,

    /// What the names of the adapter's channels begin with; the option `key` of
    /// Node servers and emitters on the same Redis
    #[arg(
        long,
        value_name = "KEY",
        env = "CHAT_CLUSTER_ADAPTER_KEY",
        hide_env_values = true,
        default_value = "socket.io",
        value_parser = adapter_key
    )]
    pub(crate) adapter_key: String,

    /// With a Redis Cluster: workers talk by sharded pub/sub, which costs one of
    /// its servers and not all. Node servers and emitters take no part
    #[arg(long, env = "CHAT_CLUSTER_SHARDED_PUBSUB", hide_env_values = true)]
    pub(crate) sharded_pubsub: bool,

    /// With Redis: how many of its replicas must have a message before it is acknowledged
    #[arg(
        long,
        value_name = "N",
        env = "CHAT_CLUSTER_REDIS_WAIT",
        hide_env_values = true,
        default_value = "0"
    )]
    pub(crate) redis_wait: u32,

    /// Without Redis: where sessions and messages are kept [default:
    /// $STATE_DIRECTORY as systemd sets it, $XDG_STATE_HOME/chat-cluster, or
    /// ~/.local/state/chat-cluster]
    #[arg(
        long,
        value_name = "DIR",
        env = "CHAT_CLUSTER_DATA_DIR",
        hide_env_values = true
    )]
    data_dir: Option<PathBuf>,

    /// Without Redis: what a power cut may take of the acknowledged messages
    #[arg(
        long,
        value_name = "HOW",
        env = "CHAT_CLUSTER_DURABILITY",
        hide_env_values = true,
        default_value = "normal",
        value_enum
    )]
    durability: DurabilityLevel,

    /// Where the master and its workers meet, and where commands find a running cluster
    /// [default: $XDG_RUNTIME_DIR/chat-cluster, or /run/chat-cluster for root]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CHAT_CLUSTER_RUNTIME_DIR",
        hide_env_values = true
    )]
    runtime_dir: Option<PathBuf>,

    /// Where monitoring asks: ADDR:PORT or unix:PATH. /metrics for Prometheus, /status, /readyz,
    /// /healthz. Whoever reaches it may ask [default: nowhere]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "CHAT_CLUSTER_ADMIN",
        hide_env_values = true
    )]
    pub(crate) admin: Option<ListenAddress>,

    /// An origin, scheme://host:port, whose pages may connect, or *;
    /// may be given several times [default: the server's own]
    #[arg(
        long,
        value_name = "ORIGIN",
        env = "CHAT_CLUSTER_CORS_ORIGIN",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) cors_origin: Vec<String>,

    /// A token with which events may be published at /api/publish; may be given
    /// several times. Better in its variable, or in a file [default: nobody may]
    #[arg(
        long,
        value_name = "TOKEN",
        env = "CHAT_CLUSTER_PUBLISH_TOKEN",
        value_delimiter = ',',
        hide_env_values = true,
        value_parser = publish_token
    )]
    publish_token: Vec<String>,

    /// A file of such tokens, one a line; read at start
    #[arg(
        long,
        value_name = "FILE",
        env = "CHAT_CLUSTER_PUBLISH_TOKEN_FILE",
        hide_env_values = true
    )]
    publish_token_file: Option<PathBuf>,

    /// Who may subscribe to a workspace's rooms
    #[arg(
        long,
        value_name = "POLICY",
        env = "CHAT_CLUSTER_WORKSPACE_POLICY",
        hide_env_values = true,
        value_enum,
        default_value = "open"
    )]
    pub(crate) workspace_policy: WorkspacePolicyChoice,

    /// A certificate with its chain, PEM: TCP listeners speak TLS. Read again when it changes
    #[arg(
        long,
        value_name = "FILE",
        env = "CHAT_CLUSTER_TLS_CERT",
        hide_env_values = true
    )]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "CHAT_CLUSTER_TLS_KEY",
        hide_env_values = true
    )]
    pub(crate) tls_key: Option<PathBuf>,

    /// Connections begin with a PROXY protocol header, version 1 or 2, as a
    /// balancer in front sends it; others are refused
    #[arg(long, env = "CHAT_CLUSTER_PROXY_PROTOCOL", hide_env_values = true,
          value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) proxy_protocol: bool,

    /// Who is believed what X-Forwarded-For and Forwarded say of a client's
    /// address: a network, an address, or unix for all who come by Unix sockets;
    /// may be given several times [default: nobody]
    #[arg(
        long,
        value_name = "CIDR|unix",
        env = "CHAT_CLUSTER_TRUSTED_PROXY",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) trusted_proxy: Vec<TrustedProxy>,

    /// Set a cookie of this name that says which worker a client is on, and let
    /// it choose the worker of connections without a session id [default: none]
    #[arg(long, value_name = "NAME", env = "CHAT_CLUSTER_AFFINITY_COOKIE",
          hide_env_values = true, value_parser = cookie_name)]
    pub(crate) affinity_cookie: Option<String>,

    /// With Redis: what this node is called; it keeps its number in session ids
    /// by this name [default: the host's name and the first --listen]
    #[arg(
        long,
        value_name = "NAME",
        env = "CHAT_CLUSTER_NODE_NAME",
        hide_env_values = true
    )]
    node_name: Option<String>,

    /// With Redis: where other nodes reach this one, to relay requests of its
    /// sessions; one of --listen, whose port is the default, or an address that is
    /// listened on for them [default: none; a balancer in front of several nodes must be sticky]
    #[arg(
        long,
        value_name = "ADDR[:PORT]",
        env = "CHAT_CLUSTER_ADVERTISE",
        hide_env_values = true
    )]
    advertise: Option<String>,

    /// What nodes prove to each other that they know; it is never sent. Long and
    /// random, and better in its variable than on the command line
    #[arg(
        long,
        value_name = "SECRET",
        env = "CHAT_CLUSTER_CLUSTER_SECRET",
        hide_env_values = true
    )]
    cluster_secret: Option<String>,

    /// A file with that secret in it, in place of --cluster-secret
    #[arg(
        long,
        value_name = "FILE",
        env = "CHAT_CLUSTER_CLUSTER_SECRET_FILE",
        hide_env_values = true
    )]
    cluster_secret_file: Option<PathBuf>,

    /// Most client connections, in all workers together [default: what the limits
    /// of open files allow]
    #[arg(long, value_name = "N", env = "CHAT_CLUSTER_MAX_CONNECTIONS",
          hide_env_values = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_connections: Option<u64>,

    /// Most connections of one client address (with IPv6, of one /64 network)
    /// [default: no limit; whole offices share an address]
    #[arg(long, value_name = "N", env = "CHAT_CLUSTER_MAX_CONNECTIONS_PER_ADDRESS",
          hide_env_values = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections_per_address: Option<u32>,

    /// Connections a second of one client address (with IPv6, of one /64 network) that bring no
    /// session; so many more in five seconds after a pause [default: no limit]
    #[arg(long, value_name = "PER_SECOND", env = "CHAT_CLUSTER_MAX_NEW_CONNECTIONS_PER_ADDRESS",
          hide_env_values = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_new_connections_per_address: Option<u32>,

    /// Events of one socket that are dealt with in a second, after as many at once; others wait
    /// their turn, and are refused when too many wait. 0: no limit
    #[arg(
        long,
        value_name = "N",
        env = "CHAT_CLUSTER_MAX_EVENTS_PER_SECOND",
        hide_env_values = true,
        default_value = "1000"
    )]
    pub(crate) max_events_per_second: u32,

    /// Requests that one connection may carry; then it is closed
    #[arg(long, value_name = "N", env = "CHAT_CLUSTER_MAX_REQUESTS_PER_CONNECTION",
          hide_env_values = true, default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_requests_per_connection: u32,

    /// Polling handshakes of one worker without a second request; beyond it the
    /// oldest ends
    #[arg(long, value_name = "N", env = "CHAT_CLUSTER_MAX_UNFINISHED_HANDSHAKES",
          hide_env_values = true, default_value = "8192", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_unfinished_handshakes: u32,

    /// Largest packet from a client, in bytes, on both transports
    #[arg(long, value_name = "BYTES", env = "CHAT_CLUSTER_MAX_PAYLOAD", hide_env_values = true,
          default_value = "1000000", value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    pub(crate) max_payload: u32,

    /// Bytes of events that may wait for one client that reads slowly; who has
    /// more is sent away, and finds what it missed when it is back
    #[arg(long, value_name = "BYTES", env = "CHAT_CLUSTER_MAX_BUFFERED", hide_env_values = true,
          default_value = "8388608", value_parser = clap::value_parser!(u32).range(65_536..))]
    pub(crate) max_buffered: u32,

    /// Largest head of a connection's first request, in bytes; later ones, and
    /// those inside TLS, may have 16 KiB at least
    #[arg(long, value_name = "BYTES", env = "CHAT_CLUSTER_MAX_HEAD", hide_env_values = true,
          default_value = "8192", value_parser = clap::value_parser!(u32).range(1_024..=65_536))]
    pub(crate) max_head: u32,

    /// How long a connection's first request head, or its TLS handshake, may take
    #[arg(long, value_name = "TIME", env = "CHAT_CLUSTER_HEAD_TIMEOUT", hide_env_values = true,
          default_value = "5s", value_parser = duration)]
    pub(crate) head_timeout: Duration,

    /// How long a connection may be idle between two requests
    #[arg(long, value_name = "TIME", env = "CHAT_CLUSTER_IDLE_TIMEOUT", hide_env_values = true,
          default_value = "75s", value_parser = duration)]
    pub(crate) idle_timeout: Duration,

    /// A client that takes none of the bytes that wait for it for so long is cut
    #[arg(long, value_name = "TIME", env = "CHAT_CLUSTER_WRITE_TIMEOUT", hide_env_values = true,
          default_value = "15s", value_parser = duration)]
    pub(crate) write_timeout: Duration,

    /// Time between two pings to a client
    #[arg(long, value_name = "MS", env = "CHAT_CLUSTER_PING_INTERVAL_MS", hide_env_values = true,
          default_value = "25000", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ping_interval_ms: u32,

    /// Time that a client has to answer a ping
    #[arg(long, value_name = "MS", env = "CHAT_CLUSTER_PING_TIMEOUT_MS", hide_env_values = true,
          default_value = "20000", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ping_timeout_ms: u32,

    /// How long a session is kept after its last socket has gone: 90s, 24h, 7d
    #[arg(long, value_name = "TIME", env = "CHAT_CLUSTER_SESSION_TTL", hide_env_values = true,
          default_value = "24h", value_parser = duration)]
    pub(crate) session_ttl: Duration,

    /// How long a user's messages are kept after the last one: 90s, 24h, 7d
    #[arg(long, value_name = "TIME", env = "CHAT_CLUSTER_MESSAGE_TTL", hide_env_values = true,
          default_value = "24h", value_parser = duration)]
    pub(crate) message_ttl: Duration,

    /// Users that a client is told of, beside those that it has written with: while there are more
    /// users, those who were active last. 0: nobody else
    #[arg(long, value_name = "N", env = "CHAT_CLUSTER_ROSTER_LIMIT", hide_env_values = true,
          default_value = "500", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) roster_limit: u32,

    /// The newest messages of each conversation that a client is sent when it logs in; it asks for
    /// older ones
    #[arg(long, value_name = "N", env = "CHAT_CLUSTER_HISTORY_LIMIT", hide_env_values = true,
          default_value = "50", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) history_limit: u32,

    /// Messages that are kept for each user; the oldest go first
    #[arg(long, value_name = "N", env = "CHAT_CLUSTER_HISTORY_MAX", hide_env_values = true,
          default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) history_max: u32,

    /// A worker that is replaced or not wanted any more asks its clients to go to the others one
    /// after the other, in that time
    #[arg(long, value_name = "TIME", env = "CHAT_CLUSTER_DRAIN_TIME", hide_env_values = true,
          default_value = "10s", value_parser = duration)]
    pub(crate) drain_time: Duration,

    /// Clients a second that are asked to go from workers that have more than their share, as
    /// after scaling [default: none; new clients fill the others]
    #[arg(long, value_name = "PER_SECOND", env = "CHAT_CLUSTER_REBALANCE", hide_env_values = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rebalance: Option<u32>,

    /// How long workers serve on without a master; then they send their clients away and end
    #[arg(long, value_name = "TIME", env = "CHAT_CLUSTER_ORPHAN_TIME", hide_env_values = true,
          default_value = "60s", value_parser = duration)]
    pub(crate) orphan_time: Duration,

    /// A worker whose event loop does not run for that long is killed and replaced
    #[arg(long, value_name = "TIME", env = "CHAT_CLUSTER_STUCK_TIME", hide_env_values = true,
          default_value = "15s", value_parser = duration)]
    pub(crate) stuck_time: Duration,

    /// How long users whose worker has left or died are expected back before the others are told
    /// that they are gone
    #[arg(long, value_name = "TIME", env = "CHAT_CLUSTER_PRESENCE_GRACE", hide_env_values = true,
          default_value = "5s", value_parser = duration)]
    pub(crate) presence_grace: Duration,

    /// Longest message content, in bytes
    #[arg(long, value_name = "BYTES", env = "CHAT_CLUSTER_MESSAGE_MAX", hide_env_values = true,
          default_value = "65536", value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub(crate) message_max: u32,

    /// How log lines look
    #[arg(
        long,
        value_name = "FORMAT",
        env = "CHAT_CLUSTER_LOG_FORMAT",
        hide_env_values = true,
        default_value = "text",
        value_enum
    )]
    pub(crate) log_format: LogFormat,

    /// The least important messages that are logged
    #[arg(
        long,
        value_name = "LEVEL",
        env = "CHAT_CLUSTER_LOG_LEVEL",
        hide_env_values = true,
        default_value = "info",
        value_enum
    )]
    pub(crate) log_level: LogLevel,

    /// Check the command line and what it names, say what this program is, and end: asked by a
    /// running master before it becomes this program
    #[arg(long, hide = true)]
    pub(crate) preflight: bool,
}

impl Options {
    /// The flag or its variable, else the number of CPUs.
    pub(crate) fn workers(&self) -> usize {
        let cpus = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let workers = self.workers.map_or_else(cpus, usize::from);
        workers.min(WORKERS_MAX)
    }

    /// The flags or their variable, else `PORT` on all addresses, else the
    /// default; `passed`: there are sockets of a service manager, and what was not
    /// asked for is not listened on. The error is one of usage.
    pub(crate) fn listen(&self, passed: bool) -> Result<Vec<ListenAddress>, String> {
        if !self.listen.is_empty() || passed {
            return Ok(self.listen.clone());
        }
        let port = match variable("PORT") {
            None => return Ok(vec![ListenAddress::Tcp(([127, 0, 0, 1], 3000).into())]),
            Some(port) => port,
        };
        let number = port
            .to_str()
            .and_then(|port| port.trim().parse::<u16>().ok());
        let number = number.ok_or_else(|| format!("PORT is not a port number: {port:?}"))?;
        Ok(vec![ListenAddress::Tcp(([0, 0, 0, 0], number).into())])
    }

    /// Redis, when the flag, its variable or `REDIS_URL` names one; else the
    /// embedded store.
    pub(crate) fn store(&self) -> Result<StoreChoice, String> {
        let redis = match (
            &self.redis,
            variable("REDIS_URL").map(OsString::into_string),
        ) {
            (Some(url), _) => Some(url.clone()),
            (None, Some(Ok(url))) => Some(url),
            (None, Some(Err(_))) => return Err("REDIS_URL is not valid UTF-8".to_owned()),
            (None, None) => None,
        };
        let redis =
            given_or_in_file("redis", self.redis.as_ref(), self.redis_file.as_deref())?.or(redis);
        if let Some(url) = redis {
            return Ok(StoreChoice::Redis(url));
        }
        let data_dir = match &self.data_dir {
            Some(given) => given.clone(),
            None => data_dir::default_path().map_err(|error| error.to_string())?,
        };
        Ok(StoreChoice::Embedded {
            data_dir,
            durability: self.durability.into(),
        })
    }

    /// Those of the flag or its variable, and those in the file. The error is one of usage, and
    /// shows no token.
    pub(crate) fn publish_tokens(&self) -> Result<Vec<String>, String> {
        let mut tokens = self.publish_token.clone();
        let Some(file) = &self.publish_token_file else {
            return Ok(tokens);
        };
        let path = file.display();
        let text = bounded_file::read(file);
        let text = text.map_err(|error| format!("--publish-token-file {path}: {error}"))?;
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() {
                continue;
            }
            let token = publish_token(line);
            let token = token
                .map_err(|why| format!("--publish-token-file {path}, line {number}: {why}"))?;
            tokens.push(token);
        }
        if tokens.is_empty() {
            return Err(format!("--publish-token-file {path} has no token in it"));
        }
        Ok(tokens)
    }

    /// What nodes prove to each other that they know. The error is one of usage.
    pub(crate) fn cluster_secret(&self) -> Result<Option<String>, String> {
        let (given, file) = (&self.cluster_secret, &self.cluster_secret_file);
        given_or_in_file("cluster-secret", given.as_ref(), file.as_deref())
    }

    /// The flag or its variable, else the host's name and the first listener.
    pub(crate) fn node_name(&self, listen: &[ListenAddress]) -> String {
        self.node_name.clone().unwrap_or_else(|| {
            let host = nix::unistd::gethostname().unwrap_or_default();
            let first = listen.first().map(ToString::to_string);
            format!("{} {}", host.to_string_lossy(), first.unwrap_or_default())
        })
    }

    /// The flag or its variable, with the port of the first TCP listener if it
    /// names none. The error is one of usage.
    pub(crate) fn advertise(&self, listen: &[ListenAddress]) -> Result<Option<SocketAddr>, String> {
        let port = listen.iter().find_map(|address| match address {
            ListenAddress::Tcp(address) => Some(address.port()),
            ListenAddress::Unix(_) => None,
        });
        let advertise = self.advertise.as_deref();
        advertise.map(|text| dialable(text, port)).transpose()
    }

    /// The flag or its variable, else the user's one place for it.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        let given = self.runtime_dir.clone();
        given.unwrap_or_else(RuntimeDir::default_path)
    }
}

/// The value of an option, or what the file has that `--OPTION-file` names, without the end of its
/// line. The error is one of usage, and shows nothing of it.
fn given_or_in_file(
    option: &str,
    given: Option<&String>,
    file: Option<&Path>,
) -> Result<Option<String>, String> {
    let Some(file) = file else {
        return Ok(given.cloned());
    };
    if given.is_some() {
        return Err(format!("--{option} and --{option}-file are both given"));
    }
    let path = file.display();
    let text = bounded_file::read(file);
    let text = text.map_err(|error| format!("--{option}-file {path}: {error}"))?;
    match text.trim() {
        "" => Err(format!("--{option}-file {path} has nothing in it")),
        text => Ok(Some(text.to_owned())),
    }
}

/// Platforms set variables that they have no value for to nothing.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Options, clap::Error> {
        let words = std::iter::once("chat-cluster").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.options)
    }

    #[test]
    fn the_runtime_directory_of_a_command_stands_before_or_behind_its_name() {
        for line in ["--runtime-dir /a reload", "reload --runtime-dir /a"] {
            let words = std::iter::once("chat-cluster").chain(line.split_whitespace());
            let cli = Cli::parse_from(words);
            assert!(matches!(cli.command, Some(Command::Reload)));
            assert_eq!(cli.options.runtime_dir(), PathBuf::from("/a"));
        }
    }

    #[test]
    fn the_definition_is_sound_and_every_option_has_a_variable_named_after_it() {
        Cli::command().debug_assert();
        for argument in Cli::command().get_arguments() {
            let Some(long) = argument.get_long() else {
                continue;
            };
            if ["help", "version", "preflight"].contains(&long) {
                continue;
            }
            let expected = format!("CHAT_CLUSTER_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(
                argument.get_env().unwrap().to_str(),
                Some(expected.as_str())
            );
        }
    }

    #[test]
    fn values_are_read_and_bounded() {
        let options = parse("--workers 3 --session-ttl 90s --message-ttl 7d").unwrap();
        assert_eq!(options.workers(), 3);
        assert_eq!(options.session_ttl, Duration::from_secs(90));
        assert_eq!(options.message_ttl, Duration::from_secs(7 * 24 * 3600));
        for wrong in [
            "--workers 0",
            "--workers 129",
            "--session-ttl 0s",
            "--session-ttl soon",
            "--balance fastest",
            "--listen 3000",
            "--ping-interval-ms 0",
            "--message-max 600000",
            "--trusted-proxy everybody",
            "--affinity-cookie a=b",
            "--max-connections 0",
            "--max-head 100",
            "--rebalance 0",
            "scale 0",
            "scale 129",
            "scale",
            "--adapter-key=",
            "--no-such-flag",
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn an_advertised_address_has_a_port_of_its_own_or_the_listener_s() {
        let advertise = |text: &str, listen: &str| {
            let line = format!("--advertise {text} --cluster-secret x --listen {listen}");
            let options = parse(&line).unwrap();
            options.advertise(&options.listen(false).unwrap())
        };
        for (text, listen, expected) in [
            ("10.0.0.1:7000", "0.0.0.0:3000", "10.0.0.1:7000"),
            ("10.0.0.1", "0.0.0.0:3000", "10.0.0.1:3000"),
            ("[::1]", "[::]:3000", "[::1]:3000"),
            ("[::1]:7000", "unix:/tmp/x", "[::1]:7000"),
        ] {
            let found = advertise(text, listen).unwrap().unwrap();
            assert_eq!(found.to_string(), expected);
        }
        for (text, listen) in [
            ("10.0.0.1", "unix:/tmp/x"),
            ("127.0.0.1:0", "0.0.0.0:3000"),
            ("127.0.0.1", "127.0.0.1:0"),
            ("0.0.0.0:7000", "0.0.0.0:3000"),
        ] {
            assert!(advertise(text, listen).is_err(), "{text}");
        }
    }

    #[test]
    fn several_addresses_of_all_kinds() {
        let line = "--listen 127.0.0.1:1 --listen [::1]:2 --listen unix:/tmp/x";
        let listen = parse(line).unwrap().listen(false).unwrap();
        let texts: Vec<_> = listen.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["http://127.0.0.1:1", "http://[::1]:2", "unix:/tmp/x"]
        );
    }
}
