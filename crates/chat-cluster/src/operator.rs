//! What an operator can have a running cluster do, by a signal or by a command.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use sticky_master::MasterHandle;
use tokio::net::UnixStream;

use crate::service_manager;
use crate::status::Status;
use crate::upgrade::{Program, preflight};

/// Does what is asked, and says what came of it: in the log, to the service manager, and to who
/// asked.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    master: MasterHandle,
    program: Arc<Program>,
    /// Who waits for an upgrade that has begun.
    waiting: Arc<Mutex<Vec<OwnedFd>>>,
}

impl Operator {
    pub(crate) fn new(master: MasterHandle, program: Arc<Program>) -> Operator {
        Operator {
            master,
            program,
            waiting: Arc::default(),
        }
    }

    /// Of the cluster.
    pub(crate) fn master(&self) -> &MasterHandle {
        &self.master
    }

    /// Whether any worker takes clients.
    pub(crate) fn serves(&self) -> bool {
        self.master.ready_workers() > 0
    }

    /// See [`MasterHandle::all_ready`].
    pub(crate) async fn all_ready(&self) {
        self.master.all_ready().await;
    }

    /// Resolves when what [`status`](Self::status) says may have changed.
    pub(crate) async fn changed(&self) {
        self.master.ready_changed().await;
    }

    /// Kills all workers.
    pub(crate) fn kill(&self) {
        self.master.kill();
    }

    /// How many workers there are to be.
    pub(crate) fn workers(&self) -> String {
        workers(self.master.workers())
    }

    /// New workers instead of all that run; returns when those have gone.
    pub(crate) async fn reload(&self) -> Result<String, String> {
        service_manager::reloading();
        let reloaded = self.master.reload().await;
        // Whatever came of it: the cluster serves.
        service_manager::ready(&self.status());
        let reloaded = reloaded.map_err(|error| error.to_string())?;
        self.master.nobody_drains().await;
        tracing::info!(workers = reloaded.workers, "the old workers have gone");
        Ok(format!("reloaded: {}", workers(reloaded.workers)))
    }

    /// So many workers, and, where it is said, so many clients a second that move to
    /// those that have fewer.
    pub(crate) async fn scale(
        &self,
        wanted: usize,
        rebalance: Option<u32>,
    ) -> Result<String, String> {
        if let Some(per_second) = rebalance {
            let set = self.master.rebalance(per_second);
            set.map_err(|error| error.to_string())?;
        }
        let scaled = self.master.scale(wanted).await;
        let scaled = scaled.map_err(|error| error.to_string())?;
        let (before, now) = (scaled.before, workers(scaled.now));
        Ok(format!("scaled from {before} to {now}"))
    }

    /// Becomes the program on disk, which then answers `asks`. The error gives that
    /// back.
    pub(crate) async fn upgrade(
        &self,
        asks: Option<UnixStream>,
    ) -> Result<(), (Option<UnixStream>, String)> {
        let failed = |asks, why: String| {
            tracing::error!(error = why, "no upgrade; everything runs on as it was");
            Err((asks, why))
        };
        match preflight(&self.program).await {
            Ok(version) => tracing::info!(to = version, "upgrading"),
            Err(why) => return failed(asks, why),
        }
        // Without it only the answer is lost.
        let asks = asks.and_then(|asks| asks.into_std().ok());
        self.lock_waiting().extend(asks.map(OwnedFd::from));
        match self.master.hand_over().await {
            Ok(()) => Ok(()),
            Err(error) => failed(None, error.to_string()),
        }
    }

    pub(crate) fn take_waiting(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut *self.lock_waiting())
    }

    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of how it is.
    pub(crate) fn whole_status(&self) -> Status {
        Status::now(&self.master)
    }

    /// One line on how it is.
    pub(crate) fn status(&self) -> String {
        format!(
            "{} of {} ready",
            self.master.ready_workers(),
            self.workers()
        )
    }
}

fn workers(count: usize) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} worker{plural}")
}
