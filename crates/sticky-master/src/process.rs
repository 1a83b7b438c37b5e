//! One worker process, whoever started it: this master, or one before it in the
//! same process, or one that died. Watched through a pidfd, so that its number
//! cannot come to mean another.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::sys::readiness;
use common::worker_env;
use common::worker_id::{Generation, WorkerId};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::cluster::{Cluster, Phase};
use crate::seat::Seat;

/// After a process has ended, its channel's end is read within that time.
const CHANNEL_END: Duration = Duration::from_secs(1);

/// A worker process and the id that it has until its end is dealt with.
#[derive(Debug)]
pub(crate) struct Process {
    /// Who.
    pub worker: WorkerId,
    /// Its process id.
    pub pid: u32,
    /// What is known of it.
    pub seat: Arc<Seat>,
    pidfd: AsyncFd<OwnedFd>,
    /// When it was started; not known of one that was found.
    begin: Option<Instant>,
}

impl Process {
    /// Starts one under an id of its own.
    pub(crate) fn start(cluster: &Cluster) -> io::Result<Process> {
        let (worker, seat) = cluster
            .reserve()
            .ok_or_else(|| io::Error::other("no worker id is free"))?;
        let generation = cluster.next_generation();
        let started = spawn(cluster, worker, generation).and_then(|pid| Ok((pid, watched(pid)?)));
        let (pid, pidfd) = started.inspect_err(|_| cluster.release(worker))?;
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        cluster.started.fetch_add(1, SeqCst);
        tracing::info!(%worker, pid, "worker started");
        let _ = seat.generation.set(generation);
        let _ = seat.pid.set(pid);
        Ok(Process {
            worker,
            pid,
            seat,
            pidfd,
            begin: Some(Instant::now()),
        })
    }

    /// Takes over the holder of an id that lived before this master; `None` when
    /// it is gone.
    pub(crate) fn adopt(cluster: &Cluster, worker: WorkerId, pid: u32) -> Option<Process> {
        let pidfd = watched(Pid::from_raw(pid as i32)?).ok()?;
        // The pid is the holder's as long as the lock is held: looked at after the
        // process was pinned, so it cannot have been given to another.
        let holder = cluster.runtime_dir.worker_holder(worker);
        if !matches!(holder, Ok(Some(now)) if now == pid) {
            return None;
        }
        tracing::info!(%worker, pid, "worker found alive");
        let seat = cluster.reserve_held(worker);
        let _ = seat.pid.set(pid);
        Some(Process {
            worker,
            pid,
            seat,
            pidfd,
            begin: None,
        })
    }

    /// Resolves when it has ended.
    pub(crate) async fn end(&self) {
        // It stays readable from then on.
        let _ = self.pidfd.readable().await;
    }

    /// Kills it; [`end`](Self::end) follows.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// How long ago it was started.
    pub(crate) fn lived(&self) -> Duration {
        self.begin.map_or(Duration::MAX, |begin| begin.elapsed())
    }

    /// After its end: says how it ended, and gives back its id when what was on
    /// its way to it has gone to others. The cause, unless all was well.
    pub(crate) async fn bury(self, cluster: &Cluster) -> Option<String> {
        let (worker, pid) = (self.worker, self.pid);
        let lived = self.begin.map(|begin| humane(begin.elapsed()));
        let cause = self.cause();
        match &cause {
            None => tracing::info!(%worker, pid, lived, "worker ended"),
            Some(cause) if cluster.phase() == Phase::Running => {
                cluster.died.fetch_add(1, SeqCst);
                tracing::error!(%worker, pid, lived, cause, "worker died");
            }
            Some(cause) => tracing::info!(%worker, pid, lived, cause, "worker ended"),
        }
        if cluster.pool().member(worker).is_some() {
            let _ = tokio::time::timeout(CHANNEL_END, self.seat.gone.notified()).await;
        }
        cluster.release(worker);
        cause
    }

    fn cause(&self) -> Option<String> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = match waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options) {
            Ok(Some(status)) => status,
            // Another master's child, of which only the kernel's init hears.
            Ok(None) | Err(_) => return Some("unknown: an earlier master started it".to_owned()),
        };
        match (status.terminating_signal(), status.exit_status()) {
            (_, Some(0)) => None,
            (Some(signal), _) => Some(match nix::sys::signal::Signal::try_from(signal) {
                Ok(name) => format!("killed by {name}"),
                Err(_) => format!("killed by signal {signal}"),
            }),
            (None, Some(code)) => Some(format!("exit code {code}")),
            (None, None) => Some("unknown".to_owned()),
        }
    }
}

/// The children that this process has now, by pid: none unless the process image
/// before this one left some.
pub(crate) fn children() -> Vec<u32> {
    let own = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
    let text = text.unwrap_or_default();
    let pids = text.split_ascii_whitespace();
    pids.filter_map(|pid| pid.parse().ok()).collect()
}

/// Waits for the end of a child that is no worker, or none any more, so that nothing
/// is left of it.
pub(crate) async fn reap(child: u32) {
    let watched = Pid::from_raw(child as i32).and_then(|pid| watched(pid).ok());
    if let Some(pidfd) = watched {
        let _ = pidfd.readable().await;
        let _ = waitid(
            WaitId::PidFd(pidfd.get_ref().as_fd()),
            WaitIdOptions::EXITED,
        );
    }
}

fn spawn(cluster: &Cluster, worker: WorkerId, generation: Generation) -> io::Result<Pid> {
    let mut command = (cluster.config.command)();
    command
        .env(worker_env::RUNTIME_DIR, cluster.runtime_dir.path())
        .env(worker_env::WORKER_ID, worker.to_string())
        // Known since before there was a seat to fill.
        .env(
            worker_env::NODE_ID,
            cluster.node_if_known().unwrap_or_default().to_string(),
        )
        .env(worker_env::GENERATION, generation.to_string())
        .stdin(Stdio::null())
        .process_group(0);
    let child = command.spawn()?;
    Pid::from_raw(child.id() as i32).ok_or_else(|| io::Error::other("no process id"))
}

fn watched(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    readiness::watch(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE)
}

fn humane(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}
