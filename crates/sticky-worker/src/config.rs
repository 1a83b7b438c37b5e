//! Who a worker is and how it serves.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use common::forwarded::TrustedProxies;
use common::worker_env;
use common::worker_id::{Generation, NodeId, WorkerId};
use thiserror::Error;

use crate::cluster_secret::ClusterSecret;
use crate::tls::TlsFiles;

/// The environment does not say who this worker is.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A variable that the master sets is missing: the process was not started
    /// by one.
    #[error("{0} is not set: workers are started by a master")]
    Missing(&'static str),
    /// A variable is not the number it should be.
    #[error("{name}={value} is not a number in range")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What it says.
        value: String,
    },
}

/// Who a worker is and how it serves. Made by [`WorkerConfig::from_env`] or
/// [`WorkerConfig::new`]; the other fields have defaults and may be changed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// The directory that the worker shares with its master.
    pub runtime_dir: PathBuf,
    /// Its id, which no other living process has.
    pub worker: WorkerId,
    /// Given at its start.
    pub generation: Generation,
    /// The node its session ids name. Default 0.
    pub node: NodeId,
    /// The application's Engine.IO path. Default `/socket.io/`.
    pub engine_path: String,
    /// The application's ping interval. Default 25 s. With
    /// [`ping_timeout`](Self::ping_timeout) it is how long a polling session
    /// lives after its last request.
    pub ping_interval: Duration,
    /// The application's ping timeout. Default 20 s.
    pub ping_timeout: Duration,
    /// How long a client that is asked to return may take to finish an upgrade.
    /// Default 10 s, as the application's own upgrade timeout.
    pub upgrade_timeout: Duration,
    /// A client that takes none of the bytes waiting for it for so long is cut.
    /// Default 15 s.
    pub write_deadline: Duration,
    /// How long a connection may be idle between requests, and how long a
    /// request head may take. Default 75 s.
    pub idle_timeout: Duration,
    /// Most bytes of a request head; at least 16 KiB are taken. Default 16 KiB.
    pub head_max: usize,
    /// How many requests a connection may carry before it is closed, which
    /// clients are told in the last answer. Default 10,000.
    pub requests_per_connection: u32,
    /// The certificate for connections that the master says are TLS; without
    /// one they are closed. Default none.
    pub tls: Option<TlsFiles>,
    /// How long a TLS handshake, the first request head behind it, or the
    /// greeting of another node may take. Default 5 s.
    pub greeting_time: Duration,
    /// Who is believed what it says of a client's address and scheme in
    /// `X-Forwarded-For`, `X-Forwarded-Proto` or `Forwarded`. Default nobody.
    pub trusted_proxies: TrustedProxies,
    /// The cookie that tells a client, when it opens a session, which worker it
    /// is on; for masters and balancers that route by it. Default none.
    pub affinity_cookie: Option<String>,
    /// What other nodes have to know to relay requests here, and this one to
    /// relay to them. Default none: there is no relay between nodes.
    pub cluster_secret: Option<ClusterSecret>,
    /// Polling handshakes that may stand without a second request; beyond it
    /// the oldest ends. Default 8,192, some 8 MiB of the worker's memory, and
    /// far more than honest clients have under way at once.
    pub unfinished_handshakes: usize,
    /// A worker without a master leaves after so long. Default 60 s.
    pub orphan_time: Duration,
    /// How long leaving may take when the master sets no deadline. Default 9 s.
    pub drain_time: Duration,
}

impl WorkerConfig {
    /// The defaults for one worker.
    pub fn new(runtime_dir: impl Into<PathBuf>, worker: WorkerId) -> Self {
        WorkerConfig {
            runtime_dir: runtime_dir.into(),
            worker,
            generation: Generation(0),
            node: NodeId(0),
            engine_path: "/socket.io/".into(),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            upgrade_timeout: Duration::from_secs(10),
            write_deadline: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            head_max: crate::serve::BUFFER,
            requests_per_connection: 10_000,
            tls: None,
            greeting_time: Duration::from_secs(5),
            trusted_proxies: TrustedProxies::default(),
            affinity_cookie: None,
            cluster_secret: None,
            unfinished_handshakes: 8192,
            orphan_time: Duration::from_secs(60),
            drain_time: Duration::from_secs(9),
        }
    }

    /// What the master says to the processes it starts: `STICKY_RUNTIME_DIR`,
    /// `STICKY_WORKER_ID`, `STICKY_GENERATION` and `STICKY_NODE_ID`.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|name| env::var_os(name).map(|text| text.to_string_lossy().into()))
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name| get(name).ok_or(ConfigError::Missing(name));
        let worker = WorkerId(number(worker_env::WORKER_ID, get)?);
        let mut config = WorkerConfig::new(get(worker_env::RUNTIME_DIR)?, worker);
        config.generation = Generation(number(worker_env::GENERATION, get)?);
        config.node = NodeId(number(worker_env::NODE_ID, get)?);
        Ok(config)
    }

    /// The Engine.IO path without a slash at its end.
    pub(crate) fn path(&self) -> &str {
        self.engine_path.trim_end_matches('/')
    }
}

fn number<T: FromStr>(
    name: &'static str,
    get: impl Fn(&'static str) -> Result<String, ConfigError>,
) -> Result<T, ConfigError> {
    let value = get(name)?;
    value
        .parse()
        .map_err(|_| ConfigError::Invalid { name, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<WorkerConfig, ConfigError> {
        WorkerConfig::from_variables(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const GOOD: [(&str, &str); 4] = [
        ("STICKY_RUNTIME_DIR", "/run/x"),
        ("STICKY_WORKER_ID", "7"),
        ("STICKY_GENERATION", "12"),
        ("STICKY_NODE_ID", "300"),
    ];

    #[test]
    fn the_environment_says_who_a_worker_is() {
        let config = from(&GOOD).unwrap();
        assert_eq!(config.runtime_dir, PathBuf::from("/run/x"));
        assert_eq!(config.worker, WorkerId(7));
        assert_eq!(config.generation, Generation(12));
        assert_eq!(config.node, NodeId(300));
        assert_eq!(config.path(), "/socket.io");
    }

    #[test]
    fn a_missing_or_wrong_variable_is_named() {
        let missing = from(&GOOD[..3]).unwrap_err();
        assert!(missing.to_string().contains("STICKY_NODE_ID"));
        let mut wrong = GOOD;
        wrong[1].1 = "256";
        let wrong = from(&wrong).unwrap_err();
        assert!(wrong.to_string().contains("STICKY_WORKER_ID=256"));
    }
}
