//! One scenario on one server: starts the generators, measures the server meanwhile, adds up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::clock;
use crate::generator::{Said, Told};
use crate::open_files;
use crate::proc::{self, Role, Scope, Usage};
use crate::progress::Progress;
use crate::scenario::{Scenario, Spec};
use crate::tally::{Summary, Tally};

/// From the word to start until the start: all generators have heard it by then.
const HEAD_START: Duration = Duration::from_millis(50);
/// A generator that says nothing for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// Units that may be missing, or too many, before the rate counts as not kept.
const RATE_TOLERANCE: f64 = 0.02;
/// The generators' own part among the roles.
const GENERATOR: &str = "generator";

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    pub(crate) clients: u32,
    pub(crate) units: u64,
    /// Length of the measured time.
    pub(crate) seconds: f64,
    /// Milliseconds, by what was waited for.
    pub(crate) latencies: BTreeMap<String, Summary>,
    pub(crate) counts: BTreeMap<String, u64>,
    /// CPU time a unit in microseconds, by part of the server.
    pub(crate) cpu: BTreeMap<String, f64>,
    /// The load generator's own.
    pub(crate) generator_cpu: f64,
    /// KiB a unit that the server handed to the disk.
    pub(crate) written_kib: f64,
    /// KiB that the server took more at the end than before, a client.
    pub(crate) memory_kib: f64,
    pub(crate) problems: Vec<String>,
}

impl Outcome {
    /// Units a second.
    pub(crate) fn rate(&self) -> f64 {
        self.units as f64 / self.seconds
    }

    /// CPU of all of the server's parts, in microseconds a unit.
    pub(crate) fn server_cpu(&self) -> f64 {
        self.cpu.values().sum()
    }

    /// One line.
    pub(crate) fn brief(&self) -> String {
        let unit = self.scenario.unit();
        let mut line = format!(
            "{:.0} {unit}s/s, {:.1} µs CPU a {unit} (generator {:.1})",
            self.rate(),
            self.server_cpu(),
            self.generator_cpu,
        );
        for (what, count) in self.faults() {
            line += &format!("; {what} {count}");
        }
        if let Some(problem) = self.problems.first() {
            line += &format!("; {problem}");
        }
        line
    }

    /// Things that must not happen, with how often they did.
    pub(crate) fn faults(&self) -> impl Iterator<Item = (&str, u64)> {
        let counts = self
            .counts
            .iter()
            .filter(|(what, _)| *what != "connections");
        counts
            .filter(|(_, count)| **count > 0)
            .map(|(what, count)| (what.as_str(), *count))
    }
}

/// Runs `spec` in as many processes as it says. `roles` are the server's parts.
pub(crate) async fn drive(
    spec: &Spec,
    roles: &[Role],
    progress: &Progress,
) -> anyhow::Result<Outcome> {
    if roles.iter().any(|role| role.name == GENERATOR) {
        bail!("no part of a server is called {GENERATOR}");
    }
    let mut generators = Vec::new();
    for process in 0..spec.processes {
        let spec = Spec {
            process,
            ..spec.clone()
        };
        generators.push(Generator::start(&spec).await?);
    }
    let mut all_roles = roles.to_vec();
    let own = generators.iter().map(|generator| generator.pid);
    all_roles.extend(own.map(|pid| Role::new(GENERATOR, pid, Scope::Process)));

    until_all(
        |said| matches!(said, Said::Ready),
        &mut generators,
        progress,
    )
    .await?;
    let memory_before = proc::pss_kib(roles);
    let start = clock::now() + HEAD_START.as_nanos() as u64;
    tell(&mut generators, &Told::Start(start)).await?;
    let sample = || (clock::now(), proc::usage(&all_roles));
    progress.sleep_until(start, "starts").await;
    let before = sample();
    let mut after = None;
    if !spec.scenario.is_batch() {
        let end = spec.measured(start).until;
        progress.sleep_until(end, "measures").await;
        after = Some(sample());
    }
    until_all(
        |said| matches!(said, Said::Finished),
        &mut generators,
        progress,
    )
    .await?;
    let after = after.unwrap_or_else(sample);
    let memory = proc::pss_kib(roles) - memory_before;
    tell(&mut generators, &Told::Stop).await?;
    let mut tally = Tally::default();
    for mut generator in generators {
        match generator.hear(|_| {}).await? {
            Said::Done(part) => tally.add(part),
            other => bail!("a generator said {other:?} instead of its tally"),
        }
        generator.child.wait().await?;
    }
    if let Some(due) = spec.units_due() {
        let off = (due - tally.units as f64).abs();
        if off > due * RATE_TOLERANCE {
            tally.count("off the rate", off as u64);
        }
    }
    let processes = |sample: &Sample| -> BTreeSet<u32> {
        sample
            .1
            .values()
            .flat_map(|usage| usage.pids.clone())
            .collect()
    };
    let changed = processes(&before)
        .symmetric_difference(&processes(&after))
        .count();
    tally.count("processes came or went", changed as u64);
    Ok(outcome(spec, tally, &before, &after, memory))
}

/// Waits until all have said the same thing, that they are ready or have finished, and
/// hands on what they exchange until then.
async fn until_all(
    said: fn(&Said) -> bool,
    generators: &mut [Generator],
    progress: &Progress,
) -> anyhow::Result<()> {
    let count = generators.len();
    let mut done = vec![0; count];
    loop {
        let (mut values, mut there) = (Vec::new(), 0);
        for (number, generator) in generators.iter_mut().enumerate() {
            let heard = |units| {
                done[number] = units;
                progress.units(done.iter().sum());
            };
            match generator.hear(heard).await? {
                Said::Exchange(value) => values.push(value),
                other if said(&other) => there += 1,
                other => bail!("a generator said {other:?} out of its turn"),
            }
        }
        if there == count {
            return Ok(());
        }
        if values.len() != count {
            bail!("the generators are not of one mind");
        }
        tell(generators, &Told::Values(values)).await?;
    }
}

async fn tell(generators: &mut [Generator], what: &Told) -> anyhow::Result<()> {
    let line = serde_json::to_string(what)?;
    for generator in generators {
        generator.say(&line).await?;
    }
    Ok(())
}

type Sample = (u64, BTreeMap<String, Usage>);

fn outcome(spec: &Spec, tally: Tally, before: &Sample, after: &Sample, memory: f64) -> Outcome {
    let seconds = (after.0 - before.0) as f64 / 1e9;
    let units = tally.units.max(1) as f64;
    let (mut cpu, mut written) = (BTreeMap::new(), 0);
    for (name, usage) in &after.1 {
        let earlier = before.1.get(name).cloned().unwrap_or_default();
        cpu.insert(
            name.clone(),
            (usage.cpu_micros - earlier.cpu_micros).max(0.0) / units,
        );
        if name != GENERATOR {
            written += usage.written.saturating_sub(earlier.written);
        }
    }
    let generator_cpu = cpu.remove(GENERATOR).unwrap_or_default();
    let summaries = tally
        .latencies
        .iter()
        .filter_map(|(what, times)| Some((what.clone(), times.summary()?)));
    Outcome {
        scenario: spec.scenario,
        clients: spec.clients,
        units: tally.units,
        seconds,
        latencies: summaries.collect(),
        counts: tally.counts,
        cpu,
        generator_cpu,
        written_kib: written as f64 / 1024.0 / units,
        memory_kib: memory / units,
        problems: tally.problems,
    }
}

/// Processes that a load needs: two, and more where one may not have enough connections.
pub(crate) fn processes(clients: u32) -> u32 {
    u64::from(clients)
        .div_ceil(open_files::connections())
        .max(2) as u32
}

struct Generator {
    child: Child,
    pid: u32,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Generator {
    async fn start(spec: &Spec) -> anyhow::Result<Generator> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("generate")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a generator")?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let pid = child.id().context("a generator ended at once")?;
        let stdout = BufReader::new(stdout).lines();
        let mut generator = Generator {
            child,
            pid,
            stdin,
            stdout,
        };
        generator.say(&serde_json::to_string(spec)?).await?;
        Ok(generator)
    }

    async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        self.stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .context("a generator is gone")
    }

    /// What it says next, but for its progress.
    async fn hear(&mut self, mut progress: impl FnMut(u64)) -> anyhow::Result<Said> {
        loop {
            let line = tokio::time::timeout(SILENCE_MAX, self.stdout.next_line()).await;
            let line = line
                .context("a generator hangs")??
                .context("a generator failed")?;
            match serde_json::from_str(&line)? {
                Said::Progress(units) => progress(units),
                said => return Ok(said),
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.scenario.unit();
        writeln!(
            f,
            "{:>10.0} {unit}s/s   {} in {:.2} s, {} clients",
            self.rate(),
            self.units,
            self.seconds,
            self.clients
        )?;
        for (what, times) in &self.latencies {
            let Summary {
                p50,
                p99,
                p999,
                max,
                ..
            } = times;
            writeln!(
                f,
                "{what:>16}: p50 {p50:.2} ms, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2}"
            )?;
        }
        let parts: Vec<_> = self
            .cpu
            .iter()
            .map(|(name, micros)| format!("{name} {micros:.1}"))
            .collect();
        writeln!(
            f,
            "{:>16}: {} µs a {unit}; generator {:.1}",
            "CPU",
            parts.join(", "),
            self.generator_cpu
        )?;
        if self.scenario.is_batch() {
            writeln!(f, "{:>16}: {:.1} KiB a client", "memory", self.memory_kib)?;
        }
        writeln!(f, "{:>16}: {:.2} KiB a {unit}", "written", self.written_kib)?;
        let counts: Vec<_> = self
            .counts
            .iter()
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        if !counts.is_empty() {
            writeln!(f, "{:>16}: {}", "counted", counts.join(", "))?;
        }
        self.problems
            .iter()
            .try_for_each(|problem| writeln!(f, "{:>16}: {problem}", "problem"))
    }
}
