//! Whether a log-in costs more the more users there are.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cli::ProgramOptions;
use crate::client::chat::{Auth, Transport, User, follow, log_in};
use crate::client::target::Target;
use crate::clock;
use crate::open_files;
use crate::proc;
use crate::progress::Progress;
use crate::server::{Kind, Server, ServerSpec};
use crate::side_by_side::Spread;

/// Log-ins that are under way at a time.
const AT_ONCE: usize = 64;
/// What a log-in causes at others comes in batches of 100 ms: it is waited for before and after.
const AFTER: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Growth {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Which log-ins are measured: the middle of the measured ones; ratios are to the first
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    users: Vec<u32>,

    /// How many are measured there
    #[arg(long, default_value_t = 1000)]
    window: u32,

    /// With which stores
    #[arg(long, value_delimiter = ',', default_value = "redis,embedded")]
    kinds: Vec<Kind>,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// What so many log-ins took.
#[derive(Clone, Copy)]
struct Took {
    cpu: f64,
    rate: f64,
}

impl Growth {
    /// Measures in turns and prints a table. Inside a [`tokio::task::LocalSet`].
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        open_files::raise_limit();
        let progress = Progress::new(u64::from(self.rounds) * self.kinds.len() as u64);
        let mut rounds: Vec<Vec<Vec<Took>>> = vec![Vec::new(); self.kinds.len()];
        let servers = self.kinds.iter().map(|kind| ServerSpec {
            kind: *kind,
            workers: 4,
        });
        for round in 1..=self.rounds {
            for (spec, rounds) in servers.clone().zip(&mut rounds) {
                progress.step(format!("round {round}, {spec}"));
                rounds.push(self.one(spec).await?);
                progress.step_done();
            }
        }
        drop(progress);
        println!(
            "New users log in over WebSocket and stay, {AT_ONCE} at a time; median (least–most) of {} rounds with {} log-ins each.\n",
            self.rounds, self.window
        );
        println!(
            "| server | the log-in number | CPU, µs | to the first | log-ins/s |\n|---|---|---|---|---|"
        );
        for (server, rounds) in servers.zip(&rounds) {
            for (n, number) in self.users.iter().enumerate() {
                let cell = |of: fn(&Took, &Took) -> f64, decimals| {
                    let values = rounds.iter().map(|round| of(&round[n], &round[0]));
                    Spread::cell_of(values, decimals)
                };
                println!(
                    "| {server} | {number} | {} | {} | {} |",
                    cell(|took, _| took.cpu, 0),
                    cell(|took, first| took.cpu / first.cpu, 2),
                    cell(|took, _| took.rate, 0)
                );
            }
        }
        Ok(())
    }

    async fn one(&self, spec: ServerSpec) -> anyhow::Result<Vec<Took>> {
        let server = Server::start(spec, &self.programs.programs()?, None).await?;
        let target = Rc::new(Target::new(server.address, 0));
        let mut members = JoinSet::new();
        let (mut there, mut all) = (0, Vec::new());
        for number in &self.users {
            let first = number.saturating_sub(self.window / 2).max(there);
            come(&target, there..first, &mut members).await?;
            tokio::time::sleep(AFTER).await;
            let (cpu, begun) = (proc::cpu_of_all(&server.roles), clock::now());
            there = first + self.window;
            come(&target, first..there, &mut members).await?;
            let seconds = (clock::now() - begun) as f64 / 1e9;
            tokio::time::sleep(AFTER).await;
            all.push(Took {
                cpu: (proc::cpu_of_all(&server.roles) - cpu) / f64::from(self.window),
                rate: f64::from(self.window) / seconds,
            });
        }
        members.shutdown().await;
        server.stop().await?;
        Ok(all)
    }
}

/// These log in, and stay among `members`.
async fn come(
    target: &Rc<Target>,
    numbers: std::ops::Range<u32>,
    members: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut coming: JoinSet<anyhow::Result<User>> = JoinSet::new();
    for number in numbers {
        let permit = at_once.clone().acquire_owned().await?;
        let target = target.clone();
        coming.spawn_local(async move {
            let auth = Auth::Username(format!("member {number}"));
            let user = log_in(&target, &auth, Transport::Websocket, |_| {}).await;
            drop(permit);
            user
        });
        while let Some(come) = coming.try_join_next() {
            stay(come??, members);
        }
    }
    while let Some(come) = coming.join_next().await {
        stay(come??, members);
    }
    Ok(())
}

fn stay(mut user: User, members: &mut JoinSet<()>) {
    members.spawn_local(async move {
        // That it ends shows in the next log-ins.
        let _ = follow(&mut user.socket, |_| {}).await;
    });
}
