//! What a running master can be told, and what it answers.

use thiserror::Error;
use tokio::sync::oneshot;

use crate::config::WORKERS_MAX;

/// What a master is told while it runs.
#[derive(Debug)]
pub(crate) enum Command {
    /// All workers are replaced by new ones.
    Reload(oneshot::Sender<Result<Reloaded, CommandError>>),
    /// There are to be so many workers.
    Scale(usize, oneshot::Sender<Result<Scaled, CommandError>>),
    /// Another process image is to take over.
    HandOver,
}

/// All workers are new, and the ones before them drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// How many.
    pub workers: usize,
}

/// There are as many workers as wanted, and they take clients; those that are not
/// wanted any more drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// How many there were.
    pub before: usize,
    /// How many there are.
    pub now: usize,
}

/// Why a command was not carried out. What ran before goes on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// A new worker did not become ready; the rest of the workers was not
    /// replaced.
    #[error("{why} ({done} of {seats} workers were replaced)")]
    NotReady {
        /// Workers that were replaced before.
        done: usize,
        /// Workers in all.
        seats: usize,
        /// What became of the new one.
        why: String,
    },
    /// Workers were added, and some are not ready yet.
    #[error("not all of {0} workers are ready yet; they are waited for")]
    NotAllReady(usize),
    /// A number of workers out of range.
    #[error("{0} workers are not possible: 1 to {WORKERS_MAX}")]
    Workers(usize),
    /// Clients that are asked to move would come back to the same worker.
    #[error(
        "rebalancing is of no use with client-hash or an affinity cookie: \
         clients would come back to the same worker"
    )]
    MovesNobody,
    /// The limit of open files leaves no room for that many workers.
    #[error("the limit of open files (ulimit -n) is too low for {0} workers")]
    FewDescriptors(usize),
    /// The master stops.
    #[error("the master is stopping")]
    Stopping,
}
