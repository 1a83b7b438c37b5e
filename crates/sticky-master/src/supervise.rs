//! Keeps one seat filled: starts a worker process, waits for its end, says why
//! it ended, starts another.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::worker_env;
use common::worker_id::WorkerId;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{Cluster, Phase, Seat};
use crate::restart_policy::{LOUD_AFTER, RestartPolicy};

/// After a process has ended, its channel's end is read within that time.
const CHANNEL_END: Duration = Duration::from_secs(1);

/// Fills a seat until the cluster stops and the seat is empty. `held` is a
/// process that outlived an earlier master: the first to have the seat.
pub(crate) async fn keep_seat(cluster: Arc<Cluster>, held: Option<(WorkerId, u32)>) {
    let mut policy = RestartPolicy::default();
    // Former holders of the seat that leave by themselves.
    let mut leaving = JoinSet::new();
    if let Some((worker, pid)) = held {
        adopt(&cluster, worker, pid, &mut leaving).await;
    }
    while cluster.phase() == Phase::Running {
        let begin = Instant::now();
        let ready = match start(&cluster) {
            Ok(process) => process.outlive(&cluster, &mut leaving).await,
            Err(error) => {
                tracing::error!(%error, "cannot start a worker");
                Some(false)
            }
        };
        while leaving.try_join_next().is_some() {}
        // None: it drains by itself; its successor need not wait.
        let Some(ready) = ready else { continue };
        let pause = policy.after_death(begin.elapsed(), ready);
        if policy.failures() == LOUD_AFTER {
            tracing::error!(
                deaths = LOUD_AFTER,
                "a worker has died again and again right after its start; \
                 its own messages above say why; trying on, ever more rarely"
            );
        }
        let _ = tokio::time::timeout(pause, cluster.until(Phase::Stopping)).await;
    }
    while leaving.join_next().await.is_some() {}
}

struct Process {
    worker: WorkerId,
    seat: Arc<Seat>,
    child: Child,
    pid: u32,
    begin: Instant,
}

fn start(cluster: &Cluster) -> io::Result<Process> {
    let (worker, seat) = cluster
        .reserve()
        .ok_or_else(|| io::Error::other("no worker id is free"))?;
    let started = spawn(cluster, worker);
    if started.is_err() {
        cluster.release(worker);
    }
    let child = started?;
    let pid = child.id().unwrap_or(0);
    tracing::info!(%worker, pid, "worker started");
    Ok(Process {
        worker,
        seat,
        child,
        pid,
        begin: Instant::now(),
    })
}

fn spawn(cluster: &Cluster, worker: WorkerId) -> io::Result<Child> {
    let mut command = (cluster.config.command)();
    command
        .env(worker_env::RUNTIME_DIR, cluster.runtime_dir.path())
        .env(worker_env::WORKER_ID, worker.to_string())
        // Known since before there was a seat to fill.
        .env(
            worker_env::NODE_ID,
            cluster.node_if_known().unwrap_or_default().to_string(),
        )
        .env(
            worker_env::GENERATION,
            cluster.next_generation().to_string(),
        )
        .stdin(Stdio::null())
        .process_group(0);
    Command::from(command).spawn()
}

impl Process {
    /// Waits for the process's end and says whether it was ever ready; `None`
    /// when it leaves by itself, which a task in `leaving` then sees to.
    async fn outlive(mut self, cluster: &Arc<Cluster>, leaving: &mut JoinSet<()>) -> Option<bool> {
        tokio::select! {
            status = self.child.wait() => {
                self.ended(cluster, status).await;
                Some(self.seat.was_ready.load(SeqCst))
            }
            () = self.seat.leaving.notified() => {
                tracing::info!(worker = %self.worker, pid = self.pid, "worker drains");
                let cluster = cluster.clone();
                leaving.spawn(async move { self.end_or_kill(&cluster).await });
                None
            }
            () = cluster.until(Phase::Stopping) => {
                self.end_or_kill(cluster).await;
                Some(true)
            }
        }
    }

    /// Waits for the end; once the cluster stops, only within the bound.
    async fn end_or_kill(mut self, cluster: &Cluster) {
        let status = tokio::select! {
            status = self.child.wait() => status,
            () = out_of_time(cluster) => {
                tracing::warn!(worker = %self.worker, pid = self.pid, "killing a worker that does not end");
                let _ = self.child.start_kill();
                self.child.wait().await
            }
        };
        self.ended(cluster, status).await;
    }

    async fn ended(&self, cluster: &Cluster, status: io::Result<ExitStatus>) {
        let (worker, pid) = (self.worker, self.pid);
        let running = cluster.phase() == Phase::Running;
        let lived = humane(self.begin.elapsed());
        match status {
            Ok(status) if status.success() => {
                tracing::info!(%worker, pid, lived, "worker ended");
            }
            Ok(status) if running => {
                tracing::error!(%worker, pid, lived, cause = cause(status), "worker died");
            }
            Ok(status) => {
                tracing::info!(%worker, pid, lived, cause = cause(status), "worker ended")
            }
            Err(error) => tracing::error!(%worker, pid, %error, "cannot wait for a worker"),
        }
        // The id is free only when its sockets have gone to others.
        if cluster.pool().member(worker).is_some() {
            let _ = tokio::time::timeout(CHANNEL_END, self.seat.gone.notified()).await;
        }
        cluster.release(worker);
    }
}

/// Waits until a worker that still lives must be killed.
async fn out_of_time(cluster: &Cluster) {
    cluster.until(Phase::Stopping).await;
    let killing = cluster.until(Phase::Killing);
    let _ = tokio::time::timeout(cluster.config.stop_time, killing).await;
}

/// Waits for the end of a process that an earlier master started, or until it
/// leaves by itself, which a task in `leaving` then sees to.
async fn adopt(cluster: &Arc<Cluster>, worker: WorkerId, pid: u32, leaving: &mut JoinSet<()>) {
    let seat = cluster.reserve_held(worker);
    tracing::info!(%worker, pid, "worker found alive");
    let hello = async {
        let mut ready = cluster.ready();
        let _ = ready
            .wait_for(|_| cluster.pool().member(worker).is_some())
            .await;
    };
    tokio::select! {
        () = hello => {
            tokio::select! {
                // It says so before its channel ends.
                biased;
                () = seat.leaving.notified() => {
                    tracing::info!(%worker, pid, "worker drains");
                    let cluster = cluster.clone();
                    leaving.spawn(async move {
                        adopted_end(&cluster, worker, &seat).await;
                        tracing::info!(%worker, pid, "worker ended");
                    });
                    return;
                }
                () = adopted_end(cluster, worker, &seat) => {}
            }
        }
        () = until_free(cluster, worker) => cluster.release(worker),
        () = tokio::time::sleep(cluster.config.stuck_time) => {
            tracing::error!(%worker, pid, "a worker of the last master does not answer; killing it");
            kill_holder(cluster, worker, pid);
            free(cluster, worker).await;
        }
        () = out_of_time(cluster) => {
            kill_holder(cluster, worker, pid);
            free(cluster, worker).await;
        }
    }
    if cluster.phase() == Phase::Running {
        tracing::error!(%worker, pid, "worker died");
    } else {
        tracing::info!(%worker, pid, "worker ended");
    }
}

/// Waits for the end of a registered worker that an earlier master started;
/// once the cluster stops, only within the bound.
async fn adopted_end(cluster: &Cluster, worker: WorkerId, seat: &Seat) {
    tokio::select! {
        () = seat.gone.notified() => {}
        () = out_of_time(cluster) => cluster.kill_worker(worker),
    }
    free(cluster, worker).await;
}

/// Kills the process that holds a worker id, if the lock's file names it truly.
fn kill_holder(cluster: &Cluster, worker: WorkerId, pid: u32) {
    let Some(pid) = Pid::from_raw(pid as i32) else {
        return;
    };
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    // The pid is the holder's as long as the lock is held: looked at after the
    // process was pinned, so it cannot have been given to another.
    let holder = cluster.runtime_dir.worker_holder(worker);
    if matches!(holder, Ok(Some(now)) if now == pid.as_raw_nonzero().get() as u32) {
        let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
    }
}

/// Gives back the id of a dying process, whose lock the kernel lets go within
/// its exit.
async fn free(cluster: &Cluster, worker: WorkerId) {
    let _ = tokio::time::timeout(CHANNEL_END, until_free(cluster, worker)).await;
    cluster.release(worker);
}

/// Waits until nobody holds a worker's lock. There is no event for that.
async fn until_free(cluster: &Cluster, worker: WorkerId) {
    while let Ok(Some(_)) = cluster.runtime_dir.worker_holder(worker) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn cause(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(name) => format!("killed by {name}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => status.to_string(),
    }
}

fn humane(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}
