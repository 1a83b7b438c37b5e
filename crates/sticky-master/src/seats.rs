//! All seats of workers: fills them at the start, renews them one by one, adds
//! and takes away. One command after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use common::runtime_dir::RuntimeDirError;
use common::worker_id::WorkerId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Phase};
use crate::command::{Command, CommandError, Reloaded, Scaled};
use crate::config::WORKERS_MAX;
use crate::process::{self, Process};
use crate::supervise::{Order, UNTIL_STOPPED, keep_seat, retire, see_off};

/// Why [`Seats::run`] came to its end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The cluster stopped, and no worker lives.
    Stopped,
    /// Another process image is to go on; the workers live.
    HandOver,
}

/// What a process that outlived an earlier master is.
enum Found {
    /// A worker like any other.
    Worker(Process),
    /// It drains.
    Leaver(Process),
    /// It has ended.
    Nobody,
}

/// The seats. Dropped, they leave their processes alone.
#[derive(Debug)]
pub(crate) struct Seats {
    cluster: Arc<Cluster>,
    /// Those that are filled now, the oldest first.
    orders: Vec<mpsc::Sender<Order>>,
    tasks: JoinSet<()>,
    /// Processes that outlived an earlier master, until they say what they are.
    found: JoinSet<Found>,
    leavers: JoinSet<()>,
    /// Processes that nobody knew of, and that register.
    strays: mpsc::UnboundedReceiver<Process>,
}

impl Seats {
    /// Fills as many as are wanted: with processes that outlived an earlier
    /// master where there are any, else with new ones.
    /// `children`: of this process, left by the image before.
    pub(crate) fn fill(cluster: Arc<Cluster>, children: &[u32]) -> Result<Seats, RuntimeDirError> {
        let (strays, receiver) = mpsc::unbounded_channel();
        let mut seats = Seats {
            orders: Vec::new(),
            tasks: JoinSet::new(),
            found: JoinSet::new(),
            leavers: JoinSet::new(),
            strays: receiver,
            cluster,
        };
        let mut held = Vec::new();
        for worker in WorkerId::all() {
            if let Some(pid) = seats.cluster.runtime_dir.worker_holder(worker)? {
                held.push((worker, pid));
            }
        }
        for (worker, pid) in &held {
            if let Some(process) = Process::adopt(&seats.cluster, *worker, *pid) {
                seats.found.spawn(introduce(seats.cluster.clone(), process));
            }
        }
        for child in children {
            if !held.iter().any(|(_, pid)| pid == child) {
                seats.leavers.spawn(process::reap(*child));
            }
        }
        seats.fill_up();
        seats.cluster.know_seats(strays);
        Ok(seats)
    }

    /// Goes on until the cluster stops and every worker has ended, or until it is
    /// to be handed over.
    pub(crate) async fn run(mut self, commands: &mut mpsc::Receiver<Command>) -> Ended {
        while self.cluster.phase() == Phase::Running {
            let cluster = self.cluster.clone();
            tokio::select! {
                () = cluster.until(Phase::Stopping) => {}
                Some(found) = self.found.join_next() => self.take(found.unwrap_or(Found::Nobody)),
                Some(stray) = self.strays.recv() => {
                    self.found.spawn(introduce(cluster.clone(), stray));
                }
                Some(_) = self.leavers.join_next() => {}
                Some(_) = self.tasks.join_next() => {}
                Some(command) = commands.recv() => {
                    tokio::select! {
                        // Nothing is handed over by a cluster that stops.
                        biased;
                        () = cluster.until(Phase::Stopping) => {}
                        ended = self.obey(command) => if let Some(ended) = ended {
                            return ended;
                        }
                    }
                }
            }
        }
        commands.close();
        while self.tasks.join_next().await.is_some() {}
        while let Some(found) = self.found.join_next().await {
            if let Ok(Found::Worker(process) | Found::Leaver(process)) = found {
                self.leavers
                    .spawn(see_off(self.cluster.clone(), process, UNTIL_STOPPED));
            }
        }
        while self.leavers.join_next().await.is_some() {}
        Ended::Stopped
    }

    async fn obey(&mut self, command: Command) -> Option<Ended> {
        match command {
            Command::Reload(answer) => {
                let reloaded = self.reload().await;
                if let Err(error) = &reloaded {
                    tracing::error!(%error, "reload stopped; the workers that are there serve on");
                }
                let _ = answer.send(reloaded);
                None
            }
            Command::Scale(wanted, answer) => {
                let _ = answer.send(self.scale(wanted).await);
                None
            }
            Command::HandOver => {
                self.settle().await;
                Some(Ended::HandOver)
            }
        }
    }

    /// Seat by seat a new process starts, and when it is ready the present one
    /// drains; all at the same time, so that a client is asked to move once. The
    /// first failure ends it.
    async fn reload(&mut self) -> Result<Reloaded, CommandError> {
        // Not more than two processes a seat.
        self.cluster.nobody_leaves().await;
        self.settle().await;
        let seats = self.orders.len();
        tracing::info!(workers = seats, "reloading");
        for (done, orders) in self.orders.iter().enumerate() {
            let (answer, renewed) = oneshot::channel();
            // Who does not take it drops the answer.
            let _ = orders.send(Order::Renew(answer)).await;
            let renewed = renewed.await;
            let renewed = renewed.unwrap_or_else(|_| Err("the cluster stops".to_owned()));
            renewed.map_err(|why| CommandError::NotReady { done, seats, why })?;
        }
        tracing::info!(workers = seats, "reloaded; the old workers drain");
        Ok(Reloaded { workers: seats })
    }

    async fn scale(&mut self, wanted: usize) -> Result<Scaled, CommandError> {
        if !(1..=WORKERS_MAX).contains(&wanted) {
            return Err(CommandError::Workers(wanted));
        }
        self.settle().await;
        let before = self.orders.len();
        self.cluster.reserve_descriptors(wanted)?;
        self.cluster.wanted.store(wanted, SeqCst);
        tracing::info!(before, now = wanted, "scaling");
        self.fill_up();
        // Without orders a seat is given up.
        self.orders.truncate(wanted);
        if wanted > before {
            let ready_time = self.cluster.config.ready_time;
            let ready = tokio::time::timeout(ready_time, self.cluster.workers_ready(wanted)).await;
            ready.map_err(|_| CommandError::NotAllReady(wanted))?;
        }
        Ok(Scaled {
            before,
            now: wanted,
        })
    }

    /// Until all that outlived an earlier master have a seat or leave.
    async fn settle(&mut self) {
        while let Some(found) = self.found.join_next().await {
            self.take(found.unwrap_or(Found::Nobody));
        }
    }

    fn take(&mut self, found: Found) {
        match found {
            Found::Worker(process) if self.orders.len() < self.wanted() => self.open(Some(process)),
            Found::Worker(process) => retire(&self.cluster, process, &mut self.leavers),
            Found::Leaver(process) => {
                let bound = self.cluster.config.drain_bound();
                self.leavers
                    .spawn(see_off(self.cluster.clone(), process, bound));
            }
            Found::Nobody => {}
        }
        self.fill_up();
    }

    fn wanted(&self) -> usize {
        self.cluster.wanted.load(SeqCst)
    }

    /// Opens the seats that are missing, if nobody is found that could have them.
    fn fill_up(&mut self) {
        while self.orders.len() + self.found.len() < self.wanted() {
            self.open(None);
        }
    }

    fn open(&mut self, first: Option<Process>) {
        let (orders, receiver) = mpsc::channel(1);
        self.orders.push(orders);
        self.tasks
            .spawn(keep_seat(self.cluster.clone(), first, receiver));
    }
}

/// Waits for the Hello of a process that outlived an earlier master.
async fn introduce(cluster: Arc<Cluster>, process: Process) -> Found {
    let (worker, pid) = (process.worker, process.pid);
    tokio::select! {
        // A drain is told with the Hello.
        biased;
        () = process.seat.leaving.notified() => {
            tracing::info!(%worker, pid, "worker drains");
            return Found::Leaver(process);
        }
        () = process.seat.registered() => return Found::Worker(process),
        () = cluster.until(Phase::Stopping) => return Found::Worker(process),
        () = process.end() => {}
        () = tokio::time::sleep(cluster.config.stuck_time) => {
            tracing::error!(%worker, pid, "a worker of the last master does not answer; killing it");
            process.kill();
            process.end().await;
        }
    }
    process.bury(&cluster).await;
    Found::Nobody
}
