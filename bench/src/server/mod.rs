//! Servers to be measured: ours and its peers, each started with the settings its users would choose.

mod process;
mod proxies;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::process::Command;

use crate::proc::{Role, Scope};
use process::Process;

/// The kinds of server.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// chat-cluster with a Redis
    Redis,
    /// chat-cluster with its embedded store
    Embedded,
    /// The same with `--durability full`
    EmbeddedFull,
    /// Node.js cluster, @socket.io/sticky, @socket.io/redis-adapter, Redis
    Node,
    /// HAProxy in front of chat-cluster's workers, with a Redis
    Haproxy,
    /// nginx in front of chat-cluster's workers, with a Redis
    Nginx,
    /// socketioxide in one process, all in memory
    Alone,
    /// Accept, peek, pass the socket to a blocking worker, a fixed answer: handshakes only
    Floor,
}

/// One server to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ServerSpec {
    pub(crate) kind: Kind,
    pub(crate) workers: u16,
}

impl fmt::Display for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            Kind::Redis => "chat-cluster, Redis",
            Kind::Embedded => "chat-cluster, embedded",
            Kind::EmbeddedFull => "chat-cluster, embedded, full",
            Kind::Node => "Node.js cluster",
            Kind::Haproxy => "HAProxy + our workers",
            Kind::Nginx => "nginx + our workers",
            Kind::Alone => return f.write_str("socketioxide alone"),
            Kind::Floor => "floor",
        };
        let plural = if self.workers == 1 { "" } else { "s" };
        write!(f, "{name}, {} worker{plural}", self.workers)
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// The chat-cluster binary.
    pub(crate) chat_cluster: PathBuf,
    /// The folder with the Node.js peer, its packages installed.
    pub(crate) node_cluster: PathBuf,
}

/// A running server. Its processes are asked to end when it is dropped; [`Server::stop`] also
/// waits until they have.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Its parts, as they are told apart in the figures.
    pub(crate) roles: Vec<Role>,
    /// From the start of its first own process until it was ready.
    pub(crate) start_millis: f64,
    /// The path of its Redis's socket, if it has one.
    pub(crate) redis: Option<String>,
    /// In the order of their start.
    processes: Vec<Process>,
    /// Removed at the end.
    _directory: TempDir,
}

impl Server {
    /// Starts one and waits until it is ready. `data_dir` is for the embedded
    /// store: without it the store is a new one.
    pub(crate) async fn start(
        spec: ServerSpec,
        programs: &Programs,
        data_dir: Option<&Path>,
    ) -> anyhow::Result<Server> {
        let directory = new_directory()?;
        let mut start = Start::new(directory.path(), programs, spec.workers);
        let address = match spec.kind {
            Kind::Redis => start.chat_cluster_on_redis().await?,
            Kind::Embedded | Kind::EmbeddedFull => {
                let full = spec.kind == Kind::EmbeddedFull;
                let durability = if full { "full" } else { "normal" };
                let own = directory.path().join("data");
                let data_dir = data_dir.unwrap_or(&own);
                let data_dir = data_dir
                    .to_str()
                    .context("the data directory is not UTF-8")?;
                start
                    .chat_cluster(&["--data-dir", data_dir, "--durability", durability])
                    .await?
            }
            Kind::Node => start.node().await?,
            Kind::Haproxy => {
                start.chat_cluster_on_redis().await?;
                proxies::haproxy(&mut start).await?
            }
            Kind::Nginx => {
                start.chat_cluster_on_redis().await?;
                proxies::nginx(&mut start).await?
            }
            Kind::Alone => {
                start
                    .own(&["alone"], &[("workers", Scope::Process)])
                    .await?
            }
            Kind::Floor => {
                let workers = spec.workers.to_string();
                start
                    .own(&["floor", "--workers", &workers], &MASTER_AND_WORKERS)
                    .await?
            }
        };
        Ok(Server {
            address,
            start_millis: start.begun.elapsed().as_secs_f64() * 1e3,
            roles: start.roles,
            redis: start.redis,
            processes: start.processes,
            _directory: directory,
        })
    }

    /// Ends all its processes, the last started first.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for process in self.processes.into_iter().rev() {
            process.stop().await?;
        }
        Ok(())
    }
}

/// A Redis as the servers have it, and none of them. It is asked to end when it is dropped;
/// [`LoneRedis::stop`] also waits until it has.
#[derive(Debug)]
pub(crate) struct LoneRedis {
    pub(crate) roles: Vec<Role>,
    /// The path of its socket.
    pub(crate) socket: String,
    processes: Vec<Process>,
    /// Removed at the end.
    _directory: TempDir,
}

impl LoneRedis {
    /// Starts one and waits until it is ready.
    pub(crate) async fn start(programs: &Programs) -> anyhow::Result<LoneRedis> {
        let directory = new_directory()?;
        let mut start = Start::new(directory.path(), programs, 0);
        let socket = start.redis().await?;
        Ok(LoneRedis {
            roles: start.roles,
            socket,
            processes: start.processes,
            _directory: directory,
        })
    }

    /// Ends it.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for process in self.processes {
            process.stop().await?;
        }
        Ok(())
    }
}

/// A client of the Redis at that socket.
pub(crate) fn redis_client(socket: &str) -> redis::RedisResult<redis::Client> {
    redis::Client::open(format!("redis+unix://{socket}"))
}

fn new_directory() -> std::io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("chat-cluster-bench.")
        .tempdir()
}

/// A process that accepts, and those that it has started for the work.
const MASTER_AND_WORKERS: [(&str, Scope); 2] =
    [("master", Scope::Process), ("workers", Scope::Descendants)];

/// A server that is being started.
struct Start<'a> {
    directory: &'a Path,
    programs: &'a Programs,
    workers: u16,
    roles: Vec<Role>,
    redis: Option<String>,
    processes: Vec<Process>,
    begun: Instant,
}

impl<'a> Start<'a> {
    fn new(directory: &'a Path, programs: &'a Programs, workers: u16) -> Start<'a> {
        Start {
            directory,
            programs,
            workers,
            roles: Vec::new(),
            redis: None,
            processes: Vec::new(),
            begun: Instant::now(),
        }
    }

    fn path(&self, name: &str) -> anyhow::Result<String> {
        let path = self.directory.join(name).into_os_string().into_string();
        path.map_err(|path| anyhow::anyhow!("not UTF-8: {path:?}"))
    }

    fn add(&mut self, process: Process, roles: &[(&str, Scope)]) {
        for (name, scope) in roles {
            self.roles.push(Role::new(name, process.pid(), *scope));
        }
        self.processes.push(process);
    }

    /// A Redis as an operator would run it for messages that must last: its
    /// append-only file is written each second. Gives its socket's path.
    async fn redis(&mut self) -> anyhow::Result<String> {
        let socket = self.path("redis.sock")?;
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--unixsocket", &socket])
            .arg("--dir")
            .arg(self.directory);
        command.args([
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--save",
            "",
            // The child that rewrites the file would be missing in the figures.
            "--auto-aof-rewrite-percentage",
            "0",
        ]);
        let mut redis = Process::start("redis-server", &mut command)?;
        redis
            .until(|line| {
                line.to_lowercase()
                    .contains("ready to accept connections")
                    .then_some(())
            })
            .await?;
        self.add(redis, &[("Redis", Scope::Tree)]);
        self.redis = Some(socket.clone());
        self.begun = Instant::now();
        Ok(socket)
    }

    async fn chat_cluster_on_redis(&mut self) -> anyhow::Result<SocketAddr> {
        let redis = self.redis().await?;
        self.chat_cluster(&["--redis", &format!("redis+unix://{redis}")])
            .await
    }

    async fn chat_cluster(&mut self, store: &[&str]) -> anyhow::Result<SocketAddr> {
        let mut command = Command::new(&self.programs.chat_cluster);
        // Settings of the user's own shell must not change what is measured.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CHAT_CLUSTER_") || ["REDIS_URL", "PORT"].contains(&&*text) {
                command.env_remove(&name);
            }
        }
        command.args([
            "--workers",
            &self.workers.to_string(),
            "--listen",
            "127.0.0.1:0",
        ]);
        command
            .arg("--runtime-dir")
            .arg(self.directory.join("run"))
            .args(store);
        let mut master = Process::start("chat-cluster", &mut command)?;
        let address = master.until(ready_line).await?;
        self.add(master, &MASTER_AND_WORKERS);
        Ok(address)
    }

    async fn node(&mut self) -> anyhow::Result<SocketAddr> {
        let redis = self.redis().await?;
        let mut command = Command::new("node");
        command.arg(self.programs.node_cluster.join("cluster.mjs"));
        command
            .args([&self.workers.to_string(), &redis])
            .env("NODE_ENV", "production");
        let mut primary = Process::start("node", &mut command)?;
        let address = primary.until(ready_line).await?;
        self.add(primary, &MASTER_AND_WORKERS);
        Ok(address)
    }

    /// A server that this program contains.
    async fn own(&mut self, args: &[&str], roles: &[(&str, Scope)]) -> anyhow::Result<SocketAddr> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = Process::start("bench", command.args(args))?;
        let address = process.until(ready_line).await?;
        self.add(process, roles);
        Ok(address)
    }
}

/// All servers but the proxies say `ready at http://ADDRESS:PORT` when they are.
fn ready_line(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("ready at http://")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_lines() {
        let line = "chat-cluster is ready at http://127.0.0.1:3000 (4 workers, store /x)";
        assert_eq!(ready_line(line), Some(([127, 0, 0, 1], 3000).into()));
        assert_eq!(
            ready_line("ready at http://127.0.0.1:80"),
            Some(([127, 0, 0, 1], 80).into())
        );
        assert_eq!(ready_line("getting ready"), None);
    }
}
