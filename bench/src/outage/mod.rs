//! Redis stands still for a while: what clients are told meanwhile, and how soon all is well again.

mod full_rate;
mod record;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::chat::{Auth, Transport, log_in};
use crate::client::target::Target;
use crate::clock;
use crate::correspondence::{Correspondent, Due, Ledger, write_steadily};
use crate::frozen::Frozen;
use crate::kept::keep;
use crate::memory::{Memory, peaks};
use crate::proc::Role;
use crate::progress::Progress;
use crate::server::{Kind, Programs, Server, ServerSpec};
use crate::side_by_side::Machine;
use record::{Instants, Record, Results, WorkerMemory, table};

const WORKERS: u16 = 4;
/// Others that each user writes to.
const PARTNERS: u32 = 4;
/// Bytes of a message's content.
const CONTENT: usize = 100;
/// The same load before.
const WARM_UP: Duration = Duration::from_secs(10);
/// The same load afterwards.
const AFTERWARDS: Duration = Duration::from_secs(20);
/// Of the rate, what is full.
const FULL: f64 = 0.95;
/// How long what was not acked, or did not come, is waited for in the end.
const PATIENCE: Duration = Duration::from_secs(60);
/// In this time after the last one would come what comes twice.
const TWICE: Duration = Duration::from_millis(500);

/// What to do.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) programs: Programs,
    pub(crate) rounds: u32,
    pub(crate) users: u32,
    /// Messages a second.
    pub(crate) rate: f64,
    /// How long Redis stands still.
    pub(crate) time: Duration,
    /// Where the measurements are kept.
    pub(crate) save: PathBuf,
}

impl Outage {
    /// Has outages one after the other, each of a cluster of its own; keeps all and prints a table.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let progress = Progress::new(self.rounds.into());
        let mut results = Results {
            machine: Machine::look(&self.programs),
            users: self.users,
            rate: self.rate,
            frozen_seconds: self.time.as_secs_f64(),
            records: Vec::new(),
        };
        for round in 1..=self.rounds {
            progress.step(format!("outage {round}"));
            let record = self.one().await?;
            progress.line(&format!("round {round}: {}", record.brief()));
            for problem in &record.verdict.problems {
                progress.line(&format!("  disconnected: {problem}"));
            }
            results.records.push(record);
            keep(&results, &self.save)?;
            progress.step_done();
        }
        drop(progress);
        print!("{}", table(&results)?);
        Ok(())
    }

    async fn one(&self) -> anyhow::Result<Record> {
        let spec = ServerSpec {
            kind: Kind::Redis,
            workers: WORKERS,
        };
        let server = Server::start(spec, &self.programs, None).await?;
        let of_role = |name| server.roles.iter().find(move |role| role.name == name);
        let redis = of_role("Redis").context("no Redis")?.pid;
        let workers = of_role("workers").map(Role::pids).context("no workers")?;

        let ledger = Rc::new(Ledger::default());
        let mut clients = JoinSet::new();
        let writers = self.log_in_all(&server, &ledger, &mut clients).await?;

        let start = clock::now();
        let load = write_steadily(
            &ledger,
            self.rate,
            start,
            WARM_UP + self.time + AFTERWARDS,
            |count| route(count, self.users),
            &writers,
        );
        let outage = async {
            tokio::time::sleep(clock::until(start + WARM_UP.as_nanos() as u64)).await;
            let before: Vec<Memory> = workers.iter().map(|pid| Memory::of(*pid)).collect();
            let frozen_at = clock::now();
            let frozen = Frozen::freeze(redis)?;
            let thawed_and_acked = async {
                let thaw = frozen_at + self.time.as_nanos() as u64;
                tokio::time::sleep(clock::until(thaw)).await;
                let thawed = clock::now();
                drop(frozen);
                tokio::time::sleep(AFTERWARDS).await;
                thawed
            };
            let (thawed, peaks) = peaks(&workers, thawed_and_acked).await;
            let memory = before.into_iter().zip(peaks);
            let memory = memory.map(|(before, peak)| WorkerMemory { before, peak });
            anyhow::Ok((frozen_at, thawed, memory.collect()))
        };
        let ((), (frozen, thawed, memory)) = tokio::try_join!(load, outage)?;
        let end = clock::now();
        ledger.all_settled(PATIENCE).await;
        tokio::time::sleep(TWICE).await;
        let at = Instants {
            frozen,
            thawed,
            end,
        };
        let enough = (self.rate * FULL) as u64;
        let record = Record::new(&ledger, at, enough, memory);
        clients.shutdown().await;
        server.stop().await?;
        Ok(record)
    }

    /// The channels by which users are told what to write, by their numbers.
    async fn log_in_all(
        &self,
        server: &Server,
        ledger: &Rc<Ledger>,
        clients: &mut JoinSet<()>,
    ) -> anyhow::Result<Vec<mpsc::UnboundedSender<Due>>> {
        let target = Rc::new(Target::new(server.address, 0));
        let mut users = Vec::new();
        for number in 0..self.users {
            let auth = Auth::Username(format!("user {number}"));
            users.push(log_in(&target, &auth, Transport::Websocket, |_| {}).await?);
        }
        let addresses: Rc<[String]> = users
            .iter()
            .map(|user| user.session.user_id.clone())
            .collect();
        let content: Rc<str> = "x".repeat(CONTENT).into();
        let mut writers = Vec::new();
        for (number, user) in (0..).zip(users) {
            let (writer, outgoing) = mpsc::unbounded_channel();
            writers.push(writer);
            let user = Correspondent::new(ledger, number, user, &addresses, &content);
            clients.spawn_local(user.serve(outgoing));
        }
        Ok(writers)
    }
}

/// Who writes the letter of that number, and to whom: all in turn, each to a few others, which are
/// on other workers, too.
fn route(count: u32, users: u32) -> (u32, u32) {
    let from = count % users;
    let step = 1 + (count / users % PARTNERS) * 37 % (users - 1);
    (from, (from + step) % users)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_user_writes_to_a_few_others() {
        let partners = |from| -> BTreeSet<u32> {
            let all = (0..4_000).map(|count| route(count, 100));
            all.filter(|(by, _)| *by == from)
                .map(|(_, to)| to)
                .collect()
        };
        assert_eq!(partners(0), BTreeSet::from([1, 38, 75, 13]));
        assert_eq!(partners(99), BTreeSet::from([0, 37, 74, 12]));
        assert_eq!(route(1, 2), (1, 0));
    }
}
