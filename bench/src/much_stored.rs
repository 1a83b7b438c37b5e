//! The embedded store with few and with many messages: how long a start and a log-in take.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::client::chat::{Auth, Transport, log_in};
use crate::client::target::Target;
use crate::proc;
use crate::progress::Progress;
use crate::server::{Kind, Programs, Server, ServerSpec};
use crate::side_by_side::Spread;

/// Log-ins of each start, one after the other.
const LOG_INS: u32 = 100;
/// Sessions that are not neighbours in the store.
const STRIDE: u32 = 97;

/// What to compare.
#[derive(Debug)]
pub(crate) struct MuchStored {
    pub(crate) programs: Programs,
    /// The program that fills a store.
    pub(crate) fill_store: PathBuf,
    pub(crate) rounds: u32,
    pub(crate) users: u32,
    /// How many messages each store has.
    pub(crate) messages: Vec<u64>,
}

#[derive(Default)]
struct Figures {
    start: Vec<f64>,
    log_in: Vec<f64>,
    cpu: Vec<f64>,
}

impl MuchStored {
    /// Fills the stores, then starts a cluster on each in turn; prints a table.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let directory = tempfile::Builder::new()
            .prefix("chat-cluster-bench.")
            .tempdir()?;
        let progress = Progress::new(u64::from(self.rounds + 1) * self.messages.len() as u64);
        let mut stores = Vec::new();
        for count in &self.messages {
            progress.step(format!("storing {count} messages"));
            let path = directory.path().join(count.to_string());
            let begun = Instant::now();
            self.fill(&path, *count).await?;
            progress.line(&format!(
                "{count} messages stored in {:.1} s",
                begun.elapsed().as_secs_f64()
            ));
            progress.step_done();
            stores.push((*count, path, Figures::default()));
        }
        for _ in 0..self.rounds {
            for (count, path, figures) in &mut stores {
                progress.step(format!("with {count} messages"));
                self.measure(path, figures).await?;
                progress.step_done();
            }
        }
        drop(progress);
        println!(
            "Median (least–most) of {} starts with {LOG_INS} log-ins each, one after the other; {} users, 4 workers.\n",
            self.rounds, self.users
        );
        println!(
            "| messages stored | chat.db, MB | start, ms | log-in, ms | CPU of a log-in, ms |\n|---|---|---|---|---|"
        );
        for (count, path, figures) in stores {
            let megabytes = std::fs::metadata(path.join("chat.db"))?.len() as f64 / 1e6;
            let cell = |values: Vec<f64>, decimals: usize| {
                let spread = Spread::of(values);
                spread.map_or(String::new(), |spread| spread.cell(decimals))
            };
            println!(
                "| {count} | {megabytes:.0} | {} | {} | {} |",
                cell(figures.start, 0),
                cell(figures.log_in, 1),
                cell(figures.cpu, 1)
            );
        }
        Ok(())
    }

    async fn fill(&self, path: &Path, messages: u64) -> anyhow::Result<()> {
        let mut fill = Command::new(&self.fill_store);
        fill.arg(path)
            .arg(self.users.to_string())
            .arg(messages.to_string());
        let status = fill.kill_on_drop(true).status().await;
        let status = status.with_context(|| format!("cannot start {}: build it with cargo build --release --package chat-worker --example fill_store", self.fill_store.display()))?;
        if !status.success() {
            bail!("the store could not be filled: {status}");
        }
        Ok(())
    }

    async fn measure(&self, path: &Path, figures: &mut Figures) -> anyhow::Result<()> {
        let spec = ServerSpec {
            kind: Kind::Embedded,
            workers: 4,
        };
        let server = Server::start(spec, &self.programs, Some(path)).await?;
        let target = Rc::new(Target::new(server.address, 0));
        let before = proc::cpu_of_all(&server.roles);
        let mut took = Vec::new();
        for number in 0..LOG_INS {
            let auth = Auth::Session(format!("session-{}", number * STRIDE % self.users));
            let begun = Instant::now();
            log_in(&target, &auth, Transport::Websocket, |_| {}).await?;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        figures
            .cpu
            .push((proc::cpu_of_all(&server.roles) - before) / f64::from(LOG_INS) / 1e3);
        figures
            .log_in
            .extend(Spread::of(took).map(|spread| spread.median));
        figures.start.push(server.start_millis);
        server.stop().await
    }
}
