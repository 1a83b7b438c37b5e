//! What a master is told at its start.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::worker_id::NodeId;

use crate::balance::Balance;
use crate::listener::ListenAddress;

/// Most workers of one master. Ids go up to 255: each worker may have a
/// successor while it drains.
pub const WORKERS_MAX: usize = 128;

/// A master's settings.
pub struct MasterConfig {
    /// Where clients connect; at least one.
    pub listen: Vec<ListenAddress>,
    /// Worker processes to keep alive, 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// How new clients are spread.
    pub balance: Balance,
    /// This node among others; 0 when alone.
    pub node: NodeId,
    /// Where master and workers meet.
    pub runtime_dir: PathBuf,
    /// Makes the command that starts one worker. The master adds the
    /// environment of [`common::worker_env`], a process group of its own, so
    /// that a Ctrl-C reaches the master alone, and an empty standard input.
    pub command: Box<dyn Fn() -> Command + Send + Sync>,
    /// A request head must be complete that long after the connection was
    /// accepted. Default 5 s.
    pub head_time: Duration,
    /// An id's holder that does not say Hello for that long to a new master is
    /// killed. Default 15 s.
    pub stuck_time: Duration,
    /// At the end, workers may take that long to send their clients away.
    /// Default 6 s.
    pub drain_time: Duration,
    /// At the end, what still lives after that long is killed; more than
    /// [`drain_time`](Self::drain_time), since workers have the departures of
    /// their clients to record. Default 9 s.
    pub stop_time: Duration,
}

impl MasterConfig {
    /// Defaults for all but what has none.
    pub fn new(
        listen: Vec<ListenAddress>,
        workers: usize,
        runtime_dir: PathBuf,
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> MasterConfig {
        MasterConfig {
            listen,
            workers,
            balance: Balance::default(),
            node: NodeId::default(),
            runtime_dir,
            command: Box::new(command),
            head_time: Duration::from_secs(5),
            stuck_time: Duration::from_secs(15),
            drain_time: Duration::from_secs(6),
            stop_time: Duration::from_secs(9),
        }
    }
}

impl fmt::Debug for MasterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterConfig")
            .field("listen", &self.listen)
            .field("workers", &self.workers)
            .field("balance", &self.balance)
            .field("node", &self.node)
            .field("runtime_dir", &self.runtime_dir)
            .finish_non_exhaustive()
    }
}
