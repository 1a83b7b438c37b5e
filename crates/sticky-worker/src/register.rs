//! Says Hello to a master, and again to its successor. Holds what the worker
//! keeps through all masters: its lock and its scoreboard.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use common::handoff::{Hello, Packet};
use common::handoff_channel::{Channel, ChannelError};
use common::runtime_dir::{HeldLock, RuntimeDir, RuntimeDirError};
use common::worker_id::{Generation, NodeId, WorkerId};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use crate::board::Board;
use crate::config::WorkerConfig;

/// The pause after the first failure to reach a master; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause: a new master waits this long for its workers at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A master that accepts and then says nothing is tried anew after this.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// A master looks at a lock by taking it for a moment.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// Why a worker could not begin.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// The runtime directory cannot be used, or another process has the id.
    #[error(transparent)]
    RuntimeDir(#[from] RuntimeDirError),
    /// The scoreboard could not be made.
    #[error("scoreboard: {0}")]
    Scoreboard(#[source] io::Error),
    /// The limit of open files could not be read.
    #[error("counting open files: {0}")]
    OpenFiles(#[source] io::Error),
    /// No master took the worker within the orphan time.
    #[error("no master answered within {0:?}")]
    NoMaster(Duration),
    /// The master has no place for this worker.
    #[error("the master does not want worker {0}")]
    Retired(WorkerId),
}

/// What a master answered.
pub(crate) enum Answered {
    /// With what was said of being ready.
    Welcome(Channel, bool),
    Retire,
}

/// One worker's place, whoever is master.
pub(crate) struct Registration {
    pub(crate) dir: RuntimeDir,
    pub(crate) board: Arc<Board>,
    memory: OwnedFd,
    worker: WorkerId,
    node: NodeId,
    generation: Generation,
    _lock: HeldLock,
}

impl Registration {
    /// Takes the worker id for the life of this value.
    pub(crate) async fn claim(config: &WorkerConfig) -> Result<Self, RegisterError> {
        let dir = RuntimeDir::open(&config.runtime_dir)?;
        let lock = lock(&dir, config.worker).await?;
        let (board, memory) = Board::create().map_err(RegisterError::Scoreboard)?;
        Ok(Registration {
            dir,
            board: Arc::new(board),
            memory,
            worker: config.worker,
            node: config.node,
            generation: config.generation,
            _lock: lock,
        })
    }

    /// Finds a master within `patience` and is answered by it; `None` when
    /// there is none.
    pub(crate) async fn with_a_master(
        &self,
        patience: Duration,
        ready: impl Fn() -> bool,
        leaving: impl Fn() -> bool,
    ) -> Option<Answered> {
        let end = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        loop {
            match timeout(ANSWER_TIME, self.hello(ready(), leaving())).await {
                Ok(Ok(answered)) => return Some(answered),
                Ok(Err(error)) => tracing::debug!(%error, "no master"),
                Err(_) => tracing::debug!("the master does not answer"),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn hello(&self, ready: bool, leaving: bool) -> Result<Answered, ChannelError> {
        let channel = Channel::connect(&self.dir.master_socket())?;
        let hello = Packet::Hello(Hello {
            worker: self.worker,
            node: self.node,
            generation: self.generation,
            pid: std::process::id(),
            ready,
            leaving,
            received: self.board.received(),
            balanced_received: self.board.balanced(),
        });
        channel.send(&hello, &[self.memory.as_fd()]).await?;
        match channel.receive().await?.map(|delivery| delivery.packet) {
            Some(Packet::Welcome) => Ok(Answered::Welcome(channel, ready)),
            Some(Packet::Retire) => Ok(Answered::Retire),
            Some(other) => {
                tracing::warn!(?other, "unexpected answer to Hello");
                Err(io::Error::from(io::ErrorKind::InvalidData).into())
            }
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

async fn lock(dir: &RuntimeDir, worker: WorkerId) -> Result<HeldLock, RuntimeDirError> {
    for _ in 1..LOCK_TRIES {
        match dir.lock_worker(worker) {
            Err(RuntimeDirError::WorkerLives { .. }) => sleep(LOCK_PAUSE).await,
            locked => return locked,
        }
    }
    dir.lock_worker(worker)
}
