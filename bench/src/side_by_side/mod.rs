//! Ours and its peers in one run, in turns, so that what the machine does meanwhile meets all of
//! them; medians of the rounds go to `docs/benchmarks.md`.

mod compare;
mod machine;
mod plan;
mod plot;
mod report;
mod results;

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::drive::{Outcome, drive};
use crate::progress::Progress;
use crate::server::{Programs, Server, ServerSpec};

pub(crate) use compare::compare;
pub(crate) use machine::Machine;
use plan::Step;
use results::Results;
pub(crate) use results::Spread;

/// What to run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) programs: Programs,
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    /// Only these steps; all, when there are none.
    pub(crate) only: Vec<String>,
    /// Where the measurements are kept.
    pub(crate) save: PathBuf,
    /// The page whose figures are replaced, with a folder for its plots beside it.
    pub(crate) report: Option<PathBuf>,
}

/// Runs all steps on all servers, round by round.
pub(crate) async fn run(run: &Run) -> anyhow::Result<()> {
    let mut steps = plan::steps(run.quick);
    if let Some(unknown) = run
        .only
        .iter()
        .find(|key| !steps.iter().any(|step| step.key == **key))
    {
        let keys: Vec<_> = steps.iter().map(|step| step.key).collect();
        bail!("no step is called {unknown}; there are {}", keys.join(", "));
    }
    if !run.only.is_empty() && run.report.is_some() {
        bail!("a page is written of all steps only");
    }
    if !run.only.is_empty() {
        steps.retain(|step| run.only.iter().any(|key| key == step.key));
    }
    let turns: usize = steps.iter().map(|step| step.servers.len()).sum();
    let progress = Progress::new(turns as u64 * u64::from(run.rounds));
    let mut failed = 0;
    let mut results = Results {
        machine: Machine::look(&run.programs),
        quick: run.quick,
        rounds: 0,
        records: Vec::new(),
    };
    for round in 0..run.rounds {
        for step in &steps {
            for server in order(&step.servers, round) {
                progress.step(format!("{}: {server}", step.key));
                let outcome = one(step, server, &run.programs, &progress).await;
                tell(round, step, server, &outcome, &progress);
                match outcome {
                    Ok(outcome) => results.add(round, step.key, server, outcome),
                    Err(_) => failed += 1,
                }
                // What was measured is kept whatever comes.
                results.write(&run.save)?;
                progress.step_done();
            }
        }
        results.rounds = round + 1;
    }
    results.write(&run.save)?;
    drop(progress);
    let figures = report::render(&steps, &results)?;
    print!("{figures}");
    if let Some(page) = &run.report {
        write_report(page, &steps, &results)?;
    }
    if failed > 0 {
        bail!("{failed} measurements failed");
    }
    Ok(())
}

/// Each round begins with another server, and every second one goes the other way round.
pub(crate) fn order<T: Clone>(servers: &[T], round: u32) -> Vec<T> {
    let mut servers = servers.to_vec();
    let first = round as usize % servers.len().max(1);
    servers.rotate_left(first);
    if round % 2 == 1 {
        servers.reverse();
    }
    servers
}

/// Writes the page from measurements that were kept.
pub(crate) fn report(results: &Path, page: &Path) -> anyhow::Result<()> {
    let results = Results::read(results)?;
    write_report(page, &plan::steps(results.quick), &results)
}

fn write_report(page: &Path, steps: &[Step], results: &Results) -> anyhow::Result<()> {
    let figures = report::render(steps, results)?;
    report::replace(page, &figures)?;
    plot::write_all(&page.with_extension(""), results)
}

/// A server of its own for each measurement: nothing is left of an earlier one.
async fn one(
    step: &Step,
    server: ServerSpec,
    programs: &Programs,
    progress: &Progress,
) -> anyhow::Result<Outcome> {
    let running = Server::start(server, programs, None).await?;
    let spec = step
        .load
        .spec(server.kind, running.address, std::process::id());
    let outcome = drive(&spec, &running.roles, progress).await;
    running.stop().await?;
    outcome
}

fn tell(
    round: u32,
    step: &Step,
    server: ServerSpec,
    outcome: &anyhow::Result<Outcome>,
    progress: &Progress,
) {
    let mut line = format!("round {}, {}, {server}: ", round + 1, step.key);
    match outcome {
        Ok(outcome) => line += &outcome.brief(),
        Err(error) => line += &format!("FAILED: {error:#}"),
    }
    progress.line(&line);
}
